# SPDX-License-Identifier: Apache-2.0
"""SIGINT and SIGTERM as a program wants them: once, together, or when it asks. On another than the main thread they are left alone."""

from __future__ import annotations

import operator
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    former = signal.signal(signal.SIGINT, interrupts)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, former)


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """SIGTERM is as Ctrl-C, a KeyboardInterrupt, so that nothing half done is left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


@contextmanager
def deferred_interrupts() -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM wait until it is asked whether one came, so that nothing is left half done; another one is a KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came = False

    def note(number: int, frame: object) -> None:
        nonlocal came
        if came:
            raise KeyboardInterrupt
        came = True

    former = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: came
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
