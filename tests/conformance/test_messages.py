# SPDX-License-Identifier: Apache-2.0
"""Messages: their fields, and their way through bytes."""

from __future__ import annotations

import numpy as np
import pytest
from geometry_msgs.msg import Quaternion
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image, PointField
from std_msgs.msg import Header, String
from support.ros import DOOR, PATIENCE_S
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from longscape_msgs.msg import PredictedVideo


def test_every_field_starts_as_its_definition_says():
    assert Quaternion() == Quaternion(x=0.0, y=0.0, z=0.0, w=1.0)
    image = Image()
    assert (image.height, image.encoding, image.data.typecode, len(image.data), image.header.stamp.sec) == (0, "", "B", 0, 0)


def test_constants_stand_on_the_class():
    assert (PointField.INT8, PointField.FLOAT64) == (1, 8)


@pytest.mark.parametrize("data", [[1, 2, 3], bytes([1, 2, 3]), bytearray([1, 2, 3]), np.array([1, 2, 3], np.uint8)])
def test_sequences_of_numbers_take_whatever_holds_numbers(data):
    image = Image(data=data)
    assert list(image.data) == [1, 2, 3]
    assert type(image.data).__name__ == "array"


def test_an_image_keeps_its_pixels_on_the_way_through_bytes():
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    image = Image(height=48, width=64, encoding="rgb8", step=192, data=pixels.ravel())
    image.header.frame_id = "camera"
    again = deserialize_message(serialize_message(image), Image)
    assert again == image
    assert np.array_equal(np.asarray(again.data).reshape(pixels.shape), pixels)


def test_nested_lists_keep_their_messages():
    point = JointTrajectoryPoint(positions=[0.5, -1.0])
    trajectory = JointTrajectory(joint_names=["a", "b"], points=[point, point])
    again = deserialize_message(serialize_message(trajectory), type(trajectory))
    assert [list(entry.positions) for entry in again.points] == [[0.5, -1.0]] * 2


def test_messages_print_as_rclpy_prints_them():
    assert repr(Header(frame_id="map")) == "std_msgs.msg.Header(stamp=builtin_interfaces.msg.Time(sec=0, nanosec=0), frame_id='map')"


def test_field_types_are_named_as_in_idl():
    types = Image.get_fields_and_field_types()
    assert (types["header"], types["data"], types["is_bigendian"]) == ("std_msgs/Header", "sequence<uint8>", "uint8")


def test_the_packages_own_messages_have_their_constants_and_fields():
    assert (PredictedVideo.STATUS_STALE_INPUT, PredictedVideo.REASON_GRIPPER) == (2, 1)
    message = PredictedVideo(model_id="m", confidence=[0.5], frames=[CompressedImage(data=b"png")])
    assert deserialize_message(serialize_message(message), PredictedVideo) == message


def test_messages_are_equal_if_their_types_and_fields_are():
    assert String(data="a") == String(data="a")
    assert String(data="a") != String(data="b")
    assert Header() != String()


def test_fields_are_checked_at_once_where_the_environment_asks_for_it(start):
    script = f"""{DOOR}
from sensor_msgs.msg import Image
for fields in ({{"height": -1}}, {{"nope": 1}}, {{"height": 3}}):
    try:
        print(Image(**fields).height)
    except AssertionError as fault:
        print(type(fault).__name__)
"""
    checked = start(script, ROS_PYTHON_CHECK_FIELDS="1").communicate(timeout=PATIENCE_S)
    assert checked == ("AssertionError\nAssertionError\n3\n", "")
    assert start(script).communicate(timeout=PATIENCE_S) == ("-1\n0\n3\n", "")
