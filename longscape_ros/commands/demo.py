# SPDX-License-Identifier: Apache-2.0
"""``longscape demo``."""

from __future__ import annotations

from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from pathlib import Path

from longscape_ros.commands.command import Command
from longscape_ros.commands.options import add_backend, add_bundle, add_precision
from longscape_ros.commands.terminal import Figures, Terminal


def add_options(parser: ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="how long to record (default: 60)")
    parser.add_argument("--task", default="drawer-open", metavar="NAME", help="what the arm works at (default: drawer-open)")
    parser.add_argument("--seed", type=int, default=9000, metavar="N", help="of places and motions; from 9000 on held out (default: 9000)")
    parser.add_argument("--output", type=Path, default=Path("demo"), metavar="DIR", help="folder for what it leaves (default: demo)")
    parser.add_argument("--policy", action=BooleanOptionalAction, default=True, help="whether a scripted policy commands the arm")
    parser.add_argument(
        "--disturb",
        metavar="KIND[:SIZE]",
        help="disturb the arm once, for the predictor to notice: bump[:M/S], move[:M], block[:S] or grip[:S]",
    )
    add_bundle(parser)
    add_backend(parser)
    add_precision(parser)


def run(options: Namespace, terminal: Terminal) -> Figures:
    """Runs the demo."""
    from longscape_ros.demo import DemoConfig, run_demo
    from longscape_ros.simulation.disturbance import parse_disturbance

    config = DemoConfig(
        seconds=options.seconds,
        task=options.task,
        seed=options.seed,
        output=options.output,
        bundle=options.bundle,
        policy=options.policy,
        backend=options.backend,
        precision=options.precision,
        disturbance=parse_disturbance(options.disturb) if options.disturb else None,
    )
    return run_demo(config, console=terminal.out)


COMMAND = Command(
    name="demo",
    summary="watch a simulated robot move, and see what the predictor thought it would see",
    details="Starts the simulated arm, a scripted policy, the predictor and a recorder as processes of their own that talk over DDS with "
    "ROS topics. Leaves demo.mp4, contact_sheet.png, demo.mcap (for Foxglove and Rerun) and report.json. Ctrl-C ends all of it.",
    example="longscape demo --seconds 60 --task push --seed 9001 --output demo",
    add_options=add_options,
    run=run,
    extra="demo",
    modules=("mujoco", "metaworld", "av"),
)
