# SPDX-License-Identifier: Apache-2.0
"""A bench run's figures as tables, for terminal and Markdown alike."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

Figures = Mapping[str, float | str]

SIDE = re.compile(r"side\.(?P<side>\w+\.\w+)\.(?P<cell>\w+?)(\.b(?P<batch>\d+))?_ms_p50")
"""Name of a side's time: the side, what was timed, and its batch."""

_NOT_RUN = "meta.not_run."
_COUNTED = "Medians; in brackets: how often it was run."
_SHOWN = {
    "denoise16.b1": "16 frames denoised",
    "denoise16.b8": "8 times 16",
    "decode16.b1": "16 decoded",
    "chunk16": "16, images to images",
    "horizon32": "32 predicted",
}
"""Cells of the table of sides, and how they are called there."""

_BY_SIZE = {
    "decode": "Decoding, ms",
    "chunk": "Chunks from images to images, ms",
    "horizon": "Whole predictions on every backend, ms",
}
"""Kinds of cells that have a table by size, and its title."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of texts.

    Args:
        title: Above it.
        columns: Their names; the first is the rows'.
        rows: As many texts each.
        note: Below it; empty: nothing.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Aim:
    """A figure that there is an aim for.

    Args:
        name: The figure's.
        text: What it is.
        unit: Behind the number.
        limit: The aim; None: there is none.
        at_most: Whether the figure should be below the limit, not above.
        factor: What the figure is multiplied with to be shown.
    """

    name: str
    text: str
    unit: str = ""
    limit: float | None = None
    at_most: bool = True
    factor: float = 1.0

    def row(self, figures: Figures) -> tuple[str, ...]:
        """Text, value, spread, and the aim with whether it is met."""
        value = number(figures, self.name)
        assert value is not None, "asked only for figures that there are"
        aim = ""
        if self.limit is not None:
            is_met = value <= self.limit if self.at_most else value >= self.limit
            aim = f"{'at most' if self.at_most else 'at least'} {_short(self.factor * self.limit)}{self.unit}: {'yes' if is_met else 'no'}"
        return self.text, _short(self.factor * value) + self.unit, self._spread(figures), aim

    def _spread(self, figures: Figures) -> str:
        low, high = number(figures, f"ci.low.{self.name}"), number(figures, f"ci.high.{self.name}")
        if low is not None and high is not None:
            return f"{_short(self.factor * low)} to {_short(self.factor * high)}"
        stem = self.name.removesuffix("_p50")
        later, count = number(figures, f"{stem}_p95"), number(figures, f"{stem}_n")
        return "" if later is None or count is None else f"p95 {_short(self.factor * later)}{self.unit}, n {count:.0f}"


AIMS = (
    Aim("chunk16_ms_p50", "a chunk of 16 frames, images to images", " ms", 150.0),
    Aim("horizon32_ms_p50", "a prediction of 32 frames", " ms"),
    Aim("horizon32_fps", "frames predicted per second"),
    Aim("message_ms_p50", "from a camera message to the prediction's message", " ms"),
    Aim("overhead_ms_p50", "of that outside the graphs, without waiting for the model", " ms"),
    Aim("overhead_fraction", "the same as a share", " %", 0.03, factor=100),
    Aim("latency_ms_p50", "from the camera to a subscriber in another process", " ms"),
    Aim("camera.rgb8_640x480_30hz.cpu_outside", "a camera of 640 x 480 rgb8 at 30 Hz: CPU outside inference", " %", 0.15, factor=100),
    Aim("camera.rgb8_640x480_30hz.images_unexplained", "of its images unaccounted for", "", 0.0),
    Aim("camera.jpeg_1920x1080_30hz.cpu_outside", "a camera of 1920 x 1080 JPEG at 30 Hz: CPU outside inference", " %", 0.35, factor=100),
    Aim("camera.jpeg_1920x1080_30hz.images_unexplained", "of its images unaccounted for", "", 0.0),
    Aim("ort_cpu_over_torch", "ONNX Runtime on the CPU, times as fast as PyTorch", "", 1.5, at_most=False),
    Aim("int8_over_fp32", "8-bit integers on the CPU, times as fast as single precision", "", 1.5, at_most=False),
    Aim("peak_fraction", "share of this machine's peak, denoiser in single precision", " %", 0.5, at_most=False, factor=100),
    Aim("peak_fraction_int8", "share of this machine's peak in 8-bit integers", " %", factor=100),
    Aim("candidates8_over_one_decoded", "8 candidates' costs, over one candidate decoded", "", 5.0),
    Aim("mixture_over_dense", "chunks routed among experts, over chunks of one expert"),
)
"""What is asked of a bench run first, in this order."""


def tables(figures: Figures) -> list[Table]:
    """All tables that the figures fill, the most important first."""
    makers: Sequence[Callable[[Figures], Table]] = (
        _summary, _sides, _missing, _horizons, _stages, _overhead, _latency, _cameras, _candidates, _peaks, _batches, _graphs, _longscape,
        _machine,
    )  # fmt: skip
    made = [make(figures) for make in makers]
    made[-2:-2] = [_sizes(figures, kind) for kind in _BY_SIZE]
    return [table for table in made if table.rows]


def number(figures: Figures, name: str) -> float | None:
    """A figure that is a number; None: there is none."""
    value = figures.get(name)
    return float(value) if isinstance(value, int | float) else None


def sides_of(figures: Figures) -> list[str]:
    """The sides that were timed, in order."""
    return list(dict.fromkeys(match["side"] for name in figures if (match := SIDE.fullmatch(name))))


def batches_of(figures: Figures, side: str, cell: str) -> dict[int, float]:
    """Batch -> milliseconds of a side's cell."""
    found = (SIDE.fullmatch(name) for name in figures)
    sizes = sorted(int(match["batch"]) for match in found if match and match["batch"] and (match["side"], match["cell"]) == (side, cell))
    return {size: float(figures[f"side.{side}.{cell}.b{size}_ms_p50"]) for size in sizes}


