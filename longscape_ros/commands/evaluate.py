# SPDX-License-Identifier: Apache-2.0
"""``longscape eval``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from longscape_ros.commands.command import Command
from longscape_ros.commands.options import (
    add_backend,
    add_bundle,
    add_mapping,
    add_precision,
    add_scoring,
    bundle_of,
    mapping_of,
)
from longscape_ros.commands.terminal import Figures, Terminal

SHEET_WINDOWS = 4


def add_options(parser: ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("--bags", type=Path, required=True, metavar="DIR", help="a recording, or a folder with recordings below it")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the choice of shuffled actions (default: 0)")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="also draw actual, predicted and error of a few windows")
    parser.add_argument("--report", type=Path, metavar="DIR", help="also write tables, curves, and films of the best and worst episode")
    parser.add_argument("--update-bundle", action="store_true", help="store the figures in the bundle's manifest")
    add_scoring(parser)
    add_bundle(parser)
    add_backend(parser)
    add_precision(parser)
    add_mapping(parser, default="the bundle's")


def run(options: Namespace, terminal: Terminal) -> Figures:
    """Scores, and draws and stores if asked to."""
    from longscape_ros.bags.reader import find_bags
    from longscape_ros.bundle import update_reports
    from longscape_ros.evaluation import HORIZONS, draw_sheet, prepare, routed_chunks, spread, write_experts, write_report

    bundle, mapping = bundle_of(options), mapping_of(options)
    bags = find_bags(options.bags)
    horizons = options.horizons or HORIZONS
    texts = {"meta.model_id": bundle.model_id, "meta.bags": str(options.bags)}
    with prepare(bundle, bags, mapping, horizons, options.windows, options.backend, options.probe, options.precision) as setting:
        with terminal.progress("eval") as progress:
            scores = setting.score(options.seed, lambda done, total: progress(done, total, f"{done} of {total} windows"))
        figures = setting.figures(scores)
        if setting.probe is not None:
            texts["meta.probe"] = str(setting.probe.path)
        if options.sheet:
            shown = spread(setting.windows, SHEET_WINDOWS)
            texts["meta.sheet"] = str(draw_sheet(setting.predictor, shown, setting.horizons, options.sheet))
        if options.report:
            with terminal.progress("report") as progress:
                write_report(setting, scores, options.report, texts, progress)
            texts["meta.report"] = str(options.report)
            with terminal.progress("experts") as progress:
                routed = routed_chunks(setting.predictor, setting.windows, lambda done, total: progress(done, total, "experts"))
            figures |= write_experts(routed, bundle.manifest, options.report)
    if options.update_bundle:
        update_reports(bundle.path, evaluation={name: value for name, value in figures.items() if not name.startswith("ci.")})
    return {**figures, **texts}


COMMAND = Command(
    name="eval",
    summary="score a bundle on bags that it was not trained on",
    details="Predicts from many places with the recorded commands, and compares with what the camera saw: the model, the last frame "
    "copied, the autoencoder alone (the ceiling), and the model with another episode's or mirrored actions. Every figure has a 95 % "
    "interval.",
    example="longscape eval --bundle bundles/mine --bags data/heldout --json eval.json --report report",
    add_options=add_options,
    run=run,
)
