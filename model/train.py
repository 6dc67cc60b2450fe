# SPDX-License-Identifier: Apache-2.0
"""Training on bags, stage by stage.

1. calibrates the action and the chunk rule on the bags;
2. ``autoencoder``; then all frames are encoded once;
3. ``denoiser``: one expert for all chunks, then experts by length, then as the router says; a share of the chunks may go on from what
   the model itself generated;
4. ``distil``: fewer sampling steps;
5. ``heads``: the length predictor and the error estimator, on the model's own rollouts; calibrates the confidence.

Every batch depends only on the recipe's seed and the step's number, so a run that was interrupted goes on as if it had not been,
and several processes (torchrun) compute what one would. Weights and the optimizer's state are in single precision; matrix products
are in bfloat16 where the device has it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from longscape_ros.actions import calibrate_space, feature_count
from longscape_ros.bags.mapping import load_mapping
from longscape_ros.bags.reader import find_bags, read_episode
from longscape_ros.contract import ActionSpace, ChunkRule, TopicMapping
from longscape_ros.errors import InputError, LongscapeError
from longscape_ros.examples import EXAMPLES, choose_examples, write_examples
from longscape_ros.model.autoencoder import Autoencoder
from longscape_ros.model.data import ChunkSampler, Recordings
from longscape_ros.model.distil import Distillation
from longscape_ros.model.fit import LegOver, Precision, Progress, Session, Task
from longscape_ros.model.heads import Heads, collect_rollouts
from longscape_ros.model.processes import Processes, choose_device, joined, move
from longscape_ros.model.recipes import RECIPES, Recipe
from longscape_ros.model.rollouts import OwnContexts
from longscape_ros.model.run import (
    AUTOENCODER,
    DENOISER,
    DISTIL,
    HEADS,
    LATENTS,
    ROLLOUTS,
    Run,
    begin_run,
    claimed,
    load_checkpoint,
    save_checkpoint,
    save_run,
)
from longscape_ros.model.tasks import autoencoder_task, denoiser_task, distil_task, draws, heads_task
from longscape_ros.model.world import WorldModel
from longscape_ros.segmentation import calibrate_threshold
from longscape_ros.timeline import episode_grid

HELD_BATCHES = 40
"""Batches of the held-out loss."""

PLACES = ("autoencoder.coarse_bias", "autoencoder.fine_bias", "denoiser.transformer.place")
"""What a model has learned per place of the picture."""

FEWEST_TO_HOLD = 8
"""Episodes below which none is kept apart for the confidence's calibration: it is calibrated on training episodes then."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Data:
    """Bags on the model's grid.

    Args:
        recordings: The episodes.
        topics: The robot's topics.
        figures: ``episodes``, ``episodes.left_out``, ``frames``.
    """

    recordings: Recordings
    topics: TopicMapping
    figures: dict[str, float]


def train(
    bags: Path,
    recipe: str,
    output: Path,
    mapping: TopicMapping | Path | str | None = None,
    minutes: float | None = None,
    progress: Progress | None = None,
    leg: float | None = None,
    device: str = "auto",
    initial: dict[str, Tensor] | None = None,
    precision: Precision = "auto",
) -> dict[str, float]:
    """Train a model on all bags below a folder, or go on with a training that was interrupted.

    Args:
        bags: Folder of rosbag2 recordings.
        recipe: One of :data:`RECIPES`.
        output: The run's folder.
        mapping: Topics of the robot, or where to read them; None: ``mapping.yaml`` beside the bags.
        minutes: Time limit of the whole training; None: the recipe's.
        progress: Told how far the training is, in minutes.
        leg: Minutes after which this call ends, finished or not; the next one goes on.
        device: See :func:`choose_device`.
        initial: Weights to begin with, by the names in :class:`WorldModel`.
        precision: See :data:`Precision`.

    Returns:
        Figures: ``finished`` (1, or 0: the leg was over), ``frames``, ``episodes``, ``episodes.left_out``, and, of finished stages,
        ``<stage>.steps``, ``autoencoder.psnr`` (dB, training frames), ``denoiser.loss``, ``denoiser.loss_over_copy_last``,
        ``denoiser.held_loss`` (of the episodes kept apart), ``distil.loss``, ``heads.*`` (see
        :class:`longscape_ros.model.heads.Heads`), ``chunk.share.<length>``.

    Raises:
        InputError: the recipe is unknown, nothing usable was recorded, another training works on the same run, it was begun with
            something else, or ``initial`` does not fit the recipe.
        BagError: there are no bags, or they lack the mapping's topics.
    """
    if recipe not in RECIPES:
        raise InputError(f"Got the recipe {recipe!r}, expected one of {', '.join(RECIPES)}.")
    begun = time.monotonic()
    plan = limited(RECIPES[recipe](), minutes)
    if initial is not None:  # its experts are different already; only a router that it does not have must begin
        routed = any(name.startswith("denoiser.router.") for name in initial)
        plan = replace(plan, dense=0.0, by_length=0.0 if routed else min(plan.by_length, 0.1))
    topics = mapping if isinstance(mapping, TopicMapping) else load_mapping(mapping or bags / "mapping.yaml")
    chosen = choose_device(device)
    data = read_data(bags, topics, plan.image_size)
    ends = None if leg is None else begun + 60 * leg
    with joined(chosen) as processes:
        return train_on(data, recipe, plan, output, processes, progress, ends, initial, precision)


