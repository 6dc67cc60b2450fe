# SPDX-License-Identifier: Apache-2.0
"""The contact sheet: actual frames, predicted ones and the error of a few windows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from longscape_ros.evaluation.metrics import Image
from longscape_ros.evaluation.windows import Window
from longscape_ros.runtime.predictor import Predictor

ERROR_GAIN = 3

_MARGIN = 90
"""Pixels left of the pictures, for the rows' names."""

_HEAD = 24
"""Pixels above each window's pictures, for the columns' names."""

_WIDTH = 128
"""Least width of a picture on the sheet."""


def draw_sheet(predictor: Predictor, windows: Sequence[Window], horizons: Sequence[int], path: Path) -> Path:
    """Draw a PNG: per window a row of actual frames, one of predicted ones, and one of the error, labelled; returns its path."""
    sheet = np.concatenate([_draw(predictor, window, horizons) for window in windows])
    return write_png(path, sheet)


def write_png(path: Path, rgb: Image) -> Path:
    """Write an image uint8 [H, W, 3]; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1].tobytes())
    return path


def error_image(actual: Image, predicted: Image) -> Image:
    """Absolute difference times :data:`ERROR_GAIN`, of images of one shape."""
    return np.minimum(ERROR_GAIN * cv2.absdiff(actual, predicted).astype(np.uint16), 255).astype(np.uint8)


def _draw(predictor: Predictor, window: Window, horizons: Sequence[int]) -> Image:
    """One window's rows, RGB; columns that it does not reach stay black."""
    manifest = predictor.bundle.manifest
    reached = [h for h in horizons if h <= window.steps]
    snapshot = window.snapshot(manifest.context, manifest.segmentation.lengths[-1])
    frames = predictor.predict(snapshot, horizon=window.steps).frames
    zoom = -(-_WIDTH // manifest.image_size[1])
    height, width = (zoom * size for size in manifest.image_size)
    sheet = np.zeros((_HEAD + 3 * height, _MARGIN + (1 + len(horizons)) * width, 3), np.uint8)
    columns = [("now", window.now, window.now)] + [(f"+{h / manifest.fps:.2f} s", window.actual(h), frames[h - 1]) for h in reached]
    for column, (label, actual, predicted) in enumerate(columns):
        left = _MARGIN + column * width
        for row, picture in enumerate((actual, predicted, error_image(actual, predicted))):
            top = _HEAD + row * height
            sheet[top : top + height, left : left + width] = picture.repeat(zoom, axis=0).repeat(zoom, axis=1)
        _write(sheet, label, left + 4, _HEAD - 8)
    for row, label in enumerate(("actual", "predicted", f"error x {ERROR_GAIN}")):
        _write(sheet, label, 4, _HEAD + row * height + height // 2)
    return sheet


def _write(image: Image, text: str, left: int, baseline: int) -> None:
    cv2.putText(image, text, (left, baseline), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
