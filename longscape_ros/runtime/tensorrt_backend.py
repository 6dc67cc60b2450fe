# SPDX-License-Identifier: Apache-2.0
"""TensorRT: a bundle's engines on a GPU. For the classic ``tensorrt`` (10.1 and newer, Jetson) and for TensorRT-RTX, which have one API.

All engines are resident; an expert is chosen by running its engine. The machines this was written on have no GPU: refusals of plans were
tried with the real TensorRT-RTX, all else with a stand-in that keeps TensorRT's rules and computes on the CPU.

Rules of TensorRT's documentation that this follows:

- Developer guide, "CUDA Graphs": a graph holds for one set of input sizes and for fixed addresses, the scratch memory's included, so
  there is one execution context per captured graph, and contexts share scratch memory that the application manages. After the sizes
  were set, one run comes before the capture.
- ``IExecutionContext``: contexts that share scratch memory must not run at once. Here they do when they are on one stream, so there is
  one block per stream. It is as large as the largest profile needs, so that what fits when the engines are loaded fits later (the
  default bundle's denoisers, up to 64 samples of 32 frames: 229 MB for all four).
- ``enqueueV3``: not on the default stream; output addresses must be set for every output, wanted or not.
- A context is not thread-safe; a backend is used from one thread.
- TensorRT-RTX, "Working with Dynamic Shapes": kernels for sizes that are new are by default compiled in the background and swapped in
  later. A captured graph would go on with the slow ones, so they are compiled at once here, and kept between runs
  ("Working with Runtime Cache").
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from longscape_ros.bundle import Bundle, Manifest
from longscape_ros.errors import BackendError, BundleError
from longscape_ros.runtime.backend import FP32, require_tensors
from longscape_ros.runtime.cuda import Array, Device, Graph, Stream
from longscape_ros.runtime.gpu_backend import Buffers, GpuBackend, Program
from longscape_ros.runtime.tensorrt import voice_of
from longscape_ros.runtime.transfers import Shape

_REMEDY = "Delete the engine and have it built on this machine."
_LOG = logging.getLogger(__name__)


class KernelStore(Protocol):
    """Where TensorRT-RTX's compiled kernels are kept between runs. What does not fit this machine is refused by TensorRT-RTX."""

    def load(self, graph: str) -> bytes | None:
        """What was saved for a graph's engine; None: nothing."""

    def save(self, graph: str, content: bytes) -> None:
        """Replace it."""


def open_tensorrt(
    bundle: Bundle,
    plans: Mapping[str, bytes],
    trt: Any,
    device: Device,
    *,
    precision: str = FP32,
    use_cuda_graph: bool = True,
    kernels: KernelStore | None = None,
) -> GpuBackend:
    """Run a bundle's engines.

    Args:
        bundle: What the engines were built from.
        plans: A serialized engine for each graph of the bundle.
        trt: The module ``tensorrt``, ``tensorrt_rtx`` or ``tensorrt_rtx_bindings``.
        device: The GPU.
        precision: What the denoisers' engines compute in.
        use_cuda_graph: Replay runs as CUDA graphs, where they can be captured.
        kernels: For TensorRT-RTX; None: kernels are compiled again in every process.

    Raises:
        BackendError: a plan is missing, damaged, of another GPU or version, or does not fit the GPU's memory.
        BundleError: an engine does not take or give what the manifest says.
    """
    return GpuBackend(
        bundle,
        "tensorrt",
        precision,
        device,
        lambda streams: TensorRtPrograms(bundle.manifest, plans, trt, device, streams, use_cuda_graph, kernels),
    )


