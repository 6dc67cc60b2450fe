# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on the CPU, in single precision or in 8-bit integers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longscape_ros.bundle import DECODER, ENCODER, ERROR_ESTIMATOR, LENGTH_PREDICTOR, ROUTER, Bundle, denoiser
from longscape_ros.errors import BackendError, InputError
from longscape_ros.runtime.backend import FP32, INT8, Float32, Latents, Rgb, Tensors, require_tensors
from longscape_ros.runtime.cache import ArtifactCache
from longscape_ros.runtime.cpus import usable_cpus
from longscape_ros.runtime.quantized import quantizable, quantized

MOST_THREADS = 8
"""More threads than this do not speed up graphs this small."""

SPIN_US = 20
"""For so many microseconds a thread that waits for the next operator keeps its CPU.

Measured on two cores: sleeping at once makes a chunk a fifth slower (a third in 8-bit integers), and spinning without an end makes it
twice as slow as soon as another program wants one of the cores. This long gives the speed of the one and the manners of the other.
"""

_SPINS_SINCE = (1, 26)
"""The version of ONNX Runtime that can limit spinning."""

_PROVIDER = "CPUExecutionProvider"
_ELEMENTS = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
_LOG = logging.getLogger(__name__)


class OnnxRuntimeBackend:
    """ONNX Runtime: one session per graph.

    With several threads, a chunk is decoded beside the denoising of the next: neither keeps all CPUs busy all the time.

    Args:
        bundle: What to run.
        threads: CPU threads per graph; None: :func:`usable_cpus`, at most :data:`MOST_THREADS`.
        precision: ``fp32``, or ``int8`` for what :func:`quantizable` names.
        cache: Where quantised graphs are kept; None: the user's.

    Raises:
        BackendError: ONNX Runtime cannot open a graph, or it cannot be quantised.
        BundleError: a graph does not take or give what the manifest says.
        InputError: an argument is out of range.
    """

    name = "ort_cpu"
    device = "CPU"

    def __init__(self, bundle: Bundle, threads: int | None = None, precision: str = FP32, cache: ArtifactCache | None = None) -> None:
        if threads is None:
            threads = min(usable_cpus(), MOST_THREADS)
        if threads < 1:
            raise InputError(f"Got {threads} threads, expected at least 1.")
        if precision not in (FP32, INT8):
            raise InputError(f"Got the precision {precision!r}, expected {FP32} or {INT8}: {self.name} has no other.")
        self.precision = precision
        self.threads = threads
        self._sessions: dict[str, Any] = {}
        self._decoding = ThreadPoolExecutor(1, "longscape-decoding") if threads > 1 else None
        rounded = quantizable(bundle.manifest) if precision == INT8 else ()
        for graph in bundle.manifest.graphs():
            model = quantized(bundle, graph, cache or ArtifactCache()) if graph in rounded else str(bundle.file(graph))
            self._sessions[graph] = session = open_session(bundle.file(graph), model, threads)
            inputs, outputs = tensors_of(session.get_inputs()), tensors_of(session.get_outputs())
            require_tensors(str(bundle.file(graph)), graph, bundle.manifest, inputs, outputs)
        _LOG.info("Opened %s on %s in %s with %d threads.", bundle.model_id, self.name, precision, threads)

    def encode(self, rgb: Rgb) -> Latents:
        """See :class:`Backend`."""
        return self._run(ENCODER, "latents", {"rgb": rgb})

    def denoise(self, expert: int, context: Latents, actions: Float32, noise: Float32) -> Float32:
        """See :class:`Backend`."""
        return self._run(denoiser(expert), "latents", {"context": context, "actions": actions, "noise": noise})

    def start_decoding(self, latents: Latents) -> Callable[[], Rgb]:
        """See :class:`Backend`."""
        if self._decoding is not None and self._sessions:
            return self._decoding.submit(self._run, DECODER, "rgb", {"latents": latents}).result
        rgb = self._run(DECODER, "rgb", {"latents": latents})
        return lambda: rgb

    def route(self, context: Latents, coming: Float32) -> Float32:
        """See :class:`Backend`."""
        return self._run(ROUTER, "scores", {"context": context, "coming": coming})

    def predict_length(self, context: Latents) -> Float32:
        """See :class:`Backend`."""
        return self._run(LENGTH_PREDICTOR, "scores", {"context": context})

    def estimate_error(self, context: Latents, actions: Float32, latents: Latents, before: Float32) -> Float32:
        """See :class:`Backend`."""
        inputs = {"context": context, "actions": actions, "latents": latents, "before": before}
        return self._run(ERROR_ESTIMATOR, "log_error", inputs)

    def fetch(self, latents: Latents) -> Float32:
        """See :class:`Backend`."""
        fetched: Float32 = latents
        return fetched

    def close(self) -> None:
        """See :class:`Backend`."""
        if self._decoding is not None:
            self._decoding.shutdown()
        self._sessions.clear()

    def _run(self, graph: str, output: str, inputs: dict[str, NDArray[Any]]) -> NDArray[Any]:
        session = self._sessions.get(graph)
        if session is None:
            raise BackendError(f"Got a request for {graph}, which is not open: the backend was closed, or the bundle has no such graph.")
        try:
            result: NDArray[Any] = session.run([output], {name: np.ascontiguousarray(array) for name, array in inputs.items()})[0]
        except Exception as error:  # ONNX Runtime's own exceptions have no common base
            shapes = ", ".join(f"{name} {array.dtype} {list(array.shape)}" for name, array in inputs.items())
            raise BackendError(f"{self.name} failed to run {graph} on {shapes}: {error}") from error
        return result


def open_session(path: Path, model: str | bytes, threads: int) -> Any:
    """A session of a graph: of its file, or of what was made of it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 3  # errors; what matters is raised
    spins = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2]) >= _SPINS_SINCE
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spins else "0")
    if spins:
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_US))
        options.add_session_config_entry("session.force_spinning_stop", "1")  # between two runs
    try:
        return onnxruntime.InferenceSession(model, options, providers=[_PROVIDER])
    except Exception as error:  # ONNX Runtime's own exceptions have no common base
        raise BackendError(f"{path}: ONNX Runtime {onnxruntime.__version__} cannot open the graph: {error}") from error


def tensors_of(arguments: list[Any]) -> Tensors:
    """Of a session's inputs or outputs."""
    return {a.name: (_ELEMENTS.get(a.type, a.type), tuple(size if isinstance(size, int) else None for size in a.shape)) for a in arguments}
