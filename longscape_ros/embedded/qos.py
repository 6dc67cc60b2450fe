# SPDX-License-Identifier: Apache-2.0
"""rclpy's quality-of-service profiles, and whether two of them match."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from enum import Enum, IntEnum
from typing import Any, ClassVar

from longscape_ros.embedded.time import Duration


class QoSPolicyKind(IntEnum):
    """The policies that can be overridden or be incompatible."""

    INVALID = 1 << 0
    DURABILITY = 1 << 1
    DEADLINE = 1 << 2
    LIVELINESS = 1 << 3
    RELIABILITY = 1 << 4
    HISTORY = 1 << 5
    LIFESPAN = 1 << 6
    DEPTH = 1 << 7
    LIVELINESS_LEASE_DURATION = 1 << 8
    AVOID_ROS_NAMESPACE_CONVENTIONS = 1 << 9


def qos_policy_name_from_kind(policy_kind: QoSPolicyKind | int) -> str:
    """The name of a policy kind."""
    return QoSPolicyKind(policy_kind).name


class InvalidQoSProfileException(Exception):  # noqa: N818 - rclpy's name
    """A profile without what it needs."""

    def __init__(self, *args: object) -> None:
        super().__init__("Invalid QoSProfile", *args)


class QoSPolicyEnum(IntEnum):
    """Base of the policies' values, with the short keys that tools use."""

    @classmethod
    def short_keys(cls) -> list[str]:
        """The names in lower case."""
        return [name.lower() for name in cls.__members__]

    @classmethod
    def get_from_short_key(cls, name: str) -> int:
        """The value of a name in any case."""
        return cls[name.upper()].value

    @property
    def short_key(self) -> str:
        """This value's name in lower case."""
        return self.name.lower()


class HistoryPolicy(QoSPolicyEnum):
    """How many samples are kept."""

    SYSTEM_DEFAULT = 0
    KEEP_LAST = 1
    KEEP_ALL = 2
    UNKNOWN = 3


class ReliabilityPolicy(QoSPolicyEnum):
    """Whether lost samples are sent again."""

    SYSTEM_DEFAULT = 0
    RELIABLE = 1
    BEST_EFFORT = 2
    UNKNOWN = 3
    BEST_AVAILABLE = 4


class DurabilityPolicy(QoSPolicyEnum):
    """Whether late joiners get what was sent before."""

    SYSTEM_DEFAULT = 0
    TRANSIENT_LOCAL = 1
    VOLATILE = 2
    UNKNOWN = 3
    BEST_AVAILABLE = 4


class LivelinessPolicy(QoSPolicyEnum):
    """Who asserts that a publisher is alive."""

    SYSTEM_DEFAULT = 0
    AUTOMATIC = 1
    MANUAL_BY_TOPIC = 3
    UNKNOWN = 4
    BEST_AVAILABLE = 5


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise AssertionError(f"Got the depth {value!r}, expected an integer")
    return value


def _duration(value: Any) -> Duration:
    if not isinstance(value, Duration):
        raise AssertionError(f"Got {value!r}, expected a Duration")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise AssertionError(f"Got {value!r}, expected True or False")
    return value


def _shown(value: Any) -> str:
    return value.name if isinstance(value, QoSPolicyEnum) else str(value)


class QoSProfile:
    """The policies of an endpoint. Needs `depth`, or a `history` other than KEEP_LAST."""

    history: HistoryPolicy
    depth: int
    reliability: ReliabilityPolicy
    durability: DurabilityPolicy
    lifespan: Duration
    deadline: Duration
    liveliness: LivelinessPolicy
    liveliness_lease_duration: Duration
    avoid_ros_namespace_conventions: bool
    __hash__ = None  # type: ignore[assignment]

    _POLICIES: ClassVar[dict[str, tuple[Callable[[Any], Any], Any]]] = {
        "history": (HistoryPolicy, HistoryPolicy.KEEP_LAST),
        "depth": (_count, 10),
        "reliability": (ReliabilityPolicy, ReliabilityPolicy.RELIABLE),
        "durability": (DurabilityPolicy, DurabilityPolicy.VOLATILE),
        "lifespan": (_duration, Duration()),
        "deadline": (_duration, Duration()),
        "liveliness": (LivelinessPolicy, LivelinessPolicy.SYSTEM_DEFAULT),
        "liveliness_lease_duration": (_duration, Duration()),
        "avoid_ros_namespace_conventions": (_flag, False),
    }

    def __init__(self, **kwargs: Any) -> None:
        unknown = sorted(kwargs.keys() - self._POLICIES.keys())
        if unknown:
            raise AssertionError(f"Invalid arguments passed to constructor: {unknown}")
        if "history" not in kwargs and "depth" not in kwargs:
            raise InvalidQoSProfileException("History and/or depth settings are required.")
        if kwargs.get("history", HistoryPolicy.KEEP_LAST) == HistoryPolicy.KEEP_LAST and "depth" not in kwargs:
            raise InvalidQoSProfileException("History set to KEEP_LAST without a depth setting.")
        for name, (_, default) in self._POLICIES.items():
            setattr(self, name, kwargs.get(name, default))
        if self.history == HistoryPolicy.KEEP_LAST and self.depth == 0:
            warnings.warn("A zero depth with KEEP_LAST is interpreted as SYSTEM_DEFAULT; no data could be stored.", stacklevel=2)

    def __setattr__(self, name: str, value: Any) -> None:
        convert, _ = self._POLICIES[name]
        object.__setattr__(self, name, convert(value))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, QoSProfile) and all(getattr(self, name) == getattr(other, name) for name in self._POLICIES)

    def __str__(self) -> str:
        return f"QoSProfile({', '.join(f'{name}={_shown(getattr(self, name))}' for name in self._POLICIES)})"

    __repr__ = __str__


