# SPDX-License-Identifier: Apache-2.0
"""A picture of learning curves over the logarithm of the steps: the autoencoder's PSNR, and the denoiser's losses with their trend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from longscape_ros.errors import InputError
from longscape_ros.evaluation.drawing import FAINT, GRID, INK, Canvas, Colour, Point
from longscape_ros.evaluation.plot import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, round_axis
from longscape_ros.evaluation.sheet import write_png
from longscape_ros.learning import AUTOENCODER, DENOISER, HELD_LOSS, LOSS, PSNR, Array, Learning, StageCurve, smoothed

COLOURS: tuple[Colour, ...] = (BLUE, ORANGE, GREEN, PURPLE, GREY, BLACK)
"""Of the runs, in their order."""

DOUBLINGS = 2
"""By so many the trend is prolonged."""

WIDTH = 1240
_PANEL, _TOP, _MARGIN, _BETWEEN = 430, 58, 24, 40
_LEFT, _HEAD, _FOOT, _ROW = 52, 30, 44, 20
_MARKS = ((1, 10), (1, 3, 10), (1, 2, 5, 10), (1, 1.5, 2, 3, 4, 5, 7, 10), (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9, 10))
"""Marks of a decade of a logarithmic axis, from few to many."""

_FEWEST = 5
"""Marks that an axis has at least, if the densest allow it."""

_AIR = 0.04
"""Share of a logarithmic axis that is left free at its ends."""

_LINE, _THIN, _DOT = 1.4, 0.5, 3.2
_KEY: tuple[tuple[str, bool, bool], ...] = (
    ("training: means of 20 steps, smoothed", False, False),
    ("episodes kept apart, averaged weights", False, True),
    (f"power law through the second half of what is before the rate falls, prolonged by {DOUBLINGS} doublings", True, False),
)
"""What a line is, whether it is dashed, and whether it has dots."""

_Points = tuple[Array, Array]
"""Steps and values."""


@dataclass(frozen=True)
class _Scale:
    """Values to shares of an axis."""

    low: float
    high: float
    marks: tuple[float, ...]
    is_logarithmic: bool = False

    def share(self, value: float) -> float:
        if self.is_logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class _Axes:
    """Steps and values to places."""

    corner: Point
    width: float
    x: _Scale
    y: _Scale

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of the area that is drawn in."""
        left, top = self.corner
        return left + _LEFT, top + _HEAD, left + self.width - 6, top + _PANEL - _FOOT

    def place(self, step: float, value: float) -> Point:
        left, top, right, bottom = self.box
        return left + (right - left) * self.x.share(step), bottom - (bottom - top) * self.y.share(value)

    def places(self, steps: Array, values: Array) -> list[Point]:
        return [self.place(step, value) for step, value in zip(steps.tolist(), values.tolist(), strict=True)]

    def line(self, canvas: Canvas, points: _Points, colour: Colour, dashed: bool = False) -> None:
        if len(points[0]):
            canvas.line(self.places(*points), colour, _LINE, dashed)

    def draw(self, canvas: Canvas) -> None:
        left, _, right, bottom = self.box
        for value in self.y.marks:
            y = self.place(self.x.low, value)[1]
            canvas.line([(left, y), (right, y)], GRID)
            canvas.text((left - 7, y + 4), f"{value:g}", 9, FAINT, "r")
        for step in self.x.marks:
            x = self.place(step, self.y.low)[0]
            canvas.line([(x, bottom), (x, bottom + 4)], FAINT)
            canvas.text((x, bottom + 17), f"{step:.0f}", 9, FAINT, "m")
        canvas.line([(left, bottom), (right, bottom)], INK)
        canvas.text(((left + right) / 2, bottom + 36), "steps", 9, FAINT, "m")


def draw_learning(runs: Sequence[Learning], path: Path) -> Path:
    """Draw two panels with a colour per run into a PNG; returns its path.

    Raises:
        InputError: there are more runs than colours.
    """
    if len(runs) > len(COLOURS):
        raise InputError(f"Got {len(runs)} runs to draw, expected at most {len(COLOURS)}; name fewer, or leave --plot out.")
    canvas = Canvas(WIDTH, _TOP + _PANEL + _ROW * (len(runs) + len(_KEY) + 1) + _MARGIN)
    canvas.text((_MARGIN, 34), "Learning curves", 15)
    width = (WIDTH - 2 * _MARGIN - _BETWEEN) / 2
    _draw_psnr(canvas, runs, (_MARGIN, _TOP), width)
    _draw_losses(canvas, runs, (_MARGIN + width + _BETWEEN, _TOP), width)
    y = float(_TOP + _PANEL + _ROW)
    for run, colour in _coloured(runs):
        canvas.line([(_MARGIN, y - 4), (_MARGIN + 26, y - 4)], colour, 3)
        canvas.text((_MARGIN + 36, y), f"{run.name}{_told(run)}", 9.5)
        y += _ROW
    for text, is_dashed, has_dots in _KEY:
        canvas.line([(_MARGIN, y - 4), (_MARGIN + 26, y - 4)], FAINT, _LINE, is_dashed)
        if has_dots:
            canvas.dot((_MARGIN + 13, y - 4), _DOT, FAINT)
        canvas.text((_MARGIN + 36, y), text, 9, FAINT)
        y += _ROW
    canvas.line([(_MARGIN + 13, y - 13), (_MARGIN + 13, y + 3)], FAINT, _THIN, dashed=True)
    canvas.text((_MARGIN + 36, y), "from here on the denoiser's learning rate falls", 9, FAINT)
    return write_png(path, canvas.picture())


