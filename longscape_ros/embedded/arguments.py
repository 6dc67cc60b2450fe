# SPDX-License-Identifier: Apache-2.0
"""What stands behind --ros-args on the command line, and parameter files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from longscape_ros.embedded.exceptions import RCLError, UnknownROSArgsError
from longscape_ros.embedded.names import Remap

_WITH_VALUE = {"-p", "--param", "-r", "--remap", "--params-file", "--log-level", "--log-config-file", "-e", "--enclave", "--log-file-name"}
_LOG_SWITCH = re.compile(r"^--(enable|disable)-(rosout|stdout|external-lib)-logs$")


@dataclass(frozen=True)
class ParameterOverride:
    """One parameter's value for the nodes whose full name matches the pattern (`*` one token, `**` any number)."""

    node: str
    name: str
    value: Any


@dataclass
class Arguments:
    """The parsed ROS arguments, in their order, and what is left for the application."""

    remaps: list[Remap] = field(default_factory=list)
    overrides: list[ParameterOverride] = field(default_factory=list)
    log_levels: dict[str, str] = field(default_factory=dict)  # logger name ("" for all) -> level
    enclave: str = "/"
    rosout: bool = True
    unparsed: list[str] = field(default_factory=list)

    def overrides_for(self, node_full_name: str) -> dict[str, Any]:
        """The values that apply to a node; what comes later wins."""
        return {override.name: override.value for override in self.overrides if _node_matches(override.node, node_full_name)}


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
        if not in_ros and word != "--ros-args":
            parsed.unparsed.append(word)
        elif word in ("--ros-args", "--"):
            in_ros = word == "--ros-args"
        elif word in _WITH_VALUE:
            value = next(rest, None)
            if value is None:
                raise UnknownROSArgsError([word])
            _apply(parsed, word, value)
        elif switch := _LOG_SWITCH.match(word):
            parsed.rosout = parsed.rosout if switch[2] != "rosout" else switch[1] == "enable"
        elif ":=" in word:
            parsed.remaps.append(_remap(word))
        else:
            raise UnknownROSArgsError([word])
    return parsed


def remove_ros_args(args: list[str] | None = None) -> list[str]:
    """The arguments without those that belong to ROS."""
    import sys

    return parse_arguments(sys.argv if args is None else args).unparsed


def _apply(parsed: Arguments, flag: str, value: str) -> None:
    if flag in ("-r", "--remap"):
        parsed.remaps.append(_remap(value))
    elif flag in ("-p", "--param"):
        parsed.overrides.append(_parameter(value))
    elif flag == "--params-file":
        parsed.overrides.extend(read_parameter_file(Path(value)))
    elif flag == "--log-level":
        name, _, level = value.rpartition(":=")
        parsed.log_levels[name] = level
    elif flag in ("-e", "--enclave"):
        parsed.enclave = value


def _remap(text: str) -> Remap:
    match, separator, replacement = text.partition(":=")
    if not (match and separator and replacement):
        raise UnknownROSArgsError([text])
    scheme = re.match(r"^(rostopic|rosservice)://", match)
    prefix, body = (scheme[0], match[scheme.end() :]) if scheme else ("", match)
    node, colon, name = body.partition(":")
    return Remap(prefix + name, replacement, node) if colon else Remap(match, replacement)


def _parameter(text: str) -> ParameterOverride:
    key, separator, value = text.partition(":=")
    if not (key and separator):
        raise UnknownROSArgsError([text])
    node, colon, name = key.rpartition(":")
    return ParameterOverride(node if colon else "/**", name, _yaml(value))


def read_parameter_file(path: Path) -> list[ParameterOverride]:
    """The overrides of a YAML parameter file, those of wildcards before those of named nodes."""
    try:
        content = _yaml(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as fault:
        raise RCLError(f"Got the parameter file {path}, which cannot be read: {fault}") from fault
    if not isinstance(content, dict):
        raise RCLError(f"Got the parameter file {path} without node names; expected `node: {{ros__parameters: {{name: value}}}}`.")
    overrides = list(_nodes_of(content, ""))
    return sorted(overrides, key=lambda override: "*" not in override.node)


def _nodes_of(tree: dict[str, Any], prefix: str) -> Iterator[ParameterOverride]:
    for key, value in tree.items():
        node = f"{prefix.rstrip('/')}/{str(key).lstrip('/')}" if prefix or str(key).startswith("/") else str(key)
        if not isinstance(value, dict):
            continue
        for name, leaf in _leaves(value.get("ros__parameters") or {}, ""):
            yield ParameterOverride(node, name, leaf)
        yield from _nodes_of({name: branch for name, branch in value.items() if name != "ros__parameters"}, node)


def _leaves(tree: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _node_matches(pattern: str, full_name: str) -> bool:
    wildcards = {"**": "(/[^/]+)*", "*": "/[^/]+"}
    expression = "".join(wildcards.get(token, f"/{re.escape(token)}") for token in pattern.removeprefix("/").split("/"))
    return re.fullmatch(expression, full_name) is not None


class _Loader(yaml.SafeLoader):
    """YAML as ROS reads it: 1e3 is a number, 2026-01-01 is a string."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - yaml's own form
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+0123456789."))


def _yaml(text: str) -> Any:
    return yaml.load(text, _Loader)
