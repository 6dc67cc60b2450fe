# SPDX-License-Identifier: Apache-2.0
"""``longscape export``: a training to a bundle, a bundle to TensorRT engines, or whether a bundle's backends compute the same."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from longscape_ros.commands.command import Command
from longscape_ros.commands.options import add_bundle, bundle_of, words
from longscape_ros.commands.terminal import Figures, Terminal
from longscape_ros.errors import InputError, ParityError

BUILD, VERIFY, EXPORT = "--tensorrt", "--verify", "RUN"
TAKES = {
    EXPORT: {"run", "output", "name", "per_step", "steps", "teacher"},
    BUILD: {"output", "bundle", "targets", "precision"},
    VERIFY: {"bundle", "backend", "precision", "reference"},
}
"""What is done -> the options that it has."""

NEEDS = {EXPORT: {"run", "output"}, BUILD: {"output"}, VERIFY: set[str]()}


def add_options(parser: ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("run", type=Path, nargs="?", metavar="RUN", help="folder of a finished training")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder of the bundle, or of the engines")
    parser.add_argument("--name", help="of the model (default: the bundle's folder)")
    parser.add_argument("--per-step", action="store_const", const=True, help="the samplers in their per-step form too, for studies")
    parser.add_argument("--steps", type=int, metavar="N", help="sampling steps per chunk (default: those that the run was trained for)")
    parser.add_argument("--teacher", action="store_const", const=True, help="the denoiser before distillation, to compare with")
    add_bundle(parser)
    parser.add_argument("--precision", metavar="NAME", help="of engines: fp16 or fp32 (default: fp16); to verify: also int8 (default: all)")
    engines = parser.add_argument_group(
        "TensorRT engines",
        "With --tensorrt, engines are built of a bundle that exists; docs/engines.md says for which GPUs, and what that needs.",
    )
    engines.add_argument(BUILD, action="store_true", help="build engines")
    engines.add_argument(
        "--targets", type=words, metavar="NAME,NAME", help="GPUs, such as sm86,sm89,sm120 (default: current, this machine's)"
    )
    verification = parser.add_argument_group(
        "Verification",
        "With --verify, the backends that work here are compared with the reference on the examples of a bundle: every graph, and the "
        "PSNR of rollouts of 64 frames. One that is too far off is an error.",
    )
    verification.add_argument(VERIFY, action="store_true", help="compare backends")
    verification.add_argument("--backend", metavar="NAME", help="the one to compare (default: all)")
    verification.add_argument("--reference", metavar="NAME", help="backend to compare with (default: torch, or else ort_cpu, in fp32)")


def run(options: Namespace, terminal: Terminal) -> Figures:
    """Exports, builds or verifies."""
    what = BUILD if options.tensorrt else VERIFY if options.verify else EXPORT
    if options.tensorrt and options.verify:
        raise InputError(f"Got {BUILD} and {VERIFY}, expected one of them; engines are verified where they can run, after they were built.")
    given = {name for taken in TAKES.values() for name in taken if getattr(options, name) is not None}
    if strange := given - TAKES[what]:
        raise InputError(f"Got {_shown(strange)} with {what}, expected with that nothing but {_shown(TAKES[what] - {'run'})}.")
    if options.steps is not None and options.steps < 1:
        raise InputError(f"Got {options.steps} sampling steps, expected one or more.")
    if missing := NEEDS[what] - given:
        raise InputError(f"Got no {_shown(missing)}, expected RUN --output DIR to export a training, {BUILD} --output DIR, or {VERIFY}.")
    return {EXPORT: _export, BUILD: _engines, VERIFY: _verify}[what](options, terminal)


def _shown(names: set[str]) -> str:
    return ", ".join(sorted("RUN" if name == "run" else "--" + name.replace("_", "-") for name in names))


def _export(options: Namespace, terminal: Terminal) -> Figures:
    """Makes a bundle."""
    from longscape_ros.export.export import export_run

    with terminal.progress("export") as progress:
        run, output, name = options.run, options.output, options.name
        figures = export_run(run, output, name, progress, options.steps, bool(options.per_step), bool(options.teacher))
    return dict(figures)


def _verify(options: Namespace, terminal: Terminal) -> Figures:
    """Compares backends."""
    from longscape_ros.parity import verify
    from longscape_ros.runtime.backend import AUTO

    bundle = bundle_of(options)
    with terminal.progress("verify") as progress:
        figures, faults = verify(bundle, options.backend or AUTO, options.precision or AUTO, options.reference or AUTO, progress)
    if faults:
        terminal.table("verification", figures)
        raise ParityError("\n".join(map(str, faults)))
    return figures


def _engines(options: Namespace, terminal: Terminal) -> Figures:
    """Builds engines."""
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
    summary="make a bundle of a training or TensorRT engines of a bundle, and verify backends",
    details="A bundle is what runs on the robot: ONNX graphs, their weights once, and a manifest. Every graph is compared with PyTorch "
    "on the stored weights; a difference above 1e-4 is an error. Engines are what TensorRT runs in the place of the graphs.",
    example="longscape export runs/mine --output bundles/mine",
    add_options=add_options,
    run=run,
    extra="train",
    modules=("torch", "einops", "onnx", "onnxscript"),
    needs=lambda options: not (options.tensorrt or options.verify),
)
