# SPDX-License-Identifier: Apache-2.0
"""SIGINT and SIGTERM shut every context down. Python handlers run only between byte codes; waits in C end by a wakeup thread.

A handler steps aside when it has struck: there is nothing left to shut down, and signals that come faster than a handler in Python ends
would nest it until the stack is full. The next context puts it back.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
import weakref
from enum import IntFlag
from types import FrameType
from typing import Any

from longscape_ros.embedded.context import Context
from longscape_ros.interrupts import IGNORE


class SignalHandlerOptions(IntFlag):
    """Which signals shut the contexts down."""

    NO = 0
    SIGINT = 1
    SIGTERM = 2
    ALL = 3


class _Handlers:
    """The installed handlers, what they replaced, and the thread that acts on them."""

    def __init__(self) -> None:
        self.options = SignalHandlerOptions.NO
        self.contexts: weakref.WeakSet[Context] = weakref.WeakSet()
        self.previous: dict[int, Any] = {}
        self.struck: set[int] = set()
        self.previous_fd = -1
        self.write_fd = -1

    def install(self, options: SignalHandlerOptions) -> None:
        """Replaces the handlers of the main thread's process."""
        if options == SignalHandlerOptions.NO or threading.current_thread() is not threading.main_thread():
            return
        if self.write_fd < 0:
            read_fd, self.write_fd = os.pipe()
            os.set_blocking(self.write_fd, False)
            self.previous_fd = signal.set_wakeup_fd(self.write_fd, warn_on_full_buffer=False)
            threading.Thread(target=self._watch, args=(read_fd,), name="ros-signals", daemon=True).start()
        for number in self._numbers(options):
            if number not in self.previous:
                self.previous[number] = signal.signal(number, self._on_signal)
        self.options |= options

    def watch(self, context: Context) -> None:
        """Shuts this context down too."""
        self.contexts.add(context)
        if threading.current_thread() is not threading.main_thread():
            return
        while self.struck:
            number = self.struck.pop()
            handler = signal.signal(number, self._on_signal)
            if handler is not IGNORE:
                self.previous[number] = handler

    def uninstall(self) -> None:
        """Puts the replaced handlers back."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous.clear()
        self.struck.clear()
        self.options = SignalHandlerOptions.NO
        if self.write_fd >= 0:
            signal.set_wakeup_fd(self.previous_fd)
            os.close(self.write_fd)  # ends the thread
            self.write_fd = -1

    def _watch(self, read_fd: int) -> None:
        with contextlib.closing(os.fdopen(read_fd, "rb", buffering=0)) as pipe:
            while numbers := pipe.read(16):
                if any(number in self.previous for number in numbers):
                    self._shut_down()

    def _shut_down(self) -> None:
        for context in list(self.contexts):
            context.try_shutdown()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        signal.signal(number, IGNORE)
        self.struck.add(number)
        former = self.previous.get(number)
        handler = former if callable(former) else IGNORE
        try:
            self._shut_down()  # whoever catches KeyboardInterrupt finds rclpy shut down, whichever thread came first
        finally:
            signal.signal(number, handler)
        handler(number, frame)

    @staticmethod
    def _numbers(options: SignalHandlerOptions) -> list[int]:
        wanted = ((SignalHandlerOptions.SIGINT, signal.SIGINT), (SignalHandlerOptions.SIGTERM, signal.SIGTERM))
        return [number for option, number in wanted if options & option]


@functools.cache
def _handlers() -> _Handlers:
    return _Handlers()


def install_signal_handlers(options: SignalHandlerOptions = SignalHandlerOptions.ALL) -> None:
    """Has the signals shut the contexts down; SIGINT still raises KeyboardInterrupt. Only from the main thread."""
    _handlers().install(options)


def get_current_signal_handlers_options() -> SignalHandlerOptions:
    """Which signals are handled."""
    return _handlers().options


def uninstall_signal_handlers() -> None:
    """Puts the former handlers back."""
    _handlers().uninstall()


def handlers_installed() -> bool:
    """Whether SIGINT ends waits."""
    return bool(_handlers().options & SignalHandlerOptions.SIGINT)


def watch_context(context: Context) -> None:
    """Has the signals shut this context down too."""
    _handlers().watch(context)


def forget_interrupt() -> None:
    """Has CPython forget a SIGINT that struck inside `exec` of a text, as the codecs of messages are made: it would end the process by
    that signal at its exit, though the KeyboardInterrupt was caught. Only another `exec` clears that flag of the interpreter.
    """
    exec("")
