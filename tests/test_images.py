# SPDX-License-Identifier: Apache-2.0
"""Images of every encoding become RGB; what cannot is refused with the reason; cv_bridge is used only where it works."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from longscape_ros import images
from longscape_ros.errors import InputError
from longscape_ros.images import ENCODINGS, converter, decoded, halvings, resize_rgb, rgb_of

COLOUR = (200, 100, 50)


def image(encoding: str, values: np.ndarray, big: bool = False, padding: int = 0) -> SimpleNamespace:
    """A message of values [H, W] or [H, W, C]."""
    rows = np.ascontiguousarray(values.astype(values.dtype.newbyteorder(">")) if big else values)
    packed = rows.reshape(len(rows), -1).view(np.uint8)
    padded = np.pad(packed, ((0, 0), (0, padding)), constant_values=7)
    return SimpleNamespace(
        height=values.shape[0], width=values.shape[1], encoding=encoding, is_bigendian=int(big), step=padded.shape[1], data=padded.tobytes()
    )


def picture(kind: str = "uint8") -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(kind).max, (6, 8, 3), kind, endpoint=True)


@pytest.fixture(autouse=True)
def chosen_anew() -> Iterator[None]:
    """The choice between cv_bridge and rosbags-image is a process's; here it is a test's."""
    converter.cache_clear()
    yield
    converter.cache_clear()


ORDERS = {"rgb": (0, 1, 2), "bgr": (2, 1, 0), "rgba": (0, 1, 2, 0), "bgra": (2, 1, 0, 0)}


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize("order", ORDERS)
def test_colours_of_eight_bits_are_kept_in_any_order(order, padding):
    rgb = picture()
    np.testing.assert_array_equal(rgb_of(image(f"{order}8", rgb[..., list(ORDERS[order])], padding=padding)), rgb)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ORDERS)
def test_colours_of_sixteen_bits_lose_their_lower_byte(order, big):
    rgb = picture("uint16")
    found = rgb_of(image(f"{order}16", rgb[..., list(ORDERS[order])], big, padding=2))
    np.testing.assert_allclose(found, rgb / 257, atol=1)


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_grey_images_become_rgb(kind):
    grey = picture(kind)[..., 0]
    found = rgb_of(image("mono8" if kind == "uint8" else "mono16", grey))
    np.testing.assert_allclose(found, np.repeat(grey[..., None], 3, axis=2) / (1 if kind == "uint8" else 257), atol=1)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_patterns_become_the_colour_that_they_were_made_of(pattern, bits):
    """The letters are the colours of the first two rows' first two pixels."""
    values = {letter: value * (257 if bits == 16 else 1) for letter, value in zip("rgb", COLOUR, strict=True)}
    tile = np.array([values[letter] for letter in pattern], f"uint{bits}").reshape(2, 2)
    found = rgb_of(image(f"bayer_{pattern}{bits}", np.tile(tile, (4, 5))))
    np.testing.assert_allclose(found, np.broadcast_to(COLOUR, (8, 10, 3)), atol=1)


@pytest.mark.parametrize(("encoding", "order"), [("uyvy", "uyvy"), ("yuv422", "uyvy"), ("yuyv", "yuyv"), ("yuv422_yuy2", "yuyv")])
def test_yuv_with_halved_colours_becomes_rgb_in_either_order(encoding, order):
    red, green, blue = COLOUR
    luma = 16 + (65.481 * red + 128.553 * green + 24.966 * blue) / 255  # ITU-R BT.601, video range
    values = {
        "y": luma,
        "u": 128 + (-37.797 * red - 74.203 * green + 112 * blue) / 255,
        "v": 128 + (112 * red - 93.786 * green - 18.214 * blue) / 255,
    }
    pair = np.round([values[letter] for letter in order]).astype(np.uint8)
    found = rgb_of(image(encoding, np.tile(pair, (4, 3)).reshape(4, 6, 2)))
    np.testing.assert_allclose(found, np.broadcast_to(COLOUR, (4, 6, 3)), atol=3)


def test_every_encoding_is_tested_above():
    colours = {f"{order}{bits}" for order in ORDERS for bits in (8, 16)} | {"mono8", "mono16"}
    bayer = {f"bayer_{pattern}{bits}" for pattern in ("rggb", "bggr", "gbrg", "grbg") for bits in (8, 16)}
    assert set(ENCODINGS) == colours | bayer | {"uyvy", "yuv422", "yuyv", "yuv422_yuy2"}


