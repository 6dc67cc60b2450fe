# SPDX-License-Identifier: Apache-2.0
"""What stands behind --ros-args on the command line, and parameter files."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from longscape_ros.embedded.exceptions import RCLError, UnknownROSArgsError
from longscape_ros.embedded.logging import get_logging_severity_from_string
from longscape_ros.embedded.names import Remap

_WITH_VALUE = {"-p", "--param", "-r", "--remap", "--params-file", "--log-level", "--log-config-file", "-e", "--enclave", "--log-file-name"}
_LOG_SWITCH = re.compile(r"^--(enable|disable)-(rosout|stdout|external-lib)-logs$")
_TOKEN = "[A-Za-z_][A-Za-z0-9_]*"
_NAME = rf"(?:~/|/)?{_TOKEN}(?:/{_TOKEN})*"
_REMAPS = tuple(
    re.compile(rf"(?:(?P<node>{_TOKEN}):)?(?P<match>{match}):=(?P<replacement>{replacement})")
    for match, replacement in (
        ("__node|__name", _TOKEN),
        ("__ns", rf"/(?:{_TOKEN}(?:/{_TOKEN})*)?"),
        (rf"(?!__(?:node|name|ns):=)(?:rostopic://|rosservice://)?{_NAME}", _NAME),
    )
)
_PARAMETER = re.compile(rf"(?:(?P<node>{_TOKEN}):)?(?P<name>{_TOKEN}(?:[./]+{_TOKEN})*):=(?P<value>.+)", re.DOTALL)
_EVERY_NODE = "/**"

_TRUE = {"y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "true", "True", "TRUE"}
_FALSE = {"n", "N", "no", "No", "NO", "off", "Off", "OFF", "false", "False", "FALSE"}
_INTEGER = re.compile(r"[+-]?(?:0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_NO_NUMBER = re.compile(r"([+-]?)\.?(nan|inf)", re.IGNORECASE)


@dataclass
class Arguments:
    """The parsed ROS arguments, in their order, and what is left for the application.

    A parameter's override is for the nodes whose full name matches a pattern (`*` one token, `**` any number).
    """

    remaps: list[Remap] = field(default_factory=list)
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)  # pattern -> name -> value
    log_levels: dict[str, str] = field(default_factory=dict)  # logger name ("" for all) -> level
    enclave: str = "/"
    rosout: bool = True
    unparsed: list[str] = field(default_factory=list)

    def overrides_for(self, node_full_name: str) -> dict[str, Any]:
        """The values that apply to a node; those of the pattern that came up last win."""
        fitting = (values for pattern, values in self.overrides.items() if _node_matches(pattern, node_full_name))
        return {name: value for values in fitting for name, value in values.items()}


def parse_arguments(args: list[str]) -> Arguments:
    """Reads the ROS arguments between each --ros-args and the next `--`.

    Raises:
        UnknownROSArgsError: an unknown or malformed argument.
        RCLError: a parameter file that cannot be read.
    """
    parsed = Arguments()
    rest = iter(args)
    in_ros = False
    for word in rest:
        if word == "--ros-args" or (in_ros and word == "--"):
            in_ros = word == "--ros-args"
        elif not in_ros:
            rule = _remap(word)  # ROS takes these from everywhere
            if rule is None:
                parsed.unparsed.append(word)
            else:
                parsed.remaps.append(rule)
        elif word in _WITH_VALUE:
            value = next(rest, None)
            if value is None:
                raise UnknownROSArgsError([word])
            _apply(parsed, word, value)
        elif switch := _LOG_SWITCH.match(word):
            parsed.rosout = parsed.rosout if switch[2] != "rosout" else switch[1] == "enable"
        elif ":=" in word:
            _add_remap(parsed, word)
        else:
            raise UnknownROSArgsError([word])
    return parsed


def remove_ros_args(args: list[str] | None = None) -> list[str]:
    """The arguments without those that belong to ROS."""
    return parse_arguments(sys.argv if args is None else args).unparsed


def _apply(parsed: Arguments, flag: str, value: str) -> None:
    if flag in ("-r", "--remap"):
        _add_remap(parsed, value)
    elif flag in ("-p", "--param"):
        node, name, override = _parameter(value)
        parsed.overrides.setdefault(node, {})[name] = override
    elif flag == "--params-file":
        for node, values in read_parameter_file(Path(value)).items():
            parsed.overrides.setdefault(node, {}).update(values)
    elif flag == "--log-level":
        name, _, level = value.rpartition(":=")
        try:
            get_logging_severity_from_string(level)
        except RuntimeError:
            raise UnknownROSArgsError([flag, value]) from None
        parsed.log_levels[name] = level
    elif flag in ("-e", "--enclave"):
        parsed.enclave = value


def _remap(text: str) -> Remap | None:
    """The rule that a text is; None if it is none."""
    found = next(filter(None, (rule.fullmatch(text) for rule in _REMAPS)), None)
    return None if found is None else Remap(found["match"], found["replacement"], found["node"])


def _add_remap(parsed: Arguments, text: str) -> None:
    rule = _remap(text)
    if rule is None:
        raise UnknownROSArgsError([text])
    parsed.remaps.append(rule)


def _parameter(text: str) -> tuple[str, str, Any]:
    """Pattern of the nodes, name and value."""
    found = _PARAMETER.fullmatch(text)
    if found is None:
        raise UnknownROSArgsError([text])
    try:
        (value,) = _documents(found["value"])
        override = _value(value)
    except (yaml.YAMLError, ValueError) as fault:
        raise RCLError(f"Got the parameter {text!r}, whose value cannot be read: {fault}") from fault
    return f"/{found['node']}" if found["node"] else _EVERY_NODE, found["name"], override


def read_parameter_file(path: Path) -> dict[str, dict[str, Any]]:
    """The overrides of a YAML parameter file, by the pattern of the nodes' names."""
    overrides: dict[str, dict[str, Any]] = {}
    try:
        for document in _documents(path.read_text(encoding="utf-8")):
            if isinstance(document, _Mapping):
                _read_nodes(document, "", overrides)
            elif not isinstance(document, _Scalar):
                raise ValueError("it has no names of nodes")
    except (OSError, ValueError, yaml.YAMLError) as fault:
        raise RCLError(
            f"Got the parameter file {path}, which cannot be read: {fault}. Expected `node: {{ros__parameters: {{name: value}}}}`."
        ) from fault
    return overrides


