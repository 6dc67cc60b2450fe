# SPDX-License-Identifier: Apache-2.0
"""The kinds of backends: what each needs, the precisions that it has, and how it is opened. Nothing is loaded before it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from longscape_ros.bundle import Bundle, Manifest
from longscape_ros.errors import BackendError, InputError
from longscape_ros.runtime import quantized
from longscape_ros.runtime.backend import AUTO, FP16, FP32, INT8, PRECISIONS, Backend
from longscape_ros.runtime.cache import ArtifactCache
from longscape_ros.runtime.onnxruntime_backend import OnnxRuntimeBackend

HALF = (FP16, FP32)
"""The precisions of GPUs."""

FP16_VERIFIED = "fp16.rollout_psnr_db"
"""Figure of a manifest's verification that says how faithful this bundle's denoisers are in half precision."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What shall run a bundle.

    Args:
        name: A kind of backend, or ``auto`` for the best that works.
        precision: What denoisers compute in, or ``auto`` for the fastest that an export found to predict the same.
        threads: CPU threads per graph; None: the backend's choice.
        use_cuda_graph: Whether a GPU's work is recorded once and then queued as a whole.
        cache: Where engines and quantised graphs are kept; None: the user's.
    """

    name: str = AUTO
    precision: str = AUTO
    threads: int | None = None
    use_cuda_graph: bool = True
    cache: ArtifactCache | None = None

    def __post_init__(self) -> None:
        if self.precision not in (AUTO, *PRECISIONS):
            raise InputError(f"Got the precision {self.precision!r}, expected {AUTO} or one of {', '.join(PRECISIONS)}.")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"Got {self.threads} threads, expected at least 1.")


@dataclass(frozen=True, slots=True)
class Engines:
    """What a kind of backend must have built before it can be opened, which takes minutes.

    Args:
        are_built: (bundle, precision, wanted) -> whether they are in the cache for this machine.
        command: (bundle, precision, wanted) -> command line that puts them there, see :mod:`longscape_ros.runtime.building`.
    """

    are_built: Callable[[Bundle, str, Wanted], bool]
    command: Callable[[Bundle, str, Wanted], list[str]]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of backend.

    Args:
        name: One of :data:`longscape_ros.runtime.backend.BACKENDS`.
        precisions: Those that it has.
        why_not: Why it cannot be used on this machine; empty: it can.
        open: (bundle, precision, wanted) -> open. Raises BackendError where that fails, whatever ``why_not`` said.
        lacks: (bundle, precision, wanted) -> what is missing on this machine for this precision; empty: nothing.
        engines: None: it needs none.
        on_gpu: Whether a GPU runs it, which may be lost.
    """

    name: str
    precisions: tuple[str, ...]
    why_not: Callable[[], str]
    open: Callable[[Bundle, str, Wanted], Backend]
    lacks: Callable[[Bundle, str, Wanted], str] = lambda *_: ""
    engines: Engines | None = None
    on_gpu: bool = False

    def fast_precisions(self, manifest: Manifest) -> tuple[str, ...]:
        """Those that an export found to predict the same as single precision."""
        return tuple(fast for fast in self.precisions if fast != FP32 and is_verified(manifest, fast))


def is_verified(manifest: Manifest, precision: str) -> bool:
    """Whether an export measured that denoisers in this precision predict the same."""
    figure = {INT8: quantized.VERIFIED, FP16: FP16_VERIFIED}.get(precision)
    return figure is None or manifest.verification.get(figure, 0.0) >= quantized.FAITHFUL_DB


def all_kinds() -> tuple[Kind, ...]:
    """The best first, as ``auto`` tries them; last the reference, which it does not."""
    return (
        Kind("tensorrt", HALF, _no_tensorrt, _open_tensorrt, _lacks_for_engines, Engines(_are_built, _build_command), on_gpu=True),
        Kind("ort_tensorrt", HALF, partial(_no_ort, "ort_tensorrt"), partial(_open_ort_gpu, "ort_tensorrt"), _lacks_for_half, on_gpu=True),
        Kind("ort_cuda", HALF, partial(_no_ort, "ort_cuda"), partial(_open_ort_gpu, "ort_cuda"), _lacks_for_half, on_gpu=True),
        Kind("ort_cpu", (INT8, FP32), _no_ort_cpu, _open_ort_cpu, _lacks_for_int8),
        Kind("torch", (FP32,), _no_torch, _open_torch),
    )


