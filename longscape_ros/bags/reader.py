# SPDX-License-Identifier: Apache-2.0
"""Reading recordings: rosbag2 folders (sqlite3 or MCAP) and single MCAP files, of any ROS 2 distribution."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.interfaces import MessageDefinitionFormat
from rosbags.rosbag2 import ReaderError

from longscape_ros.bags.writer import bag_store
from longscape_ros.contract import NANOSECONDS, Episode, Frame, Plan, TopicMapping
from longscape_ros.errors import BagError, InputError
from longscape_ros.messages import COMPRESSED_IMAGE, IMAGE, frame_from_message, plan_from_message
from longscape_ros.timeline import CLOCK_JUMP_NS

INSTRUCTION_TOPIC = "/instruction"
"""std_msgs/String, what the robot was told; need not be there."""

_METADATA = "metadata.yaml"
_FILES = (".mcap", ".db3")
_COMPRESSED = "/compressed"
_log = logging.getLogger(__name__)

OnError = Callable[[InputError], None]


@dataclass(frozen=True, slots=True)
class RawMessage:
    """A message as it was recorded.

    Args:
        topic: Where it was published.
        type: Its ROS type.
        received_ns: When the recorder got it.
        data: Its CDR.
        definition: Text of the type, if the bag has it.
        digest: Hash of the type, if the bag has it.
    """

    topic: str
    type: str
    received_ns: int
    data: bytes
    definition: str = ""
    digest: str = ""


def find_bags(path: Path) -> list[Path]:
    """All bags at or below a path, in the order a person would count them.

    Raises:
        BagError: There is none.
    """
    if path.is_file() or (path / _METADATA).is_file():
        return [path]
    folders = {file.parent for file in path.rglob(_METADATA)}
    singles = {file for file in path.rglob("*.mcap") if file.parent not in folders}
    bags = [bag for bag in folders | singles if not any(part.startswith(".") for part in bag.relative_to(path).parts)]
    if not bags:
        raise BagError(f"Got {path}, expected a rosbag2 folder, an .mcap file, or a folder with some below it.")
    return sorted(bags, key=lambda bag: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(bag))])


def topics(bag: Path) -> dict[str, str]:
    """Topic -> type of all that a bag holds.

    Raises:
        BagError: It cannot be read.
    """
    with _open(bag) as reader:
        return {connection.topic: connection.msgtype for connection in reader.connections}


def span_ns(bag: Path) -> tuple[int, int]:
    """When the first and the last message of a bag were received.

    Raises:
        BagError: It cannot be read.
    """
    with _open(bag) as reader:
        return reader.start_time, reader.end_time


def raw_messages(bag: Path, wanted: Collection[str] | None = None) -> Iterator[RawMessage]:
    """The messages of some topics (None: of all) as recorded, in the order they were received.

    Raises:
        BagError: The bag cannot be read.
    """
    with _open(bag) as reader:
        connections = [c for c in reader.connections if wanted is None or c.topic in wanted]
        if not connections:
            return
        for connection, received_ns, data in _read(bag, reader, connections):
            text = connection.msgdef.data if connection.msgdef.format is MessageDefinitionFormat.MSG else ""
            yield RawMessage(connection.topic, connection.msgtype, received_ns, bytes(data), text, connection.digest)


def stream(
    bag: Path, mapping: TopicMapping, on_error: OnError | None = None, image_size: tuple[int, int] | None = None
) -> Iterator[tuple[int, Frame | Plan]]:
    """The images and commands of a bag with their receive times, in the order they were received.

    Where the bag has not the mapping's image topic but that one compressed (or uncompressed), it is taken instead.

    Args:
        bag: The recording.
        mapping: Which topics matter.
        on_error: Told of each message that cannot be used and is left out; None: they are logged.
        image_size: (H, W) to cut and scale the images to; None: as recorded.

    Raises:
        BagError: The bag cannot be read, or lacks topics of the mapping.
    """
    with _open(bag) as reader:
        image_topic, image_type = image_source({c.topic: c.msgtype for c in reader.connections}, mapping, bag)
        sources = {source.topic: source for source in mapping.action_sources}
        connections = [c for c in reader.connections if c.topic == image_topic or c.topic in sources]
        faults = 0
        for connection, received_ns, data in _read(bag, reader, connections):
            try:
                message: Any = reader.deserialize(data, connection.msgtype)
                if connection.topic == image_topic:
                    yield received_ns, frame_from_message(message, image_type, received_ns, mapping.image_stamp, image_size)
                else:
                    yield received_ns, plan_from_message(message, sources[connection.topic], received_ns)
            except (InputError, AnyReaderError) as error:
                fault = error if isinstance(error, InputError) else InputError(f"Got a damaged message on {connection.topic} ({error}).")
                faults += 1
                if on_error is not None:
                    on_error(fault)
                elif faults == 1:
                    _log.warning("%s: %s", bag, fault)
        if faults > 1 and on_error is None:
            _log.warning("%s: %d messages in all could not be used and were left out.", bag, faults)


def read_episode(bag: Path, mapping: TopicMapping, image_size: tuple[int, int] | None = None) -> Episode:
    """A whole bag.

    Args:
        bag: The recording.
        mapping: Which topics matter.
        image_size: (H, W) to cut and scale the images to; None: as recorded.

    Raises:
        BagError: The bag cannot be read, or lacks topics of the mapping.
    """
    frames: list[Frame] = []
    plans: list[Plan] = []
    off_s: list[float] = []
    for received_ns, item in stream(bag, mapping, image_size=image_size):
        if isinstance(item, Plan):
            plans.append(item)
            continue
        if abs(received_ns - item.stamp_ns) > CLOCK_JUMP_NS:
            off_s.append((received_ns - item.stamp_ns) / NANOSECONDS)
        frames.append(item)
    if off_s:
        _log.warning(
            "%s: %d of %d images were received more than a second off their stamps (the first %.3f s after it), expected one clock for "
            "images and commands; if the camera's was not synchronized, set image_stamp to receive in the topic mapping.",
            *(bag, len(off_s), len(frames), off_s[0]),
        )
    frames.sort(key=lambda frame: frame.stamp_ns)
    return Episode(bag.stem, tuple(frames), tuple(plans), _instruction(bag))


def image_source(recorded: dict[str, str], mapping: TopicMapping, bag: Path) -> tuple[str, str]:
    """Topic and type of the camera in a bag with these topics; checks the mapping's other topics too.

    Raises:
        BagError: A topic is missing, or has another type.
    """
    expected = {source.topic: source.type for source in mapping.action_sources}
    image_topic, image_type = mapping.image_topic, mapping.image_type
    if image_topic not in recorded:
        other = image_topic.removesuffix(_COMPRESSED) if image_type == COMPRESSED_IMAGE else image_topic + _COMPRESSED
        if other in recorded:
            image_topic, image_type = other, IMAGE if image_type == COMPRESSED_IMAGE else COMPRESSED_IMAGE
    expected[image_topic] = image_type
    wrong = {topic: kind for topic, kind in expected.items() if recorded.get(topic) != kind}
    if wrong:
        raise BagError(f"{bag}: found the topics {recorded}, expected {wrong} among them; give the topic mapping of this robot.")
    return image_topic, image_type


def _instruction(bag: Path) -> str:
    with _open(bag) as reader:
        connections = [c for c in reader.connections if c.topic == INSTRUCTION_TOPIC and c.msgtype == "std_msgs/msg/String"]
        if not connections:
            return ""
        for connection, _, data in _read(bag, reader, connections):
            message: Any = reader.deserialize(data, connection.msgtype)
            return str(message.data)
    return ""


@contextlib.contextmanager
def _open(bag: Path) -> Iterator[AnyReader]:
    if bag.is_file() and bag.suffix == ".db3":
        bag = bag.parent
    if not bag.is_dir() and bag.suffix != ".mcap":
        raise BagError(f"Got {bag}, expected a rosbag2 folder or an .mcap file.")
    try:
        with AnyReader([bag], default_typestore=bag_store()) as reader:
            yield reader
    except (AnyReaderError, ReaderError, OSError) as error:
        raise BagError(
            f"{bag}: found a bag that cannot be read ({error}), expected a complete rosbag2 recording (MCAP or sqlite3)."
        ) from error


def _read(bag: Path, reader: AnyReader, connections: list[Any]) -> Iterator[tuple[Any, int, bytes]]:
    try:
        yield from reader.messages(connections)
    except (AnyReaderError, ReaderError, ValueError) as error:
        raise BagError(f"{bag}: found a damaged recording ({error}), expected a complete one; 'ros2 bag reindex' may help.") from error
