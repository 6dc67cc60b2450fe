# SPDX-License-Identifier: Apache-2.0
"""``longscape bench``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from longscape_ros.commands.command import Command
from longscape_ros.commands.options import add_backend, add_bundle, add_precision, bundle_of
from longscape_ros.commands.terminal import Figures, Terminal


def add_options(parser: ArgumentParser) -> None:
    """Declares the command's options."""
    add_bundle(parser)
    add_backend(parser)
    add_precision(parser)
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads of everything (default: the usable cores, at most 8)")
    parser.add_argument("--seconds", type=float, metavar="S", help="for the measurements, roughly (default: 30; with --full 240)")
    parser.add_argument("--full", action="store_true", help="every batch size, chunk length and horizon, and PyTorch compiled")
    parser.add_argument("--compiled", action="store_true", help="compare with PyTorch compiled too, which takes minutes")
    parser.add_argument("--no-compare", action="store_true", help="leave out the comparison of backends")
    parser.add_argument("--no-node", action="store_true", help="leave out the way from a camera through the node to a subscriber")
    parser.add_argument(
        "--camera",
        action="append",
        metavar="ENCODING:WIDTHxHEIGHT@RATE",
        help="measure only whether the node keeps up with this camera, such as rgb8:640x480@30 or jpeg:1920x1080@30; may be repeated",
    )
    parser.add_argument("--report", type=Path, metavar="DIR", help="also write bench.md, bench.json and bench.png")


def run(options: Namespace, terminal: Terminal) -> Figures:
    """Measures, shows tables, and writes a report if asked to."""
    from longscape_ros.bench import BenchConfig, bench
    from longscape_ros.bench.config import FULL_SECONDS, SECONDS
    from longscape_ros.bench.report import write_report
    from longscape_ros.bench.stream import CAMERAS, Stream
    from longscape_ros.bench.tables import tables

    cameras = tuple(map(Stream.of, options.camera or ()))
    config = BenchConfig(
        backend=options.backend,
        precision=options.precision,
        threads=options.threads,
        seconds=options.seconds if options.seconds is not None else FULL_SECONDS if options.full else SECONDS,
        full=options.full,
        compare=not options.no_compare,
        compiled=options.compiled,
        end_to_end=not options.no_node,
        cameras=cameras or CAMERAS,
        only_cameras=bool(cameras),
    )
    bundle = bundle_of(options)
    terminal.say(f"Measuring {bundle.model_id} for about {config.seconds:g} seconds, and the time that processes need to start ...")
    figures = bench(bundle, config, terminal.say)
    terminal.out.print(escape(f"longscape bench: {figures['meta.model_id']} on {figures['meta.cpu']}"))
    for made in tables(figures):
        table = Table(
            *map(escape, made.columns), title=escape(made.title), box=SIMPLE_HEAD, title_justify="left", caption=escape(made.note)
        )
        table.caption_justify = "left"
        for row in made.rows:
            table.add_row(*map(escape, row))
        terminal.out.print(table)
    if options.report:
        for path in write_report(figures, options.report):
            terminal.say(f"Report: {path}")
        figures["meta.report"] = str(options.report)
    return figures


COMMAND = Command(
    name="bench",
    summary="measure how fast a bundle runs on this machine",
    details="Backends side by side, stages, batches, horizons, the way from a camera message to a prediction's message, the same through "
    "the node to another process, whether the node keeps up with cameras, and the share of this machine's peak. docs/benchmarks.md "
    "explains every figure.",
    example="longscape bench --json bench.json --report report",
    add_options=add_options,
    run=run,
    shows_figures=True,
)
