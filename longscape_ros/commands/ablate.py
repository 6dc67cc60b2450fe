# SPDX-License-Identifier: Apache-2.0
"""``longscape ablate``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from longscape_ros.commands.command import Command
from longscape_ros.commands.options import add_backend, add_mapping, add_scoring, mapping_of, words
from longscape_ros.commands.terminal import Figures, Terminal


def add_options(parser: ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("--bags", type=Path, required=True, metavar="DIR", help="folder with the recordings to train on")
    parser.add_argument("--heldout", type=Path, required=True, metavar="DIR", help="folder with the recordings to score on")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for runs, bundles and ablations.json")
    parser.add_argument("--recipe", default="cpu-tune", metavar="NAME", help="what the variants change (default: cpu-tune)")
    parser.add_argument("--init", type=Path, metavar="BUNDLE", help="what all variants begin with (default: from nothing)")
    parser.add_argument("--variants", type=words, metavar="V1,V2", help="default: all")
    parser.add_argument("--device", default="auto", metavar="NAME", help="to train on: auto, cpu or cuda (default: auto)")
    parser.add_argument("--table", type=Path, metavar="FILE", help="also write a Markdown table")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="also draw the differences from longscape with their intervals")
    add_scoring(parser)
    add_backend(parser)
    add_mapping(parser, default="mapping.yaml beside the bags")


def run(options: Namespace, terminal: Terminal) -> Figures:
    """Trains and scores what is missing."""
    from longscape_ros.ablations import VARIANTS, Evaluation, ablate
    from longscape_ros.ablations_plot import draw_ablations
    from longscape_ros.bags.mapping import load_mapping
    from longscape_ros.bags.reader import find_bags
    from longscape_ros.bundle import find_bundle, load_bundle
    from longscape_ros.comparison import flat, table
    from longscape_ros.errors import InputError
    from longscape_ros.evaluation import HORIZONS
    from longscape_ros.model.processes import Processes, choose_device
    from longscape_ros.model.recipes import RECIPES
    from longscape_ros.model.stored import stored_weights
    from longscape_ros.model.train import read_data

    if options.recipe not in RECIPES:
        raise InputError(f"Got the recipe {options.recipe!r}, expected one of {', '.join(RECIPES)}.")
    recipe = RECIPES[options.recipe]()
    evaluation = Evaluation(
        find_bags(options.heldout), options.windows, options.probe, tuple(options.horizons or HORIZONS), options.backend
    )
    data = read_data(options.bags, mapping_of(options) or load_mapping(options.bags / "mapping.yaml"), recipe.image_size)
    processes = Processes(choose_device(options.device))
    initial = None if options.init is None else stored_weights(load_bundle(find_bundle(options.init)))
    variants = options.variants or list(VARIANTS)
    with terminal.progress("ablate") as progress:
        summary = ablate(data, options.recipe, recipe, options.output, variants, evaluation, processes, initial, progress)
    if options.table:
        options.table.write_text(table(summary))
    if options.plot:
        draw_ablations(summary, options.plot)
    return dict(flat(summary))


COMMAND = Command(
    name="ablate",
    summary="train and score the method beside everything it could be replaced by",
    details="Each variant has the same autoencoder, data, training steps and evaluation. What is there already is kept, so an interrupted "
    "call goes on; variants can be named one by one, in as many processes as there are cores, once longscape is scored.",
    example="longscape ablate --bags data/train --heldout data/heldout --output runs/ablations --probe probe.onnx",
    add_options=add_options,
    run=run,
    extra="train",
    modules=("torch", "einops", "onnx", "onnxscript"),
)
