# SPDX-License-Identifier: Apache-2.0
"""Loggers: levels, filters by line of code, /rosout."""

from __future__ import annotations

import pytest

from rcl_interfaces.msg import Log
from rclpy.logging import LoggingSeverity, get_logger, get_logging_severity_from_string


def test_a_line_shows_severity_time_name_and_text(capsys):
    assert get_logger("a.b").info("hello")
    line = capsys.readouterr().err.strip()
    assert line.startswith("[INFO] [")
    assert line.endswith("] [a.b]: hello")


def test_a_level_holds_back_what_is_less_severe_and_is_inherited():
    logger = get_logger("levels")
    logger.set_level(LoggingSeverity.WARN)
    child = logger.get_child("c")
    assert (child.name, child.get_effective_level()) == ("levels.c", LoggingSeverity.WARN)
    assert (child.info("x"), child.warning("x")) == (False, True)
    child.set_level(LoggingSeverity.DEBUG)
    assert child.debug("x")
    assert not logger.is_enabled_for(LoggingSeverity.INFO)


def test_throttled_lines_pass_once_in_their_time():
    logger = get_logger("throttle")
    assert [logger.info("x", throttle_duration_sec=100.0) for _ in range(3)] == [True, False, False]
    assert [logger.info("x", throttle_duration_sec=0.0) for _ in range(2)] == [True, True]


def test_once_and_skip_first_count_per_line():
    logger = get_logger("once")
    assert [logger.info("x", once=True) for _ in range(3)] == [True, False, False]
    assert [logger.info("x", skip_first=True) for _ in range(3)] == [False, True, True]


def test_a_line_keeps_its_severity_and_filters():
    logger = get_logger("changing")
    with pytest.raises(ValueError, match="cannot be changed between calls"):
        [logger.log("x", severity, once=True) for severity in (LoggingSeverity.INFO, LoggingSeverity.WARN)]


def test_names_of_severities_are_read_in_any_case():
    assert get_logging_severity_from_string("warning") is LoggingSeverity.WARN
    with pytest.raises(RuntimeError, match="Got the log level 'loud', expected one of"):
        get_logging_severity_from_string("loud")


def test_the_format_can_be_chosen(capsys, monkeypatch):
    monkeypatch.setenv("RCUTILS_CONSOLE_OUTPUT_FORMAT", "{name}|{severity}|{message}|{function_name}")
    get_logger("f").error("{name}")
    assert capsys.readouterr().err == "f|ERROR|{name}|test_the_format_can_be_chosen\n"


def test_a_nodes_lines_reach_rosout(ros):
    node, listener = ros.node("talker", namespace="/ns"), ros.node("listener")
    lines = []
    listener.create_subscription(Log, "/rosout", lines.append, 10)
    assert ros.until(lambda: all(p.get_subscription_count() for p in node.publishers if p.topic == "/rosout"))
    node.get_logger().get_child("part").error("broken")
    assert ros.until(lambda: lines)
    assert (lines[0].name, lines[0].level, lines[0].msg) == ("ns.talker.part", 40, "broken")
    assert lines[0].file == __file__
