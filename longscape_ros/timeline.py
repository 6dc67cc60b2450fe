# SPDX-License-Identifier: Apache-2.0
"""Stamped frames and commands onto a model's fixed-rate grid, live (:class:`Timeline`) and from recordings (:func:`episode_grid`).

The grid is anchored at t0, the stamp of the newest conditioning image; row k of the motion is the action at t0 + k / f.

Commands. A plan starts at its start time, or when it was received if that is later. A newer plan (by receive time) replaces an
older one from its own start on. What its points mean depends on the kind of the dimension:

- ``position``: targets to be reached, interpolated as ROS 2's joint_trajectory_controller does: quintic with velocities and
  accelerations, cubic with velocities, linear with neither. The first segment begins at the plan's start, with the state that was
  commanded until then. Points before the start are dropped.
- ``velocity``, ``state``: values that hold from their point on; the last of those before the start holds from the start on.
- ``delta``: motion that is commanded at its point; points before the start are dropped.

After its last point a plan is over: rows from there on are not commanded, though positions, velocities and states stay what they
were until another plan starts; deltas are repeated only where plans are extended by ``hold``, at the rate they came in. A plan
of one point is a sample of a stream: it takes effect at its point even if that lies before the receive time, and it is over when
the next plan begins. A plan of several points that were all past when it was received is refused.

Recordings are put on the grid by the same rules, with every plan known. Shapes: R rows of the grid, K context rows, N future steps,
A action dimensions; H, W image size.
"""

from __future__ import annotations

import functools
import logging
from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longscape_ros.contract import NANOSECONDS, ActionKind, ActionSpace, Episode, Frame, Plan, PlanExtension, Snapshot
from longscape_ros.errors import InputError, NotReadyError
from longscape_ros.images import resize_rgb

CLOCK_JUMP_NS = NANOSECONDS
"""A stamp or receive time this much older than the newest is a clock that was set back, not a late message."""

AHEAD_NS = NANOSECONDS
"""An image that was seen this much later than it was received is dated by another clock. (Below that may be a /clock of few messages.)"""

PLAN_AHEAD_NS = 10 * NANOSECONDS
"""Commands that begin this much later than they were received are taken, for a controller takes them too, but are likely to be dated by
another clock."""

LOOKBACK_NS = NANOSECONDS // 2
"""How long before the first context frame plans still matter; what was in force before then counts as held."""

ROUNDING_NS = NANOSECONDS // 10_000
"""How much later than a plan's last point a grid time may be and still belong to the plan."""

MOST_PLANS = 65_536
"""Plans kept while no frame comes that would tell which are too old; the oldest make room."""

MOST_MISSING = 0.1
"""Share of an episode's images that may be missing before it is warned about."""

_RATE_SAMPLES = 9
"""Samples from which the rate of a stream of deltas is estimated when it is held."""

_FOREVER_NS = np.iinfo(np.int64).max // 2

_Segments = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Beginnings [S] of segments of a motion, and their polynomials [S, 6, P] of the seconds since; each lasts until the next begins."""

_KEPT_COURSES = 8
"""Motions that are kept for images to come: one for each kind of command at an image, and one for each that is compared with it."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TimelineConfig:
    """What a :class:`Timeline` needs to know about the model.

    Args:
        fps: The grid's rate f in Hz.
        context: K, context frames.
        horizon: The most future steps in a snapshot.
        image_size: H, W of the context frames.
        space: The action's dimensions.
        plan_extension: What follows the last point of a plan.
        image_latency_ns: How long before its stamp an image was really seen; all times of the timeline are corrected by it.
    """

    fps: float
    context: int
    horizon: int
    image_size: tuple[int, int]
    space: ActionSpace
    plan_extension: PlanExtension = PlanExtension.NONE
    image_latency_ns: int = 0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.fps) and self.fps > 0):
            raise InputError(f"Got fps = {self.fps}, expected a positive rate in Hz.")
        if self.context < 1 or self.horizon < 1:
            raise InputError(f"Got {self.context} context frames and a horizon of {self.horizon} steps, expected at least one of each.")
        if min(self.image_size) < 1:
            raise InputError(f"Got image size {self.image_size}, expected positive (height, width).")

    def grid(self, anchor_ns: int) -> NDArray[np.int64]:
        """int64 [K + horizon], the times of the grid's rows -(K - 1) ... horizon."""
        return anchor_ns + _grid_steps_ns(self.context, self.horizon, self.fps)


