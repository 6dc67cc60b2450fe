# SPDX-License-Identifier: Apache-2.0
"""A recording, shown."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from longscape_ros.bags.reader import RawMessage, find_bags, raw_messages, span_ns, topics
from longscape_ros.bags.writer import bag_store
from longscape_ros.contract import NANOSECONDS, TopicMapping
from longscape_ros.errors import BagError, InputError
from longscape_ros.view.drawing import Drawing
from longscape_ros.view.feed import Feed
from longscape_ros.view.scene import Scene, SceneConfig
from longscape_ros.view.topics import Channel, Part, Wanted, choose, doubts

_log = logging.getLogger(__name__)

Report = Callable[[float, float, str], None]
"""Seconds of the recording done, in all, and a text."""


def only_bag(path: Path) -> Path:
    """The one recording at or below a path.

    Raises:
        BagError: There is none, or there are several.
    """
    bags = find_bags(path)
    if len(bags) > 1:
        raise BagError(f"Got {path} with {len(bags)} recordings ({bags[0].name}, {bags[1].name} ...), expected one; name it.")
    return bags[0]


def channels_of(bag: Path, wanted: Wanted) -> dict[str, Channel]:
    """The topics of a recording that are shown.

    Raises:
        BagError: It cannot be read, or has nothing that can be shown.
    """
    recorded = topics(bag)
    found = choose(recorded, wanted)
    if not any(channel.part in (Part.CAMERA, Part.PREDICTION) for channel in found.values()):
        raise BagError(
            f"{bag}: found the topics {recorded}, expected a camera or predictions among them; "
            "'longscape predict' makes predictions, --image and --namespace say where to look."
        )
    for doubt in doubts(recorded, wanted):
        _log.warning("%s: %s", bag, doubt)
    return choose(recorded, wanted, _told_mapping(bag, [channel for channel in found.values() if channel.part is Part.MODEL]))


def show_bag(bag: Path, channels: dict[str, Channel], config: SceneConfig, drawing: Drawing, progress: Report) -> dict[str, float | str]:
    """Shows a whole recording.

    Args:
        bag: The recording.
        channels: Which of its topics, see :func:`channels_of`.
        config: How; whether there is a camera follows from the topics.
        drawing: Where.
        progress: Told how far it is.

    Returns:
        See docs/commands.md.

    Raises:
        BagError: It cannot be read.
    """
    has_camera = any(channel.part is Part.CAMERA for channel in channels.values())
    feed = Feed(Scene(replace(config, has_camera=has_camera)), drawing)
    began_ns, ended_ns = span_ns(bag)
    seconds = (ended_ns - began_ns) / NANOSECONDS
    read = _Reading()
    for raw in raw_messages(bag, set(channels)):
        channel = channels[raw.topic]
        try:
            message = read(raw)
        except InputError as error:
            feed.scene.refuse(channel, error)
        else:
            feed.take(channel, message, raw.received_ns)
        progress((raw.received_ns - began_ns) / NANOSECONDS, seconds, f"{feed.scene.counts[Part.PREDICTION.value]} predictions")
    feed.finish()
    progress(seconds, seconds, "")
    return feed.figures() | {"meta.source": str(bag)}


def _told_mapping(bag: Path, channels: list[Channel]) -> TopicMapping | None:
    """The mapping that the predictor described itself with; None: with none that can be read."""
    scene, read = Scene(SceneConfig()), _Reading()
    for channel in channels:
        for raw in raw_messages(bag, {channel.topic}):
            with contextlib.suppress(InputError):  # it comes again when everything is shown, and is counted then
                scene.take(channel, read(raw), raw.received_ns)
    return scene.mapping


class _Reading:
    """Messages from their bytes; types that are not ROS 2 Jazzy's as the recording describes them."""

    def __init__(self) -> None:
        self._others: dict[str, Typestore] = {}

    def __call__(self, raw: RawMessage) -> Any:
        """The message.

        Raises:
            InputError: Its bytes are not one of its type.
        """
        try:
            return self._store(raw).deserialize_cdr(raw.data, raw.type)
        except Exception as error:  # rosbags says what is wrong in many ways, assertions among them
            raise InputError(f"Got a damaged message of {raw.type} on {raw.topic} ({error!r}).") from error

    def _store(self, raw: RawMessage) -> Typestore:
        if raw.type in bag_store().types or not raw.definition:
            return bag_store()
        if raw.type not in self._others:
            store = get_typestore(Stores.ROS2_JAZZY)
            known = get_types_from_msg(raw.definition, raw.type)
            store.register({name: fields for name, fields in known.items() if name not in store.types})
            self._others[raw.type] = store
        return self._others[raw.type]
