# SPDX-License-Identifier: Apache-2.0
"""Features of actions, and the calibration of an action space."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from longscape_ros.actions import calibrate_space, encode_actions, feature_count
from longscape_ros.contract import ActionDimension, ActionSpace
from longscape_ros.errors import InputError

X = ActionDimension("x", "m", scale=0.5)
TURN = ActionDimension("turn", "rad/s", "velocity", scale=2.0)
GRIPPER = ActionDimension("gripper", "1", "state", midpoint=0.5, scale=0.5, is_gripper=True)
SPACE = ActionSpace((X, GRIPPER, TURN))


def test_a_moving_dimension_has_two_features_and_a_state_one():
    assert feature_count(SPACE) == 5
    assert feature_count(ActionSpace((GRIPPER,))) == 1


def test_features_are_motion_from_the_origin_step_motion_and_state():
    motion = np.array([[1.0, 0.0, 0.0], [1.5, 1.0, 4.0], [1.25, 0.5, 4.0]])
    features = encode_actions(motion, 1, SPACE)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, [[-1, 0, -1, -2, 0], [0, 8, 1, 0, 16], [-0.5, -4, 0, 0, 0]])


def test_an_offset_of_a_moving_dimension_changes_no_feature():
    motion = np.random.default_rng(0).normal(size=(12, 3))
    np.testing.assert_allclose(encode_actions(motion, 3, SPACE), encode_actions(motion + np.array([5.0, 0.0, -2.0]), 3, SPACE), atol=1e-5)


@pytest.mark.parametrize("origin", [0, 3])
def test_many_sequences_at_once_have_the_features_of_each(origin):
    motion = np.random.default_rng(0).normal(size=(2, 5, 12, 3))
    together = encode_actions(motion, origin, SPACE)
    assert together.shape == (2, 5, 12, 5)
    assert together.dtype == np.float32
    for i, sequences in enumerate(motion):
        for j, one in enumerate(sequences):
            np.testing.assert_array_equal(together[i, j], encode_actions(one, origin, SPACE))


@pytest.mark.parametrize("shape", [(4, 2), (4,), (2, 4, 2)])
def test_motion_that_does_not_fit_the_space_is_refused(shape):
    with pytest.raises(InputError, match=r"Got motion of shape .* expected \[R, 3\]"):
        encode_actions(np.zeros(shape), 0, SPACE)


def test_an_origin_outside_the_rows_is_refused():
    with pytest.raises(InputError, match="Got origin 4 for motion of 4 rows"):
        encode_actions(np.zeros((4, 3)), 4, SPACE)


def test_calibration_measures_ranges_and_scales_of_moving_dimensions():
    ramps = [np.linspace(0, top, 101)[:, np.newaxis] for top in (1.0, 2.0, 10.0)]  # 0.01, 0.02, 0.1 per step
    (d,) = calibrate_space([X], ramps, 10).dimensions
    assert (d.name, d.unit, d.kind) == ("x", "m", "position")
    assert d.motion_range == pytest.approx(2.0)  # the median episode
    assert d.scale == pytest.approx(1.0)  # the fastest third decides the 95th percentile


def test_calibration_ignores_episodes_in_which_the_dimension_rests():
    moving = np.linspace(0, 3, 50)[:, np.newaxis]
    (d,) = calibrate_space([X], [moving, np.zeros((50, 1)), np.zeros((50, 1))], 8).dimensions
    assert d.motion_range == pytest.approx(3.0)


def test_calibration_finds_the_ends_of_a_state_whatever_they_are():
    closing = np.repeat([-1.0, 1.0, -1.0], 40)[:, np.newaxis]
    (d,) = calibrate_space([GRIPPER], [closing], 8).dimensions
    assert (d.midpoint, d.scale, d.hysteresis, d.is_gripper) == (0.0, 1.0, pytest.approx(0.2), True)


def test_calibration_finds_ends_that_are_rarer_than_the_percentiles():
    rare = np.zeros((1000, 1))
    rare[7] = 1.0
    (d,) = calibrate_space([GRIPPER], [rare], 8).dimensions
    assert (d.midpoint, d.scale) == (0.5, 0.5)


def test_dimensions_that_never_change_stay_neutral_and_are_warned_about(caplog):
    with caplog.at_level(logging.WARNING):
        space = calibrate_space([X, GRIPPER], [np.full((20, 2), 0.7)], 8)
    x, gripper = space.dimensions
    assert (x.motion_range, x.scale) == (1.0, 1.0)
    assert (gripper.midpoint, gripper.scale) == (pytest.approx(0.7), 1.0)
    assert "'x' never moves" in caplog.text
    assert "'gripper' never changes" in caplog.text


def test_episodes_shorter_than_a_chunk_still_calibrate():
    (d,) = calibrate_space([X], [np.linspace(0, 1, 5)[:, np.newaxis]], 32).dimensions
    assert d.scale == pytest.approx(1.0)


@pytest.mark.parametrize("episodes", [[], [np.zeros((0, 1))]])
def test_calibration_without_motion_is_refused(episodes):
    with pytest.raises(InputError, match="Got no motion to calibrate"):
        calibrate_space([X], episodes, 8)
