# SPDX-License-Identifier: Apache-2.0
"""Message and service classes that behave like rclpy's, generated from rosbags' typestore and .srv definitions, and their CDR."""

from __future__ import annotations

import array
import functools
import operator
import os
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree

import numpy as np
import yaml
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.base import TypesysError, normalize_fieldname

from longscape_ros.embedded.service_definitions import DEFINITIONS
from longscape_ros.errors import HostError

_IDL_NAMES = {"bool": "boolean", "byte": "octet", "float32": "float", "float64": "double"}
_TYPE_CODES = {
    "int8": "b", "uint8": "B", "int16": "h", "uint16": "H", "int32": "i", "uint32": "I",
    "int64": "q", "uint64": "Q", "float32": "f", "float64": "d",
}  # fmt: skip
_DTYPES = {"bool": np.bool_, "byte": np.uint8}
_BASE, _NAME, _ARRAY, _SEQUENCE = 1, 2, 3, 4  # rosbags.interfaces.Nodetype
_EMPTY_MEMBER = "structure_needs_at_least_one_member"
_KNOWN_DEFAULTS = {"geometry_msgs/msg/Quaternion": {"w": 1.0}}  # the typestore keeps no defaults; this is the only one that is not zero
_CHECK_FIELDS = os.environ.get("ROS_PYTHON_CHECK_FIELDS") == "1"  # rosidl's classes, too, look when they are loaded
_SEPARATOR = re.compile(r"^---\s*$", re.MULTILINE)
_DEFAULT_LINE = re.compile(r"^\s*([\w/]+(?:<=\d+)?(?:\[[<=\d]*\])?)\s+([a-z]\w*)\s+([^#=\s][^#]*)")


class Message:
    """Base of every generated message class: rclpy's constructor, equality and printed form."""

    __slots__ = ("_check_fields",)
    _TYPE_NAME: ClassVar[str]
    _LAYOUT: ClassVar[tuple[Field, ...]]
    _LAYOUT_TEXT: ClassVar[str]
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, **kwargs: Any) -> None:
        self._check_fields = kwargs.pop("check_fields", _CHECK_FIELDS)
        if self._check_fields:
            unknown = sorted(kwargs.keys() - {field.name for field in self._LAYOUT})
            if unknown:
                raise AssertionError(f"Invalid arguments passed to constructor: {', '.join(unknown)}")
        for field in self._LAYOUT:
            if field.name in kwargs:
                field.put(self, kwargs[field.name])
            else:
                setattr(self, field.slot, field.default())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, self.__class__):
            return False
        return all(_equal(getattr(self, field.slot), getattr(other, field.slot)) for field in self._LAYOUT)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{field.name}={_shown(getattr(self, field.slot))}" for field in self._LAYOUT)
        return f"{self.__class__.__module__}.{self.__class__.__name__}({arguments})"

    @classmethod
    def get_fields_and_field_types(cls) -> dict[str, str]:
        """The names of the fields and their IDL types, as `sequence<uint8>` or `builtin_interfaces/Time`."""
        return {field.name: field.idl for field in cls._LAYOUT}


@dataclass(frozen=True)
class Field:
    """One field of a message class: how its value starts, is stored, is checked, and crosses to rosbags and back."""

    name: str
    idl: str
    default: Callable[[], Any]
    convert: Callable[[Any], Any]
    check: Callable[[Any], bool]
    to_store: Callable[[Any], Any]
    from_store: Callable[[Any], Any]

    @functools.cached_property
    def slot(self) -> str:
        """The attribute that holds the value."""
        return f"_{self.name}"

    def put(self, message: Message, value: Any) -> None:
        """Stores a value in a message, checked if it checks its fields."""
        if message._check_fields and not self.check(value):
            raise AssertionError(f"The '{self.name}' field must be of type '{self.idl}', got {value!r:.80}")
        setattr(message, self.slot, value if self.convert is _same else self.convert(value))


class ServiceType:
    """Base of every generated service class: holds its message classes and, as in rclpy, has no instances."""

    _TYPE_NAME: ClassVar[str]
    Request: ClassVar[type[Message]]
    Response: ClassVar[type[Message]]
    Event: ClassVar[type[Message]]

    def __init__(self) -> None:
        raise NotImplementedError("Service classes can not be instantiated")


