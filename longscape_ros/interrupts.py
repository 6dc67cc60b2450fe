# SPDX-License-Identifier: Apache-2.0
"""SIGINT and SIGTERM as a program wants them: once, together, or when it asks. On another than the main thread they are left alone."""

from __future__ import annotations

import operator
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

IGNORE: Callable[[object, object], object] = operator.is_
"""A signal's handler that does nothing, in C. Signals that come faster than a handler in Python ends nest it until the stack is full.

With ``signal.SIG_IGN`` CPython complains of a signal that came just before, and processes that are started inherit it.
"""


class Interrupts:
    """Handles SIGINT: the first is a KeyboardInterrupt, and there are none once it is ``over``.

    Under ``ros2 launch`` Ctrl-C comes twice, from the terminal and from launch; the second must not disturb the way out.
    """

    def __init__(self) -> None:
        self.over = False

    def __call__(self, number: int, frame: object) -> None:
        signal.signal(number, IGNORE)
        if not self.over:
            self.over = True
            raise KeyboardInterrupt


@contextmanager
def interrupted_once() -> Iterator[Interrupts]:
    """SIGINT is handled by what is given, which rclpy's own handler calls in turn."""
    interrupts = Interrupts()
    with _handled(interrupts, signal.SIGINT):
        yield interrupts


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """SIGTERM is as Ctrl-C, a KeyboardInterrupt, so that nothing half done is left behind."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    with _handled(interrupt, signal.SIGTERM):
        yield


@contextmanager
def deferred_interrupts() -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM wait until it is asked whether one came, so that nothing is left half done; another one is a KeyboardInterrupt."""
    came = False

    def note(number: int, frame: object) -> None:
        nonlocal came
        if came:
            raise KeyboardInterrupt
        came = True

    with _handled(note, signal.SIGINT, signal.SIGTERM):
        yield lambda: came


@contextmanager
def _handled(handler: Callable[[int, Any], object], *numbers: signal.Signals) -> Iterator[None]:
    """These signals are handled by this, and at the end by what handled them before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, before in former.items():
            signal.signal(number, before)
