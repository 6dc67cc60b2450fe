# SPDX-License-Identifier: Apache-2.0
"""rclpy's loggers: severities per logger name, throttling, the console's format."""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from types import FrameType
from typing import Any, TextIO

from longscape_ros.embedded.exceptions import UnknownROSArgsError

_FORMAT = "[{severity}] [{time}] [{name}]: {message}"
_COLOURS = {10: "\033[32m", 30: "\033[33m", 40: "\033[31m", 50: "\033[31m"}


class LoggingSeverity(IntEnum):
    """How severe a message is."""

    UNSET = 0
    DEBUG = 10
    INFO = 20
    WARN = 30
    ERROR = 40
    FATAL = 50


@dataclass(frozen=True)
class Record:
    """One logged line: what a sink such as /rosout gets."""

    severity: LoggingSeverity
    stamp_ns: int
    name: str
    message: str
    file: str
    function: str
    line: int


@dataclass
class _Site:
    """What a line of code that logs has done so far."""

    settings: tuple[Any, ...]
    seen: bool = False
    last_ns: int | None = None


@dataclass
class _Settings:
    """The process's logging: levels by logger name, and sinks by logger name."""

    default: LoggingSeverity = LoggingSeverity.INFO
    levels: dict[str, LoggingSeverity] = field(default_factory=dict)
    sinks: dict[str, Callable[[Record], None]] = field(default_factory=dict)

    def effective(self, name: str) -> LoggingSeverity:
        while name:
            level = self.levels.get(name, LoggingSeverity.UNSET)
            if level is not LoggingSeverity.UNSET:
                return level
            name = name.rpartition(".")[0]
        return self.default


@functools.cache
def _settings() -> _Settings:
    return _Settings()


class RcutilsLogger:
    """A logger by name; children and levels follow the dots in it. The filters of lines of code are the object's, not the name's."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self._sites: dict[tuple[str, int, int], _Site] = {}
        self._lock = threading.Lock()

    def get_child(self, name: str) -> RcutilsLogger:
        """The logger below this one."""
        if not name:
            raise ValueError("Child logger name must not be empty.")
        return RcutilsLogger(f"{self.name}.{name}" if self.name else name)

    def set_level(self, level: LoggingSeverity | int) -> None:
        """Sets the least severity that is logged; UNSET inherits."""
        set_logger_level(self.name, level)

    def get_effective_level(self) -> LoggingSeverity:
        """The least severity that is logged."""
        return _settings().effective(self.name)

    def is_enabled_for(self, severity: LoggingSeverity | int) -> bool:
        """Whether a message of this severity would be logged."""
        return LoggingSeverity(severity) >= self.get_effective_level()

    def log(
        self,
        message: str,
        severity: LoggingSeverity | int,
        *,
        name: str | None = None,
        once: bool = False,
        skip_first: bool = False,
        throttle_duration_sec: float | None = None,
        throttle_time_source_type: Any = None,
    ) -> bool:
        """Logs a message; False if its level or a filter of this line of code held it back.

        Args:
            message: what to say.
            severity: how severe it is.
            name: another logger's name to show.
            once: only the first time that this line is reached.
            skip_first: not the first time.
            throttle_duration_sec: at most once in so many seconds.
            throttle_time_source_type: the clock for that, the system's steady one by default.

        Raises:
            ValueError: name, severity or filters of one line of code changed between calls.
        """
        severity = LoggingSeverity(severity)
        if not self.is_enabled_for(severity):
            return False
        frame = _caller()
        shown = name or self.name
        filters = (shown, severity, once, skip_first, throttle_duration_sec)
        if not self._passes(frame, filters, throttle_time_source_type):
            return False
        _emit(Record(severity, time.time_ns(), shown, str(message), frame.f_code.co_filename, frame.f_code.co_name, frame.f_lineno))
        return True

    def _passes(self, frame: FrameType, filters: tuple[Any, ...], clock: Any) -> bool:
        """Applies the filters of the calling line, and checks that they did not change."""
        _, _, once, skip_first, throttle = filters
        key = (frame.f_code.co_filename, frame.f_lineno, frame.f_lasti)
        with self._lock:
            site = self._sites.setdefault(key, _Site(filters))
            if site.settings != filters:
                raise ValueError("Logger name, severity and filters cannot be changed between calls from one line.")
            first, site.seen = not site.seen, True
            if (skip_first and first) or (once and site.last_ns is not None):
                return False
            now = time.monotonic_ns() if clock is None else clock.now().nanoseconds
            if throttle is not None and site.last_ns is not None and 0 <= now - site.last_ns < throttle * 1e9:
                return False
            site.last_ns = now
        return True

    def debug(self, message: str, **kwargs: Any) -> bool:
        """Logs with severity DEBUG."""
        return self.log(message, LoggingSeverity.DEBUG, **kwargs)

    def info(self, message: str, **kwargs: Any) -> bool:
        """Logs with severity INFO."""
        return self.log(message, LoggingSeverity.INFO, **kwargs)

    def warning(self, message: str, **kwargs: Any) -> bool:
        """Logs with severity WARN."""
        return self.log(message, LoggingSeverity.WARN, **kwargs)

    warn = warning

    def error(self, message: str, **kwargs: Any) -> bool:
        """Logs with severity ERROR."""
        return self.log(message, LoggingSeverity.ERROR, **kwargs)

    def fatal(self, message: str, **kwargs: Any) -> bool:
        """Logs with severity FATAL."""
        return self.log(message, LoggingSeverity.FATAL, **kwargs)


def _caller() -> FrameType:
    """The frame that logs: the first outside this file."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    if frame is None:
        raise AssertionError("a call has a caller")
    return frame


