# SPDX-License-Identifier: Apache-2.0
"""rclpy's QoS event callbacks of publishers and subscriptions, over DDS statuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from cyclonedds.core import DDSStatus

from longscape_ros.embedded.logging import RcutilsLogger
from longscape_ros.embedded.qos import QoSPolicyKind, qos_policy_name_from_kind

_DDS_POLICIES = {2: "DURABILITY", 4: "DEADLINE", 8: "LIVELINESS", 11: "RELIABILITY", 13: "HISTORY", 21: "LIFESPAN"}  # DDS policy ids


class UnsupportedEventTypeError(RuntimeError):
    """An event that the middleware does not have."""


class QoSPublisherEventType(IntEnum):
    """The events of a publisher."""

    RCL_PUBLISHER_OFFERED_DEADLINE_MISSED = 0
    RCL_PUBLISHER_LIVELINESS_LOST = 1
    RCL_PUBLISHER_OFFERED_INCOMPATIBLE_QOS = 2
    RCL_PUBLISHER_INCOMPATIBLE_TYPE = 3
    RCL_PUBLISHER_MATCHED = 4


class QoSSubscriptionEventType(IntEnum):
    """The events of a subscription."""

    RCL_SUBSCRIPTION_REQUESTED_DEADLINE_MISSED = 0
    RCL_SUBSCRIPTION_LIVELINESS_CHANGED = 1
    RCL_SUBSCRIPTION_REQUESTED_INCOMPATIBLE_QOS = 2
    RCL_SUBSCRIPTION_MESSAGE_LOST = 3
    RCL_SUBSCRIPTION_INCOMPATIBLE_TYPE = 4
    RCL_SUBSCRIPTION_MATCHED = 5


@dataclass
class DeadlineMissedInfo:
    """How often a deadline was missed."""

    total_count: int
    total_count_change: int


@dataclass
class LivelinessLostInfo:
    """How often the own liveliness was not asserted in time."""

    total_count: int
    total_count_change: int


@dataclass
class LivelinessChangedInfo:
    """How many publishers are alive, and how many are not."""

    alive_count: int
    not_alive_count: int
    alive_count_change: int
    not_alive_count_change: int


@dataclass
class MessageLostInfo:
    """How many messages were lost."""

    total_count: int
    total_count_change: int


@dataclass
class IncompatibleQoSInfo:
    """How many endpoints were refused, and for which policy last."""

    total_count: int
    total_count_change: int
    last_policy_kind: QoSPolicyKind


@dataclass
class MatchedInfo:
    """How many endpoints are connected."""

    total_count: int
    total_count_change: int
    current_count: int
    current_count_change: int


def _incompatible(status: Any) -> IncompatibleQoSInfo:
    kind = QoSPolicyKind[_DDS_POLICIES.get(status.last_policy_id, "INVALID")]
    return IncompatibleQoSInfo(status.total_count, status.total_count_change, kind)


def _matched(status: Any) -> MatchedInfo:
    return MatchedInfo(status.total_count, status.total_count_change, status.current_count, status.current_count_change)


def _counted(info: type[Any]) -> Callable[[Any], Any]:
    return lambda status: info(status.total_count, status.total_count_change)


def _liveliness_changed(status: Any) -> LivelinessChangedInfo:
    return LivelinessChangedInfo(status.alive_count, status.not_alive_count, status.alive_count_change, status.not_alive_count_change)


class EventHandler:
    """One event of one endpoint: ready once DDS raised its status."""

    def __init__(
        self, status: int, read: Callable[[], Any], convert: Callable[[Any], Any], callback: Callable[[Any], Any], group: Any
    ) -> None:
        self.status, self.callback, self.callback_group = status, callback, group
        self._read, self._convert = read, convert
        self._ready = False

    def raise_status(self) -> None:
        """DDS raised the status."""
        self._ready = True

    def forget(self) -> None:
        """The endpoint is being destroyed: there is nothing to report any more."""
        self._ready = False

    def is_ready(self) -> bool:
        """Whether there is an event to report."""
        return self._ready

    def take(self) -> Callable[[], Any] | None:
        """Reads the event and gives what to call; None if there is none."""
        if not self._ready:
            return None
        self._ready = False
        event, callback = self._convert(self._read()), self.callback
        return lambda: callback(event)


class SubscriptionEventCallbacks:
    """What to call on a subscription's events."""

    def __init__(
        self,
        *,
        deadline: Callable[[Any], Any] | None = None,
        incompatible_qos: Callable[[Any], Any] | None = None,
        liveliness: Callable[[Any], Any] | None = None,
        message_lost: Callable[[Any], Any] | None = None,
        incompatible_type: Callable[[Any], Any] | None = None,
        matched: Callable[[Any], Any] | None = None,
        use_default_callbacks: bool = True,
    ) -> None:
        self.deadline, self.liveliness, self.message_lost, self.matched = deadline, liveliness, message_lost, matched
        self.incompatible_qos, self.incompatible_type = incompatible_qos, incompatible_type
        self.use_default_callbacks = use_default_callbacks

    def handlers(self, reader: Any, group: Any, logger: RcutilsLogger, topic: str) -> list[EventHandler]:
        """The handlers of a DDS reader. Cyclone reports no incompatible types: that callback is never called."""
        text = f"New publisher discovered on topic '{topic}', offering incompatible QoS. No messages will be received from it."
        incompatible = self.incompatible_qos or (_warner(logger, text) if self.use_default_callbacks else None)
        events = [
            (DDSStatus.RequestedDeadlineMissed, "get_requested_deadline_missed_status", _counted(DeadlineMissedInfo), self.deadline),
            (DDSStatus.RequestedIncompatibleQos, "get_requested_incompatible_qos_status", _incompatible, incompatible),
            (DDSStatus.LivelinessChanged, "get_liveliness_changed_status", _liveliness_changed, self.liveliness),
            (DDSStatus.SampleLost, "get_sample_lost_status", _counted(MessageLostInfo), self.message_lost),
            (DDSStatus.SubscriptionMatched, "get_subscription_matched_status", _matched, self.matched),
        ]
        return [EventHandler(status, getattr(reader, read), convert, call, group) for status, read, convert, call in events if call]


