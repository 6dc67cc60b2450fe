# SPDX-License-Identifier: Apache-2.0
"""The demo in the terminal: a picture that is kept up to date, or plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.style import Style
from rich.table import Table
from rich.text import Text

from longscape_ros.demo.palette import EXECUTED, Colour, expert_colour
from longscape_ros.demo.sight import PICTURE, ChunkSight, Sight, picture
from longscape_ros.images import resize_rgb

LINE_EVERY_S = 5.0
"""Time between two lines where there is no terminal."""

_FIGURES_WIDTH = 46
_LEAST_PICTURE = 16
_COLOUR_STEP = 8
"""Colours are rounded to multiples of it: fewer styles to write."""

_UNKNOWN = "-"


@dataclass(frozen=True, slots=True)
class ProcessSight:
    """A process, as it is shown."""

    name: str
    alive: bool
    peak_rss_mb: float
    cpu_percent: float


@dataclass(frozen=True, slots=True)
class Scene:
    """All that is shown at a moment.

    Args:
        title: What the demo shows.
        phase: What is being done or waited for.
        elapsed_s: Of the recording.
        seconds: Of the recording in all.
        sight: What the monitor sees.
        processes: In the order of their start.
    """

    title: str
    phase: str
    elapsed_s: float
    seconds: float
    sight: Sight
    processes: tuple[ProcessSight, ...] = ()


class View(Protocol):
    """Shows scenes; a context manager."""

    def __enter__(self) -> View: ...

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None: ...

    def show(self, scene: Scene) -> None:
        """Shows a scene in place of the one before."""


def make_view(console: Console) -> View:
    """What suits the console."""
    return Screen(console) if console.is_terminal else Lines(console)


class Screen:
    """A picture that is kept up to date; it stays when all is over.

    Args:
        console: A terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop")

    def __enter__(self) -> View:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._live.stop()

    def show(self, scene: Scene) -> None:
        """See :class:`View`."""
        in_colour = self._console.color_system in ("truecolor", "256", "windows")
        self._live.update(draw(scene, self._console.width, in_colour), refresh=True)


