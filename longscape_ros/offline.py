# SPDX-License-Identifier: Apache-2.0
"""Predictions over a recording: the predictor node's core, fed from a bag instead of the graph.

``causal`` knows at each image only what had been received by then, as the live node does; ``recorded`` knows the later commands
too, as training and evaluation do.
"""

from __future__ import annotations

import heapq
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from longscape_ros.bags.reader import RawMessage, image_source, raw_messages, span_ns, stream, topics
from longscape_ros.bags.writer import BagWriter, bag_types
from longscape_ros.bundle import Bundle
from longscape_ros.contract import NANOSECONDS, Frame, Plan, PlanExtension, Prediction, Snapshot, TopicMapping
from longscape_ros.errors import InputError, NotReadyError
from longscape_ros.messages import (
    COMPRESSED_IMAGE,
    IMAGE,
    PREDICTED_VIDEO,
    compressed_message,
    filmstrip,
    image_message,
    prediction_to_message,
)
from longscape_ros.runtime.backend import AUTO
from longscape_ros.runtime.backends import create_backend
from longscape_ros.runtime.predictor import Predictor
from longscape_ros.timeline import Timeline, TimelineConfig

Knowledge = Literal["causal", "recorded"]
"""What is known of the commands at an image: those received by then, or all."""

PREDICTION_TOPIC = "/predictor/prediction"
FILMSTRIP_TOPIC = "/predictor/prediction/filmstrip"
PLAYBACK_TOPIC = "/predictor/prediction/playback/compressed"
"""One image per step of the newest prediction, received when the camera's image of that moment would be."""

FILMSTRIP_COLUMNS = 8

LATE_NS = NANOSECONDS
"""How long after it took effect a command may be received and still count where all commands are known."""

