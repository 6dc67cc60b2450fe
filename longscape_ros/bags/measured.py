# SPDX-License-Identifier: Apache-2.0
"""Where a robot was, as it measured itself: positions from sensor_msgs/JointState, at the times of images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from longscape_ros.bags.reader import image_source, raw_messages, topics
from longscape_ros.bags.writer import bag_store
from longscape_ros.contract import NANOSECONDS, TopicMapping
from longscape_ros.errors import BagError
from longscape_ros.messages import frame_from_message

JOINT_STATE = "sensor_msgs/msg/JointState"
JOINT_STATES_TOPIC = "/joint_states"

LONGEST_GAP_NS = NANOSECONDS // 5
"""A time that lies between measurements farther apart than this, or so far outside of them, has no measured position."""


def read_measured(bag: Path, names: Sequence[str], topic: str, times_ns: NDArray[np.int64]) -> NDArray[np.float64]:
    """Positions at given times, interpolated linearly between the measurements before and after.

    Args:
        bag: The recording.
        names: D joints (or other measured numbers) by their names in the messages; a message without one of them is left out.
        topic: Of sensor_msgs/JointState.
        times_ns: int64 [N].

    Returns:
        float64 [N, D] in the messages' unit; NaN where nothing was measured, see :data:`LONGEST_GAP_NS`.

    Raises:
        BagError: the bag cannot be read, or does not have the topic or the names.
    """
    recorded = topics(bag)
    if recorded.get(topic) != JOINT_STATE:
        alike = sorted(name for name, kind in recorded.items() if kind == JOINT_STATE)
        raise BagError(f"{bag}: found the topics of {JOINT_STATE} {alike}, expected {topic}; name the topic that measures the robot.")
    stamps: list[int] = []
    values: list[list[float]] = []
    seen: set[str] = set()
    for raw in raw_messages(bag, {topic}):
        message = bag_store().deserialize_cdr(raw.data, raw.type)
        found = dict(zip(message.name, message.position, strict=False))  # type: ignore[attr-defined]
        seen |= found.keys()
        if all(name in found for name in names):
            stamp = message.header.stamp  # type: ignore[attr-defined]
            stamps.append(stamp.sec * NANOSECONDS + stamp.nanosec or raw.received_ns)
            values.append([float(found[name]) for name in names])
    if not stamps:
        raise BagError(f"{bag}: found the names {sorted(seen)} on {topic}, expected {list(names)} in one message; name the right ones.")
    return interpolated(np.array(stamps, np.int64), np.array(values), times_ns)


def read_frames(
    bag: Path, mapping: TopicMapping, image_size: tuple[int, int], every: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Images of a bag, whatever is commanded.

    Args:
        bag: The recording.
        mapping: Its image topic matters.
        image_size: (H, W) to cut and scale the images to.
        every: Take one image of so many.

    Returns:
        When each scene was seen, int64 [N], as the mapping's image stamp and latency say, and the images, uint8 [N, H, W, 3].

    Raises:
        BagError: the bag cannot be read, or has no image.
    """
    topic, kind = image_source(topics(bag), mapping, bag)
    frames = [
        frame_from_message(bag_store().deserialize_cdr(raw.data, raw.type), kind, raw.received_ns, mapping.image_stamp, image_size)
        for raw in itertools.islice(raw_messages(bag, {topic}), 0, None, every)
    ]
    if not frames:
        raise BagError(f"{bag}: found no image on {topic}, expected some; name the camera's topic in the mapping.")
    stamps = np.array([frame.stamp_ns - mapping.image_latency_ns for frame in frames], np.int64)
    return stamps, np.stack([frame.rgb for frame in frames])


def interpolated(stamps_ns: NDArray[np.int64], values: NDArray[np.float64], times_ns: NDArray[np.int64]) -> NDArray[np.float64]:
    """Values [S, D] that were measured at ``stamps_ns`` [S], at other times [N]: float64 [N, D], see :func:`read_measured`."""
    order = np.argsort(stamps_ns, kind="stable")
    stamps, values = stamps_ns[order], values[order]
    after = np.clip(np.searchsorted(stamps, times_ns), 0, len(stamps) - 1)
    before = np.clip(np.searchsorted(stamps, times_ns, side="right") - 1, 0, len(stamps) - 1)
    origin = int(stamps[0])  # nanoseconds since 1970 have more digits than a float
    at, known = (times_ns - origin).astype(float), (stamps - origin).astype(float)
    result = np.stack([np.interp(at, known, column) for column in values.T], axis=1)
    outside = (times_ns < stamps[0] - LONGEST_GAP_NS) | (times_ns > stamps[-1] + LONGEST_GAP_NS)
    result[outside | (stamps[after] - stamps[before] > LONGEST_GAP_NS)] = np.nan
    return result
