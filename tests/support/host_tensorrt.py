# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the module ``tensorrt`` or ``tensorrt_rtx`` whose engines are ONNX graphs that run on the CPU, on a :class:`HostDevice`.

It keeps the rules that its real counterparts document, and refuses or fails as they do: sizes within an optimization profile, an address
for every tensor, scratch memory that is large enough and on one stream alone, a run before a capture.
"""

from __future__ import annotations

import ctypes
import enum
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from support.host_device import HostDevice
from support.plain_graphs import session_of

from longscape_ros.bundle import Bundle

Sizes = Mapping[str, tuple[int, int, int]]
"""An open size's name in the graph, such as B -> smallest, best and largest."""

DEFAULT: tuple[Sizes, ...] = ({"B": (1, 1, 64), "T": (8, 16, 32), "KT": (12, 20, 36)},)
SCRATCH = 1024
"""Bytes of scratch memory per sample of the largest batch."""


def plans_of(bundle: Bundle, profiles: tuple[Sizes, ...] = DEFAULT, sm: str = "SM89") -> dict[str, bytes]:
    """What an engine build would give for each graph."""
    return {graph: plan_of(bundle.file(graph), profiles, sm) for graph in bundle.manifest.graphs()}


def plan_of(graph: Path, profiles: tuple[Sizes, ...] = DEFAULT, sm: str = "SM89") -> bytes:
    return b"PLAN" + json.dumps({"graph": str(graph), "profiles": [dict(p) for p in profiles], "sm": sm}).encode()