@dataclass(frozen=True, slots=True)
class GridEpisode:
    """An episode on the grid, anchored at its first frame.

    Args:
        name: The episode's.
        stamps_ns: int64 [N].
        frames: uint8 [N, H, W, 3].
        motion: float64 [N, A]; velocities and deltas accumulate from row 0.
        commanded: bool [N], whether every dimension has a command in force there.
        instruction: What the robot was told in words.
    """

    name: str
    stamps_ns: NDArray[np.int64]
    frames: NDArray[np.uint8]
    motion: NDArray[np.float64]
    commanded: NDArray[np.bool_]
    instruction: str


class Timeline:
    """The newest frames and plans of a robot; makes snapshots for predictions. Not thread-safe.

    Memory is bounded: snapshots can be asked for anchors and knowledge down to about a second before the newest frame.
    ``counters`` says how often anything was refused, missing or dropped, by reason.
    """

    def __init__(self, config: TimelineConfig) -> None:
        self._config = config
        self._frames: list[Frame] = []  # by stamp, resized, stamps corrected by the latency
        self._plans: list[Plan] = []  # by receive time
        self._courses = _Courses()
        self.counters: dict[str, int] = dict.fromkeys(
            (
                "frames_duplicate",
                "frames_out_of_order",
                "frames_ahead",
                "frames_missing",
                "plans_duplicate",
                "plans_out_of_order",
                "plans_past",
                "plans_ahead",
                "plans_unknown",
                "plans_dropped",
                "clock_jumps",
            ),
            0,
        )

    @property
    def newest_frame_ns(self) -> int | None:
        """When the newest frame was seen (its stamp less the latency); None: there is no frame."""
        return self._frames[-1].stamp_ns if self._frames else None

    def reset(self) -> None:
        """Forgets all frames and plans; the counters stay."""
        self._frames.clear()
        self._plans.clear()

    def add_frame(self, frame: Frame, received_ns: int | None = None) -> bool:
        """Takes a frame. False: refused and counted, its stamp is not newer than the newest frame's, or far ahead of its arrival.

        A stamp much older is a clock that was set back: everything older is forgotten, and the frame is taken.

        Args:
            frame: An image in any size.
            received_ns: When it arrived; None: its stamp is believed.
        """
        stamp_ns = frame.stamp_ns - self._config.image_latency_ns
        if received_ns is not None and stamp_ns - received_ns > AHEAD_NS:
            return self._refuse("frames_ahead")
        if self._frames:
            behind_ns = self._frames[-1].stamp_ns - stamp_ns
            if behind_ns > CLOCK_JUMP_NS:
                self._jump()
            elif behind_ns >= 0:
                return self._refuse("frames_duplicate" if behind_ns == 0 else "frames_out_of_order")
        self._frames.append(Frame(stamp_ns, resize_rgb(frame.rgb, self._config.image_size), frame.frame_id))
        self._prune(stamp_ns)
        return True

    def add_plan(self, plan: Plan) -> bool:
        """Takes a plan. False: refused and counted.

        Refused are plans of none of the action's dimensions, plans that are past, repetitions, and samples of a stream that
        are older than the sample before. A receive time much older is a clock that was set back, see :meth:`add_frame`.
        """
        if self._plans and self._plans[-1].received_ns - plan.received_ns > CLOCK_JUMP_NS:
            self._jump()
        reason = _refusal(plan, self._plans, self._config.space)
        if reason:
            return self._refuse(reason)
        insort(self._plans, plan, key=_received_ns)
        if len(self._plans) > MOST_PLANS:
            del self._plans[0]
            self.counters["plans_dropped"] += 1
        if plan.start_ns - plan.received_ns > PLAN_AHEAD_NS:
            self.counters["plans_ahead"] += 1
        return True

    def snapshot(self, known_by_ns: int | None = None, anchor_ns: int | None = None) -> Snapshot:
        """All that one prediction depends on.

        Args:
            known_by_ns: Use only plans received by then (what a live node knows); None: all of them.
            anchor_ns: Anchor at the newest frame that is not later; None: at the newest.

        Raises:
            NotReadyError: There is no frame, or a dimension has no command.
        """
        config = self._config
        anchor = self._anchor(anchor_ns)
        times = config.grid(anchor.stamp_ns)
        plans = self._plans if known_by_ns is None else self._plans[: bisect_right(self._plans, known_by_ns, key=_received_ns)]
        held = config.plan_extension is PlanExtension.HOLD
        commands = _commands(plans, config.space, times, config.context - 1, held, self._courses)
        steps = self._steps(commands)
        first = max(0, bisect_right(self._frames, int(times[0]), key=_stamp_ns) - 1)
        seen = self._frames[first : bisect_right(self._frames, anchor.stamp_ns, key=_stamp_ns)]
        nearest, missing = _nearest([frame.stamp_ns for frame in seen], times[: config.context], config.fps)
        context = np.stack([seen[i].rgb for i in nearest])  # [K, H, W, 3]
        self.counters["frames_missing"] += missing
        planned = steps if config.plan_extension is PlanExtension.NONE else config.horizon
        return Snapshot(
            anchor_ns=anchor.stamp_ns,
            context=context,
            motion=commands.motion[: config.context + planned],
            assumed_from=steps,
            plan_stamp_ns=commands.newest_start_ns,
            missing_context=missing,
            frame_id=anchor.frame_id,
        )

    def motion(self, anchor_ns: int, steps: int, known_by_ns: int | None = None) -> NDArray[np.float64]:
        """float64 [1 + steps, A], the motion from an anchor on as it is known now; like the rows of a snapshot there from t0 on.

        Args:
            anchor_ns: t0, no more than about a second before the newest frame.
            steps: How many, at most the horizon.
            known_by_ns: Use only plans received by then; None: all of them.
        """
        config = self._config
        times = config.grid(anchor_ns)
        plans = self._plans if known_by_ns is None else self._plans[: bisect_right(self._plans, known_by_ns, key=_received_ns)]
        held = config.plan_extension is PlanExtension.HOLD
        until = times[: config.context + steps]
        motion = _commands(plans, config.space, until, config.context - 1, held, self._courses).motion
        return motion[config.context - 1 :]

    def _anchor(self, anchor_ns: int | None) -> Frame:
        if not self._frames:
            raise NotReadyError("Got no image yet, expected at least one to predict from; check that the camera publishes.")
        if anchor_ns is None:
            return self._frames[-1]
        count = bisect_right(self._frames, anchor_ns, key=_stamp_ns)
        if count == 0:
            raise NotReadyError(
                f"Got no image at or before {anchor_ns} ns, expected one to predict from; the oldest of those kept is of "
                f"{self._frames[0].stamp_ns} ns."
            )
        return self._frames[count - 1]

    def _steps(self, commands: _Commands) -> int:
        """How many steps from the anchor on are commanded."""
        silent = [d.name for d, any_command in zip(self._config.space.dimensions, commands.known, strict=True) if not any_command]
        if silent:
            raise NotReadyError(f"Got no command yet for {silent}, expected one for every action; check that their topics publish.")
        future = commands.commanded[self._config.context :]  # [horizon, A]
        steps = int(np.logical_and.accumulate(future.all(axis=1)).sum())
        if steps == 0 and self._config.plan_extension is PlanExtension.NONE:
            over = [d.name for d, commanded in zip(self._config.space.dimensions, future[0], strict=True) if not commanded]
            raise NotReadyError(
                f"Got no command for {over} after the newest image, expected a plan that reaches beyond it; "
                "send longer plans, or set plan_extension to 'hold' to go on with the last command."
            )
        return steps

    def _prune(self, newest_ns: int) -> None:
        """Drops the frames and plans that no snapshot near the newest frame can need."""
        oldest_grid_ns = int(self._config.grid(newest_ns - CLOCK_JUMP_NS)[0])
        oldest_frame_ns = oldest_grid_ns - CLOCK_JUMP_NS
        while self._frames[0].stamp_ns < oldest_frame_ns:
            del self._frames[0]
        settled_ns = oldest_grid_ns - LOOKBACK_NS
        settled: set[str] = set()  # names whose command at that time is found
        for i in reversed(range(bisect_right(self._plans, settled_ns, key=_received_ns))):
            plan = self._plans[i]
            if settled.issuperset(plan.names):
                del self._plans[i]
            elif _begin_ns(plan) <= settled_ns:
                settled.update(plan.names)

    def _jump(self) -> None:
        self.counters["clock_jumps"] += 1
        self.reset()

    def _refuse(self, reason: str) -> bool:
        self.counters[reason] += 1
        return False