class TensorRtPrograms:
    """Engines and the memory they share; see :func:`open_tensorrt`.

    Args:
        manifest: The bundle's.
        plans: Graph -> serialized engine.
        trt: The module.
        device: The GPU.
        streams: Graph -> the stream that it runs on.
        use_cuda_graph: Whether to capture runs.
        kernels: Where compiled kernels are kept.
    """

    def __init__(
        self,
        manifest: Manifest,
        plans: Mapping[str, bytes],
        trt: Any,
        device: Device,
        streams: Mapping[str, Stream],
        use_cuda_graph: bool,
        kernels: KernelStore | None,
    ) -> None:
        self.use_cuda_graph = use_cuda_graph
        self._trt = trt
        self._device = device
        self._streams = streams
        self._logger, self._words = voice_of(trt)
        self._runtime = trt.Runtime(self._logger)
        self._engines: dict[str, _Engine] = {}
        self._scratch: dict[int, tuple[Array, int]] = {}  # by stream: memory and its size
        for graph in manifest.graphs():
            if graph not in plans:
                raise BackendError(f"Got no engine for {graph}, expected one for each of {', '.join(manifest.graphs())}. {_REMEDY}")
            engine = _Engine(graph, self._deserialize(graph, plans[graph]), trt, kernels)
            engine.check(manifest)
            self._engines[graph] = engine
        for stream in {stream.ptr: stream for stream in streams.values()}.values():
            size = max(engine.scratch for graph, engine in self._engines.items() if streams[graph].ptr == stream.ptr)
            self._scratch[stream.ptr] = device.empty((max(size, 1),), np.uint8, stream), size

    def most(self, graph: str, sizes: Mapping[str, Shape]) -> int:
        """See :class:`~longscape_ros.runtime.gpu_backend.Programs`."""
        return self._engines[graph].most(sizes)

    def prepare(self, graph: str, inputs: Buffers, outputs: Buffers) -> Program:
        """See :class:`~longscape_ros.runtime.gpu_backend.Programs`."""
        engine, stream = self._engines[graph], self._streams[graph]

        def must(done: bool, what: str) -> None:
            if not done:
                raise RuntimeError(f"TensorRT does not {what}: {self._words.text()}")

        self._words.clear()
        context = engine.context()
        must(context is not None, f"make an execution context for {graph}")
        profile = engine.profile({name: buffer.shape for name, buffer in inputs.items()})
        must(context.set_optimization_profile_async(profile, stream.ptr), f"take optimization profile {profile} of {graph}")
        for name, buffer in inputs.items():
            must(context.set_input_shape(name, buffer.shape), f"take {name} {list(buffer.shape)} for {graph}")
        unknown = context.infer_shapes()
        must(not unknown, f"know the sizes of {', '.join(unknown)} in {graph}")
        addresses = {name: buffer.pointer for name, buffer in (*inputs.items(), *outputs.items())}
        unwanted: list[Array] = []
        for name in engine.outputs:
            shape = tuple(int(size) for size in context.get_tensor_shape(name))
            if name not in outputs:
                unwanted.append(self._device.empty(shape, engine.dtype(name), stream))
                addresses[name] = self._device.pointer(unwanted[-1])
            elif shape != outputs[name].shape:
                raise BundleError(f"The engine of {graph} gives {name} {list(shape)}, expected {list(outputs[name].shape)}. {_REMEDY}")
        for name, address in addresses.items():
            must(context.set_tensor_address(name, address), f"take the address of {name} for {graph}")
        memory, size = self._scratch[stream.ptr]
        context.set_device_memory(self._device.pointer(memory), size)
        return _Run(self, engine, context, stream, unwanted)

    def execute(self, context: Any, stream: Stream) -> None:
        """Queue a run."""
        if not context.execute_async_v3(stream.ptr):
            raise RuntimeError(f"TensorRT does not run the engine: {self._words.text()}")

    def launch(self, graph: Graph, stream: Stream) -> None:
        """Queue a run that was captured."""
        self._device.launch(graph, stream)

    def capture(self, name: str, context: Any, stream: Stream) -> Graph | None:
        """A context's run as a CUDA graph; None if it cannot be had, which is warned about once.

        Args:
            name: Of the bundle's graph.
            context: Has run on ``stream`` with its present sizes.
            stream: Where its last run was queued.
        """
        if not self.use_cuda_graph:
            return None

        def work(private: Stream) -> None:
            if hasattr(context, "is_stream_capturable") and not context.is_stream_capturable(private.ptr):  # TensorRT-RTX
                raise RuntimeError("TensorRT-RTX says that this engine cannot be captured; it may allocate memory while it runs")
            self.execute(context, private)

        self._device.synchronize(stream)  # whatever fails here is no fault of the capture
        try:
            return self._device.capture(work)
        except RuntimeError as error:
            if not self._device.works():
                raise
            self.use_cuda_graph = False
            _LOG.warning("No CUDA graph of %s could be captured, going on without: %s", name, error)
            return None

    def _deserialize(self, graph: str, plan: bytes) -> Any:
        where = f"{self._device.name} ({self._device.sm})"
        self._words.clear()
        if hasattr(self._runtime, "get_engine_validity"):  # TensorRT-RTX
            validity, why = self._runtime.get_engine_validity(plan)
            if validity == self._trt.EngineValidity.INVALID:
                reasons = ", ".join(_reasons(self._trt, why)) or self._words.text()
                raise BackendError(f"The engine of {graph} does not run on {where}: {reasons}. {_REMEDY}")
            if validity == self._trt.EngineValidity.SUBOPTIMAL:
                _LOG.warning("The engine of %s is not the best for %s: %s.", graph, where, ", ".join(_reasons(self._trt, why)))
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise BackendError(f"The engine of {graph} cannot be loaded on {where}: {self._words.text()}. {_REMEDY}")
        return engine


