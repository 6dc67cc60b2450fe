# SPDX-License-Identifier: Apache-2.0
"""What runs a bundle's graphs. ONNX Runtime on the CPU or on a CUDA GPU; arrays go in and come out, no torch.

Letters: B batch, H W image, C h w latent, K context frames, T chunk frames, F action features, L steps the router looks ahead, E experts.
"""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from longscape_ros.actions import feature_count
from longscape_ros.bundle import DECODER, ENCODER, ERROR_ESTIMATOR, LENGTH_PREDICTOR, ROUTER, Bundle, Manifest, denoiser
from longscape_ros.errors import BackendError, BundleError, InputError

Float32 = NDArray[np.float32]
Rgb = NDArray[np.uint8]
Tensors = dict[str, tuple[str, tuple[int | None, ...]]]
"""Name -> element type and shape; None is a size that is open."""

AUTO = "auto"
PROVIDERS = {"ort_cuda": "CUDAExecutionProvider", "ort_cpu": "CPUExecutionProvider"}
"""The backends of this version, the best first, and ONNX Runtime's names for them."""

UNAVAILABLE = ("tensorrt", "ort_tensorrt", "torch")
MOST_THREADS = 8
"""More threads than this do not speed up graphs this small."""

_LOG = logging.getLogger(__name__)


class Backend(Protocol):
    """Runs the graphs of one bundle; may be used from one thread at a time."""

    @property
    def name(self) -> str:
        """One of :func:`available_backends`."""

    @property
    def threads(self) -> int:
        """CPU threads per graph."""

    def encode(self, rgb: Rgb) -> Float32:
        """Images uint8 [B, H, W, 3] -> latents [B, C, h, w]."""

    def denoise(self, expert: int, context: Float32, actions: Float32, noise: Float32) -> Float32:
        """Context latents [B, K, C, h, w], features [B, K + T, F], noise [B, T, C, h, w] -> latents [B, T, C, h, w]."""

    def decode(self, latents: Float32) -> Rgb:
        """Latents [B, C, h, w] -> images uint8 [B, H, W, 3]."""

    def route(self, context: Float32, coming: Float32) -> Float32:
        """Context latents [B, K, C, h, w], coming features [B, K + L, F] -> scores [B, E]; of bundles with a router."""

    def predict_length(self, context: Float32) -> Float32:
        """Context latents [B, K, C, h, w] -> scores [B, chunk lengths]; of bundles with a length predictor."""

    def estimate_error(self, context: Float32, actions: Float32, latents: Float32, before: Float32) -> Float32:
        """What :meth:`denoise` got and gave, and the estimate of the newest context frame [B] -> logarithms of errors [B, T]."""

    def close(self) -> None:
        """Free the graphs; the backend cannot run after that."""


def available_backends() -> dict[str, str]:
    """Every backend's name, and why it cannot be used here; empty: it can."""
    import onnxruntime

    provided = onnxruntime.get_available_providers()
    reasons = {
        name: "" if provider in provided else f"this onnxruntime has no {provider}; install onnxruntime-gpu instead of onnxruntime"
        for name, provider in PROVIDERS.items()
    }
    return reasons | dict.fromkeys(UNAVAILABLE, "not available in this version of longscape_ros")


