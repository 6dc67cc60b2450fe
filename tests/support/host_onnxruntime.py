# SPDX-License-Identifier: Apache-2.0
"""Sessions of ONNX Runtime that claim to be on a GPU: real ones of its CPU provider, on memory and streams of a :class:`HostDevice`.

What they are asked for is real I/O binding of raw pointers; a run is queued on the stream that the provider's options name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import onnxruntime
from support.host_device import HostDevice
from support.plain_graphs import session_of

from longscape_ros.runtime.onnxruntime_gpu_backend import Model, Provider


@dataclass
class HostSessions:
    """Opens sessions, and remembers their options and their runs'.

    Args:
        device: Whose memory and streams they use.
        providers: What sessions say they run on; None: on what they were asked for.
        opens_graphs: Whether a session can be opened for CUDA graphs.
        captures: Whether a run can be captured.
    """

    device: HostDevice
    providers: list[str] | None = None
    opens_graphs: bool = True
    captures: bool = True
    opened: list[tuple[Model, Provider, dict[str, str]]] = field(default_factory=list)
    ran: list[dict[str, str]] = field(default_factory=list)

    def __call__(self, model: Model, provider: Provider, options: dict[str, str]) -> Any:
        if not self.opens_graphs and "enable_cuda_graph" in options:
            raise RuntimeError("This session cannot use the graph capture feature as requested by the user")
        self.opened.append((model, provider, dict(options)))
        return _Session(self, model, self.providers or [provider.name, "CPUExecutionProvider"], int(options["user_compute_stream"]))


class _Session:
    def __init__(self, sessions: HostSessions, model: Model, providers: list[str], stream: int) -> None:
        self.real = session_of(model)
        self.sessions, self.providers, self.stream = sessions, providers, stream
        self.get_inputs, self.get_outputs = self.real.get_inputs, self.real.get_outputs

    def get_providers(self) -> list[str]:
        return self.providers

    def io_binding(self) -> _Binding:
        return _Binding(self.real.io_binding())

    def run_with_iobinding(self, binding: _Binding, options: onnxruntime.RunOptions) -> None:
        device = self.sessions.device
        keys = ("disable_synchronize_execution_providers", "gpu_graph_id", "cuda_graph_annotation_id")
        entries = {key: value for key in keys if (value := _entry(options, key))}
        if not self.sessions.captures and entries.get("gpu_graph_id", "-1") != "-1":
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        self.sessions.ran.append(entries)
        if "disable_synchronize_execution_providers" not in entries:
            device.synchronize(device.streams[self.stream])
        device.queue(device.streams[self.stream], lambda: self.real.run_with_iobinding(binding.real))


class _Binding:
    def __init__(self, real: Any) -> None:
        self.real = real

    def bind_input(self, name: str, device: str, number: int, dtype: Any, shape: Any, pointer: int) -> None:
        assert (device, number) == ("cuda", 0)
        self.real.bind_input(name, "cpu", 0, dtype, shape, pointer)

    def bind_output(self, name: str, device: str, number: int, dtype: Any, shape: Any, pointer: int) -> None:
        assert (device, number) == ("cuda", 0)
        self.real.bind_output(name, "cpu", 0, dtype, shape, pointer)


def _entry(options: onnxruntime.RunOptions, key: str) -> str:
    try:
        return str(options.get_run_config_entry(key))
    except RuntimeError:
        return ""
