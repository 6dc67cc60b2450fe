# SPDX-License-Identifier: Apache-2.0
"""Plays a recording with ``/clock``, as ``ros2 bag play --clock --rate`` does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from support.robot import Robot, message_class

from longscape_ros.bags.reader import RawMessage, raw_messages
from longscape_ros.contract import NANOSECONDS
from longscape_ros.messages import IMAGE, time_message

MOST_UNDER_WAY = 3
"""Images that are published before the oldest of them is taken: none is lost, however fast they are played."""


class SimulatedClock:
    """Publishes ``/clock``."""

    def __init__(self, robot: Robot) -> None:
        self._kind: Any = message_class("rosgraph_msgs/msg/Clock")
        self._publisher = robot.node.create_publisher(self._kind, "/clock", 10)
        robot.until(self._publisher.get_subscription_count)

    def show(self, now_ns: int) -> None:
        """Says what time it is."""
        self._publisher.publish(self._kind(clock=time_message(now_ns, message_class)))


class Player:
    """Part of a test's node.

    Args:
        robot: Whose node it is.
        bag: Images and commands, each received when it is to be played.
        taken: How many messages of images (True) or commands (False) the listener has taken so far.
        shown: What time the listener's clock shows.
    """

    def __init__(self, robot: Robot, bag: Path, taken: Callable[[bool], int], shown: Callable[[], int]) -> None:
        from rclpy.qos import QoSProfile

        self.messages = list(raw_messages(bag))
        self.clock = SimulatedClock(robot)
        self._robot, self._taken, self._shown = robot, taken, shown
        kinds = {message.topic: message.type for message in self.messages}
        self._publishers = {
            topic: robot.node.create_publisher(message_class(kind), topic, QoSProfile(depth=10)) for topic, kind in kinds.items()
        }
        robot.until(lambda: all(publisher.get_subscription_count() for publisher in self._publishers.values()))

    def seek(self, now_ns: int) -> None:
        """Sets the clock, and waits until that is heard."""

        def heard() -> bool:
            self.clock.show(now_ns)  # best effort
            return self._shown() == now_ns

        self._robot.until(heard)

    def play(self, rate: float | None, messages: Sequence[RawMessage] | None = None) -> None:
        """Plays from the beginning to the end; simulated time goes on only as far as the next message.

        Args:
            rate: Simulated seconds per second; None: as fast as it goes.
            messages: Some of the recording's; None: all.
        """
        played = self.messages if messages is None else messages
        before = self._taken(True)
        published = 0

        def under_way() -> int:
            return published - (self._taken(True) - before)

        first_ns = played[0].received_ns
        self.seek(first_ns)
        begin_s = time.monotonic()
        for message in played:
            if rate is not None:
                while (now_ns := first_ns + round((time.monotonic() - begin_s) * rate * NANOSECONDS)) < message.received_ns:
                    self.clock.show(now_ns)
                    self._robot.spin()
            self.clock.show(message.received_ns)
            if message.type != IMAGE:  # topics may overtake each other, and what an image knows would be another command
                self._robot.until(lambda: under_way() == 0)
            commanded = self._taken(False)
            self._publishers[message.topic].publish(message.data)
            if message.type == IMAGE:
                published += 1
                self._robot.until(lambda: under_way() <= MOST_UNDER_WAY)
            else:
                self._robot.until(lambda commanded=commanded: self._taken(False) > commanded)
        self._robot.until(lambda: under_way() == 0)
