# SPDX-License-Identifier: Apache-2.0
"""``longscape generate``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from longscape_ros.commands.command import Command
from longscape_ros.commands.options import words
from longscape_ros.commands.terminal import Figures, Terminal
from longscape_ros.errors import InputError

SPLIT_FILE = Path(__file__).parent.parent / "simulation" / "split.yaml"
"""Which episodes are for training and which are held out."""

SPLITS = ("train", "heldout", "benchmark-train", "benchmark-heldout", "benchmark-transfer")
"""The file's splits."""


def add_options(parser: ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the bags and their mapping.yaml")
    parser.add_argument("--split", choices=SPLITS, help="tasks, seeds and counts of simulation/split.yaml; options go first")
    parser.add_argument("--tasks", type=words, metavar="T1,T2", help="any of Meta-World's tasks, for example reach,push,drawer-open")
    parser.add_argument("--episodes", type=int, metavar="N", help="per task (default: 1)")
    parser.add_argument("--seed", type=int, metavar="S", help="of the first episode, then S + 1 ... (default: 0)")
    parser.add_argument("--image-size", type=int, metavar="PIXELS", help="height and width of the images (default: 64)")
    parser.add_argument("--frames", type=int, metavar="N", help="per episode, at 20 Hz (default: 400)")
    parser.add_argument(
        "--disturb",
        metavar="KIND[:SIZE]",
        help="disturb each episode once: bump[:M/S], move[:M], block[:S] or grip[:S]; what and when is on the topic /disturbance",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core)")


def run(options: Namespace, terminal: Terminal) -> Figures:
    """Records the episodes."""
    from longscape_ros.simulation.arm import describe_graphics
    from longscape_ros.simulation.disturbance import parse_disturbance
    from longscape_ros.simulation.generate import generate

    plan: dict[str, Any] = {"episodes": 1, "seed": 0, "image_size": 64, "frames": 400}
    plan |= read_split(options.split) if options.split else {}
    plan |= {name: given for name in (*plan, "tasks") if (given := getattr(options, name)) is not None}
    if not plan.get("tasks"):
        raise InputError(f"Got no tasks, expected --tasks T1,T2 or --split {'|'.join(SPLITS)}.")
    disturbance = parse_disturbance(options.disturb) if options.disturb else None
    with terminal.progress("generate") as progress:
        figures: Figures = {**generate(**plan, output=options.output, workers=options.workers, progress=progress, disturbance=disturbance)}
    if figures["episodes"] != figures["kept"]:
        figures["meta.graphics"] = describe_graphics()
    return figures


def read_split(name: str) -> dict[str, Any]:
    """Tasks, seeds and counts of the committed split, as :func:`longscape_ros.simulation.generate.generate` takes them."""
    import yaml

    document = yaml.safe_load(SPLIT_FILE.read_text(encoding="utf-8"))
    split = document["splits"][name]
    return {
        "tasks": tuple(document["tasks"][split["tasks"]]),
        "episodes": split["episodes"],
        "seed": split["first_seed"],
        "image_size": document["image_size"],
        "frames": split["frames"],
    }


COMMAND = Command(
    name="generate",
    summary="record episodes of the simulated robot as bags",
    details="Each episode is a rosbag2 (MCAP) folder DIR/TASK_SEED with the topics that a real robot would record; images are lossless. "
    "Episodes that are there already are kept, so an interrupted call goes on where it was.",
    example="longscape generate --tasks drawer-open,push --episodes 4 --seed 1000 --image-size 64 --output data/train",
    add_options=add_options,
    run=run,
    extra="sim",
    modules=("mujoco", "metaworld"),
)
