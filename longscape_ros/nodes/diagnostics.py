# SPDX-License-Identifier: Apache-2.0
"""How the predictor node is doing: levels, texts and figures for ``/diagnostics``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from longscape_ros.contract import NANOSECONDS
from longscape_ros.messages import time_message
from longscape_ros.runtime.statistics import Rolling

_REFUSED_IMAGES = ("images_invalid", "frames_duplicate", "frames_out_of_order", "frames_ahead")
_REFUSED_COMMANDS = ("commands_invalid", "plans_duplicate", "plans_out_of_order", "plans_past", "plans_unknown", "plans_dropped")
_STALE = ("images_stale", "commands_stale")
_NOT_YET = "none yet"

WAITING_FOR_CLOCK = (
    "use_sim_time is true and nothing has come on /clock; play the bag with 'ros2 bag play --clock', start the simulator, or set "
    "use_sim_time to false."
)
"""Why the node has no time, and what to do."""

STILL_S = 1.0
"""Real seconds without a change after which simulated time stands still."""

_OTHER_CLOCK = "synchronize the camera's clock, or set image_stamp to receive"


class Level(IntEnum):
    """The levels of diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2
    STALE = 3


@dataclass(frozen=True, slots=True)
class Health:
    """One line of the diagnostics.

    Args:
        name: Which part of the node.
        level: How it is.
        message: In words.
        values: Figures.
    """

    name: str
    level: Level
    message: str
    values: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ClockReading:
    """The node's clock.

    Args:
        now_ns: What it shows.
        simulated: Whether it follows ``/clock``; it shows 0 until something came there.
        publishers: How many publish on ``/clock``.
    """

    now_ns: int
    simulated: bool = False
    publishers: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """What the diagnostics are made from.

    Args:
        state: Of the lifecycle.
        counters: Ever counted, by name.
        timings_ms: Recent durations, by name.
        image_age_s: How long ago the newest image was seen; None: there is none.
        trouble: Why a better backend does not run the model, although it should work here; empty: all is well.
        model: Figures of the model.
        fault: Why the node could not be configured; empty: it could.
        surprise: How far the newest image that could be compared is from what was predicted of it; NaN: the commands had changed; None:
            none was compared yet.
        surprise_threshold: What is a surprise; 0: nothing is compared.
        image_age_ms: Of images when they arrived.
        clock: The node's.
    """

    state: str
    counters: Mapping[str, int] = field(default_factory=dict)
    timings_ms: Mapping[str, Rolling] = field(default_factory=dict)
    image_age_s: float | None = None
    trouble: str = ""
    model: Mapping[str, str] = field(default_factory=dict)
    fault: str = ""
    surprise: float | None = None
    surprise_threshold: float = 0.0
    image_age_ms: Rolling = field(default_factory=Rolling)
    clock: ClockReading = field(default_factory=lambda: ClockReading(0))


