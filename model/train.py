# SPDX-License-Identifier: Apache-2.0
"""Training on bags: calibrates the action and the chunk rule, trains the autoencoder, encodes all frames once, trains the denoiser.

Every batch depends only on the recipe's seed and the step's number, so a run that was interrupted goes on as if it had not been.
Weights and the optimizer's state are in single precision; matrix products are in bfloat16 on CPUs that have it.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from longscape_ros.actions import calibrate_space, feature_count
from longscape_ros.bags.mapping import load_mapping
from longscape_ros.bags.reader import find_bags, read_episode
from longscape_ros.contract import ActionSpace, ChunkRule, TopicMapping
from longscape_ros.errors import InputError, LongscapeError
from longscape_ros.model.autoencoder import Autoencoder
from longscape_ros.model.data import ChunkSampler, Recordings
from longscape_ros.model.moe import ExpertFeedForward
from longscape_ros.model.recipes import RECIPES, Recipe, Stage
from longscape_ros.model.run import AUTOENCODER, DENOISER, LATENTS, LOG, Run, begin_run, claimed, load_checkpoint, save_checkpoint
from longscape_ros.model.world import WorldModel
from longscape_ros.segmentation import calibrate_threshold
from longscape_ros.timeline import episode_grid

Progress = Callable[[float, float, str], None]
"""(done, total, what) of a long job."""

Loss = Callable[[int, float], tuple[Tensor, dict[str, float]]]
"""(step, progress 0 to 1) -> loss of a fresh batch, and figures to log."""

LOG_EVERY = 20
SAVE_EVERY_S = 60.0
_SEED_STRIDE = 1_000_003
_log = logging.getLogger(__name__)


def train(
    bags: Path,
    recipe: str,
    output: Path,
    mapping: TopicMapping | Path | str | None = None,
    minutes: float | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Train a model on all bags below a folder, or go on with a training that was interrupted.

    Args:
        bags: Folder of rosbag2 recordings.
        recipe: One of :data:`RECIPES`.
        output: The run's folder.
        mapping: Topics of the robot, or where to read them; None: ``mapping.yaml`` beside the bags.
        minutes: Time limit of the whole training; None: the recipe's.
        progress: Told how far the training is, in minutes.

    Returns:
        Figures: ``frames``, ``episodes``, ``episodes.left_out``, ``autoencoder.psnr`` (dB, training frames), ``denoiser.loss``,
        ``denoiser.loss_over_copy_last``, ``autoencoder.steps``, ``denoiser.steps``, ``chunk.share.<length>``.

    Raises:
        InputError: the recipe is unknown, nothing usable was recorded, another training works on the same run, or it was begun
            with something else.
        BagError: there are no bags, or they lack the mapping's topics.
    """
    if recipe not in RECIPES:
        raise InputError(f"Got the recipe {recipe!r}, expected one of {', '.join(RECIPES)}.")
    plan = limited(RECIPES[recipe](), minutes)
    topics = mapping if isinstance(mapping, TopicMapping) else load_mapping(mapping or bags / "mapping.yaml")
    with claimed(output):
        return _train(bags, recipe, plan, output, topics, progress)


def _train(bags: Path, recipe: str, plan: Recipe, output: Path, topics: TopicMapping, progress: Progress | None) -> dict[str, float]:
    recordings, data = read_recordings(bags, topics, plan.image_size)
    space = calibrate_space(topics.dimensions, recordings.motions(), plan.lengths[-1])
    threshold, _ = calibrate_threshold(recordings.motions(), space, plan.base, plan.lengths)
    run = Run(recipe, plan.world(feature_count(space)), space, ChunkRule(plan.base, plan.lengths, threshold), topics, data)
    begin_run(output, run)
    torch.manual_seed(plan.seed)
    model = WorldModel(run.world)
    clock = _Clock(progress, plan.autoencoder.minutes + plan.denoiser.minutes)

    frame_loss = _frame_loss(model.autoencoder, recordings, plan)
    finish = partial(_normalise, frames=torch.from_numpy(recordings.frames))  # the denoiser's noise has unit deviation, so shall latents
    figures = _fit(model.autoencoder, plan.autoencoder, frame_loss, output / AUTOENCODER, clock, finish=finish)
    latents = _encode_once(model.autoencoder, recordings, output / LATENTS)
    sampler = ChunkSampler(recordings, latents, run.space, run.rule, plan.context, plan.denoiser.frames)
    clock.begin("denoiser", plan.autoencoder.minutes)
    figures |= _fit(model.transformer, plan.denoiser, _chunk_loss(model, sampler, plan), output / DENOISER, clock, upcycle_at=plan.dense)
    return {**data, **figures, **{f"chunk.share.{length}": share for length, share in sampler.shares.items()}}