class PublisherEventCallbacks:
    """What to call on a publisher's events."""

    def __init__(
        self,
        *,
        deadline: Callable[[Any], Any] | None = None,
        liveliness: Callable[[Any], Any] | None = None,
        incompatible_qos: Callable[[Any], Any] | None = None,
        incompatible_type: Callable[[Any], Any] | None = None,
        matched: Callable[[Any], Any] | None = None,
        use_default_callbacks: bool = True,
    ) -> None:
        self.deadline, self.liveliness, self.matched = deadline, liveliness, matched
        self.incompatible_qos, self.incompatible_type = incompatible_qos, incompatible_type
        self.use_default_callbacks = use_default_callbacks

    def handlers(self, writer: Any, group: Any, logger: RcutilsLogger, topic: str) -> list[EventHandler]:
        """The handlers of a DDS writer. Cyclone reports no incompatible types: that callback is never called."""
        text = f"New subscription discovered on topic '{topic}', requesting incompatible QoS. No messages will be sent to it."
        incompatible = self.incompatible_qos or (_warner(logger, text) if self.use_default_callbacks else None)
        events = [
            (DDSStatus.OfferedDeadlineMissed, "get_offered_deadline_missed_status", _counted(DeadlineMissedInfo), self.deadline),
            (DDSStatus.LivelinessLost, "get_liveliness_lost_status", _counted(LivelinessLostInfo), self.liveliness),
            (DDSStatus.OfferedIncompatibleQos, "get_offered_incompatible_qos_status", _incompatible, incompatible),
            (DDSStatus.PublicationMatched, "get_publication_matched_status", _matched, self.matched),
        ]
        return [EventHandler(status, getattr(writer, read), convert, call, group) for status, read, convert, call in events if call]


def _warner(logger: RcutilsLogger, text: str) -> Callable[[Any], Any]:
    return lambda event: logger.warning(f"{text} Last incompatible policy: {qos_policy_name_from_kind(event.last_policy_kind)}")
