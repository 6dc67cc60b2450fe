# SPDX-License-Identifier: Apache-2.0
"""Cameras as they are written, and the images that they send."""

from __future__ import annotations

import numpy as np
import pytest

from longscape_ros.bags.writer import bag_types
from longscape_ros.bench.stream import CAMERAS, Stream
from longscape_ros.errors import InputError
from longscape_ros.messages import COMPRESSED_IMAGE, IMAGE, frame_from_message

PICTURE = np.broadcast_to(np.linspace((20, 60, 200), (220, 180, 40), 16), (12, 16, 3)).astype(np.uint8)


def test_a_camera_is_read_as_it_is_written() -> None:
    for camera in (*CAMERAS, Stream("yuv422_yuy2", 320, 240, 7.5)):
        assert Stream.of(str(camera)) == camera
    assert str(CAMERAS[0]) == "rgb8:640x480@30"
    assert CAMERAS[1].name == "jpeg_1920x1080_30hz"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("rgb8", "expected ENCODING:WIDTHxHEIGHT@RATE"),
        ("rgb8:640x480", "expected ENCODING:WIDTHxHEIGHT@RATE"),
        ("nv12:640x480@30", "Got a camera's encoding 'nv12', expected one of rgb8, bgr8"),
        ("rgb8:641x480@30", "Got a camera of 641 x 480 pixels at 30 Hz, expected even numbers"),
        ("rgb8:640x0@30", "Got a camera of 640 x 0 pixels"),
        ("rgb8:640x480@0", "at 0 Hz, expected"),
    ],
)
def test_a_camera_that_there_is_not_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        Stream.of(text)


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "yuv422_yuy2", "bayer_rggb8", "jpeg", "png"])
def test_every_encoding_shows_the_picture(encoding: str) -> None:
    camera = Stream(encoding, 160, 120, 30)
    message = camera.message(PICTURE, bag_types())
    assert camera.type_name == (COMPRESSED_IMAGE if encoding in ("jpeg", "png") else IMAGE)
    found = frame_from_message(message, camera.type_name, 1, image_size=PICTURE.shape[:2])
    assert np.abs(found.rgb.astype(int) - PICTURE)[:, 1:-1].max() <= 6
    assert frame_from_message(message, camera.type_name, 1).rgb.shape == (120, 160, 3)


def test_an_image_has_the_noise_of_a_sensor() -> None:
    message = Stream("rgb8", 64, 48, 30).message(np.full((12, 16, 3), 100, np.uint8), bag_types())
    assert 1.8 < np.std(message.data) < 2.2