def read_data(bags: Path, mapping: TopicMapping, image_size: tuple[int, int]) -> Data:
    """All episodes below a folder on the mapping's grid; an unreadable one is logged and left out.

    Raises:
        InputError: none can be used.
        BagError: there are no bags.
    """
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
    figures = {"episodes": float(len(episodes)), "episodes.left_out": float(faults), "frames": float(len(recordings.frames))}
    return Data(recordings, mapping, figures)


def train_on(
    data: Data,
    name: str,
    recipe: Recipe,
    output: Path,
    processes: Processes,
    progress: Progress | None = None,
    ends: float | None = None,
    initial: dict[str, Tensor] | None = None,
    precision: Precision = "auto",
) -> dict[str, float]:
    """See :func:`train`; with a recipe of one's own under the given name, and the monotonic time at which this leg ends."""
    motions = data.recordings.motions()
    space = calibrate_space(data.topics.dimensions, motions, recipe.lookahead)
    threshold, _ = calibrate_threshold(motions, space, recipe.base, recipe.lengths)
    rule = ChunkRule(recipe.base, recipe.lengths, threshold)
    run = Run(
        name, recipe.world(feature_count(space)), space, rule, data.topics, data.figures, sampling_steps(recipe), tuple(recipe.stages)
    )
    session = Session(output, processes, recipe.minutes, progress if processes.leads else None, ends, precision)
    if not processes.leads:
        processes.wait()
        return _Training(data, recipe, run, session, initial).run()
    with claimed(output):
        begin_run(output, run)
        _keep_examples(output, data.recordings, recipe)
        processes.wait()
        return _Training(data, recipe, run, session, initial).run()


def _keep_examples(output: Path, recordings: Recordings, recipe: Recipe) -> None:
    """Write what the bundle is to be tried with: of episodes that the denoiser does not see, if some are kept apart."""
    held = held_episodes(len(recordings.bounds) - 1, recipe.held)
    bounds = recordings.bounds
    if held.any():
        chosen = [np.arange(a, b) for a, b, apart in zip(bounds[:-1], bounds[1:], held, strict=True) if apart]
        rows, bounds = np.concatenate(chosen), np.cumsum([0, *map(len, chosen)])
    else:
        rows = np.arange(bounds[-1])
    write_examples(output / EXAMPLES, choose_examples(recordings.frames[rows], recordings.motion[rows], bounds, recipe.context))


def limited(recipe: Recipe, minutes: float | None) -> Recipe:
    """The recipe with its time limits scaled to a total."""
    if minutes is None:
        return recipe
    if not minutes > 0:
        raise InputError(f"Got {minutes} minutes, expected a positive number.")
    share = minutes / recipe.minutes
    scaled: dict[str, Any] = {stage: replace(limits, minutes=share * limits.minutes) for stage, limits in recipe.stages.items()}
    return replace(recipe, **scaled)


