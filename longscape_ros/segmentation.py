# SPDX-License-Identifier: Apache-2.0
"""The action-guided chunk rule: where a sequence of actions is cut into coherent pieces of motion.

The rule is LongScape's (arXiv 2509.21790), made causal: ranges are calibrated instead of taken from the whole recording.
A chunk begins where the last one ended, the first at the anchor. It has the shortest of the rule's lengths and grows to the
next length, and the next, until

- the excursion (largest minus smallest motion over its rows, its start row included) of any moving dimension exceeds
  ``threshold`` times that dimension's ``motion_range``: ``MOTION``, the steps that exceeded it are part of the chunk; or
- a gripper flips in the steps it would grow by: ``GRIPPER``; the flip gets a shortest chunk of its own, also ``GRIPPER``; or
- it has the longest length: ``MAX_LENGTH``; or
- the plan ends: ``END_OF_PLAN``; if the plan ends inside the chunk, the rest is padding with the last row held.

A chunk that ends right before the flip's chunk has the reason ``GRIPPER`` even where another reason holds too. With lengths
that are all multiples of the base window (8, 16, 24, 32) a chunk grows one window at a time; with gaps (8, 16, 32) it grows
from 16 to 32 at once or not at all.

A gripper flips where its value crosses the midpoint by more than the hysteresis; in between it keeps its state. The state at
the anchor is the side of the midpoint its value there is on. Rows after a flip never matter to chunks before it, so the rule
can run while the robot moves: :class:`OnlineSegmenter` gives the chunks of :func:`segment` as long as it sees as many
planned steps as the longest chunk has.

Shapes: N steps, so N + 1 rows of motion with the anchor's; A action dimensions; L lengths; G grippers.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from longscape_ros.contract import ActionSpace, Chunk, ChunkRule, EndReason
from longscape_ros.errors import InputError

THRESHOLD_GRID = tuple(round(0.02 * i, 2) for i in range(1, 151))
"""Thresholds that :func:`calibrate_threshold` tries: 0.02 to 3.00."""

SMALLEST_SHARE = 0.1
"""Share of a chunk length below which its expert sees too little data."""

_log = logging.getLogger(__name__)


def segment(motion: NDArray[np.float64], space: ActionSpace, rule: ChunkRule) -> tuple[Chunk, ...]:
    """The chunks of a planned sequence, from the anchor to the plan's end.

    Args:
        motion: float64 [N + 1, A], the action's motion; row 0 is the anchor.
        space: The action's dimensions.
        rule: The chunk rule.

    Raises:
        InputError: The motion does not fit the space or has no step.
    """
    _check(motion, space)
    if len(motion) < 2:
        raise InputError("Got motion without a step after the anchor, expected at least one; a plan must reach beyond t0.")
    flipped = _flipped(motion, space)
    chunks: list[Chunk] = []
    start = 0
    while start < len(motion) - 1:
        ahead = slice(start, start + 2 * rule.lengths[-1] + 1)  # further rows cannot matter
        length, valid, reason = _first_chunk(motion[ahead], flipped[ahead], space, rule)
        chunks.append(Chunk(start, length, valid, reason))
        start += length
    return tuple(chunks)


class OnlineSegmenter:
    """The same rule while the steps are executed one by one: says where the chunks of the executed motion ended.

    It looks ahead in the plan, as the rule does. Where the plan is shorter than the longest chunk, the plan's last row is
    taken as held; where the plan changes under a chunk that has begun, the chunk goes on to the next of the rule's lengths.

    Args:
        space: The action's dimensions.
        rule: The chunk rule.
    """

    def __init__(self, space: ActionSpace, rule: ChunkRule) -> None:
        self._space = space
        self._rule = rule
        self._rows = np.empty((0, len(space)))  # [executed steps of this chunk + 1, A]
        self._start = 0
        self._grippers = np.empty(0, dtype=bool)  # [G], at the chunk's start

    def reset(self, start_motion_row: NDArray[np.float64]) -> None:
        """Starts over: the row, float64 [A], is the anchor's and steps count from here."""
        rows = np.asarray(start_motion_row, dtype=np.float64)[np.newaxis]
        _check(rows, self._space)
        self._rows = rows
        self._start = 0
        self._grippers = _sides(rows[0], self._space)

    def step(self, motion_row: NDArray[np.float64], planned: NDArray[np.float64]) -> Chunk | None:
        """Takes one executed step.

        Args:
            motion_row: float64 [A], the motion at the step's end, accumulated from the same origin as the row of the reset.
            planned: float64 [M, A], the motion at the ends of the steps still planned.

        Returns:
            The chunk that ended with this step, its start counted from the reset; None: the chunk goes on.

        Raises:
            InputError: It was never reset, or the rows do not fit the action space.
        """
        self._require_start()
        row = np.asarray(motion_row, dtype=np.float64)[np.newaxis]
        _check(row, self._space)
        self._rows = np.concatenate([self._rows, row])
        executed = len(self._rows) - 1
        length, _, reason = self._chunk(planned, hold=True)
        if length > executed:
            return None
        chunk = Chunk(self._start, length, length, reason)
        self._grippers = _gripper_states(self._rows, self._space, self._grippers)[-1]
        self._rows = self._rows[-1:]
        self._start += length
        return chunk

    def current(self, planned: NDArray[np.float64]) -> Chunk:
        """The chunk in progress as it will be if float64 [M, A] ``planned`` is executed.

        Raises:
            InputError: It was never reset, the rows do not fit the action space, or nothing is executed or planned.
        """
        self._require_start()
        length, valid, reason = self._chunk(planned, hold=False)
        return Chunk(self._start, length, valid, reason)

    def _chunk(self, planned: NDArray[np.float64], hold: bool) -> tuple[int, int, EndReason]:
        _check(planned, self._space)
        rows = np.concatenate([self._rows, planned])
        executed = len(self._rows) - 1
        if hold:
            missing = max(0, executed + 2 * self._rule.lengths[-1] + 1 - len(rows))
            rows = np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])
        elif len(rows) < 2:
            raise InputError("Got neither an executed nor a planned step, expected at least one.")
        return _first_chunk(rows, _flipped(rows, self._space, self._grippers), self._space, self._rule, executed)

    def _require_start(self) -> None:
        if not len(self._rows):
            raise InputError("Got a step before the first reset, expected reset(row at the anchor) first.")