class TypeLibrary:
    """Every type that is known: rosbags' Jazzy typestore, the usual services, and the .msg and .srv folders that were added."""

    def __init__(self) -> None:
        self.store = get_typestore(Stores.ROS2_JAZZY)
        self.store.fielddefs = _without_char(self.store.fielddefs)
        self._defaults: dict[str, dict[str, Any]] = dict(_KNOWN_DEFAULTS)
        self._classes: dict[str, type[Message]] = {}
        self._services: dict[str, str] = dict(DEFINITIONS)
        self._service_classes: dict[str, type[ServiceType]] = {}

    def add_folder(self, folder: Path) -> str:
        """Adds the messages and services of a folder that holds package.xml, msg/*.msg and srv/*.srv; returns the package's name.

        Raises:
            HostError: no such folder, or a definition that differs from the one already known.
        """
        manifest = folder / "package.xml"
        if not manifest.is_file():
            raise HostError(f"Got the interface folder {folder} without package.xml; expected package.xml and msg/*.msg. Check the path.")
        package = (ElementTree.parse(manifest).findtext("name") or folder.name).strip()
        definitions = {}
        for path in sorted((folder / "msg").glob("*.msg")):
            name = f"{package}/msg/{path.stem}"
            text = path.read_text(encoding="utf-8")
            definitions.update(get_types_from_msg(text, name))
            self._defaults[name] = _defaults_of(text)
        services = {f"{package}/srv/{path.stem}": path.read_text(encoding="utf-8") for path in sorted((folder / "srv").glob("*.srv"))}
        try:
            self.store.register(_without_char(definitions))
        except TypesysError as fault:
            raise HostError(f"Got {fault} from {folder}; expected the definition already loaded. Use one copy of {package}.") from fault
        for name, text in services.items():
            if self._services.setdefault(name, text) != text:
                raise HostError(f"Got another {name} from {folder}; expected the definition already loaded. Use one copy of {package}.")
        return package

    def names(self) -> Iterator[str]:
        """The messages' names, as sensor_msgs/msg/Image."""
        return iter(sorted(name for name in self.store.fielddefs if "/msg/" in name))

    def service_names(self) -> Iterator[str]:
        """The services' names, as std_srvs/srv/SetBool."""
        return iter(sorted(self._services))

    def packages(self) -> set[str]:
        """The packages that have messages or services."""
        return {name.split("/")[0] for name in (*self.store.fielddefs, *self._services)}

    def service_class(self, name: str) -> type[ServiceType]:
        """The class of std_srvs/srv/SetBool and the like, made when first asked for.

        Raises:
            KeyError: there is no such service.
        """
        if name not in self._service_classes:
            self._service_classes[name] = self._make_service(name)
        return self._service_classes[name]

    def message_class(self, name: str) -> type[Message]:
        """The class of sensor_msgs/msg/Image and the like, made when first asked for."""
        if name not in self._classes:
            self._classes[name] = self._make_class(name)
        return self._classes[name]

    def type_hash(self, name: str) -> str:
        """The RIHS01 hash of a type."""
        return self.store.hash_rihs01(name)

    def fields_of(self, name: str) -> list[tuple[str, Any]]:
        """Names and rosbags descriptions of a type's fields; an empty message has its placeholder member."""
        return [(field, description) for field, description in self.store.fielddefs[name][1]] or [(_EMPTY_MEMBER, (_BASE, ("uint8", 0)))]

    def described_fields(self, name: str) -> list[tuple[str, Any, Any]]:
        """Names, rosbags descriptions and defaults (None: zero or empty) of a type's fields."""
        defaults = self._defaults.get(name, {})
        return [(field, description, defaults.get(field)) for field, description in self.fields_of(name)]

    def serialize(self, message: Message) -> bytes:
        """The CDR bytes of a message, with the encapsulation header.

        Raises:
            TypeError: a field holds a value that its type cannot carry.
        """
        try:
            return bytes(self.store.serialize_cdr(self._to_store(message), message._TYPE_NAME))
        except (struct.error, AttributeError, TypeError, ValueError, OverflowError) as fault:
            raise TypeError(
                f"Got a value that {message._TYPE_NAME} cannot carry: {fault}. Expected values of {message._LAYOUT_TEXT}."
            ) from fault

    def deserialize(self, data: bytes | memoryview, message_type: type[Message]) -> Message:
        """The message of its CDR bytes."""
        view = memoryview(data)  # the parts of it are no copies
        return self._from_store(message_type, self.store.deserialize_cdr(view, message_type._TYPE_NAME))

    def _to_store(self, message: Message) -> Any:
        values = [field.to_store(getattr(message, field.slot)) for field in message._LAYOUT]
        return self.store.types[message._TYPE_NAME](*values)

    def _from_store(self, message_type: type[Message], stored: Any) -> Message:
        message = message_type.__new__(message_type)
        message._check_fields = False
        for field in message_type._LAYOUT:
            setattr(message, field.slot, field.from_store(getattr(stored, normalize_fieldname(field.name))))
        return message

    def _make_class(self, name: str) -> type[Message]:
        package, kind, short = name.split("/")
        constants, fields = self.store.fielddefs[name]
        defaults = self._defaults.get(name, {})
        layout = tuple(self._field(field, description, defaults.get(field)) for field, description in fields if field != _EMPTY_MEMBER)
        namespace: dict[str, Any] = {
            "__slots__": tuple(field.slot for field in layout),
            "__module__": f"{package}.{kind}",
            "__doc__": f"The message {name}.",
            "_TYPE_NAME": name,
            "_LAYOUT": layout,
            "_LAYOUT_TEXT": ", ".join(f"{field.idl} {field.name}" for field in layout),
        }
        namespace.update({constant: value for constant, _, value in constants})
        namespace.update({f"{field.upper()}__DEFAULT": value for field, value in defaults.items()})
        namespace.update({field.name: _property(field) for field in layout})
        return type(short, (Message,), namespace)

    def _make_service(self, name: str) -> type[ServiceType]:
        """Registers a service's three messages, and the service itself, whose hash ROS reckons as that of a message of these."""
        package, _, short = name.split("/")
        parts = _SEPARATOR.split(self._services[name])
        if len(parts) != 2:
            raise HostError(f"Got {len(parts) - 1} lines of '---' in the definition of {name}, expected one. Correct its .srv file.")
        request, response, event = (f"{name}_{half}" for half in ("Request", "Response", "Event"))
        definitions: dict[str, Any] = {
            event: ([], [
                ("info", (Nodetype.NAME, "service_msgs/msg/ServiceEventInfo")),
                ("request", (Nodetype.SEQUENCE, ((Nodetype.NAME, request), 1))),
                ("response", (Nodetype.SEQUENCE, ((Nodetype.NAME, response), 1))),
            ]),
            name: ([], [
                ("request_message", (Nodetype.NAME, request)),
                ("response_message", (Nodetype.NAME, response)),
                ("event_message", (Nodetype.NAME, event)),
            ]),
        }  # fmt: skip
        for half, text in zip((request, response), parts, strict=True):
            as_message = half.replace("/srv/", "/msg/")  # the parser takes names of messages only
            definitions[half] = get_types_from_msg(text, as_message)[as_message]
            self._defaults[half] = _defaults_of(text)
        self.store.register(_without_char(definitions))
        return type(
            short,
            (ServiceType,),
            {
                "__module__": f"{package}.srv",
                "__doc__": f"The service {name}.",
                "_TYPE_NAME": name,
                "Request": self.message_class(request),
                "Response": self.message_class(response),
                "Event": self.message_class(event),
            },
        )

    def _field(self, name: str, description: Any, default: Any) -> Field:
        kind, detail = int(description[0]), description[1]
        if kind == _BASE:
            field = _scalar(name, *detail)
        elif kind == _NAME:
            field = self._nested(name, detail)
        else:
            (item_kind, item), size = detail
            item_field = _scalar(name, *item) if int(item_kind) == _BASE else self._nested(name, item)
            base = item[0] if int(item_kind) == _BASE else ""
            make = _fixed_array if kind == _ARRAY else _sequence
            field = make(item_field, base, size)
        if default is None:
            return field
        convert = field.convert
        return Field(name, field.idl, lambda: convert(default), convert, field.check, field.to_store, field.from_store)

    def _nested(self, name: str, type_name: str) -> Field:
        message_type = self.message_class(type_name)
        idl = re.sub("/(msg|srv)/", "/", type_name)
        return Field(
            name,
            idl,
            message_type,
            _same,
            lambda value: isinstance(value, message_type),
            self._to_store,
            lambda stored: self._from_store(message_type, stored),
        )


