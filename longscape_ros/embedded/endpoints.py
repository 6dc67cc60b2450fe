# SPDX-License-Identifier: Apache-2.0
"""rclpy's Publisher and Subscription over DDS writers and readers."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from enum import Enum
from typing import Any

from cyclonedds.core import DDSException, DDSStatus

from longscape_ros.embedded.context import Context
from longscape_ros.embedded.dds import close_entity, sample_class
from longscape_ros.embedded.events import EventHandler
from longscape_ros.embedded.exceptions import InvalidHandle, RCLError
from longscape_ros.embedded.messages import Message, deserialize_message, serialize_message
from longscape_ros.embedded.qos import QoSProfile
from longscape_ros.embedded.time import Duration

_TIMEOUT = DDSException.DDS_RETCODE_TIMEOUT


class Endpoint:
    """What publishers, subscriptions, services and clients share: a DDS entity whose statuses an executor watches."""

    def __init__(self, entity: Any, context: Context, statuses: int, handlers: list[EventHandler]) -> None:
        self._entity: Any = entity
        self._context = context
        self.gid: bytes = entity.guid.bytes
        self.event_handlers = handlers
        self.statuses = statuses
        for handler in handlers:
            self.statuses |= handler.status
        entity.set_status_mask(self.statuses)

    @property
    def entity(self) -> Any:
        """The DDS entity.

        Raises:
            InvalidHandle: it has been destroyed.
        """
        if self._entity is None:
            raise InvalidHandle("cannot use Destroyable because destruction was requested")
        return self._entity

    @property
    def gids(self) -> list[bytes]:
        """The GIDs of the DDS entities behind it."""
        return [self.gid]

    @property
    def is_alive(self) -> bool:
        """Whether it has not been destroyed."""
        return self._entity is not None

    def poll(self) -> int:
        """Takes the statuses that DDS raised since the last time, and tells the event handlers."""
        entity = self._entity
        raised: int = entity.take_status(self.statuses) if entity is not None else 0
        for handler in self.event_handlers:
            if raised & handler.status:
                handler.raise_status()
        return raised

    def destroy(self) -> None:
        """Leaves the topic."""
        entity, self._entity = self._entity, None
        for handler in self.event_handlers:
            handler.forget()
        self.event_handlers = []
        if entity is not None:
            close_entity(entity)


class Publisher(Endpoint):
    """Publishes messages of one type on one topic."""

    def __init__(
        self,
        entity: Any,
        context: Context,
        msg_type: type[Message],
        topic: str,
        qos_profile: QoSProfile,
        handlers: list[EventHandler],
        callback_group: Any,
        logger: Any,
    ) -> None:
        super().__init__(entity, context, 0, handlers)
        self.msg_type, self.topic, self.qos_profile, self.callback_group = msg_type, topic, qos_profile, callback_group
        self._sample_class = sample_class(msg_type._TYPE_NAME)
        self._logger = logger

    @property
    def topic_name(self) -> str:
        """The topic's full name."""
        return self.topic

    def publish(self, msg: Message | bytes) -> None:
        """Publishes a message, or CDR bytes with their encapsulation header.

        A subscriber that cannot keep up may cost a reliable message: after 0.1 s the message is dropped with a warning.

        Raises:
            TypeError: a message of another type, or a field's value that its type cannot carry.
            RCLError: the context has been shut down, or the bytes are no such message.
        """
        entity = self.entity
        if isinstance(msg, self.msg_type):
            data = serialize_message(msg)
        elif isinstance(msg, (bytes, bytearray, memoryview)):
            data = bytes(msg)
        else:
            raise TypeError(f"Expected {self.msg_type}, got {type(msg)}")
        if not self._context.ok():
            raise RCLError("Failed to publish: publisher's context is invalid")
        sample: Any = self._sample_class.__new__(self._sample_class)
        sample.cdr = data
        try:
            entity.write(sample)
        except DDSException as fault:
            if fault.code != _TIMEOUT:
                raise RCLError(f"Failed to publish {len(data)} bytes on {self.topic}: {fault}") from fault
            self._logger.warning(
                f"A message of {len(data)} bytes on {self.topic} was dropped: a reliable subscriber does not keep up",
                throttle_duration_sec=5.0,
            )

    def get_subscription_count(self) -> int:
        """How many subscriptions are connected."""
        return len(self.entity.get_matched_subscriptions())

    def assert_liveliness(self) -> None:
        """Says that the publisher is alive, where its liveliness is manual."""
        self.entity._dll_handle.dds_assert_liveliness(self.entity._ref)

    def wait_for_all_acked(self, timeout: Duration = Duration(seconds=-1)) -> bool:  # noqa: B008 - rclpy's signature
        """Waits until the reliable subscriptions have all messages; False after the timeout."""
        waited = timeout.nanoseconds if timeout.nanoseconds >= 0 else 2**63 - 1
        return bool(self.entity._wait_for_acks(self.entity._ref, waited) == 0)


