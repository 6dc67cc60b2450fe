# SPDX-License-Identifier: Apache-2.0
"""The pixels of sensor_msgs/Image as RGB, whatever their encoding.

ROS's own cv_bridge converts where it is installed and works, rosbags-image elsewhere. cv_bridge that was built for NumPy 1 ends the
process that uses it beside NumPy 2, or does not import; so another process tries it once, when the first image needs converting.
Shapes: H, W image.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from longscape_ros.errors import InputError

Image = NDArray[np.uint8]

ENCODINGS: dict[str, tuple[str, int]] = {
    **dict.fromkeys(("rgb8", "bgr8"), ("uint8", 3)),
    **dict.fromkeys(("rgba8", "bgra8"), ("uint8", 4)),
    **dict.fromkeys(("mono8", "bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8"), ("uint8", 1)),
    **dict.fromkeys(("yuv422", "uyvy", "yuv422_yuy2", "yuyv"), ("uint8", 2)),
    **dict.fromkeys(("rgb16", "bgr16"), ("uint16", 3)),
    **dict.fromkeys(("rgba16", "bgra16"), ("uint16", 4)),
    **dict.fromkeys(("mono16", "bayer_rggb16", "bayer_bggr16", "bayer_gbrg16", "bayer_grbg16"), ("uint16", 1)),
}
"""ROS's name of an encoding (sensor_msgs/image_encodings.hpp) -> type and number of a pixel's values. What only counts channels, such as
8UC3 or 32FC1, does not say what they show, and planar ones (nv21, nv24) have rows of another size; neither is among them."""

PIXELS_LEFT = 3
"""A large image is made half as large as often as so many pixels in a row are left for one of the model's: a JPEG by reading it at a half,
a quarter or an eighth of its size, a raw one by averaging 2 x 2 pixels. The rest is scaled by area, in a fraction of the time. Pixels on an
edge between two of the model's count for both a little more than they should: for screens with text, the hardest there are, the PSNR to
scaling by area alone is 42 dB for 640 x 480 and 1920 x 1080 to 64 x 64, 38 dB at worst for any size."""

_REDUCED = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
_JPEG_START = b"\xff\xd8"
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of the segment that has height and width."""

PROBE_S = 30
"""Seconds that cv_bridge has to convert four pixels."""

PROBE = """
import numpy as np
from types import SimpleNamespace
from cv_bridge import CvBridge
pixels = np.arange(12, dtype=np.uint8)
image = SimpleNamespace(height=2, width=2, encoding="bgr8", is_bigendian=0, step=6, data=pixels.tobytes())
found = CvBridge().imgmsg_to_cv2(image, "rgb8")
raise SystemExit(not np.array_equal(found, pixels.reshape(2, 2, 3)[..., ::-1]))
"""

_log = logging.getLogger(__name__)


def rgb_of(message: Any) -> Image:
    """sensor_msgs/Image of one of :data:`ENCODINGS` -> uint8 [H, W, 3]; rows may be padded. 16-bit values lose their lower byte.

    Raises:
        InputError: The encoding is none of these, or the numbers in the message do not fit together.
    """
    height, width, step, encoding = int(message.height), int(message.width), int(message.step), str(message.encoding)
    if encoding not in ENCODINGS:
        raise InputError(
            f"Got an image of encoding {encoding!r}, expected one of {', '.join(ENCODINGS)}; it is ignored. "
            "Have the driver send one of these, or convert it with image_proc."
        )
    kind, channels = ENCODINGS[encoding]
    row = width * channels * np.dtype(kind).itemsize
    data = np.frombuffer(message.data, np.uint8)
    if min(height, width) < 1 or step < row or len(data) < step * height:
        raise InputError(
            f"Got an image of {width} x {height} {encoding} with {step} bytes per row and {len(data)} in all, "
            f"expected at least {row} per row and {max(step, row) * height} in all; it is ignored."
        )
    packed = np.ascontiguousarray(data[: step * height].reshape(height, step)[:, :row])
    if encoding == "rgb8":
        return packed.reshape(height, width, 3)
    plain = SimpleNamespace(
        height=height, width=width, encoding=encoding, is_bigendian=bool(message.is_bigendian), step=row, data=packed.data
    )
    try:
        found = np.asarray(converter()(plain), np.uint8)
    except Exception as error:  # either library's own, or OpenCV's
        raise InputError(f"Got an image of {width} x {height} {encoding} that cannot become rgb8 ({error}); it is ignored.") from error
    if found.shape != (height, width, 3):
        raise InputError(f"Got {found.shape} from an image of {width} x {height} {encoding}, expected {(height, width, 3)}; it is ignored.")
    return found