_WRONG_CLOCKS = {
    "clock_jumps": "Got an image that was seen more than a second before the one before it, expected stamps that go forward; what was "
    "recorded before is forgotten, as by the live node.",
    "frames_ahead": "Got an image whose stamp is more than a second later than it was received, expected one clock; such images are left "
    "out, as by the live node. If the camera's clock was not synchronized, set image_stamp to receive in the topic mapping.",
}
"""What is said of the first image that is dated by another clock, by counter."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReplayConfig:
    """How a recording is predicted from.

    Args:
        plan: See :data:`Knowledge`.
        every_s: Least time between two anchors in seconds; 0: every image is one.
        horizon: Most steps to predict; None: the bundle's.
        plan_extension: What follows the last point of a plan; None: the last command held where later ones are unknown, else nothing.
        anchors_ns: Predict from images of these stamps only, whatever ``every_s`` says; None: from all that are due.
    """

    plan: Knowledge = "causal"
    every_s: float = 1.0
    horizon: int | None = None
    plan_extension: PlanExtension | None = None
    anchors_ns: Container[int] | None = None

    def __post_init__(self) -> None:
        if self.plan not in get_args(Knowledge):
            raise InputError(f"Got plan {self.plan!r}, expected one of {', '.join(get_args(Knowledge))}.")
        if not 0 <= self.every_s < float("inf"):
            raise InputError(f"Got a prediction every {self.every_s} seconds, expected zero or more.")

    @property
    def extension(self) -> PlanExtension:
        """What follows the last point of a plan."""
        return self.plan_extension or (PlanExtension.HOLD if self.plan == "causal" else PlanExtension.NONE)


class Replay:
    """The snapshots that a recording gives, as the node would make them; iterate over it, once.

    Args:
        bundle: The model that they are for.
        bag: The recording.
        mapping: Its topics; None: the bundle's.
        config: How to predict from it.

    Attributes:
        images: Images taken so far.
        skipped: Images that were due but could not be predicted from, by reason.
        invalid: Messages that could not be used.
        counters: See :class:`longscape_ros.timeline.Timeline`.

    Raises:
        InputError: neither ``mapping`` nor the bundle says which topics to read.
        BundleError: the mapping's action is not the bundle's.
    """

    def __init__(self, bundle: Bundle, bag: Path, mapping: TopicMapping | None, config: ReplayConfig) -> None:
        self.mapping = bundle.mapping_or(mapping)
        self.images = 0
        self.invalid = 0
        self.skipped: Counter[str] = Counter()
        self._bag = bag
        self._config = config
        self._grid = timeline_config(bundle, self.mapping, config)
        self._timeline = Timeline(self._grid)
        self._last_ns: int | None = None

    @property
    def counters(self) -> dict[str, int]:
        return self._timeline.counters

    def __iter__(self) -> Iterator[tuple[int, Snapshot]]:
        """Receive time of the anchor image, and the snapshot.

        Raises:
            BagError: the bag cannot be read, or lacks topics of the mapping.
        """
        for received_ns, item in self._items():
            if isinstance(item, Plan):
                self._timeline.add_plan(item)
            elif self._add_frame(item, received_ns):
                self.images += 1
                snapshot = self._snapshot(received_ns) if self._is_due() else None
                if snapshot is not None:
                    yield received_ns, snapshot

    def _items(self) -> Iterator[tuple[int, Frame | Plan]]:
        items = stream(self._bag, self.mapping, self._on_error, self._grid.image_size)
        if self._config.plan == "causal":
            return items
        return _after_later_plans(items, self._grid)

    def _add_frame(self, frame: Frame, received_ns: int) -> bool:
        before = dict(self.counters)
        taken = self._timeline.add_frame(frame, received_ns)
        for counter, text in _WRONG_CLOCKS.items():
            if self.counters[counter] > before[counter] == 0:
                _log.warning("%s: %s", self._bag, text)
        return taken

    def _is_due(self) -> bool:
        stamp_ns = self._timeline.newest_frame_ns
        assert stamp_ns is not None, "a frame was just added"
        if self._config.anchors_ns is not None:
            return stamp_ns in self._config.anchors_ns
        if self._last_ns is not None and 0 <= stamp_ns - self._last_ns < self._config.every_s * NANOSECONDS:
            return False
        self._last_ns = stamp_ns
        return True

    def _snapshot(self, received_ns: int) -> Snapshot | None:
        try:
            return self._timeline.snapshot(known_by_ns=received_ns if self._config.plan == "causal" else None)
        except NotReadyError as error:
            self.skipped[str(error)] += 1
            return None

    def _on_error(self, error: InputError) -> None:
        self.invalid += 1
        if self.invalid == 1:
            _log.warning("%s: %s", self._bag, error)


def timeline_config(bundle: Bundle, mapping: TopicMapping, config: ReplayConfig) -> TimelineConfig:
    """The bundle's grid, with as many steps beyond the horizon as the last chunk is cut by."""
    manifest = bundle.manifest
    return TimelineConfig(
        fps=manifest.fps,
        context=manifest.context,
        horizon=(config.horizon or manifest.horizon) + manifest.segmentation.lengths[-1],
        image_size=manifest.image_size,
        space=manifest.action_space,
        plan_extension=config.extension,
        image_latency_ns=mapping.image_latency_ns,
    )


def _after_later_plans(items: Iterable[tuple[int, Frame | Plan]], grid: TimelineConfig) -> Iterator[tuple[int, Frame | Plan]]:
    """The same items, each image only after all plans that can matter for its horizon."""
    ahead_ns = round(grid.horizon * NANOSECONDS / grid.fps) + LATE_NS
    waiting: deque[tuple[int, Frame]] = deque()
    for received_ns, item in items:
        while waiting and received_ns - waiting[0][0] > ahead_ns:
            yield waiting.popleft()
        if isinstance(item, Plan):
            yield received_ns, item
        else:
            waiting.append((received_ns, item))
    yield from waiting


