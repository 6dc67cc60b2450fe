# SPDX-License-Identifier: Apache-2.0
"""What the ROS graph knows: our nodes told to others on ros_discovery_info, theirs and all topics asked of DDS."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from cyclonedds.builtin import (
    BuiltinDataReader,
    BuiltinTopicDcpsParticipant,
    BuiltinTopicDcpsPublication,
    BuiltinTopicDcpsSubscription,
)
from cyclonedds.core import InstanceState

from longscape_ros.embedded.dds import Participant, interruptible, profile_of, sample_class, user_data_of
from longscape_ros.embedded.exceptions import NodeNameNonExistentError
from longscape_ros.embedded.messages import deserialize_message, message_class, serialize_message
from longscape_ros.embedded.names import full_name
from longscape_ros.embedded.qos import DurabilityPolicy, QoSProfile

_INFO_TYPE = "rmw_dds_common/msg/ParticipantEntitiesInfo"
_MANY = 10_000
_REQUESTS, _REPLIES = _SERVICE_TOPICS = (("rq", "Request"), ("rr", "Reply"))
_UNKNOWN_NAME = "_NODE_NAME_UNKNOWN_"


@dataclass
class NodeEndpoints:
    """The endpoints of one node of ours, by their GIDs."""

    readers: list[bytes] = field(default_factory=list)
    writers: list[bytes] = field(default_factory=list)


@dataclass(frozen=True)
class Endpoint:
    """A DDS writer or reader anywhere in the domain: of a publisher, a subscription, or one half of a service or a client."""

    gid: bytes
    participant: bytes
    dds_topic: str
    dds_type: str
    profile: QoSProfile
    type_hash: str

    @property
    def topic(self) -> str:
        """The ROS name, or the DDS name where it is none of ROS."""
        return self.dds_topic.removeprefix("rt") if self.dds_topic.startswith("rt/") else self.dds_topic

    @property
    def type_name(self) -> str:
        """The ROS type, as sensor_msgs/msg/Image."""
        return self.dds_type.replace("::dds_::", "::").replace("::", "/").removesuffix("_")

    @property
    def service(self) -> str:
        """The name of the service whose requests or replies pass here; empty where it is no service's."""
        for prefix, suffix in _SERVICE_TOPICS:
            if self.dds_topic.startswith(f"{prefix}/") and self.dds_topic.endswith(suffix):
                return self.dds_topic.removeprefix(prefix).removesuffix(suffix)
        return ""

    @property
    def service_type(self) -> str:
        """The service's type, as std_srvs/srv/SetBool."""
        return self.type_name.removesuffix("_Request").removesuffix("_Response")


