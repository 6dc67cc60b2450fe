# SPDX-License-Identifier: Apache-2.0
"""A folder that shows a bench run: its figures as JSON and as tables, and a plot."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

from longscape_ros.bench.plot import draw
from longscape_ros.bench.tables import Figures, markdown
from longscape_ros.evaluation.sheet import write_png

JSON, MARKDOWN, PLOT = "bench.json", "bench.md", "bench.png"


def write_report(figures: Figures, folder: Path) -> list[Path]:
    """Write ``bench.json``, ``bench.md`` and ``bench.png``; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    finite = {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in figures.items()}
    _write(folder / JSON, json.dumps(finite, indent=2, ensure_ascii=False) + "\n")
    machine = f"{figures.get('meta.cpu', '')}, {figures.get('meta.cpus', '')} CPUs"
    head = [f"# Benchmark of {figures.get('meta.model_id', '')}", "", f"On {machine}. Times vary with what else runs.", ""]
    _write(folder / MARKDOWN, "\n".join([*head, f"![plot]({PLOT})", "", *markdown(figures)]))
    return [folder / JSON, folder / MARKDOWN, write_png(folder / PLOT, draw(figures))]


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