def _summary(figures: Figures) -> Table:
    rows = tuple(aim.row(figures) for aim in AIMS if number(figures, aim.name) is not None)
    note = str(figures.get("meta.ort_cpu_over_torch", ""))
    return Table("What it comes to", ("", "found", "95 % interval, or spread", "aim"), rows, note and f"Against PyTorch: {note}.")


def _sides(figures: Figures) -> Table:
    """One row per side."""
    sides = sides_of(figures)
    cells = [cell for cell in _SHOWN if any(f"side.{side}.{cell}_ms_p50" in figures for side in sides)]
    rows = []
    for side in sides:
        times = (_text(figures, f"side.{side}.{cell}_ms_p50") for cell in cells)
        rows.append((side, str(figures.get(f"meta.side.{side}", "")), *times, _memory(figures, f"side.{side}.")))
    columns = ("", "on", *(f"{_SHOWN[cell]}, ms" for cell in cells), "memory, MiB")
    return Table("Backends side by side", columns, tuple(rows), "Each in a process of its own, in turns; medians.")


def _sizes(figures: Figures, kind: str) -> Table:
    """Every side at every size of one kind of cell; no table if there is one size."""
    found = (SIDE.fullmatch(name) for name in figures)
    sizes = sorted({int(m["cell"].removeprefix(kind)) for m in found if m and re.fullmatch(rf"{kind}\d+", m["cell"])})
    batch = ".b1" if kind == "decode" else ""
    rows = [(side, *(_counted(figures, f"side.{side}.{kind}{size}{batch}_ms") for size in sizes)) for side in sides_of(figures)]
    whole = tuple(row for row in rows if any(row[1:]))
    return Table(_BY_SIZE[kind], ("frames", *map(str, sizes)), whole if len(sizes) > 1 else (), _COUNTED)


def _lengths(figures: Figures) -> list[int]:
    """Chunk lengths of the tables of batches; none, if there are only two batches of one length."""
    found = {(int(m["cell"][7:]), m["batch"]) for n in figures if (m := SIDE.fullmatch(n)) and m["cell"].startswith("denoise")}
    return sorted({length for length, _ in found}) if len(found) > 2 else []


def _batches(figures: Figures) -> Table:
    rows = []
    sizes: list[int] = []
    for length in _lengths(figures):
        for side in sides_of(figures):
            times = batches_of(figures, side, f"denoise{length}")
            sizes = sorted({*sizes, *times})
            rows.append((length, side, times))
    texts = tuple(
        (f"{length} frames, {side}", *(_counted(figures, f"side.{side}.denoise{length}.b{size}_ms") for size in sizes))
        for length, side, times in rows
        if times
    )
    return Table("Chunks in batches, ms", ("batch", *map(str, sizes)), texts, f"All sampling steps. {_COUNTED}")


def _missing(figures: Figures) -> Table:
    rows = tuple((name.removeprefix(_NOT_RUN), str(text)) for name, text in figures.items() if name.startswith(_NOT_RUN))
    return Table("Not run here", ("", "why"), rows)