def episode_grid(episode: Episode, space: ActionSpace, fps: float, image_size: tuple[int, int], image_latency_ns: int = 0) -> GridEpisode:
    """A recording on the grid, with every plan known: what training and evaluation use.

    The grid is anchored at the first frame; a missing image repeats its later neighbour. Before a dimension's first command it
    stands still (positions, velocities, deltas) or has its first value (states); ``commanded`` is false there.

    Raises:
        InputError: The episode has no frame, or no usable command for a dimension.
    """
    if not episode.frames:
        raise InputError(f"Got no image in {episode.name}, expected at least one; check the image topic in the mapping.")
    stamps = [frame.stamp_ns - image_latency_ns for frame in episode.frames]
    steps = int((stamps[-1] - stamps[0]) * fps / NANOSECONDS + 0.499)  # the last row has an image within half a period
    times = stamps[0] + _steps_ns(np.arange(steps + 1), fps)
    nearest, missing = _nearest(stamps, times, fps)
    if missing > MOST_MISSING * len(times):
        _log.warning("%s has no image of its own for %d of %d rows at %g Hz; is the rate right?", episode.name, missing, len(times), fps)
    resized = {i: resize_rgb(episode.frames[i].rgb, image_size) for i in set(nearest)}
    plans: list[Plan] = []
    for plan in episode.plans:
        if not _refusal(plan, plans, space):
            insort(plans, plan, key=_received_ns)
    commands = _commands(plans, space, times, origin=0, held=False, courses=_Courses())
    if not all(commands.known):
        silent = [d.name for d, known in zip(space.dimensions, commands.known, strict=True) if not known]
        raise InputError(f"Got no command for {silent} in {episode.name}, expected some for every action; check the mapping.")
    return GridEpisode(
        name=episode.name,
        stamps_ns=times,
        frames=np.stack([resized[i] for i in nearest]),
        motion=commands.motion,
        commanded=np.asarray(commands.commanded.all(axis=1)),
        instruction=episode.instruction,
    )


