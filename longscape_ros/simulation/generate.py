# SPDX-License-Identifier: Apache-2.0
"""Records episodes of the simulated arm as rosbag2 bags, with the topics a robot's own recording would have."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from longscape_ros.contract import NANOSECONDS
from longscape_ros.errors import InputError
from longscape_ros.simulation.arm import ACTION_NAMES, FPS, NATIVE_SIZE, SimulatedArm, downsample
from longscape_ros.simulation.operator import Operator

Progress = Callable[[float, float, str], None]
"""(done, total, what) of a long job."""

PLAN_EVERY = 16
"""Steps from one published plan to the next."""

PLAN_STEPS = 96
"""Steps that a plan holds."""

CAMERA_FRAME = "camera_optical_frame"

MAPPING = """\
# Which topics are the camera and the action.
image_topic: /camera/image_raw/compressed
image_type: sensor_msgs/msg/CompressedImage
fps: 20.0
action_sources:
  - topic: /arm_controller/joint_trajectory
    type: trajectory_msgs/msg/JointTrajectory
    stamp: header
    fields: {hand_x: hand_x, hand_y: hand_y, hand_z: hand_z, gripper: gripper}
dimensions:
  - {name: hand_x, unit: m, kind: position}
  - {name: hand_y, unit: m, kind: position}
  - {name: hand_z, unit: m, kind: position}
  - {name: gripper, unit: "1", kind: state, is_gripper: true}
"""


@dataclass(frozen=True)
class EpisodeRequest:
    """One episode to record: ``frames`` images of ``image_size`` pixels a side."""

    task: str
    seed: int
    frames: int
    image_size: int

    @property
    def name(self) -> str:
        return f"{self.task}_{self.seed}"


@dataclass(frozen=True)
class Recording:
    """What was recorded: images uint8 [N, S, S, 3] at the grid's steps, commands float64 [N, 4] (row i is executed between images i and
    i + 1), hand positions float64 [N, 3] and gripper openings [N] when each image was taken."""

    images: NDArray[np.uint8]
    commands: NDArray[np.float64]
    hands: NDArray[np.float64]
    openings: NDArray[np.float64]


def generate(
    tasks: list[str],
    episodes: int,
    seed: int,
    image_size: int,
    output: Path,
    frames: int = 400,
    workers: int | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Record ``episodes`` episodes of each task, seeds from ``seed`` on; those that exist already are kept.

    Raises:
        InputError: a task is unknown or a size is not usable.
    """
    if not 8 <= image_size <= NATIVE_SIZE or image_size % 8:
        raise InputError(f"Got image_size {image_size}, expected a multiple of 8 from 8 to {NATIVE_SIZE}.")
    if frames < 2 or episodes < 1:
        raise InputError(f"Got {episodes} episodes of {frames} frames, expected at least 1 of at least 2.")
    output.mkdir(parents=True, exist_ok=True)
    (output / "mapping.yaml").write_text(MAPPING)
    requests = [EpisodeRequest(task, seed + i, frames, image_size) for i in range(episodes) for task in tasks]
    missing = [r for r in requests if not (output / r.name / "metadata.yaml").is_file()]
    done = len(requests) - len(missing)
    # Spawned, not forked: an OpenGL context does not survive a fork.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        pending = {pool.submit(_record_bag, request, output): request for request in missing}
        for future in as_completed(pending):
            future.result()
            done += 1
            if progress:
                progress(done, len(requests), pending[future].name)
    shutil.rmtree(output / ".partial", ignore_errors=True)
    return {"episodes": float(len(requests)), "episodes.recorded": float(len(missing)), "frames": float(len(requests) * frames)}


def record(request: EpisodeRequest) -> Recording:
    """Play one episode; equal requests give equal recordings."""
    arm = SimulatedArm(request.task, request.seed)
    operator = Operator(arm, request.seed)
    images, commands, hands, openings = [], [], [], []
    for _ in range(request.frames):
        images.append(downsample(arm.render(), request.image_size))
        hands.append(arm.hand)
        openings.append(arm.opening)
        commands.append(operator.command())
        arm.step(commands[-1])
    arm.close()
    return Recording(np.array(images), np.array(commands), np.array(hands), np.array(openings))


def _record_bag(request: EpisodeRequest, output: Path) -> None:
    recording = record(request)
    partial = output / ".partial" / request.name  # the bag's file is named after its folder
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(exist_ok=True)
    _write_bag(partial, request, recording)
    partial.rename(output / request.name)