def expert_for(chunk_length: int, rule: ChunkRule) -> int:
    """The expert of a chunk length: the lengths' experts are numbered from the shortest.

    Raises:
        InputError: The rule has no such length.
    """
    if chunk_length not in rule.lengths:
        raise InputError(f"Got a chunk of {chunk_length} steps, expected one of {list(rule.lengths)}.")
    return rule.lengths.index(chunk_length)


def lengths_from_everywhere(motion: NDArray[np.float64], space: ActionSpace, rule: ChunkRule) -> NDArray[np.int64]:
    """The length of the chunk that would begin at every row, for training samples that begin anywhere.

    It is the length of the first chunk of ``segment(motion[row:])`` where that one is complete. Where it would need more
    steps than remain, it is the longest length that fits, and 0 where fewer remain than the shortest has.

    Args:
        motion: float64 [N + 1, A].
        space: The action's dimensions.
        rule: The chunk rule.

    Returns:
        int64 [N].

    Raises:
        InputError: The motion does not fit the space.
    """
    _check(motion, space)
    return _lengths(_excursions(motion, space, rule.lengths), _steps_to_flip(motion, space), rule.lengths, rule.threshold)[:-1]


def calibrate_threshold(
    episodes_motion: Sequence[NDArray[np.float64]], space: ActionSpace, base: int, lengths: tuple[int, ...]
) -> tuple[float, dict[int, float]]:
    """The threshold that uses the chunk lengths most evenly: it makes the smallest share largest, then the next (a search over a grid).

    Shares are those of the chunks that begin at every row from which the longest chunk fits (every row from which any
    fits, if there is none), as training samples do; not of consecutive chunks.

    Args:
        episodes_motion: float64 [N + 1, A] per episode.
        space: The action's dimensions, calibrated.
        base: Base window in grid steps.
        lengths: Chunk lengths in grid steps.

    Returns:
        The threshold and the share of each length. A share below 0.1 is logged as a warning.

    Raises:
        InputError: The lengths make no rule, or every episode is shorter than the shortest.
    """
    ChunkRule(base, lengths)
    for motion in episodes_motion:
        _check(motion, space)
    remaining = [len(motion) - 1 for motion in episodes_motion]
    needed = lengths[-1] if max(remaining, default=0) >= lengths[-1] else lengths[0]
    usable = [motion for motion, steps in zip(episodes_motion, remaining, strict=True) if steps >= needed]
    if not usable:
        raise InputError(f"Got episodes of at most {max(remaining, default=0)} steps, expected one of at least {lengths[0]}.")
    excursions = np.concatenate([_excursions(motion, space, lengths)[: len(motion) - needed] for motion in usable])
    flips = np.concatenate([_steps_to_flip(motion, space)[: len(motion) - needed] for motion in usable])

    def shares(threshold: float) -> NDArray[np.float64]:
        counts = np.bincount(np.searchsorted(lengths, _lengths(excursions, flips, lengths, threshold)), minlength=len(lengths))
        return np.asarray(counts / counts.sum())

    threshold = max(THRESHOLD_GRID, key=lambda candidate: sorted(shares(candidate)))
    result = {length: float(share) for length, share in zip(lengths, shares(threshold), strict=True)}
    for length, share in result.items():
        if share < SMALLEST_SHARE:
            _log.warning("Only %.1f %% of the chunks have %d steps; their expert will see little data.", 100 * share, length)
    return threshold, result