def replay(
    bundle: Bundle,
    bag: Path,
    mapping: TopicMapping | None = None,
    plan: Knowledge = "causal",
    every: float = 1.0,
    horizon: int | None = None,
    backend: str = AUTO,
    plan_extension: PlanExtension | None = None,
    anchors_ns: Container[int] | None = None,
    precision: str = AUTO,
) -> Iterator[Prediction]:
    """Predict from a recording.

    Args:
        bundle: The model.
        bag: The recording.
        mapping: Its topics; None: the bundle's.
        plan: See :data:`Knowledge`.
        every: See :class:`ReplayConfig`, as all that follows but ``backend`` and ``precision``.
        horizon: Most steps.
        backend: See :func:`create_backend`.
        plan_extension: What follows a plan.
        anchors_ns: The only anchors wanted.
        precision: See :func:`create_backend`.

    Raises:
        LongscapeError: see :class:`Replay` and :class:`Predictor`.
    """
    source = Replay(bundle, bag, mapping, ReplayConfig(plan, every, horizon, plan_extension, anchors_ns))
    predictor = Predictor(bundle, create_backend(bundle, backend, precision=precision))
    try:
        for _, snapshot in source:
            yield predictor.predict(snapshot, horizon=horizon)
    finally:
        predictor.backend.close()


# ---- a bag in, a bag out ----

_Write = Callable[[BagWriter], None]
_Record = tuple[int, _Write]
"""When it is received, and how it is written."""


def predict_bag(
    bag: Path,
    output: Path,
    bundle: Bundle,
    mapping: TopicMapping | None = None,
    plan: Knowledge = "causal",
    every: float = 1.0,
    horizon: int | None = None,
    backend: str = AUTO,
    plan_extension: PlanExtension | None = None,
    progress: Callable[[float, float, str], None] | None = None,
    precision: str = AUTO,
) -> dict[str, float | str]:
    """Predict from a recording, and write camera, commands and predictions into one MCAP file.

    Args:
        bag: The recording.
        output: ``NAME.mcap``; appears, or replaces an older one, when it is complete.
        bundle: The model.
        mapping: See :func:`replay`, as all that follows but ``progress``.
        plan: What is known of the commands.
        every: Seconds between predictions.
        horizon: Most steps.
        backend: What runs the graphs.
        plan_extension: What follows a plan.
        progress: Called with seconds of the recording done, in all, and a text.
        precision: What denoisers compute in.

    Returns:
        ``predictions``, ``predicted_frames``, ``images``, ``skipped`` (images due that could not be predicted from),
        ``invalid_messages``, ``recording_s``, ``compute_s`` (wall time of everything), ``realtime_factor``, ``predict_ms_p50``,
        ``timeline.<counter>``, ``messages.<topic>`` written; texts: ``meta.model_id``, ``meta.backend``, ``meta.precision``,
        ``meta.plan``, ``meta.bag``, ``meta.output``, ``meta.skipped`` (why).

    Raises:
        InputError: ``output`` is no MCAP file or part of the recording, or nothing could be predicted.
        LongscapeError: see :func:`replay`.
    """
    if output.suffix != ".mcap":
        raise InputError(f"Got {output} to write to, expected a name that ends in .mcap.")
    if bag.resolve() in (output.resolve(), *output.resolve().parents):
        raise InputError(f"Got {output} to write to, which belongs to the recording; expected another place.")
    source = Replay(bundle, bag, mapping, ReplayConfig(plan, every, horizon, plan_extension))
    kept = _kept_topics(bag, source.mapping)
    began_ns, ended_ns = span_ns(bag)
    seconds = (ended_ns - began_ns) / NANOSECONDS
    begin = time.perf_counter()
    predictor = Predictor(bundle, create_backend(bundle, backend, precision=precision))
    run = _Run(predictor, source, horizon)
    try:
        with BagWriter(output) as writer:
            for received_ns, write in heapq.merge(_copies(bag, kept), run.records(), key=itemgetter(0)):
                write(writer)
                if progress is not None:
                    done = min((received_ns - began_ns) / NANOSECONDS, seconds)  # playback goes beyond the end
                    progress(done, seconds, f"{len(run.times_ms)} predictions")
            if not run.times_ms:
                raise InputError(f"Got no prediction from {source.images} images of {bag}: {_reasons(source.skipped) or 'none was usable'}")
    finally:
        predictor.backend.close()
    spent = time.perf_counter() - begin
    return {
        "predictions": float(len(run.times_ms)),
        "predicted_frames": float(run.frames),
        "images": float(source.images),
        "skipped": float(source.skipped.total()),
        "invalid_messages": float(source.invalid),
        "recording_s": seconds,
        "compute_s": spent,
        "realtime_factor": seconds / spent,
        "predict_ms_p50": float(np.median(run.times_ms)),
        **{f"timeline.{name}": float(count) for name, count in source.counters.items()},
        **{f"messages.{topic}": float(count) for topic, count in writer.counts.items()},
        "meta.model_id": bundle.model_id,
        "meta.backend": predictor.backend.name,
        "meta.precision": predictor.backend.precision,
        "meta.plan": plan,
        "meta.bag": str(bag),
        "meta.output": str(output),
        "meta.skipped": _reasons(source.skipped),
    }


