# SPDX-License-Identifier: Apache-2.0
"""What the stages of a training learn: how a step's number becomes a batch, its chance, and a loss.

A batch depends only on the recipe's seed and the step's number, and is drawn whole in every process, which then takes its part.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from longscape_ros.model import flow
from longscape_ros.model.autoencoder import Autoencoder, FrameBatch
from longscape_ros.model.data import ChunkSampler, Recordings
from longscape_ros.model.fit import Task
from longscape_ros.model.heads import CarriedEstimates, Heads
from longscape_ros.model.moe import standard_gumbel
from longscape_ros.model.processes import Processes
from longscape_ros.model.recipes import Recipe
from longscape_ros.model.rollouts import OwnContexts
from longscape_ros.model.world import ChunkBatch, Draws

RECORDED_CONTEXTS = 256
"""Recorded contexts per step that the length predictor learns from, beside generated ones."""

_SEED_STRIDE = 1_000_003


def autoencoder_task(autoencoder: Autoencoder, recordings: Recordings, recipe: Recipe, processes: Processes) -> Task:
    """Latents are normalised early on and at the end, for the denoiser's noise has unit deviation."""
    stage, device = recipe.autoencoder, processes.device
    frames = torch.from_numpy(recordings.frames)
    count = max(1, stage.frames // processes.count) * processes.count

    @torch.no_grad()
    def normalise(module: nn.Module, generator: torch.Generator) -> None:
        assert isinstance(module, Autoencoder), "the first stage trains an autoencoder"
        sample = frames[torch.randint(len(frames), (512,), generator=generator)]
        module.set_normalisation(module.encode(sample.to(device)).float())

    def loss(module: nn.Module, step: int, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(step * _SEED_STRIDE + recipe.seed)
        if step in (stage.warm_up // 2, stage.warm_up * 2):
            normalise(autoencoder, generator)
        chosen = frames[torch.randint(len(frames), (count,), generator=generator)]
        noise = torch.randn(count, *autoencoder.config.latent_shape, generator=generator)
        result: tuple[Tensor, dict[str, Tensor]] = module(processes.part(FrameBatch(chosen.to(device), noise.to(device))))
        return result

    return Task(loss, finish=lambda averaged: normalise(averaged, torch.Generator().manual_seed(recipe.seed)))


def denoiser_task(sampler: ChunkSampler, own: OwnContexts, recipe: Recipe, processes: Processes) -> Task:
    """Chunks on recorded contexts and, later on, on those that the model generated lately; phases as the recipe says."""

    def loss(module: nn.Module, step: int, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        if progress >= recipe.own_from and recipe.own > 0 and (step % recipe.own_every == 0 or not len(own)):
            denoiser: Any = getattr(module, "module", module)  # without the wrapper of many processes
            random = np.random.default_rng([recipe.seed, step, 1])
            own.refresh(denoiser, sampler, random, recipe.own_rollouts, recipe.own_chunks, recipe.distilled_steps)
        batch = sampler.batch(np.random.default_rng([recipe.seed, step]), own if len(own) else None, recipe.own, processes.count)
        drawn = draws(batch, processes.device, step, recipe)
        phase = "dense" if progress < recipe.dense else "by_length" if progress < recipe.by_length else "routed"
        result: tuple[Tensor, dict[str, Tensor]] = module(processes.part(batch), processes.part(drawn), phase)
        return result

    return Task(loss, upcycle_at=recipe.dense or None, sharing=recipe.sharing, own=own)


def distil_task(sampler: ChunkSampler, own: OwnContexts, recipe: Recipe, processes: Processes) -> Task:
    """The same chunks for a student of the denoiser."""

    def loss(module: nn.Module, step: int, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        batch = sampler.batch(np.random.default_rng([recipe.seed, step, 2]), own if len(own) else None, recipe.own, processes.count)
        drawn = draws(batch, processes.device, step, recipe, noise_share=0.0)
        result: tuple[Tensor, dict[str, Tensor]] = module(processes.part(batch), processes.part(drawn))
        return result

    return Task(loss)


def heads_task(heads: Heads, rolled: dict[str, Any], sampler: ChunkSampler, recipe: Recipe) -> Task:
    """The same in all processes: it is small."""
    carried = CarriedEstimates(rolled)

    def loss(module: nn.Module, step: int, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        if step % heads.CARRY_EVERY == 0 or not carried.is_known:
            heads.carry(rolled)
            carried.is_known = True
        random = np.random.default_rng([recipe.seed, step, 3])
        part = heads.draw(rolled, random)
        anchors = sampler.anchors(random, RECORDED_CONTEXTS)
        recorded = sampler.context(anchors)
        lengths = torch.tensor([sampler.number(length) for length in sampler.lengths[anchors]], device=recorded.device)
        result: tuple[Tensor, dict[str, Tensor]] = module(part, recorded, lengths)
        return result

    return Task(loss, own=carried)


def draws(batch: ChunkBatch, device: torch.device, step: int, recipe: Recipe, noise_share: float | None = None) -> Draws:
    """The chance of a step, for the whole batch."""
    generator = torch.Generator(device).manual_seed(step * _SEED_STRIDE + recipe.seed)
    count = len(batch.target)
    world = recipe.world(batch.actions.shape[-1])
    time_ = flow.sample_times(count, world.noise_share if noise_share is None else noise_share, generator)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, generator=generator)

    level = world.context_noise * torch.rand(count, device=device, generator=generator)
    gumbel = standard_gumbel(count, recipe.experts, generator=generator)
    noise, context_noise = normal(*batch.target.shape), normal(*batch.context.shape)
    return Draws(time_, noise, level.reshape(-1, 1, 1, 1, 1) * context_noise, level, gumbel)