@functools.lru_cache(maxsize=16)
def _grid_steps_ns(context: int, horizon: int, fps: float) -> NDArray[np.int64]:
    """int64 [K + horizon], the grid around an anchor at 0; every image asks for it."""
    steps = _steps_ns(np.arange(1 - context, horizon + 1), fps)
    steps.flags.writeable = False
    return steps


def _steps_ns(steps: NDArray[np.int64], fps: float) -> NDArray[np.int64]:
    return np.round(steps * (NANOSECONDS / fps)).astype(np.int64)


def _nearest(stamps_ns: Sequence[int], times: NDArray[np.int64], fps: float) -> tuple[list[int], int]:
    """For each time the image nearest to it, if within half a period; else that of the next time. And how many had none.

    The last time must have one.
    """
    stamps = np.array(stamps_ns, dtype=np.int64)
    after = np.clip(np.searchsorted(stamps, times), 1, max(1, len(stamps) - 1))
    before = after - 1
    after = np.minimum(after, len(stamps) - 1)
    nearest = np.where(times - stamps[before] <= stamps[after] - times, before, after)
    missing = np.abs(stamps[nearest] - times) > NANOSECONDS / fps / 2
    for row in reversed(np.flatnonzero(missing)):
        nearest[row] = nearest[row + 1]
    return nearest.tolist(), int(missing.sum())


