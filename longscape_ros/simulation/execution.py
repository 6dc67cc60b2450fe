# SPDX-License-Identifier: Apache-2.0
"""What a trajectory controller does: plans come in at any time, one command per tick goes out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longscape_ros.contract import NANOSECONDS, Plan
from longscape_ros.errors import InputError
from longscape_ros.simulation.arm import COMMAND_NAMES

_GRIPPER = COMMAND_NAMES.index("gripper")


class TrajectoryExecution:
    """Executes plans as the predictor's timeline understands them.

    A plan begins at its start, or when it was received if that is later, from what was commanded until then, and replaces what
    came in before it from there on. It passes through its points in straight lines; those before its beginning are dropped; the
    gripper takes a point's value when the point is reached. What was commanded last is held beyond the end. Velocities and
    accelerations are ignored.

    Args:
        rest: float64 [4], the command until the first plan begins.
    """

    def __init__(self, rest: NDArray[np.float64]) -> None:
        self._rest = rest.copy()
        self._pieces: list[_Piece] = []  # by beginning; all but the first are still to come
        self.started = False

    def accept(self, plan: Plan) -> None:
        """Takes a plan.

        Raises:
            InputError: It does not name exactly the arm's commands, or all its points are past.
        """
        if sorted(plan.names) != sorted(COMMAND_NAMES):
            raise InputError(f"Got a trajectory of {list(plan.names)}, expected exactly {list(COMMAND_NAMES)}; it is not executed.")
        times_ns = plan.start_ns + plan.times_ns
        begin_ns = max(plan.start_ns, plan.received_ns)
        if len(times_ns) > 1 and times_ns[-1] < begin_ns:
            late_s = (begin_ns - int(times_ns[-1])) / NANOSECONDS
            raise InputError(f"Got a trajectory that ended {late_s:.3f} s before it came, expected one with points ahead; check its stamp.")
        self._pieces = [piece for piece in self._pieces if piece.begin_ns < begin_ns]
        before = self._pieces[-1].at(begin_ns) if self._pieces else self._rest
        values = plan.values[:, [plan.names.index(name) for name in COMMAND_NAMES]]
        self._pieces.append(_Piece.of(begin_ns, before, times_ns, values))

    def command(self, time_ns: int) -> NDArray[np.float64]:
        """float64 [4], the command that shall be reached at a time; times must not go back."""
        while len(self._pieces) > 1 and self._pieces[1].begin_ns < time_ns:
            del self._pieces[0]
        if self._pieces and self._pieces[0].begin_ns < time_ns:
            self.started = True
            self._rest = self._pieces[0].at(time_ns)
        return np.array(self._rest)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A plan from its beginning on, where the first of its points lies.

    Args:
        begin_ns: When it begins.
        since_ns: int64 [n], its points' times since then; the first is 0.
        values: float64 [n, 4].
    """

    begin_ns: int
    since_ns: NDArray[np.int64]
    values: NDArray[np.float64]

    @classmethod
    def of(cls, begin_ns: int, before: NDArray[np.float64], times_ns: NDArray[np.int64], values: NDArray[np.float64]) -> _Piece:
        ahead = times_ns >= begin_ns
        if not ahead.any():  # a stream's single sample
            return cls(begin_ns, np.zeros(1, np.int64), values[-1:])
        first = before.copy()
        if not ahead[0]:
            first[_GRIPPER] = values[~ahead][-1, _GRIPPER]
        return cls(begin_ns, np.append(0, times_ns[ahead] - begin_ns), np.vstack([first, values[ahead]]))

    def at(self, time_ns: int) -> NDArray[np.float64]:
        since_ns = time_ns - self.begin_ns
        command = np.array([np.interp(since_ns, self.since_ns, column) for column in self.values.T])
        reached = int(np.searchsorted(self.since_ns, since_ns, side="right")) - 1
        command[_GRIPPER] = self.values[reached, _GRIPPER]
        return np.asarray(command)
