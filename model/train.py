# SPDX-License-Identifier: Apache-2.0
"""Training on bags, stage by stage.

1. calibrates the action and the chunk rule on the bags;
2. ``autoencoder``; then all frames are encoded once;
3. ``denoiser``: one expert for all chunks, then experts by length, then as the router says; in its second half a share of the
   chunks goes on from what the model itself generated;
4. ``distil``: fewer sampling steps;
5. ``heads``: the length predictor and the error estimator, on the model's own rollouts; calibrates the confidence.

Every batch depends only on the recipe's seed and the step's number, so a run that was interrupted goes on as if it had not been,
and several processes (torchrun) compute what one would. Weights and the optimizer's state are in single precision; matrix products
are in bfloat16 where the device has it.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from longscape_ros.actions import calibrate_space, feature_count
from longscape_ros.bags.mapping import load_mapping
from longscape_ros.bags.reader import find_bags, read_episode
from longscape_ros.contract import ActionSpace, ChunkRule, TopicMapping
from longscape_ros.errors import InputError, LongscapeError
from longscape_ros.model import flow
from longscape_ros.model.autoencoder import Autoencoder, FrameBatch
from longscape_ros.model.data import ChunkSampler, Recordings
from longscape_ros.model.distil import Distillation
from longscape_ros.model.heads import CarriedEstimates, Heads, collect_rollouts
from longscape_ros.model.moe import ExpertFeedForward
from longscape_ros.model.processes import Processes, choose_device, joined, move
from longscape_ros.model.recipes import RECIPES, Recipe, Stage
from longscape_ros.model.rollouts import OwnContexts
from longscape_ros.model.run import (
    AUTOENCODER,
    DENOISER,
    DISTIL,
    HEADS,
    LATENTS,
    LOG,
    ROLLOUTS,
    TENSORBOARD,
    WEIGHTS,
    Run,
    begin_run,
    claimed,
    load_checkpoint,
    save_checkpoint,
    save_run,
)
from longscape_ros.model.weights import read_weights, store_weights
from longscape_ros.model.world import ChunkBatch, Denoiser, Draws, WorldModel
from longscape_ros.segmentation import calibrate_threshold
from longscape_ros.timeline import episode_grid

Progress = Callable[[float, float, str], None]
"""(done, total, what) of a long job."""

Loss = Callable[[nn.Module, int, float], tuple[Tensor, dict[str, Tensor]]]
"""(module, step, progress 0 to 1) -> loss of a fresh batch, and figures to log."""

Precision = Literal["auto", "float32"]
"""Of matrix products: bfloat16 where the device has it, or single precision everywhere."""

Finish = Callable[[nn.Module], None]
"""What is done once, at a stage's end, with the averaged module."""

LOG_EVERY = 20
SAVE_EVERY_S = 60.0
HELD_BATCHES = 40
"""Batches of the held-out loss."""

FEWEST_TO_HOLD = 8
"""Episodes below which none is kept apart for the confidence's calibration: it is calibrated on training episodes then."""

_SEED_STRIDE = 1_000_003
_log = logging.getLogger(__name__)


