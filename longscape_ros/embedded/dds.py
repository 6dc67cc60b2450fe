# SPDX-License-Identifier: Apache-2.0
"""Eclipse Cyclone DDS as ROS uses it: the domain's configuration, topics whose samples are CDR bytes, QoS, endpoints."""

from __future__ import annotations

import dataclasses
import functools
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from xml.sax.saxutils import quoteattr

from cyclonedds.core import DDSException, Entity, GuardCondition, Policy, Qos, WaitSet
from cyclonedds.domain import Domain, DomainParticipant
from cyclonedds.idl import IdlStruct, make_idl_struct, types
from cyclonedds.internal import SampleInfo
from cyclonedds.pub import DataWriter, Publisher
from cyclonedds.sub import DataReader, Subscriber
from cyclonedds.topic import Topic

from longscape_ros.embedded.exceptions import RCLError
from longscape_ros.embedded.messages import library
from longscape_ros.embedded.qos import DurabilityPolicy, HistoryPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy
from longscape_ros.embedded.time import Duration, Infinite

_Found = TypeVar("_Found")
_MAX_BLOCKING_NS = 100_000_000  # dds_write holds the GIL: a slow reader may cost a sample, not stop the process
_INFINITE_NS = 2**63 - 1
_IDL_TYPES: dict[str, Any] = {
    "bool": bool, "byte": types.byte, "string": str,
    "int8": types.int8, "uint8": types.uint8, "int16": types.int16, "uint16": types.uint16,
    "int32": types.int32, "uint32": types.uint32, "int64": types.int64, "uint64": types.uint64,
    "float32": types.float32, "float64": types.float64,
}  # fmt: skip
_INFO_FIELDS = {field.name: index for index, field in enumerate(dataclasses.fields(SampleInfo))}
_SERVICE_HEADER: dict[str, Any] = {"header_guid": types.uint64, "header_seq": types.int64}


class _Info(functools.partial[Any]):
    """What DDS says of a sample: a SampleInfo that is not made, with its fields.

    The binding calls SampleInfo from C for every sample, and does not look whether that worked: the KeyboardInterrupt of a signal that
    came while C took the sample strikes there, and the process ended with a segmentation fault. A partial is made without Python's help.
    """

    def __getattr__(self, name: str) -> Any:
        if name not in _INFO_FIELDS:
            raise AttributeError(name)
        return self.args[_INFO_FIELDS[name]]


SampleInfo.__new__ = staticmethod(_Info)  # type: ignore[assignment]


@functools.cache
def sample_class(type_name: str) -> type[IdlStruct]:
    """The IDL class of sensor_msgs/msg/Image and the like. Its samples carry their CDR bytes as `cdr` and are never decoded here.

    Cyclone's own Python serializer takes a second for an image. The overrides stand on the class itself: Cyclone
    refuses a subclass, and its reader needs deserialize_key when a writer leaves. Requests and responses of services have a header
    before their fields, see :mod:`longscape_ros.embedded.services`.
    """
    package, kind, short = type_name.split("/")
    header = _SERVICE_HEADER if kind == "srv" else {}
    fields = header | {name: _idl_type(description) for name, description in library().fields_of(type_name)}
    cls = make_idl_struct(f"{short}_", f"{package}.{kind}.dds_.{short}_", fields, dataclassify=False)
    cls.serialize = cls.serialize_key = _cdr_of  # type: ignore[method-assign, assignment]
    cls.deserialize = cls.deserialize_key = classmethod(_sample_of)  # type: ignore[method-assign, assignment]
    return cls


def _cdr_of(sample: Any, *_: Any, **__: Any) -> bytes:
    cdr: bytes = sample.cdr
    return cdr


def _sample_of(cls: Any, data: bytes, *_: Any, **__: Any) -> Any:
    sample = cls.__new__(cls)
    sample.cdr = data
    return sample


def _idl_type(description: Any) -> Any:
    idl: Any = types  # its types take parameters, which its type hints do not say
    kind, detail = int(description[0]), description[1]
    if kind == 1:
        base, bound = detail
        return idl.bounded_str[bound] if base == "string" and bound else _IDL_TYPES[base]
    if kind == 2:
        return sample_class(detail)
    item, size = _idl_type(detail[0]), detail[1]
    if kind == 3:
        return idl.array[item, size]
    return idl.sequence[item, size] if size else idl.sequence[item]


