# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on a GPU: ``ort_cuda`` with its CUDA kernels, ``ort_tensorrt`` with TensorRT or TensorRT-RTX inside.

Graphs run between the buffers of :class:`~longscape_ros.runtime.gpu_backend.GpuBackend` (I/O binding) and on its streams, without waiting
for them. The machines this was written on have no GPU: the order of the work was tested with sessions that compute on the CPU, the
providers' options were taken from their documentation, and no provider has been run.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from longscape_ros.bundle import DECODER, ENCODER, Bundle, Manifest, denoiser
from longscape_ros.errors import BackendError, InputError
from longscape_ros.runtime import cuda
from longscape_ros.runtime.backend import FP16, FP32, require_tensors
from longscape_ros.runtime.cuda import Device, Stream
from longscape_ros.runtime.gpu_backend import Buffers, GpuBackend, Program, tensors
from longscape_ros.runtime.onnxruntime_backend import tensors_of
from longscape_ros.runtime.transfers import Shape

MOST_BATCH = 64
"""Samples of one run; larger batches are cut into parts."""

_PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"
_PLUGIN_PACKAGE = "onnxruntime-ep-nv-tensorrt-rtx-cu13"
_LOG = logging.getLogger(__name__)

Model = Path | bytes
"""A graph's file, or its content."""


@dataclass(frozen=True, slots=True)
class Provider:
    """What ONNX Runtime runs graphs with.

    Args:
        name: ONNX Runtime's name.
        graph_option: Option that has runs replayed as CUDA graphs; empty: not used, for it knows one set of sizes only.
        graph_id: Option of a run that tells such graphs apart.
        no_graph: Its value for a run without; empty: there is none.
        is_plugin: Whether it is in a library of its own.
    """

    name: str
    graph_option: str = ""
    graph_id: str = ""
    no_graph: str = ""
    is_plugin: bool = False


CUDA = Provider("CUDAExecutionProvider", "enable_cuda_graph", "gpu_graph_id", "-1")
TENSORRT = Provider("TensorrtExecutionProvider")
TENSORRT_RTX = Provider("NvTensorRTRTXExecutionProvider", "enable_cuda_graph", "cuda_graph_annotation_id", is_plugin=True)

OpenSession = Callable[[Model, Provider, dict[str, str]], Any]
"""Opens a graph with a provider and its options: an ``onnxruntime.InferenceSession``."""


def unavailable(name: str) -> str:
    """Why a backend cannot be used here, with the remedy; empty: it can.

    Args:
        name: ``ort_cuda`` or ``ort_tensorrt``.
    """
    import onnxruntime

    provided = onnxruntime.get_available_providers()
    if name == "ort_cuda":
        if CUDA.name not in provided:
            return f"this onnxruntime has no {CUDA.name}; install onnxruntime-gpu instead of onnxruntime"
        return cuda.unavailable()
    if TENSORRT.name in provided:
        return cuda.unavailable()
    if importlib.util.find_spec(_PLUGIN) is None:
        return (
            f"this onnxruntime has no {TENSORRT.name}; install {_PLUGIN_PACKAGE}, or onnxruntime-gpu (and TensorRT) instead of onnxruntime"
        )
    return cuda.unavailable() or _plugin_fault()


def open_onnxruntime_gpu(
    bundle: Bundle,
    name: str,
    device: Device,
    *,
    graphs: Mapping[str, Model] | None = None,
    precision: str = FP32,
    use_cuda_graph: bool = True,
    cache: Path | None = None,
    most_batch: int = MOST_BATCH,
    open_session: OpenSession | None = None,
) -> GpuBackend:
    """Run a bundle's graphs.

    Args:
        bundle: What to run.
        name: ``ort_cuda`` or ``ort_tensorrt``.
        device: The GPU.
        graphs: What to run instead of the bundle's own files, for some graphs: for example denoisers in half precision.
        precision: Of the denoisers: ``fp32`` or ``fp16``.
        use_cuda_graph: Replay runs as CUDA graphs, where the provider can do that for more than one set of sizes.
        cache: Folder in which ``ort_tensorrt`` keeps engines, timings and kernels; None: they are made again in every process.
        most_batch: Samples of one run.
        open_session: None: ONNX Runtime; another one is for tests.

    Raises:
        BackendError: ONNX Runtime cannot open a graph, or not on the GPU.
        BundleError: a graph does not take or give what the manifest says.
        InputError: the precision cannot be had.
    """
    provider = _provider(name)
    given = dict(graphs or {})
    halved = all(denoiser(expert) in given for expert in range(bundle.manifest.experts.count))
    if precision not in (FP32, FP16) or (precision == FP16 and provider is not TENSORRT and not halved):
        raise InputError(f"Got the precision {precision!r} for {name}, expected {FP32}, or {FP16} with graphs in half precision.")
    models: dict[str, Model] = {graph: given.get(graph, bundle.file(graph)) for graph in bundle.manifest.graphs()}
    options = {"trt_fp16_enable": "1"} if precision == FP16 and provider is TENSORRT and not halved else {}
    if cache is not None:
        cache = cache / bundle.model_id / "-".join((device.sm, precision, str(most_batch), _version()))  # all that engines depend on
    return GpuBackend(
        bundle,
        name,
        precision,
        device,
        lambda streams: OnnxRuntimePrograms(
            bundle.manifest, models, provider, streams, use_cuda_graph, cache, most_batch, options, open_session or _open_session
        ),
    )


