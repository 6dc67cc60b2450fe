# SPDX-License-Identifier: Apache-2.0
"""Messages of rosbags' classes for what is shown: a camera at 20 Hz, predictions with frames that can be told apart, commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from support.robot import IMAGE_TOPIC, NAMES, STEP_NS, TRAJECTORY_TOPIC, sway, write_robot_bundle

from longscape_ros.bags.writer import BagWriter, bag_types
from longscape_ros.contract import NANOSECONDS, Chunk, Confidence, EndReason, Prediction, Status
from longscape_ros.messages import (
    COMPRESSED_IMAGE,
    JOINT_TRAJECTORY,
    compressed_message,
    duration_message,
    image_message,
    prediction_to_message,
    time_message,
)
from longscape_ros.offline import predict_bag

TYPES = bag_types()
T0 = 1000 * NANOSECONDS
DELAY_NS = 5_000_000
"""From an image's stamp to its receive time."""

IMAGES = 60
"""In :func:`write_predicted`."""

SIZE = (16, 24)
"""H, W of camera and predictions."""


def stamp_ns(step: int) -> int:
    """When the camera's image of this number is seen."""
    return T0 + step * STEP_NS


def shade(value: int) -> NDArray[np.uint8]:
    """A picture of one grey."""
    return np.full((*SIZE, 3), value, np.uint8)


def camera_image(step: int, value: int = 100, format: str = "png") -> Any:
    """A sensor_msgs/CompressedImage, or an Image if the format is ``raw``."""
    if format == "raw":
        return image_message(shade(value), stamp_ns(step), "lens", TYPES)
    return compressed_message(shade(value), stamp_ns(step), "lens", TYPES, format)


def prediction(
    step: int, lengths: tuple[int, ...] = (8, 16), base: int = 0, assumed_from: int | None = None, confident: bool = True
) -> Prediction:
    """One anchored at an image; frame k (from 1 on) is grey ``base`` + k, its confidence k / 100, chunk n is of expert n."""
    count = sum(lengths)
    starts = np.cumsum([0, *lengths[:-1]]).tolist()
    return Prediction(
        anchor_ns=stamp_ns(step),
        fps=20.0,
        frames=np.stack([shade(base + k) for k in range(1, count + 1)]),
        chunks=tuple(Chunk(start, n, n, EndReason.MOTION) for start, n in zip(starts, lengths, strict=True)),
        experts=tuple(range(len(lengths))),
        assumed_from=count if assumed_from is None else assumed_from,
        confidence=np.arange(1, count + 1, dtype=np.float32) / 100 if confident else np.full(count, np.nan, np.float32),
        seed=1,
        model_id="tiny@1",
        status=Status.OK,
        timings_ms={"total": 12.5},
    )


def video(step: int, **changes: Any) -> Any:
    """longscape_msgs/PredictedVideo of :func:`prediction`, lossless."""
    return prediction_to_message(prediction(step, **changes), TYPES, "png")


def trajectory(step: int, values: Any, names: tuple[str, ...] = NAMES) -> Any:
    """A trajectory that starts at an image, one point per image after it."""
    point, none = TYPES("trajectory_msgs/msg/JointTrajectoryPoint"), np.empty(0)
    points = [
        point(
            positions=np.asarray(row, np.float64),
            velocities=none,
            accelerations=none,
            effort=none,
            time_from_start=duration_message((k + 1) * STEP_NS, TYPES),
        )
        for k, row in enumerate(values)
    ]
    header = TYPES("std_msgs/msg/Header")(stamp=time_message(stamp_ns(step), TYPES), frame_id="")
    return TYPES(JOINT_TRAJECTORY)(header=header, joint_names=list(names), points=points)


def text(value: object) -> Any:
    """std_msgs/String; what is no text becomes JSON."""
    return TYPES("std_msgs/msg/String")(data=value if isinstance(value, str) else json.dumps(value))


def diagnostics(step: int, node: str = "predictor", **levels: int) -> Any:
    """diagnostic_msgs/DiagnosticArray of the predictor, a status per part."""
    status, pair = TYPES("diagnostic_msgs/msg/DiagnosticStatus"), TYPES("diagnostic_msgs/msg/KeyValue")
    header = TYPES("std_msgs/msg/Header")(stamp=time_message(stamp_ns(step), TYPES), frame_id="")
    parts = [
        status(level=level, name=f"{node}: {part}", message=f"{part} is at {level}", hardware_id="", values=[pair(key="a|b", value="3")])
        for part, level in levels.items()
    ]
    return TYPES("diagnostic_msgs/msg/DiagnosticArray")(header=header, status=parts)


def write_predicted(folder: Path) -> Path:
    """A robot's recording of three seconds, with predictions every half second as ``longscape predict`` makes them."""
    with BagWriter(folder / "run.mcap") as writer:
        for step in range(IMAGES):
            received_ns = stamp_ns(step) + DELAY_NS
            if step % 16 == 0:
                writer.write(TRAJECTORY_TOPIC, JOINT_TRAJECTORY, received_ns - 1, trajectory(step + 2, sway(step + 2, 48)))
            writer.write(f"{IMAGE_TOPIC}/compressed", COMPRESSED_IMAGE, received_ns, camera_image(step, value=2 * step))
    bundle = write_robot_bundle(folder / "bundle", confidence=Confidence(25.0, -3.0, -20.0))
    predict_bag(folder / "run.mcap", folder / "run_predicted.mcap", bundle, every=0.5)
    return folder / "run_predicted.mcap"