def _check(motion: NDArray[np.float64], space: ActionSpace) -> None:
    if motion.ndim != 2 or motion.shape[1] != len(space):
        raise InputError(f"Got motion of shape {motion.shape}, expected [rows, {len(space)}] for the actions {list(space.names)}.")


def _first_chunk(
    motion: NDArray[np.float64], flipped: NDArray[np.bool_], space: ActionSpace, rule: ChunkRule, at_least: int = 1
) -> tuple[int, int, EndReason]:
    """Length, valid steps and end reason of the chunk that begins at row 0 and is not shorter than ``at_least``."""
    steps = len(motion) - 1
    flip = int(np.argmax(flipped[1:])) + 1 if flipped[1:].any() else 2 * rule.lengths[-1] + 1  # beyond all lengths: none
    excursions = _excursions_from(motion[: rule.lengths[-1] + 1], space)
    for length, longer in zip(rule.lengths, (*rule.lengths[1:], 0), strict=True):
        if length < at_least:
            continue
        moved = bool(excursions[min(length, len(excursions) - 1)] > rule.threshold)
        flips = flip <= max(longer, length + rule.lengths[0])  # inside, in the steps it would grow by, or in the next chunk
        if moved or flip <= max(longer, length) or not longer or steps <= length:
            break
    if steps < length:
        return length, steps, EndReason.END_OF_PLAN
    if flips:
        return length, length, EndReason.GRIPPER
    if moved:
        return length, length, EndReason.MOTION
    return length, length, EndReason.END_OF_PLAN if longer else EndReason.MAX_LENGTH


def _excursions_from(rows: NDArray[np.float64], space: ActionSpace) -> NDArray[np.float64]:
    """float64 [rows], the largest excursion of a moving dimension from row 0 to each, as a fraction of its range."""
    moving = [a for a, d in enumerate(space.dimensions) if d.moves]
    values = rows[:, moving]
    ranges = np.array([space.dimensions[a].motion_range for a in moving])
    excursions = np.maximum.accumulate(values) - np.minimum.accumulate(values)
    return np.asarray(np.max(excursions / ranges, axis=1, initial=0.0))


