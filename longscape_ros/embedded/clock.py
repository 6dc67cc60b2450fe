# SPDX-License-Identifier: Apache-2.0
"""rclpy's clocks: system, steady, and ROS time that can follow /clock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import IntEnum
from typing import Any

from longscape_ros.embedded.context import Context, get_default_context
from longscape_ros.embedded.exceptions import NotInitializedException
from longscape_ros.embedded.time import NANOSECONDS, ClockType, Duration, Time


class ClockChange(IntEnum):
    """What a time jump did to the source of time."""

    ROS_TIME_NO_CHANGE = 1
    ROS_TIME_ACTIVATED = 2
    ROS_TIME_DEACTIVATED = 3
    SYSTEM_TIME_NO_CHANGE = 4


class JumpThreshold:
    """From which jump on a callback is called."""

    def __init__(self, *, min_forward: Duration | None, min_backward: Duration | None, on_clock_change: bool = True) -> None:
        if min_forward is not None and min_forward.nanoseconds <= 0:
            raise ValueError("min_forward must be a positive non-zero duration")
        if min_backward is not None and min_backward.nanoseconds >= 0:
            raise ValueError("min_backward must be a negative non-zero duration")
        if min_forward is None and min_backward is None and not on_clock_change:
            raise ValueError("At least one jump threshold must be enabled")
        self.min_forward, self.min_backward, self.on_clock_change = min_forward, min_backward, on_clock_change

    def passed_by(self, jump: TimeJump) -> bool:
        """Whether the jump is to be reported."""
        if jump.clock_change in (ClockChange.ROS_TIME_ACTIVATED, ClockChange.ROS_TIME_DEACTIVATED):
            return self.on_clock_change
        forward = self.min_forward is not None and jump.delta >= self.min_forward
        backward = self.min_backward is not None and jump.delta <= self.min_backward
        return forward or backward


class TimeJump:
    """A jump of a clock: by how much, and whether its source changed; then it is said to be 0."""

    def __init__(self, clock_change: ClockChange, delta: Duration) -> None:
        if not isinstance(clock_change, ClockChange):
            raise TypeError("clock_change must be an instance of rclpy.clock.ClockChange")
        self._clock_change, self._delta = clock_change, delta

    @property
    def clock_change(self) -> ClockChange:
        """Whether the source of time changed."""
        return self._clock_change

    @property
    def delta(self) -> Duration:
        """The size of the jump."""
        return self._delta


class JumpHandle:
    """A registered pair of jump callbacks; unregister() or leaving the `with` block ends it."""

    def __init__(
        self,
        *,
        clock: Clock,
        threshold: JumpThreshold,
        pre_callback: Callable[[], None] | None,
        post_callback: Callable[[TimeJump], None] | None,
    ) -> None:
        if pre_callback is None and post_callback is None:
            raise ValueError("One of pre_callback or post_callback must be callable")
        self._clock, self.threshold = clock, threshold
        self.pre_callback, self.post_callback = pre_callback, post_callback
        clock._jump_handles.append(self)

    def unregister(self) -> None:
        """Ends the calls."""
        if self in self._clock._jump_handles:
            self._clock._jump_handles.remove(self)

    def __enter__(self) -> JumpHandle:
        return self

    def __exit__(self, *_: object) -> None:
        self.unregister()


class Clock:
    """A clock of one type. `Clock(clock_type=ROS_TIME)` is a ROSClock."""

    _clock_type: ClockType
    _jump_handles: list[JumpHandle]

    def __new__(cls, *, clock_type: ClockType = ClockType.SYSTEM_TIME) -> Clock:
        if not isinstance(clock_type, ClockType):
            raise TypeError("Clock type must be a ClockType enum")
        clock = super().__new__(ROSClock if clock_type is ClockType.ROS_TIME else cls)
        clock._clock_type = clock_type
        clock._jump_handles = []
        clock._start()
        return clock

    def _start(self) -> None:
        """Sets what a kind of clock needs; nothing here."""

    @property
    def clock_type(self) -> ClockType:
        """What the clock counts."""
        return self._clock_type

    def __repr__(self) -> str:
        return f"Clock(clock_type={self._clock_type.name})"

    def _nanoseconds(self) -> int:
        return time.monotonic_ns() if self._clock_type is ClockType.STEADY_TIME else time.time_ns()

    def now(self) -> Time:
        """The current time."""
        return Time(nanoseconds=self._nanoseconds(), clock_type=self._clock_type)

    def create_jump_callback(
        self,
        threshold: JumpThreshold,
        *,
        pre_callback: Callable[[], None] | None = None,
        post_callback: Callable[[TimeJump], None] | None = None,
    ) -> JumpHandle:
        """Calls back before and after jumps that pass the threshold."""
        return JumpHandle(clock=self, threshold=threshold, pre_callback=pre_callback, post_callback=post_callback)

    def sleep_until(self, until: Time, context: Context | None = None) -> bool:
        """Sleeps until a time of this clock; False if shutdown or a change of the time source ended it.

        Raises:
            NotInitializedException: the context is not initialized.
            ValueError: the time is of another clock.
        """
        context = context or get_default_context()
        if not context.ok():
            raise NotInitializedException()
        if until.clock_type != self._clock_type:
            raise ValueError("until's clock type does not match this clock's type")
        woken = threading.Event()
        source_changed = False

        def on_jump(jump: TimeJump) -> None:
            nonlocal source_changed
            source_changed |= jump.clock_change in (ClockChange.ROS_TIME_ACTIVATED, ClockChange.ROS_TIME_DEACTIVATED)
            woken.set()

        threshold = JumpThreshold(min_forward=Duration(nanoseconds=1), min_backward=None)
        context.on_shutdown(woken.set)
        with self.create_jump_callback(threshold, post_callback=on_jump):
            while context.ok() and not source_changed and (left := until.nanoseconds - self._nanoseconds()) > 0:
                woken.wait(left / NANOSECONDS if not self._is_driven() else None)
                woken.clear()
        return context.ok() and not source_changed

    def sleep_for(self, rel_time: Duration, context: Context | None = None) -> bool:
        """Sleeps for a duration of this clock."""
        return self.sleep_until(self.now() + rel_time, context)

    def _is_driven(self) -> bool:
        """Whether time moves only when someone sets it."""
        return False


class ROSClock(Clock):
    """ROS time: the system's, or what /clock says while that is active."""

    _override: int | None
    _active: bool

    def __new__(cls) -> ROSClock:
        clock = Clock.__new__(Clock, clock_type=ClockType.ROS_TIME)
        if not isinstance(clock, ROSClock):
            raise AssertionError("ROS_TIME makes a ROSClock")
        return clock

    def __init__(self, **_: Any) -> None:
        pass

    def _start(self) -> None:
        self._override, self._active = 0, False

    def _nanoseconds(self) -> int:
        return self._override or 0 if self._active else time.time_ns()

    def _is_driven(self) -> bool:
        return self._active

    @property
    def ros_time_is_active(self) -> bool:
        """Whether the time comes from /clock."""
        return self._active

    def _set_ros_time_is_active(self, enabled: bool) -> None:
        if enabled != self._active:
            change = ClockChange.ROS_TIME_ACTIVATED if enabled else ClockChange.ROS_TIME_DEACTIVATED
            self._jump(change, lambda: setattr(self, "_active", enabled))

    def set_ros_time_override(self, time: Time) -> None:
        """Sets what the clock shows while ROS time is active."""
        if not isinstance(time, Time):
            raise TypeError(f"Time must be specified as rclpy.time.Time. Received type: {type(time)}")
        value = time.nanoseconds
        if self._active:
            self._jump(ClockChange.ROS_TIME_NO_CHANGE, lambda: setattr(self, "_override", value), value - self._nanoseconds())
        else:
            self._override = value

    def _jump(self, change: ClockChange, apply: Callable[[], None], delta_ns: int = 0) -> None:
        jump = TimeJump(change, Duration(nanoseconds=delta_ns))
        handles = [handle for handle in self._jump_handles if handle.threshold.passed_by(jump)]
        for handle in handles:
            if handle.pre_callback is not None:
                handle.pre_callback()
        apply()
        for handle in handles:
            if handle.post_callback is not None:
                handle.post_callback(jump)
