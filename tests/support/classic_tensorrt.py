# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the builder of the classic module ``tensorrt``, which needs a GPU: it takes what the real one takes, notes it, and gives
a text in the place of an engine. It times "kernels" the first time and then keeps the times, as the real one does.
"""

from __future__ import annotations

import enum
import json
from types import ModuleType
from typing import Any

import onnx


class Severity(enum.Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3


class ILogger:
    Severity = Severity


class IProgressMonitor:
    pass


class NetworkDefinitionCreationFlag(enum.IntEnum):
    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1


class BuilderFlag(enum.Enum):
    TF32 = 0
    FP16 = 1


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class Network:
    def __init__(self, flags: int) -> None:
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        self.model: Any = None
        self.unmarked: list[str] = []

    @property
    def num_inputs(self) -> int:
        return len(self.model.graph.input)

    def get_input(self, index: int) -> Any:
        return self.model.graph.input[index]

    @property
    def outputs(self) -> list[Any]:
        return [output for output in self.model.graph.output if output.name not in self.unmarked]

    @property
    def num_outputs(self) -> int:
        return len(self.outputs)

    def get_output(self, index: int) -> Any:
        return self.outputs[index]

    def unmark_output(self, tensor: Any) -> None:
        self.unmarked.append(tensor.name)

    @property
    def num_layers(self) -> int:
        return len(self.model.graph.node)


class OnnxParser:
    num_errors = 0

    def __init__(self, network: Network, logger: ILogger) -> None:
        self._network = network

    def parse_from_file(self, path: str) -> bool:
        self._network.model = onnx.load(path)
        return True

    def parse(self, content: bytes) -> bool:
        self._network.model = onnx.load_from_string(content)
        return True


class TimingCache:
    def __init__(self, content: bytes) -> None:
        self.times = set(json.loads(content)) if content else set()

    def serialize(self) -> bytes:
        return json.dumps(sorted(self.times)).encode()


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, list[tuple[int, ...]]] = {}

    def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
        self.shapes[name] = list(shapes)


class Config:
    def __init__(self) -> None:
        self.flags = {BuilderFlag.TF32}
        self.profiles: list[dict[str, list[tuple[int, ...]]]] = []
        self.pools: dict[MemoryPoolType, int] = {}
        self.builder_optimization_level = 3
        self.progress_monitor: Any = None
        self._times = TimingCache(b"")

    def set_flag(self, flag: BuilderFlag) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.flags.discard(flag)

    def set_memory_pool_limit(self, pool: MemoryPoolType, size: int) -> None:
        self.pools[pool] = size

    def add_optimization_profile(self, profile: Profile) -> int:
        self.profiles.append(profile.shapes)
        return len(self.profiles) - 1

    def create_timing_cache(self, content: bytes) -> TimingCache | None:
        return None if content and not content.startswith(b"[") else TimingCache(content)

    def set_timing_cache(self, times: TimingCache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self._times = times
        return True

    def get_timing_cache(self) -> TimingCache:
        return self._times


class Builder:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def create_network(self, flags: int) -> Network:
        return Network(flags)

    def create_builder_config(self) -> Config:
        return Config()

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
        monitor = config.progress_monitor
        kinds = sorted({node.op_type for node in network.model.graph.node})
        timed = [kind for kind in kinds if kind not in config.get_timing_cache().times]
        monitor.phase_start("build", None, len(kinds))
        for step, kind in enumerate(kinds):
            config.get_timing_cache().times.add(kind)
            if not monitor.step_complete("build", step):
                return None
        monitor.phase_finish("build")
        said = {
            "timed": timed,
            "flags": sorted(flag.name for flag in config.flags),
            "profiles": config.profiles,
            "workspace": config.pools.get(MemoryPoolType.WORKSPACE),
            "level": config.builder_optimization_level,
            "outputs": [output.name for output in network.outputs],
        }
        return json.dumps(said).encode()


def module(version: str = "10.13.0.35") -> Any:
    """What ``import tensorrt`` would give."""
    names = (ILogger, IProgressMonitor, NetworkDefinitionCreationFlag, BuilderFlag, MemoryPoolType, Builder, OnnxParser)
    made = ModuleType("tensorrt")
    vars(made).update({"__version__": version, **{item.__name__: item for item in names}})
    return made
