# SPDX-License-Identifier: Apache-2.0
"""The simulated robot's driver, a node with a camera and an arm as a real robot's: ``python -m longscape_ros.simulation.driver``.

It publishes ``/camera/image_raw``, ``/camera/camera_info`` and ``/joint_states`` at 20 Hz and executes what comes in on
``/arm_controller/joint_trajectory``. Tick k happens at the nominal time t_k = t_0 + k / 20 s: the commands up to t_k are executed,
then the image with the stamp t_k is taken. A node that is late executes every tick it missed and leaves images out, counted; stamps
and physics never drift. Until the first trajectory begins the simulation stands still, so that the same trajectories always give
the same run. What disturbs the arm, if anything does, is published on ``/disturbance`` when it begins, and kept for
those who come later.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from longscape_ros.contract import NANOSECONDS
from longscape_ros.errors import InputError
from longscape_ros.host import THROTTLE_S, declare, message_class, run_part
from longscape_ros.messages import image_message, plan_from_message
from longscape_ros.simulation import topics
from longscape_ros.simulation.arm import CAMERA_FRAME, SimulatedArm
from longscape_ros.simulation.disturbance import Disturbance, DisturbedArm, report
from longscape_ros.simulation.episode import declare_disturbance, declare_episode
from longscape_ros.simulation.execution import TrajectoryExecution


class Driver:
    """Drives a :class:`SimulatedArm` as the node ``simulated_arm``.

    Args:
        node: An rclpy node; its parameters ``task``, ``seed``, ``image_size``, ``disturbance`` and ``disturbance_after`` are declared here.

    Raises:
        InputError: A parameter does not fit.
        HostError: Meta-World or a graphics library is missing.
    """

    def __init__(self, node: Any) -> None:
        from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data

        episode = declare_episode(node)
        size = int(declare(node, "image_size", 128, "Height and width of the images in pixels."))
        disturbance = declare_disturbance(node)
        self._node = node
        self._arm = SimulatedArm(episode.task, episode.seed, size)
        self._moves = DisturbedArm(self._arm, disturbance)
        self._execution = TrajectoryExecution(np.append(self._arm.target, 0.0))
        self._build = topics.RobotMessages(message_class, list)
        self._source = topics.mapping(recorded=False).action_sources[0]
        self._image = node.create_publisher(message_class(topics.IMAGE), topics.IMAGE_TOPIC, qos_profile_sensor_data)
        self._info = node.create_publisher(message_class(topics.CAMERA_INFO), topics.CAMERA_INFO_TOPIC, qos_profile_sensor_data)
        self._joints = node.create_publisher(message_class(topics.JOINT_STATE), topics.JOINT_STATES_TOPIC, QoSProfile(depth=10))
        kept = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._disturbances = node.create_publisher(message_class(topics.STRING), topics.DISTURBANCE_TOPIC, kept)
        node.create_subscription(message_class(topics.TRAJECTORY), topics.TRAJECTORY_TOPIC, self._receive, QoSProfile(depth=10))
        self.counters = {"images": 0, "images_left_out": 0, "trajectories": 0, "trajectories_refused": 0}
        self._next_ns = self._now_ns() + topics.PERIOD_NS
        self._timer = node.create_timer(topics.PERIOD_NS / NANOSECONDS, self._tick)

    def close(self) -> None:
        """Says what happened, and frees the camera."""
        self._node.get_logger().info("Played: " + ", ".join(f"{count} {name}" for name, count in self.counters.items()) + ".")
        self._arm.close()

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)

    def _tick(self) -> None:
        """Executes every tick that is due, by the clock and not by how often this is called; publishes the newest."""
        due = round((self._now_ns() - self._next_ns) / topics.PERIOD_NS) + 1
        if due < 1:
            return
        for _ in range(due):
            command = self._execution.command(self._next_ns)
            if self._execution.started and (begun := self._moves.step(command)) is not None:
                self._tell(begun, self._next_ns - topics.PERIOD_NS)
            self._next_ns += topics.PERIOD_NS
        self.counters["images_left_out"] += due - 1
        if due > 1:
            # not shared with the other warning: rclpy throttles by line
            text = f"Too slow for 20 Hz: {self.counters['images_left_out']} images were left out so far."
            self._node.get_logger().warning(text, throttle_duration_sec=THROTTLE_S)
        self._publish(self._next_ns - topics.PERIOD_NS)

    def _tell(self, begun: Disturbance, stamp_ns: int) -> None:
        """What disturbs the arm from this moment on."""
        text = report(begun, stamp_ns, topics.PERIOD_NS)
        self._disturbances.publish(message_class(topics.STRING)(data=text))
        self._node.get_logger().info(f"Disturbed: {text}")

    def _publish(self, stamp_ns: int) -> None:
        image = self._arm.render()
        self._image.publish(image_message(image, stamp_ns, CAMERA_FRAME, message_class))
        self._info.publish(self._build.camera_info(stamp_ns, self._arm.intrinsics(), len(image)))
        self._joints.publish(self._build.joint_state(stamp_ns, self._arm.measured))
        self.counters["images"] += 1

    def _receive(self, message: Any) -> None:
        try:
            self._execution.accept(plan_from_message(message, self._source, self._now_ns()))
        except InputError as error:
            self.counters["trajectories_refused"] += 1
            text = f"{error} ({self.counters['trajectories_refused']} trajectories refused so far.)"
            self._node.get_logger().warning(text, throttle_duration_sec=THROTTLE_S)
        else:
            self.counters["trajectories"] += 1


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Runs the node until SIGINT, SIGTERM or a fault, and ends the process."""
    run_part("simulated_arm", Driver, args)


if __name__ == "__main__":
    main()
