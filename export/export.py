# SPDX-License-Identifier: Apache-2.0
"""Makes a bundle of a training run. It appears only when every graph has been verified."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from longscape_ros.bundle import Bundle, Experts, Manifest, Routing, write_bundle
from longscape_ros.errors import InputError
from longscape_ros.examples import EXAMPLES
from longscape_ros.export.graphs import SMALLEST_STORED, per_step_graphs, store_weights
from longscape_ros.export.structures import export_graphs
from longscape_ros.export.verify import verify_graphs, verify_rollout
from longscape_ros.model.run import HEADS, Run, load_model, load_run, undistilled
from longscape_ros.model.stored import ATTENTION_HEADS
from longscape_ros.model.world import WorldModel
from longscape_ros.parity import compare_rollouts
from longscape_ros.runtime.backend import INT8, Backend
from longscape_ros.runtime.cache import ArtifactCache
from longscape_ros.runtime.half import half, halved
from longscape_ros.runtime.kinds import FP16_VERIFIED
from longscape_ros.runtime.onnxruntime_backend import OnnxRuntimeBackend
from longscape_ros.runtime.quantized import VERIFIED as INT8_VERIFIED

Progress = Callable[[float, float, str], None]
"""(done, total, what) of a long job."""


def export_run(
    run: Path,
    output: Path,
    name: str | None = None,
    progress: Progress | None = None,
    steps: int | None = None,
    per_step: bool = False,
    teacher: bool = False,
) -> dict[str, float]:
    """Write the bundle of a finished training.

    Args:
        run: The training's folder.
        output: The bundle's folder.
        name: Of the model; None: the name of ``output``.
        progress: Told after each graph.
        steps: Network evaluations per chunk; None: those it was trained for.
        per_step: Whether the bundle gets the denoisers in their per-step form, too.
        teacher: Whether to take the denoiser as it was before distillation, without heads, to compare with.

    Returns:
        ``parity.<graph>``: largest difference to PyTorch with the stored weights; ``parity.rollout``: of latents after three
        chunks; ``parity.int8.rollout_psnr_db``, ``parity.fp16.rollout_psnr_db``: of rollouts in lower precisions against those in
        single precision; ``bytes``: size of the bundle.

    Raises:
        InputError: the run is not finished, or is not for use on a robot.
        BundleError: a graph differs from PyTorch by more than 1e-4, or ``output`` holds something else.
    """
    description = undistilled(load_run(run)) if teacher else load_run(run)
    model = load_model(run, description)
    round_weights(model)
    manifest = manifest_of(description, name or output.resolve().name)
    manifest = replace(manifest, sampler_steps=steps or manifest.sampler_steps)
    names = [*manifest.graphs(), *(per_step_graphs(manifest.experts.count) if per_step else ())]
    total = len(names) + 1

    def tell(done: int, what: str) -> None:
        if progress:
            progress(done, total, what)

    with tempfile.TemporaryDirectory() as temporary:
        files = store_weights(export_graphs(model, names, manifest.sampler_steps, tell), Path(temporary))
        if (run / EXAMPLES).is_file():  # older trainings have none
            files.append(run / EXAMPLES)
        tell(total - 1, "verify")
        bundle = write_verified(output, manifest, files, model)
    tell(total, "verified")
    parity = {f"parity.{name}": value for name, value in bundle.manifest.verification.items()}
    return {**parity, "bytes": float(sum(record.bytes for record in bundle.manifest.files.values()))}


def write_verified(output: Path, manifest: Manifest, files: Sequence[Path], model: WorldModel) -> Bundle:
    """Write a bundle if it computes what ``model`` does, and say so in its manifest; also how near it comes in lower precisions.

    Raises:
        BundleError: a graph differs, or ``output`` holds something else; what was there stays.
    """
    sources = {path.name: path for path in files}
    with tempfile.TemporaryDirectory() as temporary:
        staged = write_bundle(Path(temporary) / "bundle", manifest, sources)
        differences = verify_graphs(staged, model)
        exact = OnnxRuntimeBackend(staged)
        differences["rollout"] = verify_rollout(staged, model, exact)
        differences |= _faithfulness(staged, exact, Path(temporary))
        exact.close()
    return write_bundle(output, replace(manifest, verification=differences), sources)


def _faithfulness(bundle: Bundle, exact: Backend, folder: Path) -> dict[str, float]:
    """PSNR of rollouts in lower precisions against those in single precision.

    Half precision is measured on a CPU, which computes in single precision and rounds between operators as a GPU does.
    """
    halves = folder / "half"
    halves.mkdir()
    sources = {name: bundle.file(name) for name in bundle.manifest.files}
    for graph in halved(bundle):
        sources[graph] = halves / graph
        sources[graph].write_bytes(half(bundle, graph))
    in_half = write_bundle(folder / "in_half", bundle.manifest, sources)
    backends = {
        INT8_VERIFIED: OnnxRuntimeBackend(bundle, precision=INT8, cache=ArtifactCache(folder / "cache")),
        FP16_VERIFIED: OnnxRuntimeBackend(in_half),
    }
    figures = {name: compare_rollouts(bundle, backend, exact)[0] for name, backend in backends.items()}
    for backend in backends.values():
        backend.close()
    return figures


def manifest_of(run: Run, name: str) -> Manifest:
    """What the bundle says of itself.

    Raises:
        InputError: the model needs several experts per chunk; no bundle can say that. (Nor that chance chooses them, which is for
            comparisons only: the predictor is told then.)
    """
    if run.world.top > 1:
        raise InputError(f"Got a model with {run.world.top} experts per chunk, expected one; a bundle's denoisers have one expert each.")
    transformer = run.world.transformer
    return Manifest(
        name=name,
        fps=run.mapping.fps,
        image_size=run.world.autoencoder.image_size,
        latent_shape=transformer.latent_shape,
        context=transformer.context,
        sampler_steps=run.sampler_steps,
        action_space=run.space,
        segmentation=run.rule,
        experts=Experts(transformer.experts, Routing("learned" if run.world.is_routed else "chunk_length", run.world.lookahead)),
        confidence=run.confidence,
        length_predictor=HEADS in run.stages,
        mapping=run.mapping,
        training={"recipe": run.recipe, ATTENTION_HEADS: transformer.heads, **run.data},
    )


@torch.no_grad()
def round_weights(model: WorldModel) -> None:
    """Round the weights to half precision, as they are stored; what is not trained stays exact."""
    for parameter in model.parameters():
        if parameter.numel() >= SMALLEST_STORED:
            parameter.copy_(parameter.half().float())
