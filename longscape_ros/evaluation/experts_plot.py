# SPDX-License-Identifier: Apache-2.0
"""A picture of who does what: a bar per group of chunks, divided by the experts that they go to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from longscape_ros.bundle import Manifest
from longscape_ros.evaluation.drawing import FAINT, INK, Canvas, Colour
from longscape_ros.evaluation.experts import RoutedChunk, groups_of, specialisation, specialisation_table
from longscape_ros.evaluation.sheet import write_png

COLOURS: tuple[Colour, ...] = ((58, 104, 176), (222, 134, 60), (86, 156, 98), (186, 84, 110), (130, 110, 180), (120, 120, 120))
"""Of the experts, in turn."""

_WIDTH, _LEFT, _RIGHT, _TOP, _ROW, _GAP = 880, 275, 20, 60, 22, 14


def write_experts(chunks: Sequence[RoutedChunk], manifest: Manifest, folder: Path) -> dict[str, float]:
    """Write ``experts.json``, ``experts.md`` and ``experts.png``; returns the figures of :func:`specialisation`."""
    count = manifest.experts.count
    figures = specialisation(chunks, manifest.segmentation.lengths, count)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "experts.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    (folder / "experts.md").write_text(specialisation_table(figures, count), encoding="utf-8")
    draw_experts(figures, count, folder / "experts.png")
    return figures


def draw_experts(figures: dict[str, float], experts: int, path: Path) -> Path:
    """Draw the figures of :func:`longscape_ros.evaluation.experts.specialisation` into a PNG; returns its path."""
    groups = groups_of(figures)
    kinds = list(dict.fromkeys(kind for kind, _ in groups))
    canvas = Canvas(_WIDTH, _TOP + _ROW * len(groups) + _GAP * len(kinds) + 10)
    canvas.text((16, 24), "Chunks by the expert that they go to", 13)
    x = float(_LEFT)
    for expert in range(experts):
        canvas.box((x, 36), (12, 12), COLOURS[expert % len(COLOURS)])
        x += 20 + canvas.text((x + 16, 46), f"expert {expert}", 9, FAINT) + 14
    span, top, last = _WIDTH - _LEFT - _RIGHT, float(_TOP), ""
    for kind, group in groups:
        if kind != last:
            information = figures.get(f"experts.information.{kind}")
            top += _GAP
            canvas.text((16, top + 14), kind if information is None else f"{kind} ({information:.2f} bit)", 9, FAINT)
            last = kind
        canvas.text((_LEFT - 10, top + 14), group.replace("_", " "), 9, INK, "r")
        left = float(_LEFT)
        for expert in range(experts):
            share = figures[f"experts.{kind}.{group}.{expert}"] if group else figures[f"experts.{kind}.{expert}"]
            canvas.box((left, top + 2), (share * span, _ROW - 5), COLOURS[expert % len(COLOURS)])
            if share > 0.07:
                canvas.text((left + share * span / 2, top + 15), f"{100 * share:.0f}", 8, (255, 255, 255), "m")
            left += share * span
        top += _ROW
    return write_png(path, canvas.picture())