# ---- TensorRT ----


def _no_tensorrt() -> str:
    from longscape_ros.runtime import cuda, tensorrt

    return cuda.unavailable() or tensorrt.unavailable()  # in this order: where there is no GPU, no library is loaded


def _lacks_for_engines(bundle: Bundle, precision: str, wanted: Wanted) -> str:
    """Engines that came with the system's image were made elsewhere."""
    return "" if _are_built(bundle, precision, wanted) else _lacks_for_half(bundle, precision, wanted)


def _are_built(bundle: Bundle, precision: str, wanted: Wanted) -> bool:
    from longscape_ros.runtime.engines import missing_engines
    from longscape_ros.runtime.tensorrt import CURRENT

    try:
        return not missing_engines(bundle, precision, CURRENT, wanted.cache)
    except BackendError:  # the GPU does not answer: opening the engines will say so
        return True


def _build_command(bundle: Bundle, precision: str, wanted: Wanted) -> list[str]:
    from longscape_ros.runtime.build_engines import command

    return command(bundle.path, precision, cache=wanted.cache)


def _open_tensorrt(bundle: Bundle, precision: str, wanted: Wanted) -> Backend:
    from longscape_ros.runtime.cuda import open_device
    from longscape_ros.runtime.engines import load_engines
    from longscape_ros.runtime.tensorrt import CURRENT
    from longscape_ros.runtime.tensorrt_backend import open_tensorrt

    cache = wanted.cache or ArtifactCache()
    engines = load_engines(bundle, precision, CURRENT, cache)
    return open_tensorrt(
        bundle,
        engines.plans,
        engines.trt.module,
        open_device(),
        precision=precision,
        use_cuda_graph=wanted.use_cuda_graph,
        kernels=engines.kernels(cache),
    )


# ---- ONNX Runtime on the CPU ----


def _no_ort_cpu() -> str:
    try:
        import onnxruntime
    except ImportError as error:
        return f"onnxruntime cannot be imported ({error}); pip install onnxruntime"
    return "" if "CPUExecutionProvider" in onnxruntime.get_available_providers() else "this onnxruntime has no CPUExecutionProvider"


def _lacks_for_int8(_: Bundle, precision: str, __: Wanted) -> str:
    return quantized.why_not() if precision == INT8 else ""


def _open_ort_cpu(bundle: Bundle, precision: str, wanted: Wanted) -> Backend:
    return OnnxRuntimeBackend(bundle, wanted.threads, precision, wanted.cache)


# ---- ONNX Runtime on a GPU ----


def _no_ort(name: str) -> str:
    if reason := _no_ort_cpu():
        return reason
    from longscape_ros.runtime import onnxruntime_gpu_backend

    return onnxruntime_gpu_backend.unavailable(name)


def _lacks_for_half(_: Bundle, precision: str, __: Wanted) -> str:
    from longscape_ros.runtime import half

    return half.why_not() if precision == FP16 else ""


def _open_ort_gpu(name: str, bundle: Bundle, precision: str, wanted: Wanted) -> Backend:
    from longscape_ros.runtime.cuda import open_device
    from longscape_ros.runtime.half import half, halved
    from longscape_ros.runtime.onnxruntime_gpu_backend import open_onnxruntime_gpu

    cache = wanted.cache or ArtifactCache()
    return open_onnxruntime_gpu(
        bundle,
        name,
        open_device(),
        graphs={graph: half(bundle, graph, cache) for graph in halved(bundle)} if precision == FP16 else None,
        precision=precision,
        use_cuda_graph=wanted.use_cuda_graph,
        cache=cache.folder / "onnxruntime",
    )


# ---- PyTorch ----


def _no_torch() -> str:
    from longscape_ros.runtime import torch_backend

    return torch_backend.why_not()


def _open_torch(bundle: Bundle, precision: str, wanted: Wanted) -> Backend:
    from longscape_ros.runtime.torch_backend import TorchBackend

    return TorchBackend(bundle, wanted.threads)
