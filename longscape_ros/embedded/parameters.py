# SPDX-License-Identifier: Apache-2.0
"""rclpy's Parameter, and the store that declares, checks and sets a node's parameters."""

from __future__ import annotations

import array
import copy
import math
import warnings
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

from longscape_ros.embedded.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
    ParameterAlreadyDeclaredException,
    ParameterImmutableException,
    ParameterNotDeclaredException,
    ParameterUninitializedException,
)
from longscape_ros.embedded.messages import message_class
from longscape_ros.embedded.names import validate_parameter_name

PARAMETER_SEPARATOR_STRING = "."
_FLOAT_TOLERANCE = 1e-6
_VALUE_FIELDS = {
    1: "bool_value", 2: "integer_value", 3: "double_value", 4: "string_value", 5: "byte_array_value",
    6: "bool_array_value", 7: "integer_array_value", 8: "double_array_value", 9: "string_array_value",
}  # fmt: skip
_ITEM_TYPES: dict[int, type] = {5: bytes, 6: bool, 7: int, 8: float, 9: str}
_SCALAR_TYPES: dict[int, type] = {1: bool, 2: int, 3: float, 4: str}


class ParameterType(Enum):
    """The types a parameter can have, with the numbers of rcl_interfaces/ParameterType."""

    NOT_SET = 0
    BOOL = 1
    INTEGER = 2
    DOUBLE = 3
    STRING = 4
    BYTE_ARRAY = 5
    BOOL_ARRAY = 6
    INTEGER_ARRAY = 7
    DOUBLE_ARRAY = 8
    STRING_ARRAY = 9

    @classmethod
    def from_parameter_value(cls, parameter_value: Any) -> ParameterType:
        """The type of a Python value; an empty list is a byte array, as in rclpy."""
        if parameter_value is None:
            return cls.NOT_SET
        scalar = next((number for number, kind in _SCALAR_TYPES.items() if isinstance(parameter_value, kind)), None)
        if scalar is not None:
            return cls(scalar)
        if isinstance(parameter_value, (list, tuple, array.array)):
            for number, kind in _ITEM_TYPES.items():
                if all(isinstance(item, kind) for item in parameter_value):
                    return cls(number)
            raise TypeError(f"The given value is not a list of one of the allowed types '{parameter_value}'.")
        raise TypeError(f"The given value is not one of the allowed types '{parameter_value}'.")

    def check(self, parameter_value: Any) -> bool:
        """Whether the value can be of this type."""
        if self is ParameterType.NOT_SET:
            return parameter_value is None
        if self.value in _SCALAR_TYPES:
            return isinstance(parameter_value, _SCALAR_TYPES[self.value])
        allowed = (list, tuple, array.array) if self in (ParameterType.INTEGER_ARRAY, ParameterType.DOUBLE_ARRAY) else (list, tuple)
        return isinstance(parameter_value, allowed) and all(isinstance(item, _ITEM_TYPES[self.value]) for item in parameter_value)


ParameterType.__qualname__ = ParameterType.__name__ = "Type"  # as rclpy shows it


class Parameter:
    """A name, a type and a value."""

    Type = ParameterType

    def __init__(self, name: str, type_: ParameterType | None = None, value: Any = None) -> None:
        if type_ is None:
            type_ = ParameterType.from_parameter_value(value)
        if not isinstance(type_, ParameterType):
            raise TypeError(f"type must be an instance of '{ParameterType!r}'")
        if not type_.check(value):
            raise ValueError(f"Type '{type_}' and value '{value}' do not agree")
        self._name, self._type, self._value = name, type_, value

    @property
    def name(self) -> str:
        """The parameter's name."""
        return self._name

    @property
    def type_(self) -> ParameterType:
        """The parameter's type."""
        return self._type

    @property
    def value(self) -> Any:
        """The parameter's value."""
        return self._value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Parameter):
            return NotImplemented
        return (self._name, self._type, self._value) == (other._name, other._type, other._value)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Parameter(name={self._name!r}, type_={self._type}, value={self._value!r})"

    @classmethod
    def from_parameter_msg(cls, param_msg: Any) -> Parameter:
        """The parameter of a rcl_interfaces/Parameter."""
        return cls(param_msg.name, ParameterType(param_msg.value.type), parameter_value_to_python(param_msg.value))

    def get_parameter_value(self) -> Any:
        """The value as rcl_interfaces/ParameterValue."""
        message = message_class("rcl_interfaces/msg/ParameterValue")(type=self._type.value)
        if self._type is not ParameterType.NOT_SET:
            setattr(message, _VALUE_FIELDS[self._type.value], self._value)
        return message

    def to_parameter_msg(self) -> Any:
        """The parameter as rcl_interfaces/Parameter."""
        return message_class("rcl_interfaces/msg/Parameter")(name=self._name, value=self.get_parameter_value())


