# SPDX-License-Identifier: Apache-2.0
"""A robot of the tiny bundle's action on the graph: publishes images and trajectories, and hears what the predictor says."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from support.tiny_bundle import MANIFEST, write_tiny_bundle

from longscape_ros.bundle import Bundle
from longscape_ros.contract import NANOSECONDS, ActionSource, TopicMapping
from longscape_ros.messages import JOINT_TRAJECTORY, duration_message, image_message, time_message

STEP_NS = NANOSECONDS // 20
WAIT_S = 30.0
NAMES = MANIFEST.action_space.names
IMAGE_TOPIC = "/camera/image_raw"
TRAJECTORY_TOPIC = "/arm/joint_trajectory"
MAPPING = TopicMapping(
    image_topic=IMAGE_TOPIC,
    action_sources=(ActionSource(TRAJECTORY_TOPIC, JOINT_TRAJECTORY, {name: name for name in NAMES}),),
    dimensions=MANIFEST.action_space.dimensions,
    fps=20.0,
)


def write_robot_bundle(folder: Path, **changes: Any) -> Bundle:
    """The tiny bundle, trained on this robot."""
    return write_tiny_bundle(folder, **{"mapping": MAPPING, **changes})


def isolated_environment(domain: int) -> dict[str, str]:
    """Variables for processes that see each other and nobody else."""
    root = str(Path(__file__).parent.parent.parent)
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}


def message_class(name: str) -> type:
    """``sensor_msgs/msg/Image`` -> rclpy's class."""
    from longscape_ros.host import message_class as of_rclpy

    return of_rclpy(name)


def trajectory(start_ns: int, values: Any) -> Any:
    """A JointTrajectory of one point per step, the first one step after its start; start 0: when received."""
    point = message_class("trajectory_msgs/msg/JointTrajectoryPoint")
    message: Any = message_class(JOINT_TRAJECTORY)(joint_names=list(NAMES))
    message.header.stamp = time_message(start_ns, message_class)
    for step, row in enumerate(np.asarray(values, np.float64)):
        time_from_start = duration_message((step + 1) * STEP_NS, message_class)
        message.points.append(point(positions=row.tolist(), time_from_start=time_from_start))
    return message


def sway(start: int, steps: int) -> np.ndarray[Any, Any]:
    """float64 [steps, 3]: x and y swing, the gripper closes now and then; ``start`` is the phase in steps."""
    at = np.arange(start + 1, start + steps + 1)
    return np.stack([0.1 * np.sin(at / 15), 0.05 * np.cos(at / 40), (at // 70) % 2], axis=1)


class Robot:
    """Part of a test's node.

    Args:
        node: An rclpy node.
        spin_once: Lets every node of the test work for a moment.
    """

    def __init__(self, node: Any, spin_once: Callable[[], None]) -> None:
        from rclpy.qos import QoSProfile, qos_profile_sensor_data

        self.node = node
        self.heard: dict[str, list[Any]] = {}
        self._spin_once = spin_once
        self._images = node.create_publisher(message_class("sensor_msgs/msg/Image"), IMAGE_TOPIC, qos_profile_sensor_data)
        self._trajectories = node.create_publisher(message_class(JOINT_TRAJECTORY), TRAJECTORY_TOPIC, QoSProfile(depth=10))

    def listen(self, topic: str, type_name: str, **qos: Any) -> list[Any]:
        """The list that the topic's messages go to."""
        from rclpy.qos import QoSProfile

        heard = self.heard.setdefault(topic, [])
        self.node.create_subscription(message_class(type_name), topic, heard.append, QoSProfile(**{"depth": 100, **qos}))
        return heard

    def until(self, condition: Callable[[], Any], seconds: float = WAIT_S) -> Any:
        """Works until the condition holds; what it gave."""
        end = time.monotonic() + seconds
        while not (result := condition()):
            assert time.monotonic() < end, "waited in vain"
            self._spin_once()
        return result

    def spin(self) -> None:
        """Works for a moment."""
        self._spin_once()

    def connect(self) -> None:
        """Waits until somebody listens to images and commands."""
        self.until(lambda: self._images.get_subscription_count() and self._trajectories.get_subscription_count())

    def now_ns(self) -> int:
        return int(self.node.get_clock().now().nanoseconds)

    def plan(self, steps: int = 96, start_ns: int | None = None, phase: int = 0) -> int:
        """Publishes a plan that starts in 0.2 s; when it starts."""
        start_ns = self.now_ns() + 4 * STEP_NS if start_ns is None else start_ns
        self.command(trajectory(start_ns, sway(phase, steps)))
        return start_ns

    def command(self, message: Any) -> None:
        self._trajectories.publish(message)

    def image(self, stamp_ns: int | None = None, shade: int = 0) -> int:
        """Publishes an image; its stamp."""
        stamp_ns = self.now_ns() if stamp_ns is None else stamp_ns
        rgb = np.full((48, 72, 3), shade % 256, np.uint8)
        rgb[10:20, shade % 60 : shade % 60 + 10] = 255 - shade % 256
        self.publish_image(image_message(rgb, stamp_ns, "camera_optical_frame", message_class))
        return stamp_ns

    def publish_image(self, message: Any) -> None:
        self._images.publish(message)

    def live(self, steps: int, done: Callable[[], Any] = lambda: False, plan_every: int = 16, plan_steps: int = 96) -> int:
        """Publishes images at 20 Hz, and a new plan every so many, until it is done or all steps are over; how many images."""
        begin_ns = self.now_ns() + STEP_NS
        for step in range(steps):
            stamp_ns = begin_ns + step * STEP_NS
            if step % plan_every == 0:
                self.plan(plan_steps, start_ns=stamp_ns + 4 * STEP_NS, phase=step + 4)
            while self.now_ns() < stamp_ns:
                self._spin_once()
            self.image(stamp_ns, shade=2 * step)
            if done():
                return step + 1
        return steps


def another_robot() -> TopicMapping:
    """A mapping whose action has other names."""
    dimensions = tuple(replace(d, name=f"joint_{d.name}") for d in MANIFEST.action_space.dimensions)
    source = ActionSource(TRAJECTORY_TOPIC, JOINT_TRAJECTORY, {d.name: d.name for d in dimensions})
    return replace(MAPPING, action_sources=(source,), dimensions=dimensions)
