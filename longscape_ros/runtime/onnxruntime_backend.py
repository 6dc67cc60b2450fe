# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on the CPU or on a CUDA GPU."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longscape_ros.bundle import DECODER, ENCODER, ERROR_ESTIMATOR, LENGTH_PREDICTOR, ROUTER, Bundle, Manifest, denoiser
from longscape_ros.errors import BackendError, BundleError
from longscape_ros.runtime.backend import FP32, Float32, Latents, Rgb, Tensors, expected_tensors

PROVIDERS = {"ort_cuda": "CUDAExecutionProvider", "ort_cpu": "CPUExecutionProvider"}
"""The backends here, and ONNX Runtime's names for them."""

_ELEMENTS = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
_LOG = logging.getLogger(__name__)


class OnnxRuntimeBackend:
    """ONNX Runtime: one session per graph.

    Args:
        bundle: What to run.
        name: ``ort_cuda`` or ``ort_cpu``.
        threads: CPU threads per graph.

    Raises:
        BackendError: ONNX Runtime cannot open a graph, or not on this device.
        BundleError: a graph does not take or give what the manifest says.
    """

    def __init__(self, bundle: Bundle, name: str, threads: int) -> None:
        self.name = name
        self.precision = FP32
        self.device = "CPU"
        self.threads = threads
        self._sessions = {graph: _open(bundle.file(graph), PROVIDERS[name], threads) for graph in bundle.manifest.graphs()}
        for graph, session in self._sessions.items():
            _check(bundle.file(graph), session, bundle.manifest)
        _LOG.info("Opened %s on %s with %d threads.", bundle.model_id, name, threads)

    def encode(self, rgb: Rgb) -> Latents:
        """See :class:`Backend`."""
        return self._run(ENCODER, "latents", {"rgb": rgb})

    def denoise(self, expert: int, context: Latents, actions: Float32, noise: Float32) -> Float32:
        """See :class:`Backend`."""
        return self._run(denoiser(expert), "latents", {"context": context, "actions": actions, "noise": noise})

    def start_decoding(self, latents: Latents) -> Callable[[], Rgb]:
        """See :class:`Backend`."""
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


def _open(path: Path, provider: str, threads: int) -> Any:
    """A session; its threads sleep when they wait, so that a simulator or driver beside it is not starved."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 3  # errors; what matters is raised
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if provider == PROVIDERS["ort_cuda"] and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # CUDA and cuDNN from the nvidia-* packages, where installed
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
    except Exception as error:  # ONNX Runtime's own exceptions have no common base
        raise BackendError(f"{path}: ONNX Runtime {onnxruntime.__version__} cannot open the graph on {provider}: {error}") from error
    if provider not in session.get_providers():
        raise BackendError(f"{path}: ONNX Runtime fell back from {provider} to the CPU; its CUDA or cuDNN libraries do not load here.")
    return session


def _check(path: Path, session: Any, manifest: Manifest) -> None:
    inputs, outputs = expected_tensors(path.name, manifest)
    found_inputs, found_outputs = _tensors(session.get_inputs()), _tensors(session.get_outputs())
    if found_inputs != inputs:
        raise BundleError(f"{path}: found the inputs {_text(found_inputs)}; expected {_text(inputs)} as the manifest says.")
    for name, (kind, shape) in outputs.items():
        found_kind, found_shape = found_outputs.get(name, ("", ()))
        # exporters leave output sizes open that they cannot derive
        fits = len(found_shape) == len(shape) and all(f in (None, s) for f, s in zip(found_shape, shape, strict=True))
        if found_kind != kind or not fits:
            raise BundleError(f"{path}: found the outputs {_text(found_outputs)}; expected {_text(outputs)} as the manifest says.")


def _tensors(arguments: list[Any]) -> Tensors:
    return {a.name: (_ELEMENTS.get(a.type, a.type), tuple(size if isinstance(size, int) else None for size in a.shape)) for a in arguments}


def _text(tensors: Tensors) -> str:
    sizes = {name: ", ".join("?" if size is None else str(size) for size in shape) for name, (_, shape) in tensors.items()}
    return "; ".join(f"{name} {kind} [{sizes[name]}]" for name, (kind, _) in tensors.items())
