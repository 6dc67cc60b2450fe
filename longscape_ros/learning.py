# SPDX-License-Identifier: Apache-2.0
"""Learning curves of trainings, read from the logs in their folders, and where the denoiser's is heading. Needs no torch.

A log has a line every few steps: ``{"stage", "step", "minutes", "progress", figure: value, ...}``. N is the number of steps of a
stage at which anything was logged.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longscape_ros.errors import InputError

LOG = "log.jsonl"
AUTOENCODER, DENOISER = "autoencoder", "denoiser"
PSNR, LOSS, HELD_LOSS = "psnr", "loss", "held_loss"
"""Figures of the autoencoder, of the denoiser, and of the denoiser's averaged weights on the episodes kept apart."""

DECAY = 0.3
"""Last share of a stage in which its learning rate falls, if the recipe is not among :data:`DECAYS`."""

DECAYS: Mapping[str, float] = {"cpu-tune": 0.6}
"""Recipe -> that share of its denoiser's stage. Recipes themselves cannot be asked without torch."""

MIN_POINTS = 3
"""Least number of points of a fit: with two there would be no telling how well it fits."""

BINS_PER_DOUBLING = 8
_KEYS = {"stage", "step", "minutes", "progress"}
_log = logging.getLogger(__name__)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class StageCurve:
    """What was logged of one stage.

    Args:
        steps: float64 [N], ascending.
        minutes: Of this stage, float64 [N]; NaN: not logged.
        progress: Of this stage from 0 to 1, float64 [N]; NaN: not logged.
        values: Figure -> float64 [N]; NaN where it was not logged.
    """

    steps: Array
    minutes: Array
    progress: Array
    values: Mapping[str, Array]

    def __post_init__(self) -> None:
        shapes = {part.shape for part in (self.steps, self.minutes, self.progress, *self.values.values())}
        if shapes != {(len(self.steps),)} or not len(self.steps) or self.steps[0] < 1 or np.any(np.diff(self.steps) <= 0):
            raise ValueError(f"Got steps {self.steps} and arrays of {sorted(shapes)}, expected ascending steps from 1, and one shape.")

    def points(self, figure: str) -> tuple[Array, Array]:
        """Steps and values, float64 [K] each, of a figure where it was logged; empty if it never was."""
        values = self.values.get(figure, np.full_like(self.steps, np.nan))
        known = np.isfinite(values)
        return self.steps[known], values[known]

    def last(self, figure: str) -> float | None:
        """The value that was logged last."""
        values = self.points(figure)[1]
        return float(values[-1]) if len(values) else None

    def plateau_end(self, decay: float) -> float | None:
        """The first logged step of the last share ``decay`` of the stage; None: the stage has not come so far."""
        falling = self.steps[self.progress >= 1 - decay]
        return float(falling[0]) if len(falling) else None


@dataclass(frozen=True)
class Trend:
    """A power law through a part of a curve: a straight line of log2(value) over log2(step).

    Args:
        figure: What was fitted.
        slope: Of the line.
        level: log2 of the line's value at the last step.
        error: Standard error of the slope, if the points' deviations from the line are independent.
        points: How many were fitted.
        first: Step of the first of them.
        last: Step of the last of them.
    """

    figure: str
    slope: float
    level: float
    error: float
    points: int
    first: float
    last: float

    @property
    def fall_per_doubling(self) -> float:
        """Share of the value that is lost when the steps are doubled; negative if it rises."""
        return float(1 - 2**self.slope)

    @property
    def fall_error(self) -> float:
        """Standard error of that."""
        return float(2**self.slope * math.log(2) * self.error)

    def at(self, step: float) -> float:
        """The line's value there."""
        return float(2 ** (self.level + self.slope * math.log2(step / self.last)))


@dataclass(frozen=True)
class Learning:
    """One training.

    Args:
        name: Of the run.
        stages: Name -> curve, in the order in which they began.
        decay: Last share of the denoiser's stage in which the learning rate falls.
    """

    name: str
    stages: Mapping[str, StageCurve]
    decay: float = DECAY

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise InputError(f"Got a decay of {self.decay}, expected the share of the stage in which the rate falls, from 0 to below 1.")

    @property
    def trend(self) -> Trend | None:
        """Of the denoiser's loss on episodes kept apart; if that has too few points, of its training loss; None: so has that."""
        curve = self.stages.get(DENOISER)
        if curve is None:
            return None
        return fit_trend(curve, HELD_LOSS, self.decay) or fit_trend(curve, LOSS, self.decay)

    def figures(self) -> dict[str, float | str]:
        """The figures that docs/commands.md lists, under the run's name; what is not known is absent."""
        found: dict[str, float | str] = {}
        for stage, curve in self.stages.items():
            found[f"{self.name}.{stage}.steps"] = float(curve.steps[-1])
            known = curve.minutes[np.isfinite(curve.minutes)]
            if len(known):
                found[f"{self.name}.{stage}.minutes"] = float(known[-1])
        for stage, figure in ((AUTOENCODER, PSNR), (DENOISER, LOSS), (DENOISER, HELD_LOSS)):
            value = self.stages[stage].last(figure) if stage in self.stages else None
            if value is not None:
                found[f"{self.name}.{stage}.{figure}"] = value
        trend = self.trend
        if trend is not None:
            prefix = f"{self.name}.{DENOISER}.fall_per_doubling"
            found[prefix] = trend.fall_per_doubling
            found[f"{prefix}.error"] = trend.fall_error
            found[f"{prefix}.points"] = float(trend.points)
            found[f"{prefix}.from_step"] = trend.first
            found[f"{prefix}.to_step"] = trend.last
            found[f"meta.{self.name}.fitted"] = trend.figure
        return found


