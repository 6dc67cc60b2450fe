# SPDX-License-Identifier: Apache-2.0
"""Lines, areas and text on a picture, with OpenCV. All is drawn at twice the size and averaged, so that edges are smooth."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from longscape_ros.evaluation.metrics import Image

Colour = tuple[int, int, int]
Point = tuple[float, float]

WHITE: Colour = (255, 255, 255)
INK: Colour = (38, 42, 51)
FAINT: Colour = (112, 120, 135)
GRID: Colour = (226, 229, 235)

_SCALE = 2
_FONT = cv2.FONT_HERSHEY_DUPLEX
_FONT_HEIGHT = 22.0
"""Pixels of a capital letter at OpenCV's font scale 1."""


class Canvas:
    """A picture to draw on; places and sizes are pixels of the finished picture.

    Args:
        width: Of the picture.
        height: Of it.
        background: Its colour.
    """

    def __init__(self, width: int, height: int, background: Colour = WHITE) -> None:
        self.width, self.height = width, height
        self._large = np.full((_SCALE * height, _SCALE * width, 3), background, np.uint8)

    def picture(self) -> Image:
        """uint8 [height, width, 3]."""
        return np.asarray(cv2.resize(self._large, (self.width, self.height), interpolation=cv2.INTER_AREA), np.uint8)

    def text(self, place: Point, text: str, size: float = 11, colour: Colour = INK, anchor: Literal["l", "m", "r"] = "l") -> float:
        """Write a line whose capitals are ``size`` pixels high, its left end, middle or right end on ``place``; its width."""
        scale = _SCALE * size / _FONT_HEIGHT
        width = cv2.getTextSize(text, _FONT, scale, 1)[0][0]
        x = _SCALE * place[0] - {"l": 0.0, "m": 0.5, "r": 1.0}[anchor] * width
        cv2.putText(self._large, text, (round(x), round(_SCALE * place[1])), _FONT, scale, colour, 1, cv2.LINE_AA)
        return float(width / _SCALE)

    def line(self, points: Sequence[Point], colour: Colour, width: float = 1.0, dashed: bool = False) -> None:
        """Draw a line through points."""
        corners = _pixels(points)
        thickness = max(1, round(_SCALE * width))
        if not dashed:
            cv2.polylines(self._large, [corners], isClosed=False, color=colour, thickness=thickness, lineType=cv2.LINE_AA)
            return
        for first, last in pairwise(corners):
            pieces = max(1, int(np.linalg.norm(last - first) / (6 * _SCALE)))
            cuts = np.linspace(0, 1, 2 * pieces)[:, np.newaxis] * (last - first) + first
            for begin, end in cuts.round().astype(np.int32).reshape(-1, 2, 2):
                cv2.line(self._large, begin.tolist(), end.tolist(), colour, thickness, cv2.LINE_AA)

    def dot(self, place: Point, radius: float, colour: Colour) -> None:
        """Draw a filled circle."""
        cv2.circle(self._large, _pixels([place])[0].tolist(), round(_SCALE * radius), colour, -1, cv2.LINE_AA)

    def box(self, corner: Point, size: Point, colour: Colour) -> None:
        """Fill a rectangle with its upper left corner at ``corner``."""
        (left, top), (right, bottom) = _pixels([corner, (corner[0] + size[0], corner[1] + size[1])]).tolist()
        self._large[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = colour

    def area(self, points: Sequence[Point], colour: Colour, opacity: float) -> None:
        """Fill a polygon, what is below shining through."""
        corners = _pixels(points)
        left, top = np.maximum(corners.min(axis=0), 0)
        right, bottom = corners.max(axis=0) + 1
        part = self._large[top:bottom, left:right]
        filled = cv2.fillPoly(part.copy(), [corners - np.array([left, top], np.int32)], colour, cv2.LINE_AA)
        part[:] = cv2.addWeighted(filled, opacity, part, 1 - opacity, 0)

    def paste(self, corner: tuple[int, int], rgb: Image) -> None:
        """Put a picture uint8 [H, W, 3] with its upper left corner at ``corner``, as it is."""
        x, y = _SCALE * corner[0], _SCALE * corner[1]
        self._large[y : y + _SCALE * rgb.shape[0], x : x + _SCALE * rgb.shape[1]] = enlarged(rgb, _SCALE)

    def copy(self) -> Canvas:
        """Another canvas with the same on it."""
        other = Canvas(1, 1)
        other.width, other.height, other._large = self.width, self.height, self._large.copy()
        return other


def enlarged(rgb: Image, factor: int) -> Image:
    """uint8 [H, W, 3] by a whole factor, each pixel a square."""
    return rgb.repeat(factor, axis=0).repeat(factor, axis=1)


def _pixels(points: Sequence[Point]) -> NDArray[np.int32]:
    return np.round(_SCALE * np.asarray(points, float)).astype(np.int32)
