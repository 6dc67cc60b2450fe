# SPDX-License-Identifier: Apache-2.0
"""rclpy's ParameterService: a node's parameters read and set by others, as `ros2 param` does."""

from __future__ import annotations

import weakref
from typing import Any

from longscape_ros.embedded.exceptions import ParameterNotDeclaredException, ParameterUninitializedException
from longscape_ros.embedded.messages import message_class, service_class
from longscape_ros.embedded.parameters import Parameter
from longscape_ros.embedded.qos import qos_profile_parameters


class ParameterService:
    """The six services of a node's parameters; the node keeps them alive.

    Args:
        node: Whose parameters.
    """

    def __init__(self, node: Any) -> None:
        self._node = weakref.proxy(node)
        for name, kind, callback in (
            ("describe_parameters", "DescribeParameters", self._describe),
            ("get_parameters", "GetParameters", self._get),
            ("get_parameter_types", "GetParameterTypes", self._get_types),
            ("list_parameters", "ListParameters", self._list),
            ("set_parameters", "SetParameters", self._set),
            ("set_parameters_atomically", "SetParametersAtomically", self._set_atomically),
        ):
            service = service_class(f"rcl_interfaces/srv/{kind}")
            node.create_service(service, f"{node.get_name()}/{name}", callback, qos_profile=qos_profile_parameters)

    def _describe(self, request: Any, response: Any) -> Any:
        """One unknown name, and there is no descriptor at all: rclpy's rule, also for values and types."""
        try:
            response.descriptors = self._node.describe_parameters(request.names)
        except ParameterNotDeclaredException:
            response.descriptors = []
        return response

    def _get(self, request: Any, response: Any) -> Any:
        try:
            response.values = [parameter.get_parameter_value() for parameter in self._node.get_parameters(request.names)]
        except (ParameterNotDeclaredException, ParameterUninitializedException):
            response.values = []
        return response

    def _get_types(self, request: Any, response: Any) -> Any:
        try:
            response.types = [kind.value for kind in self._node.get_parameter_types(request.names)]
        except ParameterNotDeclaredException:
            response.types = []
        return response

    def _list(self, request: Any, response: Any) -> Any:
        response.result = self._node.list_parameters(request.prefixes, request.depth)
        return response

    def _set(self, request: Any, response: Any) -> Any:
        response.results = [self._result([message]) for message in request.parameters]
        return response

    def _set_atomically(self, request: Any, response: Any) -> Any:
        response.result = self._result(request.parameters)
        return response

    def _result(self, messages: list[Any]) -> Any:
        """Sets parameters all at once; what cannot be a parameter is refused with the reason."""
        refused = message_class("rcl_interfaces/msg/SetParametersResult")
        try:
            parameters = [Parameter.from_parameter_msg(message) for message in messages]
        except (ValueError, RuntimeError) as fault:
            return refused(successful=False, reason=f"Got a parameter that is none: {fault}. Expected one of rcl_interfaces/ParameterType.")
        try:
            return self._node.set_parameters_atomically(parameters)
        except ParameterNotDeclaredException as fault:
            return refused(successful=False, reason=str(fault))