def _excursions(motion: NDArray[np.float64], space: ActionSpace, lengths: Sequence[int]) -> NDArray[np.float64]:
    """float64 [N + 1, L], the excursion of each length from each row, see :func:`_excursions_from`; NaN where it does not fit."""
    result = np.full((len(motion), len(lengths)), np.nan)
    moving = [a for a, d in enumerate(space.dimensions) if d.moves]
    ranges = np.array([space.dimensions[a].motion_range for a in moving])
    high = low = motion[:, moving]
    covered = 0
    for column, length in enumerate(lengths):
        if length >= len(motion):
            break
        while covered < length:  # windows of m + n steps are two overlapping windows: m steps, and m steps n later
            grow = min(max(covered, 1), length - covered)
            high, low = np.maximum(high[:-grow], high[grow:]), np.minimum(low[:-grow], low[grow:])
            covered += grow
        result[: len(motion) - length, column] = np.max((high - low) / ranges, axis=1, initial=0.0)
    return result


def _sides(rows: NDArray[np.float64], space: ActionSpace) -> NDArray[np.bool_]:
    """bool [..., G], which side of the midpoint each gripper's value is on."""
    grippers = [a for a, d in enumerate(space.dimensions) if d.is_gripper]
    return np.asarray(rows[..., grippers] > [space.dimensions[a].midpoint for a in grippers])


def _gripper_states(motion: NDArray[np.float64], space: ActionSpace, first: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """bool [rows, G], each gripper's state; ``first`` is the state at row 0 if it is known."""
    states = _sides(motion, space)
    for g, (values, d) in enumerate((motion[:, a], d) for a, d in enumerate(space.dimensions) if d.is_gripper):
        decided = (values > d.midpoint + d.hysteresis) | (values < d.midpoint - d.hysteresis)
        decided[0] = True
        if first is not None:
            states[0, g] = first[g]
        latest = np.maximum.accumulate(np.where(decided, np.arange(len(values)), 0))
        states[:, g] = states[latest, g]
    return states


def _flipped(motion: NDArray[np.float64], space: ActionSpace, first: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """bool [rows], whether any gripper's state differs from the row before."""
    states = _gripper_states(motion, space, first)
    return np.asarray((states != np.concatenate([states[:1], states[:-1]])).any(axis=1))


def _steps_to_flip(motion: NDArray[np.float64], space: ActionSpace) -> NDArray[np.int64]:
    """int64 [rows], steps from each row to the first gripper flip after it, if the row is the anchor; very many: none."""
    rows = np.arange(len(motion))
    never = np.iinfo(np.int64).max // 2
    nearest = np.full(len(motion), never)
    for values, d in ((motion[:, a], d) for a, d in enumerate(space.dimensions) if d.is_gripper):
        above = values > d.midpoint
        for here, beyond in ((above, values < d.midpoint - d.hysteresis), (~above, values > d.midpoint + d.hysteresis)):
            ahead = np.minimum.accumulate(np.where(beyond, rows, never)[::-1])[::-1]  # first row from here on
            nearest = np.where(here, np.minimum(nearest, ahead), nearest)
    return nearest - rows


def _lengths(
    excursions: NDArray[np.float64], steps_to_flip: NDArray[np.int64], lengths: tuple[int, ...], threshold: float
) -> NDArray[np.int64]:
    """int64 [rows], the length a chunk from each row reaches; 0 where none fits. The excursions are [rows, L]."""
    fits = ~np.isnan(excursions)
    grows = (excursions[:, :-1] <= threshold) & (steps_to_flip[:, np.newaxis] > np.array(lengths[1:])) & fits[:, 1:]
    reached = np.logical_and.accumulate(grows, axis=1).sum(axis=1)
    return np.where(fits[:, 0], np.array(lengths)[reached], 0)
