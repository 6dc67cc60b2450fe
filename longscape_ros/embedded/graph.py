# SPDX-License-Identifier: Apache-2.0
"""What the ROS graph knows: our nodes told to others on ros_discovery_info, theirs and all topics asked of DDS."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cyclonedds.builtin import (
    BuiltinDataReader,
    BuiltinTopicDcpsParticipant,
    BuiltinTopicDcpsPublication,
    BuiltinTopicDcpsSubscription,
)
from cyclonedds.core import InstanceState, Policy

from longscape_ros.embedded.dds import Participant, profile_of, sample_class
from longscape_ros.embedded.messages import deserialize_message, message_class, serialize_message
from longscape_ros.embedded.names import full_name
from longscape_ros.embedded.qos import DurabilityPolicy, QoSProfile

_INFO_TYPE = "rmw_dds_common/msg/ParticipantEntitiesInfo"
_MANY = 10_000
_UNKNOWN_NAME = "_NODE_NAME_UNKNOWN_"


@dataclass
class NodeEndpoints:
    """The endpoints of one node of ours, by their GIDs."""

    readers: list[bytes] = field(default_factory=list)
    writers: list[bytes] = field(default_factory=list)


@dataclass(frozen=True)
class Endpoint:
    """A publisher or a subscription anywhere in the domain."""

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


class Graph:
    """The graph of one participant's domain."""

    def __init__(self, participant: Participant) -> None:
        self._participant = participant
        self._lock = threading.Lock()
        self._nodes: dict[int, tuple[str, str, NodeEndpoints]] = {}
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

    def add_endpoint(self, node: object, gid: bytes, *, writer: bool) -> None:
        """Announces an endpoint of a node of ours."""
        with self._lock:
            endpoints = self._nodes[id(node)][2]
            (endpoints.writers if writer else endpoints.readers).append(gid)
            self._announce()

    def remove_endpoint(self, node: object, gid: bytes) -> None:
        """Withdraws an endpoint of a node of ours."""
        with self._lock:
            if id(node) not in self._nodes:
                return
            endpoints = self._nodes[id(node)][2]
            endpoints.readers = [other for other in endpoints.readers if other != gid]
            endpoints.writers = [other for other in endpoints.writers if other != gid]
            self._announce()

    def _announce(self) -> None:
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
        """The publishers or the subscriptions of a node."""
        wanted = full_name(namespace, name)
        gids: set[bytes] = set()
        for _, node in self._node_infos():
            if full_name(node.node_namespace, node.node_name) == wanted:
                gids.update(bytes(gid.data) for gid in (node.writer_gid_seq if publishers else node.reader_gid_seq))
        return [endpoint for endpoint in self.endpoints(publishers=publishers) if endpoint.gid in gids]

    def endpoints(self, *, publishers: bool, topic: str | None = None) -> list[Endpoint]:
        """All publishers, or all subscriptions, of the domain; of one topic by its ROS name."""
        reader = self._publications if publishers else self._subscriptions
        samples = [sample for sample in reader.read(_MANY) if sample.sample_info.instance_state == InstanceState.Alive]
        endpoints = (
            Endpoint(
                sample.key.bytes,
                sample.participant_key.bytes,
                sample.topic_name,
                sample.type_name,
                profile_of(sample.qos),
                _user_data(sample.qos).get("typehash", ""),
            )
            for sample in samples
            if topic is None or sample.topic_name == f"rt{topic}"
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
        samples = self._participants.read(_MANY)
        alive = [sample for sample in samples if sample.sample_info.instance_state == InstanceState.Alive]
        return {sample.key.bytes: _user_data(sample.qos).get("enclave", "/") for sample in alive}


def _gid_message(gid: bytes) -> Any:
    return message_class("rmw_dds_common/msg/Gid")(data=list(gid))


def _user_data(qos: Any) -> dict[str, str]:
    """The `key=value;` pairs of an entity's user data."""
    policy = qos[Policy.Userdata]
    text = policy.data.decode("ascii", "replace") if policy is not None else ""
    return dict(pair.split("=", 1) for pair in text.split(";") if "=" in pair)
