# SPDX-License-Identifier: Apache-2.0
"""The package's log in the node's, the throttle, and messages that are missing."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from longscape_ros.errors import HostError
from longscape_ros.host import THROTTLE_S, NodeLog, Throttle, message_class


class Listener:
    """Stands in for rclpy's logger."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def __getattr__(self, severity: str) -> Any:
        return lambda text: self.heard.append((severity, text))


def test_what_the_package_logs_goes_to_the_nodes_log_until_it_is_closed():
    listener = Listener()
    log = NodeLog(listener)
    source = logging.getLogger("longscape_ros.some.part")
    for say in (source.debug, source.info, source.warning, source.error):
        say("at %d", 7)
    log.close()
    source.error("too late")
    assert listener.heard == [("info", "at 7"), ("warning", "at 7"), ("error", "at 7")]
    assert logging.getLogger("longscape_ros").level == logging.NOTSET


@pytest.mark.parametrize("first", [0, 1])
def test_the_last_of_several_nodes_puts_the_level_back_in_whatever_order_they_end(first):
    listeners = Listener(), Listener()
    logs = [NodeLog(listener) for listener in listeners]
    source = logging.getLogger("longscape_ros")
    logs[first].close()
    source.info("still heard")
    logs[1 - first].close()
    assert [listener.heard for listener in (listeners[first], listeners[1 - first])] == [[], [("info", "still heard")]]
    assert source.level == logging.NOTSET


def test_one_text_of_each_kind_passes_at_a_time():
    throttle = Throttle()
    assert [throttle.passes(kind, 0.0) for kind in "aab"] == [True, False, True]
    assert not throttle.passes("a", THROTTLE_S - 0.1)
    assert throttle.passes("a", THROTTLE_S)


def test_a_clock_that_goes_back_lets_the_next_text_pass():
    throttle = Throttle()
    assert throttle.passes("a", 100.0)
    assert throttle.passes("a", 1.0)


@pytest.mark.parametrize(
    ("package", "remedy"),
    [("longscape_msgs", r"ln -s longscape_ros/longscape_msgs, then colcon build"), ("other_msgs", "ros-.ROS_DISTRO-other-msgs")],
)
def test_messages_that_are_not_installed_are_named_with_the_way_to_get_them(package, remedy, monkeypatch):
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    monkeypatch.setattr("longscape_ros.host.importlib.import_module", missing)
    with pytest.raises(HostError, match=f"Found no Python package {package}.*{remedy}"):
        message_class(f"{package}/msg/Some")


def test_an_error_inside_a_message_package_is_not_taken_for_its_absence(monkeypatch):
    def broken(name: str) -> None:
        raise ModuleNotFoundError("No module named 'numpy'", name="numpy")

    monkeypatch.setattr("longscape_ros.host.importlib.import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="numpy"):
        message_class("std_msgs/msg/String")
