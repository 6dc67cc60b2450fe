# SPDX-License-Identifier: Apache-2.0
"""What a camera of the benchmark sends: size, encoding and rate, and the message."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from longscape_ros.errors import InputError
from longscape_ros.messages import COMPRESSED_IMAGE, IMAGE, header_message, number_sequence

Pixels = NDArray[np.uint8]

FORM = "ENCODING:WIDTHxHEIGHT@RATE"
_WRITTEN = re.compile(r"(?P<encoding>\w+):(?P<width>\d+)x(?P<height>\d+)@(?P<rate>\d+(\.\d+)?)")

NOISE = 2.0
"""Standard deviation of a sensor's noise, in levels: what there is of it decides how large a JPEG is, and how long it takes to read."""

JPEG_QUALITY = 95
"""image_transport's."""

_FILES = {
    "jpeg": (".jpg", (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420)),
    "png": (".png", (cv2.IMWRITE_PNG_COMPRESSION, 3)),
}
"""Encoding of a CompressedImage -> OpenCV's name and options."""


def _yuy2(rgb: Pixels) -> Pixels:
    """Y0 U Y1 V of every two pixels, Y from 16 to 235, U and V from 16 to 240."""
    full = cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb).astype(np.float64)
    y, v, u = 16 + full[..., 0] * 219 / 255, *(128 + (full[:, ::2, channel] - 128) * 224 / 255 for channel in (1, 2))
    chroma = np.stack([u, v], axis=2).reshape(len(rgb), -1)
    return np.asarray(np.stack([y, chroma], axis=2).round(), np.uint8)


def _bayer(rgb: Pixels) -> Pixels:
    """Of every two by two pixels: red and green above green and blue."""
    mosaic: Pixels = rgb[..., 1].copy()
    mosaic[::2, ::2], mosaic[1::2, 1::2] = rgb[::2, ::2, 0], rgb[1::2, 1::2, 2]
    return mosaic[..., np.newaxis]


_RAW: dict[str, Callable[[Pixels], Pixels]] = {
    "rgb8": lambda rgb: rgb,
    "bgr8": lambda rgb: rgb[..., ::-1],
    "yuv422_yuy2": _yuy2,
    "bayer_rggb8": _bayer,
}
"""Encoding of an Image -> its values [H, W, C] of those in RGB."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A camera's images.

    Args:
        encoding: ``rgb8``, ``bgr8``, ``yuv422_yuy2`` or ``bayer_rggb8`` of sensor_msgs/Image; ``jpeg`` or ``png`` of CompressedImage.
        width: In pixels; even, and so is the height.
        height: In pixels.
        rate: Images per second.

    Raises:
        InputError: There is no such encoding, or a number is out of range.
    """

    encoding: str
    width: int
    height: int
    rate: float

    def __post_init__(self) -> None:
        if self.encoding not in (*_RAW, *_FILES):
            raise InputError(f"Got a camera's encoding {self.encoding!r}, expected one of {', '.join((*_RAW, *_FILES))}.")
        if min(self.width, self.height) < 2 or self.width % 2 or self.height % 2 or not 0 < self.rate <= 1000:
            raise InputError(
                f"Got a camera of {self.width} x {self.height} pixels at {self.rate:g} Hz, expected even numbers and 0 ... 1000 Hz."
            )

    @classmethod
    def of(cls, text: str) -> Stream:
        """``rgb8:640x480@30``.

        Raises:
            InputError: It is not written like that.
        """
        match = _WRITTEN.fullmatch(text)
        if match is None:
            raise InputError(f"Got the camera {text!r}, expected {FORM}, for example rgb8:640x480@30.")
        return cls(match["encoding"], int(match["width"]), int(match["height"]), float(match["rate"]))

    def __str__(self) -> str:
        return f"{self.encoding}:{self.width}x{self.height}@{self.rate:g}"

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.width} x {self.height} {self.encoding} at {self.rate:g} Hz"

    @property
    def name(self) -> str:
        """In figures."""
        return f"{self.encoding}_{self.width}x{self.height}_{self.rate:g}hz"

    @property
    def type_name(self) -> str:
        """Of its messages."""
        return COMPRESSED_IMAGE if self.encoding in _FILES else IMAGE

    def message(self, picture: Pixels, classes: Callable[[str], type]) -> Any:
        """An image as this camera sends it, with a stamp of zero.

        Args:
            picture: What it sees, uint8 [any, any, 3]; scaled to its size, and with the noise of a sensor.
            classes: See :mod:`longscape_ros.messages`.
        """
        scaled = cv2.resize(picture, (self.width, self.height), interpolation=cv2.INTER_CUBIC)
        noise = np.random.default_rng(0).normal(0, NOISE, scaled.shape)
        rgb = (scaled + noise).round().clip(0, 255).astype(np.uint8)
        kind, header = classes(self.type_name), header_message(0, "camera_optical_frame", classes)
        if self.encoding in _FILES:
            extension, options = _FILES[self.encoding]
            encoded = cv2.imencode(extension, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)[1]
            data = number_sequence(kind, "uint8", np.asarray(encoded, np.uint8).reshape(-1))
            return kind(header=header, format=f"rgb8; {self.encoding} compressed bgr8", data=data)
        values = _RAW[self.encoding](rgb)
        return kind(
            header=header,
            height=self.height,
            width=self.width,
            encoding=self.encoding,
            is_bigendian=0,
            step=self.width * values.shape[2],
            data=number_sequence(kind, "uint8", values.reshape(-1)),
        )


CAMERAS = (Stream("rgb8", 640, 480, 30.0), Stream("jpeg", 1920, 1080, 30.0))
"""Cameras that robots have."""