class Monitor:
    """Judges reports by what happened since the one before.

    Args:
        image_timeout_s: For so long there may be no image; may be replaced.
    """

    def __init__(self, image_timeout_s: float = 1.0) -> None:
        self.image_timeout_s = image_timeout_s
        self._before: Mapping[str, int] = {}
        self._before_s: float | None = None
        self._clock_ns: int | None = None
        self._clock_moved_s = 0.0  # when the clock was first seen to show that

    def judge(self, report: Report, now_s: float) -> tuple[Health, ...]:
        """The health of clock, camera, commands, inference, surprise and model.

        Args:
            report: Of now.
            now_s: Of a steady clock.
        """
        period_s = math.nan if self._before_s is None else now_s - self._before_s
        news = {name: count - self._before.get(name, 0) for name, count in report.counters.items()}
        self._before, self._before_s = dict(report.counters), now_s
        if report.state not in ("inactive", "active"):
            level = Level.ERROR if report.fault else Level.OK
            return (Health("model", level, report.fault or f"the node is {report.state}", {"state": report.state}),)
        clock, still = self._clock(report, news, period_s, now_s)
        return (
            clock,
            self._camera(report, news, period_s, still),
            _commands(report, news, period_s),
            _inference(report, news, period_s),
            _surprise(report, news),
            Health("model", *_model(report), {"state": report.state, **report.model}),
        )

    def _clock(self, report: Report, news: Mapping[str, int], period_s: float, now_s: float) -> tuple[Health, bool]:
        """The health of the clock, and whether simulated time stands still."""
        clock = report.clock
        passed_s = math.nan if self._clock_ns is None else (clock.now_ns - self._clock_ns) / NANOSECONDS
        if clock.now_ns != self._clock_ns:
            self._clock_ns, self._clock_moved_s = clock.now_ns, now_s
        still_s = now_s - self._clock_moved_s
        still = clock.simulated and still_s >= STILL_S
        values = {
            "source": "/clock" if clock.simulated else "system",
            "now_s": f"{clock.now_ns / NANOSECONDS:.3f}",
            "rate": f"{passed_s / period_s:.2f}" if period_s > 0 and not math.isnan(passed_s) else _NOT_YET,
            **_counts(report, ("messages_before_clock", "clock_jumps")),
        }
        if clock.simulated and clock.now_ns == 0:
            return Health("clock", Level.STALE, WAITING_FOR_CLOCK, values), still
        if clock.publishers > 1:
            text = f"{clock.publishers} nodes publish on /clock, expected one; end the others"
            return Health("clock", Level.WARN, text, values), still
        if jumps := news.get("clock_jumps"):
            text = f"time went back or to another source ({jumps} times); images and commands were forgotten"
            return Health("clock", Level.WARN, text, values), still
        if still:
            return Health("clock", Level.WARN, f"simulated time has stood still for {still_s:.1f} s", values), still
        return Health("clock", Level.OK, "follows /clock" if clock.simulated else "the system's", values), still

    def _camera(self, report: Report, news: Mapping[str, int], period_s: float, still: bool) -> Health:
        values = {"rate_hz": _rate(news, "images", period_s), "age_s": _number(report.image_age_s)}
        values |= {f"arrival_age_ms_p{percent}": _number(report.image_age_ms.percentile(percent)) for percent in (5, 50, 95)}
        values |= _counts(report, ("images", "images_lost", "images_not_ready", "images_skipped", "images_stale", "frames_missing"))
        values |= _counts(report, _REFUSED_IMAGES)
        refused = sum(news.get(name, 0) for name in _REFUSED_IMAGES)
        if ahead := news.get("frames_ahead"):
            text = f"{ahead} images are dated later than the node's clock: {_OTHER_CLOCK}"
            return Health("camera", Level.WARN, text, values)
        if report.image_age_s is None:
            return Health("camera", Level.STALE, "no image yet", values)
        if report.image_age_s > self.image_timeout_s and not news.get("images"):
            return Health("camera", Level.STALE, f"no image for {report.image_age_s:.1f} s", values)
        if still and not news.get("images"):
            return Health("camera", Level.OK, "no image, for simulated time stands still", values)
        if stale := news.get("images_stale"):
            remedy = f": {_OTHER_CLOCK}" if stale >= news.get("images", 0) else ""
            return Health("camera", Level.WARN, f"images are old when they arrive{remedy}", values)
        if refused:
            return Health("camera", Level.WARN, f"{refused} images could not be used", values)
        return Health("camera", Level.OK, "images arrive", values)


def diagnostic_array(health: Sequence[Health], node: str, hardware_id: str, stamp_ns: int, classes: Callable[[str], type]) -> Any:
    """diagnostic_msgs/DiagnosticArray of rclpy's classes."""
    status, pair = classes("diagnostic_msgs/msg/DiagnosticStatus"), classes("diagnostic_msgs/msg/KeyValue")
    message: Any = classes("diagnostic_msgs/msg/DiagnosticArray")()
    message.header.stamp = time_message(stamp_ns, classes)
    message.status = [
        status(
            level=bytes([part.level]),
            name=f"{node}: {part.name}",
            message=part.message,
            hardware_id=hardware_id,
            values=[pair(key=key, value=value) for key, value in part.values.items()],
        )
        for part in health
    ]
    return message


