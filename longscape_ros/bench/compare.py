# SPDX-License-Identifier: Apache-2.0
"""Backends side by side: each in a process of its own (:mod:`longscape_ros.bench.side`), in turns, with its fastest number of threads."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from longscape_ros.bench import work
from longscape_ros.bench.cells import Cell
from longscape_ros.bench.config import BenchConfig, headline
from longscape_ros.bench.side import Side, SideSpec
from longscape_ros.bench.timing import Ratio, Spread, in_turns
from longscape_ros.bundle import Bundle
from longscape_ros.errors import BackendError
from longscape_ros.runtime.backend import FP32
from longscape_ros.runtime.cpus import usable_cpus
from longscape_ros.runtime.kinds import all_kinds

MOST_THREADS = 8
"""More threads than this do not speed up graphs this small."""

PRODUCT_SIZES = (1024, 2048)
GPU_PRODUCT_SIZES = (4096, 8192)
TRIALS = 3
"""Turns that tell which size of a product is the fastest."""

PEAK_BATCHES = (1, 8)
PEAK_LENGTHS = (16, 32)
ORT, ORT_INT8 = "ort_cpu.fp32", "ort_cpu.int8"
TORCH, TORCH_COMPILED = "torch.fp32", "torch_compiled.fp32"

_GIGA = 1e9
_COMPILE = "compiling takes most of a minute for every size; it is done with --compiled or --full"

Figures = dict[str, float | str]
Say = Callable[[str], None]


def wanted_sides(config: BenchConfig) -> tuple[list[SideSpec], dict[str, str]]:
    """What is to be compared here, and why the rest is not: label -> reason."""
    specs: list[SideSpec] = []
    missing: dict[str, str] = {}
    for kind in all_kinds():
        reason = kind.why_not()
        own = [SideSpec(kind.name, precision, config.threads) for precision in kind.precisions]
        if kind.name == "torch":
            own = [SideSpec("torch", FP32, config.threads, device, compiled) for device in ("cpu", "cuda") for compiled in (False, True)]
        for spec in own:
            fault = reason or _why_not(spec, config)
            if fault:
                missing[spec.label] = fault
            else:
                specs.append(spec)
    return specs, missing


def _why_not(spec: SideSpec, config: BenchConfig) -> str:
    """Why a side of a kind that works is left out; empty: it is not."""
    if spec.device == "cuda" and not _has_cuda():
        return "this PyTorch finds no CUDA GPU"
    if not spec.compiled:
        return ""
    if spec.on_cpu and not has_compiler():
        return "torch.compile needs a C++ compiler, and there is none; install g++, or name one in CXX"
    return "" if config.compiled or config.full else _COMPILE


def has_compiler() -> bool:
    """Whether there is a C++ compiler for ``torch.compile``."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++") if name)


def _has_cuda() -> bool:
    """Whether there is a GPU at all, as the driver shows it, without loading PyTorch."""
    return os.path.exists("/dev/nvidiactl") or os.path.exists("/dev/nvhost-gpu")


def thread_counts(usable: int) -> list[int]:
    """The numbers of threads that are tried: powers of two, and all CPUs."""
    most = min(usable, MOST_THREADS)
    return sorted({count for count in (1, 2, 4, 8) if count < most} | {most})


def compare(bundle: Bundle, config: BenchConfig, seconds: float, say: Say) -> Figures:
    """Time every side that works here.

    Args:
        bundle: What they run.
        config: What is measured.
        seconds: For all of it, roughly, without the time that processes need to start and graphs to compile.
        say: Told what is being done.

    Returns:
        - ``side.<side>.<cell>_ms_p50``, ``_p95``, ``_n``; see :class:`Cell`;
        - ``side.<side>.peak_rss_mb``, ``.gpu_memory_mb`` and ``.open_s``; ``meta.side.<side>``: device and threads;
        - ``meta.not_run.<side>``: why a side is missing;
        - ``ort_cpu_over_torch``, ``int8_over_fp32``: how many times as fast the first is, for a chunk of :data:`HEADLINE` frames;
        - ``peak_fraction`` and others, see :func:`peak_fractions`.
    """
    specs, missing = wanted_sides(config)
    cells = config.cells(bundle.manifest)
    with contextlib.ExitStack() as stack:
        sides: dict[str, Side] = {}
        for spec in specs:
            say(f"Opening {spec.label} ...")
            try:
                sides[spec.label] = stack.enter_context(fastest(bundle, spec, cells[0], seconds / (4 * len(specs))))
            except BackendError as error:
                missing[spec.label] = str(error)
        figures = _tables(sides, cells, seconds / 2, missing, say)
        say("Comparing with a large matrix product ...")
        for label in (ORT, ORT_INT8):
            if label in sides:
                figures |= peak_fractions(bundle, sides[label], seconds / 8)
        for label in [label for label, side in sides.items() if not side.spec.on_cpu and side.spec.name != "torch"]:
            figures |= peak_fractions(bundle, sides[label], seconds / 8)
        for label, side in sides.items():
            figures |= _described(label, side)
    return figures | {f"meta.not_run.{label}": reason for label, reason in missing.items()}