def parameter_value_to_python(parameter_value: Any) -> Any:
    """The Python value of a rcl_interfaces/ParameterValue."""
    if parameter_value.type == 0:
        return None
    if parameter_value.type not in _VALUE_FIELDS:
        raise RuntimeError(f"unexpected parameter type {parameter_value.type}")
    value = getattr(parameter_value, _VALUE_FIELDS[parameter_value.type])
    return list(value) if parameter_value.type in _ITEM_TYPES else value


def _descriptor() -> Any:
    return message_class("rcl_interfaces/msg/ParameterDescriptor")()


def _result(reason: str = "") -> Any:
    return message_class("rcl_interfaces/msg/SetParametersResult")(successful=not reason, reason=reason)


class ParameterStore:
    """A node's parameters: declared, overridden, checked by their descriptors and callbacks, then set.

    `on_change(new, changed, deleted)` is told of every successful set.
    """

    def __init__(
        self,
        overrides: dict[str, Parameter],
        allow_undeclared: bool,
        on_change: Callable[[list[Parameter], list[Parameter], list[Parameter]], None],
    ) -> None:
        self.overrides = overrides
        self.parameters: dict[str, Parameter] = {}
        self.descriptors: dict[str, Any] = {}
        self.pre_callbacks: list[Callable[[list[Parameter]], list[Parameter]]] = []
        self.on_set_callbacks: list[Callable[[list[Parameter]], Any]] = []
        self.post_callbacks: list[Callable[[list[Parameter]], None]] = []
        self._allow_undeclared = allow_undeclared
        self._on_change = on_change

    def declare(self, namespace: str, entries: Iterable[tuple[Any, ...]], ignore_override: bool) -> list[Parameter]:
        """Declares (name,), (name, default or Type) or (name, default, descriptor) entries; returns them with their values.

        Raises:
            ParameterAlreadyDeclaredException, InvalidParameterTypeException, InvalidParameterValueException, InvalidParameterException
        """
        declared: dict[str, tuple[Parameter, Any]] = {}
        for entry in entries:
            name, value, descriptor = self._declaration(namespace, entry)
            if not ignore_override and name in self.overrides:
                value = self.overrides[name].value
            declared[name] = (Parameter(name, value=value), descriptor)
        repeated = [name for name in declared if name in self.parameters]
        if repeated:
            raise ParameterAlreadyDeclaredException(repeated)
        for name, (parameter, descriptor) in declared.items():
            self._declare_one(name, parameter, descriptor)
        return [self.parameters[name] for name in declared]

    def _declare_one(self, name: str, parameter: Parameter, descriptor: Any) -> None:
        result = self._apply([parameter], {name: descriptor}, declaring=True)
        if result.successful:
            return
        if result.reason.startswith("Wrong parameter type"):
            raise InvalidParameterTypeException(parameter, ParameterType(descriptor.type).name)
        raise InvalidParameterValueException(name, parameter.value, result.reason)

    @staticmethod
    def _declaration(namespace: str, entry: tuple[Any, ...]) -> tuple[str, Any, Any]:
        """Name, default value and typed descriptor of one declaration."""
        if not 1 <= len(entry) <= 3:
            raise TypeError(f"Invalid parameter tuple length in parameters list: {entry}; expecting length between 1 and 3")
        name, value = entry[0], entry[1] if len(entry) > 1 else None
        descriptor = copy.copy(entry[2]) if len(entry) > 2 else _descriptor()
        if not isinstance(name, str):
            raise TypeError(f"First element {name} in parameters list is not a str.")
        if not isinstance(descriptor, message_class("rcl_interfaces/msg/ParameterDescriptor")):
            raise TypeError(f"Third element {descriptor} in parameters list is not a ParameterDescriptor.")
        name = f"{namespace}.{name}" if namespace else name
        validate_parameter_name(name)
        if len(entry) == 1:
            warnings.warn(f"declaring parameter '{name}' only by its name is deprecated: give a default or a type", stacklevel=5)
            descriptor.dynamic_typing = True
        if isinstance(value, ParameterType):
            if value is ParameterType.NOT_SET:
                raise ValueError(f"Cannot declare parameter {name} as statically typed of type NOT_SET")
            if descriptor.dynamic_typing:
                raise ValueError(f"Parameter {name} is declared with a type and with dynamic_typing=True: give one of them")
            descriptor.type, value = value.value, None
        else:
            if isinstance(value, message_class("rcl_interfaces/msg/ParameterValue")):
                value = parameter_value_to_python(value)
            if not descriptor.dynamic_typing:
                descriptor.type = ParameterType.from_parameter_value(value).value
                if descriptor.type == 0:
                    raise ValueError("Cannot declare a statically typed parameter with default value of type PARAMETER_NOT_SET")
        return name, value, descriptor

    def undeclare(self, name: str) -> None:
        """Forgets a parameter."""
        if name not in self.parameters:
            raise ParameterNotDeclaredException(name)
        if self.descriptors[name].read_only:
            raise ParameterImmutableException(name)
        del self.parameters[name], self.descriptors[name]

    def get(self, name: str) -> Parameter:
        """A declared parameter; where undeclared ones are allowed, an unset one otherwise."""
        if name in self.parameters:
            parameter = self.parameters[name]
            if parameter.type_ is ParameterType.NOT_SET and not self.descriptors[name].dynamic_typing:
                raise ParameterUninitializedException(name)
            return parameter
        if self._allow_undeclared:
            return Parameter(name, ParameterType.NOT_SET, None)
        raise ParameterNotDeclaredException(name)

    def describe(self, name: str) -> Any:
        """A parameter's descriptor."""
        if name in self.descriptors:
            return self.descriptors[name]
        if self._allow_undeclared:
            return _descriptor()
        raise ParameterNotDeclaredException(name)

    def set_atomically(self, parameters: list[Parameter]) -> Any:
        """Sets all parameters or none; returns the SetParametersResult.

        Raises:
            ParameterNotDeclaredException: one is undeclared and this is not allowed.
        """
        if not all(isinstance(parameter, Parameter) for parameter in parameters):
            raise TypeError(f"parameter must be instance of type '{Parameter!r}'")
        if self.pre_callbacks:
            parameters = [parameter for callback in list(self.pre_callbacks) for parameter in callback(parameters)]
            if not parameters:
                return _result("parameter list cannot be empty, this might be due to pre_set_parameters_callback.")
        undeclared = [parameter.name for parameter in parameters if parameter.name not in self.parameters]
        if undeclared and not self._allow_undeclared:
            raise ParameterNotDeclaredException(undeclared)
        return self._apply(parameters, self.descriptors, declaring=False)

    def set_descriptor(self, name: str, descriptor: Any, alternative: Parameter | None) -> Parameter:
        """Replaces a descriptor; where the current value breaks it, the alternative value is taken."""
        if name not in self.parameters:
            return self.get(name)
        if self.describe(name).read_only:
            raise ParameterImmutableException(name)
        current = self.get(name)
        reason = self._fault(current, descriptor, declaring=True)
        if reason:
            current = alternative or current
            reason = self._fault(current, descriptor, declaring=True)
            if reason:
                raise InvalidParameterValueException(name, current.value, reason)
        self.parameters[name], self.descriptors[name] = current, descriptor
        return current

    def _apply(self, parameters: list[Parameter], descriptors: dict[str, Any], *, declaring: bool) -> Any:
        for parameter in parameters:
            if parameter.name in descriptors:
                reason = self._fault(parameter, descriptors[parameter.name], declaring=declaring)
                if reason:
                    return _result(reason)
        for callback in list(self.on_set_callbacks):
            result = callback(parameters)
            if not result.successful:
                return result
        self._commit(parameters, descriptors, declaring)
        for post_callback in list(self.post_callbacks):
            post_callback(parameters)
        return _result()

    def _commit(self, parameters: list[Parameter], descriptors: dict[str, Any], declaring: bool) -> None:
        new: list[Parameter] = []
        changed: list[Parameter] = []
        deleted: list[Parameter] = []
        for parameter in parameters:
            name = parameter.name
            if not declaring and parameter.type_ is ParameterType.NOT_SET:
                deleted.append(parameter)
                self.parameters.pop(name, None)
                self.descriptors.pop(name, None)
                continue
            known = self.parameters.get(name)
            (new if known is None or known.type_ is ParameterType.NOT_SET else changed).append(parameter)
            if declaring:
                self.descriptors[name] = descriptors[name]
            elif name not in self.descriptors:
                self.descriptors[name] = _descriptor()
                self.descriptors[name].dynamic_typing = True
            self.parameters[name] = parameter
        self._on_change(new, changed, deleted)

    def _fault(self, parameter: Parameter, descriptor: Any, *, declaring: bool) -> str:
        """Why the descriptor refuses the parameter; empty if it does not."""
        descriptor.name = parameter.name
        if descriptor.read_only and not declaring:
            return f"Trying to set a read-only parameter: {parameter.name}."
        if descriptor.dynamic_typing:
            descriptor.type = parameter.type_.value
        elif parameter.name in self.parameters and parameter.type_ is ParameterType.NOT_SET:
            return "Static parameter cannot be undeclared"
        elif parameter.type_ is not ParameterType.NOT_SET and parameter.type_.value != descriptor.type:
            return f"Wrong parameter type, expected '{ParameterType(descriptor.type)}' got '{parameter.type_}'"
        if parameter.type_ is ParameterType.INTEGER and descriptor.integer_range:
            return _integer_fault(parameter, descriptor.integer_range[0])
        if parameter.type_ is ParameterType.DOUBLE and descriptor.floating_point_range:
            return _float_fault(parameter, descriptor.floating_point_range[0])
        return ""


