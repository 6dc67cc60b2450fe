# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from longscape_ros.errors import InputError
from longscape_ros.runtime.costs import Cost, ErrorPenalty, GoalDistance, MotionPenalty, Trajectory, WeightedSum

GOAL = np.full((2, 3, 4), 1.0, np.float32)


def trajectory(levels: Any, travel: Any = None, confidence: Any = None, goal: Any = GOAL) -> Trajectory:
    """Frames whose latents all have one value each."""
    frames = len(levels)
    return Trajectory(
        latents=np.ones((frames, 2, 3, 4), np.float32) * np.asarray(levels, np.float32)[:, None, None, None],
        travel=np.zeros((frames, 1)) if travel is None else np.asarray(travel, np.float64),
        confidence=np.full(frames, np.nan, np.float32) if confidence is None else np.asarray(confidence, np.float32),
        goal=goal,
    )


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        (GoalDistance(), 3.0),
        (GoalDistance("l2"), 9.0),
        (GoalDistance(when="nearest"), 0.5),
        (GoalDistance("l2", "nearest"), 0.25),
        (GoalDistance(when="all"), (1 + 0.5 + 3) / 3),
        (GoalDistance(when="all", growth=2.0), (1 * 1 + 2 * 0.5 + 4 * 3) / 7),
        (GoalDistance("l2", "all", growth=0.5), (4 * 1 + 2 * 0.25 + 1 * 9) / 7),
    ],
)
def test_the_distance_to_the_goal_is_what_its_options_say(cost: GoalDistance, expected: float) -> None:
    np.testing.assert_allclose(cost([trajectory([2.0, 1.5, -2.0])]), [expected])


def test_the_distance_is_the_mean_over_channels_and_pixels() -> None:
    latents = np.arange(48, dtype=np.float32).reshape(2, 2, 3, 4)
    one = Trajectory(latents, np.zeros((2, 1)), np.zeros(2, np.float32), goal=np.zeros((2, 3, 4), np.float32))
    np.testing.assert_allclose(GoalDistance().per_frame(one), [11.5, 35.5])
    np.testing.assert_allclose(
        GoalDistance("l2").per_frame(one), [np.square(np.arange(24.0)).mean(), np.square(np.arange(24.0, 48)).mean()]
    )


def test_futures_of_different_lengths_each_get_one_cost() -> None:
    costs = GoalDistance()([trajectory([1.0]), trajectory([5.0, 1.5]), trajectory([0.0] * 7)])
    assert costs.dtype == np.float64
    np.testing.assert_allclose(costs, [0.0, 0.5, 1.0])
    assert GoalDistance()([]).shape == (0,)


def test_a_strong_growth_over_a_long_future_does_not_overflow() -> None:
    levels = [2.0] * 399 + [1.0]
    np.testing.assert_allclose(GoalDistance(when="all", growth=1e3)([trajectory(levels)]), [0.001], rtol=2e-3)


def test_a_distance_without_a_goal_is_refused() -> None:
    assert GoalDistance().needs == {"goal"}
    with pytest.raises(InputError, match="Got no goal"):
        GoalDistance()([trajectory([1.0], goal=None)])


def test_the_motion_penalty_is_the_mean_square_travel() -> None:
    one = trajectory([0.0, 0.0], travel=[[1.0, 2.0], [0.0, 4.0]])
    np.testing.assert_allclose(MotionPenalty().per_frame(one), [2.5, 8.0])
    np.testing.assert_allclose(MotionPenalty(magnitude=2.0)([one]), [10.5])
    assert MotionPenalty().needs == frozenset()


def test_the_jerk_is_the_second_difference_of_the_travel_and_sees_the_steps_before() -> None:
    jerk = MotionPenalty(magnitude=0.0, jerk=1.0)
    steady = trajectory([0.0] * 3, travel=[[2.0]] * 3)
    assert jerk([steady])[0] == 0
    leap = trajectory([0.0] * 3, travel=[[0.0], [0.0], *[[2.0]] * 3])  # stood still before
    np.testing.assert_allclose(jerk.per_frame(leap), [4.0, 4.0, 0.0])
    turn = trajectory([0.0] * 4, travel=[[1.0], [2.0], [4.0], [3.0]])
    np.testing.assert_allclose(jerk.per_frame(turn), [0.0, 1.0, 1.0, 9.0])


def test_an_action_without_moving_dimensions_has_no_motion_penalty() -> None:
    assert MotionPenalty(jerk=1.0)([trajectory([0.0, 0.0], travel=np.zeros((5, 0)))]).tolist() == [0.0]


def test_the_error_penalty_is_the_mean_probability_of_being_wrong() -> None:
    one = trajectory([0.0, 0.0], confidence=[0.75, 0.25])
    np.testing.assert_allclose(ErrorPenalty().per_frame(one), [0.25, 0.75])
    np.testing.assert_allclose(ErrorPenalty()([one]), [0.5])
    assert ErrorPenalty().needs == {"confidence"}
    assert np.isnan(ErrorPenalty()([trajectory([0.0])])[0])


def test_a_weighted_sum_adds_its_terms_and_needs_what_they_need() -> None:
    total = WeightedSum(((2.0, GoalDistance()), (10.0, ErrorPenalty()), (0.5, MotionPenalty())))
    one = trajectory([2.0, 3.0], travel=[[2.0], [4.0]], confidence=[0.5, 1.0])
    two = trajectory([1.0], travel=[[0.0]], confidence=[1.0])
    np.testing.assert_allclose(total([one, two]), [2 * 2 + 10 * 0.25 + 0.5 * 10, 0.0])
    np.testing.assert_allclose(total.per_frame(one), [2 * 1 + 10 * 0.5 + 0.5 * 4, 2 * 2 + 0 + 0.5 * 16])
    assert total.needs == {"goal", "confidence"}
    nested: Cost = WeightedSum(((1.0, total), (-1.0, total)))
    np.testing.assert_allclose(nested([one, two]), [0.0, 0.0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GoalDistance("l3"), "Got norm 'l3', expected one of l1, l2"),  # type: ignore[arg-type]
        (lambda: GoalDistance(when="first"), "Got when = 'first', expected one of last, nearest, all"),  # type: ignore[arg-type]
        (lambda: GoalDistance(growth=0.0), "Got growth 0.0"),
        (lambda: GoalDistance(growth=float("nan")), "Got growth nan"),
        (lambda: MotionPenalty(magnitude=-1.0), r"Got magnitude -1\.0"),
        (lambda: MotionPenalty(magnitude=0.0, jerk=0.0), "not both zero"),
        (lambda: MotionPenalty(jerk=float("inf")), "jerk inf"),
        (lambda: WeightedSum(()), "Got a sum of no costs"),
        (lambda: WeightedSum(((float("nan"), GoalDistance()),)), r"Got the weights \[nan\]"),
        (lambda: trajectory([]), "with T > 0"),
        (lambda: trajectory([1.0, 1.0], travel=np.zeros((1, 2))), "at least T"),
        (lambda: trajectory([1.0], confidence=[1.0, 1.0]), r"confidence \[2\]"),
        (lambda: trajectory([1.0], goal=np.zeros((2, 4, 3), np.float32)), r"Got a goal of latents \[2, 4, 3\], expected \[2, 3, 4\]"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
