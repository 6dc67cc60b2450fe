# SPDX-License-Identifier: Apache-2.0
"""The way of a camera message to a prediction's message in one process, as the node goes it: where its time goes.

It goes through conversion, timeline, worker thread, predictor and conversion back; the transport is not part of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longscape_ros.bags.writer import bag_types
from longscape_ros.bench import inputs
from longscape_ros.bench.timing import LEAST_RUNS, Spread
from longscape_ros.contract import NANOSECONDS, Frame, PlanExtension, Prediction
from longscape_ros.images import resize_rgb
from longscape_ros.messages import encode_images, frame_from_image, prediction_to_message, time_message
from longscape_ros.runtime.predictor import BESIDE_STAGES, GRAPH_STAGES, OTHER_STAGES, Predictor
from longscape_ros.runtime.worker import InferenceWorker, Request
from longscape_ros.timeline import Timeline, TimelineConfig

FUTURE = 32
"""Frames of a prediction."""

PLAN_STEPS = 3 * FUTURE
"""Steps of a plan; there is a new one every :data:`FUTURE` images."""

JPEG_EVERY = 4
"""Of so many predictions one is not counted, but has its compression timed by itself."""

BEFORE, AFTER = ("convert", "resize", "snapshot"), "publish"
"""What is done before the worker is asked, and after it has predicted."""

REST = "rest"
"""What no part accounts for: handing over to the worker's thread, and whatever is between the parts."""


def message_path(predictor: Predictor, seconds: float) -> dict[str, float]:
    """Send camera messages, one at a time, and wait for each prediction's message.

    Args:
        predictor: Warm.
        seconds: For all messages.

    Returns:
        Milliseconds, medians (``_p50``), 95th percentiles (``_p95``) and counts (``_n``):

        - ``message_ms``: from the camera's message to the prediction's;
        - ``overhead_ms``: of that, the time neither in a graph nor waiting for the worker; ``overhead_fraction``: its share, median;
        - ``overhead.<part>_ms_p50``: what it consists of; ``overhead.jpeg_ms_p50`` is contained in ``overhead.publish_ms_p50``;
        - ``beside.<part>_ms_p50``: what is done beside the graphs, and is only waited for (``overhead.inputs``) if it takes longer;
        - ``stage.<stage>_ms``: a prediction's stages: ``preprocess``, ``encode``, ``route``, ``denoise``, ``denoise_step`` (one sampling
          step of one chunk, the context's part included), ``estimate``, ``decode``, ``publish``.
    """
    walk = _Walk(predictor)
    end = time.perf_counter() + seconds
    try:
        while time.perf_counter() < end or len(walk.totals) < LEAST_RUNS:
            walk.step()
    finally:
        walk.stop()
    return walk.figures()


