# SPDX-License-Identifier: Apache-2.0
"""A demo's recording, read back: what the camera saw, what was commanded, and what was predicted when."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longscape_ros.bags.reader import raw_messages
from longscape_ros.bags.writer import bag_store
from longscape_ros.contract import NANOSECONDS, EndReason, Frame, Plan, Prediction, TopicMapping
from longscape_ros.errors import InputError
from longscape_ros.evaluation.surprise import DISTURBANCE_TOPIC, Truth
from longscape_ros.images import resize_rgb
from longscape_ros.messages import frame_from_message, nanoseconds, plan_from_message, prediction_from_message
from longscape_ros.runtime.surprise import State
from longscape_ros.simulation import topics

PREDICTION_TOPIC = "/predictor/prediction"
CHUNK_TOPIC = "/predictor/debug/chunk"
SURPRISE_TOPIC = "/predictor/surprise"
DIAGNOSTICS_TOPIC = "/diagnostics"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Published:
    """A prediction as it arrived.

    Args:
        prediction: What was predicted.
        received_ns: When the recorder got it.
    """

    prediction: Prediction
    received_ns: int

    @property
    def end_ns(self) -> int:
        """The last moment that it shows."""
        return int(self.prediction.stamps_ns()[-1])

    @property
    def latency_ms(self) -> float:
        """From the stamp of the newest image it was made from."""
        return (self.received_ns - self.prediction.anchor_ns) / 1e6

    @property
    def remaining_ms(self) -> float:
        """How much of what it shows still lay ahead."""
        return (self.end_ns - self.received_ns) / 1e6

    @property
    def period_ns(self) -> float:
        """Between two of its frames."""
        return NANOSECONDS / self.prediction.fps

    def index(self, moment_ns: int) -> int | None:
        """Which of its frames shows this moment; None: none does."""
        index = round((moment_ns - self.prediction.anchor_ns) / self.period_ns) - 1
        return index if 0 <= index < len(self.prediction.frames) else None

    def chunk(self, index: int) -> int:
        """The number of the chunk that a frame belongs to."""
        return next(n for n, chunk in enumerate(self.prediction.chunks) if index < chunk.start + chunk.valid)


@dataclass(frozen=True, slots=True)
class Executed:
    """A chunk of the executed motion, reported when it ended.

    Args:
        begin_ns: When it began.
        end_ns: When it ended.
        length: Its steps.
        reason: Why it ended.
    """

    begin_ns: int
    end_ns: int
    length: int
    reason: EndReason

    @staticmethod
    def from_json(text: str) -> Executed:
        """The report on :data:`CHUNK_TOPIC`.

        Raises:
            InputError: It is none.
        """
        try:
            report = json.loads(text)
            times = int(report["begin_ns"]), int(report["end_ns"])
            return Executed(*times, int(report["length"]), EndReason[report["reason"]])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"Got {text[:80]!r} on {CHUNK_TOPIC}, expected a chunk's report ({error!r}).") from error


@dataclass(frozen=True, slots=True)
class Compared:
    """An image that was compared with what had been predicted of it, see docs/ros.md.

    Args:
        stamp_ns: The image's.
        state: What was thought of it.
        error: Times the error that was to be expected; NaN: not comparable.
        place: x and y of the worst patch, in the model's pixels.
    """

    stamp_ns: int
    state: State
    error: float
    place: tuple[int, int]


@dataclass(frozen=True)
class Commands:
    """What was commanded, the later plan replacing the earlier from its start on.

    Args:
        names: Of the numbers.
        times_ns: int64 [N], increasing.
        values: float64 [N, A].
    """

    names: tuple[str, ...]
    times_ns: NDArray[np.int64]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class Recording:
    """What was on the topics during a demo.

    Args:
        frames: The camera's images in the order of their stamps, as the camera gave them.
        plans: In the order they were received.
        predictions: In the order they were received.
        executed: Chunks of the executed motion, in the order they ended.
        diagnostics: ``<part>.<figure>`` -> what the predictor last said of itself.
        compared: Images that were compared with what had been predicted of them, in the order they were.
        disturbed: What nobody commanded; None: nothing was told.
    """

    frames: tuple[Frame, ...]
    plans: tuple[Plan, ...]
    predictions: tuple[Published, ...]
    executed: tuple[Executed, ...] = ()
    diagnostics: dict[str, str] = field(default_factory=dict)
    compared: tuple[Compared, ...] = ()
    disturbed: Truth | None = None

    @cached_property
    def stamps_ns(self) -> NDArray[np.int64]:
        """int64 [N], the images' stamps."""
        return np.array([frame.stamp_ns for frame in self.frames], np.int64)

    @cached_property
    def period_ns(self) -> int:
        """Between two images, as is usual in this recording."""
        return int(np.median(np.diff(self.stamps_ns))) if len(self.frames) > 1 else topics.PERIOD_NS

    @property
    def span_s(self) -> float:
        """From the first image to the end of the last one's interval."""
        return (self.frames[-1].stamp_ns - self.frames[0].stamp_ns + self.period_ns) / NANOSECONDS if self.frames else 0.0

    @property
    def missing_frames(self) -> int:
        """Images that the camera's stamps leave out."""
        return round(self.span_s * NANOSECONDS / self.period_ns) - len(self.frames)

    def frame_at(self, moment_ns: int) -> Frame | None:
        """The image of this moment; None: there is none within half a period."""
        index = int(np.searchsorted(self.stamps_ns, moment_ns - self.period_ns // 2))
        if index == len(self.frames) or abs(int(self.stamps_ns[index]) - moment_ns) > self.period_ns // 2:
            return None
        return self.frames[index]

    def actual(self, moment_ns: int, size: Sequence[int]) -> NDArray[np.uint8] | None:
        """The image of this moment as a model of the image size (H, W) sees it: uint8 [H, W, 3]; None: there is none."""
        frame = self.frame_at(moment_ns)
        return None if frame is None else resize_rgb(frame.rgb, (size[0], size[1]))

    def commands(self) -> Commands:
        """All that was commanded."""
        names = self.plans[0].names if self.plans else ()
        times: NDArray[np.int64] = np.zeros(0, np.int64)
        values: NDArray[np.float64] = np.zeros((0, len(names)))
        for plan in (plan for plan in self.plans if plan.names == names):
            new = plan.start_ns + plan.times_ns
            kept = int(np.searchsorted(times, new[0]))
            times, values = np.concatenate([times[:kept], new]), np.concatenate([values[:kept], plan.values])
        return Commands(names, times, values)


def read_recording(bag: Path, mapping: TopicMapping | None = None, prediction_topic: str = PREDICTION_TOPIC) -> Recording:
    """Read a demo's bag. Messages that cannot be used are left out and logged.

    Args:
        bag: The recording.
        mapping: Camera and commands; None: the simulated robot's.
        prediction_topic: Where the predictions are.

    Raises:
        BagError: The bag cannot be read.
    """
    mapping = mapping or topics.mapping(recorded=False)
    sources = {source.topic: source for source in mapping.action_sources}
    frames: list[Frame] = []
    plans: list[Plan] = []
    predictions: list[Published] = []
    executed: list[Executed] = []
    diagnostics: dict[str, str] = {}
    compared: list[Compared] = []
    disturbed: Truth | None = None
    others = (CHUNK_TOPIC, SURPRISE_TOPIC, DISTURBANCE_TOPIC, DIAGNOSTICS_TOPIC)
    for raw in raw_messages(bag, {mapping.image_topic, prediction_topic, *others, *sources}):
        message: Any = bag_store().deserialize_cdr(raw.data, raw.type)
        try:
            if raw.topic == mapping.image_topic:
                frames.append(frame_from_message(message, raw.type, raw.received_ns, mapping.image_stamp))
            elif raw.topic in sources:
                plans.append(plan_from_message(message, sources[raw.topic], raw.received_ns))
            elif raw.topic == CHUNK_TOPIC:
                executed.append(Executed.from_json(message.data))
            elif raw.topic == SURPRISE_TOPIC:
                place = int(message.x), int(message.y)
                compared.append(Compared(nanoseconds(message.header.stamp), State(message.state), float(message.error), place))
            elif raw.topic == DISTURBANCE_TOPIC:
                disturbed = Truth.from_json(message.data)
            elif raw.topic == DIAGNOSTICS_TOPIC:
                diagnostics |= flat_diagnostics(message)
            else:
                predictions.append(Published(prediction_from_message(message), raw.received_ns))
        except InputError as error:
            _log.warning("%s: a message on %s is left out: %s", bag, raw.topic, error)
    frames.sort(key=lambda frame: frame.stamp_ns)
    return Recording(tuple(frames), tuple(plans), tuple(predictions), tuple(executed), diagnostics, tuple(compared), disturbed)


def flat_diagnostics(message: Any) -> dict[str, str]:
    """diagnostic_msgs/DiagnosticArray -> ``<part>.<figure>`` and ``<part>`` (its message) -> text."""
    parts = [(str(status.name).rpartition(": ")[2], status) for status in message.status]
    figures = {f"{name}.{pair.key}": str(pair.value) for name, status in parts for pair in status.values}
    return figures | {name: str(status.message) for name, status in parts}
