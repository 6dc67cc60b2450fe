# SPDX-License-Identifier: Apache-2.0
"""What the demo's pictures have in common: a typeface, and enlarged pixels."""

from __future__ import annotations

import functools
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from longscape_ros.demo.palette import TEXT, Colour

LEAST_FILLED = 0.9
"""Share of a box that a picture has to fill when its pixels become squares."""


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
    """uint8 [H, W, 3] -> a picture that fits a square of ``box`` pixels.

    Each pixel is a square where a whole factor fills nine tenths of the box; else the picture is scaled to fill it.
    """
    height, width = rgb.shape[:2]
    largest = max(height, width)
    factor = box // largest
    if factor * largest < LEAST_FILLED * box:
        return Image.fromarray(rgb).resize((box * width // largest, box * height // largest), Image.Resampling.LANCZOS)
    return Image.fromarray(rgb.repeat(factor, axis=0).repeat(factor, axis=1))
