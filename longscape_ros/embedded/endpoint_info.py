# SPDX-License-Identifier: Apache-2.0
"""rclpy's TopicEndpointInfo: what get_publishers_info_by_topic and get_subscriptions_info_by_topic give."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from longscape_ros.embedded.graph import Endpoint
from longscape_ros.embedded.qos import QoSProfile


class TopicEndpointTypeEnum(IntEnum):
    """Which side of a topic an endpoint is on."""

    INVALID = 0
    PUBLISHER = 1
    SUBSCRIPTION = 2


@dataclass(frozen=True)
class TypeHash:
    """The RIHS hash of a type: version and 32 bytes."""

    version: int = -1
    value: bytes = bytes(32)

    def __str__(self) -> str:
        return f"RIHS{self.version:02}_{self.value.hex()}" if self.version > 0 else "INVALID"

    @classmethod
    def parse(cls, text: str) -> TypeHash:
        """The hash of RIHS01_...; an invalid one of anything else."""
        prefix, _, digits = text.partition("_")
        try:
            return cls(int(prefix.removeprefix("RIHS")), bytes.fromhex(digits))
        except ValueError:
            return cls()


@dataclass(frozen=True)
class TopicEndpointInfo:
    """A publisher or a subscription anywhere in the graph."""

    node_name: str
    node_namespace: str
    topic_type: str
    topic_type_hash: TypeHash
    endpoint_type: TopicEndpointTypeEnum
    endpoint_gid: list[int]
    qos_profile: QoSProfile


def endpoint_info(endpoint: Endpoint, node: tuple[str, str], kind: TopicEndpointTypeEnum, *, no_mangle: bool) -> TopicEndpointInfo:
    """What rclpy tells of an endpoint."""
    type_name = endpoint.dds_type if no_mangle else endpoint.type_name
    return TopicEndpointInfo(*node, type_name, TypeHash.parse(endpoint.type_hash), kind, list(endpoint.gid), endpoint.profile)
