# SPDX-License-Identifier: Apache-2.0
"""``longscape predict``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from longscape_ros.commands.command import Command
from longscape_ros.commands.options import add_backend, add_bundle, add_mapping, add_precision, bundle_of, mapping_of
from longscape_ros.commands.terminal import Figures, Terminal

SUMMED = ("predictions", "predicted_frames", "images", "skipped", "invalid_messages", "recording_s", "compute_s")
"""What is added up over several recordings."""


def add_options(parser: ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("bag", type=Path, metavar="BAG", help="a rosbag2 folder, an .mcap file, or a folder with several below it")
    parser.add_argument("--output", type=Path, required=True, metavar="OUT.mcap", help="file to write; of several recordings: a folder")
    parser.add_argument(
        "--plan",
        choices=("causal", "recorded"),
        default="causal",
        help="know only the commands received by then, as the live node does, or all (default: causal)",
    )
    parser.add_argument("--every", type=float, default=1.0, metavar="S", help="seconds between predictions; 0: at every image (default: 1)")
    parser.add_argument("--horizon", type=int, metavar="N", help="most frames to predict (default: the bundle's)")
    parser.add_argument(
        "--plan-extension",
        choices=("none", "hold"),
        help="what follows the last known command: nothing, or the same held and marked as assumed (default: hold if causal, else none)",
    )
    add_bundle(parser)
    add_backend(parser)
    add_precision(parser)
    add_mapping(parser, default="the bundle's")


def run(options: Namespace, terminal: Terminal) -> Figures:
    """Predicts from each recording."""
    from longscape_ros.bags.reader import find_bags
    from longscape_ros.contract import PlanExtension
    from longscape_ros.offline import predict_bag

    bundle = bundle_of(options)
    extension = PlanExtension(options.plan_extension) if options.plan_extension else None
    arguments: dict[str, Any] = {
        "mapping": mapping_of(options),
        "plan": options.plan,
        "every": options.every,
        "horizon": options.horizon,
        "backend": options.backend,
        "precision": options.precision,
        "plan_extension": extension,
    }
    bags = find_bags(options.bag)
    results: list[Figures] = []
    for bag, output in zip(bags, outputs(bags, options.bag, options.output), strict=True):
        with terminal.progress(f"predict {bag.name}") as progress:
            results.append(predict_bag(bag, output, bundle, progress=progress, **arguments))
    return results[0] if len(results) == 1 else _sum(results) | {"meta.output": str(options.output)}


def outputs(bags: list[Path], at: Path, output: Path) -> list[Path]:
    """Where the predictions of each recording go: the file that is named, or a file for each in the folder that is named."""
    if bags == [at] or (len(bags) == 1 and output.suffix == ".mcap"):
        return [output]
    names = (str(bag.relative_to(at)).removesuffix(".mcap") for bag in bags)
    return [output / f"{name}.mcap" for name in names]


def _sum(results: list[Figures]) -> Figures:
    totals = {name: sum(float(figures[name]) for figures in results) for name in SUMMED}
    same = {name: results[0][name] for name in ("meta.model_id", "meta.backend", "meta.precision", "meta.plan")}
    return {**totals, "bags": float(len(results)), "realtime_factor": totals["recording_s"] / totals["compute_s"], **same}


COMMAND = Command(
    name="predict",
    summary="predict from a recording; write camera, commands and predictions into an MCAP file",
    details="The same predictor as the live node's, faster than real time. The file opens in Foxglove and Rerun: /predictor/prediction, "
    "/predictor/prediction/filmstrip, and /predictor/prediction/playback/compressed, which plays beside the camera.",
    example="longscape predict my_bags/run_1 --output run_1_predicted.mcap",
    add_options=add_options,
    run=run,
)