class Graph:
    """The graph of one participant's domain."""

    def __init__(self, participant: Participant) -> None:
        self._participant = participant
        self._lock = threading.Lock()
        self._nodes: dict[int, tuple[str, str, NodeEndpoints]] = {}
        self._withheld = 0  # how many blocks are withholding announcements
        self._known: dict[bytes, Any] = {}  # participant's GID -> its ParticipantEntitiesInfo
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        remembered = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._writer = participant.create_writer("ros_discovery_info", _INFO_TYPE, latched)
        self._reader = participant.create_reader("ros_discovery_info", _INFO_TYPE, remembered)
        self._participants = BuiltinDataReader(participant.entity, BuiltinTopicDcpsParticipant)
        self._publications = BuiltinDataReader(participant.entity, BuiltinTopicDcpsPublication)
        self._subscriptions = BuiltinDataReader(participant.entity, BuiltinTopicDcpsSubscription)

    def add_node(self, node: object, name: str, namespace: str) -> None:
        """Announces a node of ours."""
        with self._lock:
            self._nodes[id(node)] = (name, namespace, NodeEndpoints())
            self._announce()

    def remove_node(self, node: object) -> None:
        """Withdraws a node of ours."""
        with self._lock:
            self._nodes.pop(id(node), None)
            self._announce()

    def add_endpoints(self, node: object, *, readers: Sequence[bytes] = (), writers: Sequence[bytes] = ()) -> None:
        """Announces endpoints of a node of ours, by their GIDs."""
        with self._lock:
            endpoints = self._nodes[id(node)][2]
            endpoints.readers.extend(readers)
            endpoints.writers.extend(writers)
            self._announce()

    def remove_endpoints(self, node: object, gids: Sequence[bytes]) -> None:
        """Withdraws endpoints of a node of ours, by their GIDs."""
        with self._lock:
            if id(node) not in self._nodes:
                return
            endpoints = self._nodes[id(node)][2]
            endpoints.readers = [other for other in endpoints.readers if other not in gids]
            endpoints.writers = [other for other in endpoints.writers if other not in gids]
            self._announce()

    @contextlib.contextmanager
    def announced_at_once(self) -> Iterator[None]:
        """Withholds what is to be announced until the end of the block; a node starts with a dozen endpoints."""
        with self._lock:
            self._withheld += 1
        try:
            yield
        finally:
            with self._lock:
                self._withheld -= 1
                self._announce()

    def _announce(self) -> None:
        if self._withheld:
            return
        node_type = message_class("rmw_dds_common/msg/NodeEntitiesInfo")
        nodes = [
            node_type(
                node_namespace=namespace,
                node_name=name,
                reader_gid_seq=[_gid_message(gid) for gid in endpoints.readers],
                writer_gid_seq=[_gid_message(gid) for gid in endpoints.writers],
            )
            for name, namespace, endpoints in self._nodes.values()
        ]
        info = message_class(_INFO_TYPE)(gid=_gid_message(self._participant.gid), node_entities_info_seq=nodes)
        sample = sample_class(_INFO_TYPE)()
        sample.cdr = serialize_message(info)  # type: ignore[attr-defined]
        self._writer.write(sample)

    def nodes(self) -> list[tuple[str, str, str]]:
        """Names, namespaces and enclaves of all nodes of the domain."""
        return [(node.node_name, node.node_namespace, enclave) for enclave, node in self._node_infos()]

    def node_of(self, endpoint: Endpoint) -> tuple[str, str]:
        """Name and namespace of the node an endpoint belongs to."""
        for _, node in self._node_infos():
            gids = [bytes(gid.data) for gid in (*node.reader_gid_seq, *node.writer_gid_seq)]
            if endpoint.gid in gids:
                return node.node_name, node.node_namespace
        return _UNKNOWN_NAME, "_NODE_NAMESPACE_UNKNOWN_"

    def endpoints_of_node(self, name: str, namespace: str, *, publishers: bool) -> list[Endpoint]:
        """The DDS writers or the DDS readers of a node.

        Raises:
            NodeNameNonExistentError: there is no node of this name.
        """
        wanted = full_name(namespace, name)
        nodes = [node for _, node in self._node_infos() if full_name(node.node_namespace, node.node_name) == wanted]
        if not nodes:
            raise NodeNameNonExistentError(wanted)
        gids = {bytes(gid.data) for node in nodes for gid in (node.writer_gid_seq if publishers else node.reader_gid_seq)}
        return [endpoint for endpoint in self.endpoints(publishers=publishers) if endpoint.gid in gids]

    def endpoints(self, *, publishers: bool, dds_topic: str | None = None) -> list[Endpoint]:
        """All DDS writers, or all DDS readers, of the domain; of one topic by its DDS name."""
        reader = self._publications if publishers else self._subscriptions
        samples = _alive(reader)
        endpoints = (
            Endpoint(
                sample.key.bytes,
                sample.participant_key.bytes,
                sample.topic_name,
                sample.type_name,
                profile_of(sample.qos),
                user_data_of(sample.qos).get("typehash", ""),
            )
            for sample in samples
            if dds_topic in (None, sample.topic_name)
        )
        return list(endpoints)

    def topics(self, *, no_demangle: bool = False) -> list[tuple[str, list[str]]]:
        """The topics of ROS with their types; of DDS with no_demangle."""
        found: dict[str, set[str]] = {}
        for endpoint in (*self.endpoints(publishers=True), *self.endpoints(publishers=False)):
            if no_demangle:
                found.setdefault(endpoint.dds_topic, set()).add(endpoint.dds_type)
            elif endpoint.dds_topic.startswith("rt/"):
                found.setdefault(endpoint.topic, set()).add(endpoint.type_name)
        return [(name, sorted(kinds)) for name, kinds in sorted(found.items())]

    def services(self) -> list[tuple[str, list[str]]]:
        """The services that somebody offers or asks for, with their types."""
        return _by_name((*self.endpoints(publishers=True), *self.endpoints(publishers=False)))

    def services_of_node(self, name: str, namespace: str, *, clients: bool) -> list[tuple[str, list[str]]]:
        """The services that a node offers, or those it is a client of, with their types.

        Raises:
            NodeNameNonExistentError: there is no node of this name.
        """
        prefix, _ = _REPLIES if clients else _REQUESTS
        readers = self.endpoints_of_node(name, namespace, publishers=False)
        return _by_name(reader for reader in readers if reader.dds_topic.startswith(f"{prefix}/"))

    def count_service(self, service: str, *, clients: bool) -> int:
        """How many services of a full name there are, or how many clients it has."""
        return len(self.endpoints(publishers=not clients, dds_topic=service_topics(service)[1]))

    def _node_infos(self) -> Iterator[tuple[str, Any]]:
        """The nodes of the participants that are alive, each with its enclave."""
        with self._lock:
            for sample in self._reader.take(_MANY):
                if hasattr(sample, "cdr"):
                    info: Any = deserialize_message(sample.cdr, message_class(_INFO_TYPE))
                    self._known[bytes(info.gid.data)] = info
            enclaves = self._enclaves()  # after the samples: whoever sent one is seen as alive by now, or has left
            self._known = {gid: info for gid, info in self._known.items() if gid in enclaves}
            known = [(enclaves[gid], info) for gid, info in self._known.items()]
        for enclave, info in known:
            for node in info.node_entities_info_seq:
                yield enclave, node

    def _enclaves(self) -> dict[bytes, str]:
        """The enclaves of the participants that are alive, by GID."""
        return {sample.key.bytes: user_data_of(sample.qos).get("enclave", "/") for sample in _alive(self._participants)}


def service_topics(service: str) -> tuple[str, str]:
    """The DDS topics of a service's requests and of its replies."""
    request, reply = (f"{prefix}{service}{suffix}" for prefix, suffix in _SERVICE_TOPICS)
    return request, reply


def _alive(reader: Any) -> list[Any]:
    """The samples of what is there, of a reader of DDS's own topics."""
    return [sample for sample in interruptible(reader.read, _MANY) if sample.sample_info.instance_state == InstanceState.Alive]


def _by_name(endpoints: Iterable[Endpoint]) -> list[tuple[str, list[str]]]:
    """The services that endpoints belong to, with their types."""
    found: dict[str, set[str]] = {}
    for endpoint in endpoints:
        if endpoint.service:
            found.setdefault(endpoint.service, set()).add(endpoint.service_type)
    return [(name, sorted(kinds)) for name, kinds in sorted(found.items())]


def _gid_message(gid: bytes) -> Any:
    return message_class("rmw_dds_common/msg/Gid")(data=list(gid))
