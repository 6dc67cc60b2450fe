# SPDX-License-Identifier: Apache-2.0
"""The exceptions of rclpy, under their names there, and the one for what the embedded graph does not offer."""

from __future__ import annotations

from typing import Any

from longscape_ros.errors import HostError


class NotOfferedError(HostError, NotImplementedError):
    """A part of rclpy that the embedded graph lacks."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"Got a request for {what}; the embedded graph has topics, services, timers and parameters, but no actions and no "
            "introspection of services. Use a topic or a service, or run on a host with ROS 2, where the same code gets the real rclpy."
        )


class RCLError(RuntimeError):
    """The ROS client layer refused an operation."""


class NodeNameNonExistentError(RCLError):
    """No node of this name is in the graph."""

    def __init__(self, name: str) -> None:
        super().__init__(f"cannot get names and types of the node {name}: there is none of this name in the graph")


class InvalidHandle(Exception):  # noqa: N818 - rclpy's name
    """The entity was used after it had been destroyed."""


class NotInitializedException(Exception):  # noqa: N818
    """rclpy.init() has not been called, or the context has been shut down."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__("rclpy.init() has not been called." + (f" msg:{message}" if message else ""))


class NoTypeSupportImportedException(Exception):  # noqa: N818
    """A message's or a service's class lacks its C code; the embedded graph's never do."""

    def __init__(self) -> None:
        super().__init__("no type_support imported")


class UnknownROSArgsError(RCLError):
    """An argument after --ros-args is none that ROS knows, or is malformed."""

    def __init__(self, arguments: list[str]) -> None:
        super().__init__(f"Found unknown or malformed ROS arguments: {arguments}. docs/ros.md says which are known.")


class NameValidationException(Exception):  # noqa: N818
    """A node, namespace, topic or service name breaks a rule of ROS names."""

    def __init__(self, name_type: str, name: str, error_msg: str, invalid_index: int) -> None:
        super().__init__(f"Invalid {name_type}: {error_msg}:\n  '{name}'\n   {' ' * invalid_index}^")


class InvalidNamespaceException(NameValidationException):
    """An invalid namespace."""

    def __init__(self, name: str, error_msg: str, invalid_index: int) -> None:
        super().__init__("namespace", name, error_msg, invalid_index)


class InvalidNodeNameException(NameValidationException):
    """An invalid node name."""

    def __init__(self, name: str, error_msg: str, invalid_index: int) -> None:
        super().__init__("node name", name, error_msg, invalid_index)


class InvalidTopicNameException(NameValidationException):
    """An invalid topic name."""

    def __init__(self, name: str, error_msg: str, invalid_index: int) -> None:
        super().__init__("topic name", name, error_msg, invalid_index)


class InvalidServiceNameException(NameValidationException):
    """An invalid service name."""

    def __init__(self, name: str, error_msg: str, invalid_index: int) -> None:
        super().__init__("service name", name, error_msg, invalid_index)


class ParameterException(Exception):  # noqa: N818
    """Base of the parameter exceptions."""

    def __init__(self, error_msg: str, parameters: str | list[str]) -> None:
        super().__init__(f"{error_msg}: {parameters}")


class ParameterNotDeclaredException(ParameterException):
    """A parameter was used before it was declared."""

    def __init__(self, parameters: str | list[str]) -> None:
        super().__init__("Invalid access to undeclared parameter(s)", parameters)


class ParameterAlreadyDeclaredException(ParameterException):
    """A parameter was declared twice."""

    def __init__(self, parameters: str | list[str]) -> None:
        super().__init__("Parameter(s) already declared", parameters)


class InvalidParameterException(ParameterException):
    """An invalid parameter name."""

    def __init__(self, parameter_name: str) -> None:
        super().__init__("Invalid parameter name", parameter_name)


class InvalidParameterTypeException(ParameterException):
    """A value of another type than the parameter was declared with."""

    def __init__(self, desired_parameter: Any, expected_type: str) -> None:
        super().__init__(
            f"Trying to set parameter '{desired_parameter.name}' to '{desired_parameter.value}' of type "
            f"'{desired_parameter.type_.name}', expecting type '{expected_type}'",
            desired_parameter.name,
        )


class InvalidParameterValueException(ParameterException):
    """A value out of the declared range, or one that a callback refused."""

    def __init__(self, parameter: str, value: object, reason: str) -> None:
        super().__init__(f"Invalid parameter value ({value}) for parameter. Reason: {reason}", parameter)


class ParameterImmutableException(ParameterException):
    """A read-only parameter was to be changed."""

    def __init__(self, parameter_name: str) -> None:
        super().__init__("Attempted to modify read-only parameter", parameter_name)


class ParameterUninitializedException(ParameterException):
    """A statically typed parameter has neither a default nor an override."""

    def __init__(self, parameter_name: str) -> None:
        super().__init__(f"The parameter '{parameter_name}' is not initialized", parameter_name)


class ROSInterruptException(Exception):  # noqa: N818
    """A sleep was ended by shutdown."""

    def __init__(self) -> None:
        super().__init__("rclpy.shutdown() has been called")
