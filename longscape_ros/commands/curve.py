# SPDX-License-Identifier: Apache-2.0
"""``longscape curve``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from longscape_ros.commands.command import Command
from longscape_ros.commands.terminal import Figures, Terminal


def add_options(parser: ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a training, finished or not")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="also draw the curves")
    parser.add_argument(
        "--decay",
        type=float,
        metavar="SHARE",
        help="last share of the denoiser's stage in which the learning rate falls, which is left out of the fit (default: the recipe's)",
    )


def run(options: Namespace, terminal: Terminal) -> Figures:
    """Reads the logs."""
    from longscape_ros.learning import read_learning

    runs = read_learning(options.runs, options.decay)
    figures: Figures = {name: figure for run in runs for name, figure in run.figures().items()}
    if options.plot:
        from longscape_ros.learning_plot import draw_learning

        figures["meta.plot"] = str(draw_learning(runs, options.plot))
    return figures


COMMAND = Command(
    name="curve",
    summary="show the learning curves of trainings, and where they are heading",
    details="Reads the logs of finished and unfinished trainings, and fits how much the denoiser's loss falls per doubling of the steps "
    "while the learning rate is constant.",
    example="longscape curve runs/mine runs/other --plot curves.png --json curves.json",
    add_options=add_options,
    run=run,
)
