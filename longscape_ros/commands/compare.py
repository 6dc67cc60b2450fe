# SPDX-License-Identifier: Apache-2.0
"""``longscape compare``."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from longscape_ros.commands.command import Command
from longscape_ros.commands.options import (
    add_backend,
    add_bundle,
    add_mapping,
    add_precision,
    add_scoring,
    bundle_of,
    mapping_of,
    words,
)
from longscape_ros.commands.terminal import Figures, Terminal


def add_options(parser: ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("--bags", type=Path, required=True, metavar="DIR", help="recordings that the bundle was not trained on")
    parser.add_argument("--alternatives", type=words, metavar="A1,A2", help="default: all; the bundle as it is is always scored")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write every figure of each alternative as JSON")
    parser.add_argument("--table", type=Path, metavar="FILE", help="also write a Markdown table")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="also draw the differences from longscape with their intervals")
    add_scoring(parser)
    add_bundle(parser)
    add_backend(parser)
    add_precision(parser)
    add_mapping(parser, default="the bundle's")


def run(options: Namespace, terminal: Terminal) -> Figures:
    """Scores, shows a table, and writes and draws if asked to."""
    from longscape_ros.ablations_plot import draw_ablations
    from longscape_ros.alternatives import compare
    from longscape_ros.bags.reader import find_bags
    from longscape_ros.comparison import TABLED, flat, grid, table
    from longscape_ros.evaluation import HORIZONS, prepare

    bundle, mapping, bags = bundle_of(options), mapping_of(options), find_bags(options.bags)
    horizons = options.horizons or HORIZONS
    with prepare(bundle, bags, mapping, horizons, options.windows, options.backend, options.probe, options.precision) as setting:
        shown = tuple(h for h in TABLED if h in setting.horizons) or setting.horizons
        with terminal.progress("compare") as progress:
            summary = compare(setting, options.alternatives, progress)
    _show(grid(summary, shown), terminal)
    for path, text in ((options.output, json.dumps(summary, indent=1) + "\n"), (options.table, table(summary, shown))):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if options.plot:
        draw_ablations(summary, options.plot, shown)
    return {**flat(summary), "meta.model_id": bundle.model_id, "meta.bags": str(options.bags)}


def _show(cells: list[list[str]], terminal: Terminal) -> None:
    heads, *rows = ([cell.replace("`", "").replace("*", "") for cell in row] for row in cells)
    shown = Table(*map(escape, heads), title="longscape compare", box=SIMPLE_HEAD, title_justify="left")
    for row in rows:
        shown.add_row(*map(escape, row))
    terminal.out.print(shown)


COMMAND = Command(
    name="compare",
    summary="score a bundle beside itself with its chunk rule and its choice of experts replaced",
    details="Cuts by the actions, beside every fixed length and the same lengths dealt out by chance; experts by the bundle's choice, "
    "beside chance, chunk length and each expert alone. Nothing is trained: the network saw all lengths and all its experts in its "
    "training, so this tells what the choice is worth where the bundle is used, and not what training by another method would have "
    "given, which longscape ablate tells.",
    example="longscape compare --bundle bundles/mine --bags data/heldout --windows 24 --table compare.md --plot compare.png",
    add_options=add_options,
    run=run,
    shows_figures=True,
)