class Severity(enum.Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger:
    Severity = Severity

    def __init__(self) -> None: ...

    def log(self, severity: Severity, message: str) -> None:
        raise NotImplementedError


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class TensorLocation(enum.Enum):
    DEVICE = 0
    HOST = 1


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC = 0
    USER_MANAGED = 2


class DynamicShapesKernelSpecializationStrategy(enum.Enum):
    LAZY = 0
    EAGER = 1


class EngineValidity(enum.Enum):
    VALID = 0
    SUBOPTIMAL = 1
    INVALID = 2


class EngineInvalidityDiagnostics(enum.IntFlag):
    VERSION_MISMATCH = 1
    UNSUPPORTED_CC = 2
    MALFORMED_ENGINE = 32


def host_tensorrt(device: HostDevice, rtx: bool = False) -> Any:
    """The module: the classic one, or TensorRT-RTX with its own additions."""
    shared = {
        "ILogger": ILogger,
        "TensorIOMode": TensorIOMode,
        "TensorLocation": TensorLocation,
        "ExecutionContextAllocationStrategy": ExecutionContextAllocationStrategy,
        "nptype": _nptype,
        "contexts": [],  # every context that was made, for tests to look at
        "refuses": "",  # why no context can be made
    }
    own = {
        "DynamicShapesKernelSpecializationStrategy": DynamicShapesKernelSpecializationStrategy,
        "EngineValidity": EngineValidity,
        "EngineInvalidityDiagnostics": EngineInvalidityDiagnostics,
    }
    module = ModuleType("tensorrt")
    vars(module).update(shared | (own if rtx else {}))
    vars(module)["Runtime"] = lambda logger: (_RtxRuntime if rtx else _Runtime)(module, device, logger)
    return module


def _nptype(kind: int) -> type:
    if kind == onnx.TensorProto.BFLOAT16:
        raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")
    return onnx.helper.tensor_dtype_to_np_dtype(kind).type


class _Runtime:
    def __init__(self, module: Any, device: HostDevice, logger: ILogger) -> None:
        assert isinstance(logger, ILogger)
        self.module, self.device, self.logger = module, device, logger
        self.scratch_users: dict[int, int] = {}  # address -> stream

    def deserialize_cuda_engine(self, plan: bytes) -> _Engine | None:
        try:
            content = json.loads(plan.removeprefix(b"PLAN")) if plan.startswith(b"PLAN") else None
        except ValueError:
            content = None
        if content is None:
            self.logger.log(Severity.ERROR, "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (magic tag)")
            return None
        if content["sm"] != self.device.sm:
            self.logger.log(Severity.ERROR, f"Target GPU SM {self.device.sm} is not compatible with engine SM {content['sm']}")
            return None
        return (_RtxEngine if isinstance(self, _RtxRuntime) else _Engine)(self, Path(content["graph"]), content["profiles"])


class _RtxRuntime(_Runtime):
    def get_engine_validity(self, plan: bytes) -> tuple[EngineValidity, int]:
        if not plan.startswith(b"PLAN"):
            return EngineValidity.INVALID, int(EngineInvalidityDiagnostics.MALFORMED_ENGINE)
        if not plan.endswith(b"}"):  # looks well enough at the beginning, which is all that this reads
            return EngineValidity.VALID, 0
        fits = json.loads(plan.removeprefix(b"PLAN"))["sm"] == self.device.sm
        return (EngineValidity.VALID, 0) if fits else (EngineValidity.INVALID, int(EngineInvalidityDiagnostics.UNSUPPORTED_CC))


class _Engine:
    def __init__(self, runtime: _Runtime, graph: Path, profiles: list[dict[str, list[int]]]) -> None:
        self.runtime, self.profiles = runtime, profiles
        self.session = session_of(graph)
        proto = onnx.load(graph, load_external_data=False).graph
        self.tensors = {info.name: info.type.tensor_type for info in (*proto.input, *proto.output)}
        self.inputs = {info.name for info in proto.input}
        self.num_io_tensors = len(self.tensors)
        self.num_optimization_profiles = len(profiles)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> int:
        return int(self.tensors[name].elem_type)

    def get_tensor_location(self, name: str) -> TensorLocation:
        assert name in self.tensors
        return TensorLocation.DEVICE

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(-1 if dim.dim_param else dim.dim_value for dim in self.tensors[name].shape.dim)

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        dims = self.tensors[name].shape.dim
        return [tuple(self.profiles[index][d.dim_param][which] if d.dim_param else d.dim_value for d in dims) for which in range(3)]

    def get_device_memory_size_for_profile_v2(self, index: int) -> int:
        return SCRATCH * self.profiles[index]["B"][2]

    def create_execution_context(self, how: Any) -> _Context | None:
        assert how is ExecutionContextAllocationStrategy.USER_MANAGED
        if self.runtime.module.refuses:
            self.runtime.logger.log(Severity.ERROR, self.runtime.module.refuses)
            return None
        return _Context(self)


class _RtxEngine(_Engine):
    def create_runtime_config(self) -> _RuntimeConfig:
        return _RuntimeConfig()

    def create_execution_context(self, how: Any) -> _Context:
        assert how.strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        return _RtxContext(self, how)


class _RuntimeConfig:
    def __init__(self) -> None:
        self.strategy = ExecutionContextAllocationStrategy.STATIC
        self.dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY
        self.cache: _RuntimeCache | None = None

    def set_execution_context_allocation_strategy(self, strategy: ExecutionContextAllocationStrategy) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> _RuntimeCache:
        return _RuntimeCache()

    def set_runtime_cache(self, cache: _RuntimeCache) -> bool:
        self.cache = cache
        return True


class _RuntimeCache:
    """Compiled kernels: one word per set of sizes."""

    def __init__(self) -> None:
        self.kernels: list[str] = []

    def deserialize(self, content: bytes) -> bool:
        if not content.startswith(b"KERNELS"):
            return False
        self.kernels = content.decode().split()[1:]
        return True

    def serialize(self) -> bytes:
        return " ".join(["KERNELS", *self.kernels]).encode()


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self.engine = engine
        self.runtime = engine.runtime
        self.profile = 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.scratch: tuple[int, int] | None = None
        self.settled = False
        self.runs = 0
        self.running = 0
        self.runtime.module.contexts.append(self)

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        assert stream in self.runtime.device.streams
        self.profile, self.shapes, self.settled = index, {}, False
        return 0 <= index < self.engine.num_optimization_profiles

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self.engine.get_tensor_profile_shape(name, self.profile)
        if not all(small <= size <= large for small, size, large in zip(low, shape, high, strict=True)):
            self.runtime.logger.log(Severity.ERROR, f"IExecutionContext::setInputShape: {name} {shape} is not in the profile")
            return False
        self.shapes[name], self.settled = shape, False
        return True

    def infer_shapes(self) -> list[str]:
        return sorted(self.engine.inputs - set(self.shapes))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self.shapes:
            return self.shapes[name]
        known: dict[str, int] = {}
        for given, shape in self.shapes.items():
            known |= {d.dim_param: size for d, size in zip(self.engine.tensors[given].shape.dim, shape, strict=True) if d.dim_param}
        return tuple(known[d.dim_param] if d.dim_param else d.dim_value for d in self.engine.tensors[name].shape.dim)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return name in self.engine.tensors

    def set_device_memory(self, address: int, size: int) -> None:
        assert address % 16 == 0
        self.scratch = address, size

    def execute_async_v3(self, ptr: int) -> bool:
        device = self.runtime.device
        stream = device.streams[ptr]
        if set(self.addresses) != set(self.engine.tensors) or self.infer_shapes():
            self.runtime.logger.log(Severity.ERROR, "IExecutionContext::enqueueV3: not all addresses or sizes are set")
            return False
        needed = self.engine.get_device_memory_size_for_profile_v2(self.profile)
        if self.scratch is None or self.scratch[1] < needed:
            self.runtime.logger.log(Severity.ERROR, "IExecutionContext::enqueueV3: device memory is too small")
            return False
        if stream.capturing and (self.running or not self.settled):
            self.runtime.logger.log(Severity.ERROR, "IExecutionContext::enqueueV3: deferred updates while the stream is capturing")
            return False
        if not stream.capturing:
            self.running += 1
            assert self.runtime.scratch_users.setdefault(self.scratch[0], ptr) == ptr, "scratch memory is shared between streams"
            self.settled = True
        device.queue(stream, self._work())
        return True

    def _work(self) -> Callable[[], None]:
        shapes = {name: self.get_tensor_shape(name) for name in self.engine.tensors}
        addresses = dict(self.addresses)

        def view(name: str) -> np.ndarray[Any, Any]:
            dtype = np.dtype(_nptype(self.engine.get_tensor_dtype(name)))
            size = int(np.prod(shapes[name])) * dtype.itemsize
            return np.frombuffer((ctypes.c_char * size).from_address(addresses[name]), dtype).reshape(shapes[name])

        def work() -> None:
            self.runs += 1
            self.running = max(0, self.running - 1)
            outputs = [name for name in self.engine.tensors if name not in self.engine.inputs]
            results = self.engine.session.run(outputs, {name: view(name) for name in self.engine.inputs})
            for name, result in zip(outputs, results, strict=True):
                view(name)[...] = result

        return work


class _RtxContext(_Context):
    def __init__(self, engine: _Engine, config: _RuntimeConfig) -> None:
        super().__init__(engine)
        self.config = config

    def is_stream_capturable(self, ptr: int) -> bool:
        lazy = self.config.dynamic_shapes_kernel_specialization_strategy is DynamicShapesKernelSpecializationStrategy.LAZY
        return ptr in self.runtime.device.streams and not lazy

    def execute_async_v3(self, ptr: int) -> bool:
        sizes = "x".join(str(size) for shape in self.shapes.values() for size in shape)
        if self.config.cache is not None and sizes not in self.config.cache.kernels:
            self.config.cache.kernels.append(sizes)
        return super().execute_async_v3(ptr)
