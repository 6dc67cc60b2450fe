# SPDX-License-Identifier: Apache-2.0
"""``longscape surprise``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from longscape_ros.commands.command import Command
from longscape_ros.commands.options import add_backend, add_bundle, add_mapping, add_precision, bundle_of, mapping_of
from longscape_ros.commands.terminal import Figures, Terminal


def add_options(parser: ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("--train", type=Path, required=True, metavar="DIR", help="undisturbed recordings to pick thresholds by")
    parser.add_argument("--heldout", type=Path, required=True, metavar="DIR", help="undisturbed recordings to count false alarms in")
    parser.add_argument(
        "--disturbed", type=Path, required=True, metavar="DIR", help="recordings that are disturbed once; others count as undisturbed"
    )
    parser.add_argument("--episodes", type=int, metavar="N", help="most undisturbed recordings of each, spread evenly (default: all)")
    parser.add_argument("--every", type=int, default=2, metavar="N", help="images from one prediction to the next (default: 2)")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="most of an undisturbed recording to watch (default: 10)")
    parser.add_argument("--table", type=Path, metavar="FILE", help="also write the figures as Markdown")
    add_bundle(parser)
    add_backend(parser)
    add_precision(parser)
    add_mapping(parser, default="the bundle's")


def run(options: Namespace, terminal: Terminal) -> Figures:
    """Watches, picks and judges."""
    from longscape_ros.bags.reader import find_bags
    from longscape_ros.evaluation.surprise import judge
    from longscape_ros.evaluation.surprise_table import table
    from longscape_ros.evaluation.windows import spread
    from longscape_ros.runtime.backends import create_backend
    from longscape_ros.runtime.predictor import Predictor

    bundle = bundle_of(options)
    train, calm = (spread(find_bags(folder), options.episodes) for folder in (options.train, options.heldout))
    heldout = [*calm, *find_bags(options.disturbed)]
    predictor = Predictor(bundle, create_backend(bundle, options.backend, precision=options.precision))
    try:
        with terminal.progress("surprise") as progress:
            found = judge(bundle, predictor, train, heldout, mapping_of(options), options.every, options.seconds, progress)
        figures: Figures = {
            **found,
            "every": float(options.every),
            "meta.model_id": bundle.model_id,
            "meta.backend": predictor.backend.name,
            "meta.precision": predictor.backend.precision,
        }
    finally:
        predictor.backend.close()
    if options.table:
        options.table.parent.mkdir(parents=True, exist_ok=True)
        options.table.write_text(table(figures), encoding="utf-8")
    return figures


COMMAND = Command(
    name="surprise",
    summary="measure how many disturbances are noticed, and how often there is a false alarm",
    details="Picks thresholds for rates of false alarms on training recordings, and reports on held-out ones. What disturbs a recording "
    "is told by its topic /disturbance, as longscape generate --disturb writes it; recordings without it are undisturbed.",
    example="longscape surprise --train data/train --heldout data/heldout --disturbed data/disturbed --table surprise.md",
    add_options=add_options,
    run=run,
)