class _Engine:
    """A deserialized engine."""

    def __init__(self, graph: str, engine: Any, trt: Any, kernels: KernelStore | None) -> None:
        self.name = graph
        self._engine = engine
        self._trt = trt
        self._kernels = kernels
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self._inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self.outputs = [name for name in names if name not in self._inputs]
        self._profiles = [
            {name: tuple(tuple(shape) for shape in engine.get_tensor_profile_shape(name, index)) for name in self._inputs}
            for index in range(engine.num_optimization_profiles)
        ]
        """Per profile: input -> smallest, best, largest sizes."""
        self.scratch = max(int(engine.get_device_memory_size_for_profile_v2(index)) for index in range(len(self._profiles)))
        """Bytes of memory that a run needs besides inputs and outputs."""
        self._config = self._runtime_config()
        self._cache: Any = None
        self._saved = 0  # bytes of kernels that are kept
        if kernels is not None and hasattr(self._config, "create_runtime_cache"):
            self._load_kernels(kernels)

    def check(self, manifest: Manifest) -> None:
        """Refuse an engine that does not take or give what the manifest says.

        Raises:
            BundleError: it does not.
        """
        inputs, outputs = ({name: self._tensor(name) for name in side} for side in (self._inputs, self.outputs))
        require_tensors(f"the engine of {self.name}", self.name, manifest, inputs, outputs)

    def most(self, sizes: Mapping[str, Shape]) -> int:
        """The largest batch of the profiles that take ``sizes`` but for the batch."""
        fitting = self._fitting(sizes, 1)
        return max(min(int(self._profiles[index][name][2][0]) for name in sizes) for index in fitting)

    def profile(self, sizes: Mapping[str, Shape]) -> int:
        """The profile that takes ``sizes`` and is closest to them."""

        def room(index: int) -> float:
            return sum(float(np.prod(self._profiles[index][name][2], dtype=float)) for name in sizes)

        return min(self._fitting(sizes, 0), key=room)

    def context(self) -> Any:
        """A new execution context without scratch memory of its own; None: TensorRT refused."""
        how = self._config if self._config is not None else self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        return self._engine.create_execution_context(how)

    def dtype(self, name: str) -> str:
        """NumPy's element type of a tensor, or TensorRT's name where NumPy has none."""
        kind = self._engine.get_tensor_dtype(name)
        try:
            return str(np.dtype(self._trt.nptype(kind)))
        except TypeError:
            return str(kind)

    def save_kernels(self) -> None:
        """Keep kernels that were compiled since they were loaded or saved."""
        if self._cache is None or self._kernels is None:
            return
        content = bytes(self._cache.serialize())
        if len(content) == self._saved:
            return
        try:
            self._kernels.save(self.name, content)
        except (OSError, BackendError) as error:
            _LOG.warning("The kernels compiled for %s could not be kept: %s", self.name, error)
        self._saved = len(content)

    def _fitting(self, sizes: Mapping[str, Shape], first: int) -> list[int]:
        """Profiles whose range has ``sizes``, from axis ``first`` on."""
        fitting = [index for index, profile in enumerate(self._profiles) if all(_inside(profile[n], s, first) for n, s in sizes.items())]
        if not fitting:
            wanted = ", ".join(f"{name} {list(shape)}" for name, shape in sizes.items())
            ranges = "; ".join(
                ", ".join(f"{name} {list(low)} to {list(high)}" for name, (low, _, high) in profile.items()) for profile in self._profiles
            )
            raise BackendError(f"The engine of {self.name} got {wanted}; expected sizes that it was built for: {ranges}. {_REMEDY}")
        return fitting

    def _tensor(self, name: str) -> tuple[str, tuple[int | None, ...]]:
        if self._engine.get_tensor_location(name) != self._trt.TensorLocation.DEVICE:
            raise BundleError(f"The engine of {self.name} wants {name} in the host's memory, expected it on the GPU. {_REMEDY}")
        return self.dtype(name), tuple(None if size < 0 else int(size) for size in self._engine.get_tensor_shape(name))

    def _runtime_config(self) -> Any:
        """How TensorRT-RTX makes contexts; None for the classic TensorRT."""
        if not hasattr(self._trt, "DynamicShapesKernelSpecializationStrategy"):
            return None
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        config.dynamic_shapes_kernel_specialization_strategy = self._trt.DynamicShapesKernelSpecializationStrategy.EAGER
        return config

    def _load_kernels(self, kernels: KernelStore) -> None:
        self._cache = self._config.create_runtime_cache()
        content = kernels.load(self.name)
        if content is not None and self._cache.deserialize(content):
            self._saved = len(content)
        elif content is not None:
            _LOG.info("The kernels kept for %s are of another GPU, driver or version, and are compiled again.", self.name)
        self._config.set_runtime_cache(self._cache)