def _emit(record: Record) -> None:
    stream = sys.stdout if os.environ.get("RCUTILS_LOGGING_USE_STDOUT") == "1" else sys.stderr
    line = _formatted(record)
    if _coloured(stream):
        line = f"{_COLOURS.get(record.severity, '')}{line}\033[0m"
    stream.write(line + "\n")
    stream.flush()
    sink = _sink_of(record.name)
    if sink is not None:
        sink(record)


def _formatted(record: Record) -> str:
    moment = datetime.fromtimestamp(record.stamp_ns / 1e9)
    tokens = {
        "severity": record.severity.name,
        "name": record.name,
        "message": record.message,
        "time": f"{record.stamp_ns // 10**9}.{record.stamp_ns % 10**9:09d}",
        "time_as_nanoseconds": str(record.stamp_ns),
        "date_time_with_ms": moment.isoformat(sep=" ", timespec="milliseconds"),
        "file_name": record.file,
        "short_file_name": os.path.basename(record.file),
        "function_name": record.function,
        "line_number": str(record.line),
    }
    line = os.environ.get("RCUTILS_CONSOLE_OUTPUT_FORMAT", _FORMAT)
    for token, text in tokens.items():
        if token != "message":
            line = line.replace(f"{{{token}}}", text)
    return line.replace("{message}", tokens["message"])


def _coloured(stream: TextIO) -> bool:
    choice = os.environ.get("RCUTILS_COLORIZED_OUTPUT")
    return stream.isatty() if choice is None else choice == "1"


def _sink_of(name: str) -> Callable[[Record], None] | None:
    sinks = _settings().sinks
    while name:
        if name in sinks:
            return sinks[name]
        name = name.rpartition(".")[0]
    return None


def add_sink(name: str, sink: Callable[[Record], None]) -> None:
    """Gives every line of a logger and of those below it to a sink as well."""
    _settings().sinks[name] = sink


def remove_sink(name: str) -> None:
    """Ends what add_sink began."""
    _settings().sinks.pop(name, None)


def get_logger(name: str) -> RcutilsLogger:
    """The logger of a name."""
    if not name:
        raise ValueError("Logger name must not be empty.")
    return RcutilsLogger(name)


def set_logger_level(name: str, level: LoggingSeverity | int, detailed_error: bool = False) -> None:
    """Sets a logger's least severity."""
    _settings().levels[name] = LoggingSeverity(level)


def get_logger_level(name: str) -> LoggingSeverity:
    """The severity set for a logger, UNSET if none was."""
    return _settings().levels.get(name, LoggingSeverity.UNSET)


def get_logger_effective_level(name: str) -> LoggingSeverity:
    """The least severity that a logger logs."""
    return _settings().effective(name)


def get_logging_severity_from_string(log_severity: str) -> LoggingSeverity:
    """The severity of a name in any case."""
    try:
        return LoggingSeverity[log_severity.upper()]
    except KeyError:
        raise RuntimeError(f"Got the log level {log_severity!r}, expected one of {[level.name for level in LoggingSeverity]}.") from None


def set_levels(levels: dict[str, str]) -> None:
    """Applies the --log-level arguments: names to level names, "" for every logger."""
    for name, text in levels.items():
        try:
            level = get_logging_severity_from_string(text)
        except RuntimeError:
            raise UnknownROSArgsError(["--log-level", text]) from None
        if name:
            set_logger_level(name, level)
        else:
            _settings().default = level
