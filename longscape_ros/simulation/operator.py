# SPDX-License-Identifier: Apache-2.0
"""Who moves the simulated arm: long, varied episodes of work without a reset.

An operator strings phases together, endlessly: Meta-World's scripted experts with goals of its own (open the drawer, close it
again, pick the puck up and carry it somewhere), sweeps through the object, grasps, ways through free space, wandering. Speeds and
unsteadiness differ from phase to phase, and nothing but the arm moves anything: what is seen follows from what is commanded.

A phase is a generator of commands, one per frame; it looks at the arm before each. What is done in which task is said in
:mod:`longscape_ros.simulation.skills`.
"""

from __future__ import annotations

import warnings
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longscape_ros.errors import InputError
from longscape_ros.simulation.arm import CONTROL_STEPS, FPS, STRIDE_M, SimulatedArm
from longscape_ros.simulation.skills import SKILLS

Array = NDArray[np.float64]
Phase = Iterator[Array]
"""Yields commands, float64 [4]; ends when the phase is done."""

LEASH_M = 0.06
"""The command runs ahead of the hand by no more than this per axis, so that an obstacle is pushed, not hammered."""

REST_FRAMES = 6
"""Frames in which the hand hardly moves, after which an expert is taken to be done."""

REST_M = 0.008
"""How far it moves in them at most."""

CAUGHT_FRAMES = 10
"""Frames in which the hand hardly moves though it is commanded to, after which it is taken to be caught."""

CAUGHT_M = 0.01
"""How far it moves in them at most, per axis."""

STRAINED_M = 0.04
"""How far from the hand the command is at least when the hand is caught."""

REACH_DOWN_FRAMES = 4
"""How long experts at full speed take to reach down to what they begin to grip meanwhile; at half the speed it is twice as long."""

WAY_BACK_FRAMES = 100
"""How much of its own way a caught hand can go back."""


