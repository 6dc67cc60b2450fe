# SPDX-License-Identifier: Apache-2.0
"""How far the camera is from what was predicted for the moment that it shows: something moves there that nobody commanded.

The autoencoder blurs, and what is predicted comes out of its decoder. So an image is compared as the same autoencoder shows it: the
blur is in both and no surprise, while what has moved or is missing differs. A bumped object is a few pixels, which a mean over the
image would drown; so squares of differences are averaged over small patches, and the worst patch counts.

A patch with an edge that moves is always a little wrong, one that stands still hardly. So a patch's error is divided by what is to be
expected there: how much the prediction itself moves from frame to frame, how much predictions of the moment that were made at different
times disagree, and a floor.

An arm that is held is off by no more than an arm that is predicted a little wrong, but everywhere. There another question tells: is the
prediction worse than none? So the whole image's error is divided by a share of what the error would be had nothing moved since the
prediction was made (the error of persistence, which skill scores in weather forecasting are relative to).

How many times the expected error the worst patch has, or the image, whichever is more, is what is compared with a threshold; it has to
be beyond it in two images in a row, for contacts and the flips of a gripper are mistimed by an image easily.

A prediction says something of an image only if the robot was commanded until then what the prediction assumed.

Letters: H W image; N future steps, A action dimensions.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import cv2
import numpy as np
from numpy.typing import NDArray

from longscape_ros.contract import NANOSECONDS, ActionSpace, Prediction

LEAST_STEPS = 4
"""A prediction is compared with images at least so many steps after its anchor; see docs/results/surprise.md for the choice."""

MOST_STEPS = 16
"""And at most so many."""

OFF_GRID = 0.25
"""How far from a step's end an image may be, in steps: farther off, the motion between is no surprise."""

TOLERANCE = 0.05
"""By how much of its scale an action may differ from what was assumed."""

PATCH = 5 / 64
"""Height and width of a patch, as a share of the image's height."""

NEAR = 9 / 64
"""What is expected of a patch is what is expected of any patch so near, likewise."""

FLOOR = 0.0125
"""Error that is always expected, black to white counting as 1."""

PERSISTENCE_SHARE = 0.45
"""What is expected of the whole image: this share of the error that it would have had nothing moved since the prediction was made. The
share makes the image's false alarms about as frequent as the worst patch's."""

PERSISTENCE_FLOOR = 0.03
"""Change of the whole image from which on that says something, likewise."""

MOST_OTHERS = 3
"""Older predictions of the same moment that are looked at for disagreement."""

DEFAULT_THRESHOLD = 3.2
"""Times the expected error beyond which an image is a surprise, unless something else is asked for: one false alarm per minute in training
episodes of the default bundle."""

MOST_PREDICTIONS = 64
"""Predictions remembered."""


class State(IntEnum):
    """What is to be thought of an image. The numbers are those of ``longscape_msgs/Surprise``."""

    EXPECTED = 0
    SURPRISED = 1
    NOT_COMPARABLE = 2


@dataclass(frozen=True, slots=True)
class Expectation:
    """What an image can be compared with.

    Args:
        prediction: The prediction.
        step: Which of its steps the image shows, from 1 on.
        motion: float64 [1 + N, A], the motion that the prediction assumed, from its anchor on.
        others: uint8 [H, W, 3] each, what older predictions have for the moment.
    """

    prediction: Prediction
    step: int
    motion: NDArray[np.float64]
    others: tuple[NDArray[np.uint8], ...] = ()

    @property
    def frame(self) -> NDArray[np.uint8]:
        """uint8 [H, W, 3], what was predicted of the image."""
        return np.asarray(self.prediction.frames[self.step - 1])

    def expected_errors(self) -> NDArray[np.float32]:
        """float32 [H, W], how far off the patch around each pixel may be expected to be, black to white counting as 1."""
        frames = self.prediction.frames
        beside = [frames[i] for i in (self.step - 2, self.step) if 0 <= i < len(frames)]
        motion = _largest([patch_squares(self.frame, other) for other in beside], self.frame)
        disagreement = _largest([patch_squares(self.frame, other) for other in self.others], self.frame)
        near = np.ones((_pixels(NEAR, self.frame),) * 2, np.uint8)
        return np.asarray(np.sqrt(FLOOR**2 + cv2.dilate(motion, near) + cv2.dilate(disagreement, near)), np.float32)

    def expected_image_error(self, shown: NDArray[np.uint8]) -> float:
        """How far off the whole image may be expected to be; infinite: it is not known what was seen when it was predicted.

        Args:
            shown: uint8 [H, W, 3], what came, as the autoencoder shows it.
        """
        if self.prediction.shown is None:
            return math.inf
        return PERSISTENCE_SHARE * math.hypot(PERSISTENCE_FLOOR, image_error(shown, self.prediction.shown))

    def holds(self, executed: NDArray[np.float64], space: ActionSpace) -> bool:
        """Whether the robot was commanded what was assumed, up to the image.

        Args:
            executed: float64 [1 + step, A] or longer, the motion from the prediction's anchor on as it is known now.
            space: The action's dimensions.
        """
        rows = slice(0, self.step + 1)
        scales = np.array([dimension.scale for dimension in space.dimensions])
        return bool((np.abs(executed[rows] - self.motion[rows]) <= TOLERANCE * scales).all())