def read_learning(folders: Sequence[Path], decay: float | None = None) -> list[Learning]:
    """The curves of some runs, each named by the end of its path that tells it from the others.

    Args:
        folders: Of the runs; one that is named twice is read once.
        decay: Last share of the denoiser's stage in which the rate falls; None: as the recipe that the run names has it.

    Raises:
        InputError: a folder has no log, or none with a line of figures; ``decay`` is no share.
    """
    runs = list(dict.fromkeys(folder.resolve() for folder in folders))
    shares = [_decay_of(run) if decay is None else decay for run in runs]
    return [Learning(name, read_log(run / LOG), share) for run, name, share in zip(runs, _names(runs), shares, strict=True)]


def read_log(path: Path) -> dict[str, StageCurve]:
    """Stage -> its curve, of one run.

    Where steps go back, an interrupted training went on from an earlier checkpoint: what was logged beyond it belongs to weights that
    are lost, and is dropped. Lines that cannot be read, as one cut off by a crash, are left out with a warning.

    Raises:
        InputError: there is no such file, or no line of figures in it.
    """
    if not path.is_file():
        raise InputError(f"Got {path.parent}, which has no {LOG}; expected the folder that longscape train writes to.")
    stages: dict[str, dict[int, dict[str, float]]] = {}
    broken: list[int] = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        entry = _entry(line)
        if entry is None:
            broken.append(number)
            continue
        stage, step, figures = entry
        kept = stages.setdefault(stage, {})
        if kept and step < next(reversed(kept)):
            stages[stage] = kept = {earlier: values for earlier, values in kept.items() if earlier < step}
        kept[step] = {**kept.get(step, {}), **figures}  # a step can have two lines, of the training and of the episodes kept apart
    if broken:
        _log.warning("Left out what cannot be read of %s: %d line(s), the first of them line %d.", path, len(broken), broken[0])
    curves = {stage: _curve(kept) for stage, kept in stages.items() if any(values.keys() - _KEYS for values in kept.values())}
    if not curves:
        raise InputError(
            f"Got {path}, which has no line of figures; expected lines with stage, step and figures: "
            "name another run, or wait until the training has logged its first 20 steps."
        )
    return curves


def smoothed(curve: StageCurve, figure: str) -> tuple[Array, Array]:
    """Means over bins of equal width in log(step), :data:`BINS_PER_DOUBLING`: steps (geometric means) and values, float64 [B] each."""
    steps, values = curve.points(figure)
    if not len(steps):
        return steps, values
    _, bins, counts = np.unique(np.floor(BINS_PER_DOUBLING * np.log2(steps)), return_inverse=True, return_counts=True)
    return np.exp2(np.bincount(bins, np.log2(steps)) / counts), np.bincount(bins, values) / counts


def fit_trend(curve: StageCurve, figure: str, decay: float = DECAY) -> Trend | None:
    """Least squares over the second half, in log(step), of the part of the curve on which the learning rate is constant.

    What is logged without a progress counts as being on that part.

    Returns:
        None: there are fewer than :data:`MIN_POINTS` there.
    """
    constant = ~(curve.progress >= 1 - decay)
    values = curve.values.get(figure, np.full_like(curve.steps, np.nan))
    usable = constant & np.isfinite(values) & (values > 0)
    if not usable.any():
        return None
    ends = curve.steps[usable][[0, -1]]
    usable &= curve.steps >= math.sqrt(ends[0] * ends[1])
    x, y = np.log2(curve.steps[usable]), np.log2(values[usable])
    if len(x) < MIN_POINTS:
        return None
    centred = x - x.mean()
    spread = float(centred @ centred)
    slope = float(centred @ y) / spread
    rest = y - y.mean() - slope * centred
    error = math.sqrt(float(rest @ rest) / (len(x) - 2) / spread)
    level = float(y.mean() + slope * centred[-1])
    return Trend(figure, slope, level, error, len(x), float(curve.steps[usable][0]), float(ends[1]))


def _entry(line: str) -> tuple[str, int, dict[str, float]] | None:
    """Stage, step and finite figures of a line; None: it cannot be read."""
    try:
        found: Any = json.loads(line)
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    stage, step = found.get("stage"), found.get("step")
    if not isinstance(stage, str) or not isinstance(step, int) or step < 1:
        return None
    numbers = {key: float(value) for key, value in found.items() if isinstance(value, (int, float)) and math.isfinite(value)}
    return stage, step, {key: value for key, value in numbers.items() if key != "step"}


def _curve(kept: Mapping[int, Mapping[str, float]]) -> StageCurve:
    def column(key: str) -> Array:
        return np.array([values.get(key, math.nan) for values in kept.values()], np.float64)

    figures = sorted({key for values in kept.values() for key in values} - _KEYS)
    return StageCurve(np.array(list(kept), np.float64), column("minutes"), column("progress"), {key: column(key) for key in figures})


def _names(runs: Sequence[Path]) -> list[str]:
    """The fewest last parts of the paths that differ."""
    depth = 1
    while len({run.parts[-depth:] for run in runs}) < len(runs):
        depth += 1
    return ["/".join(run.parts[-depth:]) for run in runs]


def _decay_of(run: Path) -> float:
    try:
        description: Any = json.loads((run / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a log alone is enough for a curve
        return DECAY
    return DECAYS.get(str(description.get("recipe")), DECAY) if isinstance(description, dict) else DECAY
