# SPDX-License-Identifier: Apache-2.0
"""How far the camera is from what was predicted for the moment it shows; plain Python, for any thread."""

from __future__ import annotations

import threading
from collections import deque

import numpy as np
from numpy.typing import NDArray

from longscape_ros.contract import NANOSECONDS, Prediction

MOST_PREDICTIONS = 32
"""Predictions remembered."""


class Surprise:
    """Compares each image with the newest prediction that had been made when it came.

    The measure is the root mean square of the difference of all pixels and channels, black to white counting as 1. It is also
    large where the robot did something else than it was commanded to do, or was commanded something new meanwhile.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._expected: deque[Prediction] = deque(maxlen=MOST_PREDICTIONS)

    def expect(self, prediction: Prediction) -> None:
        """Takes a prediction, from whatever thread."""
        with self._lock:
            self._expected.append(prediction)

    def forget(self) -> None:
        """Forgets all predictions."""
        with self._lock:
            self._expected.clear()

    def compare(self, rgb: NDArray[np.uint8], stamp_ns: int) -> float | None:
        """The surprise, from 0 to 1; None: nothing was predicted for within half a step of this time.

        Args:
            rgb: uint8 [H, W, 3], the image in the size of the predictions.
            stamp_ns: When it was seen.
        """
        with self._lock:
            expected = list(self._expected)
        for prediction in reversed(expected):
            step = round((stamp_ns - prediction.anchor_ns) * prediction.fps / NANOSECONDS)
            if 1 <= step <= len(prediction.frames):
                difference = rgb.astype(np.float32) - prediction.frames[step - 1]
                return float(np.sqrt(np.mean(np.square(difference)))) / 255.0
        return None
