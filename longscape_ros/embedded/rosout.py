# SPDX-License-Identifier: Apache-2.0
"""/rosout: what a node logs, as messages."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from longscape_ros.embedded.exceptions import InvalidHandle, RCLError
from longscape_ros.embedded.logging import Record
from longscape_ros.embedded.messages import message_class
from longscape_ros.embedded.time import NANOSECONDS

ROSOUT_TOPIC = "/rosout"
ROSOUT_TYPE = "rcl_interfaces/msg/Log"


def rosout_sink(publisher: Any) -> Callable[[Record], None]:
    """Publishes every line that is logged, as long as the publisher lives."""
    log, stamp = message_class(ROSOUT_TYPE), message_class("builtin_interfaces/msg/Time")

    def publish(record: Record) -> None:
        seconds, nanoseconds = divmod(record.stamp_ns, NANOSECONDS)
        message = log(
            stamp=stamp(sec=seconds, nanosec=nanoseconds),
            level=int(record.severity),
            name=record.name,
            msg=record.message,
            file=record.file,
            function=record.function,
            line=record.line,
        )
        with contextlib.suppress(InvalidHandle, RCLError):  # shutting down
            publisher.publish(message)

    return publish
