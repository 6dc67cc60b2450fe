# SPDX-License-Identifier: Apache-2.0
"""What runs a bundle's graphs: the interface that every backend has. Arrays go in and come out, no torch.

Letters: B batch, H W image, C h w latent, K context frames, T chunk frames, F action features, L steps the router looks ahead, E experts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from longscape_ros.actions import feature_count
from longscape_ros.bundle import DECODER, ENCODER, ERROR_ESTIMATOR, LENGTH_PREDICTOR, ROUTER, Manifest
from longscape_ros.errors import BundleError

Float32 = NDArray[np.float32]
Rgb = NDArray[np.uint8]
Latents = Any
"""float32 array of the backend's own kind, where its graphs leave it: NumPy's on the CPU, CuPy's on a GPU. Both have NumPy's indexing,
and ``numpy.concatenate`` takes them."""

Tensors = dict[str, tuple[str, tuple[int | None, ...]]]
"""Name -> element type (NumPy's name) and shape; None is a size that is open."""

AUTO = "auto"
BACKENDS = ("tensorrt", "ort_tensorrt", "ort_cuda", "ort_cpu", "torch")
"""Every backend, in the order in which ``auto`` tries them; it does not try torch, which is the reference."""

FP32, FP16, INT8 = "fp32", "fp16", "int8"
PRECISIONS = (FP32, FP16, INT8)


class Backend(Protocol):
    """Runs the graphs of one bundle; may be used from one thread at a time.

    Latents may come in as NumPy arrays too, whatever the backend's own kind is. What a method returns is not changed by later calls.
    """

    @property
    def name(self) -> str:
        """One of :data:`BACKENDS`."""

    @property
    def precision(self) -> str:
        """One of :data:`PRECISIONS`: what the denoisers compute in."""

    @property
    def device(self) -> str:
        """What it runs on, for people."""

    @property
    def threads(self) -> int:
        """CPU threads per graph."""

    def encode(self, rgb: Rgb) -> Latents:
        """Images uint8 [B, H, W, 3] -> latents [B, C, h, w]."""

    def denoise(self, expert: int, context: Latents, actions: Float32, noise: Float32) -> Latents:
        """Context latents [B, K, C, h, w], features [B, K + T, F], noise [B, T, C, h, w] -> latents [B, T, C, h, w]."""

    def start_decoding(self, latents: Latents) -> Callable[[], Rgb]:
        """Latents [B, C, h, w] -> what gives the images uint8 [B, H, W, 3] when it is called.

        Decoding may go on beside what is asked for next.
        """

    def route(self, context: Latents, coming: Float32) -> Float32:
        """Context latents [B, K, C, h, w], coming features [B, K + L, F] -> scores [B, E]; of bundles with a router."""

    def predict_length(self, context: Latents) -> Float32:
        """Context latents [B, K, C, h, w] -> scores [B, chunk lengths]; of bundles with a length predictor."""

    def estimate_error(self, context: Latents, actions: Float32, latents: Latents, before: Float32) -> Float32:
        """What :meth:`denoise` got and gave, and the estimate of the newest context frame [B] -> logarithms of errors [B, T]."""

    def fetch(self, latents: Latents) -> Float32:
        """Latents as a NumPy array."""

    def close(self) -> None:
        """Free the graphs; the backend cannot run after that."""


def expected_tensors(graph: str, manifest: Manifest) -> tuple[Tensors, Tensors]:
    """Inputs and outputs of a graph, as the manifest has them."""
    rgb = ("uint8", (None, *manifest.image_size, 3))
    latents = ("float32", (None, *manifest.latent_shape))
    if graph == ENCODER:
        return {"rgb": rgb}, {"latents": latents}
    if graph == DECODER:
        return {"latents": latents}, {"rgb": rgb}
    real = "float32"
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


def require_tensors(what: str, graph: str, manifest: Manifest, inputs: Tensors, outputs: Tensors) -> None:
    """Refuse a graph that does not take or give what the manifest says.

    Args:
        what: Its file or engine, for the message.
        graph: Its name.
        manifest: The bundle's.
        inputs: What it takes.
        outputs: What it gives; there may be more than is wanted.

    Raises:
        BundleError: it does not.
    """
    wanted_inputs, wanted_outputs = expected_tensors(graph, manifest)
    if inputs != wanted_inputs:
        raise BundleError(f"{what}: found the inputs {_text(inputs)}; expected {_text(wanted_inputs)} as the manifest says.")
    for name, (kind, shape) in wanted_outputs.items():
        found_kind, found_shape = outputs.get(name, ("", ()))
        # exporters and builders leave output sizes open that they cannot derive
        fits = len(found_shape) == len(shape) and all(f in (None, s) for f, s in zip(found_shape, shape, strict=True))
        if found_kind != kind or not fits:
            raise BundleError(f"{what}: found the outputs {_text(outputs)}; expected {_text(wanted_outputs)} as the manifest says.")


def _text(tensors: Tensors) -> str:
    sizes = {name: ", ".join("?" if size is None else str(size) for size in shape) for name, (_, shape) in tensors.items()}
    return "; ".join(f"{name} {kind} [{sizes[name]}]" for name, (kind, _) in tensors.items())