class Lines:
    """A line when something else begins, and one now and then.

    Args:
        console: Where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._phase = ""
        self._next_s = 0.0

    def __enter__(self) -> View:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        return None

    def show(self, scene: Scene) -> None:
        """See :class:`View`."""
        now_s = time.monotonic()
        if scene.phase == self._phase and now_s < self._next_s:
            return
        self._phase, self._next_s = scene.phase, now_s + LINE_EVERY_S
        figures = ", ".join(f"{name} {value}" for name, value in _figures(scene.sight) if value != _UNKNOWN)
        chunks = _chunk_words(scene.sight.chunks)
        parts = (scene.phase, f"{scene.elapsed_s:.0f} of {scene.seconds:.0f} s" if scene.elapsed_s else "", figures, chunks)
        self._console.print(escape("; ".join(part for part in parts if part)), soft_wrap=True)


def draw(scene: Scene, width: int, in_colour: bool) -> RenderableType:
    """A scene for a terminal of so many columns."""
    size = min(PICTURE, (width - _FIGURES_WIDTH) // 2 // 2 * 2) if in_colour else 0
    sight = scene.sight
    figures: RenderableType = Group(_table(_figures(sight)), Text(), _process_table(scene.processes))
    if size >= _LEAST_PICTURE:
        ahead = f"in {sight.horizon_s:.1f} s" if sight.horizon_s else "predicted"
        pictures = [_picture("camera, now", sight.camera, size), _picture(f"predicted: {ahead}", sight.future, size)]
        figures = Columns([*pictures, figures], padding=(0, 2))
    return Group(_head(scene, width), figures, _future(sight, in_colour, min(width, 2 * PICTURE)))


def _head(scene: Scene, width: int) -> RenderableType:
    line = Table.grid(padding=(0, 1))
    line.add_row(Text(scene.title, style="bold"), Text(scene.phase, style="cyan"))
    if not scene.elapsed_s:
        return line
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        ProgressBar(total=scene.seconds, completed=min(scene.elapsed_s, scene.seconds), width=max(10, min(width - 20, 60))),
        Text(f"{scene.elapsed_s:.0f} / {scene.seconds:.0f} s"),
    )
    return Group(line, bar)


def _figures(sight: Sight) -> list[tuple[str, str]]:
    """What is known, in words."""
    camera = (
        f"{sight.frames}" + _with(", {:.1f}/s", sight.frame_rate) + (f", {sight.missing_frames} missing" if sight.missing_frames else "")
    )
    latency = _with("p50 {:.0f} ms", sight.latency_ms_p50) + _with(", p95 {:.0f} ms", sight.latency_ms_p95)
    remaining = _with("{:.0f} ms", sight.remaining_ms) + _with(", p5 {:.0f} ms", sight.remaining_ms_p5)
    return [
        ("images", camera),
        ("plans", f"{sight.plans}"),
        ("predictions", f"{sight.predictions}" + _with(", {:.1f}/s", sight.prediction_rate)),
        ("latency", latency or _UNKNOWN),
        ("horizon ahead", remaining or _UNKNOWN),
        ("requests dropped", sight.diagnostics.get("inference.requests_dropped", _UNKNOWN)),
        ("predictor", sight.diagnostics.get("inference", _UNKNOWN)),
    ]


def _with(text: str, value: float | None) -> str:
    return "" if value is None else text.format(value)


def _table(rows: Sequence[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        table.add_row(Text(name, style="dim"), Text(value))
    return table


def _process_table(processes: Sequence[ProcessSight]) -> Table:
    table = Table.grid(padding=(0, 2))
    for process in processes:
        state = Text("running", style="green") if process.alive else Text("ended", style="red")
        usage = f"{process.cpu_percent:.0f} % CPU, {process.peak_rss_mb:.0f} MB" if process.peak_rss_mb > 0 else ""
        table.add_row(Text(process.name, style="dim"), state, Text(usage))
    return table


def _future(sight: Sight, in_colour: bool, width: int) -> RenderableType:
    """The newest prediction's chunks, a bar each in its expert's colour; below, the chunks that were executed last."""
    frames = sum(chunk.frames for chunk in sight.chunks)
    bar, words, past = Text("newest future    "), Text(" " * 17), Text("executed         ", no_wrap=True)
    for chunk in sight.chunks:
        cells = max(1, round(chunk.frames * width / frames))
        bar.append("━" * (cells - 1), _chunk_style(chunk, in_colour)).append("╸" if cells > 1 else "━", _chunk_style(chunk, in_colour))
        words.append(f"{_words(chunk)}   ", _chunk_style(chunk, in_colour))
    for chunk in sight.executed:
        past.append(f"{_words(chunk)}   ", _chunk_style(chunk, in_colour))
    return Group(Text(), bar, words, past)


def _chunk_words(chunks: Sequence[ChunkSight]) -> str:
    return "chunks " + " + ".join(f"{_words(chunk)}" for chunk in chunks) if chunks else ""


def _words(chunk: ChunkSight) -> str:
    words = f"{chunk.frames} {chunk.reason.replace('_', ' ')}"
    return words if chunk.expert is None else f"{words} (expert {chunk.expert})"


def _chunk_style(chunk: ChunkSight, in_colour: bool) -> Style:
    colour = EXECUTED if chunk.expert is None else expert_colour(chunk.expert)
    return _style(colour) if in_colour else Style()


def _picture(title: str, encoded: str, size: int) -> RenderableType:
    """Two pixels per character: the upper is its colour, the lower its background."""
    text = Text(f"{title:<{size}}\n", style="dim", no_wrap=True)
    pixels: NDArray[np.uint8] = np.full((size, size, 3), 24, np.uint8)
    if encoded:
        pixels = resize_rgb(picture(encoded), (size, size))
    rounded = (pixels // _COLOUR_STEP * _COLOUR_STEP).tolist()
    for upper, lower in zip(rounded[::2], rounded[1::2], strict=True):
        for above, below in zip(upper, lower, strict=True):
            text.append("▀", _style(tuple(above), tuple(below)))
        text.append("\n")
    return text


def _style(colour: Colour, background: Colour | None = None) -> Style:
    red, green, blue = colour
    on = None if background is None else "rgb({},{},{})".format(*background)
    return Style(color=f"rgb({red},{green},{blue})", bgcolor=on)
