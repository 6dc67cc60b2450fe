# SPDX-License-Identifier: Apache-2.0
"""rclpy's Timer and Rate, and a guard condition."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from longscape_ros.embedded.clock import Clock, ClockChange, JumpThreshold, TimeJump
from longscape_ros.embedded.context import Context, get_default_context
from longscape_ros.embedded.exceptions import InvalidHandle, RCLError, ROSInterruptException
from longscape_ros.embedded.time import Duration

_CHANGES_OF_SOURCE = (ClockChange.ROS_TIME_ACTIVATED, ClockChange.ROS_TIME_DEACTIVATED)


class Timer:
    """Calls back at every period of its clock; periods that were missed are skipped, not made up for."""

    def __init__(
        self,
        callback: Callable[[], Any] | None,
        callback_group: Any,
        timer_period_ns: int,
        clock: Clock,
        *,
        context: Context | None = None,
        autostart: bool = True,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        if timer_period_ns < 0:
            raise RCLError(f"Got the timer period {timer_period_ns} ns, expected none below 0.")
        self._context = context or get_default_context()
        self._clock, self._wake = clock, wake
        self._period = int(timer_period_ns)
        self.callback, self.callback_group = callback, callback_group
        self._lock = threading.Lock()
        self._canceled, self._destroyed = not autostart, False
        self._last_ns = clock.now().nanoseconds
        self._next_ns = self._last_ns + self._period
        self._left_ns = 0  # until the next call, when the source of time changes
        threshold = JumpThreshold(min_forward=Duration(nanoseconds=1), min_backward=Duration(nanoseconds=-1))
        self._jumps = clock.create_jump_callback(threshold, pre_callback=self._before_jump, post_callback=self._on_jump)

    @property
    def clock(self) -> Clock:
        """The clock that counts."""
        return self._clock

    @property
    def timer_period_ns(self) -> int:
        """The period in nanoseconds; a change holds from the next call on."""
        return self._period

    @timer_period_ns.setter
    def timer_period_ns(self, value: int) -> None:
        self._period = int(value)
        self._wake()

    def is_ready(self) -> bool:
        """Whether it is due."""
        return not (self._canceled or self._destroyed) and self._next_ns <= self._clock.now().nanoseconds

    def is_canceled(self) -> bool:
        """Whether cancel() was called, and no reset() since."""
        return self._canceled

    def cancel(self) -> None:
        """Stops calling back."""
        self._canceled = True

    def reset(self) -> None:
        """Starts a new period now."""
        with self._lock:
            self._next_ns = self._clock.now().nanoseconds + self._period
            self._canceled = False
        self._wake()

    def time_since_last_call(self) -> int:
        """Nanoseconds since it last called back."""
        return self._clock.now().nanoseconds - self._last_ns

    def time_until_next_call(self) -> int | None:
        """Nanoseconds until it is due, negative if it is late; None once canceled."""
        return None if self._canceled else self._next_ns - self._clock.now().nanoseconds

    def is_driven(self) -> bool:
        """Whether its clock moves only by /clock."""
        return self._clock._is_driven()

    def take(self) -> Callable[[], Any] | None:
        """Starts the next period and gives what to call; None if it is not due."""
        with self._lock:
            if not self.is_ready():
                return None
            now = self._clock.now().nanoseconds
            self._last_ns = now
            self._next_ns += self._period
            if self._next_ns <= now:
                behind = now - self._next_ns
                self._next_ns += (behind // self._period + 1) * self._period if self._period else behind
            return self.callback

    def destroy(self) -> None:
        """Ends it."""
        self._destroyed = True
        self._jumps.unregister()

    def _before_jump(self) -> None:
        now = self._clock.now().nanoseconds
        with self._lock:
            self._left_ns = self._next_ns - now if now else 0

    def _on_jump(self, jump: TimeJump) -> None:
        now = self._clock.now().nanoseconds
        with self._lock:
            if jump.clock_change in _CHANGES_OF_SOURCE:
                if now and self._left_ns:  # as rcl reckons: what was left of the period has passed in the new one
                    self._last_ns = now - self._left_ns
                    self._next_ns = self._last_ns + self._period
            elif now < self._last_ns:
                self._last_ns, self._next_ns = now, now + self._period
        self._wake()


class Rate:
    """Sleeps to the end of each period; another thread must spin the node."""

    def __init__(self, timer: Timer, *, context: Context) -> None:
        self._timer = timer
        self._ended = False
        self._destroyed = False
        self._period_over = threading.Condition()
        self._periods = 0
        timer.callback = self._tick
        context.on_shutdown(self._on_shutdown)

    def sleep(self) -> None:
        """Sleeps until the timer next fires.

        Raises:
            ROSInterruptException: shutdown ended the sleep.
            RuntimeError: the rate has been destroyed.
        """
        with self._period_over:
            self._check()
            start = self._periods
            self._period_over.wait_for(lambda: self._periods != start or self._destroyed or self._ended)
            if self._ended:
                raise ROSInterruptException()

    def destroy(self) -> None:
        """Ends every sleep."""
        with self._period_over:
            self._destroyed = True
            self._period_over.notify_all()

    def _check(self) -> None:
        if self._ended:
            raise ROSInterruptException()
        if self._destroyed:
            raise RuntimeError("Rate cannot sleep because it has been destroyed")
        if self._timer._destroyed:
            raise InvalidHandle("Rate cannot sleep because the timer has been destroyed")

    def _tick(self) -> None:
        with self._period_over:
            self._periods += 1
            self._period_over.notify_all()

    def _on_shutdown(self) -> None:
        with self._period_over:
            self._ended = True
            self._period_over.notify_all()


class GuardCondition:
    """Calls back after trigger(), from whatever thread."""

    def __init__(
        self,
        callback: Callable[[], Any] | None,
        callback_group: Any,
        context: Context | None = None,
        *,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._context = context or get_default_context()
        self.callback, self.callback_group = callback, callback_group
        self._wake = wake
        self._triggered = False
        self._destroyed = False

    def trigger(self) -> None:
        """Has the callback called by the executor."""
        if self._destroyed:
            raise InvalidHandle("the guard condition has been destroyed")
        self._triggered = True
        self._wake()

    def is_ready(self) -> bool:
        """Whether it was triggered."""
        return self._triggered and not self._destroyed

    def take(self) -> Callable[[], Any] | None:
        """Gives what to call; None if it was not triggered."""
        if not self.is_ready():
            return None
        self._triggered = False
        return self.callback or (lambda: None)

    def destroy(self) -> None:
        """Ends it."""
        self._destroyed = True