def limited(recipe: Recipe, minutes: float | None) -> Recipe:
    """The recipe with its time limits scaled to a total."""
    if minutes is None:
        return recipe
    if not minutes > 0:
        raise InputError(f"Got {minutes} minutes, expected a positive number.")
    share = minutes / (recipe.autoencoder.minutes + recipe.denoiser.minutes)
    first = replace(recipe.autoencoder, minutes=share * recipe.autoencoder.minutes)
    return replace(recipe, autoencoder=first, denoiser=replace(recipe.denoiser, minutes=share * recipe.denoiser.minutes))


def read_recordings(bags: Path, mapping: TopicMapping, image_size: tuple[int, int]) -> tuple[Recordings, dict[str, float]]:
    """All episodes below a folder on the mapping's grid, and figures of them; an unreadable one is logged and left out."""
    space = ActionSpace(mapping.dimensions)
    episodes = []
    faults = 0
    for bag in find_bags(bags):
        try:
            episode = read_episode(bag, mapping, image_size=image_size)
            episodes.append(episode_grid(episode, space, mapping.fps, image_size, mapping.image_latency_ns))
        except LongscapeError as error:
            faults += 1
            _log.warning("Left out %s: %s", bag, error)
    if not episodes:
        raise InputError(f"Got {faults} bags below {bags} of which none could be used, expected at least one; the log says why.")
    recordings = Recordings.of(episodes)
    data = {"episodes": float(len(episodes)), "episodes.left_out": float(faults), "frames": float(len(recordings.frames))}
    return recordings, data


def _encode_once(autoencoder: Autoencoder, recordings: Recordings, path: Path) -> Tensor:
    """Latents of all frames by the finished autoencoder; they are kept for the time the training goes on."""
    kept = load_checkpoint(path)
    if kept is None:
        kept = {"latents": encode_all(autoencoder, recordings)}
        save_checkpoint(path, kept)
    latents: Tensor = kept["latents"]
    return latents


@torch.no_grad()
def encode_all(autoencoder: Autoencoder, recordings: Recordings, batch: int = 256) -> Tensor:
    """Latents float16 [M, C, h, w] of all frames."""
    frames = torch.from_numpy(recordings.frames)
    return torch.cat([autoencoder.encode(part).half() for part in frames.split(batch)])


