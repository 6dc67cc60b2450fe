# SPDX-License-Identifier: Apache-2.0
"""rclpy's TypeDescriptionService: tells others how the types that a node uses are made, asked for by their hashes."""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterator
from typing import Any

from rosbags.interfaces import Nodetype

from longscape_ros.embedded.messages import library, message_class, service_class
from longscape_ros.embedded.parameters import Parameter

START_TYPE_DESCRIPTION_SERVICE_PARAM = "start_type_description_service"
"""The parameter, fixed at the start, that says whether a node has the service."""

_SERVICE = "type_description_interfaces/srv/GetTypeDescription"
_HASH = re.compile(r"RIHS01_[0-9a-f]{64}")
_ROS_NAMES = {"bool": "BOOLEAN", "float32": "FLOAT", "float64": "DOUBLE"}
_SUFFIXES = {Nodetype.ARRAY: "_ARRAY", Nodetype.SEQUENCE: "_UNBOUNDED_SEQUENCE"}


class TypeDescriptionService:
    """The service ~/get_type_description of a node, unless the node's parameter says that there is none.

    Args:
        node: Whose types.
    """

    def __init__(self, node: Any) -> None:
        self._node = weakref.proxy(node)
        name = START_TYPE_DESCRIPTION_SERVICE_PARAM
        if not node.has_parameter(name):
            description = "If enabled, start the ~/get_type_description service."
            descriptor = message_class("rcl_interfaces/msg/ParameterDescriptor")
            node.declare_parameter(name, True, descriptor(description=description, read_only=True))
        parameter = node.get_parameter(name)
        if parameter.type_ is not Parameter.Type.BOOL:
            node.get_logger().error(f"Got {name}={parameter.value!r}, expected true or false; there is no ~/get_type_description.")
        elif parameter.value:
            node.create_service(service_class(_SERVICE), f"{node.get_name()}/get_type_description", self._describe)

    def _describe(self, request: Any, response: Any) -> Any:
        """The source texts of the definitions are not known, so they are never among the answer."""
        if not _HASH.fullmatch(request.type_hash):
            response.failure_reason = "Failed to parse type hash"
            return response
        name = next((name for name in self._types() if library().type_hash(name) == request.type_hash), None)
        if name is None:
            response.failure_reason = "Type not currently in use by this node"
            return response
        response.type_description = type_description(name)
        response.successful = True
        return response

    def _types(self) -> Iterator[str]:
        """The types in use by the node."""
        node = self._node
        for topic in (*node.every_publisher(), *node.subscriptions):
            yield topic.msg_type._TYPE_NAME
        for service in (*node.services, *node.clients):
            yield service.srv_type._TYPE_NAME


def type_description(name: str) -> Any:
    """A message's or service's type_description_interfaces/TypeDescription, with all types that it is made of."""
    described: dict[str, Any] = {}
    waiting = [name]
    while waiting:
        name_here = waiting.pop()
        if name_here in described:
            continue
        fields = [_field(*field) for field in library().described_fields(name_here)]
        described[name_here] = message_class("type_description_interfaces/msg/IndividualTypeDescription")(
            type_name=name_here, fields=fields
        )
        waiting.extend(field.type.nested_type_name for field in fields if field.type.nested_type_name)
    description = message_class("type_description_interfaces/msg/TypeDescription")
    return description(type_description=described.pop(name), referenced_type_descriptions=[described[other] for other in sorted(described)])


def _field(name: str, description: Any, default: Any) -> Any:
    field_type = message_class("type_description_interfaces/msg/FieldType")()
    kind, detail = description
    suffix = _SUFFIXES.get(kind, "")
    if suffix:
        (kind, detail), size = detail
        field_type.capacity = size
        if suffix == "_UNBOUNDED_SEQUENCE" and size:
            suffix = "_BOUNDED_SEQUENCE"
    if kind == Nodetype.NAME:
        base = "NESTED_TYPE"
        field_type.nested_type_name = detail
    else:
        plain, bound = detail
        base = f"{'BOUNDED_' if bound else ''}{_ROS_NAMES.get(plain, plain.upper())}"
        field_type.string_capacity = bound
    field_type.type_id = getattr(field_type, f"FIELD_TYPE_{base}{suffix}")
    text = "" if default is None else str(default)
    return message_class("type_description_interfaces/msg/Field")(name=name, type=field_type, default_value=text)
