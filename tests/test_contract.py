# SPDX-License-Identifier: Apache-2.0
"""What the types that cross borders refuse, and what they compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import longscape_ros
from longscape_ros.contract import (
    NANOSECONDS,
    ActionDimension,
    ActionSource,
    ActionSpace,
    Chunk,
    ChunkRule,
    EndReason,
    Frame,
    Plan,
    Prediction,
    Snapshot,
    Status,
    TopicMapping,
)
from longscape_ros.errors import InputError, LongscapeError

RGB = np.zeros((4, 6, 3), dtype=np.uint8)
POSE = ActionSource("/arm", "trajectory_msgs/msg/JointTrajectory", {"x": "joint_1"})


@pytest.mark.parametrize("rgb", [RGB.astype(np.float32), RGB[..., 0], np.zeros((4, 6, 4), dtype=np.uint8)])
def test_a_frame_is_rgb_of_bytes(rgb):
    with pytest.raises(InputError, match=r"expected uint8 \[H, W, 3\]"):
        Frame(0, rgb)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"kind": "torque"}, "Got kind 'torque'"),
        ({"scale": 0.0}, "Got scale = 0.0"),
        ({"scale": np.nan}, "Got scale = nan"),
        ({"motion_range": -1.0}, "Got motion_range = -1.0"),
        ({"is_gripper": True}, "only a 'state' can flip"),
    ],
)
def test_an_action_dimension_that_makes_no_sense_is_refused(options, text):
    with pytest.raises(InputError, match=text):
        ActionDimension("x", **options)


def test_only_states_do_not_move():
    assert ActionDimension("x", kind="delta").moves
    assert not ActionDimension("gripper", kind="state").moves


def test_an_action_space_has_dimensions_each_named_once():
    assert ActionSpace((ActionDimension("x"), ActionDimension("y"))).names == ("x", "y")
    with pytest.raises(InputError, match="without dimensions"):
        ActionSpace(())
    with pytest.raises(InputError, match="each name once"):
        ActionSpace((ActionDimension("x"), ActionDimension("x")))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0, (8,)), "multiples of the base window 0"),
        ((8, ()), "multiples"),
        ((8, (8, 12)), "multiples"),
        ((8, (16, 8)), "increasing"),
        ((8, (8, 8)), "increasing"),
        ((8, (8,), 0.0), "Got threshold 0.0"),
        ((8, (8,), float("nan")), "Got threshold nan"),
    ],
)
def test_a_chunk_rule_that_makes_no_sense_is_refused(arguments, text):
    with pytest.raises(InputError, match=text):
        ChunkRule(*arguments)


def test_a_mapping_carries_each_dimension_once():
    with pytest.raises(InputError, match=r"carry \['x'\], but the dimensions are \['x', 'y'\]"):
        TopicMapping("/image", (POSE,), (ActionDimension("x"), ActionDimension("y")), 20.0)
    with pytest.raises(InputError, match="Got fps = 0"):
        TopicMapping("/image", (POSE,), (ActionDimension("x"),), 0)


@pytest.mark.parametrize(
    ("times", "values", "options", "text"),
    [
        ([], np.zeros((0, 1)), {}, "without points"),
        ([0, 1], np.zeros((1, 1)), {}, r"Got values of shape \(1, 1\)"),
        ([0], [[np.nan]], {}, "Got values with NaN or infinity"),
        ([0], [[0.0]], {"velocities": np.array([[np.inf]])}, "Got velocities with NaN or infinity"),
        ([0], [[0.0]], {"accelerations": np.zeros((1, 2))}, "Got accelerations of shape"),
        ([1, 0], [[0.0], [0.0]], {}, "decrease or are negative"),
        ([-1, 0], [[0.0], [0.0]], {}, "decrease or are negative"),
    ],
)
def test_a_plan_that_cannot_be_executed_is_refused(times, values, options, text):
    with pytest.raises(InputError, match=text):
        Plan(0, 0, ("x",), np.array(times, dtype=np.int64), np.asarray(values, dtype=np.float64), **options)


@pytest.mark.parametrize("arguments", [(-1, 8, 8), (0, 8, 0), (0, 8, 9)])
def test_a_chunk_has_steps_that_fit_into_it(arguments):
    with pytest.raises(InputError, match="Got a chunk with start"):
        Chunk(*arguments, EndReason.MOTION)


def test_a_snapshot_has_a_future():
    context = np.zeros((3, 4, 6, 3), dtype=np.uint8)
    assert Snapshot(0, context, np.zeros((8, 2)), 5).steps == 5
    with pytest.raises(InputError, match=r"Got motion of shape \(3, 2\) for 3 context frames"):
        Snapshot(0, context, np.zeros((3, 2)), 0)
    with pytest.raises(InputError, match="Got context of"):
        Snapshot(0, context[0], np.zeros((8, 2)), 5)


def test_predicted_frames_are_stamped_without_accumulating_rounding():
    frames = np.zeros((30, 4, 6, 3), dtype=np.uint8)
    prediction = Prediction(7 * NANOSECONDS, 15.0, frames, (), (), 30, np.full(30, np.nan, dtype=np.float32), 0, "model")
    stamps = prediction.stamps_ns()
    assert stamps[0] == 7 * NANOSECONDS + 66_666_667
    assert stamps[29] == 9 * NANOSECONDS


def test_the_numbers_of_reasons_and_states_are_those_of_the_message():
    text = (Path(longscape_ros.__file__).parent / "interfaces" / "msg" / "PredictedVideo.msg").read_text(encoding="utf-8")
    constants = dict(line.split()[1].split("=") for line in text.splitlines() if line.startswith("uint8 ") and "=" in line)
    assert {f"REASON_{reason.name}": str(reason.value) for reason in EndReason}.items() <= constants.items()
    assert {f"STATUS_{status.name}": str(status.value) for status in Status}.items() <= constants.items()
    assert len(constants) == len(EndReason) + len(Status)


def test_every_fault_of_the_package_can_be_caught_at_once():
    assert issubclass(InputError, LongscapeError)
    assert issubclass(InputError, ValueError)
