# SPDX-License-Identifier: Apache-2.0
"""Messages: fields as rclpy has them, bytes and type hashes as ROS has them."""

from __future__ import annotations

import numpy as np
import pytest

from longscape_ros.embedded.install import INTERFACES
from longscape_ros.embedded.messages import deserialize_message, library, message_class, serialize_message

String, Header, Quaternion, Image, PointField = (
    message_class(name)
    for name in (
        "std_msgs/msg/String",
        "std_msgs/msg/Header",
        "geometry_msgs/msg/Quaternion",
        "sensor_msgs/msg/Image",
        "sensor_msgs/msg/PointField",
    )
)
LITTLE_ENDIAN = bytes([0, 1, 0, 0])


def test_a_string_is_its_length_with_the_closing_zero_and_its_bytes():
    assert serialize_message(String(data="hi")) == LITTLE_ENDIAN + bytes([3, 0, 0, 0]) + b"hi\0"


def test_a_header_is_stamp_and_frame():
    header = Header(frame_id="map")
    header.stamp.sec, header.stamp.nanosec = 1, 2
    assert serialize_message(header) == LITTLE_ENDIAN + bytes([1, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0]) + b"map\0"


def test_doubles_are_aligned_behind_the_encapsulation_header():
    message = message_class("std_msgs/msg/Float64MultiArray")(data=[1.0])
    expected = LITTLE_ENDIAN + bytes([0, 0, 0, 0]) + bytes([0, 0, 0, 0]) + bytes([1, 0, 0, 0]) + bytes(4) + b"\0\0\0\0\0\0\xf0\x3f"
    assert serialize_message(message) == expected


def test_the_type_hash_of_a_string_is_the_one_of_ros():
    assert library().type_hash("std_msgs/msg/String") == "RIHS01_df668c740482bbd48fb39d76a70dfd4bd59db1288021743503259e948f6b1a18"


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
    point = message_class("trajectory_msgs/msg/JointTrajectoryPoint")(positions=[0.5, -1.0])
    trajectory = message_class("trajectory_msgs/msg/JointTrajectory")(joint_names=["a", "b"], points=[point, point])
    again = deserialize_message(serialize_message(trajectory), type(trajectory))
    assert [list(entry.positions) for entry in again.points] == [[0.5, -1.0]] * 2


def test_the_packages_own_messages_are_read_from_their_definitions():
    assert library().add_folder(INTERFACES) == "longscape_msgs"
    video = message_class("longscape_msgs/msg/PredictedVideo")
    assert (video.STATUS_STALE_INPUT, video.REASON_GRIPPER) == (2, 1)
    message = video(model_id="m", confidence=[0.5], frames=[message_class("sensor_msgs/msg/CompressedImage")(data=b"png")])
    assert deserialize_message(serialize_message(message), video) == message


def test_a_value_that_the_type_cannot_carry_is_refused_when_it_is_sent():
    with pytest.raises(TypeError, match=r"Got a value that sensor_msgs/msg/Image cannot carry.*uint32 height"):
        serialize_message(Image(height=-1))


def test_fields_are_checked_at_once_where_the_environment_asks_for_it(monkeypatch):
    monkeypatch.setenv("ROS_PYTHON_CHECK_FIELDS", "1")
    with pytest.raises(AssertionError, match="The 'height' field must be of type 'uint32'"):
        Image(height=-1)
    with pytest.raises(AssertionError, match="Invalid arguments passed to constructor: nope"):
        Image(nope=1)


def test_messages_print_as_rclpy_prints_them():
    assert repr(Header(frame_id="map")) == "std_msgs.msg.Header(stamp=builtin_interfaces.msg.Time(sec=0, nanosec=0), frame_id='map')"


def test_field_types_are_named_as_in_idl():
    types = Image.get_fields_and_field_types()
    assert (types["header"], types["data"], types["is_bigendian"]) == ("std_msgs/Header", "sequence<uint8>", "uint8")
