# SPDX-License-Identifier: Apache-2.0
"""A demo's recording without a demo: a square that follows the commands, and predictions that are exactly right."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from support.hosts import skip_unless_installed, skip_unless_rendered
from support.tiny_bundle import write_tiny_bundle

from longscape_ros.bags.writer import BagWriter, bag_types
from longscape_ros.contract import NANOSECONDS, ActionDimension, ActionSpace, Chunk, EndReason, Prediction
from longscape_ros.demo.recording import CHUNK_TOPIC, DIAGNOSTICS_TOPIC, PREDICTION_TOPIC, SURPRISE_TOPIC, Recording, read_recording
from longscape_ros.images import resize_rgb
from longscape_ros.messages import image_message, prediction_to_message, time_message
from longscape_ros.runtime.surprise import State
from longscape_ros.simulation import topics
from longscape_ros.simulation.arm import COMMAND_NAMES
from longscape_ros.simulation.disturbance import Disturbance, report

START_NS = 1_700_000_000 * NANOSECONDS
FRAMES = 100
CAMERA, MODEL = 32, 16
LATENCY_NS = 300_000_000
ANCHORS = (5, 20, 35, 50, 65)
CHUNKS = (Chunk(0, 8, 8, EndReason.MOTION), Chunk(8, 24, 24, EndReason.GRIPPER))
EXPERTS = (0, 2)
LOST_FRAME = 80
DISTURBED_FRAME = 60
COMPARED = (
    (20, State.EXPECTED, 0.5),
    (24, State.SURPRISED, 3.0),
    (26, State.SURPRISED, 2.5),
    (48, State.NOT_COMPARABLE, float("nan")),
    (62, State.EXPECTED, 2.2),
    (64, State.SURPRISED, 4.0),
)
"""Frame, and what was thought of it."""


@dataclass(frozen=True)
class Written:
    """Where the recording is, and what was written there."""

    path: Path
    frames: tuple[np.ndarray, ...]
    compared: tuple[tuple[int, State, float], ...] = COMPARED


def camera_image(k: int) -> np.ndarray:
    image = np.full((CAMERA, CAMERA, 3), 40, np.uint8)
    left = k % (CAMERA - 8)
    image[8:16, left : left + 8] = (250, 160, 60)
    return image


def stamp_ns(k: int) -> int:
    return START_NS + k * topics.PERIOD_NS


def exact_prediction(anchor: int, images: tuple[np.ndarray, ...], frames: int = 32) -> Prediction:
    future = [resize_rgb(images[anchor + k], (MODEL, MODEL)) for k in range(1, frames + 1)]
    return Prediction(
        anchor_ns=stamp_ns(anchor),
        fps=20.0,
        frames=np.stack(future),
        chunks=CHUNKS,
        experts=EXPERTS,
        assumed_from=frames,
        confidence=np.full(frames, np.nan, np.float32),
        seed=1,
        model_id="exact@0",
        plan_stamp_ns=START_NS,
        timings_ms={"total": 200.0},
        frame_id="camera_optical_frame",
    )


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """100 images of which one is lost, two plans, five predictions, an executed chunk, and diagnostics."""
    path = tmp_path_factory.mktemp("recording") / "demo.mcap"
    types = bag_types()
    build = topics.RobotMessages(types, np.array)
    images = tuple(camera_image(k) for k in range(FRAMES))
    commands = np.stack([np.linspace(0, 0.3, 96), np.full(96, 0.6), np.linspace(0.3, 0.1, 96), np.repeat([0.0, 1.0], 48)], axis=1)
    messages: list[tuple[int, str, str, object]] = []
    for k in (0, 16):
        messages.append((stamp_ns(k) - 10**8, topics.TRAJECTORY_TOPIC, topics.TRAJECTORY, build.trajectory(stamp_ns(k), commands)))
    for k, image in enumerate(images):
        if k != LOST_FRAME:
            message = image_message(image, stamp_ns(k), "camera_optical_frame", types)
            messages.append((stamp_ns(k) + 10**6, topics.IMAGE_TOPIC, topics.IMAGE, message))
    for anchor in ANCHORS:
        video = prediction_to_message(exact_prediction(anchor, images), types, format="png")
        messages.append((stamp_ns(anchor) + LATENCY_NS, PREDICTION_TOPIC, "longscape_msgs/msg/PredictedVideo", video))
    chunk = {"begin_ns": stamp_ns(10), "end_ns": stamp_ns(26), "length": 16, "reason": "MOTION"}
    messages.append((stamp_ns(26), CHUNK_TOPIC, topics.STRING, types(topics.STRING)(data=json.dumps(chunk))))
    told = report(Disturbance("bump", 1.0, DISTURBED_FRAME), stamp_ns(DISTURBED_FRAME), topics.PERIOD_NS)
    messages.append((stamp_ns(DISTURBED_FRAME), topics.DISTURBANCE_TOPIC, topics.STRING, types(topics.STRING)(data=told)))
    for k, state, error in COMPARED:
        messages.append((stamp_ns(k) + LATENCY_NS, SURPRISE_TOPIC, "longscape_msgs/msg/Surprise", _surprise(types, k, state, error)))
    messages.append((stamp_ns(90), DIAGNOSTICS_TOPIC, "diagnostic_msgs/msg/DiagnosticArray", _diagnostics(types)))
    with BagWriter(path) as writer:
        for received_ns, topic, kind, message in sorted(messages, key=lambda m: m[0]):
            writer.write(topic, kind, received_ns, message)
    return Written(path, images)


def _surprise(types, k: int, state: State, error: float):
    header = types("std_msgs/msg/Header")(stamp=time_message(stamp_ns(k), types), frame_id="camera_optical_frame")
    predicted_at = time_message(stamp_ns(k - 4), types)
    kind = types("longscape_msgs/msg/Surprise")
    return kind(header=header, state=int(state), error=error, threshold=2.0, predicted_at=predicted_at, x=3, y=5, model_id="exact@0")


def _diagnostics(types):
    pair, status = types("diagnostic_msgs/msg/KeyValue"), types("diagnostic_msgs/msg/DiagnosticStatus")
    header = types("std_msgs/msg/Header")(stamp=time_message(stamp_ns(90), types), frame_id="")
    inference = [pair(key="requests_dropped", value="7"), pair(key="latency_ms_p50", value="203.1")]
    parts = [
        status(level=0, name="predictor: inference", message="predicting", hardware_id="", values=inference),
        status(level=0, name="predictor: model", message="loaded", hardware_id="", values=[pair(key="backend", value="ort_cpu")]),
    ]
    return types("diagnostic_msgs/msg/DiagnosticArray")(header=header, status=parts)


@pytest.fixture(scope="session")
def recording(written: Written) -> Recording:
    return read_recording(written.path)


@pytest.fixture(scope="session")
def arm_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle for the simulated arm."""
    hand = (ActionDimension(name, "m", motion_range=0.35, scale=0.15) for name in COMMAND_NAMES[:3])
    gripper = ActionDimension(COMMAND_NAMES[3], kind="state", scale=0.5, midpoint=0.5, hysteresis=0.1, is_gripper=True)
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    return write_tiny_bundle(folder, image_size=(64, 64), latent_shape=(2, 8, 8), action_space=ActionSpace((*hand, gripper))).path


@pytest.fixture(scope="session")
def demo_host() -> None:
    """All that a demo needs is installed, and the simulation can be rendered."""
    skip_unless_installed("metaworld", "mujoco", "av", "PIL", "cyclonedds", extra="demo")
    skip_unless_rendered()