def _read_nodes(tree: _Mapping, prefix: str, overrides: dict[str, dict[str, Any]]) -> None:
    for key, value in tree.entries:
        if not isinstance(value, _Mapping):
            raise ValueError(f"{key} below {prefix or 'nothing'} has no parameters or nodes")
        if key == "ros__parameters":
            overrides.setdefault(prefix, {}).update(_leaves(value, ""))
        else:
            _read_nodes(value, f"{prefix}/{key.strip('/')}", overrides)


def _leaves(tree: _Mapping, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.entries:
        if isinstance(value, _Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        elif value == _Scalar("", plain=True):
            raise ValueError(f"{prefix}{key} has no value")
        else:
            yield f"{prefix}{key}", _value(value)


def _node_matches(pattern: str, full_name: str) -> bool:
    wildcards = {"**": "(/[^/]+)*", "*": "/[^/]+"}
    expression = "".join(wildcards.get(token, f"/{re.escape(token)}") for token in pattern.removeprefix("/").split("/"))
    return re.fullmatch(expression, full_name) is not None


# YAML as ROS reads it: 012 is octal, 1e3 a number, 2026-01-01 and null are strings, and sequences hold values of one type.


@dataclass(frozen=True)
class _Scalar:
    """A text; `plain` if it may be something else than a string."""

    text: str
    plain: bool


@dataclass
class _Mapping:
    """Keys and values in their order; a key may come again."""

    entries: list[tuple[str, Any]]


def _documents(text: str) -> list[Any]:
    """What stands in YAML: each document as _Mapping, list or _Scalar."""
    events = yaml.parse(text, yaml.SafeLoader)
    return [_node(events, next(events)) for event in events if isinstance(event, yaml.DocumentStartEvent)]


def _node(events: Iterator[Any], event: Any) -> Any:
    if isinstance(event, yaml.ScalarEvent):
        return _Scalar(event.value, plain=event.implicit[0])
    if isinstance(event, yaml.SequenceStartEvent):
        return [_node(events, item) for item in _until(events, yaml.SequenceEndEvent)]
    if isinstance(event, yaml.MappingStartEvent):
        return _Mapping([(_key(key), _node(events, next(events))) for key in _until(events, yaml.MappingEndEvent)])
    raise ValueError("it has an alias (*name), which ROS does not know")


def _until(events: Iterator[Any], end: type[Any]) -> Iterator[Any]:
    for event in events:
        if isinstance(event, end):
            return
        yield event


def _key(event: Any) -> str:
    if not isinstance(event, yaml.ScalarEvent):
        raise ValueError("it has a key that is no name")
    return str(event.value)


def _value(node: Any) -> Any:
    """A parameter's value: a bool, an int, a float, a str or a list of one of them; None for an empty list, whose type is not known."""
    if isinstance(node, _Scalar):
        return _scalar(node)
    if not isinstance(node, list) or not all(isinstance(item, _Scalar) for item in node):
        raise ValueError("a parameter is a scalar or a sequence of scalars")
    values = [_scalar(item) for item in node]
    if len({type(value) for value in values}) > 1:
        raise ValueError(f"the sequence {values} is not of one type")
    return values or None


def _scalar(scalar: _Scalar) -> bool | int | float | str:
    text = scalar.text
    if not scalar.plain:
        return text
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _INTEGER.fullmatch(text):
        digits = text.lstrip("+-")
        octal = len(digits) > 1 and digits.startswith("0") and digits[1] not in "xX"
        number = int(text, 8 if octal else 0)
        return number if -(2**63) <= number < 2**63 else float(number)
    if _NUMBER.fullmatch(text):
        return float(text)
    no_number = _NO_NUMBER.fullmatch(text)
    return float(no_number[1] + no_number[2]) if no_number else text