class _Run:
    """An engine between fixed buffers, with a context of its own; after the first run a CUDA graph if there can be one."""

    def __init__(self, programs: TensorRtPrograms, engine: _Engine, context: Any, stream: Stream, unwanted: list[Array]) -> None:
        self._programs = programs
        self._engine = engine
        self._context = context
        self._stream = stream
        self._unwanted = unwanted  # memory of outputs that nobody asked for
        self._captured: Graph | None = None
        self._is_new = True

    def enqueue(self) -> None:
        """See :class:`~longscape_ros.runtime.gpu_backend.Program`."""
        if self._captured is not None:
            self._programs.launch(self._captured, self._stream)
            return
        self._programs.execute(self._context, self._stream)
        if self._is_new:
            self._is_new = False
            self._captured = self._programs.capture(self._engine.name, self._context, self._stream)
            self._engine.save_kernels()


def _reasons(trt: Any, why: int) -> list[str]:
    """Why TensorRT-RTX takes exception to a plan: the names of the bits that are set."""
    return [name for name, bit in trt.EngineInvalidityDiagnostics.__members__.items() if int(bit) & int(why)]


def _inside(bounds: tuple[Shape, ...], shape: Shape, first: int) -> bool:
    low, _, high = bounds
    return all(small <= size <= large for small, size, large in list(zip(low, shape, high, strict=True))[first:])