@pytest.mark.parametrize("encoding", ["8UC3", "32FC1", "16UC1", "nv21", "nv24", "h264", ""])
def test_an_encoding_that_does_not_say_how_to_see_it_is_refused_with_those_that_do(encoding):
    with pytest.raises(InputError, match=f"encoding '{encoding}', expected one of rgb8, bgr8"):
        rgb_of(image(encoding, picture()))


def test_an_image_that_opencv_cannot_convert_is_refused():
    with pytest.raises(InputError, match="5 x 4 yuv422 that cannot become rgb8"):
        rgb_of(image("yuv422", np.zeros((4, 5, 2), np.uint8)))


@pytest.mark.parametrize("extension", [".png", ".jpg", ".bmp", ".webp", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_compressed_images_are_read_in_colour_and_grey(extension, channels):
    rgb = np.full((16, 16, 3), COLOUR if channels == 3 else 90, np.uint8)
    _, data = cv2.imencode(extension, rgb[..., ::-1] if channels == 3 else rgb[..., 0])
    np.testing.assert_allclose(decoded(data, extension), rgb, atol=4)


def test_a_compressed_image_that_is_cut_off_is_refused():
    _, data = cv2.imencode(".png", picture())
    with pytest.raises(InputError, match="expected PNG or JPEG"):
        decoded(data[:20], "png")


# ---- JPEGs much larger than the model's images ----


def scene(height: int, width: int) -> np.ndarray:
    """Boxes and balls of all colours."""
    random = np.random.default_rng(0)
    rgb = np.full((height, width, 3), (120, 110, 100), np.uint8)
    for _ in range(60):
        corner, size = random.integers(0, (width, height)), random.integers(20, 300, 2)
        cv2.rectangle(rgb, corner.tolist(), (corner + size).tolist(), random.integers(0, 256, 3).tolist(), -1)
        centre, radius = random.integers(0, (width, height)), int(random.integers(10, 150))
        cv2.circle(rgb, centre.tolist(), radius, random.integers(0, 256, 3).tolist(), -1, cv2.LINE_AA)
    return rgb


def jpeg(rgb: np.ndarray, *options: int) -> np.ndarray:
    return cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95, *options])[1].reshape(-1)


@pytest.mark.parametrize(
    ("camera", "wanted", "read"),
    [
        ((1080, 1920), (64, 64), (270, 480)),
        ((720, 1280), (64, 64), (360, 640)),
        ((1080, 1920), (128, 128), (540, 960)),
        ((2160, 3840), (64, 64), (270, 480)),
        ((1200, 1600), (48, 64), (300, 400)),
        ((480, 640), (64, 64), (240, 320)),
        ((360, 640), (64, 64), (360, 640)),  # too few pixels would be left
        ((1082, 1923), (64, 64), (1082, 1923)),  # the cut would end within a pixel
    ],
)
def test_a_large_jpeg_is_read_at_a_part_of_its_size_and_looks_the_same_to_the_model(camera, wanted, read):
    data = jpeg(scene(*camera))
    small, whole = decoded(data, "jpeg", wanted), decoded(data, "jpeg")
    assert (small.shape, whole.shape) == ((*read, 3), (*camera, 3))
    difference = np.abs(resize_rgb(small, wanted).astype(int) - resize_rgb(whole, wanted))
    assert difference.mean() < 0.3
    assert np.percentile(difference, 99) <= 4
    assert difference.max() <= 16