def _write_bag(folder: Path, request: EpisodeRequest, recording: Recording) -> None:
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    make = _Messages(store.types)
    start = (1_700_000_000 + 1000 * request.seed + sum(map(ord, request.task))) * NANOSECONDS
    period = NANOSECONDS // FPS
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        topics = {
            "/instruction": "std_msgs/msg/String",
            "/arm_controller/joint_trajectory": "trajectory_msgs/msg/JointTrajectory",
            "/camera/camera_info": "sensor_msgs/msg/CameraInfo",
            "/camera/image_raw/compressed": "sensor_msgs/msg/CompressedImage",
            "/joint_states": "sensor_msgs/msg/JointState",
        }
        connections = {topic: writer.add_connection(topic, kind, typestore=store) for topic, kind in topics.items()}

        def write(topic: str, at: int, message: Any) -> None:
            writer.write(connections[topic], at, store.serialize_cdr(message, topics[topic]))

        write("/instruction", start, make("std_msgs/msg/String", data=request.task.replace("-", " ")))
        for i, image in enumerate(recording.images):
            stamp = start + i * period
            header = make.header(stamp, CAMERA_FRAME)
            if i % PLAN_EVERY == 0:
                write("/arm_controller/joint_trajectory", stamp, make.trajectory(stamp, recording.commands[i : i + PLAN_STEPS]))
            write("/camera/camera_info", stamp, make.camera_info(header, request.image_size))
            write("/camera/image_raw/compressed", stamp, make.png(header, image))
            write("/joint_states", stamp, make.joint_state(stamp, [*recording.hands[i], 1 - recording.openings[i]]))


class _Messages:
    """Builds the messages of a bag from a typestore's classes."""

    def __init__(self, classes: Any) -> None:
        self._classes = classes

    def __call__(self, kind: str, **fields: Any) -> Any:
        return self._classes[kind](**fields)

    def header(self, stamp_ns: int, frame_id: str) -> Any:
        time = self("builtin_interfaces/msg/Time", sec=stamp_ns // NANOSECONDS, nanosec=stamp_ns % NANOSECONDS)
        return self("std_msgs/msg/Header", stamp=time, frame_id=frame_id)

    def png(self, header: Any, rgb: NDArray[np.uint8]) -> Any:
        data = cv2.imencode(".png", rgb[:, :, ::-1])[1].reshape(-1)
        return self("sensor_msgs/msg/CompressedImage", header=header, format="rgb8; png compressed bgr8", data=data)

    def trajectory(self, stamp_ns: int, commands: NDArray[np.float64]) -> Any:
        """Commands [M, 4], each reached one period after the one before."""
        nothing = np.zeros(0)
        points = []
        for step, command in enumerate(commands, start=1):
            ns = step * NANOSECONDS // FPS
            time = self("builtin_interfaces/msg/Duration", sec=ns // NANOSECONDS, nanosec=ns % NANOSECONDS)
            points.append(
                self(
                    "trajectory_msgs/msg/JointTrajectoryPoint",
                    positions=command,
                    velocities=nothing,
                    accelerations=nothing,
                    effort=nothing,
                    time_from_start=time,
                )
            )
        header = self.header(stamp_ns, "base")
        return self("trajectory_msgs/msg/JointTrajectory", header=header, joint_names=list(ACTION_NAMES), points=points)

    def joint_state(self, stamp_ns: int, position: list[float]) -> Any:
        nothing = np.zeros(0)
        return self(
            "sensor_msgs/msg/JointState",
            header=self.header(stamp_ns, "base"),
            name=list(ACTION_NAMES),
            position=np.array(position),
            velocity=nothing,
            effort=nothing,
        )

    def camera_info(self, header: Any, side: int) -> Any:
        focal = side / 2 / np.tan(np.deg2rad(45) / 2)
        matrix = np.array([focal, 0, side / 2, 0, focal, side / 2, 0, 0, 1], dtype=np.float64)
        projection = np.insert(matrix, [3, 6, 9], 0.0)
        whole = self("sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
        return self(
            "sensor_msgs/msg/CameraInfo",
            header=header,
            height=side,
            width=side,
            distortion_model="plumb_bob",
            d=np.zeros(5),
            k=matrix,
            r=np.eye(3).ravel(),
            p=projection,
            binning_x=0,
            binning_y=0,
            roi=whole,
        )