class _Training:
    """One call of :func:`train_on`, in one process."""

    def __init__(self, data: Data, recipe: Recipe, run: Run, session: Session, initial: dict[str, Tensor] | None) -> None:
        self._data, self._recipe, self._run, self._session, self._initial = data, recipe, run, session, initial

    def run(self) -> dict[str, float]:
        figures = dict(self._data.figures)
        try:
            figures |= self._stages() | {"finished": 1.0}
        except LegOver:
            figures["finished"] = 0.0
        finally:
            self._session.close()
        return figures

    def _stages(self) -> dict[str, float]:
        recipe, run, processes = self._recipe, self._run, self._session.processes
        recordings = self._data.recordings
        torch.manual_seed(recipe.seed)
        model = WorldModel(run.world).to(processes.device)
        if self._initial is not None:
            _begin_with(model, self._initial)
        if recipe.compiled and processes.device.type == "cuda":
            for block in model.denoiser.transformer.blocks:
                block.compile(dynamic=True)

        figures = self._fit(AUTOENCODER, model.autoencoder, autoencoder_task(model.autoencoder, recordings, recipe, processes))
        latents = self._encode(model.autoencoder)
        if recipe.denoiser is None:
            return figures
        held = held_episodes(len(recordings.bounds) - 1, recipe.held)
        make = partial(ChunkSampler, recordings, latents, run.space, run.rule, recipe.context, shuffled=recipe.shuffled)
        sampler = make(recipe.denoiser.frames, run.world.lookahead, kept=~held)
        figures |= {f"chunk.share.{length}": share for length, share in sampler.shares.items()}
        own = OwnContexts(max(1, 20 * recipe.own_rollouts * recipe.own_chunks))
        task = denoiser_task(sampler, own, recipe, processes)
        if held.any():
            apart = make(recipe.denoiser.frames, run.world.lookahead, kept=held)
            task = replace(task, validate=lambda averaged: {"held_loss": self._held_loss(averaged, apart)})
        figures |= self._fit(DENOISER, model.denoiser, task)
        if task.validate is not None:
            figures |= {f"{DENOISER}.{key}": value for key, value in task.validate(model.denoiser).items()}
        if recipe.distil is not None:
            distillation = Distillation(model.denoiser, recipe.distilled_steps, recipe.method)
            sampler = make(recipe.distil.frames, run.world.lookahead, kept=~held)
            figures |= self._fit(DISTIL, distillation, distil_task(sampler, own, recipe, processes))
            model.denoiser.load_state_dict(distillation.student.state_dict())
        return figures if recipe.heads is None else figures | self._heads(model, sampler, make, held)

    @torch.no_grad()
    def _held_loss(self, denoiser: nn.Module, sampler: ChunkSampler) -> float:
        """Of the episodes kept apart, on recorded contexts without noise."""
        losses = []
        for step in range(HELD_BATCHES):
            batch = sampler.batch(np.random.default_rng([self._recipe.seed, step, 4]))
            drawn = draws(batch, self._session.processes.device, step, self._recipe)
            drawn = replace(drawn, context_noise=torch.zeros_like(drawn.context_noise), context_level=torch.zeros_like(drawn.context_level))
            with self._session.autocast():
                losses.append(float(denoiser(batch, drawn, "routed")[1]["loss"]))
        return float(np.mean(losses))

    def _heads(
        self, model: WorldModel, sampler: ChunkSampler, make: Callable[..., ChunkSampler], held: NDArray[np.bool_]
    ) -> dict[str, float]:
        recipe = self._recipe
        assert recipe.heads is not None, "the stage is not left out"
        heads = Heads(model.length_predictor, model.error_estimator)
        apart = make(recipe.heads.frames, self._run.world.lookahead, kept=held) if held.any() else sampler
        rolled = self._roll_out(model, sampler, apart)
        figures = self._fit(HEADS, heads, heads_task(heads, rolled["training"], sampler, recipe))
        calibration, quality = heads.calibrate(rolled["held"])
        if self._session.processes.leads:
            save_run(self._session.output, replace(self._run, confidence=calibration))
        return figures | {f"heads.{key}": value for key, value in quality.items()}

    def _fit(self, name: str, module: nn.Module, task: Task) -> dict[str, float]:
        return self._session.fit(name, module, self._recipe.stages[name], task)

    def _encode(self, autoencoder: Autoencoder) -> Tensor:
        """Latents of all frames by the finished autoencoder; they are kept for the time the training goes on."""
        path = self._session.output / LATENTS
        kept = load_checkpoint(path)
        if kept is None:
            kept = {"latents": encode_all(autoencoder, self._data.recordings)}
            if self._session.processes.leads:
                save_checkpoint(path, kept)
        self._session.processes.wait()
        latents: Tensor = kept["latents"].to(self._session.processes.device)
        return latents

    def _roll_out(self, model: WorldModel, sampler: ChunkSampler, apart: ChunkSampler) -> dict[str, Any]:
        """The rollouts that the heads learn from and those they are calibrated on; kept too."""
        path = self._session.output / ROLLOUTS
        kept = load_checkpoint(path)
        if kept is None:
            steps = sampling_steps(self._recipe)
            recipe, frames = self._recipe, self._data.recordings.frames
            kept = {}
            with self._session.autocast():
                for name, source, count in (("training", sampler, recipe.rollouts), ("held", apart, max(4, recipe.rollouts // 2))):
                    random = np.random.default_rng([recipe.seed, len(kept)])
                    kept[name] = collect_rollouts(model, source, frames, random, count, recipe.rollout_frames, steps)
            if self._session.processes.leads:
                save_checkpoint(path, kept)
        self._session.processes.wait()
        result: dict[str, Any] = move(kept, self._session.processes.device)
        return result


def held_episodes(count: int, share: float) -> NDArray[np.bool_]:
    """bool [count], episodes kept apart for calibration, evenly spread; none where there are few."""
    held = np.zeros(count, bool)
    number = max(1, round(share * count)) if share > 0 and count >= FEWEST_TO_HOLD else 0
    held[((np.arange(number) + 0.5) * count / max(number, 1)).astype(int)] = True
    return held


def sampling_steps(recipe: Recipe) -> int:
    """Network evaluations per chunk of the finished model."""
    return recipe.sampler_steps if recipe.distil is None else recipe.distilled_steps


@torch.no_grad()
def encode_all(autoencoder: Autoencoder, recordings: Recordings, batch: int = 256) -> Tensor:
    """Latents float16 [M, C, h, w] of all frames, in main memory."""
    device = autoencoder.latent_mean.device
    frames = torch.from_numpy(recordings.frames)
    return torch.cat([autoencoder.encode(part.to(device)).half().cpu() for part in frames.split(batch)])


def _begin_with(model: WorldModel, initial: dict[str, Tensor]) -> None:
    """Take over the weights of a bundle. What it does not have (an older bundle's router) stays as it is.

    A bundle of another image size serves as well: all layers but those that know places work on pictures of any size, and what is known
    of places is stretched.
    """
    own = model.state_dict()
    fitting = {name: stretched(name, weight, own[name]) for name, weight in initial.items() if name in own}
    strange = {name for name, weight in fitting.items() if own[name].shape != weight.shape}
    needed = {name for name in own if name.startswith(("autoencoder.", "denoiser.transformer."))} - set(initial)
    if strange or needed:
        names = ", ".join(sorted(strange | needed)[:4])
        raise InputError(
            f"Got weights that do not fit the recipe's model ({names} ...), expected a bundle of the same sizes, but for the image's; "
            "choose its recipe."
        )
    model.load_state_dict(fitting, strict=False)


def stretched(name: str, weight: Tensor, like: Tensor) -> Tensor:
    """A weight of a model of another image size; what belongs to places is interpolated to the size of ``like``, if it can be."""
    if weight.shape == like.shape or name not in PLACES:
        return weight
    if weight.ndim == 4:  # [1, C, h, w]
        return F.interpolate(weight, size=like.shape[-2:], mode="bilinear")
    zoom = (len(like) / len(weight)) ** 0.5  # [P, D] of square pictures, row by row
    side = math.isqrt(len(weight))
    if side**2 != len(weight):
        return weight
    grid = F.interpolate(weight.T.reshape(1, -1, side, side), scale_factor=zoom, mode="bilinear")
    return grid.flatten(2)[0].T
