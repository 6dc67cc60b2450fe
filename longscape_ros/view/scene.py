# SPDX-License-Identifier: Apache-2.0
"""ROS messages to what is shown of them; without ROS and without Rerun.

The *moment* is that of the newest camera image, or the newest receive time where there is no camera. What was predicted or
commanded for a moment is shown when the moment has come: until then something newer may replace it.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longscape_ros.bags.mapping import mapping_from_dict
from longscape_ros.contract import NANOSECONDS, EndReason, Prediction, StampSource, Status, TopicMapping
from longscape_ros.errors import InputError
from longscape_ros.images import resize_rgb
from longscape_ros.messages import (
    COMPRESSED_IMAGE,
    IMAGE_TYPES,
    encode_images,
    filmstrip,
    frame_from_message,
    nanoseconds,
    prediction_from_message,
)
from longscape_ros.view import items
from longscape_ros.view.items import Box, Boxes, Item, Number, Picture, State, Text
from longscape_ros.view.plans import InForce, read_plan
from longscape_ros.view.topics import SURPRISE, Channel, Part

FILMSTRIP_COLUMNS = 8
"""Frames beside each other."""

MOST_PREDICTIONS = 8
"""Predictions that an image is looked for in."""

LABEL_ROWS = 3
"""One more row, black, for so many rows of a filmstrip: where the viewer writes what a chunk is."""

BACK_NS = NANOSECONDS
"""A camera image that is this much older than the newest one: the clock was set back, or the recording begins anew."""

COLOURS = (0x4C78A8FF, 0xF58518FF, 0x54A24BFF, 0xB279A2FF)
"""Of experts and of lengths, again from the first after the last."""

REASON_COLOURS = {
    EndReason.MOTION: 0x4C78A8FF,
    EndReason.GRIPPER: 0xF58518FF,
    EndReason.MAX_LENGTH: 0x54A24BFF,
    EndReason.END_OF_PLAN: 0x9D9D9DFF,
}

GREEN, ORANGE, RED, GREY = 0x3A9D5DFF, 0xE69F00FF, 0xD64545FF, 0x8A8A8AFF

STATUS_COLOURS = {Status.OK: GREEN, Status.DEGRADED: ORANGE, Status.STALE_INPUT: RED}

LEVELS = (("OK", GREEN), ("WARN", ORANGE), ("ERROR", RED), ("STALE", GREY))
"""Of diagnostic_msgs/DiagnosticStatus, by number."""

SURPRISE_STATES = (("as expected", GREEN), ("surprised", RED), ("not comparable", GREY))
"""Of longscape_msgs/Surprise, by number."""

_MAGIC = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg"}
_MODEL_ROWS = ("model_id", "backend", "precision", "device", "cause", "fps", "image_size", "context", "horizon", "chunk_lengths", "experts")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SceneConfig:
    """How things are shown.

    Args:
        horizon: The predicted frame that is shown beside the camera, from 1 on; 0: the last one.
        image_latency_ns: How long before the time that dates it an image was really seen; None: what the predictor's mapping says.
        image_stamp: What dates the camera's images; None: what the predictor's mapping says.
        has_camera: Whether there is a camera to follow.
        namespace: ``/robot_1``; of nodes that name themselves with their namespace in diagnostics only those in it are shown. Empty: all.
    """

    horizon: int = 0
    image_latency_ns: int | None = None
    image_stamp: StampSource | None = None
    has_camera: bool = True
    namespace: str = ""

    def __post_init__(self) -> None:
        if self.horizon < 0:
            raise InputError(f"Got the horizon {self.horizon}, expected a frame from 1 on, or 0 for the last one.")


class Scene:
    """What has been received, and what follows from it to be shown.

    Args:
        config: How things are shown; may be replaced.

    Attributes:
        counts: Messages taken by part, ``predicted_frames`` and ``invalid`` (could not be used) among them.
        model_id: Of the newest prediction.
        mapping: That of the predictor, once it has said it.
    """

    def __init__(self, config: SceneConfig) -> None:
        self.config = config
        self.counts: Counter[str] = Counter()
        self.model_id = ""
        self.mapping: TopicMapping | None = None
        self._newest_ns: int | None = None  # image
        self._playing: _Playing | None = None
        self._expected: deque[_Playing] = deque(maxlen=MOST_PREDICTIONS)
        self._states: dict[str, State] = {}  # entity -> the newest
        self._commands: dict[str, InForce] = {}
        self._report: dict[str, str] = {}

    def take(self, channel: Channel, message: Any, received_ns: int) -> list[Item]:
        """What is to be shown after a message came; one that cannot be used is refused.

        Args:
            channel: Where it came from.
            message: Of rclpy's or rosbags' classes.
            received_ns: When it came.
        """
        try:
            found = list(self._take(channel, message, received_ns))
        except ValueError as error:  # an InputError, or a number that is none of an enumeration's
            self.refuse(channel, error)
            return []
        self.counts[channel.part.value] += 1
        return found

    def refuse(self, channel: Channel, error: Exception) -> None:
        """Counts a message that cannot be used, and logs the first of its topic."""
        self.counts["invalid"] += 1
        self.counts[f"invalid.{channel.topic}"] += 1
        if self.counts[f"invalid.{channel.topic}"] == 1:
            _log.warning("A message on %s is not shown: %s", channel.topic, error)

    def finish(self, received_ns: int) -> list[Item]:
        """What is left: the frames of the newest prediction that no image came for."""
        if self._playing is None:
            return []
        return list(self._play(int(self._playing.prediction.stamps_ns()[-1]), received_ns))

    def _take(self, channel: Channel, message: Any, received_ns: int) -> Iterator[Item]:
        if channel.part is Part.CAMERA:
            yield from self._camera(channel, message, received_ns)
        elif channel.part is Part.PREDICTION:
            yield from self._prediction(message, received_ns)
        elif channel.part is Part.COMMANDS:
            self._commands.setdefault(channel.topic, InForce()).add(read_plan(channel, message, received_ns))
        elif channel.part is Part.SURPRISE:
            yield from self._surprise(channel, message, received_ns)
        elif channel.part is Part.CHUNK:
            yield _executed(str(message.data), received_ns)
        elif channel.part is Part.DIAGNOSTICS:
            yield from self._diagnostics(message, received_ns)
        else:
            yield self._model(str(message.data), received_ns)
        moment_ns = self._newest_ns if self.config.has_camera else received_ns
        if moment_ns is not None:
            yield from self._play(moment_ns, received_ns)
            yield from self._command(moment_ns, received_ns)

    # ---- the camera ----

    @property
    def _latency_ns(self) -> int:
        if self.config.image_latency_ns is None:
            return 0 if self.mapping is None else self.mapping.image_latency_ns
        return self.config.image_latency_ns

    @property
    def _image_stamp(self) -> StampSource:
        return self.config.image_stamp or ("header" if self.mapping is None else self.mapping.image_stamp)

    def _camera(self, channel: Channel, message: Any, received_ns: int) -> Iterator[Item]:
        frame = frame_from_message(message, channel.type, received_ns, self._image_stamp)
        shown_ns = frame.stamp_ns - self._latency_ns
        if self._newest_ns is not None and shown_ns < self._newest_ns - BACK_NS:
            back_s = (self._newest_ns - shown_ns) / NANOSECONDS
            _log.warning("The camera's time went back by %.1f s; what was predicted before is forgotten.", back_s)
            self._newest_ns, self._playing = None, None
            self._expected.clear()
            self._commands.clear()
        self._newest_ns = shown_ns if self._newest_ns is None else max(self._newest_ns, shown_ns)
        yield Item(items.CAMERA, shown_ns, received_ns, _picture(frame.rgb, message, channel.type))
        expected = [rgb for playing in self._expected if (rgb := playing.at(shown_ns)) is not None]
        if expected:
            yield Item(items.ERROR_NOW, shown_ns, received_ns, Number(_distance(frame.rgb, expected[-1])))

    # ---- predictions ----

    def _prediction(self, message: Any, received_ns: int) -> Iterator[Item]:
        prediction = prediction_from_message(message)
        count, anchor_ns = len(prediction.frames), prediction.anchor_ns
        ahead = min(self.config.horizon or count, count) - 1
        ahead_ns = int(prediction.stamps_ns()[ahead])
        self.model_id = prediction.model_id
        self.counts["predicted_frames"] += count
        playing = _Playing(prediction, message)
        if self._playing is not None:
            yield from self._play(anchor_ns, received_ns)  # images may be late; the new one does not show moments before its own
            playing.played_ns = self._playing.played_ns
        self._playing = playing
        self._expected.append(playing)
        strip = filmstrip(prediction, FILMSTRIP_COLUMNS)
        below = np.zeros((strip.shape[0] // LABEL_ROWS, *strip.shape[1:]), np.uint8)
        status = State(prediction.status.name, STATUS_COLOURS[prediction.status])
        yield Item(items.PREDICTED_AHEAD, ahead_ns, received_ns, playing.picture(ahead))
        yield from _numbers({items.CONFIDENCE_AHEAD: playing.confidence(ahead)}, ahead_ns, received_ns)
        yield Item(items.FILMSTRIP, anchor_ns, received_ns, _encoded(np.concatenate([strip, below])))
        yield Item(items.FILMSTRIP_CHUNKS, anchor_ns, received_ns, _chunk_boxes(prediction, strip))
        yield Item(items.STATUS, anchor_ns, received_ns, status)
        milliseconds = {items.COMPUTE_MS: prediction.timings_ms["total"], items.DELAY_MS: (received_ns - anchor_ns) / 1e6}
        yield from _numbers(milliseconds, anchor_ns, received_ns)

    def _play(self, until_ns: int, received_ns: int) -> Iterator[Item]:
        """The newest prediction's frames whose moment has come."""
        playing = self._playing
        if playing is None:
            return
        for index, stamp_ns in enumerate(playing.prediction.stamps_ns().tolist()):
            if playing.played_ns < stamp_ns <= until_ns:
                playing.played_ns = stamp_ns
                yield Item(items.PREDICTED_NOW, stamp_ns, received_ns, playing.picture(index))
                yield from _numbers({items.CONFIDENCE_NOW: playing.confidence(index)}, stamp_ns, received_ns)
                for entity, state in playing.chunk(index).items():
                    yield from self._changed(entity, stamp_ns, received_ns, state)

    # ---- commands and what the node says ----

    def _command(self, until_ns: int, received_ns: int) -> Iterator[Item]:
        for in_force in self._commands.values():
            for shown_ns, name, value in in_force.until(until_ns):
                yield Item(f"{items.COMMANDS}/{name}", shown_ns, received_ns, Number(value))

    def _surprise(self, channel: Channel, message: Any, received_ns: int) -> Iterator[Item]:
        place = f"{items.SURPRISE}/{channel.name or items.SURPRISE}"
        if channel.type in IMAGE_TYPES:
            frame = frame_from_message(message, channel.type, received_ns)
            yield Item(place, frame.stamp_ns, received_ns, _picture(frame.rgb, message, channel.type))
        elif channel.type == SURPRISE:
            shown_ns = nanoseconds(message.header.stamp) or received_ns
            yield Item(place, shown_ns, received_ns, Number(float(message.error)))
            yield Item(f"{place}_threshold", shown_ns, received_ns, Number(float(message.threshold)))
            text, colour = SURPRISE_STATES[min(int(message.state), len(SURPRISE_STATES) - 1)]
            yield from self._changed(items.SURPRISED, shown_ns, received_ns, State(text, colour))
        else:
            shown_ns = received_ns if self._newest_ns is None else self._newest_ns  # it is about the camera's newest image
            yield Item(place, shown_ns, received_ns, Number(float(message.data)))

    def _changed(self, entity: str, shown_ns: int, received_ns: int, state: State) -> Iterator[Item]:
        """A state, if it is not that of before."""
        if self._states.get(entity) != state:
            self._states[entity] = state
            yield Item(entity, shown_ns, received_ns, state)

    def _diagnostics(self, message: Any, received_ns: int) -> Iterator[Item]:
        """Of every node that says how it is, most as ``NODE: PART``; with ``use_fqn`` the node's namespace is a part of its name."""
        shown_ns = nanoseconds(message.header.stamp) or received_ns
        for status in message.status:
            name = str(status.name)
            node, _, part = name.rpartition(": ")
            if node.startswith("/") and not node.startswith(f"{self.config.namespace}/"):
                continue
            number = status.level[0] if isinstance(status.level, bytes) else int(status.level)
            level, colour = LEVELS[min(number, len(LEVELS) - 1)]
            state = State(level, colour)
            values = "\n".join(f"| {_cell(pair.key)} | {_cell(pair.value)} |" for pair in status.values)
            self._report[name] = f"### {name}: {level}\n\n{_cell(status.message)}\n\n| | |\n|---|---|\n{values}\n"
            yield from self._changed("/".join(filter(None, (items.DIAGNOSTICS, node.strip("/"), part))), shown_ns, received_ns, state)
        yield Item(items.REPORT, shown_ns, received_ns, Text("\n".join(self._report[name] for name in sorted(self._report))))

    def _model(self, text: str, received_ns: int) -> Item:
        try:
            info = json.loads(text)
            rows = {name: info[name] for name in _MODEL_ROWS if info.get(name) not in (None, "")}
            mapping = mapping_from_dict(info["mapping"])
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise InputError(f"Got {text[:80]!r} as the model's description, expected a JSON object with a mapping ({error!r}).") from error
        self.mapping = mapping
        self.model_id = str(rows.get("model_id", self.model_id))
        table = "\n".join(f"| {name} | {_cell(value)} |" for name, value in rows.items())
        return Item(items.MODEL, received_ns, received_ns, Text(f"| | |\n|---|---|\n{table}\n"))


