# SPDX-License-Identifier: Apache-2.0
"""A picture of a comparison: how much every variant has more or less than the method, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from longscape_ros.comparison import METHOD
from longscape_ros.evaluation.drawing import FAINT, GRID, INK, Canvas, Colour
from longscape_ros.evaluation.sheet import write_png

BETTER: Colour = (58, 140, 84)
WORSE: Colour = (196, 78, 70)
OPEN: Colour = (70, 104, 160)
"""Of intervals above zero, below zero, and around it."""

_LEFT, _PANEL, _GAP, _TOP, _ROW = 190, 220, 48, 74, 22


def draw_ablations(summary: dict[str, Any], path: Path, horizons: Sequence[int] = (16, 64, 200)) -> Path:
    """Draw a panel per horizon with a row per variant into a PNG; returns its path.

    Args:
        summary: As of :func:`longscape_ros.ablations.summarise` or :func:`longscape_ros.alternatives.compare`.
        path: Where to.
        horizons: Frames ahead; one that was not scored has no panel.
    """
    scored = {name: entry for name, entry in summary.items() if any(key.startswith("over_longscape.psnr.") for key in entry)}
    shown = [h for h in horizons if all(f"over_longscape.psnr.{h}" in entry for entry in scored.values())]
    names = [name for name in scored if name != METHOD]
    width = _LEFT + len(shown) * (_PANEL + _GAP) + 10
    canvas = Canvas(width, _TOP + _ROW * len(names) + 40)
    canvas.text((16, 24), "PSNR over that of longscape, in dB", 13)
    canvas.text((16, 44), "mean over episodes and its 95 % interval; green and red: the interval has no zero in it", 9, FAINT)
    bottom = _TOP + _ROW * len(names)
    for row, name in enumerate(names):
        canvas.text((_LEFT - 12, _TOP + _ROW * row + 15), name, 9, INK, "r")
    for column, h in enumerate(shown):
        left = _LEFT + column * (_PANEL + _GAP)
        ends = np.array([[scored[name][f"ci.{end}.over_longscape.psnr.{h}"] for end in ("low", "high")] for name in names])
        span = max(0.5, float(np.ceil(2 * np.abs(ends).max()) / 2))
        canvas.text((left + _PANEL / 2, _TOP - 10), f"{h} frames ahead", 10, INK, "m")
        for value in (-span, -span / 2, 0.0, span / 2, span):
            x = left + _PANEL * (value / span + 1) / 2
            canvas.line([(x, _TOP), (x, bottom)], FAINT if value == 0 else GRID)
            canvas.text((x, bottom + 16), f"{value:+g}" if value else "0", 8, FAINT, "m")
        for row, (name, (low, high)) in enumerate(zip(names, ends, strict=True)):
            y = _TOP + _ROW * row + 11
            colour = BETTER if low > 0 else WORSE if high < 0 else OPEN
            places = [left + _PANEL * (value / span + 1) / 2 for value in (low, scored[name][f"over_longscape.psnr.{h}"], high)]
            canvas.line([(places[0], y), (places[2], y)], colour, 2)
            canvas.dot((places[1], y), 4, colour)
    return write_png(path, canvas.picture())