def domain_configuration() -> str:
    """Cyclone's XML configuration for the ROS environment variables, CYCLONEDDS_URI last so that it wins.

    Fragments of 65 kB and large socket buffers keep camera images whole; the discovery settings are those of rmw_cyclonedds.

    Raises:
        RCLError: an unknown ROS_AUTOMATIC_DISCOVERY_RANGE.
    """
    discovery_range = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "").upper() or "SUBNET"
    if os.environ.get("ROS_LOCALHOST_ONLY") == "1":
        discovery_range = "LOCALHOST"
    if discovery_range not in ("SUBNET", "LOCALHOST", "OFF", "SYSTEM_DEFAULT"):
        raise RCLError(f"Got ROS_AUTOMATIC_DISCOVERY_RANGE={discovery_range}, expected SUBNET, LOCALHOST, OFF or SYSTEM_DEFAULT.")
    multicast = "<AllowMulticast>false</AllowMulticast>" if discovery_range in ("LOCALHOST", "OFF") else ""
    ours = (
        "<CycloneDDS><Domain>"
        f"<General>{multicast}<MaxMessageSize>65500B</MaxMessageSize><FragmentSize>65000B</FragmentSize></General>"
        f"<Discovery>{_discovery(discovery_range)}</Discovery>"
        '<Internal><SocketReceiveBufferSize max="8MiB"/><SocketSendBufferSize max="4MiB"/>'
        "<Watermarks><WhcHigh>32MiB</WhcHigh></Watermarks></Internal>"
        "</Domain></CycloneDDS>"
    )
    return ",".join(part for part in (ours, os.environ.get("CYCLONEDDS_URI", "")) if part)


def _discovery(discovery_range: str) -> str:
    if discovery_range == "SYSTEM_DEFAULT":
        return ""
    if discovery_range == "OFF":
        return f"<ParticipantIndex>none</ParticipantIndex><Tag>ros_discovery_off_{os.getpid()}</Tag>"
    peers = ["localhost"] if discovery_range == "LOCALHOST" else []
    peers += [peer for peer in os.environ.get("ROS_STATIC_PEERS", "").split(";") if peer]
    listed = "".join(f"<Peer address={quoteattr(peer)}/>" for peer in peers)
    index = "<ParticipantIndex>auto</ParticipantIndex><MaxAutoParticipantIndex>32</MaxAutoParticipantIndex>"
    return index + (f"<Peers>{listed}</Peers>" if listed else "")


@functools.cache
def _domain(domain_id: int) -> Domain:
    """A domain is configured once in a process."""
    try:
        return Domain(domain_id, domain_configuration())
    except DDSException as fault:
        raise RCLError(
            f"Cyclone DDS refused the configuration of domain {domain_id}: {fault}. Check ROS_STATIC_PEERS and CYCLONEDDS_URI."
        ) from fault


def interruptible(read: Callable[..., _Found], *args: Any) -> _Found:
    """What a function of the binding gives that makes it by calling Python from C.

    The binding turns whatever that raises into an Exception: the KeyboardInterrupt of a signal that came in between too. It is told by
    reading again, which then succeeds.

    Raises:
        KeyboardInterrupt: See above.
    """
    try:
        return read(*args)
    except Exception as error:
        if type(error) is not Exception:
            raise
        read(*args)
        raise KeyboardInterrupt from error


def matched_publications(reader: DataReader[Any]) -> Iterator[Any]:
    """What DDS says of the writers that a reader hears."""
    found = (interruptible(reader.get_matched_publication_data, handle) for handle in reader.get_matched_publications())
    return (publication for publication in found if publication is not None)


def matched_subscriptions(writer: DataWriter[Any]) -> Iterator[Any]:
    """What DDS says of the readers that hear a writer."""
    found = (interruptible(writer.get_matched_subscription_data, handle) for handle in writer.get_matched_subscriptions())
    return (subscription for subscription in found if subscription is not None)


def close_entity(entity: Entity) -> None:
    """Deletes a DDS entity now, whoever still refers to it."""
    entity.__del__()  # type: ignore[no-untyped-call, unused-ignore]


class Participant:
    """A process's presence in one DDS domain, and the maker of its endpoints."""

    def __init__(self, domain_id: int, enclave: str) -> None:
        self._lock = threading.RLock()
        self._topics: dict[str, Topic[Any]] = {}
        self._service_ends = 0
        _domain(domain_id)
        self.entity = DomainParticipant(domain_id, Qos(Policy.Userdata(f"enclave={enclave};".encode())))
        self._publisher = Publisher(self.entity)
        self._subscriber = Subscriber(self.entity)

    @property
    def gid(self) -> bytes:
        """The participant's 16 bytes in the ROS graph."""
        return self.entity.guid.bytes

    def create_writer(self, dds_topic: str, type_name: str, profile: QoSProfile, *, user_data: str = "") -> DataWriter[Any]:
        """A writer of a topic by its DDS name; `user_data` goes before the type's hash."""
        with self._lock:
            qos = endpoint_qos(profile, type_name, writer=True, extra=user_data)
            return DataWriter(self._publisher, self._topic(dds_topic, type_name), qos)

    def create_reader(self, dds_topic: str, type_name: str, profile: QoSProfile, *, user_data: str = "") -> DataReader[Any]:
        """A reader of a topic by its DDS name; `user_data` goes before the type's hash."""
        with self._lock:
            qos = endpoint_qos(profile, type_name, writer=False, extra=user_data)
            return DataReader(self._subscriber, self._topic(dds_topic, type_name), qos)

    def new_service_id(self) -> str:
        """An id for a service or a client: the participant's 12 bytes and a counter, written as rmw_cyclonedds writes them."""
        with self._lock:
            self._service_ends += 1
            first, *others = self.gid[:12] + self._service_ends.to_bytes(4, "big")
        return ".".join([f"{first:2x}", *(f"{byte:x}" for byte in others)])

    def create_wait_set(self) -> tuple[WaitSet, GuardCondition]:
        """A wait set, and a guard condition in it that wakes whoever waits."""
        wait_set, guard = WaitSet(self.entity), GuardCondition(self.entity)
        wait_set.attach(guard)
        return wait_set, guard

    def close(self) -> None:
        """Leaves the domain with everything created here."""
        with self._lock:
            self._topics.clear()
            close_entity(self.entity)

    def _topic(self, dds_topic: str, type_name: str) -> Topic[Any]:
        topic = self._topics.get(dds_topic)
        cls = sample_class(type_name)
        if topic is None or topic.data_type is not cls:
            try:
                topic = self._topics[dds_topic] = Topic(self.entity, dds_topic, cls)
            except DDSException as fault:
                raise RCLError(
                    f"Got the type {type_name} for {dds_topic}: {fault}. Two types on one topic of a process do not work."
                ) from fault
        return topic


