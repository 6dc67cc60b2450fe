# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from support.plain_graphs import session_of

from longscape_ros.errors import BackendError, InputError
from longscape_ros.images import resize_rgb
from longscape_ros.runtime.preprocess import ENCODINGS, preprocessing
from longscape_ros.runtime.tensorrt import RTX, load_tensorrt

CAMERAS = [(480, 640), (1080, 1920), (64, 64), (48, 64), (240, 320), (128, 128), (97, 65), (30, 200), (65, 64), (64, 63), (7, 5), (1, 1)]


def photo(height: int, width: int) -> Any:
    """Smooth shades, sharp edges, fine texture and noise, RGB."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    image = np.stack([255 * x, 255 * (1 - y), 127 + 127 * np.sin(60 * x * y)], axis=2)
    image[height // 3 : height // 2, width // 4 : width // 2] = (250, 20, 60)
    image += np.random.default_rng(0).normal(0, 20, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def run(camera: tuple[int, int], encoding: str, image_size: tuple[int, int], image: Any) -> Any:
    return session_of(preprocessing(camera, encoding, image_size)).run(["rgb"], {"image": image})[0]


def test_the_pictures_are_hard_enough_to_tell_other_filters_apart() -> None:
    image = photo(480, 640)
    for other in (cv2.INTER_LINEAR, cv2.INTER_NEAREST, cv2.INTER_CUBIC):
        differing = cv2.resize(image[:, 80:560], (64, 64), interpolation=other).astype(int) - resize_rgb(image, (64, 64))
        assert np.abs(differing).max() > 20


@pytest.mark.parametrize("image_size", [(64, 64), (128, 128), (48, 96)])
@pytest.mark.parametrize("camera", CAMERAS)
def test_pixels_are_those_of_the_cpu_but_for_rounding(camera: tuple[int, int], image_size: tuple[int, int]) -> None:
    image = photo(*camera)
    found, expected = run(camera, "rgb8", image_size, image), resize_rgb(image, image_size)
    assert found.dtype == np.uint8
    assert found.shape == expected.shape == (*image_size, 3)
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= 1
    assert difference.mean() < 0.3  # OpenCV rounds a half up, after each time it halves an image


@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
@pytest.mark.parametrize("image_size", [(32, 32), (48, 64)])
def test_colours_come_out_in_their_order(encoding: str, image_size: tuple[int, int]) -> None:
    image = photo(48, 64)
    codes = {"bgr8": cv2.COLOR_RGB2BGR, "rgba8": cv2.COLOR_RGB2RGBA, "bgra8": cv2.COLOR_RGB2BGRA}
    given, expected = image, image
    if encoding == "mono8":
        given = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
        expected = np.repeat(given, 3, axis=2)
    elif encoding in codes:
        given = cv2.cvtColor(image, codes[encoding])
    found = run((48, 64), encoding, image_size, given)
    assert np.abs(found.astype(int) - resize_rgb(np.ascontiguousarray(expected), image_size)).max() <= 1


def test_an_image_of_the_models_size_is_left_alone() -> None:
    image = photo(64, 64)
    assert np.array_equal(run((64, 64), "rgb8", (64, 64), image), image)


def test_black_and_white_stay_what_they_are() -> None:
    for level in (0, 255):
        image = np.full((481, 639, 3), level, np.uint8)
        assert (run((481, 639), "rgb8", (64, 64), image) == level).all()


def test_what_cannot_be_done_is_refused_with_what_can() -> None:
    with pytest.raises(InputError, match=r"'yuyv', expected one of rgb8, bgr8"):
        preprocessing((480, 640), "yuyv", (64, 64))
    with pytest.raises(InputError, match="expected positive"):
        preprocessing((480, 0), "rgb8", (64, 64))


@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
def test_tensorrt_takes_the_graph(encoding: str) -> None:
    try:
        trt = load_tensorrt(RTX).module
    except BackendError as error:
        pytest.skip(str(error))
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    assert parser.parse(preprocessing((480, 640), encoding, (64, 64))), parser.get_error(0).desc()
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    assert builder.build_serialized_network(network, config) is not None