def create_backend(bundle: Bundle, name: str = AUTO, threads: int | None = None) -> Backend:
    """Open a bundle's graphs.

    Args:
        bundle: What to run.
        name: A backend, or ``auto`` for the best that works here.
        threads: CPU threads per graph; None: :func:`usable_cpus`, at most :data:`MOST_THREADS`.

    Raises:
        BackendError: the backend is unknown or does not work here.
        BundleError: a graph does not take or give what the manifest says.
    """
    reasons = available_backends()
    usable = [other for other, reason in reasons.items() if not reason]
    if name not in (AUTO, *reasons):
        raise BackendError(f"Got the backend {name!r}, expected {AUTO} or one of {', '.join(reasons)}.")
    if reasons.get(name):
        raise BackendError(f"Got the backend {name!r}: {reasons[name]}. Use one of {', '.join(usable)}, or {AUTO}.")
    if threads is None:
        threads = min(usable_cpus(), MOST_THREADS)
    if threads < 1:
        raise InputError(f"Got {threads} threads, expected at least 1.")
    candidates = usable if name == AUTO else [name]
    for candidate in candidates[:-1]:
        try:
            return OnnxRuntimeBackend(bundle, candidate, threads)
        except BackendError as error:
            _LOG.warning("The backend %s does not work here, trying the next: %s", candidate, error)
    return OnnxRuntimeBackend(bundle, candidates[-1], threads)


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
        self.threads = threads
        self._sessions = {graph: _open(bundle.file(graph), PROVIDERS[name], threads) for graph in bundle.manifest.graphs()}
        for graph, session in self._sessions.items():
            _check(bundle.file(graph), session, bundle.manifest)
        _LOG.info("Opened %s on %s with %d threads.", bundle.model_id, name, threads)

    def encode(self, rgb: Rgb) -> Float32:
        """See :class:`Backend`."""
        return self._run(ENCODER, "latents", {"rgb": rgb})

    def denoise(self, expert: int, context: Float32, actions: Float32, noise: Float32) -> Float32:
        """See :class:`Backend`."""
        return self._run(denoiser(expert), "latents", {"context": context, "actions": actions, "noise": noise})

    def decode(self, latents: Float32) -> Rgb:
        """See :class:`Backend`."""
        return self._run(DECODER, "rgb", {"latents": latents})

    def route(self, context: Float32, coming: Float32) -> Float32:
        """See :class:`Backend`."""
        return self._run(ROUTER, "scores", {"context": context, "coming": coming})

    def predict_length(self, context: Float32) -> Float32:
        """See :class:`Backend`."""
        return self._run(LENGTH_PREDICTOR, "scores", {"context": context})

    def estimate_error(self, context: Float32, actions: Float32, latents: Float32, before: Float32) -> Float32:
        """See :class:`Backend`."""
        inputs = {"context": context, "actions": actions, "latents": latents, "before": before}
        return self._run(ERROR_ESTIMATOR, "log_error", inputs)

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


def usable_cpus(control_group: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs that this process may use: its affinity, and the quota of its control group (containers)."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cpus, _quota(control_group))))


def _quota(control_group: Path) -> float:
    """CPUs that the control group allows (version 2, then 1); infinity without a limit."""
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = " ".join((control_group / file).read_text(encoding="ascii") for file in files).split()
            quota, period = float(words[0]), float(words[1])
        except (OSError, ValueError, IndexError):  # no such file, or "max"
            continue
        if quota > 0 and period > 0:
            return quota / period
    return math.inf


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


def _expected(graph: str, manifest: Manifest) -> tuple[Tensors, Tensors]:
    """Inputs and outputs of a graph, as the manifest has them."""
    rgb = ("tensor(uint8)", (None, *manifest.image_size, 3))
    latents = ("tensor(float)", (None, *manifest.latent_shape))
    if graph == ENCODER:
        return {"rgb": rgb}, {"latents": latents}
    if graph == DECODER:
        return {"latents": latents}, {"rgb": rgb}
    real = "tensor(float)"
    chunk = (real, (None, None, *manifest.latent_shape))
    features = feature_count(manifest.action_space)
    context: Tensors = {"context": (real, (None, manifest.context, *manifest.latent_shape))}
    actions: Tensors = {"actions": (real, (None, None, features))}
    if graph == ROUTER:
        coming: Tensors = {"coming": (real, (None, manifest.context + manifest.experts.routing.lookahead, features))}
        return context | coming, {"scores": (real, (None, manifest.experts.count))}
    if graph == LENGTH_PREDICTOR:
        return dict(context), {"scores": (real, (None, len(manifest.segmentation.lengths)))}
    if graph == ERROR_ESTIMATOR:
        return context | actions | {"latents": chunk, "before": (real, (None,))}, {"log_error": (real, (None, None))}
    return context | actions | {"noise": chunk}, {"latents": chunk}


def _check(path: Path, session: Any, manifest: Manifest) -> None:
    inputs, outputs = _expected(path.name, manifest)
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
    return {a.name: (a.type, tuple(size if isinstance(size, int) else None for size in a.shape)) for a in arguments}


def _text(tensors: Tensors) -> str:
    sizes = {name: ", ".join("?" if size is None else str(size) for size in shape) for name, (_, shape) in tensors.items()}
    return "; ".join(f"{name} {kind} [{sizes[name]}]" for name, (kind, _) in tensors.items())
