# SPDX-License-Identifier: Apache-2.0
"""ROS names: their rules, their expansion and their remapping."""

from __future__ import annotations

import re
from dataclasses import dataclass

from longscape_ros.embedded.exceptions import (
    InvalidNamespaceException,
    InvalidNodeNameException,
    InvalidParameterException,
    InvalidServiceNameException,
    InvalidTopicNameException,
)

_LONGEST = 255
_SUBSTITUTION = re.compile(r"\{(\w*)\}")


@dataclass(frozen=True)
class Remap:
    """One `from:=to` rule; `node` limits it to nodes of that name."""

    match: str
    replacement: str
    node: str | None = None


def validate_node_name(node_name: str) -> bool:
    """True, or InvalidNodeNameException."""
    fault = _token_fault(node_name, "node name")
    if fault:
        raise InvalidNodeNameException(node_name, *fault)
    return True


def validate_namespace(namespace: str) -> bool:
    """True, or InvalidNamespaceException."""
    if not namespace.startswith("/"):
        raise InvalidNamespaceException(namespace, "namespace must be absolute, it must lead with a '/'", 0)
    fault = _path_fault(namespace, "namespace") if namespace != "/" else None
    if fault:
        raise InvalidNamespaceException(namespace, *fault)
    return True


def validate_topic_name(name: str, *, is_service: bool = False) -> bool:
    """True, or InvalidTopicNameException (InvalidServiceNameException): the rules before expansion."""
    plain = _SUBSTITUTION.sub(lambda match: match[1] or "_", name)
    below_node = plain.removeprefix("~")
    if plain == "~":
        return True
    fault = _path_fault(below_node, "topic name")
    if plain.startswith("~") and not below_node.startswith("/"):
        fault = "'~' must be followed by '/'", 1
    if fault:
        raise (InvalidServiceNameException if is_service else InvalidTopicNameException)(name, *fault)
    return True


def validate_full_topic_name(name: str, *, is_service: bool = False) -> bool:
    """True, or InvalidTopicNameException (InvalidServiceNameException): the rules after expansion."""
    fault = ("topic name must be absolute, it must lead with a '/'", 0) if not name.startswith("/") else _path_fault(name, "topic name")
    if fault:
        raise (InvalidServiceNameException if is_service else InvalidTopicNameException)(name, *fault)
    return True


def validate_parameter_name(name: str) -> bool:
    """True, or InvalidParameterException."""
    if not name:
        raise InvalidParameterException(name)
    return True


def _token_fault(token: str, what: str) -> tuple[str, int] | None:
    if not token:
        return f"{what} must not be empty", 0
    if len(token) > _LONGEST:
        return f"{what} must not be longer than {_LONGEST} characters", _LONGEST
    bad = re.search(r"[^A-Za-z0-9_]", token)
    if bad:
        return f"{what} must not contain characters other than alphanumerics or '_'", bad.start()
    return (f"{what} must not start with a number", 0) if token[0].isdigit() else None


def _path_fault(path: str, what: str) -> tuple[str, int] | None:
    if not path:
        return (f"{what} must not be empty", 0) if what == "topic name" else None
    if len(path) > _LONGEST:
        return f"{what} must not be longer than {_LONGEST} characters", _LONGEST
    if path.endswith("/"):
        return f"{what} must not end with a forward slash", len(path) - 1
    bad = re.search(r"[^A-Za-z0-9_/]", path)
    if bad:
        return f"{what} must not contain characters other than alphanumerics, '_', '~', '{{', or '}}'", bad.start()
    doubled = re.search(r"//", path)
    if doubled:
        return f"{what} must not contain repeated '/'", doubled.start()
    number = re.search(r"(^|/)\d", path)
    return (f"{what} token must not start with a number", number.end() - 1) if number else None


def full_name(namespace: str, name: str) -> str:
    """A name below a namespace, with one slash between."""
    return f"{namespace.rstrip('/')}/{name}"


def expand_topic_name(topic_name: str, node_name: str, node_namespace: str, *, is_service: bool = False) -> str:
    """The absolute name: `a` -> /ns/a, `~/a` -> /ns/node/a, {node} and {ns} substituted.

    Raises:
        InvalidTopicNameException (InvalidServiceNameException): an unknown substitution, or the result is no valid name.
    """
    invalid = InvalidServiceNameException if is_service else InvalidTopicNameException
    known = {"node": node_name, "ns": node_namespace, "namespace": node_namespace}

    def substitute(match: re.Match[str]) -> str:
        if match[1] not in known:
            raise invalid(topic_name, f"unknown substitution '{match[0]}'", match.start())
        return known[match[1]]

    name = _SUBSTITUTION.sub(substitute, topic_name)
    if name.startswith("~"):
        name = full_name(node_namespace, node_name) + name[1:]
    elif not name.startswith("/"):
        name = full_name(node_namespace, name)
    validate_full_topic_name(name, is_service=is_service)
    return name


def remap_node(rules: list[Remap], name: str, namespace: str) -> tuple[str, str]:
    """A node's name and namespace after the rules __node and __ns; the first rule of each wins."""
    fitting = [rule for rule in rules if rule.node in (None, name)]
    new_name = next((rule.replacement for rule in fitting if rule.match in ("__node", "__name")), name)
    new_namespace = next((rule.replacement for rule in fitting if rule.match == "__ns"), namespace)
    return new_name, new_namespace


def resolve_topic_name(
    topic: str, node_name: str, namespace: str, rules: list[Remap], *, node_rules_name: str | None = None, is_service: bool = False
) -> str:
    """The absolute name of a topic or a service after expansion and remapping. `node_rules_name`: the node's name before remapping."""
    ours, theirs = ("rosservice://", "rostopic://") if is_service else ("rostopic://", "rosservice://")
    name = expand_topic_name(topic, node_name, namespace, is_service=is_service)
    for rule in rules:
        if rule.match.startswith("__") or rule.node not in (None, node_name, node_rules_name):
            continue
        match = rule.match.removeprefix(ours)
        if match.startswith(theirs):
            continue
        if expand_topic_name(match, node_name, namespace) == name:
            return expand_topic_name(rule.replacement, node_name, namespace, is_service=is_service)
    return name
