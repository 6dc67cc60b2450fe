# SPDX-License-Identifier: Apache-2.0
"""What is a surprise: the blur of the autoencoder and an edge that moves are none, a thing that is elsewhere is one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from longscape_ros.contract import NANOSECONDS, ActionDimension, ActionSpace, Chunk, EndReason, Prediction
from longscape_ros.runtime.surprise import (
    FLOOR,
    LEAST_STEPS,
    MOST_OTHERS,
    MOST_STEPS,
    PERSISTENCE_SHARE,
    TOLERANCE,
    Expectation,
    Expectations,
    State,
    compare,
    relative_errors,
    relative_image_error,
)

STEP = NANOSECONDS // 20
SPACE = ActionSpace(
    (
        ActionDimension("x", "m", "position", motion_range=0.4, scale=0.2),
        ActionDimension("gripper", kind="state", scale=0.5, midpoint=0.5, hysteresis=0.1, is_gripper=True),
    )
)


def scene(square: int = 10, edge: int = 40) -> np.ndarray[Any, Any]:
    """uint8 [64, 64, 3]: grey, with a white square of 4 pixels at column ``square`` and black from column ``edge`` on."""
    image = np.full((64, 64, 3), 120, np.uint8)
    image[:, edge:] = 0
    image[20:24, square : square + 4] = 255
    return image


def prediction(frames: Any, anchor: int = 0, shown: Any = None) -> Prediction:
    frames = np.asarray(frames, np.uint8)
    return Prediction(
        anchor_ns=anchor * STEP,
        fps=20.0,
        frames=frames,
        chunks=(Chunk(0, len(frames), len(frames), EndReason.MOTION),),
        experts=(0,),
        assumed_from=len(frames),
        confidence=np.full(len(frames), np.nan, np.float32),
        seed=0,
        model_id="toy",
        shown=shown,
    )


def still(steps: int = 20, **where: int) -> list[np.ndarray[Any, Any]]:
    return [scene(**where)] * steps


def expectation(frames: Any, step: int = 5, others: tuple[Any, ...] = (), seen: Any = None) -> Expectation:
    return Expectation(prediction(frames, shown=seen), step, np.zeros((len(frames) + 1, 2)), others)


# The measure


def test_what_was_predicted_exactly_is_no_surprise():
    assert relative_errors(expectation(still()), scene()).max() == 0


def test_a_small_thing_that_is_elsewhere_stands_out_at_its_old_and_its_new_place():
    errors = relative_errors(expectation(still()), scene(square=26))
    assert errors[20:24, 10:14].max() > 20
    assert errors[20:24, 26:30].max() > 20
    assert errors[40:].max() == 0


def test_an_edge_that_moves_may_be_off_by_as_much_as_it_moves():
    moving = [scene(edge=40 + k) for k in range(20)]
    off_by_one, still_edge = scene(edge=40 + 4 + 1), still(edge=44)
    expected, unexpected = (relative_errors(expectation(frames), off_by_one).max() for frames in (moving, still_edge))
    assert expected < 1.5
    assert unexpected > 5 * expected


def test_where_predictions_disagree_an_error_is_expected():
    agreeing, torn = (expectation(still(), others=(other,)) for other in (scene(), scene(square=26)))
    came = scene(square=26)
    assert relative_errors(torn, came).max() < 1.5 < relative_errors(agreeing, came).max()


def test_errors_are_in_units_of_the_floor_where_nothing_moves():
    errors = relative_errors(expectation([np.zeros((64, 64, 3), np.uint8)] * 20), np.full((64, 64, 3), 51, np.uint8))
    assert errors == pytest.approx(np.full((64, 64), 0.2 / FLOOR), rel=1e-5)


@pytest.mark.parametrize("step", [1, 20])
def test_the_first_and_the_last_step_have_one_neighbour(step):
    assert relative_errors(expectation(still(), step), scene()).max() == 0


def test_patches_grow_with_the_image():
    small, large = (np.zeros((size, size, 3), np.uint8) for size in (64, 128))
    small[10, 10], large[20:22, 20:22] = 255, 255
    one = relative_errors(expectation([np.zeros_like(small)] * 8), small)
    two = relative_errors(expectation([np.zeros_like(large)] * 8), large)
    assert (one > 0).sum() == 25
    assert 64 < (two > 0).sum() <= 144


def test_a_thing_that_stands_still_while_it_is_predicted_to_move_is_worse_than_no_prediction():
    moving = expectation([scene(edge=40 + k) for k in range(1, 21)], seen=scene())
    held, moved, halfway = (relative_image_error(moving, scene(edge=40 + k)) for k in (0, 5, 3))
    assert moved == 0
    assert halfway < 2
    assert held > 4


def test_what_moved_as_a_whole_is_measured_by_how_much_it_moved():
    assert relative_image_error(expectation(still(), seen=scene()), scene(edge=20)) == pytest.approx(1 / PERSISTENCE_SHARE, rel=0.05)
    assert relative_image_error(expectation(still(), seen=scene()), scene(edge=41)) < 1 / PERSISTENCE_SHARE


def test_without_the_image_that_a_prediction_was_made_from_only_patches_count():
    assert relative_image_error(expectation(still()), scene(edge=20)) == 0


# What is compared


def test_the_newest_prediction_that_is_old_enough_is_taken_and_older_ones_tell_how_sure_it_is():
    expectations = Expectations()
    for anchor in range(10):
        expectations.add(prediction(np.full((20, 64, 64, 3), anchor), anchor), np.zeros((21, 2)))
    found = expectations.find(9 * STEP)
    assert found is not None
    assert (found.prediction.anchor_ns, found.step) == ((9 - LEAST_STEPS) * STEP, LEAST_STEPS)
    assert [int(other[0, 0, 0]) for other in found.others] == [4, 3, 2]
    assert len(found.others) == MOST_OTHERS
    assert found.frame[0, 0, 0] == 9 - LEAST_STEPS


@pytest.mark.parametrize("steps", [LEAST_STEPS - 1, MOST_STEPS + 1, LEAST_STEPS + 0.4, -2])
def test_other_moments_have_nothing_to_be_compared_with(steps):
    expectations = Expectations()
    expectations.add(prediction(still()), np.zeros((21, 2)))
    assert expectations.find(round(steps * STEP)) is None
    assert expectations.find(round((LEAST_STEPS + 0.1) * STEP)) is not None
    expectations.forget()
    assert expectations.find(LEAST_STEPS * STEP) is None


@pytest.mark.parametrize(
    ("step", "column", "by", "holds"),
    [(3, 0, 0.9, True), (3, 0, 1.1, False), (5, 0, -1.1, False), (6, 0, 100.0, True), (2, 1, 1.1, False)],
)
def test_commands_may_differ_from_the_assumed_ones_by_a_share_of_their_scale_up_to_the_image(step, column, by, holds):
    executed = np.zeros((9, 2))
    executed[step, column] = by * TOLERANCE * SPACE.dimensions[column].scale
    assert expectation(still(), step=5).holds(executed, SPACE) == holds


def test_a_comparison_says_how_far_where_and_whether_that_is_a_surprise():
    image = prediction(still(), anchor=5, shown=scene(square=26))
    before = compare(expectation(still()), image, True, 9.0)
    for threshold, state in ((before.error - 1, State.SURPRISED), (before.error + 1, State.EXPECTED)):
        found = compare(expectation(still()), image, True, threshold, before)
        assert (found.state, found.stamp_ns, found.anchor_ns, found.model_id) == (state, 5 * STEP, 0, "toy")
        x, y = found.place
        assert 18 <= y <= 26
        assert 8 <= x <= 16 or 24 <= x <= 32


def test_the_worst_patch_and_the_whole_image_count_whichever_is_more():
    seen, came = scene(), prediction(still(), anchor=5, shown=scene())
    moving = [scene(edge=40 + k) for k in range(20)]
    parts = [compare(expectation(moving, seen=before), came, True, 9.0).error for before in (None, seen)]
    assert parts[0] == pytest.approx(float(relative_errors(expectation(moving), scene()).max()))
    assert parts[1] == pytest.approx(max(parts[0], relative_image_error(expectation(moving, seen=seen), scene())))
    assert parts[1] > parts[0]


def test_a_single_image_is_no_surprise():
    calm, odd = (prediction(still(), anchor=5, shown=scene(square=at)) for at in (10, 26))
    first = compare(expectation(still()), calm, True, 9.0)
    second = compare(expectation(still()), odd, True, 9.0, first)
    third = compare(expectation(still()), odd, True, 9.0, second)
    assert [found.state for found in (first, second, third)] == [State.EXPECTED, State.EXPECTED, State.SURPRISED]
    unknown = compare(expectation(still()), odd, False, 9.0, third)
    assert compare(expectation(still()), odd, True, 9.0, unknown).state is State.EXPECTED


def test_what_is_not_comparable_is_no_alarm_however_far_off_it_is():
    found = compare(expectation(still()), prediction(still(), anchor=5, shown=scene(square=26)), False, 9.0)
    assert (found.state, found.errors, found.place) == (State.NOT_COMPARABLE, None, (0, 0))
    assert np.isnan(found.error)
