# SPDX-License-Identifier: Apache-2.0
"""``longscape eval``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from longscape_ros.commands.command import Command
from longscape_ros.commands.options import add_backend, add_bundle, add_mapping, bundle_of, mapping_of, whole_numbers
from longscape_ros.commands.terminal import Figures, Terminal

SHEET_WINDOWS = 4


def add_options(parser: ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("--bags", type=Path, required=True, metavar="DIR", help="a recording, or a folder with recordings below it")
    parser.add_argument("--horizons", type=whole_numbers, metavar="H1,H2", help="frames ahead to score at (default: 1,8,16,32,64,96)")
    parser.add_argument("--windows", type=int, metavar="N", help="most places to predict from, spread evenly (default: all)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the choice of shuffled actions (default: 0)")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="also draw actual, predicted and error of a few windows")
    parser.add_argument("--update-bundle", action="store_true", help="store the figures in the bundle's manifest")
    add_bundle(parser)
    add_backend(parser)
    add_mapping(parser, default="the bundle's")


def run(options: Namespace, terminal: Terminal) -> Figures:
    """Scores, and draws and stores if asked to."""
    from longscape_ros.bags.reader import find_bags
    from longscape_ros.bundle import update_reports
    from longscape_ros.evaluation import HORIZONS, contact_sheet, evaluate

    bundle, mapping = bundle_of(options), mapping_of(options)
    bags = find_bags(options.bags)
    horizons = options.horizons or HORIZONS
    with terminal.progress("eval") as progress:
        figures = evaluate(
            bundle,
            bags,
            mapping,
            horizons,
            options.windows,
            options.seed,
            options.backend,
            lambda done, total: progress(done, total, f"{done} of {total} windows"),
        )
    if options.update_bundle:
        update_reports(bundle.path, evaluation=figures)
    texts = {"meta.model_id": bundle.model_id, "meta.bags": str(options.bags)}
    if options.sheet:
        texts["meta.sheet"] = str(contact_sheet(bundle, bags, options.sheet, mapping, horizons, SHEET_WINDOWS, options.backend))
    return {**figures, **texts}


COMMAND = Command(
    name="eval",
    summary="score a bundle on bags that it was not trained on",
    details="Predicts from many places with the recorded commands, and compares with what the camera saw: the model, the last frame "
    "copied, the autoencoder alone (the ceiling), and the model with another episode's actions.",
    example="longscape eval --bundle bundles/mine --bags data/heldout --json eval.json --sheet eval.png",
    add_options=add_options,
    run=run,
)
