# SPDX-License-Identifier: Apache-2.0
"""Messages: bytes and type hashes as ROS has them."""

from __future__ import annotations

import pytest

from longscape_ros.embedded.messages import library, message_class, serialize_message

String, Header, Image = (message_class(name) for name in ("std_msgs/msg/String", "std_msgs/msg/Header", "sensor_msgs/msg/Image"))
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


def test_a_value_that_the_type_cannot_carry_is_refused_when_it_is_sent():
    with pytest.raises(TypeError, match=r"Got a value that sensor_msgs/msg/Image cannot carry.*uint32 height"):
        serialize_message(Image(height=-1))
