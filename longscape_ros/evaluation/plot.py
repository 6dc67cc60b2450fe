# SPDX-License-Identifier: Apache-2.0
"""The figures of an evaluation as curves over how far ahead is predicted, with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from longscape_ros.evaluation.drawing import FAINT, GRID, INK, Canvas, Colour, Point
from longscape_ros.evaluation.metrics import Image
from longscape_ros.evaluation.scoring import CEILING, COPY_LAST, COUNTERFACTUAL, MODEL, SHUFFLED

BLUE: Colour = (0, 114, 178)
GREEN: Colour = (0, 150, 110)
ORANGE: Colour = (214, 130, 0)
PURPLE: Colour = (190, 90, 150)
GREY: Colour = (120, 124, 134)
BLACK: Colour = (30, 30, 30)

STYLES: dict[str, tuple[str, Colour]] = {
    MODEL: ("model", BLUE),
    COPY_LAST: ("newest image copied", GREY),
    SHUFFLED: ("other episode's actions", ORANGE),
    COUNTERFACTUAL: ("mirrored actions", PURPLE),
    CEILING: ("autoencoder (ceiling)", GREEN),
    "probe": ("probe's own error", BLACK),
    "counterfactual": ("mirrored actions", PURPLE),
    "shuffled": ("other episode's actions", ORANGE),
}
"""Who -> name in the legend, and colour (after Okabe and Ito)."""


@dataclass(frozen=True)
class Curve:
    """One line of a panel.

    Args:
        name: Of the figure, without the horizon.
        label: In the legend.
        colour: Of the line.
        dashed: Whether it is.
    """

    name: str
    label: str
    colour: Colour
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One set of axes.

    Args:
        title: Above it.
        curves: What it shows.
        level: A value that is marked; None: none is.
        from_zero: Whether the axis begins with zero.
    """

    title: str
    curves: tuple[Curve, ...]
    level: float | None = None
    from_zero: bool = False


def _curves(kind: str, who: Sequence[str]) -> tuple[Curve, ...]:
    return tuple(Curve(f"{kind}.{name}", *STYLES[name]) for name in who)


_ALL = (MODEL, COPY_LAST, SHUFFLED, COUNTERFACTUAL, CEILING)

PANELS = (
    Panel("PSNR (dB)", _curves("psnr", _ALL)),
    Panel("PSNR where something changed (dB)", _curves("psnr_motion", _ALL)),
    Panel("SSIM", _curves("ssim", _ALL)),
    Panel("Gripper misplaced by (cm)", _curves("gripper_error_cm", (*_ALL, "probe")), from_zero=True),
    Panel("Actions' effect over the error (> 1: actions matter more)", _curves("separation", ("counterfactual", "shuffled")), 1.0, True),
    Panel(
        "Kept of the actual frame's detail",
        (
            Curve("contrast.model", "contrast, model", BLUE),
            Curve("contrast.autoencoder", "contrast, autoencoder", GREEN),
            Curve("sharpness.model", "sharpness, model", BLUE, dashed=True),
            Curve("sharpness.autoencoder", "sharpness, autoencoder", GREEN, dashed=True),
        ),
        1.0,
        True,
    ),
)

COLUMNS = 3
WIDTH, HEIGHT = 1560, 1010
_TOP, _MARGIN, _BETWEEN = 64, 24, 26
_LEFT, _HEAD, _FOOT, _LEGEND = 46, 30, 40, 62