@functools.cache
def library() -> TypeLibrary:
    """The process's message types: two classes of one message would not be each other's instances."""
    return TypeLibrary()


def serialize_message(message: Message) -> bytes:
    """The CDR bytes of a message, encapsulation header included."""
    return library().serialize(message)


def deserialize_message(serialized_message: bytes, message_type: type[Message]) -> Message:
    """The message of its CDR bytes."""
    return library().deserialize(serialized_message, message_type)


def message_class(name: str) -> Any:
    """The class of sensor_msgs/msg/Image and the like."""
    return library().message_class(name)


def service_class(name: str) -> Any:
    """The class of std_srvs/srv/SetBool and the like."""
    return library().service_class(name)


def _without_char(definitions: Any) -> dict[str, Any]:
    """The definitions with `char` as the uint8 that rosidl makes of it; the type hash depends on this."""

    def plain(description: Any) -> Any:
        kind, detail = description
        if kind == _BASE:
            return (kind, ("uint8", 0)) if detail[0] == "char" else description
        return description if kind == _NAME else (kind, (plain(detail[0]), detail[1]))

    return {name: (constants, [(field, plain(kind)) for field, kind in fields]) for name, (constants, fields) in definitions.items()}


def _defaults_of(text: str) -> dict[str, Any]:
    """The default values that the lines of a .msg file give (`float64 w 1`)."""
    matches = (_DEFAULT_LINE.match(line) for line in text.splitlines())
    return {match[2]: yaml.safe_load(match[3].strip()) for match in matches if match}


