# SPDX-License-Identifier: Apache-2.0
"""Which topics are shown, and as what: found by their types and names, or named by a mapping."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from longscape_ros.contract import ActionSource, TopicMapping
from longscape_ros.errors import InputError
from longscape_ros.messages import ACTION_SEQUENCE, COMPRESSED_IMAGE, IMAGE_TYPES, JOINT_TRAJECTORY, PREDICTED_VIDEO

TWIST, TWIST_STAMPED = "geometry_msgs/msg/Twist", "geometry_msgs/msg/TwistStamped"
FLOAT32, FLOAT64, STRING = "std_msgs/msg/Float32", "std_msgs/msg/Float64", "std_msgs/msg/String"
SURPRISE = "longscape_msgs/msg/Surprise"
DIAGNOSTIC_ARRAY = "diagnostic_msgs/msg/DiagnosticArray"

COMMAND_TYPES = (JOINT_TRAJECTORY, ACTION_SEQUENCE, TWIST_STAMPED, TWIST)
"""Types that are taken for commands where no mapping says what commands are."""

PREDICTOR = "predictor"
"""The predictor's name, where none is found."""

_COMPRESSED = "/compressed"


class Part(Enum):
    """What a topic carries."""

    CAMERA = "camera"
    COMMANDS = "commands"
    PREDICTION = "prediction"
    SURPRISE = "surprise"
    CHUNK = "chunk"
    DIAGNOSTICS = "diagnostics"
    MODEL = "model"


@dataclass(frozen=True, slots=True)
class Channel:
    """A topic that is shown.

    Args:
        part: What it carries.
        topic: Its name.
        type: Its ROS type.
        source: Of commands: what to take from them; None: everything, under the names that they have inside.
        name: Of a surprise: which one; empty: the surprise itself.
    """

    part: Part
    topic: str
    type: str
    source: ActionSource | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to look for.

    Args:
        namespace: Of the predictor, ``/robot_1``; empty: any.
        image: The camera's topic; empty: the mapping's, or the first that is found, below the namespace if there is one there.
        mapping: Camera and commands of the robot; None: they are found.
        predictor: Its full name, ``/robot_1/predictor``; empty: the first that is found in the namespace.
    """

    namespace: str = ""
    image: str = ""
    mapping: TopicMapping | None = None
    predictor: str = ""

    def __post_init__(self) -> None:
        for what, name in (("namespace", self.namespace), ("camera's topic", self.image)):
            if name and (not name.startswith("/") or name.endswith("/")):
                raise InputError(f"Got the {what} {name!r}, expected one that begins with / and does not end with it.")

    def holds(self, topic: str) -> bool:
        """Whether the topic is in the namespace."""
        return not self.namespace or topic.startswith(f"{self.namespace}/")


def choose(published: Mapping[str, str], wanted: Wanted, told: TopicMapping | None = None) -> dict[str, Channel]:
    """The topics to show of those that there are.

    Args:
        published: Topic -> type.
        wanted: What to look for.
        told: The predictor's own mapping, which says what commands are where none is wanted; None: not known.

    Returns:
        Topic -> what it is shown as.
    """
    predictor = (*predictors(published, wanted), f"{wanted.namespace}/{PREDICTOR}")[0]
    fixed = {
        f"{predictor}/prediction": (Part.PREDICTION, PREDICTED_VIDEO),
        f"{predictor}/debug/chunk": (Part.CHUNK, STRING),
        f"{predictor}/model_info": (Part.MODEL, STRING),
        "/diagnostics": (Part.DIAGNOSTICS, DIAGNOSTIC_ARRAY),
    }
    found = [Channel(part, topic, kind) for topic, (part, kind) in fixed.items() if published.get(topic) == kind]
    found += [Channel(Part.CAMERA, topic, published[topic]) for topic in cameras(published, wanted)[:1]]
    found += _commands(published, wanted, wanted.mapping or told)
    surprise = f"{predictor}/surprise"
    for topic in _of_type(published, (SURPRISE, FLOAT32, FLOAT64, *IMAGE_TYPES)):
        if topic == surprise or topic.startswith(f"{surprise}/"):
            found.append(Channel(Part.SURPRISE, topic, published[topic], name=topic.removeprefix(surprise).strip("/")))
    return {channel.topic: channel for channel in found}


def predictors(published: Mapping[str, str], wanted: Wanted) -> list[str]:
    """Full names of what predicts, the one to show first."""
    if wanted.predictor:
        return [wanted.predictor]
    return [topic.removesuffix("/prediction") for topic in _of_type(published, (PREDICTED_VIDEO,)) if wanted.holds(topic)]


def cameras(published: Mapping[str, str], wanted: Wanted) -> list[str]:
    """Topics of cameras, the one to show first; of one that is named, at most that, compressed or not."""
    named = wanted.image or (wanted.mapping.image_topic if wanted.mapping else "")
    found = [topic for topic in _of_type(published, IMAGE_TYPES) if not _is_predicted(topic, published)]
    if named:
        other = named.removesuffix(_COMPRESSED) if named.endswith(_COMPRESSED) else named + _COMPRESSED
        return [topic for topic in (named, other) if topic in found][:1]
    compressed = {topic for topic in found if published[topic] == COMPRESSED_IMAGE}
    found = [topic for topic in found if topic + _COMPRESSED not in compressed]  # what comes compressed need not come raw too
    return sorted(found, key=lambda topic: (not wanted.holds(topic), "depth" in topic))


def doubts(published: Mapping[str, str], wanted: Wanted) -> list[str]:
    """What could have been chosen otherwise, in words."""
    kinds = {"predictors": (predictors(published, wanted), "--namespace"), "cameras": (cameras(published, wanted), "--image")}
    return [
        f"Found the {kind} {', '.join(names)}; {names[0]} is shown, {option} takes another."
        for kind, (names, option) in kinds.items()
        if len(names) > 1
    ]


def _is_predicted(topic: str, published: Mapping[str, str]) -> bool:
    """Whether a picture is a predictor's own."""
    return any(topic.startswith(f"{video.removesuffix('/prediction')}/") for video in _of_type(published, (PREDICTED_VIDEO,)))


def _commands(published: Mapping[str, str], wanted: Wanted, mapping: TopicMapping | None) -> list[Channel]:
    if mapping is not None:
        return [Channel(Part.COMMANDS, s.topic, s.type, s) for s in mapping.action_sources if published.get(s.topic) == s.type]
    topics = _of_type(published, COMMAND_TYPES)
    own = [topic for topic in topics if wanted.holds(topic)]
    return [Channel(Part.COMMANDS, topic, published[topic]) for topic in own or topics]


def _of_type(published: Mapping[str, str], kinds: Iterable[str]) -> list[str]:
    return sorted(topic for topic, kind in published.items() if kind in kinds)
