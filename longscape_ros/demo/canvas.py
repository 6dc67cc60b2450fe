# SPDX-License-Identifier: Apache-2.0
"""What the demo's pictures have in common: a typeface, and pixels enlarged without blur."""

from __future__ import annotations

import functools
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from longscape_ros.demo.palette import TEXT, Colour


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own typeface, so that pictures are the same on every machine."""
    return ImageFont.load_default(size)


def write(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    size: int,
    colour: Colour = TEXT,
    anchor: Literal["ls", "ms", "rs", "lm", "mm", "rm"] = "ls",
) -> float:
    """Writes a line of text; its width. ``anchor``: left, middle or right, and s: baseline, m: middle."""
    draw.text(place, text, fill=colour, font=font(size), anchor=anchor)
    return float(draw.textlength(text, font=font(size)))


def enlarge(rgb: NDArray[np.uint8], box: int) -> Image.Image:
    """uint8 [H, W, 3] -> a picture by the largest whole factor that fits a square of ``box`` pixels, each pixel a square."""
    height, width = rgb.shape[:2]
    factor = box // max(height, width)
    if factor < 1:
        picture = Image.fromarray(rgb)
        picture.thumbnail((box, box))
        return picture
    return Image.fromarray(rgb.repeat(factor, axis=0).repeat(factor, axis=1))
