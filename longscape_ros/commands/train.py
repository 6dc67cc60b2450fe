# SPDX-License-Identifier: Apache-2.0
"""``longscape train``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from longscape_ros.commands.command import Command
from longscape_ros.commands.options import add_mapping, mapping_of
from longscape_ros.commands.terminal import Figures, Terminal


def add_options(parser: ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("--bags", type=Path, required=True, metavar="DIR", help="folder with recordings at or below it")
    parser.add_argument("--recipe", required=True, metavar="NAME", help="cpu (90 minutes), cpu-short (10 minutes) or toy (seconds)")
    parser.add_argument("--output", type=Path, required=True, metavar="RUN", help="folder of the run")
    parser.add_argument("--minutes", type=float, metavar="M", help="time limit of the whole training (default: the recipe's)")
    add_mapping(parser, default="mapping.yaml beside the bags")


def run(options: Namespace, terminal: Terminal) -> Figures:
    """Trains."""
    from longscape_ros.model.train import train

    with terminal.progress("train") as progress:
        figures = train(options.bags, options.recipe, options.output, mapping_of(options), options.minutes, progress)
    return dict(figures)


COMMAND = Command(
    name="train",
    summary="train a model on bags",
    details="Calibrates ranges and the chunk rule on the bags, trains the autoencoder, then the denoiser. The same call goes on with a "
    "training that was interrupted.",
    example="longscape train --bags my_bags --mapping my_robot.yaml --recipe cpu-short --output runs/mine",
    add_options=add_options,
    run=run,
    extra="train",
    modules=("torch", "einops"),
)