def draw_plot(figures: Mapping[str, float], title: str, fps: float) -> Image:
    """All panels of an evaluation's figures: uint8 [HEIGHT, WIDTH, 3]; shaded are the figures' intervals."""
    canvas = Canvas(WIDTH, HEIGHT)
    canvas.text((_MARGIN, 36), title, 15)
    canvas.text((WIDTH - _MARGIN, 36), "shaded: 95 % intervals, episodes resampled", 10, FAINT, "r")
    rows = -(-len(PANELS) // COLUMNS)
    width = (WIDTH - 2 * _MARGIN - (COLUMNS - 1) * _BETWEEN) / COLUMNS
    height = (HEIGHT - _TOP - _MARGIN - (rows - 1) * _BETWEEN) / rows
    for number, panel in enumerate(PANELS):
        row, column = divmod(number, COLUMNS)
        corner = (_MARGIN + column * (width + _BETWEEN), _TOP + row * (height + _BETWEEN))
        _draw_panel(canvas, panel, figures, corner, (width, height), fps)
    return canvas.picture()


def horizons_of(figures: Mapping[str, float], name: str) -> list[int]:
    """The horizons at which there is a figure ``<name>.<h>``, in order."""
    ends = (figure.removeprefix(f"{name}.") for figure in figures if figure.startswith(f"{name}."))
    return sorted(int(end) for end in ends if end.isdigit())


def _draw_panel(canvas: Canvas, panel: Panel, figures: Mapping[str, float], corner: Point, size: Point, fps: float) -> None:
    canvas.text((corner[0], corner[1] + 14), panel.title, 11.5)
    known = [(curve, horizons_of(figures, curve.name)) for curve in panel.curves]
    known = [(curve, horizons) for curve, horizons in known if horizons]
    if not known:
        canvas.text((corner[0] + size[0] / 2, corner[1] + size[1] / 2), "not measured (needs a probe)", 11, FAINT, "m")
        return
    names = [f"{prefix}{curve.name}.{h}" for curve, horizons in known for h in horizons for prefix in ("", "ci.low.", "ci.high.")]
    values = [figures[name] for name in names if name in figures] + ([panel.level] if panel.level is not None else [])
    low = 0.0 if panel.from_zero else min(values)
    axes = _Axes(corner, size, max(h for _, horizons in known for h in horizons), *round_axis(low, max(values)))
    axes.draw(canvas, fps)
    if panel.level is not None:
        canvas.line([axes.place(0, panel.level), axes.place(axes.longest, panel.level)], FAINT, 1, dashed=True)
    for curve, horizons in known:
        ends = [(figures.get(f"ci.low.{curve.name}.{h}"), figures.get(f"ci.high.{curve.name}.{h}")) for h in horizons]
        band = [(h, low, high) for h, (low, high) in zip(horizons, ends, strict=True) if low is not None and high is not None]
        if len(band) > 1:
            lower = [axes.place(h, low) for h, low, _ in band]
            canvas.area([*lower, *(axes.place(h, high) for h, _, high in reversed(band))], curve.colour, 0.16)
    for curve, horizons in known:
        points = [axes.place(h, figures[f"{curve.name}.{h}"]) for h in horizons]
        canvas.line(points, curve.colour, 1.6, curve.dashed)
        for point in points:
            canvas.dot(point, 2.6, curve.colour)
    _draw_legend(canvas, [curve for curve, _ in known], (corner[0] + _LEFT, corner[1] + size[1] - _LEGEND + 20), size[0] - _LEFT)


@dataclass(frozen=True)
class _Axes:
    """Values to places."""

    corner: Point
    size: Point
    longest: int
    low: float
    high: float
    step: float

    TICKS: ClassVar[tuple[int, ...]] = (1, 2, 4, 8, 16, 32, 64, 128, 256)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of the area that is drawn in."""
        x, y = self.corner
        return x + _LEFT, y + _HEAD, x + self.size[0] - 6, y + self.size[1] - _LEGEND - _FOOT

    def place(self, horizon: float, value: float) -> Point:
        left, top, right, bottom = self.box
        return left + (right - left) * horizon / self.longest, bottom - (bottom - top) * (value - self.low) / (self.high - self.low)

    def draw(self, canvas: Canvas, fps: float) -> None:
        left, _, right, bottom = self.box
        digits = max(0, -math.floor(math.log10(self.step) + 1e-9))
        for value in np.arange(self.low, self.high + self.step / 2, self.step):
            y = self.place(0, value)[1]
            canvas.line([(left, y), (right, y)], GRID)
            canvas.text((left - 7, y + 4), f"{value:.{digits}f}", 9, FAINT, "r")
        spacing = next((tick for tick in self.TICKS if self.longest / tick <= 9), self.longest)
        for horizon in range(0, self.longest + 1, spacing):
            x = self.place(horizon, self.low)[0]
            canvas.line([(x, bottom), (x, bottom + 4)], FAINT)
            canvas.text((x, bottom + 17), str(horizon), 9, FAINT, "m")
        canvas.line([(left, bottom), (right, bottom)], INK)
        canvas.text(((left + right) / 2, bottom + 34), f"frames ahead, {fps:g} per second", 9, FAINT, "m")


def _draw_legend(canvas: Canvas, curves: Sequence[Curve], corner: Point, width: float) -> None:
    """Two or three entries a line."""
    cell = width / 3 if max(len(curve.label) for curve in curves) < 18 else width / 2
    in_a_row = round(width / cell)
    for number, curve in enumerate(curves):
        row, column = divmod(number, in_a_row)
        x, y = corner[0] + column * cell, corner[1] + row * 18
        canvas.line([(x, y - 4), (x + 22, y - 4)], curve.colour, 1.6, curve.dashed)
        canvas.text((x + 28, y), curve.label, 9, INK)


def round_axis(low: float, high: float) -> tuple[float, float, float]:
    """Ends of an axis that holds both values, and the distance of its marks, all round numbers."""
    span = max(high - low, 1e-6 * max(1.0, abs(high)))
    power = 10 ** math.floor(math.log10(span / 5))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if span / (factor * power) <= 6)
    return step * math.floor(low / step + 1e-9), step * math.ceil(high / step - 1e-9), step
