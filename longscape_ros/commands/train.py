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
    recipes = "cpu, cpu-more, cpu-128, cpu-128-more, cpu-tune, cpu-short, gpu, gpu-128, workstation or toy"
    parser.add_argument("--recipe", required=True, metavar="NAME", help=recipes)
    parser.add_argument("--output", type=Path, required=True, metavar="RUN", help="folder of the run")
    parser.add_argument("--minutes", type=float, metavar="M", help="time limit of the whole training (default: the recipe's)")
    parser.add_argument("--leg", type=float, metavar="M", help="end after so many minutes, finished or not; the same call goes on")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu or cuda (default: auto, a GPU if there is one)")
    initial = "begin with the weights of a bundle of the recipe's sizes; its images may be smaller or larger"
    parser.add_argument("--init", type=Path, metavar="BUNDLE", help=initial)
    add_mapping(parser, default="mapping.yaml beside the bags")


def run(options: Namespace, terminal: Terminal) -> Figures:
    """Trains."""
    from longscape_ros.bundle import find_bundle, load_bundle
    from longscape_ros.model.stored import stored_weights
    from longscape_ros.model.train import train

    initial = None if options.init is None else stored_weights(load_bundle(find_bundle(options.init)))
    with terminal.progress("train") as progress:
        figures = train(
            options.bags,
            options.recipe,
            options.output,
            mapping_of(options),
            options.minutes,
            progress,
            leg=options.leg,
            device=options.device,
            initial=initial,
        )
    return dict(figures)


COMMAND = Command(
    name="train",
    summary="train a model on bags",
    details="Calibrates ranges and the chunk rule on the bags, trains the autoencoder, the denoiser with its router, distils it to fewer "
    "sampling steps, and trains length predictor and error estimator. The same call goes on with a training that was interrupted; on "
    "another machine it needs RUN/run.json and RUN/weights. Under torchrun all processes share the work.",
    example="longscape train --bags my_bags --mapping my_robot.yaml --recipe cpu-short --output runs/mine",
    add_options=add_options,
    run=run,
    extra="train",
    modules=("torch", "einops"),
)
