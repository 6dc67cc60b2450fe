# SPDX-License-Identifier: Apache-2.0
"""``longscape export``: a training to a bundle, or a bundle to TensorRT engines."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from longscape_ros.commands.command import Command
from longscape_ros.commands.options import add_bundle, bundle_of, words
from longscape_ros.commands.terminal import Figures, Terminal
from longscape_ros.errors import InputError

TENSORRT_ONLY = ("bundle", "targets", "precision")
"""Options that only --tensorrt has."""


def add_options(parser: ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("run", type=Path, nargs="?", metavar="RUN", help="folder of a finished training")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the bundle, or of the engines")
    parser.add_argument("--name", help="of the model (default: the bundle's folder)")
    engines = parser.add_argument_group(
        "TensorRT engines",
        "With --tensorrt, engines are built of a bundle that exists, for example:\n"
        "  longscape export --tensorrt --targets sm86,sm89,sm120 --output engines\n"
        "docs/engines.md says for which GPUs, and what that needs.",
    )
    engines.add_argument("--tensorrt", action="store_true", help="build engines")
    add_bundle(parser)
    engines.add_argument(
        "--targets", type=words, metavar="NAME,NAME", help="GPUs, such as sm86,sm89,sm120 (default: current, this machine's)"
    )
    engines.add_argument("--precision", metavar="NAME", help="fp16 or fp32 (default: fp16)")


def run(options: Namespace, terminal: Terminal) -> Figures:
    """Exports and verifies."""
    if options.tensorrt:
        return _engines(options, terminal)
    if given := [f"--{name}" for name in TENSORRT_ONLY if getattr(options, name) is not None]:
        raise InputError(f"Got {', '.join(given)} without --tensorrt, expected --tensorrt as well, or none of them.")
    if options.run is None:
        raise InputError("Got neither RUN nor --tensorrt, expected the folder of a finished training, or --tensorrt to build engines.")
    from longscape_ros.export.export import export_run

    with terminal.progress("export") as progress:
        figures = export_run(options.run, options.output, options.name, progress)
    return dict(figures)


def _engines(options: Namespace, terminal: Terminal) -> Figures:
    """Builds engines."""
    for name, value in (("RUN", options.run), ("--name", options.name)):
        if value is not None:
            raise InputError(f"Got {name} {value} with --tensorrt, which builds engines of a bundle; name that with --bundle instead.")
    from longscape_ros.runtime.backend import FP16
    from longscape_ros.runtime.engines import export_engines
    from longscape_ros.runtime.tensorrt import CURRENT

    bundle = bundle_of(options)
    with terminal.progress("engines") as progress:
        targets = (CURRENT,) if options.targets is None else options.targets
        made = export_engines(bundle, options.output, targets, options.precision or FP16, progress=progress)
    figures: Figures = {"meta.bundle": bundle.model_id, "meta.tensorrt": str(made[0].trt), "meta.precision": made[0].precision}
    for engines in made:
        for graph, fact in engines.facts.items():
            at = f"engine.{engines.target}.{graph.removesuffix('.onnx')}"
            figures |= {f"{at}.seconds": fact.seconds, f"{at}.bytes": float(fact.bytes), f"{at}.layers": float(fact.layers)}
            figures[f"{at}.reused"] = float(fact.reused)
    return figures


COMMAND = Command(
    name="export",
    summary="make a bundle of a training, verified against PyTorch, or TensorRT engines of a bundle",
    details="A bundle is what runs on the robot: ONNX graphs, their weights once, and a manifest. Every graph is compared with PyTorch "
    "on the stored weights; a difference above 1e-4 is an error. Engines are what TensorRT runs in the place of the graphs.",
    example="longscape export runs/mine --output bundles/mine",
    add_options=add_options,
    run=run,
    extra="train",
    modules=("torch", "einops", "onnx", "onnxscript"),
    needs=lambda options: not options.tensorrt,
)
