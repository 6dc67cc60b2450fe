# SPDX-License-Identifier: Apache-2.0
"""Is what runs on the robot what was trained? Compares ONNX Runtime with PyTorch, graph by graph and over a rollout."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from longscape_ros.bundle import ERROR_ESTIMATOR, Bundle, denoiser
from longscape_ros.errors import BundleError
from longscape_ros.export.graphs import example_inputs, graphs_of, per_step_graphs
from longscape_ros.model.world import WorldModel
from longscape_ros.runtime.backend import Backend

TOLERANCE = 1e-4
"""Largest difference per graph that passes; latents have unit variance, pixels go from 0 to 1."""

BATCHES = (1, 3)


@torch.no_grad()
def verify_graphs(bundle: Bundle, model: WorldModel, seed: int = 0) -> dict[str, float]:
    """Largest absolute difference of each graph to ``model``, over batch sizes and every chunk length.

    Args:
        bundle: What was exported.
        model: The reference; its weights must be the stored (half-precision) ones.
        seed: Of the random inputs.

    Returns:
        File name -> largest difference. For the decoder, of the pixels before rounding.

    Raises:
        BundleError: a difference is above :data:`TOLERANCE`.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # torch computes in turns with it
    generator = torch.Generator().manual_seed(seed)
    differences = {}
    manifest = bundle.manifest
    optional = [name for name in per_step_graphs(manifest.experts.count) if name in manifest.files]
    chunked = {ERROR_ESTIMATOR, *optional, *(denoiser(expert) for expert in range(manifest.experts.count))}
    for name, module in graphs_of(model, [*manifest.graphs(), *optional], manifest.sampler_steps).items():
        session = onnxruntime.InferenceSession(bundle.file(name), options, providers=["CPUExecutionProvider"])
        output = module.outputs[-1]
        lengths = manifest.segmentation.lengths if name in chunked else (1,)
        worst = 0.0
        for batch in BATCHES:
            for length in lengths:
                inputs = example_inputs(name, model, batch, length, generator)
                expected = module(*inputs.values())
                reference: Tensor = expected[-1] if isinstance(expected, tuple) else expected
                found = session.run([output], {key: value.numpy() for key, value in inputs.items()})[0]
                worst = float(np.maximum(worst, np.abs(found - reference.numpy()).max()))  # NaN stays NaN
        differences[name] = worst
    wrong = {name: value for name, value in differences.items() if not value <= TOLERANCE}
    if wrong:
        raise BundleError(f"{bundle.path}: found differences to PyTorch of {wrong}, expected at most {TOLERANCE}; do not use this bundle.")
    return differences


@torch.no_grad()
def verify_rollout(bundle: Bundle, model: WorldModel, backend: Backend, chunks: int = 3, seed: int = 0) -> float:
    """Largest difference of the latents after several chunks in a row, each continuing from the one before."""
    generator = torch.Generator().manual_seed(seed)
    manifest = bundle.manifest
    length, known = manifest.segmentation.lengths[0], manifest.context
    reference = example_inputs("", model, 1, length, generator)["context"]
    found = reference.numpy()
    for index in range(chunks):
        inputs = example_inputs("", model, 1, length, generator)
        expert = index % manifest.experts.count
        sampled = model.denoiser.sample(reference[:, -known:], inputs["actions"], inputs["noise"], expert, manifest.sampler_steps)
        reference = torch.cat([reference, sampled], dim=1)
        rolled = backend.denoise(expert, found[:, -known:], inputs["actions"].numpy(), inputs["noise"].numpy())
        found = np.concatenate([found, rolled], axis=1)
    return float(np.abs(found - reference.numpy()).max())
