# SPDX-License-Identifier: Apache-2.0
"""What a command shows: progress, a table of its figures, and the same figures as JSON."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

Figures = dict[str, float | str]
"""Name -> figure; texts are named ``meta.<what>``."""

Report = Callable[[float, float, str], None]
"""(done, total, what) of a long job."""

LINE_EVERY_S = 15.0
"""Time between two lines of progress where there is no terminal."""

_Rows = dict[str, dict[int, float | str]]
"""Name without the number -> number -> figure."""

_COLUMNS = {"chunk length": ("chunk.", "executed."), "expert": ("expert.",)}
"""What a number at a name's end is, by the name's beginning; else it is how many frames ahead."""

_WITH_COLUMN = re.compile(r"(?P<row>[a-z_.]+)\.(?P<column>\d+)")


class Terminal:
    """Where a command's words go: figures to the standard output, everything else to the standard error."""

    def __init__(self) -> None:
        self.out = Console(highlight=False)
        self.err = Console(stderr=True, highlight=False)

    def say(self, text: str) -> None:
        """A line for the user that is no figure."""
        self.err.print(escape(text), soft_wrap=True)

    def log_to(self, level: int) -> None:
        """Sends the log's messages here too, between the progress bars."""
        if self.err.is_terminal:
            handler = RichHandler(console=self.err, show_path=False, show_time=False)
            logging.basicConfig(level=level, format="%(message)s", handlers=[handler])
        else:
            logging.basicConfig(level=level, format="%(levelname)s: %(message)s")

    @contextmanager
    def progress(self, title: str) -> Iterator[Report]:
        """A progress bar, or a line now and then where there is no terminal."""
        if not self.err.is_terminal:
            yield self._lines(title)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}", style="dim"),
        )
        with Progress(*columns, console=self.err) as bars:
            bar = bars.add_task(escape(title), total=None, text="")
            yield lambda done, total, text: bars.update(bar, completed=done, total=total, text=escape(text))

    def _lines(self, title: str) -> Report:
        last_s = -math.inf
        finished = False

        def report(done: float, total: float, text: str) -> None:
            nonlocal last_s, finished
            if (done >= total and not finished) or time.monotonic() - last_s >= LINE_EVERY_S:
                last_s = time.monotonic()
                finished = done >= total
                self.say(f"{title}: {done / total if total else 1:.0%} {text}".rstrip())

        return report

    def table(self, title: str, figures: Mapping[str, float | str]) -> None:
        """Shows figures; those named ``<row>.<whole number>`` become tables of their own, a column per number."""
        rows, plain = _split(figures)
        if plain:
            table = Table(title=escape(title), box=SIMPLE_HEAD, show_header=False, title_justify="left")
            for name, value in plain.items():
                table.add_row(escape(name), escape(_text(value)))
            self.out.print(table)
        for what, prefixes in _COLUMNS.items():
            self._grid(what, {name: row for name, row in rows.items() if name.startswith(prefixes)})
        others = tuple(prefix for prefixes in _COLUMNS.values() for prefix in prefixes)
        self._grid("frames ahead", {name: row for name, row in rows.items() if not name.startswith(others)})

    def _grid(self, what: str, rows: _Rows) -> None:
        if not rows:
            return
        columns = sorted({column for row in rows.values() for column in row})
        table = Table(what, *map(str, columns), box=SIMPLE_HEAD)
        for name, row in rows.items():
            table.add_row(escape(name), *(_text(row.get(column, "")) for column in columns))
        self.out.print(table)


def write_json(path: Path, figures: Mapping[str, float | str]) -> None:
    """Writes figures as a flat JSON object, all at once; what is no finite number becomes null."""
    finite = {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in figures.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(finite, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def _split(figures: Mapping[str, float | str]) -> tuple[_Rows, Figures]:
    cells: _Rows = {}
    plain: Figures = {}
    for name, value in figures.items():
        match = _WITH_COLUMN.fullmatch(name)
        if match:
            cells.setdefault(match["row"], {})[int(match["column"])] = value
        else:
            plain[name] = value
    return cells, plain


def _text(value: float | str) -> str:
    if isinstance(value, str):
        return value
    if math.isfinite(value) and value == int(value):
        return str(int(value))
    return f"{value:.2f}" if 1 <= abs(value) < 1e5 else f"{value:.3g}"
