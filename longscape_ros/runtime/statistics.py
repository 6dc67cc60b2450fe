# SPDX-License-Identifier: Apache-2.0
"""Figures of the last so many events, for diagnostics."""

from __future__ import annotations

import threading
from collections import deque

import numpy as np

from longscape_ros.errors import InputError


class Rolling:
    """The newest values of a measurement, and how many there ever were; for any thread.

    Args:
        window: How many values to keep.
    """

    def __init__(self, window: int = 100) -> None:
        if window < 1:
            raise InputError(f"Got a window of {window} values, expected at least 1.")
        self._lock = threading.Lock()
        self._values: deque[float] = deque(maxlen=window)
        self._count = 0

    @property
    def count(self) -> int:
        """Values ever added."""
        return self._count

    def add(self, value: float) -> None:
        """Add a measurement."""
        with self._lock:
            self._values.append(value)
            self._count += 1

    def percentile(self, percent: float) -> float:
        """Value below which ``percent`` (0 ... 100) of the kept values are; NaN without any."""
        with self._lock:
            values = list(self._values)
        return float(np.percentile(values, percent)) if values else float("nan")