def _horizons(figures: Figures) -> Table:
    sizes = sorted(int(m[1]) for name in figures if (m := re.fullmatch(r"horizon(\d+)_ms_p50", name)))
    rows = [(f"{size} frames", *_spread(figures, f"horizon{size}_ms"), _text(figures, f"horizon{size}_fps")) for size in sizes]
    return Table("Whole predictions", ("", "ms, median", "p95", "n", "frames per second"), tuple(rows), _on(figures))


def _stages(figures: Figures) -> Table:
    names = [m[1] for name in figures if (m := re.fullmatch(r"stage\.(\w+)_ms_p50", name))]
    texts = {
        "preprocess": "camera message to a small image",
        "encode": "the context encoded",
        "route": "expert and length",
        "denoise": "all chunks denoised",
        "denoise_step": "of that one step of one chunk, the context's part included",
        "estimate": "confidence",
        "decode": "decoded",
        "publish": "compressed, and made a message",
    }
    rows = [(texts.get(name, name), *_spread(figures, f"stage.{name}_ms")) for name in names if number(figures, f"stage.{name}_ms_p50")]
    return Table("Stages of a prediction of 32 frames", ("", "ms, median", "p95", "n"), tuple(rows), _on(figures))


def _overhead(figures: Figures) -> Table:
    texts = {
        "convert": "camera message to an array",
        "resize": "resized",
        "snapshot": "put on the grid: context, and the actions of every step",
        "inputs": "waiting for the inputs of chunks",
        "join": "chunks' frames put together",
        "publish": "frames compressed, and made a message",
        "jpeg": "of that the compression",
        "rest": "the rest: between threads and parts",
    }
    rows = [(text, _text(figures, f"overhead.{name}_ms_p50")) for name, text in texts.items() if f"overhead.{name}_ms_p50" in figures]
    total = _text(figures, "overhead_ms_p50")
    parts = ("cut", "features", "noise")
    beside = ", ".join(f"{part} {_text(figures, f'beside.{part}_ms_p50')}" for part in parts if f"beside.{part}_ms_p50" in figures)
    note = beside and f"The inputs are made while a graph runs, in ms: {beside}."
    return Table("Outside the graphs", ("", "ms, median"), (*rows, ("all", total)) if rows else (), note)


def _latency(figures: Figures) -> Table:
    if "latency_ms_p50" not in figures:
        return Table("", (), ())
    values = [(f"ms, {name}", _text(figures, f"latency_ms_{name}")) for name in ("p50", "p95", "p99")]
    counts = {
        "images": "images published",
        "images_lost": "of these lost on the way to the node",
        "images_replaced": "replaced by a newer one, because the model was busy",
        "predictions": "predictions received",
        "predictions_lost": "lost on the way back",
        "predictions_per_s": "received per second",
    }
    rows = [("predictions timed", _text(figures, "latency_ms_n")), *((text, _text(figures, f"latency.{n}")) for n, text in counts.items())]
    return Table("From the camera to a subscriber in another process", ("", ""), (*values, *rows), str(figures.get("meta.latency", "")))


def _cameras(figures: Figures) -> Table:
    rows = {
        "images_per_s": "images per second",
        "cpu_outside": "CPU outside inference, %",
        "cpu_graphs": "CPU in inference, %",
        "images": "images",
        "images_lost": "lost on the way",
        "images_unused": "unused",
        "images_replaced": "replaced by newer ones",
        "images_predicted": "predicted from",
        "images_unexplained": "unexplained",
    }
    names = [m[1] for name in figures if (m := re.fullmatch(r"camera\.(.+)\.cpu_outside", name))]
    texts = []
    for figure, label in rows.items():
        found = [number(figures, f"camera.{name}.{figure}") for name in names]
        texts.append((label, *("" if v is None else _short(100 * v if figure.startswith("cpu") else v) for v in found)))
    cameras = [str(figures.get(f"meta.camera.{name}", name)) for name in names]
    note = f"The node with one thread per graph; 100 % is one core. Each image ends in one of the last five rows. {'; '.join(cameras)}."
    return Table("Keeping up with cameras", ("", *(camera.partition(",")[0] for camera in cameras)), tuple(texts) if names else (), note)


def _candidates(figures: Figures) -> Table:
    counts = sorted(int(m[1]) for name in figures if (m := re.fullmatch(r"candidates(\d+)_ms_p50", name)))
    rows = [(f"{count} candidates, costs only", *_spread(figures, f"candidates{count}_ms")) for count in counts]
    rows += [("one, decoded", *_spread(figures, "one_decoded_ms"))] if counts else []
    return Table("Candidates of 32 frames, the context shared", ("", "ms, median", "p95", "n"), tuple(rows), _on(figures))


