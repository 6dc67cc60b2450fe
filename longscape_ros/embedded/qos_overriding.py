# SPDX-License-Identifier: Apache-2.0
"""rclpy's QoS overriding options: policies of an endpoint as read-only parameters (qos_overrides./topic.publisher.depth)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from longscape_ros.embedded.messages import message_class
from longscape_ros.embedded.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    LivelinessPolicy,
    QoSPolicyEnum,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
)
from longscape_ros.embedded.time import Duration

_ENUMS: dict[str, type[QoSPolicyEnum]] = {
    "history": HistoryPolicy,
    "reliability": ReliabilityPolicy,
    "durability": DurabilityPolicy,
    "liveliness": LivelinessPolicy,
}
_DURATIONS = ("deadline", "lifespan", "liveliness_lease_duration")


class InvalidQosOverridesError(Exception):
    """The overridden profile was refused by the validating callback."""


class QoSOverridingOptions:
    """Which policies parameters can override.

    Args:
        policy_kinds: The policies.
        callback: Checks the profile that comes out; gives a SetParametersResult.
        entity_id: Tells apart several endpoints of one topic in a node.
    """

    def __init__(
        self,
        policy_kinds: Sequence[QoSPolicyKind],
        *,
        callback: Callable[[QoSProfile], Any] | None = None,
        entity_id: str | None = None,
    ) -> None:
        self.policy_kinds, self.callback, self.entity_id = tuple(policy_kinds), callback, entity_id

    @classmethod
    def with_default_policies(
        cls, *, callback: Callable[[QoSProfile], Any] | None = None, entity_id: str | None = None
    ) -> QoSOverridingOptions:
        """History, depth and reliability."""
        kinds = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY)
        return cls(kinds, callback=callback, entity_id=entity_id)


def declare_qos_overrides(node: Any, endpoint: str, topic: str, profile: QoSProfile, options: QoSOverridingOptions) -> QoSProfile:
    """Declares the policies as parameters of the node; the profile with their values.

    Raises:
        InvalidQosOverridesError: The callback refuses the profile.
        RuntimeError: An unknown value.
    """
    values = {name: getattr(profile, name) for name in QoSProfile._POLICIES}
    suffix = f"_{options.entity_id}" if options.entity_id else ""
    for kind in options.policy_kinds:
        policy = QoSPolicyKind(kind).name.lower()
        name = f"qos_overrides.{topic}.{endpoint}{suffix}.{policy}"
        descriptor = message_class("rcl_interfaces/msg/ParameterDescriptor")(read_only=True)
        if not node.has_parameter(name):
            node.declare_parameter(name, _as_parameter(values[policy]), descriptor)
        value = node.get_parameter(name).value
        values[policy] = _as_policy(name, policy, value)
    overridden = QoSProfile(**values)
    result = options.callback(overridden) if options.callback is not None else None
    if result is not None and not result.successful:
        raise InvalidQosOverridesError(f"Got {overridden} for {topic}, which was refused: {result.reason}. Correct qos_overrides.{topic}.")
    return overridden


def _as_parameter(value: Any) -> Any:
    if isinstance(value, QoSPolicyEnum):
        return value.short_key
    return value.nanoseconds if isinstance(value, Duration) else value


def _as_policy(name: str, policy: str, value: Any) -> Any:
    if policy in _DURATIONS:
        return Duration(nanoseconds=value)
    if policy not in _ENUMS:
        return value
    try:
        return _ENUMS[policy][value.upper()]
    except KeyError:
        raise RuntimeError(f"Got {name}={value}, expected one of {', '.join(_ENUMS[policy].short_keys())}.") from None
