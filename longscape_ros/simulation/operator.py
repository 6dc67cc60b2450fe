# SPDX-License-Identifier: Apache-2.0
"""Who moves the simulated arm: chains scripted experts, transits and exploration into long episodes without a reset.

Meta-World's experts end after a few seconds; here a goal follows a goal. Speeds vary, commands carry a little noise, and the
hand hardly ever rests, so that there is something to predict in every window.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from longscape_ros.simulation.arm import REACH, SUBSTEPS, SimulatedArm

_LEASH = 0.06
"""How far the set point may lead the hand, in metres per axis, when something is in its way."""

_EXPERTS = {
    "drawer-open": ("drawer-open", "drawer-close"),
    "door-open": ("door-open", "door-close"),
    "faucet-open": ("faucet-open", "faucet-close"),
}
"""Tasks whose undoing is another task's expert; the rest repeat their own."""


class Operator:
    """Commands an arm step by step, deterministically for a given task and seed.

    Args:
        arm: The arm to watch and command; only the operator's caller steps it.
        seed: Decides goals, speeds and noise.
    """

    def __init__(self, arm: SimulatedArm, seed: int) -> None:
        from metaworld.policies import ENV_POLICY_MAP

        self._arm = arm
        self._random = np.random.default_rng(seed)
        self._low, self._high = arm.workspace
        names = _EXPERTS.get(arm.task, (arm.task,))
        self._experts: list[Any] = [ENV_POLICY_MAP[f"{name}-v3"]() for name in names]
        self._rounds = 0
        self._left = 0
        self._expert: Any = None
        self._waypoint = arm.hand
        self._speed = 1.0
        self._gripper = 0.0
        self._wobble = np.zeros(3)

    def command(self) -> NDArray[np.float64]:
        """float64 [4]: where the hand shall be 50 ms from now, and the gripper."""
        if self._left <= 0:
            self._next_phase()
        self._left -= 1
        move = self._expert_move() if self._expert is not None else self._waypoint_move()
        self._wobble = 0.8 * self._wobble + self._random.normal(0, 0.0012, 3)
        point = self._arm.set_point
        target = np.clip(point + move + self._wobble, self._arm.hand - _LEASH, self._arm.hand + _LEASH)
        target = np.clip(target, self._low, self._high)
        return np.array([*np.clip(target, point - SUBSTEPS * REACH, point + SUBSTEPS * REACH), self._gripper])

    def _next_phase(self) -> None:
        random = self._random
        self._speed = random.uniform(0.35, 1.0)
        if self._expert is None and random.random() < 0.7:
            if self._rounds:
                self._arm.set_goal(random)
            self._expert = self._experts[self._rounds % len(self._experts)]
            self._rounds += 1
            self._left = int(random.integers(40, 110))
            return
        self._expert = None
        self._new_waypoint()
        self._left = int(random.integers(30, 100))

    def _expert_move(self) -> NDArray[np.float64]:
        action = np.clip(self._expert.get_action(self._arm.observation), -1, 1)
        self._gripper = float(action[3] > 0)
        move = action[:3] * (SUBSTEPS * REACH * self._speed)
        if np.abs(move).max() < 0.002 and self._left > 12 and not self._gripper:
            self._left = int(self._random.integers(2, 12))  # the expert is done; go on with something else
        return np.asarray(move)

    def _waypoint_move(self) -> NDArray[np.float64]:
        away = self._waypoint - self._arm.set_point
        distance = float(np.linalg.norm(away))
        if distance < 0.03:
            self._new_waypoint()
            away = self._waypoint - self._arm.set_point
            distance = float(np.linalg.norm(away))
        return away / max(distance, 1e-6) * min(0.4 * distance, 0.03 * self._speed)

    def _new_waypoint(self) -> None:
        random = self._random
        thing = self._arm.observation[4:7]
        free = random.uniform(self._low, self._high)
        near = thing + random.normal(0, 0.08, 3)
        height = random.choice([0.06, 0.1, 0.2, 0.3])
        point = near if random.random() < 0.5 else free
        reachable = np.maximum(self._low, [-0.35, 0.4, 0.0]), np.minimum(self._high, [0.35, 0.9, 0.4])
        self._waypoint = np.clip([point[0], point[1], height + random.uniform(0, 0.04)], *reachable)
        if random.random() < 0.25:
            self._gripper = 1.0 - self._gripper
