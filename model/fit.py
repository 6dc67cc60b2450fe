# SPDX-License-Identifier: Apache-2.0
"""One stage of a training: from a task and limits to averaged weights, in one process or many, interrupted or not."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from longscape_ros.model.moe import ExpertFeedForward
from longscape_ros.model.processes import Processes
from longscape_ros.model.recipes import Stage
from longscape_ros.model.run import LOG, TENSORBOARD, WEIGHTS, load_checkpoint, save_checkpoint
from longscape_ros.model.weights import read_weights, store_weights

Progress = Callable[[float, float, str], None]
"""(done, total, what) of a long job."""

Loss = Callable[[nn.Module, int, float], tuple[Tensor, dict[str, Tensor]]]
"""(module, step, progress 0 to 1) -> loss of a fresh batch, and figures to log."""

Precision = Literal["auto", "float32"]
"""Of matrix products: bfloat16 where the device has it, or single precision everywhere."""

Validate = Callable[[nn.Module], dict[str, float]]
"""Figures of the averaged module on what it does not learn from."""

Finish = Callable[[nn.Module], None]
"""What is done once, at a stage's end, with the averaged module."""

LOG_EVERY = 20
VALIDATIONS = 10
"""Per stage."""

SAVE_EVERY_S = 60.0
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
        sharing: See :class:`Recipe`.
        own: What else belongs to the stage's state.
        validate: See :data:`Validate`; done :data:`VALIDATIONS` times.
    """

    loss: Loss
    finish: Finish | None = None
    upcycle_at: float | None = None
    sharing: float | None = None
    own: State | None = None
    validate: Validate | None = None


class LegOver(Exception):  # noqa: N818 - it is no error
    """The time of this call is over; everything is stored."""


class Session:
    """Who trains, where to, how long, and who is told.

    Args:
        output: The run's folder.
        processes: Who computes.
        total: Minutes of all stages together.
        progress: Told how far the training is.
        ends: Monotonic time at which this call ends, finished or not; None: when it is finished.
        precision: See :data:`Precision`.
    """

    def __init__(
        self, output: Path, processes: Processes, total: float, progress: Progress | None, ends: float | None, precision: Precision
    ) -> None:
        self.output, self.processes = output, processes
        self._total, self._progress, self._ends, self._precision = total, progress, ends, precision
        self._before = 0.0  # minutes of the stages before the current one
        self._writer: Any = None

    def fit(self, name: str, module: nn.Module, stage: Stage, task: Task) -> dict[str, float]:
        """See :func:`fit`."""
        figures = fit(name, module, stage, task, self)
        self._before += stage.minutes
        return figures

    def close(self) -> None:
        """Ends the curves' file."""
        if self._writer is not None:
            self._writer.close()

    def autocast(self) -> Any:
        """The precision of matrix products, as a context."""
        kind = self.processes.device.type
        is_faster = kind != "cpu" or has_bfloat16()
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=is_faster and self._precision == "auto")

    def done(self, stage: Stage, step: float, seconds: float) -> float:
        """Progress of a stage, the same in all processes."""
        return self.processes.agree(max(step / stage.steps, seconds / 60 / stage.minutes))

    def over(self) -> bool:
        """Whether this call's time is over, in all processes at once."""
        return self._ends is not None and self.processes.agree(float(time.monotonic() > self._ends)) > 0

    def report(self, stage: str, step: int, minutes: float, done: float, figures: dict[str, float]) -> None:
        """Figures of a step, for the log, the curves and the progress bar."""
        if not self.processes.leads:
            return
        with (self.output / LOG).open("a") as log:
            log.write(json.dumps({"stage": stage, "step": step, "minutes": minutes, "progress": done, **figures}) + "\n")
        if self._writer is None:
            self._writer = _tensorboard(self.output / TENSORBOARD)
        for key, value in figures.items():
            self._writer.add_scalar(f"{stage}/{key}", value, step)
        if self._progress is not None:
            text = " ".join(f"{key} {value:.3f}" for key, value in figures.items())
            self._progress(self._before + minutes, self._total, f"{stage} {text}")


def fit(name: str, module: nn.Module, stage: Stage, task: Task, session: Session) -> dict[str, float]:
    """Train one module until the stage's limits; ends with the averaged weights in it.

    Args:
        name: Of the stage and its files.
        module: What is optimised.
        stage: Limits and rates.
        task: What it learns.
        session: Who computes, where to, and how long.

    Returns:
        The figures of the last steps, averaged, under the stage's name.

    Raises:
        LegOver: the time of this call is over.
    """
    path, processes = session.output / f"{name}.pt", session.processes
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=stage.rate, betas=(0.9, 0.95), weight_decay=0.01)
    averaged = AveragedModel(module, multi_avg_fn=_moving_average(stage.average), use_buffers=True)
    state: dict[str, Any] = {"step": 0, "seconds": 0.0, "upcycled": False, "finished": False, "warm_from": 0}
    recent: list[dict[str, Tensor]] = []
    checkpoint = load_checkpoint(path)
    carried = None if checkpoint is not None else read_weights(session.output / WEIGHTS, name)
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
        store_weights(session.output / WEIGHTS, name, mean, {**state, "figures": _means(recent)})

    engine = processes.wrap(module)
    saved = begun = time.monotonic()
    before = state["seconds"]
    done = session.done(stage, state["step"], state["seconds"])
    module.train()
    while not state["finished"]:
        earlier, done = done, session.done(stage, state["step"], state["seconds"])
        if task.validate is not None and int(VALIDATIONS * done) > int(VALIDATIONS * earlier):
            session.report(name, state["step"], state["seconds"] / 60, done, task.validate(averaged.module.eval()))
        if done >= 1:
            if task.finish is not None:
                task.finish(averaged.module)
            state["finished"] = True
            break
        if session.over():
            save()
            raise LegOver
        if task.upcycle_at is not None and not state["upcycled"] and done >= task.upcycle_at:
            for part in (*_experts(module), *_experts(averaged.module)):
                part.upcycle()
            state["upcycled"] = True
        for group in optimizer.param_groups:
            group["lr"] = stage.rate * _rate(stage, state["step"] - state["warm_from"], done)
        with session.autocast():
            loss, figures = task.loss(engine, state["step"], done)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if task.sharing is not None:
            for part in _experts(module):
                part.share_gradients(task.sharing)
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        averaged.update_parameters(module)
        state["step"] += 1
        state["seconds"] = before + time.monotonic() - begun
        recent = [*recent[1 - LOG_EVERY :], figures]
        if state["step"] % LOG_EVERY == 0:
            session.report(name, state["step"], state["seconds"] / 60, done, processes.mean(_means(recent)))
        if time.monotonic() - saved > SAVE_EVERY_S:
            save()
            saved = time.monotonic()
    save()
    processes.wait()
    module.load_state_dict(averaged.module.state_dict())
    module.eval()
    return {f"{name}.{key}": value for key, value in {**processes.mean(_means(recent)), "steps": float(state["step"])}.items()}


def has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 by itself: training is then half as fast again; elsewhere it would be slower."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


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
