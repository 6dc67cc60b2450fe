# SPDX-License-Identifier: Apache-2.0
"""The reference: a bundle's own weights in PyTorch, in single precision. Arrays go in and come out, as with every backend.

It needs PyTorch and the code that trains (pip install 'longscape_ros[train]'), which a robot has not; ``auto`` never chooses it.
On a GPU it has not been run yet.

Letters: B batch, H W image, C h w latent, K context frames, T chunk frames, F action features, L steps the router looks ahead, E experts.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from longscape_ros.bundle import Bundle
from longscape_ros.errors import BackendError, InputError
from longscape_ros.runtime.backend import FP32, Float32, Rgb
from longscape_ros.runtime.cpus import usable_cpus
from longscape_ros.runtime.onnxruntime_backend import MOST_THREADS

if TYPE_CHECKING:
    import torch

MODULES = ("torch", "einops", "onnx")
"""What it needs: to compute, and to read the weights."""

MOST_SHAPES = 512
"""For so many combinations of graph, expert and shape code is compiled; PyTorch's own limit is too low for this and goes back to
interpreting without an error."""

_LOG = logging.getLogger(__name__)


def why_not() -> str:
    """Why the reference cannot be used here; empty: it can."""
    absent = [name for name in MODULES if importlib.util.find_spec(name) is None]
    return f"no {', '.join(absent)}; pip install 'longscape_ros[train]'" if absent else ""


class TorchBackend:
    """PyTorch with the weights of a bundle.

    Args:
        bundle: What to run.
        threads: CPU threads; None: :func:`usable_cpus`, at most :data:`MOST_THREADS`. PyTorch has one number for a whole process; every
            call sets it.
        device: ``cpu`` or ``cuda``.
        compiled: Whether graphs are compiled (TorchInductor), each when it is first called with inputs of new shapes, which takes up to
            minutes; on a GPU they run as CUDA graphs then. On a CPU this needs a C++ compiler.

    Raises:
        BackendError: PyTorch or the device is missing.
        BundleError: the bundle's weights are not those of this package's model.
        InputError: an argument is none of its values.
    """

    name = "torch"
    precision = FP32

    def __init__(self, bundle: Bundle, threads: int | None = None, device: str = "cpu", compiled: bool = False) -> None:
        if reason := why_not():
            raise BackendError(f"Got the backend {self.name}: {reason}.")
        if threads is None:
            threads = min(usable_cpus(), MOST_THREADS)
        if threads < 1:
            raise InputError(f"Got {threads} threads, expected at least 1.")
        if device not in ("cpu", "cuda"):
            raise InputError(f"Got the device {device!r}, expected cpu or cuda.")
        import torch

        if device == "cuda" and not torch.cuda.is_available():
            raise BackendError(f"Got the device cuda, but PyTorch {torch.__version__} finds no GPU; use the device cpu.")
        from longscape_ros.model.stored import stored_model

        if device == "cuda":
            torch.backends.cudnn.allow_tf32 = False  # a reference in single precision is one in its convolutions too
        self.threads = threads
        self.device = "CPU" if device == "cpu" else str(torch.cuda.get_device_name())
        self.use_cuda_graph = compiled and device == "cuda"
        self._device = torch.device(device)
        self._compiled = compiled
        self._model: Any = stored_model(bundle).to(self._device)
        self._steps = bundle.manifest.sampler_steps
        self._graphs: dict[str, Callable[..., torch.Tensor]] = {}
        _LOG.info("Opened %s on %s with %d threads%s.", bundle.model_id, self.name, threads, ", compiled" if compiled else "")

    def encode(self, rgb: Rgb) -> Float32:
        """See :class:`Backend`."""
        return self._run("encode", lambda: self._model.autoencoder.encode, rgb)

    def denoise(self, expert: int, context: Float32, actions: Float32, noise: Float32) -> Float32:
        """See :class:`Backend`."""
        return self._run(f"denoise_{expert}", lambda: partial(self._sample, expert), context, actions, noise)

    def start_decoding(self, latents: Float32) -> Callable[[], Rgb]:
        """See :class:`Backend`."""
        rgb = self._run("decode", lambda: self._decode, latents)
        return lambda: rgb

    def route(self, context: Float32, coming: Float32) -> Float32:
        """See :class:`Backend`."""
        return self._run("route", lambda: self._model.denoiser.router, context, coming)

    def predict_length(self, context: Float32) -> Float32:
        """See :class:`Backend`."""
        return self._run("predict_length", lambda: self._model.length_predictor, context)

    def estimate_error(self, context: Float32, actions: Float32, latents: Float32, before: Float32) -> Float32:
        """See :class:`Backend`."""
        return self._run("estimate_error", lambda: self._model.error_estimator, context, actions, latents, before)

    def fetch(self, latents: Float32) -> Float32:
        """See :class:`Backend`."""
        return latents

    def close(self) -> None:
        """See :class:`Backend`."""
        self._graphs.clear()
        self._model = None

    def _sample(self, expert: int, context: torch.Tensor, actions: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        latents: torch.Tensor = self._model.denoiser.sample(context, actions, noise, expert, self._steps)
        return latents

    def _decode(self, latents: torch.Tensor) -> torch.Tensor:
        import torch

        rgb: torch.Tensor = (self._model.autoencoder.decode(latents).clamp(0, 1) * 255).round().to(torch.uint8)
        return rgb

    def _run(self, graph: str, of: Callable[[], Callable[..., torch.Tensor]], *inputs: NDArray[Any]) -> NDArray[Any]:
        """A graph's output; ``of`` gives the graph when it is first called."""
        import torch

        if self._model is None:
            raise BackendError(f"Got a request for {graph}, but the backend was closed.")
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        try:
            if graph not in self._graphs:
                self._graphs[graph] = self._compile(of()) if self._compiled else of()
            with torch.inference_mode():
                tensors = [torch.tensor(np.ascontiguousarray(array), device=self._device) for array in inputs]
                output: NDArray[Any] = self._graphs[graph](*tensors).cpu().numpy()
                return output
        except Exception as error:  # PyTorch's own exceptions have no common base
            shapes = ", ".join(f"{array.dtype} {list(array.shape)}" for array in inputs)
            raise BackendError(f"{self.name} failed to run {graph} on {shapes}: {error}") from error

    def _compile(self, graph: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        import torch

        options: dict[str, Any] = {"mode": "reduce-overhead"} if self.use_cuda_graph else {}
        compiled: Callable[..., torch.Tensor] = torch.compile(graph, dynamic=False, **options)
        limits = torch._dynamo.config.patch(recompile_limit=MOST_SHAPES, accumulated_recompile_limit=MOST_SHAPES)
        return limits(compiled)  # type: ignore[no-any-return]