def _told(run: Learning) -> str:
    trend = run.trend
    if DENOISER not in run.stages:
        return ": no denoiser in its log"
    if trend is None:
        return ": not enough of the denoiser in its log for a power law"
    what = "loss on episodes kept apart" if trend.figure == HELD_LOSS else "training loss"
    size = f"{100 * trend.fall_per_doubling:.1f} % +- {100 * trend.fall_error:.1f} %"
    return f": {what} falls by {size} per doubling of the steps ({trend.points} points, steps {trend.first:.0f} to {trend.last:.0f})"


def _draw_psnr(canvas: Canvas, runs: Sequence[Learning], corner: Point, width: float) -> None:
    canvas.text((corner[0], corner[1] + 14), "Autoencoder: PSNR of training frames (dB)", 11.5)
    known = [(smoothed(run.stages[AUTOENCODER], PSNR), colour) for run, colour in _coloured(runs) if AUTOENCODER in run.stages]
    axes = _axes(corner, width, [points for points, _ in known], is_logarithmic=False)
    if axes is None:
        _draw_nothing(canvas, corner, width)
        return
    axes.draw(canvas)
    for points, colour in known:
        axes.line(canvas, points, colour)


def _draw_losses(canvas: Canvas, runs: Sequence[Learning], corner: Point, width: float) -> None:
    canvas.text((corner[0], corner[1] + 14), "Denoiser: loss", 11.5)
    known = [_losses(run.stages[DENOISER], run, colour) for run, colour in _coloured(runs) if DENOISER in run.stages]
    axes = _axes(corner, width, [points for losses in known for points in losses.all], is_logarithmic=True)
    if axes is None:
        _draw_nothing(canvas, corner, width)
        return
    axes.draw(canvas)
    _, top, _, bottom = axes.box
    for losses in known:
        if losses.falls_from is not None:
            x = axes.place(losses.falls_from, axes.y.low)[0]
            canvas.line([(x, top), (x, bottom)], losses.colour, _THIN, dashed=True)
    for losses in known:
        axes.line(canvas, losses.training, losses.colour)
        axes.line(canvas, losses.held, losses.colour)
        for place in axes.places(*losses.held):
            canvas.dot(place, _DOT, losses.colour)
        axes.line(canvas, losses.trend, losses.colour, dashed=True)


@dataclass(frozen=True)
class _Losses:
    """What is drawn of a run's denoiser: steps and values, and the step at which its rate begins to fall."""

    colour: Colour
    training: _Points
    held: _Points
    trend: _Points
    falls_from: float | None

    @property
    def all(self) -> tuple[_Points, ...]:
        return self.training, self.held, self.trend


def _losses(curve: StageCurve, run: Learning, colour: Colour) -> _Losses:
    trend = run.trend
    ends = np.empty(0) if trend is None else np.array([trend.first, trend.last * 2**DOUBLINGS])
    line = ends, np.array([trend.at(step) for step in ends.tolist()]) if trend is not None else ends
    return _Losses(colour, _positive(smoothed(curve, LOSS)), _positive(curve.points(HELD_LOSS)), line, curve.plateau_end(run.decay))


def _coloured(runs: Sequence[Learning]) -> list[tuple[Learning, Colour]]:
    return list(zip(runs, COLOURS, strict=False))


def _positive(points: _Points) -> _Points:
    """What a logarithmic axis has a place for."""
    steps, values = points
    return steps[values > 0], values[values > 0]


def _draw_nothing(canvas: Canvas, corner: Point, width: float) -> None:
    canvas.text((corner[0] + width / 2, corner[1] + _PANEL / 2), "not in the logs", 11, FAINT, "m")


def _axes(corner: Point, width: float, points: Sequence[_Points], is_logarithmic: bool) -> _Axes | None:
    """Axes that hold all of it; None: it is nothing."""
    steps, values = (np.concatenate([part[axis] for part in points] or [np.empty(0)]) for axis in (0, 1))
    if not len(steps):
        return None
    low, high = float(values.min()), float(values.max())
    y = _logarithmic(low, high, _AIR) if is_logarithmic else _linear(low, high)
    return _Axes(corner, width, _logarithmic(float(steps.min()), float(steps.max())), y)


def _linear(low: float, high: float) -> _Scale:
    begin, end, step = round_axis(low, high)
    count = round((end - begin) / step)
    return _Scale(begin, end, tuple(round(begin + step * number, 9) for number in range(count + 1)))


def _logarithmic(low: float, high: float, margin: float = 0.0) -> _Scale:
    """Holds both values and, beyond them, ``margin`` times their distance; with as few marks as there may be."""
    span = max(math.log(high / low), 0.05)
    low, high = low * math.exp(-margin * span), low * math.exp((1 + margin) * span)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks: list[float] = []
    for each in _MARKS:
        every = sorted({float(f"{factor * 10.0**power:.6g}") for power in decades for factor in each})
        marks = [mark for mark in every if low <= mark <= high]
        if len(marks) >= _FEWEST:
            break
    return _Scale(low, high, tuple(marks), True)