def _stamp_ns(frame: Frame) -> int:
    return frame.stamp_ns


def _received_ns(plan: Plan) -> int:
    return plan.received_ns


def _begin_ns(plan: Plan) -> int:
    """When a plan takes effect, see the module's text."""
    if len(plan.times_ns) == 1:
        point_ns = plan.start_ns + int(plan.times_ns[0])
        if point_ns <= plan.received_ns:
            return point_ns
    return max(plan.start_ns, plan.received_ns)


def _refusal(plan: Plan, plans: Sequence[Plan], space: ActionSpace) -> str | None:
    """Why a plan cannot be taken beside those that were; a counter's name."""
    if not set(plan.names) & set(space.names) or len(set(plan.names)) < len(plan.names):
        return "plans_unknown"
    if len(plan.times_ns) > 1 and plan.start_ns + plan.times_ns[-1] < plan.received_ns:
        return "plans_past"
    before = next((p for p in reversed(plans) if p.names == plan.names and p.received_ns <= plan.received_ns), None)
    if before is None:
        return None
    if _repeats(plan, before):
        return "plans_duplicate"
    if len(plan.times_ns) == len(before.times_ns) == 1 and _begin_ns(plan) < _begin_ns(before):
        return "plans_out_of_order"
    return None


def _repeats(plan: Plan, before: Plan) -> bool:
    if plan.start_ns != before.start_ns or not np.array_equal(plan.times_ns, before.times_ns):
        return False
    pairs = ((plan.values, before.values), (plan.velocities, before.velocities), (plan.accelerations, before.accelerations))
    return all(new is old if new is None or old is None else np.array_equal(new, old) for new, old in pairs)


@dataclass(frozen=True, slots=True)
class _Commands:
    """What was commanded at the grid's rows."""

    motion: NDArray[np.float64]  # [R, A]
    commanded: NDArray[np.bool_]  # [R, A], whether a plan reaches the row
    known: tuple[bool, ...]  # [A], whether there is any command
    newest_start_ns: int


@dataclass(frozen=True, slots=True)
class _Piece:
    """The time in which a plan is in force: from ``begin_ns`` until just before ``end_ns``."""

    plan: Plan
    begin_ns: int
    end_ns: int

    @property
    def point_times_ns(self) -> NDArray[np.int64]:
        return self.plan.start_ns + self.plan.times_ns

    @property
    def over_ns(self) -> int:
        """When the plan is over. A stream's sample is followed by the next, so it is over only then."""
        if len(self.plan.times_ns) == 1 and self.end_ns != _FOREVER_NS:
            return self.end_ns
        return min(int(self.point_times_ns[-1]), self.end_ns)


