# SPDX-License-Identifier: Apache-2.0
"""Waits for what other threads and processes do."""

from __future__ import annotations

import time
from collections.abc import Callable

WAIT_S = 60.0
"""Long enough for a machine that is busy."""


def until(done: Callable[[], object], wait_s: float = WAIT_S) -> bool:
    """Whether something comes true in time."""
    end_s = time.monotonic() + wait_s
    while not done():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.01)
    return True
