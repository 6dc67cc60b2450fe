# SPDX-License-Identifier: Apache-2.0
"""A bench run as a picture: backends, batches, stages and horizons."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from longscape_ros.bench.tables import Figures, batches_of, number, sides_of
from longscape_ros.evaluation.drawing import FAINT, GRID, INK, Canvas, Colour, Point
from longscape_ros.evaluation.metrics import Image
from longscape_ros.evaluation.plot import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, round_axis

WIDTH, HEIGHT = 1240, 860
COLOURS: tuple[Colour, ...] = (BLUE, ORANGE, GREEN, PURPLE, GREY, BLACK)
STAGES = ("preprocess", "encode", "route", "denoise", "estimate", "decode", "publish")

_MARGIN, _TOP, _BETWEEN, _HEAD, _FOOT, _LEFT = 24, 60, 40, 34, 44, 56
_BAR, _LABELS = 22, 190

Curves = Mapping[str, Sequence[Point]]
"""Name -> (x, y) of each point."""


def draw(figures: Figures) -> Image:
    """The panels: uint8 [HEIGHT, WIDTH, 3]."""
    canvas = Canvas(WIDTH, HEIGHT)
    canvas.text((_MARGIN, 34), f"{figures.get('meta.model_id', '')} on {figures.get('meta.cpu', '')}", 14)
    width, height = (WIDTH - 2 * _MARGIN - _BETWEEN) / 2, (HEIGHT - _TOP - _MARGIN - _BETWEEN) / 2
    corners = [(_MARGIN + c * (width + _BETWEEN), _TOP + r * (height + _BETWEEN)) for r in range(2) for c in range(2)]
    sides = sides_of(figures)
    predictions = {side: value for side in sides if (value := number(figures, f"side.{side}.horizon32_ms_p50")) is not None}
    _bars(canvas, corners[0], width, "A prediction of 32 frames (ms)", predictions)
    batches = {side: [(size, ms / size) for size, ms in batches_of(figures, side, "denoise16").items()] for side in sides}
    _lines(canvas, corners[1], (width, height), "16 frames denoised in a batch (ms per chunk)", "batch", batches, doublings=True)
    stages = {stage: value for stage in STAGES if (value := number(figures, f"stage.{stage}_ms_p50"))}
    _bars(canvas, corners[2], width, f"Stages of such a prediction, {figures.get('meta.backend', '')} (ms)", stages)
    sizes = sorted(int(m[1]) for name in figures if (m := re.fullmatch(r"horizon(\d+)_ms_p50", name)))
    horizons = {str(figures.get("meta.backend", "")): [(size, float(figures[f"horizon{size}_ms_p50"])) for size in sizes]}
    _lines(canvas, corners[3], (width, height), "Whole predictions (ms)", "frames ahead", horizons)
    return canvas.picture()


def _bars(canvas: Canvas, corner: Point, width: float, title: str, values: Mapping[str, float]) -> None:
    """A horizontal bar per value."""
    canvas.text((corner[0], corner[1] + 14), title, 11.5)
    if not values:
        canvas.text((corner[0] + width / 2, corner[1] + 80), "not measured", 11, FAINT, "m")
        return
    longest = max(values.values()) or 1.0
    for row, (name, value) in enumerate(values.items()):
        y = corner[1] + _HEAD + row * (_BAR + 12)
        length = (width - _LABELS - 70) * value / longest
        canvas.text((corner[0] + _LABELS - 10, y + 16), name, 10, INK, "r")
        canvas.box((corner[0] + _LABELS, y), (max(length, 1.0), _BAR), COLOURS[row % len(COLOURS)])
        canvas.text((corner[0] + _LABELS + length + 8, y + 16), f"{value:.1f}" if value < 100 else f"{value:.0f}", 10)


def _lines(canvas: Canvas, corner: Point, size: Point, title: str, axis: str, curves: Curves, doublings: bool = False) -> None:
    """A line per curve; of ``doublings`` each has the same width."""
    canvas.text((corner[0], corner[1] + 14), title, 11.5)
    known = {name: points for name, points in curves.items() if points}
    if not known:
        canvas.text((corner[0] + size[0] / 2, corner[1] + 80), "not measured", 11, FAINT, "m")
        return
    marks = sorted({x for points in known.values() for x, _ in points})
    low, high, step = round_axis(0.0, max(y for points in known.values() for _, y in points))
    left, top, right, bottom = corner[0] + _LEFT, corner[1] + _HEAD, corner[0] + size[0] - 10, corner[1] + size[1] - _FOOT - 24

    def along(x: float) -> float:
        return math.log2(x) if doublings else x

    def place(x: float, y: float) -> Point:
        span = along(marks[-1]) - along(marks[0])
        across = (along(x) - along(marks[0])) / span if span else 0.5
        return left + (right - left) * across, bottom - (bottom - top) * (y - low) / (high - low)

    for value in np.arange(low, high + step / 2, step):
        y = place(marks[0], float(value))[1]
        canvas.line([(left, y), (right, y)], GRID)
        canvas.text((left - 7, y + 4), f"{value:g}", 9, FAINT, "r")
    for mark in marks:
        canvas.text((place(mark, low)[0], bottom + 17), f"{mark:g}", 9, FAINT, "m")
    canvas.text(((left + right) / 2, bottom + 34), axis, 9, FAINT, "m")
    for number_, (name, points) in enumerate(known.items()):
        colour = COLOURS[number_ % len(COLOURS)]
        places = [place(x, y) for x, y in points]
        canvas.line(places, colour, 1.6)
        for point in places:
            canvas.dot(point, 3, colour)
        if len(known) > 1:
            x = left + (number_ % 3) * (right - left) / 3
            y = bottom + 50 + 16 * (number_ // 3)
            canvas.line([(x, y - 4), (x + 20, y - 4)], colour, 1.6)
            canvas.text((x + 26, y), name, 9)