class _Courses:
    """Positions as segments: what the newest motions were made of. Plans come far less often than images that ask what they say."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Any, ...], tuple[list[_Piece], _Segments]] = {}  # the pieces keep their plans, and so the plans' ids

    def of(self, pieces: list[_Piece], names: tuple[str, ...]) -> _Segments:
        """The segments of all pieces."""
        key = (names, *((id(piece.plan), piece.begin_ns, piece.end_ns) for piece in pieces))
        if key not in self._kept:
            if len(self._kept) >= _KEPT_COURSES:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = pieces, _all_segments(pieces, names)
        return self._kept[key][1]


def _commands(plans: Sequence[Plan], space: ActionSpace, times: NDArray[np.int64], origin: int, held: bool, courses: _Courses) -> _Commands:
    """The commands at the grid's rows; moving kinds but positions accumulate from row ``origin``.

    Only plans in force since ``LOOKBACK_NS`` before the first row matter, so the result does not depend on older ones.

    Args:
        plans: By receive time.
        space: The action's dimensions.
        times: int64 [R].
        origin: The row of t0.
        held: Whether deltas are repeated in steps after ``origin`` that begin when their last plan is over.
        courses: Of the same timeline.
    """
    names = space.names
    motion = np.zeros((len(times), len(space)))
    commanded = np.zeros((len(times), len(space)), dtype=bool)
    known = [False] * len(space)
    used: list[Plan] = []
    groups: dict[tuple[int, ...], list[int]] = {}  # dimensions that the same plans carry
    for a, name in enumerate(names):
        groups.setdefault(tuple(i for i, plan in enumerate(plans) if name in plan.names), []).append(a)
    for carriers, group in groups.items():
        pieces = _pieces([plans[i] for i in carriers], int(times[0]) - LOOKBACK_NS, int(times[-1]))
        if not pieces:
            continue
        for kind in sorted({space.dimensions[a].kind for a in group}):
            columns = [a for a in group if space.dimensions[a].kind == kind]
            motion[:, columns] = _motion(kind, pieces, tuple(names[a] for a in columns), times, origin, held, courses)
        commanded[:, group] = _reached(pieces, times)[:, np.newaxis]
        for a in group:
            known[a] = True
        used.append(pieces[-1].plan)
    newest = max(used, key=lambda plan: (plan.received_ns, plan.start_ns), default=None)
    return _Commands(motion, commanded, tuple(known), newest.start_ns if newest else 0)


def _pieces(plans: Sequence[Plan], since_ns: int, until_ns: int) -> list[_Piece]:
    """Which plan is in force when, in order of time: a plan replaces those before it from its own beginning on."""
    pieces: list[_Piece] = []
    end_ns = _FOREVER_NS
    for plan in reversed(plans):
        begin_ns = _begin_ns(plan)
        if begin_ns >= end_ns:
            continue
        if begin_ns <= until_ns:
            pieces.append(_Piece(plan, begin_ns, end_ns))
        end_ns = begin_ns
        if begin_ns <= since_ns:
            break
    return pieces[::-1]


def _reached(pieces: list[_Piece], times: NDArray[np.int64]) -> NDArray[np.bool_]:
    """bool [R], whether the plan in force is not over yet."""
    begins = np.array([piece.begin_ns for piece in pieces])
    overs = np.array([piece.over_ns for piece in pieces])
    at = np.searchsorted(begins, times, side="right") - 1
    return np.asarray((at >= 0) & (times <= overs[at] + ROUNDING_NS))


def _motion(
    kind: ActionKind,
    pieces: list[_Piece],
    names: tuple[str, ...],
    times: NDArray[np.int64],
    origin: int,
    held: bool,
    courses: _Courses,
) -> NDArray[np.float64]:
    """float64 [R, P], the motion of dimensions of one kind."""
    if kind == "position":  # before the first piece its first position
        return _position(*_at(*courses.of(pieces, names), times))
    points, values = _points(pieces, names, in_force=kind != "delta")
    if kind == "state":
        return np.asarray(values[np.maximum(np.searchsorted(points, times, side="right") - 1, 0)])
    steps = _integrals(points, values, times) if kind == "velocity" else _sums(points, values, times)  # [R - 1, P]
    if kind == "delta" and held:
        after = slice(origin, None)
        steps[after] += values[-1] * _repetitions(points, pieces[-1].over_ns, times[after])[:, np.newaxis]
    motion = np.concatenate([np.zeros((1, len(names))), np.cumsum(steps, axis=0)])
    return np.asarray(motion - motion[origin])


def _points(pieces: list[_Piece], names: tuple[str, ...], in_force: bool) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """int64 [S] times and float64 [S, P] values of all points in force, in order.

    Of the points before a piece begins the last is taken as beginning with it, if ``in_force``; the others are dropped.
    """
    points, values = [], []
    for piece in pieces:
        times = piece.point_times_ns
        first = int(np.searchsorted(times, piece.begin_ns))
        if in_force and first > 0 and times[first] > piece.begin_ns:
            first -= 1
        last = int(np.searchsorted(times, piece.end_ns))
        if piece is pieces[-1]:
            last = max(last, first + 1)  # there is at least one; if it is never reached, it lies after the last row
        points.append(np.maximum(times[first:last], piece.begin_ns))
        values.append(piece.plan.values[first:last, _columns(piece.plan, names)])
    return np.concatenate(points), np.concatenate(values)


def _columns(plan: Plan, names: tuple[str, ...]) -> list[int]:
    return [plan.names.index(name) for name in names]


def _integrals(points: NDArray[np.int64], values: NDArray[np.float64], times: NDArray[np.int64]) -> NDArray[np.float64]:
    """float64 [R - 1, P], the integral over each step of values that hold from their points on; nothing holds before the first."""
    cuts = np.unique(np.concatenate([times, points[(points > times[0]) & (points < times[-1])]]))
    at = np.searchsorted(points, cuts[:-1], side="right") - 1
    travelled = np.where(at[:, np.newaxis] >= 0, values[at], 0.0) * (np.diff(cuts) / NANOSECONDS)[:, np.newaxis]
    return np.add.reduceat(travelled, np.searchsorted(cuts, times[:-1]), axis=0)


def _sums(points: NDArray[np.int64], values: NDArray[np.float64], times: NDArray[np.int64]) -> NDArray[np.float64]:
    """float64 [R - 1, P], the sum of the values whose points lie in each step: after its beginning, not after its end."""
    result = np.zeros((len(times) - 1, values.shape[1]))
    step = np.searchsorted(times, points - ROUNDING_NS) - 1
    inside = (step >= 0) & (step < len(result))
    np.add.at(result, step[inside], values[inside])
    return result


def _repetitions(points: NDArray[np.int64], over_ns: int, times: NDArray[np.int64]) -> NDArray[np.float64]:
    """float64 [R - 1], how often the last sample is repeated in each step if the stream goes on at the rate of its newest samples.

    The rate is one sample per step if there is only one. The step in which the stream is over gets whole samples, so that a
    stream as fast as the grid has one in each step.
    """
    step_ns = float(times[-1] - times[0]) / (len(times) - 1)
    gaps = np.diff(points[-_RATE_SAMPLES:])
    gap_ns = (float(np.median(gaps)) if len(gaps) else 0.0) or step_ns
    started = np.floor((times[1:] - over_ns + ROUNDING_NS) / gap_ns)
    return np.where(times[:-1] >= over_ns, step_ns / gap_ns, np.maximum(started, 0.0))


def _all_segments(pieces: list[_Piece], names: tuple[str, ...]) -> _Segments:
    """The segments of pieces that follow each other."""
    segments: list[_Segments] = []
    for piece in pieces:
        segments.append(_segments(piece, names, segments[-1] if segments else None))
    if len(segments) == 1:
        return segments[0]
    begins, polynomials = zip(*segments, strict=True)
    return np.concatenate(begins), np.concatenate(polynomials)


def _segments(piece: _Piece, names: tuple[str, ...], before: _Segments | None) -> _Segments:
    """The segments of a piece; those before it say what was commanded when it begins, None: that is unknown."""
    plan, times = piece.plan, piece.point_times_ns
    first = int(np.searchsorted(times, piece.begin_ns))
    times = times[first:]
    given = [plan.values]
    if plan.velocities is not None:
        given.append(plan.velocities)
        if plan.accelerations is not None:
            given.append(plan.accelerations)
    states = [array[first:, _columns(plan, names)] for array in given]  # each [points, P]
    approached = bool(times[0] > piece.begin_ns)
    if approached:
        begin = np.array([piece.begin_ns])
        start = np.stack([states[0][:1]] * 3) if before is None else _evaluate(before, begin)  # [3, 1, P]
        times = np.concatenate([begin, times])
        states = [np.concatenate([first_state, state]) for first_state, state in zip(start, states, strict=False)]
    polynomials = np.zeros((len(times), 6, len(names)))
    polynomials[:, 0] = states[0]  # the last one goes on: held
    duration = np.maximum(np.diff(times), 1)[:, np.newaxis] / NANOSECONDS
    polynomials[:-1, : 2 * len(states)] = _hermite(duration, *((state[:-1], state[1:]) for state in states))
    if approached and before is None:
        polynomials[0, 1:] = 0  # from where to is unknown: it stands at the first point
    inside = times < piece.end_ns
    return times[inside], polynomials[inside]


def _hermite(duration: NDArray[np.float64], *ends: tuple[NDArray[np.float64], NDArray[np.float64]]) -> NDArray[np.float64]:
    """Coefficients float64 [S, 2 n, P] of the polynomials of degree 2 n - 1 through both ends of segments.

    Args:
        duration: float64 [S, 1] in seconds.
        ends: For position, velocity, acceleration, as many (n) as are known: values at beginning and end, each [S, P].
    """
    t = duration
    p0, p1 = ends[0]
    if len(ends) == 1:
        return np.stack([p0, (p1 - p0) / t], axis=1)
    v0, v1 = ends[1]
    if len(ends) == 2:
        return np.stack([p0, v0, (3 * (p1 - p0) / t - 2 * v0 - v1) / t, (2 * (p0 - p1) / t + v0 + v1) / t**2], axis=1)
    a0, a1 = ends[2]
    travel = (p1 - p0) / t
    return np.stack(
        [
            p0,
            v0,
            a0 / 2,
            (20 * travel - 12 * v0 - 8 * v1 - (3 * a0 - a1) * t) / (2 * t**2),
            (-30 * travel + 16 * v0 + 14 * v1 + (3 * a0 - 2 * a1) * t) / (2 * t**3),
            (12 * travel - 6 * v0 - 6 * v1 - (a0 - a1) * t) / (2 * t**4),
        ],
        axis=1,
    )


def _evaluate(segments: _Segments, times: NDArray[np.int64]) -> NDArray[np.float64]:
    """float64 [3, R, P], position, velocity and acceleration at the times; before the first segment its beginning's."""
    c, t = _at(*segments, times)
    velocity = c[1] + t * (2 * c[2] + t * (3 * c[3] + t * (4 * c[4] + t * 5 * c[5])))
    acceleration = 2 * c[2] + t * (6 * c[3] + t * (12 * c[4] + t * 20 * c[5]))
    return np.stack([_position(c, t), velocity, acceleration])


def _at(
    begins: NDArray[np.int64], polynomials: NDArray[np.float64], times: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coefficients float64 [6, R, P] of the segments at the times, and seconds [R, 1] since these began."""
    at = np.maximum(np.searchsorted(begins, times, side="right") - 1, 0)
    t = (np.maximum(times - begins[at], 0) / NANOSECONDS)[:, np.newaxis]
    return polynomials[at].transpose(1, 0, 2), t


def _position(c: NDArray[np.float64], t: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64 [R, P] of what :func:`_at` gives."""
    return np.asarray(c[0] + t * (c[1] + t * (c[2] + t * (c[3] + t * (c[4] + t * c[5])))))
