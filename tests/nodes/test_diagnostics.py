# SPDX-License-Identifier: Apache-2.0
"""How counts and times become levels and texts."""

from __future__ import annotations

from typing import Any

import pytest

from longscape_ros.bags.writer import bag_types
from longscape_ros.nodes.diagnostics import ClockReading, Health, Level, Monitor, Report, diagnostic_array
from longscape_ros.runtime.statistics import Rolling


def health(*reports: Report) -> dict[str, Health]:
    """What a monitor says of the last of some reports, a second apart."""
    monitor = Monitor(image_timeout_s=1.0)
    for second, report in enumerate(reports):
        said = monitor.judge(report, float(second))
    return {part.name: part for part in said}


def report(state: str = "active", image_age_s: float | None = 0.05, trouble: str = "", **counters: int) -> Report:
    times = Rolling()
    times.add(12.5)
    return Report(state, counters, {"latency": times, "queue": Rolling()}, image_age_s, trouble, {"backend": "ort_cpu"})


REMEDY = "synchronize the camera's clock, or set image_stamp to receive"
SYNCHRONIZE = "synchronize the clocks, or set stamp to receive in the topic mapping"
BEFORE = {"images": 100, "commands": 10, "requests": 50, "predictions": 50}
AFTER = {"images": 120, "commands": 12, "requests": 60, "predictions": 60}


def test_a_node_that_works_is_ok_in_all_its_parts():
    said = health(report(**BEFORE), report(**AFTER))
    assert {part.level for part in said.values()} == {Level.OK}
    assert said["camera"].values["rate_hz"] == "20.00"
    assert said["inference"].values["rate_hz"] == "10.00"
    assert said["inference"].values["latency_ms_p95"] == "12.500"
    assert said["inference"].values["queue_ms_p50"] == "none yet"
    assert said["model"].values == {"state": "active", "backend": "ort_cpu"}


@pytest.mark.parametrize(
    ("part", "news", "level", "text"),
    [
        ("camera", {"images_invalid": 3}, Level.WARN, "3 images could not be used"),
        ("camera", {"frames_out_of_order": 1, "frames_duplicate": 1}, Level.WARN, "2 images could not be used"),
        ("camera", {"images_stale": 5}, Level.WARN, "images are old when they arrive"),
        ("camera", {"images_stale": 20}, Level.WARN, f"images are old when they arrive: {REMEDY}"),
        ("camera", {"frames_ahead": 3, "images_stale": 2}, Level.WARN, f"3 images are dated later than the node's clock: {REMEDY}"),
        ("commands", {"plans_out_of_order": 1, "plans_duplicate": 1, "plans_dropped": 1}, Level.WARN, "3 commands could not be used"),
        ("clock", {"clock_jumps": 2}, Level.WARN, "time went back or to another source (2 times); images and commands were forgotten"),
        ("commands", {"commands_invalid": 1, "plans_past": 1}, Level.WARN, "2 commands could not be used"),
        ("commands", {"plans_ahead": 2, "images_not_ready": 1}, Level.WARN, f"2 commands begin long after they arrived: {SYNCHRONIZE}"),
        ("commands", {"commands_stale": 1}, Level.WARN, "a stream of commands is stale"),
        ("commands", {"images_not_ready": 1}, Level.WARN, "no command reaches beyond the newest image"),
        ("inference", {"inference_errors": 2}, Level.ERROR, "2 predictions failed"),
        ("inference", {"commands_stale": 1}, Level.WARN, "predictions are made from stale input"),
    ],
)
def test_what_went_wrong_since_the_last_report_is_said(part, news, level, text):
    said = health(report(**BEFORE), report(**AFTER, **news))[part]
    assert (said.level, said.message) == (level, text)


def test_what_went_wrong_before_the_last_report_is_over():
    wrong = {"images_invalid": 3, "inference_errors": 2}
    said = health(report(**BEFORE, **wrong), report(**AFTER, **wrong))
    assert {part.level for part in said.values()} == {Level.OK}
    assert said["camera"].values["images_invalid"] == "3"


def test_a_camera_that_is_silent_is_stale():
    assert health(report(image_age_s=None))["camera"].message == "no image yet"
    said = health(report(**BEFORE), report(image_age_s=2.04, **BEFORE))["camera"]
    assert (said.level, said.message) == (Level.STALE, "no image for 2.0 s")


def clocks(*readings: ClockReading, **counters: int) -> list[Health]:
    """What is said of the clock, a second apart, while images come or do not."""
    monitor = Monitor(image_timeout_s=1.0)
    return [monitor.judge(Report("active", counters, clock=reading), float(second))[0] for second, reading in enumerate(readings)]


def test_a_node_that_waits_for_its_clock_says_what_to_start():
    (said,) = clocks(ClockReading(0, simulated=True), messages_before_clock=7)
    assert (said.name, said.level) == ("clock", Level.STALE)
    assert "ros2 bag play --clock" in said.message
    assert (said.values["source"], said.values["messages_before_clock"]) == ("/clock", "7")


