# SPDX-License-Identifier: Apache-2.0
"""``longscape probe``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from longscape_ros.commands.command import Command
from longscape_ros.commands.options import add_mapping, mapping_of, words
from longscape_ros.commands.terminal import Figures, Terminal


def add_options(parser: ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("--bags", type=Path, required=True, metavar="DIR", help="folder with recordings at or below it")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the probe, an ONNX file")
    parser.add_argument("--minutes", type=float, default=8.0, metavar="M", help="time limit of the training (default: 8)")
    parser.add_argument("--topic", default="/joint_states", metavar="TOPIC", help="sensor_msgs/JointState (default: /joint_states)")
    parser.add_argument(
        "--names",
        type=words,
        default=("hand_x", "hand_y", "hand_z"),
        metavar="N1,N2",
        help="measured numbers in metres (default: hand_x,hand_y,hand_z)",
    )
    parser.add_argument("--image-size", type=int, default=64, metavar="PX", help="height and width, as the bundle has (default: 64)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of weights, batches and the episodes kept apart (default: 0)")
    add_mapping(parser, default="mapping.yaml beside the bags")


def run(options: Namespace, terminal: Terminal) -> Figures:
    """Trains, verifies and writes."""
    from longscape_ros.export.probe import make_probe
    from longscape_ros.model.probe import ProbeConfig

    config = ProbeConfig(image_size=(options.image_size, options.image_size), minutes=options.minutes, seed=options.seed)
    with terminal.progress("probe") as progress:
        figures = make_probe(options.bags, options.output, config, mapping_of(options), options.names, options.topic, progress)
    return {**figures, "meta.probe": str(options.output), "meta.names": ", ".join(options.names), "meta.topic": options.topic}


COMMAND = Command(
    name="probe",
    summary="train a probe that tells where the gripper is in an image",
    details="Learns positions that the robot measured from camera images; eval uses it to say by how many centimetres predictions "
    "misplace the gripper. One episode of ten is kept apart for the probe's own error.",
    example="longscape probe --bags data/train --output bundles/mine/probe.onnx",
    add_options=add_options,
    run=run,
    extra="train",
    modules=("torch", "onnx", "onnxscript"),
)