def test_what_a_jpeg_says_before_its_size_does_not_matter():
    data = jpeg(scene(720, 1280), cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    comment = np.frombuffer(b"\xff\xfe\x01\x02" + bytes(256) + b"\xff", np.uint8)  # and a byte that fills
    longer = np.concatenate([data[:2], comment, data[2:]])
    assert decoded(longer, "jpeg", (64, 64)).shape == decoded(data, "jpeg", (64, 64)).shape == (360, 640, 3)


def test_only_jpegs_are_read_at_a_part_of_their_size():
    data = cv2.imencode(".png", scene(720, 1280))[1].reshape(-1)
    assert decoded(data, "png", (64, 64)).shape == (720, 1280, 3)


@pytest.mark.parametrize("length", [0, 1, 2, 3, 11, 200])
def test_a_jpeg_that_is_cut_off_in_its_header_is_refused(length):
    with pytest.raises(InputError, match="expected PNG or JPEG"):
        decoded(jpeg(scene(720, 1280))[:length], "jpeg", (64, 64))


# ---- cut and scaled ----


@pytest.mark.parametrize(("camera", "kept"), [((48, 64), (slice(0, 48), slice(8, 56))), ((64, 48), (slice(8, 56), slice(0, 48)))])
def test_the_model_sees_the_centre_of_an_image_in_its_own_aspect(camera, kept):
    rgb = np.zeros((*camera, 3), np.uint8)
    rgb[kept] = 255
    assert (resize_rgb(rgb, (16, 16)) == 255).all()


@pytest.mark.parametrize("camera", [(480, 640), (1080, 1920), (720, 1280), (1082, 1923), (360, 640)])
def test_a_large_image_is_halved_first_and_looks_the_same_to_the_model(camera):
    rgb = scene(*camera)
    side, left = camera[0], (camera[1] - camera[0]) // 2
    expected = cv2.resize(rgb[:, left : left + side], (64, 64), interpolation=cv2.INTER_AREA)
    difference = np.abs(resize_rgb(rgb, (64, 64)).astype(int) - expected)
    assert difference.mean() < 0.3
    assert np.percentile(difference, 99) <= 6
    assert difference.max() <= 16


@pytest.mark.parametrize(
    ("sides", "wanted", "count"),
    [
        ((480, 480), (64, 64), 1),
        ((1080, 1080), (64, 64), 2),
        ((384, 384), (64, 64), 1),
        ((382, 382), (64, 64), 0),
        ((481, 481), (64, 64), 0),
    ],
)
def test_an_image_is_halved_while_enough_whole_pixels_are_left(sides, wanted, count):
    assert halvings(sides, wanted) == count


def test_what_is_cut_off_is_not_seen():
    rgb = np.zeros((48, 64, 3), np.uint8)
    rgb[:, :8] = rgb[:, 56:] = 255
    assert not resize_rgb(rgb, (16, 16)).any()


def test_shrinking_averages_areas_and_enlarging_keeps_values():
    board = np.indices((32, 32)).sum(axis=0) % 2 * 255
    rgb = np.repeat(board[..., None], 3, axis=2).astype(np.uint8)
    assert set(np.unique(resize_rgb(rgb, (16, 16)))) <= {127, 128}
    assert (resize_rgb(np.full((8, 8, 3), 77, np.uint8), (16, 16)) == 77).all()


# ---- cv_bridge, which cannot be installed here: stand-ins for one that works and for those that do not ----

WORKS = """
import numpy as np
class CvBridge:
    def imgmsg_to_cv2(self, image, desired_encoding):
        assert (image.encoding, desired_encoding) == ("bgr8", "rgb8")
        pixels = np.frombuffer(image.data, np.uint8).reshape(image.height, image.step)[:, : 3 * image.width]
        found = pixels.reshape(image.height, image.width, 3)[..., ::-1]
        return found if image.width == 2 else np.full_like(found, 99)
"""
BROKEN = {
    "does not import": "raise ImportError('numpy.core.multiarray failed to import')",
    "ends the process": "import os\nos.kill(os.getpid(), 11)",
    "converts wrongly": "class CvBridge:\n    def imgmsg_to_cv2(self, image, encoding):\n        return 0",
}


@pytest.fixture
def cv_bridge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Installs a package cv_bridge of this text."""

    def install(text: str) -> None:
        (tmp_path / "cv_bridge.py").write_text(text, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.delitem(sys.modules, "cv_bridge", raising=False)

    yield install
    sys.modules.pop("cv_bridge", None)


def test_cv_bridge_converts_where_it_works(cv_bridge, caplog):
    caplog.set_level("INFO", images.__name__)
    cv_bridge(WORKS)
    assert (rgb_of(image("bgr8", picture())) == 99).all()
    assert "converted by cv_bridge" in caplog.text


@pytest.mark.parametrize("fault", BROKEN)
def test_rosbags_image_converts_where_cv_bridge_does_not_work_and_the_log_says_why(cv_bridge, caplog, fault):
    caplog.set_level("INFO", images.__name__)
    cv_bridge(BROKEN[fault])
    rgb = picture()
    for _ in range(2):
        np.testing.assert_array_equal(rgb_of(image("bgr8", rgb[..., ::-1])), rgb)
    assert caplog.text.count("rosbags-image; not by cv_bridge: it does not work beside NumPy") == 1
    assert "cv_bridge" not in sys.modules


def test_rgb8_needs_neither_of_them(cv_bridge):
    cv_bridge(BROKEN["ends the process"])
    rgb_of(image("rgb8", picture()))
    assert converter.cache_info().currsize == 0
