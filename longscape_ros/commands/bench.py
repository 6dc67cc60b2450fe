# SPDX-License-Identifier: Apache-2.0
"""``longscape bench``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from longscape_ros.commands.command import Command
from longscape_ros.commands.options import add_backend, add_bundle, bundle_of
from longscape_ros.commands.terminal import Figures, Terminal


def add_options(parser: ArgumentParser) -> None:
    """Declares the command's options."""
    add_bundle(parser)
    add_backend(parser)
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: the usable cores, at most 8)")
    parser.add_argument("--seconds", type=float, default=30.0, metavar="S", help="for all measurements, roughly (default: 30)")


def run(options: Namespace, terminal: Terminal) -> Figures:
    """Measures."""
    from longscape_ros.bench import bench

    bundle = bundle_of(options)
    terminal.say(f"Measuring {bundle.model_id} for about {options.seconds:g} seconds ...")
    return bench(bundle, options.backend, options.threads, options.seconds)


COMMAND = Command(
    name="bench",
    summary="measure how fast a bundle runs on this machine",
    details="Times each graph, each chunk length, whole predictions, and the way from a camera message to a prediction's message.",
    example="longscape bench --json bench.json",
    add_options=add_options,
    run=run,
)