class Operator:
    """Commands an arm, deterministically for a task and a seed.

    Call :meth:`command`, then give what it returned to the arm's ``step``, in turns.

    Args:
        arm: At the beginning of its episode.
        seed: Of what is done; ``arm.seed`` is the usual one.

    Raises:
        InputError: The task is not among :data:`~longscape_ros.simulation.skills.SKILLS`.
    """

    def __init__(self, arm: SimulatedArm, seed: int) -> None:
        if arm.task not in SKILLS:
            raise InputError(f"Got task {arm.task!r}, which no operator can do; expected one of {', '.join(SKILLS)}.")
        self.skills = SKILLS[arm.task]
        self._arm = arm
        self._rng = np.random.default_rng((zlib.crc32(arm.task.encode()), seed))
        sights = self.skills.sights or (arm.task,) * len(self.skills.experts)
        self._experts = [(_expert(name), sight) for name, sight in zip(self.skills.experts, sights, strict=True)]
        self._gripper = 0.0
        self._noise = np.zeros(3)
        self._unsteadiness_m = 0.0
        self._trail: deque[Array] = deque(maxlen=WAY_BACK_FRAMES)
        self._commands = self._work()

    def command(self) -> Array:
        """float64 [4], the next command: where the hand shall be in 50 ms, and the gripper."""
        command = next(self._commands)
        self._noise = 0.8 * self._noise + self._unsteadiness_m * self._rng.normal(size=3)
        low, high = self._arm.workspace
        hand = self._arm.hand
        place = np.clip(command[:3] + self._noise, hand - LEASH_M, hand + LEASH_M)
        return np.append(np.clip(place, low, high), command[3])

    def _work(self) -> Phase:
        turn = int(self._rng.integers(len(self._experts)))
        while True:
            for phase in self._plan(turn):
                self._unsteadiness_m = float(self._rng.choice([0.0, 0.001, 0.003]))
                yield from self._unless_caught(phase) if self.skills.backs_out else phase
            turn += 1

    def _plan(self, turn: int) -> list[Phase]:
        """The phases of a round: an expert's work, and something else."""
        work = self._follow(*self._experts[turn % len(self._experts)])
        others: list[Callable[[], Phase]] = [self._go, self._go, self._wander]
        if self.skills.loose:
            others += [self._sweep, self._sweep, self._grasp]
        chosen = [others[i]() for i in self._rng.permutation(len(others))[: self._rng.integers(1, 3)]]
        return [work, *chosen]

    def _unless_caught(self, phase: Phase) -> Phase:
        """A phase; where the hand gets caught, for example in a net, it goes back the way it came instead."""
        for command in phase:
            yield command
            self._trail.append(self._arm.hand)
            recent = list(self._trail)[-CAUGHT_FRAMES:]
            still = len(recent) == CAUGHT_FRAMES and np.ptp(recent, axis=0).max() < CAUGHT_M
            if still and np.abs(command[:3] - self._arm.hand).max() > STRAINED_M:
                break
        else:
            return
        back = self._trail.pop()
        while self._trail:
            place = self._trail.pop()
            if np.abs(place - back).max() > STRIDE_M:
                back = place
                yield self._with_gripper(back)

    def _follow(self, expert: Any, sight: str) -> Phase:
        """Does what a scripted expert would do, at some speed, until the hand rests or the time is over."""
        goal = self._goal()
        speed = self._rng.uniform(0.25, 0.7)
        late = round(REACH_DOWN_FRAMES / speed - REACH_DOWN_FRAMES) if self.skills.closes_late else 0
        closing = 0
        trail: list[Array] = []
        for _ in range(int(self._rng.integers(90, 160))):
            action = _ask(expert, self._arm.observation(goal, sight))
            closing = closing + 1 if action[3] > 0 else 0
            self._gripper = float(closing > (0 if self._gripper else late))
            yield self._ahead(np.clip(action[:3], -1, 1) * (STRIDE_M * CONTROL_STEPS * speed))
            trail.append(self._arm.hand)
            if len(trail) > 10 and np.ptp(trail[-REST_FRAMES:], axis=0).max() < REST_M:
                return

    def _goal(self) -> Array:
        """float64 [3], where an expert shall bring its object."""
        goal = self._rng.uniform(self.skills.goal_low, self.skills.goal_high)
        if self.skills.target_share and self._rng.random() < self.skills.target_share:
            return self._arm.goal
        return np.asarray(goal)

    def _go(self) -> Phase:
        """Goes to a place in free space; often opens or closes the gripper on the way."""
        flips = self._rng.random() < 0.5
        way = list(self._towards(self._rng.uniform(self.skills.low, self.skills.high), self._speed()))
        flip = int(self._rng.integers(len(way))) if flips else -1
        for i, place in enumerate(way):
            if i == flip:
                self._gripper = 1.0 - self._gripper
            yield self._with_gripper(place)

    def _wander(self) -> Phase:
        """Wanders without a goal, turning smoothly."""
        low, high = np.array(self.skills.low), np.array(self.skills.high)
        speed = self._speed() / FPS
        velocity = np.zeros(3)
        for _ in range(int(self._rng.integers(24, 64))):
            velocity = 0.85 * velocity + 0.5 * speed * self._rng.normal(size=3)
            place = self._arm.target
            velocity = np.where((place < low) & (velocity < 0) | (place > high) & (velocity > 0), -velocity, velocity)
            yield self._ahead(velocity)

    def _sweep(self) -> Phase:
        """Sweeps the object: down beside it, through it, and up."""
        angle = self._rng.uniform(0, 2 * np.pi)
        beside = np.array([np.cos(angle), np.sin(angle), 0.0]) * self._rng.uniform(0.08, 0.12)
        height = self._rng.uniform(*self.skills.sweep_heights)
        self._gripper = float(self._rng.random() < 0.6)
        place = self._reachable(self._arm.object)
        speed = self._speed()
        for point in (place + beside + _up(0.12), place + beside, place - beside * self._rng.uniform(0.3, 1.2)):
            yield from self._straight([point[0], point[1], max(point[2], height)], speed)
        yield from self._straight(self._arm.target + _up(self._rng.uniform(0.05, 0.2)), speed)

    def _grasp(self) -> Phase:
        """Grasps the object, carries it somewhere, and lets go."""
        place = self._reachable(self._arm.object)
        speed = self._speed()
        self._gripper = 0.0
        yield from self._straight(place + _up(0.15), speed)
        place = self._reachable(self._arm.object)
        yield from self._straight([place[0], place[1], self.skills.grasp_height], speed)
        self._gripper = 1.0
        for _ in range(5):
            yield self._with_gripper(self._arm.target)
        lift = self._rng.uniform((-0.15, 0.5, 0.07), (0.15, 0.85, 0.3))
        yield from self._straight(self._arm.target + _up(0.05), speed)
        yield from self._straight(lift, speed)
        self._gripper = 0.0
        for _ in range(3):
            yield self._with_gripper(self._arm.target)

    def _straight(self, place: Any, speed: float) -> Phase:
        for point in self._towards(np.asarray(place, dtype=np.float64), speed):
            yield self._with_gripper(point)

    def _towards(self, place: Array, speed: float) -> Array:
        """float64 [n, 3], a straight way from the last command to a place, gently started and ended."""
        start = self._arm.target
        steps = max(2, int(np.ceil(1.5 * np.linalg.norm(place - start) / speed * FPS)))
        share = np.arange(1, steps + 1) / steps
        share = share * share * (3 - 2 * share)
        return np.asarray(start + (place - start) * share[:, None])

    def _ahead(self, way: Array) -> Array:
        return self._with_gripper(self._arm.target + way)

    def _with_gripper(self, place: Array) -> Array:
        return np.append(place, self._gripper)

    def _reachable(self, place: Array) -> Array:
        return np.clip(place, (-0.3, 0.45, 0.02), (0.3, 0.9, 0.3))

    def _speed(self) -> float:
        """Metres per second: from slow to as fast as the arm follows."""
        return float(np.exp(self._rng.uniform(np.log(0.1), np.log(0.5))))


def _up(height: float) -> Array:
    return np.array([0.0, 0.0, height])


def _expert(name: str) -> Any:
    import metaworld.policies

    return getattr(metaworld.policies, name)()


def _ask(expert: Any, observation: Array) -> Array:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # each answer beyond the limits warns; they are clipped here
        return np.asarray(expert.get_action(observation), dtype=np.float64)
