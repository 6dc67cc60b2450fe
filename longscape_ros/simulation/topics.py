# SPDX-License-Identifier: Apache-2.0
"""The simulated robot's topics: their names, types, messages, and the mapping that training and the predictor read them with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longscape_ros.contract import NANOSECONDS, ActionDimension, ActionSource, TopicMapping
from longscape_ros.simulation.arm import CAMERA_FRAME, COMMAND_NAMES, FPS

IMAGE_TOPIC = "/camera/image_raw"
COMPRESSED_TOPIC = "/camera/image_raw/compressed"
CAMERA_INFO_TOPIC = "/camera/camera_info"
TRAJECTORY_TOPIC = "/arm_controller/joint_trajectory"
JOINT_STATES_TOPIC = "/joint_states"
INSTRUCTION_TOPIC = "/instruction"
DISTURBANCE_TOPIC = "/disturbance"
"""std_msgs/String, JSON: see :func:`longscape_ros.simulation.disturbance.report`."""

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
JOINT_STATE = "sensor_msgs/msg/JointState"
STRING = "std_msgs/msg/String"

PLAN_EVERY = 16
"""Frames between two plans."""

PLAN_STEPS = 96
"""Steps that a plan looks ahead."""

PERIOD_NS = NANOSECONDS // FPS


def mapping(recorded: bool) -> TopicMapping:
    """Which topics are the camera and the action: of a recording (compressed images), or live."""
    return TopicMapping(
        image_topic=COMPRESSED_TOPIC if recorded else IMAGE_TOPIC,
        image_type=COMPRESSED_IMAGE if recorded else IMAGE,
        action_sources=(ActionSource(TRAJECTORY_TOPIC, TRAJECTORY, {name: name for name in COMMAND_NAMES}),),
        dimensions=(
            *(ActionDimension(name, unit="m", kind="position") for name in COMMAND_NAMES[:3]),
            ActionDimension(COMMAND_NAMES[3], kind="state", scale=0.5, midpoint=0.5, hysteresis=0.1, is_gripper=True),
        ),
        fps=FPS,
    )


@dataclass(frozen=True, slots=True)
class RobotMessages:
    """Builds the robot's messages of rclpy's classes or of rosbags'.

    Args:
        classes: ``sensor_msgs/msg/Image`` -> the class.
        numbers: Makes what the classes take as ``float64[]``: ``list`` for rclpy, ``numpy.array`` for rosbags.
    """

    classes: Callable[[str], type]
    numbers: Callable[[Sequence[float]], Any]

    def header(self, stamp_ns: int, frame_id: str = "") -> Any:
        return self.classes("std_msgs/msg/Header")(stamp=self._time("Time", stamp_ns), frame_id=frame_id)

    def camera_info(self, stamp_ns: int, intrinsics: NDArray[np.float64], size: int) -> Any:
        """An undistorted camera with square images; ``intrinsics``: float64 [3, 3]."""
        roi = self.classes("sensor_msgs/msg/RegionOfInterest")(x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
        return self.classes(CAMERA_INFO)(
            header=self.header(stamp_ns, CAMERA_FRAME),
            height=size,
            width=size,
            distortion_model="plumb_bob",
            d=self.numbers([0.0] * 5),
            k=intrinsics.ravel(),
            r=np.eye(3).ravel(),
            p=np.hstack([intrinsics, np.zeros((3, 1))]).ravel(),
            binning_x=0,
            binning_y=0,
            roi=roi,
        )

    def joint_state(self, stamp_ns: int, measured: NDArray[np.float64]) -> Any:
        """Where the hand is and how closed the gripper is: float64 [4]."""
        return self.classes(JOINT_STATE)(
            header=self.header(stamp_ns),
            name=list(COMMAND_NAMES),
            position=self.numbers(measured.tolist()),
            velocity=self.numbers([]),
            effort=self.numbers([]),
        )

    def trajectory(self, start_ns: int, commands: NDArray[np.float64]) -> Any:
        """Commands for the steps after ``start_ns``, one every 50 ms: float64 [n, 4]."""
        empty = self.numbers([])
        point = self.classes("trajectory_msgs/msg/JointTrajectoryPoint")
        return self.classes(TRAJECTORY)(
            header=self.header(start_ns),
            joint_names=list(COMMAND_NAMES),
            points=[
                point(
                    positions=self.numbers(command.tolist()),
                    velocities=empty,
                    accelerations=empty,
                    effort=empty,
                    time_from_start=self._time("Duration", (step + 1) * PERIOD_NS),
                )
                for step, command in enumerate(commands)
            ],
        )

    def _time(self, kind: str, time_ns: int) -> Any:
        return self.classes(f"builtin_interfaces/msg/{kind}")(sec=time_ns // NANOSECONDS, nanosec=time_ns % NANOSECONDS)
