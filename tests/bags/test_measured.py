# SPDX-License-Identifier: Apache-2.0
"""Measured positions at the times of images."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from longscape_ros.bags.measured import interpolated, read_frames, read_measured
from longscape_ros.bags.writer import BagWriter, bag_types
from longscape_ros.contract import NANOSECONDS, ActionDimension, ActionSource, TopicMapping
from longscape_ros.errors import BagError
from longscape_ros.messages import image_message, time_message

TYPES = bag_types()
JOINTS = "sensor_msgs/msg/JointState"
MILLISECOND = NANOSECONDS // 1000
START_NS = 1_700_000_000 * NANOSECONDS
MAPPING = TopicMapping(
    image_topic="/camera",
    action_sources=(ActionSource("/gripper", "std_msgs/msg/Float64", {"gripper": "data"}, stamp="receive"),),
    dimensions=(ActionDimension("gripper", kind="state", is_gripper=True),),
    fps=10.0,
    image_latency_ns=5 * MILLISECOND,
)


def joint_state(stamp_ns, **positions):
    header = TYPES("std_msgs/msg/Header")(stamp=time_message(stamp_ns, TYPES), frame_id="")
    empty = np.array([])
    return TYPES(JOINTS)(
        header=header, name=list(positions), position=np.array(list(positions.values()), float), velocity=empty, effort=empty
    )


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    """Ten measurements 100 ms apart: x goes at 1 m/s, y stays; those of another device in between; an image with each."""
    path = tmp_path_factory.mktemp("bags") / "measured"
    with BagWriter(path) as writer:
        for k in range(10):
            stamp = START_NS + 100 * k * MILLISECOND
            writer.write("/joint_states", JOINTS, stamp + MILLISECOND, joint_state(stamp, z=9.0, y=0.5, x=0.1 * k))
            writer.write("/joint_states", JOINTS, stamp + 2 * MILLISECOND, joint_state(stamp + 2 * MILLISECOND, wheel=float(k)))
            image = np.full((8, 8, 3), 10 * k, np.uint8)
            writer.write("/camera", "sensor_msgs/msg/Image", stamp + 3 * MILLISECOND, image_message(image, stamp, "lens", TYPES))
            writer.write("/gripper", "std_msgs/msg/Float64", stamp, TYPES("std_msgs/msg/Float64")(data=0.0))
    return path


def test_positions_are_interpolated_at_the_images_times(bag):
    times = START_NS + np.array([0, 100, 150, 230, 900]) * MILLISECOND
    measured = read_measured(bag, ("x", "y"), "/joint_states", times)
    np.testing.assert_allclose(measured, [[0, 0.5], [0.1, 0.5], [0.15, 0.5], [0.23, 0.5], [0.9, 0.5]], atol=1e-9)


def test_what_lies_far_outside_of_the_measurements_is_unknown(bag):
    times = START_NS + np.array([-300, -100, 1000, 1200]) * MILLISECOND
    measured = read_measured(bag, ("x",), "/joint_states", times)[:, 0]
    assert np.isnan(measured).tolist() == [True, False, False, True]
    assert measured[1:3].tolist() == pytest.approx([0, 0.9])  # held at the ends


def test_a_gap_in_the_measurements_is_unknown():
    stamps = np.array([0, 100, 1000]) * MILLISECOND
    found = interpolated(stamps, np.array([[0.0], [1.0], [2.0]]), np.array([50, 100, 500, 1000]) * MILLISECOND)
    assert np.isnan(found[:, 0]).tolist() == [False, False, True, False]


def test_measurements_out_of_order_are_sorted():
    stamps = np.array([100, 0]) * MILLISECOND
    assert interpolated(stamps, np.array([[1.0], [0.0]]), np.array([25 * MILLISECOND])).tolist() == [[0.25]]


def test_a_topic_or_a_name_that_is_not_there_is_refused_with_those_that_are(bag):
    times = np.array([START_NS])
    with pytest.raises(BagError, match=r"found the topics of sensor_msgs/msg/JointState \['/joint_states'\], expected /arm"):
        read_measured(bag, ("x",), "/arm", times)
    with pytest.raises(BagError, match=r"found the names \['wheel', 'x', 'y', 'z'\] on /joint_states, expected \['x', 'q'\]"):
        read_measured(bag, ("x", "q"), "/joint_states", times)


def test_one_image_of_so_many_is_read_with_the_time_it_was_seen(bag):
    stamps, rgb = read_frames(bag, MAPPING, (4, 4), every=4)
    assert ((stamps - START_NS) / MILLISECOND).tolist() == [-5, 395, 795]
    assert rgb.shape == (3, 4, 4, 3)
    assert rgb[:, 0, 0, 0].tolist() == [0, 40, 80]


def test_images_are_read_without_a_word(bag, caplog):
    with caplog.at_level(logging.WARNING):
        read_frames(bag, MAPPING, (4, 4))
    assert not caplog.records