def _frame_loss(autoencoder: Autoencoder, recordings: Recordings, recipe: Recipe) -> Loss:
    frames = torch.from_numpy(recordings.frames)

    def loss(step: int, progress: float) -> tuple[Tensor, dict[str, float]]:
        if step in (recipe.autoencoder.warm_up // 2, recipe.autoencoder.warm_up * 2):
            _normalise(autoencoder, frames)
        result: tuple[Tensor, dict[str, float]] = autoencoder(frames[torch.randint(len(frames), (recipe.autoencoder.frames,))])
        return result

    return loss


@torch.no_grad()
def _normalise(autoencoder: Autoencoder, frames: Tensor) -> None:
    autoencoder.set_normalisation(autoencoder.encode(frames[torch.randint(len(frames), (512,))]))


def _chunk_loss(model: WorldModel, sampler: ChunkSampler, recipe: Recipe) -> Loss:
    def loss(step: int, progress: float) -> tuple[Tensor, dict[str, float]]:
        batch = sampler.batch(np.random.default_rng([recipe.seed, step]), routed=progress >= recipe.dense)
        result: tuple[Tensor, dict[str, float]] = model(batch)
        return result

    return loss


class _Clock:
    """Reports progress over several stages."""

    def __init__(self, progress: Progress | None, total_minutes: float) -> None:
        self._progress, self._total = progress, total_minutes
        self.begin("autoencoder", 0.0)

    def begin(self, stage: str, minutes_before: float) -> None:
        self._stage, self._before = stage, minutes_before

    def report(self, minutes: float, text: str) -> None:
        if self._progress:
            self._progress(self._before + minutes, self._total, f"{self._stage} {text}")


def _fit(
    module: nn.Module,
    stage: Stage,
    loss_of: Loss,
    path: Path,
    clock: _Clock,
    upcycle_at: float | None = None,
    finish: Callable[[Any], None] | None = None,
) -> dict[str, float]:
    """Train one module until the stage's limits; ends with the averaged weights in it.

    Args:
        module: What is optimised.
        stage: Limits and rates.
        loss_of: Makes the losses.
        path: Checkpoint; the training goes on from it.
        clock: For progress.
        upcycle_at: Progress at which the first expert is copied to the others.
        finish: Called once with the averaged module at the end.

    Returns:
        The figures of the last steps, averaged, under the checkpoint's name.
    """
    optimizer = torch.optim.AdamW(module.parameters(), lr=stage.rate, betas=(0.9, 0.95), weight_decay=0.01)
    averaged = AveragedModel(module, multi_avg_fn=_moving_average(stage.average), use_buffers=True)
    state = {"step": 0, "seconds": 0.0, "upcycled": upcycle_at is None, "finished": False}
    checkpoint = load_checkpoint(path)
    if checkpoint is not None:
        module.load_state_dict(checkpoint["module"])
        averaged.module.load_state_dict(checkpoint["averaged"])
        averaged.n_averaged.fill_(checkpoint["step"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        state = {key: checkpoint[key] for key in state}
    recent: list[dict[str, float]] = list(checkpoint["recent"]) if checkpoint else []

    def save() -> None:
        weights = {"module": module.state_dict(), "averaged": averaged.module.state_dict(), "optimizer": optimizer.state_dict()}
        save_checkpoint(path, {**weights, **state, "recent": recent})

    bfloat16 = has_bfloat16()
    saved = begun = time.monotonic()
    before = state["seconds"]
    module.train()
    while not state["finished"]:
        done = max(state["step"] / stage.steps, state["seconds"] / 60 / stage.minutes)
        if done >= 1:
            if finish is not None:
                finish(averaged.module)
            state["finished"] = True
            break
        if not state["upcycled"] and upcycle_at is not None and done >= upcycle_at:
            for part in _experts(module):
                part.upcycle()
            for part in _experts(averaged.module):
                part.upcycle()
            state["upcycled"] = True
        torch.manual_seed(state["step"] * _SEED_STRIDE)
        for group in optimizer.param_groups:
            group["lr"] = stage.rate * _rate(stage, int(state["step"]), done)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            loss, figures = loss_of(int(state["step"]), done)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        averaged.update_parameters(module)
        state["step"] += 1
        state["seconds"] = before + time.monotonic() - begun
        recent = [*recent[1 - LOG_EVERY :], figures]
        if state["step"] % LOG_EVERY == 0:
            means = _means(recent)
            _write_log(path, {"step": state["step"], "minutes": state["seconds"] / 60, "progress": done, **means})
            clock.report(state["seconds"] / 60, " ".join(f"{key} {value:.3f}" for key, value in means.items()))
        if time.monotonic() - saved > SAVE_EVERY_S:
            save()
            saved = time.monotonic()
    save()
    module.load_state_dict(averaged.module.state_dict())
    module.eval()
    return {f"{path.stem}.{key}": value for key, value in {**_means(recent), "steps": float(state["step"])}.items()}


def _moving_average(decay: float) -> Callable[[Any, Any, Any], None]:
    """Exponential, over a tenth of the steps at first: short trainings must not keep what the weights were at the beginning."""

    def update(averaged: Any, current: Any, count: Any) -> None:
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + int(count)) / (10 + int(count))))

    return update


def has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 by itself: training is then half as fast again; elsewhere it would be slower."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _experts(module: nn.Module) -> Iterator[ExpertFeedForward]:
    return (part for part in module.modules() if isinstance(part, ExpertFeedForward))


def _rate(stage: Stage, step: int, done: float) -> float:
    """Warm-up, plateau, then a fall along a cosine."""
    rise = min(1.0, (step + 1) / stage.warm_up)
    fall = min(1.0, (1 - done) / stage.decay) if stage.decay else 1.0
    return rise * (0.5 - 0.5 * math.cos(math.pi * fall))


def _means(recent: list[dict[str, float]]) -> dict[str, float]:
    keys = recent[0] if recent else ()
    return {key: float(np.mean([figures[key] for figures in recent])) for key in keys}


def _write_log(path: Path, line: dict[str, float]) -> None:
    with (path.parent / LOG).open("a") as log:
        log.write(json.dumps({"stage": path.stem, **line}) + "\n")