class _Run:
    """Makes the predictions of one recording, and counts."""

    def __init__(self, predictor: Predictor, source: Replay, horizon: int | None) -> None:
        self._predictor = predictor
        self._source = source
        self._horizon = horizon
        self.times_ms: list[float] = []
        self.frames = 0

    def records(self) -> Iterator[_Record]:
        """What is written of the predictions, in the order of receive times."""
        last: tuple[int, Prediction] | None = None
        for received_ns, snapshot in self._source:
            prediction = self._predictor.predict(snapshot, horizon=self._horizon)
            self.times_ms.append(prediction.timings_ms["total"])
            self.frames += len(prediction.frames)
            if last is not None:
                yield from _playback(*last, until_ns=received_ns)
            yield received_ns, partial(_write_prediction, prediction=prediction, received_ns=received_ns)
            last = received_ns, prediction
        if last is not None:
            yield from _playback(*last, until_ns=None)


def _playback(received_ns: int, prediction: Prediction, until_ns: int | None) -> Iterator[_Record]:
    """The prediction's frames, each when the camera's image of the same moment would be received, until the next prediction is."""
    delay_ns = received_ns - prediction.anchor_ns
    for index, stamp_ns in enumerate(prediction.stamps_ns().tolist()):
        if until_ns is not None and stamp_ns + delay_ns >= until_ns:
            return
        yield stamp_ns + delay_ns, partial(_write_frame, prediction=prediction, index=index, received_ns=stamp_ns + delay_ns)


def _write_prediction(writer: BagWriter, prediction: Prediction, received_ns: int) -> None:
    classes = bag_types()
    strip = image_message(filmstrip(prediction, FILMSTRIP_COLUMNS), prediction.anchor_ns, prediction.frame_id, classes)
    writer.write(PREDICTION_TOPIC, PREDICTED_VIDEO, received_ns, prediction_to_message(prediction, classes))
    writer.write(FILMSTRIP_TOPIC, IMAGE, received_ns, strip)


def _write_frame(writer: BagWriter, prediction: Prediction, index: int, received_ns: int) -> None:
    stamp_ns = int(prediction.stamps_ns()[index])
    message = compressed_message(prediction.frames[index], stamp_ns, prediction.frame_id, bag_types())
    writer.write(PLAYBACK_TOPIC, COMPRESSED_IMAGE, received_ns, message)


def _copies(bag: Path, kept: set[str]) -> Iterator[_Record]:
    return ((message.received_ns, partial(_copy, message=message)) for message in raw_messages(bag, kept))


def _copy(writer: BagWriter, message: RawMessage) -> None:
    writer.write_raw(message.topic, message.type, message.received_ns, message.data, message.definition, message.digest)


def _kept_topics(bag: Path, mapping: TopicMapping) -> set[str]:
    """The camera, its camera_info, and the commands."""
    recorded = topics(bag)
    image_topic, _ = image_source(recorded, mapping, bag)
    camera = image_topic.removesuffix("/compressed").rpartition("/")[0]
    commands = {source.topic for source in mapping.action_sources}
    return {image_topic, *commands, *({f"{camera}/camera_info"} & set(recorded))}


def _reasons(skipped: Counter[str]) -> str:
    return " ".join(f"{count} x: {reason}" for reason, count in skipped.most_common())
