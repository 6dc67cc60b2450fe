# SPDX-License-Identifier: Apache-2.0
"""Actions as numbers for a model: the input features of a chunk, and the calibration of an action space on recordings.

*Motion* is what :mod:`longscape_ros.timeline` makes of commands: one row per grid step; moving kinds accumulate (a position is
the commanded value itself), states are values. Shapes: R rows, A action dimensions, F features.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from longscape_ros.contract import ActionDimension, ActionSpace
from longscape_ros.errors import InputError

STEPS_PER_SCALE = 8
"""A dimension that travels one ``scale`` in this many steps has step features of about one."""

SMALLEST_TRAVEL = 1e-6
"""Travel, in a dimension's unit, below which it counts as standing still."""

TRAVEL_PERCENTILE = 95
END_PERCENTILES = (1, 99)
HYSTERESIS = 0.1
"""Hysteresis of a state, as a fraction of the distance between its two ends."""

_log = logging.getLogger(__name__)


def feature_count(space: ActionSpace) -> int:
    """F, the features per grid step: two for each moving dimension, one for each state."""
    return sum(2 if d.moves else 1 for d in space.dimensions)


def encode_actions(motion: NDArray[np.float64], origin: int, space: ActionSpace) -> NDArray[np.float32]:
    """Model inputs of consecutive grid steps, of one sequence or of many at once.

    A moving dimension gives two columns: the motion relative to row ``origin`` over its scale, and the step's own motion
    over an eighth of the scale (row 0: zero). A state gives one: its distance from the midpoint over its scale.

    Args:
        motion: float64 [..., R, A], the action's motion.
        origin: The row that stands for t0.
        space: The action's dimensions.

    Returns:
        float32 [..., R, F], the dimensions' columns in the order of the space.

    Raises:
        InputError: The motion does not fit the space, or the origin is not one of its rows.
    """
    if motion.ndim < 2 or motion.shape[-1] != len(space):
        raise InputError(f"Got motion of shape {motion.shape}, expected [R, {len(space)}] for the actions {list(space.names)}.")
    if not 0 <= origin < motion.shape[-2]:
        raise InputError(f"Got origin {origin} for motion of {motion.shape[-2]} rows, expected one of them.")
    dimensions = space.dimensions
    moving = [a for a, d in enumerate(dimensions) if d.moves]
    states = [a for a, d in enumerate(dimensions) if not d.moves]
    first = np.cumsum([0, *(2 if d.moves else 1 for d in dimensions)])  # column of each dimension
    features = np.empty((*motion.shape[:-1], first[-1]), np.float32)
    if moving:
        scales = np.array([dimensions[a].scale for a in moving])
        values = motion[..., moving]  # [..., R, moving]
        features[..., first[moving]] = (values - values[..., origin, None, :]) / scales
        features[..., 0, first[moving] + 1] = 0
        features[..., 1:, first[moving] + 1] = (values[..., 1:, :] - values[..., :-1, :]) / (scales / STEPS_PER_SCALE)
    if states:
        middles, scales = np.array([(dimensions[a].midpoint, dimensions[a].scale) for a in states]).T
        features[..., first[states]] = (motion[..., states] - middles) / scales
    return features


def calibrate_space(dimensions: Sequence[ActionDimension], episodes_motion: Sequence[NDArray[np.float64]], longest: int) -> ActionSpace:
    """Ranges and scales of the dimensions, measured on training recordings. Names, units, kinds and grippers are kept.

    Moving kinds: ``motion_range`` is the median, over the episodes in which the dimension moves, of how far it travels in
    the episode; ``scale`` the 95th percentile of its travel within ``longest`` steps. States: the two ends are the 1st and
    99th percentile of all values, ``midpoint`` lies between them, ``scale`` is half their distance, ``hysteresis`` a tenth
    of it. A dimension that never changes gets the neutral 1 and a warning.

    Args:
        dimensions: What to calibrate.
        episodes_motion: float64 [N, A] per episode, the motion on the grid.
        longest: The longest chunk in grid steps.

    Raises:
        InputError: No episode, or one whose motion does not fit the dimensions.
    """
    if not any(len(motion) for motion in episodes_motion):
        raise InputError("Got no motion to calibrate the actions on, expected at least one episode with frames and commands.")
    names = [d.name for d in dimensions]
    for motion in episodes_motion:
        if motion.ndim != 2 or motion.shape[1] != len(names):
            raise InputError(f"Got motion of shape {motion.shape}, expected [N, {len(names)}] for the actions {names}.")
    filled = [motion for motion in episodes_motion if len(motion)]
    return ActionSpace(
        tuple(
            _calibrate_moving(d, [motion[:, a] for motion in filled], longest)
            if d.moves
            else _calibrate_state(d, np.concatenate([motion[:, a] for motion in filled]))
            for a, d in enumerate(dimensions)
        )
    )


def _calibrate_moving(dimension: ActionDimension, episodes: list[NDArray[np.float64]], longest: int) -> ActionDimension:
    ranges = np.array([np.ptp(values) for values in episodes])
    moving = ranges > SMALLEST_TRAVEL
    if not moving.any():
        _log.warning("Action %r never moves in the recordings; its motion cannot end a chunk.", dimension.name)
        return replace(dimension, motion_range=1.0, scale=1.0)
    motion_range = float(np.median(ranges[moving]))
    lags = [min(longest, len(values) - 1) for values in episodes]
    travel = np.concatenate([np.abs(values[lag:] - values[: len(values) - lag]) for values, lag in zip(episodes, lags, strict=True) if lag])
    scale = float(np.percentile(travel, TRAVEL_PERCENTILE))
    return replace(dimension, motion_range=motion_range, scale=scale if scale > SMALLEST_TRAVEL else motion_range)


def _calibrate_state(dimension: ActionDimension, values: NDArray[np.float64]) -> ActionDimension:
    low, high = np.percentile(values, END_PERCENTILES)
    if high - low <= SMALLEST_TRAVEL:  # rarer than the percentiles see
        low, high = values.min(), values.max()
    if high - low <= SMALLEST_TRAVEL:
        _log.warning("State %r never changes in the recordings; the model cannot learn what it does.", dimension.name)
        low, high = low - 1.0, low + 1.0
    distance = float(high - low)
    return replace(dimension, midpoint=float(low) + distance / 2, scale=distance / 2, hysteresis=HYSTERESIS * distance)