class OnnxRuntimePrograms:
    """Sessions, one per graph; see :func:`open_onnxruntime_gpu`.

    Args:
        manifest: The bundle's.
        models: Graph -> its file or content.
        provider: What to run them with.
        streams: Graph -> the stream that it runs on.
        use_cuda_graph: Whether to replay runs.
        cache: Where to keep what the provider builds.
        most_batch: Samples of one run.
        options: Of the provider, besides those that every graph has.
        open_session: See :data:`OpenSession`.
    """

    def __init__(
        self,
        manifest: Manifest,
        models: Mapping[str, Model],
        provider: Provider,
        streams: Mapping[str, Stream],
        use_cuda_graph: bool,
        cache: Path | None,
        most_batch: int,
        options: Mapping[str, str],
        open_session: OpenSession,
    ) -> None:
        self.use_cuda_graph = False
        self._provider = provider
        self._most_batch = most_batch
        self._prepared = 0
        self._captures = use_cuda_graph and bool(provider.graph_option)
        own = {
            graph: _provider_options(provider, graph, manifest, stream, cache, most_batch) | dict(options)
            for graph, stream in streams.items()
        }
        try:
            self._sessions = {graph: self._open(graph, models[graph], own[graph], open_session) for graph in models}
        except BackendError as error:
            if not self._captures:
                raise
            self._captures = False
            self._sessions = {graph: self._open(graph, models[graph], own[graph], open_session) for graph in models}
            _LOG.warning("%s does not open the graphs for CUDA graphs, going on without: %s", provider.name, error)
        self.use_cuda_graph = self._captures
        for graph, session in self._sessions.items():
            model = models[graph]
            inputs, outputs = tensors_of(session.get_inputs()), tensors_of(session.get_outputs())
            require_tensors(str(model) if isinstance(model, Path) else graph, graph, manifest, inputs, outputs)

    def most(self, graph: str, sizes: Mapping[str, Shape]) -> int:
        """See :class:`~longscape_ros.runtime.gpu_backend.Programs`."""
        return self._most_batch

    def prepare(self, graph: str, inputs: Buffers, outputs: Buffers) -> Program:
        """See :class:`~longscape_ros.runtime.gpu_backend.Programs`."""
        self._prepared += 1
        return _Run(self, graph, self._sessions[graph], inputs, outputs, self._prepared)

    def run(self, graph: str, session: Any, binding: Any, number: int) -> None:
        """Queue a run.

        Args:
            graph: Its name, for messages.
            session: Its session.
            binding: Inputs and outputs.
            number: Tells its CUDA graph from others of the session.
        """
        try:
            session.run_with_iobinding(binding, self._run_options(number))
        except Exception as error:  # ONNX Runtime's own exceptions have no common base
            if not (self.use_cuda_graph and self._provider.no_graph):
                raise RuntimeError(str(error)) from error
            self.use_cuda_graph = False
            _LOG.warning("No CUDA graph of %s could be captured, going on without: %s", graph, error)
            self.run(graph, session, binding, number)

    def _open(self, graph: str, model: Model, options: dict[str, str], open_session: OpenSession) -> Any:
        if self._captures:
            options = {**options, self._provider.graph_option: "1"}
        try:
            session = open_session(model, self._provider, options)
        except Exception as error:  # ONNX Runtime's own exceptions have no common base
            raise BackendError(f"{graph}: ONNX Runtime cannot open the graph with {self._provider.name}: {error}") from error
        if self._provider.name not in session.get_providers():
            raise BackendError(
                f"{graph}: ONNX Runtime fell back from {self._provider.name} to {', '.join(session.get_providers())}: "
                "its CUDA, cuDNN or TensorRT libraries do not load here. Install those that this onnxruntime was built for."
            )
        return session

    def _run_options(self, number: int) -> Any:
        import onnxruntime

        options = onnxruntime.RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")  # the stream is waited for where it must be
        if self._captures:
            options.add_run_config_entry(self._provider.graph_id, str(number) if self.use_cuda_graph else self._provider.no_graph)
        return options