def user_data_of(qos: Qos) -> dict[str, str]:
    """The `key=value;` pairs of an entity's user data."""
    policy = qos[Policy.Userdata]
    text = policy.data.decode("ascii", "replace") if policy is not None else ""
    return dict(pair.split("=", 1) for pair in text.split(";") if "=" in pair)


def endpoint_qos(profile: QoSProfile, type_name: str, *, writer: bool, extra: str = "") -> Qos:
    """The DDS policies of a profile, with the type's hash in the user data as ROS expects it, and what else belongs there before it."""
    history = _history(profile)
    policies: list[Any] = [
        history,
        Policy.Reliability.BestEffort
        if profile.reliability is ReliabilityPolicy.BEST_EFFORT
        else Policy.Reliability.Reliable(_MAX_BLOCKING_NS),
        Policy.Userdata(f"{extra}typehash={library().type_hash(type_name)};".encode()),
    ]
    if profile.durability is DurabilityPolicy.TRANSIENT_LOCAL:
        policies.append(Policy.Durability.TransientLocal)
        if writer:
            policies.append(Policy.DurabilityService(0, history, -1, -1, -1))
    if _is_set(profile.deadline):
        policies.append(Policy.Deadline(profile.deadline.nanoseconds))
    if writer and _is_set(profile.lifespan):
        policies.append(Policy.Lifespan(profile.lifespan.nanoseconds))
    if writer:
        policies.append(Policy.WriterDataLifecycle(autodispose=False))
    lease = profile.liveliness_lease_duration.nanoseconds if _is_set(profile.liveliness_lease_duration) else _INFINITE_NS
    manual = profile.liveliness is LivelinessPolicy.MANUAL_BY_TOPIC
    policies.append(Policy.Liveliness.ManualByTopic(lease) if manual else Policy.Liveliness.Automatic(lease))
    return Qos(*policies)


def _history(profile: QoSProfile) -> Any:
    if profile.history is HistoryPolicy.KEEP_ALL:
        return Policy.History.KeepAll
    return Policy.History.KeepLast(max(1, profile.depth))


def _is_set(duration: Duration) -> bool:
    return duration.nanoseconds > 0 and duration != Infinite


def profile_of(qos: Qos) -> QoSProfile:
    """The profile of an endpoint seen in the domain."""

    def span(policy: Any, attribute: str) -> Duration:
        value = getattr(policy, attribute, 0) if policy is not None else 0
        return Duration(nanoseconds=min(max(value, 0), _INFINITE_NS))

    history, liveliness = qos[Policy.History], qos[Policy.Liveliness]
    keep_all = history is Policy.History.KeepAll
    reliable = isinstance(qos[Policy.Reliability], Policy.Reliability.Reliable)
    volatile = qos[Policy.Durability] in (None, Policy.Durability.Volatile)
    return QoSProfile(
        history=HistoryPolicy.KEEP_ALL if keep_all else HistoryPolicy.UNKNOWN if history is None else HistoryPolicy.KEEP_LAST,
        depth=getattr(history, "depth", 0),
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.VOLATILE if volatile else DurabilityPolicy.TRANSIENT_LOCAL,
        lifespan=span(qos[Policy.Lifespan], "lifespan"),
        deadline=span(qos[Policy.Deadline], "deadline"),
        liveliness=LivelinessPolicy.MANUAL_BY_TOPIC
        if isinstance(liveliness, Policy.Liveliness.ManualByTopic)
        else LivelinessPolicy.AUTOMATIC,
        liveliness_lease_duration=span(liveliness, "lease_duration"),
    )