@dataclass(frozen=True, slots=True)
class Comparison:
    """An image beside what was predicted of it.

    Args:
        stamp_ns: When it was seen.
        frame_id: Its optical frame.
        anchor_ns: Anchor of the prediction.
        model_id: What predicted.
        state: See there.
        threshold: Beyond which errors are a surprise.
        error: The largest of ``errors``; NaN: the two are not comparable.
        shown: uint8 [H, W, 3], the image as the autoencoder shows it.
        errors: float32 [H, W], error of the patch around each pixel, in units of what is expected there; all of them raised, so that
            the largest is that of the whole image, where that is more; None: the two are not comparable.
    """

    stamp_ns: int
    frame_id: str
    anchor_ns: int
    model_id: str
    state: State
    threshold: float
    error: float
    shown: NDArray[np.uint8]
    errors: NDArray[np.float32] | None

    @property
    def place(self) -> tuple[int, int]:
        """x and y of the pixel with the largest error; 0, 0 where nothing was compared."""
        if self.errors is None:
            return 0, 0
        y, x = np.unravel_index(int(self.errors.argmax()), self.errors.shape)
        return int(x), int(y)


class Expectations:
    """The newest predictions; any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._predictions: deque[tuple[Prediction, NDArray[np.float64]]] = deque(maxlen=MOST_PREDICTIONS)

    def add(self, prediction: Prediction, motion: NDArray[np.float64]) -> None:
        """Takes a prediction, and the motion float64 [1 + N, A] that it assumed from its anchor on."""
        with self._lock:
            self._predictions.append((prediction, motion))

    def forget(self) -> None:
        """Forgets all predictions."""
        with self._lock:
            self._predictions.clear()

    def find(self, stamp_ns: int, least_steps: int = LEAST_STEPS) -> Expectation | None:
        """The newest prediction of the moment that was made ``least_steps`` before, or more; None: there is none."""
        with self._lock:
            predictions = list(self._predictions)
        fitting = []
        for prediction, motion in reversed(predictions):
            steps = (stamp_ns - prediction.anchor_ns) * prediction.fps / NANOSECONDS
            step = round(steps)
            if least_steps <= step <= min(MOST_STEPS, len(prediction.frames)) and abs(steps - step) <= OFF_GRID:
                fitting.append((prediction, step, motion))
        if not fitting:
            return None
        others = tuple(prediction.frames[step - 1] for prediction, step, _ in fitting[1 : MOST_OTHERS + 1])
        return Expectation(*fitting[0], others)


def compare(expectation: Expectation, image: Prediction, holds: bool, threshold: float, before: Comparison | None = None) -> Comparison:
    """An image beside what was predicted of it.

    Args:
        expectation: What was predicted.
        image: A prediction that has the image as its anchor, with :attr:`Prediction.shown`.
        holds: Whether the robot was commanded what was assumed.
        threshold: Beyond which errors are a surprise.
        before: Of the image that was compared before; None: there is none, and this one cannot be a surprise by itself.
    """
    assert image.shown is not None, "it was asked for"
    errors = _raised(relative_errors(expectation, image.shown), relative_image_error(expectation, image.shown)) if holds else None
    error = math.nan if errors is None else float(errors.max())
    surprised = before is not None and min(before.error, error) > threshold
    state = State.NOT_COMPARABLE if errors is None else State.SURPRISED if surprised else State.EXPECTED
    return Comparison(
        stamp_ns=image.anchor_ns,
        frame_id=image.frame_id,
        anchor_ns=expectation.prediction.anchor_ns,
        model_id=image.model_id,
        state=state,
        threshold=threshold,
        error=error,
        shown=image.shown,
        errors=errors,
    )


def relative_errors(expectation: Expectation, shown: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32 [H, W], how many times as far off as expected the patch around each pixel is.

    Args:
        expectation: What was predicted.
        shown: uint8 [H, W, 3], what came, as the autoencoder shows it.
    """
    return np.asarray(np.sqrt(patch_squares(shown, expectation.frame)) / expectation.expected_errors(), np.float32)


def relative_image_error(expectation: Expectation, shown: NDArray[np.uint8]) -> float:
    """How many times as far off as expected the whole image is.

    Args:
        expectation: What was predicted; its prediction has to know what it was made from (:attr:`Prediction.shown`), or this is zero.
        shown: uint8 [H, W, 3], what came, as the autoencoder shows it.
    """
    return image_error(shown, expectation.frame) / expectation.expected_image_error(shown)


def image_error(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Root of the mean square difference of two images uint8 [H, W, 3], from 0 to 1."""
    return math.sqrt(float(np.square((one.astype(np.float32) - other) / 255).mean()))


def patch_squares(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32 [H, W], mean square difference of two images uint8 [H, W, 3] in the patch around each pixel, from 0 to 1."""
    squares = np.square((one.astype(np.float32) - other) / 255).mean(axis=2)
    size = _pixels(PATCH, one)
    return np.asarray(np.maximum(cv2.blur(squares, (size, size)), 0), np.float32)


def _raised(errors: NDArray[np.float32], least: float) -> NDArray[np.float32]:
    """Errors of which the largest is ``least`` or more, in the same proportions."""
    largest = float(errors.max())
    return errors if largest >= least else np.asarray(errors * np.float32(least / largest), np.float32)


def _largest(maps: Sequence[NDArray[np.float32]], image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32 [H, W], the largest of some maps; zero where there are none."""
    return np.max(maps, axis=0) if maps else np.zeros(image.shape[:2], np.float32)


def _pixels(share: float, image: NDArray[np.uint8]) -> int:
    """Height and width in pixels, odd, of a share of an image's height."""
    return max(1, 2 * round((share * len(image) - 1) / 2) + 1)
