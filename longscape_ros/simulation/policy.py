# SPDX-License-Identifier: Apache-2.0
"""The policy that commands the simulated robot, as a node (``python -m longscape_ros.simulation.policy``).

A scripted expert looks at the scene before each command; to publish what it will do as a plan, this node lets the
:class:`Operator` work ahead in a simulation of its own, of the same task and seed and without a camera, and publishes every 16
steps the next 96 on ``/arm_controller/joint_trajectory``. The plans lie on the grid of the driver's image stamps, so that the
driver executes exactly what was planned. Start the driver with the same parameters, and first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from longscape_ros.host import THROTTLE_S, message_class, run_part
from longscape_ros.messages import nanoseconds
from longscape_ros.simulation import topics
from longscape_ros.simulation.arm import COMMAND_NAMES, SimulatedArm
from longscape_ros.simulation.episode import declare_episode
from longscape_ros.simulation.operator import Operator
from longscape_ros.simulation.skills import SKILLS

START_STEPS = 32
"""Steps between the first image and the first plan's start, for all who listen to find each other."""

LEAD_STEPS = 4
"""Steps between a plan's publication and its start."""

STEPS_PER_IMAGE = 3
"""Steps worked ahead at once; more than one per image, and little enough not to get in the driver's way."""

APART_M = 0.02
"""How far the driver's hand may be from the plan's before it is warned about."""


class Rollout:
    """What the operator will do, as far as it was asked for.

    Args:
        task: See :class:`SimulatedArm`.
        seed: The episode's.
    """

    def __init__(self, task: str, seed: int) -> None:
        self._arm = SimulatedArm(task, seed)
        self._operator = Operator(self._arm, seed)
        self._commands: list[NDArray[np.float64]] = []
        self._hands = [self._arm.hand]

    def __len__(self) -> int:
        """Steps worked out so far."""
        return len(self._commands)

    def extend(self, steps: int) -> None:
        """Works out some more steps."""
        for _ in range(steps):
            self._commands.append(self._operator.command())
            self._arm.step(self._commands[-1])
            self._hands.append(self._arm.hand)

    def commands(self, start: int, steps: int) -> NDArray[np.float64]:
        """float64 [steps, 4], the commands after ``start`` steps."""
        self.extend(start + steps - len(self))
        return np.stack(self._commands[start : start + steps])

    def hand(self, step: int) -> NDArray[np.float64]:
        """float64 [3], where the hand is after so many steps."""
        return self._hands[step]


class Policy:
    """Plans ahead as the node ``scripted_policy``.

    Args:
        node: An rclpy node; its parameters ``task`` and ``seed`` are declared here.

    Raises:
        InputError: There is no such task.
        HostError: Meta-World is missing.
    """

    def __init__(self, node: Any) -> None:
        from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data

        episode = declare_episode(node)
        self._node = node
        self._rollout = Rollout(episode.task, episode.seed)
        self._build = topics.RobotMessages(message_class, list)
        self._start_ns: int | None = None
        self._planned = 0
        self.counters = {"trajectories": 0, "apart": 0}
        self._trajectory = node.create_publisher(message_class(topics.TRAJECTORY), topics.TRAJECTORY_TOPIC, QoSProfile(depth=10))
        kept = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        instruction = node.create_publisher(message_class(topics.STRING), topics.INSTRUCTION_TOPIC, kept)
        instruction.publish(message_class(topics.STRING)(data=SKILLS[episode.task].instruction))
        node.create_subscription(message_class(topics.CAMERA_INFO), topics.CAMERA_INFO_TOPIC, self._plan, qos_profile_sensor_data)
        node.create_subscription(message_class(topics.JOINT_STATE), topics.JOINT_STATES_TOPIC, self._compare, QoSProfile(depth=10))

    def close(self) -> None:
        """Says what happened."""
        self._node.get_logger().info(f"Published {self.counters['trajectories']} trajectories.")

    def _plan(self, camera_info: Any) -> None:
        """At every image: works a little ahead, and publishes the next plan when its start is near."""
        stamp_ns = nanoseconds(camera_info.header.stamp)
        if self._start_ns is None:
            self._start_ns = stamp_ns + START_STEPS * topics.PERIOD_NS
        steps = self._planned + topics.PLAN_STEPS
        self._rollout.extend(min(STEPS_PER_IMAGE, steps - len(self._rollout)))
        start_ns = self._start_ns + self._planned * topics.PERIOD_NS
        if stamp_ns < start_ns - LEAD_STEPS * topics.PERIOD_NS:
            return
        commands = self._rollout.commands(self._planned, topics.PLAN_STEPS)
        self._trajectory.publish(self._build.trajectory(start_ns, commands))
        self.counters["trajectories"] += 1
        self._planned += topics.PLAN_EVERY

    def _compare(self, joints: Any) -> None:
        """Warns when the driver's hand is elsewhere than it was planned."""
        if self._start_ns is None:
            return
        step = max(0, (nanoseconds(joints.header.stamp) - self._start_ns) // topics.PERIOD_NS)
        if step > len(self._rollout) or list(joints.name[:3]) != list(COMMAND_NAMES[:3]):
            return
        apart_m = float(np.linalg.norm(np.array(joints.position[:3]) - self._rollout.hand(step)))
        if apart_m > APART_M:
            self.counters["apart"] += 1
            self._node.get_logger().warning(
                f"The robot's hand is {apart_m:.3f} m from where the plan has it, expected at most {APART_M} m; "
                "restart the driver and then the policy, with the same task and seed.",
                throttle_duration_sec=THROTTLE_S,
            )


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Runs the node until SIGINT, SIGTERM or a fault, and ends the process."""
    run_part("scripted_policy", Policy, args)


if __name__ == "__main__":
    main()
