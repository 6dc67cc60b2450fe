# SPDX-License-Identifier: Apache-2.0
"""The contact sheet: of a few predictions, what came, what was predicted, and the difference."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from longscape_ros.contract import NANOSECONDS
from longscape_ros.demo.canvas import enlarge, write
from longscape_ros.demo.palette import BACKGROUND, FAINT, PANEL, TEXT, expert_colour
from longscape_ros.demo.recording import Published, Recording
from longscape_ros.evaluation import psnr

STEPS = (1, 8, 16, 24, 32)
"""Steps after the anchor that are shown."""

ANCHORS = 3
"""Predictions on a sheet."""

_TILE = 192
_GAP = 8
_MARGIN = 24
_ROWS = ("actual", "predicted", "error x 3")
_NAMES = 92
_HEAD = 76
_TITLE = 64
_STRIPE = 6


def draw_sheet(recording: Recording, title: str = "") -> Image.Image:
    """A picture of up to :data:`ANCHORS` predictions, the liveliest of equal parts of the recording."""
    chosen = choose(recording)
    block = _HEAD + len(_ROWS) * (_TILE + _GAP)
    width = 2 * _MARGIN + _NAMES + (1 + len(STEPS)) * (_TILE + _GAP) - _GAP
    sheet = Image.new("RGB", (width, _TITLE + max(1, len(chosen)) * block + _MARGIN), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    write(draw, (_MARGIN, 44), title or "Predicted and actual futures", 26)
    if not chosen:
        write(draw, (_MARGIN, _TITLE + 60), "There was no prediction whose whole future was seen.", 20, FAINT)
    for row, published in enumerate(chosen):
        _draw_block(sheet, draw, recording, published, _TITLE + row * block)
    return sheet


def write_sheet(recording: Recording, path: Path, title: str = "") -> Path:
    """:func:`draw_sheet` as a PNG file; its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_sheet(recording, title).save(path)
    return path


def choose(recording: Recording) -> list[Published]:
    """Of each part of the recording, the prediction in whose future most changes; all that it shows must have been seen."""
    ratings = [(published, _change(recording, published)) for published in recording.predictions]
    seen = [(published, change) for published, change in ratings if change is not None]
    parts = np.array_split(np.arange(len(seen)), min(ANCHORS, len(seen)) or 1)
    return [max((seen[i] for i in part), key=lambda rated: rated[1])[0] for part in parts if len(part)]


def _change(recording: Recording, published: Published) -> float | None:
    """Mean difference of the future's images to the anchor's; None: they were not all seen, or the prediction is short."""
    prediction = published.prediction
    if len(prediction.frames) < STEPS[-1]:
        return None
    size, stamps = prediction.frames.shape[1:3], prediction.stamps_ns()
    images = [recording.actual(int(moment), size) for moment in (prediction.anchor_ns, *(stamps[h - 1] for h in STEPS))]
    if any(image is None for image in images):
        return None
    return float(np.mean([cv2.absdiff(image, images[0]).mean() for image in images[1:] if image is not None and images[0] is not None]))


def _draw_block(sheet: Image.Image, draw: ImageDraw.ImageDraw, recording: Recording, published: Published, top: int) -> None:
    """One prediction's rows."""
    prediction = published.prediction
    size, stamps = prediction.frames.shape[1:3], prediction.stamps_ns()
    left = _MARGIN + _NAMES
    elapsed_s = (prediction.anchor_ns - recording.frames[0].stamp_ns) / NANOSECONDS
    write(draw, (_MARGIN, top + 62), f"{elapsed_s:.2f} s", 20)
    for row, name in enumerate(_ROWS):
        write(draw, (_MARGIN, top + _HEAD + row * (_TILE + _GAP) + _TILE // 2), name, 16, FAINT, "lm")
    now = recording.actual(prediction.anchor_ns, size)
    assert now is not None, "chosen predictions were seen in full"
    _paste(sheet, now, left, top + _HEAD)
    write(draw, (left, top + 44), "now", 18)
    for column, h in enumerate(STEPS, start=1):
        x = left + column * (_TILE + _GAP)
        actual, predicted = recording.actual(int(stamps[h - 1]), size), prediction.frames[h - 1]
        assert actual is not None, "chosen predictions were seen in full"
        error = np.minimum(3 * cv2.absdiff(actual, predicted).astype(np.uint16), 255).astype(np.uint8)
        for row, picture in enumerate((actual, predicted, error)):
            _paste(sheet, picture, x, top + _HEAD + row * (_TILE + _GAP))
        _label(draw, published, h, x, top, f"{psnr(actual, predicted):.1f} dB")


def _label(draw: ImageDraw.ImageDraw, published: Published, h: int, x: int, top: int, quality: str) -> None:
    """Above a column: how far ahead, the chunk it belongs to, and how good it is."""
    number = published.chunk(h - 1)
    chunk, expert = published.prediction.chunks[number], published.prediction.experts[number]
    colour = expert_colour(expert)
    write(draw, (x, top + 44), f"+{h * published.period_ns / NANOSECONDS:.2f} s", 18, TEXT)
    write(draw, (x + _TILE, top + 44), quality, 16, FAINT, "rs")
    write(draw, (x, top + 64), f"chunk of {chunk.valid}, expert {expert}", 14, colour)
    draw.rectangle((x, top + _HEAD - _STRIPE, x + _TILE - 1, top + _HEAD - 2), fill=colour)


def _paste(sheet: Image.Image, rgb: NDArray[np.uint8], x: int, y: int) -> None:
    sheet.paste(PANEL, (x, y, x + _TILE, y + _TILE))
    picture = enlarge(rgb, _TILE)
    sheet.paste(picture, (x + (_TILE - picture.width) // 2, y + (_TILE - picture.height) // 2))
