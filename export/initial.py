# SPDX-License-Identifier: Apache-2.0
"""A bundle's weights, to go on training from them."""

from __future__ import annotations

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from longscape_ros.bundle import Bundle

_HALF = ".half"
_PARTS = ("autoencoder.", "denoiser.", "router.", "length_predictor.", "error_estimator.")
_OLDER = {"model.transformer.": "denoiser.transformer."}
"""Beginnings of names in bundles of earlier versions -> today's."""


def initial_weights(bundle: Bundle) -> dict[str, Tensor]:
    """All weights of a bundle in single precision, by their names in :class:`longscape_ros.model.world.WorldModel`.

    Graphs keep them under the names they have in torch; what an exporter adds has other names.
    """
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