def fastest(bundle: Bundle, spec: SideSpec, cell: Cell, seconds: float) -> Side:
    """A side that is open, with the number of threads that times ``cell`` the shortest; those of other numbers are closed.

    Raises:
        BackendError: it does not open.
    """
    own = thread_counts(usable_cpus()) if spec.on_cpu and spec.threads is None else [spec.threads]
    with contextlib.ExitStack() as stack:
        sides = [stack.enter_context(Side(bundle, SideSpec(spec.name, spec.precision, n, spec.device, spec.compiled))) for n in own]
        for side in sides:
            side.wait()
        best = sides[0]
        if len(sides) > 1:
            runs = {str(index): partial(side.milliseconds, cell) for index, side in enumerate(sides)}
            times = in_turns(runs, seconds)
            best = sides[min(range(len(sides)), key=lambda index: Spread.of(times[str(index)]).p50)]
        stack.pop_all()
        for side in sides:
            if side is not best:
                side.close()
    return best


def _tables(sides: Mapping[str, Side], cells: Sequence[Cell], seconds: float, missing: dict[str, str], say: Say) -> Figures:
    """The cells of all sides; those of one cell in turns. A side that fails at a cell is left out there, and the reason told."""
    figures: Figures = {}
    for number, cell in enumerate(cells):
        say(f"Timing {cell} on {len(sides)} sides ...")
        share = seconds / 4 if number == 0 else 3 * seconds / 4 / max(1, len(cells) - 1)
        able = {label: side for label, side in sides.items() if number == 0 or not side.spec.compiled}
        times = _in_turns(able, cell, share, missing)
        for label, own in times.items():
            figures |= Spread.of(own).figures(f"side.{label}.{cell}_ms")
        if number == 0:
            figures |= ratios(times)
    return figures


def _in_turns(sides: Mapping[str, Side], cell: Cell, seconds: float, missing: dict[str, str]) -> dict[str, list[float]]:
    failed: dict[str, str] = {}

    def run(label: str) -> float:
        if label in failed:
            return 0.0
        try:
            return sides[label].milliseconds(cell)
        except BackendError as error:  # too large a batch, most likely
            failed[label] = str(error)
            return 0.0

    times = in_turns({label: partial(run, label) for label in sides}, seconds) if sides else {}
    missing |= {f"{label}.{cell}": reason for label, reason in failed.items()}
    return {label: own for label, own in times.items() if label not in failed}


def ratios(times: Mapping[str, Sequence[float]]) -> Figures:
    """How many times as fast one side is as another, from times that were taken in turns."""
    figures: Figures = {}
    torch = [label for label in (TORCH, TORCH_COMPILED) if label in times]
    if torch and ORT in times:
        best = min(torch, key=lambda label: Spread.of(times[label]).p50)
        figures |= Ratio.of(times[best], times[ORT]).figures("ort_cpu_over_torch")
        figures["meta.ort_cpu_over_torch"] = f"{ORT} against {best}" + ("" if len(torch) > 1 else ", the only one of torch's that was run")
    if ORT in times and ORT_INT8 in times:
        figures |= Ratio.of(times[ORT], times[ORT_INT8]).figures("int8_over_fp32")
    return figures


def peak_fractions(bundle: Bundle, side: Side, seconds: float) -> Figures:
    """A denoiser's multiply-accumulates per second, as a fraction of those of a large matrix product, both timed in turns.

    Returns:
        ``peak_gmacs.<side>``: of the product, in 10**9 per second; ``peak_turns.<side>``: turns that were made;
        ``peak_fraction.<side>.<T>.b<B>``; ``peak_fraction`` is that of ``ort_cpu.fp32`` for a chunk of :data:`HEADLINE` frames at batch 1,
        ``peak_fraction_int8`` that of ``ort_cpu.int8``.
    """
    label = side.spec.label
    lengths = [length for length in PEAK_LENGTHS if length in bundle.manifest.segmentation.lengths] or [headline(bundle.manifest)]
    cells = [Cell("denoise", length, batch) for length in lengths for batch in PEAK_BATCHES]
    products = [Cell("product", size) for size in (PRODUCT_SIZES if side.spec.on_cpu else GPU_PRODUCT_SIZES)]
    try:
        tried = in_turns({str(cell): partial(side.milliseconds, cell) for cell in products}, 0.0, TRIALS)
        best = max(products, key=lambda product: product.size**3 / Spread.of(tried[str(product)]).p50)
        times = in_turns({str(cell): partial(side.milliseconds, cell) for cell in (best, *cells)}, seconds)
    except BackendError as error:
        return {f"meta.not_run.{label}.peak": str(error)}
    product = Spread.of(times[str(best)])
    figures: Figures = {f"peak_gmacs.{label}": best.size**3 / product.p50 / (_GIGA / 1e3), f"peak_turns.{label}": float(product.n)}
    for cell in cells:
        share = Ratio.of(times[str(best)], times[str(cell)]).times(fraction(work.denoiser_macs(bundle, cell.size) * cell.batch, best.size))
        figures |= share.figures(f"peak_fraction.{label}.{cell.size}.b{cell.batch}")
        headlines = {ORT: "peak_fraction", ORT_INT8: "peak_fraction_int8"}
        if label in headlines and cell == Cell("denoise", headline(bundle.manifest)):
            figures |= share.figures(headlines[label])
    return figures


def fraction(macs: int, size: int) -> float:
    """The work of a graph, in products of ``size`` x ``size``: what the ratio of their times is to be multiplied with."""
    return macs / size**3


def _described(label: str, side: Side) -> Figures:
    threads = int(side.opened["threads"])
    text = f"{side.opened['device']}, {threads} thread{'s' * (threads > 1)}"
    figures: Figures = {f"meta.side.{label}": text, f"side.{label}.open_s": float(side.opened["open_s"])}
    with contextlib.suppress(BackendError):
        figures |= {f"side.{label}.{name}": value for name, value in side.memory().items() if value}
    return figures