class _Playing:
    """A prediction whose frames are shown one after the other.

    Args:
        prediction: It.
        message: The message that it came in, which has the frames compressed.
    """

    def __init__(self, prediction: Prediction, message: Any) -> None:
        self.prediction = prediction
        self.played_ns = prediction.anchor_ns
        self._frames = message.frames

    def picture(self, index: int) -> Picture:
        """A frame as it came."""
        return _picture(self.prediction.frames[index], self._frames[index], COMPRESSED_IMAGE)

    def confidence(self, index: int) -> float:
        """How probably a frame is right; NaN: nobody knows."""
        known = self.prediction.confidence
        return float(known[index]) if index < len(known) else math.nan

    def at(self, moment_ns: int) -> NDArray[np.uint8] | None:
        """The frame of a moment: uint8 [H, W, 3]; None: there is none within half a step."""
        index = round((moment_ns - self.prediction.anchor_ns) * self.prediction.fps / NANOSECONDS) - 1
        return self.prediction.frames[index] if 0 <= index < len(self.prediction.frames) else None

    def chunk(self, index: int) -> dict[str, State]:
        """Length and expert of the chunk that a frame belongs to."""
        pairs = zip(self.prediction.chunks, self.prediction.experts, strict=True)
        chunk, expert = next((c, e) for c, e in pairs if index < c.start + c.valid)
        return {
            items.PREDICTED_LENGTH: State(str(chunk.valid), _colour(chunk.valid // 8)),
            items.PREDICTED_EXPERT: State(str(expert), _colour(expert)),
        }


def _chunk_boxes(prediction: Prediction, strip: NDArray[np.uint8]) -> Boxes:
    """Where in the filmstrip the chunks are."""
    height, width = strip.shape[:2]
    count = len(prediction.frames)
    per_frame = width / FILMSTRIP_COLUMNS * min(FILMSTRIP_COLUMNS, count) / count
    boxes = [
        Box(
            left=chunk.start * per_frame,
            width=chunk.valid * per_frame,
            height=float(height),
            label=f"{chunk.valid} frames, expert {expert}, {_words(chunk.reason)}",
            colour=_colour(expert),
        )
        for chunk, expert in zip(prediction.chunks, prediction.experts, strict=True)
    ]
    if prediction.assumed_from < count:
        left = prediction.assumed_from * per_frame
        boxes.append(Box(left, (count - prediction.assumed_from) * per_frame, float(height), "not commanded: assumed", GREY))
    return Boxes(tuple(boxes))


def _executed(text: str, received_ns: int) -> Item:
    """A chunk of the executed motion, from its begin on; it is reported when it has ended, and the next one begins where it ends."""
    try:
        report: Mapping[str, Any] = json.loads(text)
        begin_ns, length = int(report["begin_ns"]), int(report["length"])
        reason = EndReason[report["reason"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"Got {text[:80]!r}, expected a chunk's report ({error!r}).") from error
    return Item(items.EXECUTED_CHUNK, begin_ns, received_ns, State(f"{length} {_words(reason)}", REASON_COLOURS[reason]))


def _numbers(values: Mapping[str, float], shown_ns: int, received_ns: int) -> Iterator[Item]:
    """Those that are known."""
    return (Item(entity, shown_ns, received_ns, Number(value)) for entity, value in values.items() if math.isfinite(value))


def _picture(rgb: NDArray[np.uint8], message: Any, type_name: str) -> Picture:
    """An image as it came if that was PNG or JPEG, else as JPEG."""
    data = bytes(message.data) if type_name == COMPRESSED_IMAGE else b""
    kind = next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), "")
    return Picture(data, kind) if kind else _encoded(rgb)


def _encoded(rgb: NDArray[np.uint8]) -> Picture:
    return Picture(encode_images(rgb[np.newaxis], "jpeg")[0].tobytes(), "image/jpeg")


def _distance(rgb: NDArray[np.uint8], expected: NDArray[np.uint8]) -> float:
    """Root mean square difference of an image and what was predicted for it, black to white counting as 1."""
    height, width = expected.shape[:2]
    difference = resize_rgb(rgb, (height, width)).astype(np.float32) - expected
    return float(np.sqrt(np.mean(np.square(difference)))) / 255.0


def _colour(number: int) -> int:
    return COLOURS[number % len(COLOURS)]


def _words(reason: EndReason) -> str:
    return reason.name.lower().replace("_", " ")


def _cell(value: object) -> str:
    """A value for a cell of a table."""
    return str(value).replace("|", "\\|").replace("\n", " ")
