# SPDX-License-Identifier: Apache-2.0
"""Commands as curves: each plan holds from its own start on, until a newer one does."""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from typing import Any

from longscape_ros.contract import ActionSource, Plan
from longscape_ros.messages import ACTION_SEQUENCE, JOINT_TRAJECTORY, plan_from_message
from longscape_ros.view.topics import TWIST, TWIST_STAMPED, Channel

_AXES = ("linear.x", "linear.y", "linear.z", "angular.x", "angular.y", "angular.z")


def read_plan(channel: Channel, message: Any, received_ns: int) -> Plan:
    """A command as a plan: of what the channel's source names, or of all that the message has.

    Raises:
        InputError: A name or field is missing, or the values do not fit.
    """
    return plan_from_message(message, channel.source or _whole(channel, message), received_ns)


def _whole(channel: Channel, message: Any) -> ActionSource:
    """All that a message of one of :data:`longscape_ros.view.topics.COMMAND_TYPES` has."""
    if channel.type == JOINT_TRAJECTORY:
        fields = {str(name): str(name) for name in message.joint_names}
    elif channel.type == ACTION_SEQUENCE:
        fields = {str(name): str(name) for name in message.names}
    else:
        assert channel.type in (TWIST, TWIST_STAMPED), channel.type
        inside = "twist." if channel.type == TWIST_STAMPED else ""
        fields = {f"{channel.topic.strip('/')}/{axis}": inside + axis for axis in _AXES}
    return ActionSource(channel.topic, channel.type, fields)


class InForce:
    """What one topic commands, point by point, when it takes effect."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, str, float]] = []  # by time

    def add(self, plan: Plan) -> None:
        """Takes a plan; what older ones command from its start on is forgotten."""
        times = (plan.start_ns + plan.times_ns).tolist()
        until_ns = min(plan.start_ns, times[0] - 1)
        kept = [point for point in self._waiting if point[0] <= until_ns or point[1] not in plan.names]
        rows = zip(times, plan.values.tolist(), strict=True)
        new = [(time_ns, name, value) for time_ns, row in rows for name, value in zip(plan.names, row, strict=True)]
        self._waiting = sorted([*kept, *new], key=itemgetter(0))

    def until(self, moment_ns: int) -> Iterator[tuple[int, str, float]]:
        """What has taken effect by a moment and was not given yet: time, name and value."""
        due = [point for point in self._waiting if point[0] <= moment_ns]
        del self._waiting[: len(due)]
        yield from due
