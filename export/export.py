# SPDX-License-Identifier: Apache-2.0
"""Makes a bundle of a training run. It is finished only when every graph has been verified."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from longscape_ros.bundle import Experts, Manifest, load_bundle, update_reports, write_bundle
from longscape_ros.export.graphs import SMALLEST_STORED, export_graph, graphs_of, store_weights
from longscape_ros.export.verify import verify_graphs, verify_rollout
from longscape_ros.model.run import Run, load_model, load_run
from longscape_ros.model.world import WorldModel
from longscape_ros.runtime.backends import create_backend

Progress = Callable[[float, float, str], None]
"""(done, total, what) of a long job."""


def export_run(run: Path, output: Path, name: str | None = None, progress: Progress | None = None) -> dict[str, float]:
    """Write the bundle of a finished training.

    Args:
        run: The training's folder.
        output: The bundle's folder.
        name: Of the model; None: the name of ``output``.
        progress: Told after each graph.

    Returns:
        ``parity.<graph>``: largest difference to PyTorch with the stored weights; ``parity.rollout``: of latents after three
        chunks; ``bytes``: size of the bundle.

    Raises:
        InputError: the run is not finished.
        BundleError: a graph differs from PyTorch by more than 1e-4, or ``output`` holds something else.
    """
    description = load_run(run)
    model = load_model(run)
    round_weights(model)
    graphs = graphs_of(model)
    steps = len(graphs) + 1
    with tempfile.TemporaryDirectory() as temporary:
        protos = {}
        for index, (file, module) in enumerate(graphs.items()):
            if progress:
                progress(index, steps, file)
            protos[file] = export_graph(file, module, model)
        files = store_weights(protos, Path(temporary))
        bundle = write_bundle(output, manifest_of(description, name or output.name), {path.name: path for path in files})
    if progress:
        progress(len(graphs), steps, "verify")
    differences = verify_graphs(bundle, model)
    backend = create_backend(bundle, "ort_cpu")
    differences["rollout"] = verify_rollout(bundle, model, backend)
    backend.close()
    update_reports(output, verification=differences)
    if progress:
        progress(steps, steps, "verified")
    size = sum(record.bytes for record in load_bundle(output).manifest.files.values())
    return {**{f"parity.{key}": value for key, value in differences.items()}, "bytes": float(size)}


def manifest_of(run: Run, name: str) -> Manifest:
    """What the bundle says of itself."""
    transformer = run.world.transformer
    return Manifest(
        name=name,
        fps=run.mapping.fps,
        image_size=run.world.autoencoder.image_size,
        latent_shape=transformer.latent_shape,
        context=transformer.context,
        sampler_steps=run.world.sampler_steps,
        action_space=run.space,
        segmentation=run.rule,
        experts=Experts(transformer.experts),
        mapping=run.mapping,
        training={"recipe": run.recipe, **run.data},
    )


@torch.no_grad()
def round_weights(model: WorldModel) -> None:
    """Round the weights to half precision, as they are stored."""
    for parameter in [*model.parameters(), *model.buffers()]:
        if parameter.is_floating_point() and parameter.numel() >= SMALLEST_STORED:
            parameter.copy_(parameter.half().float())
