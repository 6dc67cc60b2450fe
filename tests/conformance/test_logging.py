# SPDX-License-Identifier: Apache-2.0
"""Loggers: levels, filters by line of code, the console, /rosout."""

from __future__ import annotations

import pytest
from rcl_interfaces.msg import Log
from rclpy.logging import LoggingSeverity, get_logger, get_logging_severity_from_string
from support.ros import DOOR

SAY = f"""{DOOR}
import rclpy
rclpy.init()
def say():
    node = rclpy.create_node("talker", namespace="/ns")
    for logger in (node.get_logger(), node.get_logger().get_child("part"), rclpy.logging.get_logger("other")):
        logger.debug("{{text}}")
        logger.info("{{text}}")
        logger.warning("{{text}}")
        logger.error("{{text}}")
        logger.fatal("{{text}}")
    return node
import rclpy.logging
node = say()
print("/rosout" in dict(node.get_publisher_names_and_types_by_node("talker", "/ns")), flush=True)
rclpy.shutdown()
"""


@pytest.fixture
def said(start):
    """said(arguments, environment) gives the lines that a process logs with these ROS arguments, and whether its node is on /rosout."""

    def run(*arguments, **environment):
        form = "{severity}|{name}|{message}|{function_name}"
        process = start(SAY, "--ros-args", *arguments, **{"RCUTILS_CONSOLE_OUTPUT_FORMAT": form, **environment})
        out, err = process.communicate()
        assert process.returncode == 0, err
        return err.splitlines(), out == "True\n"

    return run


def lines(levels, *severities):
    """The lines of loggers from their levels on."""
    order = ("DEBUG", "INFO", "WARN", "ERROR", "FATAL")
    return [f"{each}|{name}|{{text}}|say" for name, least in levels.items() for each in order[order.index(least) :]]


def test_a_line_shows_severity_time_name_and_text(ros, capfd):
    assert get_logger("a.b").info("hello")
    line = capfd.readouterr().err.strip()
    assert line.startswith("[INFO] [")
    assert line.endswith("] [a.b]: hello")


def test_the_format_can_be_chosen_and_info_is_the_least_that_is_said(said):
    assert said() == (lines({"ns.talker": "INFO", "ns.talker.part": "INFO", "other": "INFO"}), True)


def test_levels_are_arguments(said):
    found, _ = said("--log-level", "warn", "--log-level", "ns.talker:=DEBUG", "--log-level", "ns.talker.part:=Error")
    assert found == lines({"ns.talker": "DEBUG", "ns.talker.part": "ERROR", "other": "WARN"})


def test_rosout_can_be_switched_off(said):
    assert not said("--disable-rosout-logs")[1]
    assert said("--enable-rosout-logs")[1]


def test_a_level_holds_back_what_is_less_severe_and_is_inherited():
    logger = get_logger("levels")
    logger.set_level(LoggingSeverity.WARN)
    child = logger.get_child("c")
    assert (child.name, child.get_effective_level()) == ("levels.c", LoggingSeverity.WARN)
    assert (child.info("x"), child.warning("x")) == (False, True)
    child.set_level(LoggingSeverity.DEBUG)
    assert child.debug("x")
    assert not logger.is_enabled_for(LoggingSeverity.INFO)


def test_loggers_are_named():
    with pytest.raises(ValueError, match="must not be empty"):
        get_logger("")
    with pytest.raises(ValueError, match="must not be empty"):
        get_logger("a").get_child("")


def test_throttled_lines_pass_once_in_their_time():
    logger = get_logger("throttle")
    assert [logger.info("x", throttle_duration_sec=100.0) for _ in range(3)] == [True, False, False]
    assert [logger.info("x", throttle_duration_sec=0.0) for _ in range(2)] == [True, True]


def test_once_and_skip_first_count_per_line():
    logger = get_logger("once")
    assert [logger.info("x", once=True) for _ in range(3)] == [True, False, False]
    assert [logger.info("x", skip_first=True) for _ in range(3)] == [False, True, True]


def test_the_filters_of_a_line_belong_to_the_logger_that_it_has():
    assert [get_logger("again").info("x", once=True) for _ in range(2)] == [True, True]


@pytest.mark.parametrize(
    "changes",
    [
        [{"severity": LoggingSeverity.INFO}, {"severity": LoggingSeverity.WARN}],
        [{"name": "a"}, {"name": "b"}],
        [{"once": True}, {"once": False}],
        [{"throttle_duration_sec": 1.0}, {"throttle_duration_sec": 2.0}],
    ],
)
def test_a_line_keeps_its_name_severity_and_filters(changes):
    logger = get_logger("changing")
    with pytest.raises(ValueError, match="cannot be changed between calls"):
        [logger.log("x", **{"severity": LoggingSeverity.INFO, **change}) for change in changes]


def test_names_of_severities_are_read_in_any_case():
    assert [get_logging_severity_from_string(name) for name in ("warn", "Debug", "FATAL")] == [30, 10, 50]
    for name in ("loud", "warning", ""):
        with pytest.raises(RuntimeError):
            get_logging_severity_from_string(name)


def test_a_nodes_lines_reach_rosout(ros):
    node, listener = ros.node("talker", namespace="/ns"), ros.node("listener")
    heard = []
    listener.create_subscription(Log, "/rosout", heard.append, 10)
    assert ros.until(lambda: node.get_logger().get_child("part").error("broken") and heard)
    assert (heard[0].name, heard[0].level, heard[0].msg) == ("ns.talker.part", 40, "broken")
    assert (heard[0].file, heard[0].function) == (__file__, "<lambda>")
    assert heard[0].line > 0


def test_a_node_can_keep_its_lines_to_itself(ros):
    node = ros.node("quiet", enable_rosout=False)
    assert ros.until(lambda: "/parameter_events" in dict(node.get_publisher_names_and_types_by_node("quiet", "/")))
    assert "/rosout" not in dict(node.get_publisher_names_and_types_by_node("quiet", "/"))