_UNSPECIFIED = {"history": 0, "depth": 0, "reliability": 0, "durability": 0}
_BEST_AVAILABLE_NANOSECONDS = 2**63 - 2

DeadlineBestAvailable = Duration(nanoseconds=_BEST_AVAILABLE_NANOSECONDS)
LivelinessLeaseDurationeBestAvailable = Duration(nanoseconds=_BEST_AVAILABLE_NANOSECONDS)  # spelt so in rclpy
qos_profile_unknown = QoSProfile(history=3, depth=0, reliability=3, durability=3, liveliness=4)
qos_profile_default = QoSProfile(depth=10)
qos_profile_system_default = QoSProfile(**_UNSPECIFIED)
qos_profile_sensor_data = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
qos_profile_services_default = QoSProfile(depth=10)
qos_profile_parameters = QoSProfile(depth=1000)
qos_profile_parameter_events = QoSProfile(depth=1000)
qos_profile_action_status_default = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
qos_profile_rosout_default = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL, lifespan=Duration(seconds=10))
qos_profile_best_available = QoSProfile(
    depth=10,
    reliability=ReliabilityPolicy.BEST_AVAILABLE,
    durability=DurabilityPolicy.BEST_AVAILABLE,
    liveliness=LivelinessPolicy.BEST_AVAILABLE,
    deadline=DeadlineBestAvailable,
    liveliness_lease_duration=LivelinessLeaseDurationeBestAvailable,
)


class QoSPresetProfiles(Enum):
    """The predefined profiles by name."""

    UNKNOWN = qos_profile_unknown
    DEFAULT = qos_profile_default
    SYSTEM_DEFAULT = qos_profile_system_default
    SENSOR_DATA = qos_profile_sensor_data
    SERVICES_DEFAULT = qos_profile_services_default
    PARAMETERS = qos_profile_parameters
    PARAMETER_EVENTS = qos_profile_parameter_events
    ACTION_STATUS_DEFAULT = qos_profile_action_status_default
    BEST_AVAILABLE = qos_profile_best_available

    @classmethod
    def short_keys(cls) -> list[str]:
        """The names in lower case."""
        return [name.lower() for name in cls.__members__]

    @classmethod
    def get_from_short_key(cls, name: str) -> QoSProfile:
        """The profile of a name in any case."""
        return cls[name.upper()].value


class QoSCompatibility(IntEnum):
    """Whether two profiles let their endpoints communicate."""

    OK = 0
    WARNING = 1
    ERROR = 2


def qos_check_compatible(publisher_qos: QoSProfile, subscription_qos: QoSProfile) -> tuple[QoSCompatibility, str]:
    """Whether a publisher's profile satisfies a subscription's, and what is wrong where it does not."""
    errors, warning = list(_mismatches(publisher_qos, subscription_qos)), list(_undecided(publisher_qos, subscription_qos))
    if errors:
        return QoSCompatibility.ERROR, "".join(f"ERROR: {text};" for text in errors)
    if warning:
        return QoSCompatibility.WARNING, "".join(f"WARNING: {text};" for text in warning)
    return QoSCompatibility.OK, ""


_LEVELS = (
    ("reliability", ReliabilityPolicy.BEST_EFFORT, ReliabilityPolicy.RELIABLE),
    ("durability", DurabilityPolicy.VOLATILE, DurabilityPolicy.TRANSIENT_LOCAL),
    ("liveliness", LivelinessPolicy.AUTOMATIC, LivelinessPolicy.MANUAL_BY_TOPIC),
)
"""Policies with a weaker and a stronger value: what offers the weaker one does not satisfy what requests the stronger one."""


def _mismatches(offered: QoSProfile, requested: QoSProfile) -> Iterator[str]:
    for name, weaker, stronger in _LEVELS:
        if (getattr(offered, name), getattr(requested, name)) == (weaker, stronger):
            yield f"Publisher's {name} is {weaker.short_key} and subscription's is {stronger.short_key}"
    for name, text in (("deadline", "deadline"), ("liveliness_lease_duration", "liveliness lease duration")):
        offer, request = getattr(offered, name).nanoseconds, getattr(requested, name).nanoseconds
        if request and not offer:
            yield f"Subscription has a {text}, but publisher does not"
        elif request and offer > request:
            yield f"Subscription's {text} is less than publisher's"


def _undecided(offered: QoSProfile, requested: QoSProfile) -> Iterator[str]:
    undecided = ("SYSTEM_DEFAULT", "UNKNOWN")
    for name, weaker, stronger in _LEVELS:
        offer, request = getattr(offered, name), getattr(requested, name)
        if (offer.name in undecided or offer == weaker) and (request.name in undecided or request == stronger):
            yield f"Publisher's {name} is {offer.short_key} and subscription's is {request.short_key}"