def _peaks(figures: Figures) -> Table:
    rows = []
    for name in figures:
        match = re.fullmatch(r"peak_fraction\.(\w+\.\w+)\.(\d+)\.b(\d+)", name)
        if match:
            share = Aim(name, f"{match[1]}, {match[2]} frames, batch {match[3]}", " %", factor=100).row(figures)
            rows.append((*share[:3], _text(figures, f"peak_gmacs.{match[1]}")))
    turns = ", ".join(f"{n.removeprefix('peak_turns.')} {v:.0f}" for n, v in figures.items() if n.startswith("peak_turns."))
    note = "The denoiser's multiply-accumulates per second over those of a large matrix product in the same precision, in turns"
    note += f" ({turns})." if turns else "."
    return Table("Share of the peak", ("", "found", "95 % interval", "peak, 10^9 multiply-accumulates per s"), tuple(rows), note)


def _graphs(figures: Figures) -> Table:
    rows = [(m[1], _text(figures, name)) for name in figures if (m := re.fullmatch(r"graph\.(.+)_ms_p50", name))]
    rows += [(f"chunk of {m[1]}", _text(figures, n)) for n in figures if (m := re.fullmatch(r"chunk(\d+)_ms_p50", n))]
    return Table("Graphs, and chunks from images to images", ("", "ms, median"), tuple(rows), _on(figures))


def _longscape(figures: Figures) -> Table:
    rows = []
    for which, text in (("longscape", "LongScape's own setting"), ("bundle", "this bundle")):
        at = f"arithmetic.{which}."
        if f"{at}gflops.16" in figures:
            names = (f"{at}gflops.16", f"{at}gflops_per_s", f"{at}s_per_s")
            rows.append((text, *(_text(figures, name) for name in names)))
    columns = ("", "10^9 operations per chunk of 16", "per second of video", "s per second of video at this machine's peak")
    note = "Arithmetic, not measured: 5.57e9 parameters, 50 steps, two evaluations each; docs/benchmarks.md has what is assumed."
    return Table("Beside LongScape: denoising alone", columns, tuple(rows), note)


def _machine(figures: Figures) -> Table:
    shown = ("meta.not_run.", "meta.side.", "meta.latency", "meta.camera.", "meta.ort_cpu_over_torch")
    rows = [(n.removeprefix("meta."), str(v)) for n, v in figures.items() if n.startswith("meta.") and not n.startswith(shown) and v]
    memory = [(text, _text(figures, name)) for name, text in (("peak_rss_mb", "memory, MiB"), ("gpu_memory_mb", "GPU memory, MiB"))]
    return Table("Measured on", ("", ""), (*rows, *((text, value) for text, value in memory if value)))


def _on(figures: Figures) -> str:
    names = ("meta.backend", "meta.precision", "meta.device", "meta.threads")
    backend, precision, device, threads = (str(figures.get(name, "?")) for name in names)
    return f"On {backend} in {precision}, {device}, {threads} thread{'' if threads == '1' else 's'}."


def _spread(figures: Figures, stem: str) -> tuple[str, str, str]:
    return _text(figures, f"{stem}_p50"), _text(figures, f"{stem}_p95"), _text(figures, f"{stem}_n")


def _counted(figures: Figures, stem: str) -> str:
    count = number(figures, f"{stem}_n")
    return "" if count is None else f"{_text(figures, f'{stem}_p50')} ({count:.0f})"


def _memory(figures: Figures, at: str) -> str:
    values = [_text(figures, f"{at}{name}") for name in ("peak_rss_mb", "gpu_memory_mb")]
    return " + ".join(value for value in values if value)


def _text(figures: Figures, name: str) -> str:
    value = number(figures, name)
    return "" if value is None else _short(value)


def _short(value: float) -> str:
    """Three digits that count, and no more than two behind the point."""
    if value == int(value):
        return f"{int(value):,}".replace(",", " ")
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}".replace(",", " ")


def markdown(figures: Figures) -> Iterator[str]:
    """All tables as lines of Markdown."""
    for table in tables(figures):
        yield from (f"## {table.title}", "", f"| {' | '.join(table.columns)} |", f"|{'---|' * len(table.columns)}")
        yield from (f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in table.rows)
        yield from ("", table.note, "") if table.note else ("",)
