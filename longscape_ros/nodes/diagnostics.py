# SPDX-License-Identifier: Apache-2.0
"""How the predictor node is doing: levels, texts and figures for ``/diagnostics``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from longscape_ros.messages import time_message
from longscape_ros.runtime.statistics import Rolling

_REFUSED_IMAGES = ("images_invalid", "frames_duplicate", "frames_out_of_order")
_REFUSED_COMMANDS = ("commands_invalid", "plans_duplicate", "plans_out_of_order", "plans_past", "plans_unknown", "plans_dropped")
_STALE = ("images_stale", "commands_stale")
_NOT_YET = "none yet"


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


class Monitor:
    """Judges reports by what happened since the one before.

    Args:
        image_timeout_s: For so long there may be no image; may be replaced.
    """

    def __init__(self, image_timeout_s: float = 1.0) -> None:
        self.image_timeout_s = image_timeout_s
        self._before: Mapping[str, int] = {}
        self._before_s: float | None = None

    def judge(self, report: Report, now_s: float) -> tuple[Health, ...]:
        """The health of camera, commands, inference, surprise and model.

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
        return (
            self._camera(report, news, period_s),
            _commands(report, news, period_s),
            _inference(report, news, period_s),
            _surprise(report, news),
            Health("model", *_model(report), {"state": report.state, **report.model}),
        )

    def _camera(self, report: Report, news: Mapping[str, int], period_s: float) -> Health:
        values = {"rate_hz": _rate(news, "images", period_s), "age_s": _number(report.image_age_s)}
        values |= _counts(report, ("images", "images_lost", "images_not_ready", "images_skipped", "images_stale", "frames_missing"))
        values |= _counts(report, _REFUSED_IMAGES)
        refused = sum(news.get(name, 0) for name in _REFUSED_IMAGES)
        if report.image_age_s is None:
            return Health("camera", Level.STALE, "no image yet", values)
        if report.image_age_s > self.image_timeout_s and not news.get("images"):
            return Health("camera", Level.STALE, f"no image for {report.image_age_s:.1f} s", values)
        if news.get("images_stale"):
            return Health("camera", Level.WARN, "images are old when they arrive", values)
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
    values |= _counts(report, ("commands", "commands_stale", *_REFUSED_COMMANDS, "segmentation_restarts", "clock_jumps"))
    refused = sum(news.get(name, 0) for name in _REFUSED_COMMANDS)
    if not report.counters.get("commands") and not refused:
        return Health("commands", Level.STALE, "no command yet", values)
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
