# SPDX-License-Identifier: Apache-2.0
"""``longscape export``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from longscape_ros.commands.command import Command
from longscape_ros.commands.terminal import Figures, Terminal


def add_options(parser: ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished training")
    parser.add_argument("--output", type=Path, required=True, metavar="BUNDLE", help="folder of the bundle")
    parser.add_argument("--name", help="of the model (default: the bundle's folder)")


def run(options: Namespace, terminal: Terminal) -> Figures:
    """Exports and verifies."""
    from longscape_ros.export.export import export_run

    with terminal.progress("export") as progress:
        figures = export_run(options.run, options.output, options.name, progress)
    return dict(figures)


COMMAND = Command(
    name="export",
    summary="make a bundle of a training, verified against PyTorch",
    details="A bundle is what runs on the robot: ONNX graphs, their weights once, and a manifest. Every graph is compared with PyTorch "
    "on the stored weights; a difference above 1e-4 is an error.",
    example="longscape export runs/mine --output bundles/mine",
    add_options=add_options,
    run=run,
    extra="train",
    modules=("torch", "einops", "onnx", "onnxscript"),
)