def test_simulated_time_has_a_rate_and_may_stand_still():
    said = clocks(*(ClockReading(ns, simulated=True, publishers=1) for ns in (10**9, 11 * 10**9, 11 * 10**9, 11 * 10**9, 12 * 10**9)))
    assert [health.values["rate"] for health in said] == ["none yet", "10.00", "0.00", "0.00", "1.00"]
    assert [health.level for health in said] == [Level.OK, Level.OK, Level.WARN, Level.WARN, Level.OK]
    assert [health.message for health in said[2:]] == [
        "simulated time has stood still for 1.0 s",
        "simulated time has stood still for 2.0 s",
        "follows /clock",
    ]


def test_several_clocks_are_a_fault_that_is_named():
    (said,) = clocks(ClockReading(10**9, simulated=True, publishers=2))
    assert (said.level, said.message) == (Level.WARN, "2 nodes publish on /clock, expected one; end the others")


def test_the_systems_clock_needs_nothing():
    said = clocks(ClockReading(10**9), ClockReading(10**9))
    assert [(health.level, health.message, health.values["source"]) for health in said] == [(Level.OK, "the system's", "system")] * 2


def test_commands_of_which_none_can_be_used_are_not_taken_for_none():
    said = health(report(images=1), report(images=5, commands_invalid=2))["commands"]
    assert (said.level, said.message) == (Level.WARN, "2 commands could not be used")


def test_a_robot_that_was_never_commanded_is_stale():
    said = health(report(images=5))["commands"]
    assert (said.level, said.message) == (Level.STALE, "no command yet")


def test_requests_without_predictions_are_a_warning():
    said = health(report(**BEFORE), report(**{**AFTER, "predictions": 50}))["inference"]
    assert (said.level, said.message) == (Level.WARN, "no prediction was finished")


def test_an_inactive_node_is_ok_and_says_so():
    said = health(report("inactive", **BEFORE), report("inactive", **BEFORE))
    assert (said["inference"].level, said["inference"].message) == (Level.OK, "inactive")


def test_a_slower_backend_than_there_should_be_is_a_warning():
    said = health(report(trouble="building engines: 3 of 6, 42 %", **AFTER))["model"]
    assert (said.level, said.message) == (Level.WARN, "building engines: 3 of 6, 42 %")


def test_a_node_that_could_not_be_configured_says_why():
    assert health(Report("unconfigured")) == {"model": Health("model", Level.OK, "the node is unconfigured", {"state": "unconfigured"})}
    said = health(Report("unconfigured", fault="no such bundle"))["model"]
    assert (said.level, said.message) == (Level.ERROR, "no such bundle")


def test_the_message_names_the_node_its_parts_and_the_model():
    kinds = bag_types()

    def classes(name: str) -> Any:
        if name == "diagnostic_msgs/msg/DiagnosticArray":
            empty = kinds("std_msgs/msg/Header")(stamp=kinds("builtin_interfaces/msg/Time")(0, 0), frame_id="")
            return lambda: kinds(name)(header=empty, status=[])
        return kinds(name)

    message = diagnostic_array([Health("camera", Level.STALE, "no image yet", {"age_s": "none yet"})], "predictor", "tiny@1", 7, classes)
    status = message.status[0]
    assert (status.level, status.name, status.hardware_id) == (b"\x03", "predictor: camera", "tiny@1")
    assert [(pair.key, pair.value) for pair in status.values] == [("age_s", "none yet")]
    assert message.header.stamp.nanosec == 7


@pytest.mark.parametrize(
    ("news", "level", "text"),
    [
        ({"images_compared": 5, "images_surprising": 2, "images_not_comparable": 1}, Level.WARN, "2 images are not as predicted"),
        ({"images_compared": 5, "images_not_comparable": 1}, Level.OK, "images are as predicted"),
        ({"images_not_comparable": 1}, Level.OK, "not comparable: the commands have changed since the predictions"),
        ({}, Level.OK, "nothing to compare"),
    ],
)
def test_surprises_since_the_last_report_are_warned_of(news, level, text):
    before = Report("active", BEFORE, surprise_threshold=9.0)
    said = health(before, Report("active", {**AFTER, **news}, surprise=3.25, surprise_threshold=9.0))["surprise"]
    assert (said.level, said.message) == (level, text)
    assert (said.values["error"], said.values["threshold"]) == ("3.250", "9")


def test_what_was_surprising_before_the_last_report_is_over():
    counters = {"images_compared": 5, "images_surprising": 2}
    said = health(*(Report("active", counters, surprise=1.0, surprise_threshold=9.0) for _ in range(2)))["surprise"]
    assert (said.level, said.message) == (Level.OK, "nothing to compare")


def test_a_threshold_of_zero_means_off():
    assert health(Report("active", AFTER))["surprise"].message == "off"