class State(Protocol):
    """What goes into a checkpoint beside weights and optimizer."""

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from a checkpoint."""


@dataclass(frozen=True)
class Task:
    """What a stage learns.

    Args:
        loss: Makes the losses.
        finish: See :data:`Finish`.
        upcycle_at: Progress at which the first expert is copied to the others.
        own: What else belongs to the stage's state.
    """

    loss: Loss
    finish: Finish | None = None
    upcycle_at: float | None = None
    own: State | None = None


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
    if not processes.leads:
        processes.wait()
        return _Training(data, recipe, run, output, processes, None, ends, initial, precision).run()
    with claimed(output):
        begin_run(output, run)
        processes.wait()
        return _Training(data, recipe, run, output, processes, progress, ends, initial, precision).run()


def limited(recipe: Recipe, minutes: float | None) -> Recipe:
    """The recipe with its time limits scaled to a total."""
    if minutes is None:
        return recipe
    if not minutes > 0:
        raise InputError(f"Got {minutes} minutes, expected a positive number.")
    share = minutes / recipe.minutes
    scaled: dict[str, Any] = {stage: replace(limits, minutes=share * limits.minutes) for stage, limits in recipe.stages.items()}
    return replace(recipe, **scaled)


class _LegOver(Exception):  # noqa: N818 - it is no error
    """The time of this call is over; everything is stored."""


class _Training:
    """One call of :func:`train_on`, in one process."""

    def __init__(
        self,
        data: Data,
        recipe: Recipe,
        run: Run,
        output: Path,
        processes: Processes,
        progress: Progress | None,
        ends: float | None,
        initial: dict[str, Tensor] | None,
        precision: Precision,
    ) -> None:
        self._data, self._recipe, self._run, self._output = data, recipe, run, output
        self._processes, self._progress, self._ends, self._initial = processes, progress, ends, initial
        self._precision = precision
        self._before = 0.0  # minutes of the stages before the current one
        self._writer: Any = None

    def run(self) -> dict[str, float]:
        figures = dict(self._data.figures)
        try:
            figures |= self._stages() | {"finished": 1.0}
        except _LegOver:
            figures["finished"] = 0.0
        finally:
            if self._writer is not None:
                self._writer.close()
        return figures

    def _stages(self) -> dict[str, float]:
        recipe, run, device = self._recipe, self._run, self._processes.device
        recordings = self._data.recordings
        torch.manual_seed(recipe.seed)
        model = WorldModel(run.world).to(device)
        if self._initial is not None:
            _begin_with(model, self._initial)
        if recipe.compiled and device.type == "cuda":
            for block in model.denoiser.transformer.blocks:
                block.compile(dynamic=True)

        figures = self._fit(AUTOENCODER, model.autoencoder, _autoencoder_task(model.autoencoder, recordings, recipe, self._processes))
        latents = self._encode(model.autoencoder)
        if recipe.denoiser is None:
            return figures
        held = held_episodes(len(recordings.bounds) - 1, recipe.held)
        make = partial(ChunkSampler, recordings, latents, run.space, run.rule, recipe.context, shuffled=recipe.shuffled)
        sampler = make(recipe.denoiser.frames, run.world.lookahead, kept=~held)
        figures |= {f"chunk.share.{length}": share for length, share in sampler.shares.items()}
        own = OwnContexts(max(1, 20 * recipe.own_rollouts * recipe.own_chunks))
        figures |= self._fit(DENOISER, model.denoiser, _denoiser_task(sampler, own, recipe, self._processes))
        if held.any():
            figures["denoiser.held_loss"] = self._held_loss(model.denoiser, make(recipe.denoiser.frames, run.world.lookahead, kept=held))
        if recipe.distil is not None:
            distillation = Distillation(model.denoiser, recipe.distilled_steps, recipe.method)
            sampler = make(recipe.distil.frames, run.world.lookahead, kept=~held)
            figures |= self._fit(DISTIL, distillation, _distil_task(sampler, own, recipe, self._processes))
            model.denoiser.load_state_dict(distillation.student.state_dict())
        return figures if recipe.heads is None else figures | self._heads(model, sampler, make, held)

    @torch.no_grad()
    def _held_loss(self, denoiser: Denoiser, sampler: ChunkSampler) -> float:
        """Of the episodes kept apart, on recorded contexts without noise."""
        losses = []
        for step in range(HELD_BATCHES):
            batch = sampler.batch(np.random.default_rng([self._recipe.seed, step, 4]))
            drawn = draws(batch, self._processes.device, step, self._recipe)
            drawn = replace(drawn, context_noise=torch.zeros_like(drawn.context_noise), context_level=torch.zeros_like(drawn.context_level))
            with self.autocast():
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
        figures = self._fit(HEADS, heads, _heads_task(heads, rolled["training"], recipe))
        calibration, quality = heads.calibrate(rolled["held"])
        if self._processes.leads:
            save_run(self._output, replace(self._run, confidence=calibration))
        return figures | {f"heads.{key}": value for key, value in quality.items()}

    def _fit(self, name: str, module: nn.Module, task: Task) -> dict[str, float]:
        stage = self._recipe.stages[name]
        figures = _fit(name, module, stage, task, self)
        self._before += stage.minutes
        return figures

    def _encode(self, autoencoder: Autoencoder) -> Tensor:
        """Latents of all frames by the finished autoencoder; they are kept for the time the training goes on."""
        path = self._output / LATENTS
        kept = load_checkpoint(path)
        if kept is None:
            kept = {"latents": encode_all(autoencoder, self._data.recordings)}
            if self._processes.leads:
                save_checkpoint(path, kept)
        self._processes.wait()
        latents: Tensor = kept["latents"].to(self._processes.device)
        return latents

    def _roll_out(self, model: WorldModel, sampler: ChunkSampler, apart: ChunkSampler) -> dict[str, Any]:
        """The rollouts that the heads learn from and those they are calibrated on; kept too."""
        path = self._output / ROLLOUTS
        kept = load_checkpoint(path)
        if kept is None:
            steps = sampling_steps(self._recipe)
            recipe, frames = self._recipe, self._data.recordings.frames
            kept = {}
            with self.autocast():
                for name, source, count in (("training", sampler, recipe.rollouts), ("held", apart, max(4, recipe.rollouts // 2))):
                    random = np.random.default_rng([recipe.seed, len(kept)])
                    kept[name] = collect_rollouts(model, source, frames, random, count, recipe.rollout_frames, steps)
            if self._processes.leads:
                save_checkpoint(path, kept)
        self._processes.wait()
        result: dict[str, Any] = move(kept, self._processes.device)
        return result

    # ---- what _fit needs ----

    def autocast(self) -> Any:
        kind = self._processes.device.type
        is_faster = kind != "cpu" or has_bfloat16()
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=is_faster and self._precision == "auto")

    def done(self, stage: Stage, step: float, seconds: float) -> float:
        """Progress of a stage, the same in all processes."""
        return self._processes.agree(max(step / stage.steps, seconds / 60 / stage.minutes))

    def over(self) -> bool:
        return self._ends is not None and self._processes.agree(float(time.monotonic() > self._ends)) > 0

    def report(self, stage: str, step: int, minutes: float, done: float, figures: dict[str, float]) -> None:
        if not self._processes.leads:
            return
        with (self._output / LOG).open("a") as log:
            log.write(json.dumps({"stage": stage, "step": step, "minutes": minutes, "progress": done, **figures}) + "\n")
        if self._writer is None:
            self._writer = _tensorboard(self._output / TENSORBOARD)
        for key, value in figures.items():
            self._writer.add_scalar(f"{stage}/{key}", value, step)
        if self._progress is not None:
            text = " ".join(f"{key} {value:.3f}" for key, value in figures.items())
            self._progress(self._before + minutes, self._recipe.minutes, f"{stage} {text}")

    @property
    def processes(self) -> Processes:
        return self._processes

    @property
    def output(self) -> Path:
        return self._output


def _fit(name: str, module: nn.Module, stage: Stage, task: Task, training: _Training) -> dict[str, float]:
    """Train one module until the stage's limits; ends with the averaged weights in it.

    Args:
        name: Of the stage and its files.
        module: What is optimised.
        stage: Limits and rates.
        task: What it learns.
        training: Who computes, where to, and how long.

    Returns:
        The figures of the last steps, averaged, under the stage's name.
    """
    path, processes = training.output / f"{name}.pt", training.processes
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=stage.rate, betas=(0.9, 0.95), weight_decay=0.01)
    averaged = AveragedModel(module, multi_avg_fn=_moving_average(stage.average), use_buffers=True)
    state: dict[str, Any] = {"step": 0, "seconds": 0.0, "upcycled": False, "finished": False, "warm_from": 0}
    recent: list[dict[str, Tensor]] = []
    checkpoint = load_checkpoint(path)
    carried = None if checkpoint is not None else read_weights(training.output / WEIGHTS, name)
    if checkpoint is not None:
        module.load_state_dict(checkpoint["module"])
        averaged.module.load_state_dict(checkpoint["averaged"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        state = {key: checkpoint[key] for key in state}
        recent = list(checkpoint["recent"])
        if task.own is not None:
            task.own.load_state_dict(checkpoint["own"], processes.device)
    elif carried is not None:
        weights, kept = carried
        module.load_state_dict(weights)
        averaged.module.load_state_dict(weights)
        state = {**{key: kept[key] for key in state}, "warm_from": kept["step"]}
        recent = [{key: torch.tensor(value) for key, value in kept["figures"].items()}]
        _log.info("Goes on with %s at step %d, with a fresh optimizer.", name, kept["step"])
    averaged.n_averaged.fill_(state["step"])

    def save() -> None:
        if not processes.leads:
            return
        mean = averaged.module.state_dict()
        whole = {"module": module.state_dict(), "averaged": mean, "optimizer": optimizer.state_dict(), **state, "recent": recent}
        save_checkpoint(path, whole if task.own is None else {**whole, "own": task.own.state_dict()})
        store_weights(training.output / WEIGHTS, name, mean, {**state, "figures": _means(recent)})

    engine = processes.wrap(module)
    saved = begun = time.monotonic()
    before = state["seconds"]
    module.train()
    while not state["finished"]:
        done = training.done(stage, state["step"], state["seconds"])
        if done >= 1:
            if task.finish is not None:
                task.finish(averaged.module)
            state["finished"] = True
            break
        if training.over():
            save()
            raise _LegOver
        if task.upcycle_at is not None and not state["upcycled"] and done >= task.upcycle_at:
            for part in (*_experts(module), *_experts(averaged.module)):
                part.upcycle()
            state["upcycled"] = True
        for group in optimizer.param_groups:
            group["lr"] = stage.rate * _rate(stage, state["step"] - state["warm_from"], done)
        with training.autocast():
            loss, figures = task.loss(engine, state["step"], done)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        averaged.update_parameters(module)
        state["step"] += 1
        state["seconds"] = before + time.monotonic() - begun
        recent = [*recent[1 - LOG_EVERY :], figures]
        if state["step"] % LOG_EVERY == 0:
            training.report(name, state["step"], state["seconds"] / 60, done, processes.mean(_means(recent)))
        if time.monotonic() - saved > SAVE_EVERY_S:
            save()
            saved = time.monotonic()
    save()
    processes.wait()
    module.load_state_dict(averaged.module.state_dict())
    module.eval()
    return {f"{name}.{key}": value for key, value in {**processes.mean(_means(recent)), "steps": float(state["step"])}.items()}


# ---- the stages' tasks ----


def _autoencoder_task(autoencoder: Autoencoder, recordings: Recordings, recipe: Recipe, processes: Processes) -> Task:
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


def _denoiser_task(sampler: ChunkSampler, own: OwnContexts, recipe: Recipe, processes: Processes) -> Task:
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

    return Task(loss, upcycle_at=recipe.dense or None, own=own)


def _distil_task(sampler: ChunkSampler, own: OwnContexts, recipe: Recipe, processes: Processes) -> Task:
    def loss(module: nn.Module, step: int, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        batch = sampler.batch(np.random.default_rng([recipe.seed, step, 2]), own if len(own) else None, recipe.own, processes.count)
        drawn = draws(batch, processes.device, step, recipe, noise_share=0.0)
        result: tuple[Tensor, dict[str, Tensor]] = module(processes.part(batch), processes.part(drawn))
        return result

    return Task(loss)


def _heads_task(heads: Heads, rolled: dict[str, Any], recipe: Recipe) -> Task:
    """The same in all processes: it is small."""
    carried = CarriedEstimates(rolled)

    def loss(module: nn.Module, step: int, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        if step % heads.CARRY_EVERY == 0 or not carried.is_known:
            heads.carry(rolled)
            carried.is_known = True
        part = heads.draw(rolled, np.random.default_rng([recipe.seed, step, 3]))
        result: tuple[Tensor, dict[str, Tensor]] = module(part)
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
    gumbel = -torch.empty(count, recipe.experts, device=device).exponential_(generator=generator).log()
    noise, context_noise = normal(*batch.target.shape), normal(*batch.context.shape)
    return Draws(time_, noise, level.reshape(-1, 1, 1, 1, 1) * context_noise, level, gumbel)


# ---- parts ----


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


def has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 by itself: training is then half as fast again; elsewhere it would be slower."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _begin_with(model: WorldModel, initial: dict[str, Tensor]) -> None:
    """Take over the weights of a bundle. What it does not have (an older bundle's router) stays as it is."""
    own = model.state_dict()
    strange = {name for name in set(initial) & set(own) if own[name].shape != initial[name].shape}
    needed = {name for name in own if name.startswith(("autoencoder.", "denoiser.transformer."))} - set(initial)
    if strange or needed:
        names = ", ".join(sorted(strange | needed)[:4])
        raise InputError(
            f"Got weights that do not fit the recipe's model ({names} ...), expected a bundle of the same sizes; choose its recipe."
        )
    model.load_state_dict({name: weight for name, weight in initial.items() if name in own}, strict=False)


def _moving_average(decay: float) -> Callable[[Any, Any, Any], None]:
    """Exponential, over a tenth of the steps at first: short trainings must not keep what the weights were at the beginning."""

    def update(averaged: Any, current: Any, count: Any) -> None:
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + int(count)) / (10 + int(count))))

    return update


def _experts(module: nn.Module) -> Iterator[ExpertFeedForward]:
    return (part for part in module.modules() if isinstance(part, ExpertFeedForward))


def _rate(stage: Stage, step: int, done: float) -> float:
    """Warm-up, plateau, then a fall along a cosine."""
    rise = min(1.0, (step + 1) / stage.warm_up)
    fall = min(1.0, (1 - done) / stage.decay) if stage.decay else 1.0
    return rise * (0.5 - 0.5 * math.cos(math.pi * fall))


def _means(recent: list[dict[str, Tensor]]) -> dict[str, float]:
    """Of the figures that the newest step has."""
    keys = recent[-1] if recent else ()
    return {key: float(torch.stack([f[key].float().cpu() for f in recent if key in f]).mean()) for key in keys}


def _tensorboard(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))
