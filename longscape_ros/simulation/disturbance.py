# SPDX-License-Identifier: Apache-2.0
"""What nobody commanded: the object is bumped or taken elsewhere, the arm is blocked, the gripper does not close.

The commands stay those of the undisturbed episode, as a robot's own would that knows nothing of it. So whatever looks different from
the moment on is the disturbance's doing.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from longscape_ros.errors import InputError
from longscape_ros.simulation.arm import FPS, SimulatedArm

DisturbanceKind = Literal["bump", "move", "block", "grip"]
"""``bump``: the object gets a speed at once, as from a blow; ``move``: it is elsewhere from one frame to the next, as if taken there;
``block``: the hand is held where it is; ``grip``: the gripper stays open whatever it is commanded."""

KINDS: tuple[DisturbanceKind, ...] = get_args(DisturbanceKind)

SIZES: dict[DisturbanceKind, float] = {"bump": 1.0, "move": 0.1, "block": 0.5, "grip": 1.0}
"""Metres per second, metres, seconds, seconds: unless something else is asked for."""

LARGEST = {"bump": 5.0, "move": 0.3, "block": 10.0, "grip": 10.0}

EARLIEST_FRAME = 40
LATEST_FRAMES = 20
"""A disturbance begins at least so many frames after an episode's beginning, and before its end."""

WAY_M = 0.06
"""How far the commands lead within half a second, at least, where the hand is to be blocked."""

NEAR_M = 0.08
"""How near the object is to the hand, at most, where the gripper is to close on it."""

SHOWN_FRAMES = FPS // 2
"""Frames after the beginning for which it is told how much they differ from the undisturbed ones."""


@dataclass(frozen=True, slots=True)
class Disturbance:
    """A disturbance of an episode.

    Args:
        kind: See :data:`DisturbanceKind`.
        size: In metres per second, metres or seconds, see :data:`SIZES`.
        frame: The last frame that is undisturbed.
    """

    kind: DisturbanceKind
    size: float
    frame: int

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"Got the disturbance {self.kind!r}, expected one of {', '.join(KINDS)}.")
        if not 0 < self.size <= LARGEST[self.kind]:
            raise InputError(f"Got {self.kind} of size {self.size:g}, expected more than 0 and at most {LARGEST[self.kind]:g}.")
        if self.frame < 0:
            raise InputError(f"Got a disturbance at frame {self.frame}, expected zero or more.")

    @property
    def steps(self) -> int:
        """How many steps it lasts."""
        return max(1, round(self.size * FPS)) if self.kind in ("block", "grip") else 1


def parse_disturbance(text: str) -> tuple[DisturbanceKind, float]:
    """Kind and size of ``KIND`` or ``KIND:SIZE``.

    Raises:
        InputError: It is neither.
    """
    kind, _, size = text.partition(":")
    if kind not in KINDS:
        raise InputError(f"Got the disturbance {text!r}, expected one of {', '.join(KINDS)}, perhaps with a size: move:0.03.")
    try:
        wanted = float(size) if size else SIZES[kind]
    except ValueError as error:
        raise InputError(f"Got the disturbance {text!r}, expected a number after the colon: move:0.03.") from error
    found = Disturbance(kind, wanted, 0)
    return found.kind, found.size


class DisturbedArm:
    """Steps an arm, and disturbs it when it is time.

    Args:
        arm: At the beginning of its episode.
        disturbance: None: there is none.
    """

    def __init__(self, arm: SimulatedArm, disturbance: Disturbance | None) -> None:
        self.frame = 0
        self._arm = arm
        self._disturbance = disturbance

    def step(self, command: NDArray[np.float64]) -> Disturbance | None:
        """Executes a command, see :meth:`SimulatedArm.step`; the disturbance, if this is the step that it begins with."""
        disturbance, frame = self._disturbance, self.frame
        self.frame += 1
        if disturbance is None or not disturbance.frame <= frame < disturbance.frame + disturbance.steps:
            self._arm.step(command)
            return None
        begins = frame == disturbance.frame
        if begins and disturbance.kind in ("bump", "move"):
            angle = direction_of(self._arm.task, self._arm.seed)
            if disturbance.kind == "bump":
                self._arm.bump_object(disturbance.size, angle)
            else:
                self._arm.move_object(disturbance.size, angle)
        self._arm.step(_hampered(command, disturbance.kind, self._arm.target))
        return disturbance if begins else None


def direction_of(task: str, seed: int) -> float:
    """Where an episode's object is bumped or taken to: radians from x."""
    return float(_random(task, seed, "direction").uniform(-np.pi, np.pi))


def choose_frame(kind: DisturbanceKind, task: str, seed: int, commands: NDArray[np.float64], near: NDArray[np.float64]) -> int | None:
    """A frame at which a disturbance makes a difference; None: there is none.

    Args:
        kind: Which.
        task: The episode's.
        seed: The episode's.
        commands: float64 [N, 4]; row k is executed after frame k.
        near: float64 [N], how far the object is from the hand at each frame, in metres.
    """
    frames = np.arange(EARLIEST_FRAME, len(near) - LATEST_FRAMES)
    if kind == "block":
        ahead = np.abs(commands[np.minimum(frames + SHOWN_FRAMES, len(commands) - 1), :3] - commands[frames, :3]).max(axis=1)
        frames = frames[ahead > WAY_M]
    if kind == "grip":
        closes = (commands[frames, 3] > 0.5) & (commands[frames - 1, 3] < 0.5)
        frames = frames[closes & (near[frames] < NEAR_M)]
    return int(_random(task, seed, kind).choice(frames)) if len(frames) else None


def report(disturbance: Disturbance, begin_ns: int, period_ns: int, changed: list[float] | None = None) -> str:
    """JSON for the topic ``/disturbance``.

    Args:
        disturbance: Which.
        begin_ns: Stamp of the last undisturbed image.
        period_ns: Between two images.
        changed: Share of the pixels that differ from the undisturbed episode's, of the images that follow; None: unknown.
    """
    times = {"begin_ns": begin_ns, "end_ns": begin_ns + disturbance.steps * period_ns}
    return json.dumps(asdict(disturbance) | times | ({} if changed is None else {"changed": changed}))


def _hampered(command: NDArray[np.float64], kind: DisturbanceKind, target: NDArray[np.float64]) -> NDArray[np.float64]:
    if kind == "block":
        return np.append(target, command[3])
    return np.append(command[:3], 0.0) if kind == "grip" else command


def _random(task: str, seed: int, what: str) -> np.random.Generator:
    return np.random.default_rng((zlib.crc32(task.encode()), seed, zlib.crc32(what.encode())))
