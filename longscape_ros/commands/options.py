# SPDX-License-Identifier: Apache-2.0
"""Options that several commands have, and what they mean."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from longscape_ros.errors import InputError

if TYPE_CHECKING:
    from longscape_ros.bundle import Bundle
    from longscape_ros.contract import ActionDimension, ActionSource, TopicMapping

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
ACTION_FORM = "TOPIC[@receive]:TYPE:NAME[=PLACE][:KIND[:UNIT]][,NAME...]"

MAPPING_HELP = f"""\
A mapping says which topics of a robot are the camera and the action. Name a YAML file or one that ships with the package
(franka_droid, widowx_bridge, simulated_arm), or give it as options:

  --image-topic /camera/image_raw --fps 10
  --action /arm_controller/joint_trajectory:trajectory_msgs/msg/JointTrajectory:joint_1,joint_2
  --action /servo_node/delta_twist_cmds:geometry_msgs/msg/TwistStamped:vx=twist.linear.x:velocity:m/s
  --action /gripper/command:std_msgs/msg/Float64:gripper=data:gripper

--action is {ACTION_FORM}, once per topic. PLACE is a joint's name in the message,
or a path such as twist.linear.x or data[2]; without it, it is NAME. KIND is position (the default), velocity, delta, state or
gripper (a state whose flips end a chunk). @receive ignores the messages' own stamps."""


def add_bundle(parser: ArgumentParser) -> None:
    """``--bundle``."""
    parser.add_argument(
        "--bundle", type=Path, metavar="DIR", help="folder of the model bundle, or the name of one that ships (default: default)"
    )


def bundle_of(options: Namespace) -> Bundle:
    """The bundle asked for, checked.

    Raises:
        BundleError: it is missing or damaged.
    """
    from longscape_ros.bundle import find_bundle, load_bundle

    return load_bundle(find_bundle(options.bundle))


def add_backend(parser: ArgumentParser) -> None:
    """``--backend``."""
    known = "tensorrt, ort_tensorrt, ort_cuda, ort_cpu or torch"
    parser.add_argument("--backend", default="auto", metavar="NAME", help=f"{known} (default: auto, the best that works)")


def add_precision(parser: ArgumentParser) -> None:
    """``--precision``."""
    meaning = "fp32, fp16 or int8 (default: auto, the fastest that the export found to predict the same)"
    parser.add_argument("--precision", default="auto", metavar="NAME", help=meaning)


def add_scoring(parser: ArgumentParser) -> None:
    """``--windows``, ``--horizons`` and ``--probe``: where predictions are scored, and what finds the gripper in them."""
    parser.add_argument("--windows", type=int, metavar="N", help="most places to predict from, spread evenly (default: all)")
    parser.add_argument("--horizons", type=whole_numbers, metavar="H1,H2", help="frames ahead to score at (default: 1,8,16,...,200)")
    parser.add_argument("--probe", type=Path, metavar="FILE", help="finds the gripper, see longscape probe (default: the bundle's, if any)")


def add_mapping(parser: ArgumentParser, default: str) -> None:
    """``--mapping``, and the options that stand for one."""
    group = parser.add_argument_group("topics of the bags", MAPPING_HELP)
    group.add_argument("--mapping", metavar="FILE|NAME", help=f"the topic mapping (default: {default})")
    group.add_argument("--image-topic", metavar="TOPIC[:TYPE]", help="the camera; the type is Image, or CompressedImage for .../compressed")
    group.add_argument("--fps", type=float, metavar="HZ", help="rate of the frames to predict")
    group.add_argument("--image-latency-ms", type=float, default=0.0, metavar="MS", help="from the scene to the image's time (default: 0)")
    group.add_argument("--image-stamp", choices=("header", "receive"), default="header", help="what dates the images (default: header)")
    group.add_argument("--action", action="append", default=[], metavar="TOPIC:TYPE:FIELDS", help="a topic that carries actions, see above")


def mapping_of(options: Namespace) -> TopicMapping | None:
    """The mapping asked for; None: none was.

    Raises:
        InputError: it cannot be read, or the options do not make one.
    """
    single = {"--image-topic": options.image_topic, "--fps": options.fps, "--action": options.action}
    given = [name for name, value in single.items() if value]
    if options.mapping and given:
        raise InputError(f"Got --mapping and {', '.join(given)}, expected one or the other.")
    if options.mapping:
        from longscape_ros.bags.mapping import load_mapping

        return load_mapping(options.mapping)
    if not given:
        return None
    if len(given) < len(single):
        raise InputError(f"Got {', '.join(given)}, expected all of {', '.join(single)}, or --mapping.")
    return _mapping_of_options(options)


def _mapping_of_options(options: Namespace) -> TopicMapping:
    from longscape_ros.contract import TopicMapping

    topic, _, kind = options.image_topic.partition(":")
    sources, dimensions = zip(*map(parse_action, options.action), strict=True)
    return TopicMapping(
        image_topic=topic,
        image_type=kind or (COMPRESSED_IMAGE if topic.endswith("/compressed") else IMAGE),
        image_latency_ns=round(1e6 * options.image_latency_ms),
        image_stamp=options.image_stamp,
        fps=options.fps,
        action_sources=tuple(sources),
        dimensions=tuple(dimension for group in dimensions for dimension in group),
    )


def parse_action(text: str) -> tuple[ActionSource, tuple[ActionDimension, ...]]:
    """A topic and its dimensions, from an ``--action`` option.

    Raises:
        InputError: it is not of the form :data:`ACTION_FORM`.
    """
    from longscape_ros.contract import ActionDimension, ActionKind, ActionSource

    topic, _, rest = text.partition(":")
    kind, _, fields = rest.partition(":")
    topic, _, stamp = topic.partition("@")
    if not topic.startswith("/") or kind.count("/") != 2 or not fields or stamp not in ("", "receive"):
        raise InputError(
            f"Got --action {text!r}, expected {ACTION_FORM}, for example /gripper/command:std_msgs/msg/Float64:gripper=data:gripper."
        )
    places: dict[str, str] = {}
    dimensions = []
    for field in fields.split(","):
        named, _, tail = field.partition(":")
        name, _, place = named.partition("=")
        word, _, unit = tail.partition(":")
        known = (*get_args(ActionKind), "gripper")
        if not name or word not in ("", *known):
            raise InputError(f"Got {field!r} in --action, expected NAME[=PLACE][:KIND[:UNIT]], KIND one of {', '.join(known)}.")
        is_gripper = word == "gripper"
        places[name] = place or name
        dimensions.append(ActionDimension(name, unit or "1", "state" if is_gripper else word or "position", is_gripper=is_gripper))  # type: ignore[arg-type]
    return ActionSource(topic, kind, places, "receive" if stamp else "header"), tuple(dimensions)


def whole_numbers(text: str) -> tuple[int, ...]:
    """``1,8,16`` -> (1, 8, 16), for argparse."""
    return tuple(int(part) for part in text.split(","))


def words(text: str) -> tuple[str, ...]:
    """``reach,push`` -> ("reach", "push"), for argparse."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