class _Run:
    """A session between fixed buffers."""

    def __init__(self, programs: OnnxRuntimePrograms, graph: str, session: Any, inputs: Buffers, outputs: Buffers, number: int) -> None:
        self._programs = programs
        self._graph = graph
        self._session = session
        self._number = number
        self._binding = session.io_binding()
        for name, buffer in inputs.items():
            self._binding.bind_input(name, "cuda", 0, np.dtype(buffer.dtype).type, buffer.shape, buffer.pointer)
        for name, buffer in outputs.items():
            self._binding.bind_output(name, "cuda", 0, np.dtype(buffer.dtype).type, buffer.shape, buffer.pointer)

    def enqueue(self) -> None:
        """See :class:`~longscape_ros.runtime.gpu_backend.Program`."""
        self._programs.run(self._graph, self._session, self._binding, self._number)


def _version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


def _provider(name: str) -> Provider:
    """What a backend's name stands for here."""
    import onnxruntime

    if name not in ("ort_cuda", "ort_tensorrt"):
        raise BackendError(f"Got the backend {name!r}, expected ort_cuda or ort_tensorrt.")
    if name == "ort_cuda":
        return CUDA
    return TENSORRT if TENSORRT.name in onnxruntime.get_available_providers() else TENSORRT_RTX


def _provider_options(
    provider: Provider, graph: str, manifest: Manifest, stream: Stream, cache: Path | None, most_batch: int
) -> dict[str, str]:
    """Options of a graph's session; keys and values as each provider's documentation has them."""
    options = {"device_id": "0", "user_compute_stream": str(stream.ptr)}
    if provider is CUDA:
        # single precision is single precision: TensorFloat-32 is about as coarse as half
        return options | {"use_tf32": "0"}
    prefix = "nv" if provider.is_plugin else "trt"
    for which, shapes in zip(("min", "opt", "max"), _profile(graph, manifest, most_batch), strict=True):
        options[f"{prefix}_profile_{which}_shapes"] = ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())
    if provider.is_plugin:
        options["has_user_compute_stream"] = "1"
    if cache is None:
        return options
    folder = cache / Path(graph).stem
    folder.mkdir(parents=True, exist_ok=True)
    if provider.is_plugin:
        return options | {"nv_runtime_cache_path": str(folder)}
    return options | {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache),  # the graphs have many layers in common
    }


def _profile(graph: str, manifest: Manifest, most_batch: int) -> list[dict[str, Shape]]:
    """A graph's smallest, usual and largest inputs."""
    lengths = manifest.segmentation.lengths
    usual = lengths[(len(lengths) - 1) // 2]
    batch = {ENCODER: manifest.context, DECODER: usual}.get(graph, 1)
    extremes = ((1, lengths[0]), (min(batch, most_batch), usual), (most_batch, lengths[-1]))
    return [{name: shape for name, (shape, _) in tensors(graph, manifest, *sizes)[0].items()} for sizes in extremes]


def _open_session(model: Model, provider: Provider, options: dict[str, str]) -> Any:
    """An ``onnxruntime.InferenceSession``; what the provider cannot run, CUDA's kernels or the CPU do."""
    import onnxruntime

    config = onnxruntime.SessionOptions()
    config.intra_op_num_threads = 1  # the CPU computes sizes only
    config.inter_op_num_threads = 1
    config.use_deterministic_compute = True
    config.log_severity_level = 3  # errors; what matters is raised
    source = str(model) if isinstance(model, Path) else model
    if provider.is_plugin:
        fault = _plugin_fault()
        if fault:
            raise BackendError(f"Got {provider.name}, which does not work here: {fault}.")
        config.add_provider_for_devices(_plugin_devices()[:1], options)
        return onnxruntime.InferenceSession(source, config)
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # CUDA and cuDNN from the nvidia-* packages, where installed
    providers: list[tuple[str, dict[str, str]]] = [(provider.name, options)]
    if provider is not CUDA:
        providers.append((CUDA.name, {key: options[key] for key in ("device_id", "user_compute_stream")}))
    return onnxruntime.InferenceSession(source, config, providers=providers)


def _plugin_devices() -> list[Any]:
    import onnxruntime

    return [device for device in onnxruntime.get_ep_devices() if device.ep_name == TENSORRT_RTX.name]


def _plugin_fault() -> str:
    """Make TensorRT-RTX known to ONNX Runtime, once per process; why that fails, empty: it does not."""
    import onnxruntime

    if not hasattr(onnxruntime, "register_execution_provider_library"):
        return f"onnxruntime {onnxruntime.__version__} knows no plugins; install 1.24 or newer"
    if _plugin_devices():
        return ""
    try:
        path = importlib.import_module(_PLUGIN).get_library_path()
        onnxruntime.register_execution_provider_library(TENSORRT_RTX.name, path)
    except Exception as error:  # ONNX Runtime's own exceptions have no common base
        if "already registered" not in str(error):
            return f"{_PLUGIN_PACKAGE} cannot be loaded ({error}); install the NVIDIA driver, and a package for its CUDA"
    return "" if _plugin_devices() else f"{TENSORRT_RTX.name} finds no GPU that it supports; it needs RTX 30 or newer"