def _property(field: Field) -> property:
    return property(operator.attrgetter(field.slot), field.put, doc=f"Message field '{field.name}', {field.idl}.")


def _scalar(name: str, base: str, bound: int) -> Field:
    idl = _IDL_NAMES.get(base, base) + (f"<{bound}>" if bound else "")
    if base == "byte":
        return Field(name, idl, lambda: b"\x00", _same, _is_byte, lambda value: value[0], lambda stored: bytes([stored]))
    python = {"string": str, "bool": bool, "float32": float, "float64": float}.get(base, int)
    return Field(name, idl, python, _same, lambda value: _fits(value, python, base, bound), _same, _same)


def _fixed_array(item: Field, base: str, size: int) -> Field:
    idl = f"{item.idl}[{size}]"
    if base in _TYPE_CODES:
        dtype = _dtype(base)
        return Field(
            item.name,
            idl,
            lambda: np.zeros(size, dtype),
            lambda value: _shaped(np.array(value, dtype=dtype), size, item.name),
            lambda value: len(value) == size and _all_items(item, value),
            lambda value: np.ascontiguousarray(value, dtype=dtype),
            lambda stored: np.array(stored),
        )
    return _listed(item, base, idl, lambda: [item.default() for _ in range(size)], lambda value: len(value) == size)


def _sequence(item: Field, base: str, bound: int) -> Field:
    idl = f"sequence<{item.idl}, {bound}>" if bound else f"sequence<{item.idl}>"

    def fits(value: Any) -> bool:
        return not bound or len(value) <= bound

    if base in _TYPE_CODES:
        code, dtype = _TYPE_CODES[base], _dtype(base)
        return Field(
            item.name,
            idl,
            lambda: array.array(code),
            lambda value: _packed(value, code, dtype),
            lambda value: fits(value) and (_is_packed(value, code) or _all_items(item, value)),
            lambda value: np.frombuffer(value, dtype=dtype),
            lambda stored: _packed(stored, code, dtype),
        )
    return _listed(item, base, idl, list, fits)


def _listed(item: Field, base: str, idl: str, default: Callable[[], Any], fits: Callable[[Any], bool]) -> Field:
    """A field whose value is a list: of strings, booleans, bytes or messages."""

    def to_store(value: Any) -> Any:
        stored = [item.to_store(entry) for entry in value]
        return np.array(stored, dtype=_DTYPES[base]) if base in _DTYPES else stored

    def from_store(stored: Any) -> Any:
        return [item.from_store(entry) for entry in (stored.tolist() if base in _DTYPES else stored)]

    return Field(item.name, idl, default, _same, lambda value: fits(value) and _all_items(item, value), to_store, from_store)


def _same(value: Any) -> Any:
    return value


def _dtype(base: str) -> Any:
    return np.dtype(_DTYPES.get(base, base))


def _packed(value: Any, code: str, dtype: Any) -> array.array[Any]:
    """A copy of the values as array.array, by whole buffers where the values lie in one."""
    if isinstance(value, (np.ndarray, memoryview)):
        packed: array.array[Any] = array.array(code)
        packed.frombytes(np.ascontiguousarray(value, dtype=dtype).data.cast("B") if len(value) else b"")
        return packed
    return array.array(code, value)


def _shaped(value: Any, size: int, name: str) -> Any:
    if value.shape != (size,):
        raise AssertionError(f"The '{name}' field must have {size} elements, got the shape {value.shape}")
    return value


def _is_byte(value: Any) -> bool:
    return isinstance(value, (bytes, bytearray)) and len(value) == 1


def _is_packed(value: Any, code: str) -> bool:
    return isinstance(value, array.array) and value.typecode == code


def _all_items(item: Field, value: Any) -> bool:
    return not isinstance(value, str) and all(item.check(entry) for entry in (value.tolist() if hasattr(value, "tolist") else value))


def _fits(value: Any, python: type[Any], base: str, bound: int) -> bool:
    if not isinstance(value, python):
        return False
    if python is str:
        return not bound or len(value) <= bound
    if python is int:
        limits = np.iinfo(_dtype(base))
        return bool(limits.min <= value <= limits.max)
    return True


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, np.ndarray) or isinstance(right, np.ndarray):
        return bool(np.array_equal(left, right))
    return bool(left == right)


def _shown(value: Any) -> str:
    return repr(value.tolist()) if isinstance(value, array.array) else repr(value)