def _commands(report: Report, news: Mapping[str, int], period_s: float) -> Health:
    values = {"rate_hz": _rate(news, "commands", period_s)}
    values |= _counts(report, ("commands", "commands_stale", *_REFUSED_COMMANDS, "plans_ahead", "segmentation_restarts"))
    refused = sum(news.get(name, 0) for name in _REFUSED_COMMANDS)
    if not report.counters.get("commands") and not refused:
        return Health("commands", Level.STALE, "no command yet", values)
    if ahead := news.get("plans_ahead"):
        text = f"{ahead} commands begin long after they arrived: synchronize the clocks, or set stamp to receive in the topic mapping"
        return Health("commands", Level.WARN, text, values)
    if news.get("commands_stale"):
        return Health("commands", Level.WARN, "a stream of commands is stale", values)
    if news.get("images_not_ready"):
        return Health("commands", Level.WARN, "no command reaches beyond the newest image", values)
    if refused:
        return Health("commands", Level.WARN, f"{refused} commands could not be used", values)
    return Health("commands", Level.OK, "commands arrive", values)


def _inference(report: Report, news: Mapping[str, int], period_s: float) -> Health:
    values = {"rate_hz": _rate(news, "predictions", period_s)}
    for name, times in report.timings_ms.items():
        values |= {f"{name}_ms_p{percent}": _number(times.percentile(percent)) for percent in (5, 50, 95)}
    values |= _counts(report, ("requests", "requests_dropped", "predictions", "inference_errors", "process_cpu_ms", "graphs_cpu_ms"))
    if news.get("inference_errors"):
        return Health("inference", Level.ERROR, f"{news['inference_errors']} predictions failed", values)
    if report.state != "active":
        return Health("inference", Level.OK, "inactive", values)
    if news.get("requests") and not news.get("predictions") and not math.isnan(period_s):
        return Health("inference", Level.WARN, "no prediction was finished", values)
    if any(news.get(name) for name in _STALE):
        return Health("inference", Level.WARN, "predictions are made from stale input", values)
    return Health("inference", Level.OK, "predicting" if news.get("predictions") else "nothing to predict from", values)


def _surprise(report: Report, news: Mapping[str, int]) -> Health:
    values = {"error": _number(report.surprise), "threshold": f"{report.surprise_threshold:g}"}
    values |= _counts(report, ("images_compared", "images_surprising", "images_not_comparable"))
    if not report.surprise_threshold > 0:
        return Health("surprise", Level.OK, "off", values)
    if surprising := news.get("images_surprising"):
        return Health("surprise", Level.WARN, f"{surprising} images are not as predicted", values)
    if news.get("images_compared"):
        return Health("surprise", Level.OK, "images are as predicted", values)
    if news.get("images_not_comparable"):
        return Health("surprise", Level.OK, "not comparable: the commands have changed since the predictions", values)
    return Health("surprise", Level.OK, "nothing to compare", values)


def _model(report: Report) -> tuple[Level, str]:
    return (Level.WARN, report.trouble) if report.trouble else (Level.OK, "loaded")


def _counts(report: Report, names: Sequence[str]) -> dict[str, str]:
    return {name: str(report.counters[name]) for name in names if name in report.counters}


def _rate(news: Mapping[str, int], name: str, period_s: float) -> str:
    return f"{news.get(name, 0) / period_s:.2f}" if period_s > 0 else _NOT_YET


def _number(value: float | None) -> str:
    return _NOT_YET if value is None or math.isnan(value) else f"{value:.3f}"
