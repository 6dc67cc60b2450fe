# SPDX-License-Identifier: Apache-2.0
"""The model that a bundle was made of: its weights as the graphs store them, and its sizes.

Graphs keep weights under the names that they have in :class:`WorldModel`; what an exporter adds has other names.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from longscape_ros.actions import feature_count
from longscape_ros.bundle import Bundle
from longscape_ros.errors import BundleError
from longscape_ros.model.autoencoder import AutoencoderConfig
from longscape_ros.model.transformer import TransformerConfig
from longscape_ros.model.world import Routing, WorldConfig, WorldModel

ATTENTION_HEADS = "attention_heads"
"""In a manifest's ``training``: what the shapes of the weights do not tell."""

_HALF = ".half"
_PARTS = ("autoencoder.", "denoiser.", "router.", "length_predictor.", "error_estimator.")
_OLDER = {"model.transformer.": "denoiser.transformer."}
"""Beginnings of names in bundles of earlier versions -> today's."""

_TRAINING_ONLY = ("denoiser.router.load",)
"""What no graph has, for only training needs it."""

_BLOCK = re.compile(r"denoiser\.transformer\.blocks\.(\d+)\.qkv\.weight")


def stored_weights(bundle: Bundle) -> dict[str, Tensor]:
    """All weights of a bundle in single precision, by their names in :class:`WorldModel`."""
    import onnx
    from onnx import numpy_helper

    weights: dict[str, Tensor] = {}
    for graph in bundle.manifest.graphs():
        proto = onnx.load(bundle.file(graph))
        for tensor in proto.graph.initializer:
            name = tensor.name.removesuffix(_HALF)
            for older, today in _OLDER.items():
                name = today + name.removeprefix(older) if name.startswith(older) else name
            name = f"denoiser.{name}" if name.startswith("router.") else name  # as the router's graph has it
            if name.startswith(_PARTS):
                weights[name] = torch.from_numpy(numpy_helper.to_array(tensor).copy()).float()
    return weights


def stored_model(bundle: Bundle) -> WorldModel:
    """The model of a bundle with its stored weights, on the CPU. Heads that the bundle has not are left as they begin.

    Raises:
        BundleError: the weights are not all there, or are not those of a model of this package.
    """
    weights = stored_weights(bundle)
    model = WorldModel(stored_config(bundle, weights))
    absent = {"length_predictor.": not bundle.manifest.length_predictor, "error_estimator.": bundle.manifest.confidence is None}
    left_out = tuple(part for part, is_absent in absent.items() if is_absent)
    own = model.state_dict()
    needed = {name for name in own if not name.startswith(left_out) and name not in _TRAINING_ONLY}
    wrong = sorted(name for name in needed if name not in weights or weights[name].shape != own[name].shape)
    if wrong:
        raise BundleError(f"{bundle.path}: found no weights of the right shape for {', '.join(wrong)}; export the model again.")
    model.load_state_dict({name: weights[name] for name in needed}, strict=False)
    return model.eval()


def stored_config(bundle: Bundle, weights: dict[str, Tensor]) -> WorldConfig:
    """The sizes of the model that has a bundle's weights.

    Raises:
        BundleError: the manifest does not tell the number of attention heads, or the weights are those of another kind of model.
    """
    manifest = bundle.manifest
    heads = manifest.training.get(ATTENTION_HEADS)
    if not isinstance(heads, int):
        raise BundleError(
            f"{bundle.path}: found no number {ATTENTION_HEADS!r} in the manifest's 'training', expected it: no shape tells it. "
            "Export the model again with this version of longscape_ros."
        )
    channels = manifest.latent_shape[0]
    transformer = "denoiser.transformer."
    try:
        width, pixels = weights[f"{transformer}embed_context.weight"].shape
        cell = weights[f"{transformer}embed_noisy.weight"].shape[1] - pixels  # numbers of one patch of one frame
        tubelet, patch = pixels // cell, round((cell / channels) ** 0.5)
        hidden = weights[f"{transformer}blocks.0.feed_forward.experts.0.up.weight"].shape[0]
        moments = len(weights[f"{transformer}moment"])
        widths = tuple(weights[f"autoencoder.encoder.{layer}.weight"].shape[0] for layer in (1, 3, 5))
        depth = 1 + max(int(found[1]) for found in map(_BLOCK.fullmatch, weights) if found)
        routing: Routing = manifest.experts.routing.kind
        if routing == "learned" and "denoiser.router.scores.motion.weight" not in weights:
            routing = "context"
        return WorldConfig(
            AutoencoderConfig(image_size=manifest.image_size, channels=channels, widths=widths),  # type: ignore[arg-type]
            TransformerConfig(
                latent_shape=manifest.latent_shape,
                action_features=feature_count(manifest.action_space),
                context=manifest.context,
                max_length=tubelet * moments - manifest.context,
                patch=patch,
                tubelet=tubelet,
                width=width,
                depth=depth,
                heads=heads,
                hidden=hidden,
                experts=manifest.experts.count,
            ),
            lengths=manifest.segmentation.lengths,
            routing=routing,
            lookahead=manifest.experts.routing.lookahead,
            sampler_steps=manifest.sampler_steps,
        )
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise BundleError(
            f"{bundle.path}: found graphs whose weights are not those of this package's model ({error}); PyTorch cannot run them, "
            "use ort_cpu."
        ) from error