def _integer_fault(parameter: Parameter, allowed: Any) -> str:
    low, high = sorted((allowed.from_value, allowed.to_value))
    value = parameter.value
    if value in (low, high):
        return ""
    if not low < value < high:
        return f"Parameter {parameter.name} out of range. Min: {low}, Max: {high}, value: {value}"
    if allowed.step and (value - low) % allowed.step:
        return _step_fault(parameter, low, high, allowed.step)
    return ""


def _float_fault(parameter: Parameter, allowed: Any) -> str:
    low, high = sorted((allowed.from_value, allowed.to_value))
    value = parameter.value
    if math.isclose(value, low, rel_tol=_FLOAT_TOLERANCE) or math.isclose(value, high, rel_tol=_FLOAT_TOLERANCE):
        return ""
    if not low < value < high:
        return f"Parameter {parameter.name} out of range Min: {low}, Max: {high}, value: {value}"
    if allowed.step:
        nearest = low + round((value - low) / allowed.step) * allowed.step
        if not math.isclose(nearest, value, rel_tol=_FLOAT_TOLERANCE):
            return _step_fault(parameter, low, high, allowed.step)
    return ""


def _step_fault(parameter: Parameter, low: float, high: float, step: float) -> str:
    text = f"Min: {low}, max: {high}, value: {parameter.value}, step: {step}"
    return f"The parameter value for {parameter.name} is not a valid step. {text}"