class Subscription(Endpoint):
    """Hands the messages of one topic to a callback."""

    class CallbackType(Enum):
        """What the callback takes."""

        MessageOnly = 0
        WithMessageInfo = 1

    def __init__(
        self,
        entity: Any,
        context: Context,
        msg_type: type[Message],
        topic: str,
        callback: Callable[..., Any],
        callback_group: Any,
        qos_profile: QoSProfile,
        raw: bool,
        handlers: list[EventHandler],
    ) -> None:
        super().__init__(entity, context, DDSStatus.DataAvailable, handlers)
        self.msg_type, self.topic, self.qos_profile, self.callback_group = msg_type, topic, qos_profile, callback_group
        self.raw = raw
        self.callback = callback
        self._has_data = True

    @property
    def callback(self) -> Callable[..., Any]:
        """What is called with each message, and with its info if it takes two arguments."""
        return self._callback

    @callback.setter
    def callback(self, value: Callable[..., Any]) -> None:
        self._callback = value
        self._callback_type = _callback_type(value)

    @property
    def topic_name(self) -> str:
        """The topic's full name."""
        return self.topic

    def get_publisher_count(self) -> int:
        """How many publishers are connected."""
        return len(self.entity.get_matched_publications())

    def poll(self) -> int:
        """Takes the statuses that DDS raised since the last time."""
        raised = super().poll()
        self._has_data |= bool(raised & DDSStatus.DataAvailable)
        return raised

    def is_ready(self) -> bool:
        """Whether there may be a message."""
        return self._has_data and self._entity is not None

    def take(self) -> Callable[[], Any] | None:
        """Takes one message and gives what to call; None if there is none."""
        taken = self.take_sample()
        if taken is None:
            return None
        data, info = taken
        callback = self._callback

        def call() -> Any:
            message = data if self.raw else deserialize_message(data, self.msg_type)
            if self._callback_type is Subscription.CallbackType.MessageOnly:
                return callback(message)
            return callback(message, info)

        return call

    def take_sample(self) -> tuple[bytes, dict[str, int | None]] | None:
        """The CDR bytes and the info of the oldest message, None if there is none."""
        entity = self._entity
        while entity is not None:
            samples = entity.take(1)
            if not samples:
                break
            if hasattr(samples[0], "cdr"):
                return samples[0].cdr, _message_info(samples[0].sample_info)
        self._has_data = False
        return None


def _message_info(info: Any) -> dict[str, int | None]:
    """What rclpy's callbacks get beside the message; Cyclone's Python API tells no sequence numbers."""
    return {
        "source_timestamp": info.source_timestamp,
        "received_timestamp": time.time_ns(),
        "publication_sequence_number": None,
        "reception_sequence_number": None,
    }


def _callback_type(callback: Callable[..., Any]) -> Subscription.CallbackType:
    """Raises RuntimeError if the callback takes neither (message) nor (message, info)."""
    for arguments, kind in (((None,), Subscription.CallbackType.MessageOnly), ((None, None), Subscription.CallbackType.WithMessageInfo)):
        try:
            inspect.signature(callback).bind(*arguments)
        except TypeError:
            continue
        except ValueError:  # no signature: a builtin such as queue.put
            pass
        return kind
    raise RuntimeError("Subscription.__init__(): callback should be either be callable with one argument, or two")