@functools.cache
def converter() -> Callable[[Any], Any]:
    """What makes rgb8 of a packed image: cv_bridge, or rosbags-image and the log says why. Chosen once."""
    why = "it is not installed"
    if importlib.util.find_spec("cv_bridge") is not None:
        why = _refusal_of_cv_bridge()
        if not why:
            from cv_bridge import CvBridge

            _log.info("Images are converted by cv_bridge.")
            return functools.partial(CvBridge().imgmsg_to_cv2, desired_encoding="rgb8")
    try:
        from rosbags.image.image import image_to_cvimage  # slow to import
    except ImportError as error:
        raise InputError(
            f"Found neither rosbags-image ({error}) nor a cv_bridge that works ({why}), expected one of them to convert images; "
            "pip install rosbags-image."
        ) from error
    _log.info("Images are converted by rosbags-image; not by cv_bridge: %s.", why)
    return lambda plain: image_to_cvimage(plain, "rgb8")


def _refusal_of_cv_bridge() -> str:
    """Why cv_bridge does not work here; empty: it does."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PROBE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"it could not be tried ({error})"
    if not done.returncode:
        return ""
    said = done.stderr.strip().splitlines()
    return f"it does not work beside NumPy {np.__version__} ({said[-1] if said else f'exit status {done.returncode}'})"


def decoded(data: Image, format_name: str, image_size: tuple[int, int] | None = None) -> Image:
    """The bytes of a sensor_msgs/CompressedImage -> uint8 [H, W, 3]; PNG, JPEG or whatever else OpenCV reads, grey images too.

    Args:
        data: uint8 [bytes].
        format_name: As the message says.
        image_size: (H, W) that it will be cut and scaled to; a JPEG that is much larger is read at a part of its size, which costs less.
            None: as it was sent.

    Raises:
        InputError: OpenCV cannot read it.
    """
    try:
        bgr = cv2.imdecode(data, _REDUCED[_reduction(data, image_size)]) if len(data) else None
    except cv2.error as error:
        raise InputError(f"Got a compressed image that cannot be decoded ({error.err}), expected PNG or JPEG; it is ignored.") from error
    if bgr is None:
        raise InputError(f"Got a compressed image of {len(data)} bytes, format {format_name!r}, expected PNG or JPEG; it is ignored.")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def resize_rgb(rgb: NDArray[np.uint8], image_size: tuple[int, int]) -> NDArray[np.uint8]:
    """The image's centre, cut to the wanted aspect and scaled: uint8 [H, W, 3] of ``image_size`` (H, W)."""
    height, width = image_size
    source_height, source_width = rgb.shape[:2]
    if (source_height, source_width) == (height, width):
        return rgb
    scale = min(source_height / height, source_width / width)
    cut_height, cut_width = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (source_height - cut_height) // 2, (source_width - cut_width) // 2
    cut = rgb[top : top + cut_height, left : left + cut_width]
    for _ in range(halvings((cut_height, cut_width), image_size)):
        cut = np.asarray(cv2.resize(cut, (cut.shape[1] // 2, cut.shape[0] // 2), interpolation=cv2.INTER_AREA), np.uint8)
    return np.asarray(cv2.resize(cut, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def halvings(sides: tuple[int, int], image_size: tuple[int, int]) -> int:
    """How often a part of an image is made half as large before it is scaled; its sides stay whole numbers."""
    count = 0
    while all(side % 2 ** (count + 1) == 0 and side >> (count + 1) >= PIXELS_LEFT * n for side, n in zip(sides, image_size, strict=True)):
        count += 1
    return count


def _reduction(data: Image, image_size: tuple[int, int] | None) -> int:
    """The part of its size that an image is read at, one of :data:`_REDUCED`: 1 but for a JPEG that is much larger than wanted.

    Height and width must be twice so many pixels, several times over: then what is cut off an image ends at a pixel of the smaller one too.
    """
    if image_size is None:
        return 1
    sides = _sides_of_jpeg(data)
    fitting = (part for part in _REDUCED if min(sides) >= part * PIXELS_LEFT * max(image_size) and not any(n % (2 * part) for n in sides))
    return max(fitting, default=1)


def _sides_of_jpeg(data: Image) -> tuple[int, int]:
    """Height and width; 0, 0: it is no JPEG, or damaged."""
    view = data.data
    at = len(_JPEG_START)
    if bytes(view[:at]) != _JPEG_START:
        return 0, 0
    while at + 9 <= len(view) and view[at] == 0xFF:
        marker = view[at + 1]
        if marker in _JPEG_FRAMES:
            return int.from_bytes(view[at + 5 : at + 7], "big"), int.from_bytes(view[at + 7 : at + 9], "big")
        at += 1 if marker == 0xFF else 2 + int.from_bytes(view[at + 2 : at + 4], "big")
    return 0, 0