class _Walk:
    """One camera message after another."""

    def __init__(self, predictor: Predictor) -> None:
        self._manifest = manifest = predictor.bundle.manifest
        self._classes = bag_types()
        self._rgb = inputs.camera_image(predictor.bundle)
        self._results: SimpleQueue[tuple[float, float, Prediction] | Exception] = SimpleQueue()
        self._worker = InferenceWorker(predictor, self._publish, self._results.put)
        self._worker.start()
        self._timeline = Timeline(
            TimelineConfig(
                fps=manifest.fps,
                context=manifest.context,
                horizon=FUTURE + manifest.segmentation.lengths[-1],  # as the node has it
                image_size=manifest.image_size,
                space=manifest.action_space,
                plan_extension=PlanExtension.HOLD,
            )
        )
        self._images = 0
        self._is_counted = True
        self.totals: list[float] = []
        self._overheads: list[float] = []
        self._parts: dict[str, list[float]] = {}

    def step(self) -> None:
        """The next message; a prediction's, once there are as many images as the context has."""
        stamp_ns = NANOSECONDS + round(self._images * NANOSECONDS / self._manifest.fps)
        message = camera_message(self._rgb, stamp_ns, self._classes)
        if self._images % FUTURE == 0:
            self._timeline.add_plan(inputs.plan(self._manifest, stamp_ns, PLAN_STEPS))
        self._images += 1
        self._is_counted = self._images % JPEG_EVERY != 0
        begin = time.perf_counter()
        frame = frame_from_image(message, stamp_ns)
        converted = time.perf_counter()
        small = Frame(frame.stamp_ns, resize_rgb(frame.rgb, self._manifest.image_size), frame.frame_id)
        resized = time.perf_counter()
        self._timeline.add_frame(small)
        if self._images < self._manifest.context:
            return
        snapshot = self._timeline.snapshot()
        asked = time.perf_counter()
        self._worker.submit(Request(snapshot, horizon=FUTURE))
        result = self._results.get()
        if isinstance(result, Exception):
            raise result
        predicted, ready, prediction = result
        if not self._is_counted:
            self._add("jpeg", ready - predicted)
            return
        graphs = prediction.timings_ms["graphs"]
        self.totals.append(1e3 * (ready - begin))
        self._overheads.append(self.totals[-1] - graphs - prediction.timings_ms["queue"])
        own = dict(zip((*BEFORE, AFTER), (converted - begin, resized - converted, asked - resized, ready - predicted), strict=True))
        for part, seconds in own.items():
            self._add(part, seconds)
        inside = {stage: prediction.timings_ms.get(stage, 0.0) for stage in (*GRAPH_STAGES, *OTHER_STAGES, *BESIDE_STAGES)}
        for stage, milliseconds in inside.items():
            self._add(stage, milliseconds / 1e3)
        self._add("preprocess", resized - begin)
        self._add("denoise_step", inside["denoise"] / 1e3 / len(prediction.chunks) / self._manifest.sampler_steps)
        known = sum(1e3 * own[part] for part in own) + sum(inside[stage] for stage in OTHER_STAGES)
        self._add(REST, (self._overheads[-1] - known) / 1e3)

    def stop(self) -> None:
        """End the worker."""
        self._worker.stop()

    def figures(self) -> dict[str, float]:
        """See :func:`message_path`."""
        figures = Spread.of(self.totals).figures("message_ms") | Spread.of(self._overheads).figures("overhead_ms")
        figures["overhead_fraction"] = float(np.median(np.array(self._overheads) / self.totals))
        for part in (*BEFORE, *OTHER_STAGES, AFTER, "jpeg", REST):
            figures[f"overhead.{part}_ms_p50"] = float(np.median(self._parts[part]))
        figures |= {f"beside.{part}_ms_p50": float(np.median(self._parts[part])) for part in BESIDE_STAGES}
        for stage in ("preprocess", "encode", "route", "denoise", "denoise_step", "estimate", "decode", AFTER):
            figures |= Spread.of(self._parts[stage]).figures(f"stage.{stage}_ms")
        return figures

    def _publish(self, prediction: Prediction) -> None:
        """On the worker's thread."""
        predicted = time.perf_counter()
        if self._is_counted:
            prediction_to_message(prediction, self._classes)
        else:
            encode_images(prediction.frames, "jpeg")
        self._results.put((predicted, time.perf_counter(), prediction))

    def _add(self, part: str, seconds: float) -> None:
        self._parts.setdefault(part, []).append(1e3 * seconds)


def camera_message(rgb: NDArray[np.uint8], stamp_ns: int, classes: Callable[[str], type]) -> Any:
    """sensor_msgs/Image of rosbags' classes, as a camera sends it."""
    height, width = rgb.shape[:2]
    header = classes("std_msgs/msg/Header")(stamp=time_message(stamp_ns, classes), frame_id="camera_optical_frame")
    return classes("sensor_msgs/msg/Image")(
        header=header, height=height, width=width, encoding="rgb8", is_bigendian=0, step=3 * width, data=rgb.reshape(-1)
    )
