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
    NameValidationException,
    RCLError,
)

_LONGEST_NODE_NAME = 255
_LONGEST_TOPIC_NAME = 247
_LONGEST_NAMESPACE = 245
_SUBSTITUTION = re.compile(r"\{(\w*)\}")
_TOKEN_OF_A_NUMBER = re.compile(r"(?:^|/)(\d)")


@dataclass(frozen=True)
class Remap:
    """One `from:=to` rule; `node` limits it to nodes of that name."""

    match: str
    replacement: str
    node: str | None = None


def validate_node_name(node_name: str) -> bool:
    """True, or InvalidNodeNameException."""
    bad = re.search(r"[^A-Za-z0-9_]", node_name)
    if not node_name:
        raise InvalidNodeNameException(node_name, "node name must not be empty", 0)
    if bad:
        raise InvalidNodeNameException(node_name, "node name must not contain characters other than alphanumerics or '_'", bad.start())
    if node_name[0].isdigit():
        raise InvalidNodeNameException(node_name, "node name must not start with a number", 0)
    if len(node_name) > _LONGEST_NODE_NAME:
        raise InvalidNodeNameException(node_name, f"node name must not be longer than {_LONGEST_NODE_NAME} characters", _LONGEST_NODE_NAME)
    return True


def validate_namespace(namespace: str) -> bool:
    """True, or InvalidNamespaceException."""
    fault = _full_fault(namespace, "namespace", _LONGEST_NAMESPACE) if namespace != "/" else None
    if fault:
        raise InvalidNamespaceException(namespace, *fault)
    return True


def validate_topic_name(name: str, *, is_service: bool = False) -> bool:
    """True, or InvalidTopicNameException (InvalidServiceNameException): the rules before expansion."""
    fault = _fault_before_expansion(name)
    if fault:
        raise (InvalidServiceNameException if is_service else InvalidTopicNameException)(name, *fault)
    return True


def validate_full_topic_name(name: str, *, is_service: bool = False) -> bool:
    """True, or InvalidTopicNameException (InvalidServiceNameException): the rules after expansion."""
    fault = _full_fault(name, "topic name", _LONGEST_TOPIC_NAME)
    if fault:
        raise (InvalidServiceNameException if is_service else InvalidTopicNameException)(name, *fault)
    return True


def validate_parameter_name(name: str) -> bool:
    """True, or InvalidParameterException."""
    if not name:
        raise InvalidParameterException(name)
    return True


def _fault_before_expansion(name: str) -> tuple[str, int] | None:
    """Why a topic or service name is none, and where."""
    if not name:
        return "topic name must not be empty string", 0
    if name.endswith("/"):
        return "topic name must not end with a forward slash", len(name) - 1
    opened: int | None = None
    for index, character in enumerate(name):
        if character in "{}":
            if (character == "{") == (opened is not None):
                return "topic name must not have unmatched (unbalanced) curly braces '{}'", index
            opened = index if character == "{" else None
        elif opened is not None:
            if not re.match(r"[A-Za-z0-9_]", character):
                return "substitution name must not contain characters other than alphanumerics or '_'", index
            if character.isdigit() and opened == index - 1:
                return "substitution name must not start with a number", index
        elif character == "~" and index:
            return "topic name must not have tilde '~' unless it is the first character", index
        elif not re.match(r"[A-Za-z0-9_/~]", character):
            return "topic name must not contain characters other than alphanumerics, '_', '~', '{', or '}'", index
    if opened is not None:
        return "topic name must not have unmatched (unbalanced) curly braces '{}'", opened
    number = _TOKEN_OF_A_NUMBER.search(name)
    return ("topic name token must not start with a number", number.start(1)) if number else None


def _full_fault(name: str, what: str, longest: int) -> tuple[str, int] | None:
    """Why a full name is none, and where."""
    if not name:
        return f"{what} must not be empty", 0
    if not name.startswith("/"):
        return f"{what} must be absolute, it must lead with a '/'", 0
    if name.endswith("/"):
        return f"{what} must not end with a '/'", len(name) - 1
    bad = re.search(r"[^A-Za-z0-9_/]", name)
    if bad:
        return f"{what} must not contain characters other than alphanumerics, '_', or '/'", bad.start()
    doubled = name.find("//")
    if doubled >= 0:
        return f"{what} must not contain repeated '/'", doubled + 1
    number = _TOKEN_OF_A_NUMBER.search(name)
    if number:
        return f"{what} must not have a token that starts with a number", number.start(1)
    return (f"{what} must not be longer than {longest} characters", longest) if len(name) > longest else None


def full_name(namespace: str, name: str) -> str:
    """A name below a namespace, with one slash between."""
    return f"{namespace.rstrip('/')}/{name}"


def expand_topic_name(topic_name: str, node_name: str, node_namespace: str) -> str:
    """The absolute name: `a` -> /ns/a, `~/a` -> /ns/node/a, {node} and {ns} substituted. The result may be no valid full name.

    Raises:
        ValueError: One of the names breaks a rule, or an unknown substitution.
    """
    try:
        validate_topic_name(topic_name)
        validate_node_name(node_name)
        validate_namespace(node_namespace)
    except NameValidationException as fault:
        raise ValueError(str(fault)) from None
    known = {"node": node_name, "ns": node_namespace, "namespace": node_namespace}

    def substitute(match: re.Match[str]) -> str:
        if match[1] not in known:
            raise ValueError(f"topic name '{topic_name}' is invalid: unknown substitution: {match[0]}; known are {{node}} and {{ns}}")
        return known[match[1]]

    name = _SUBSTITUTION.sub(substitute, topic_name)
    if name.startswith("~"):
        return full_name(node_namespace, node_name) + name[1:]
    return name if name.startswith("/") else full_name(node_namespace, name)


def expand_valid_name(name: str, node_name: str, namespace: str, *, is_service: bool = False) -> str:
    """The absolute name of a topic or a service, which is valid.

    Raises:
        InvalidTopicNameException (InvalidServiceNameException): The name breaks a rule, before or after expansion.
        ValueError: An unknown substitution.
    """
    validate_topic_name(name, is_service=is_service)
    expanded = expand_topic_name(name, node_name, namespace)
    validate_full_topic_name(expanded, is_service=is_service)
    return expanded


def remap_node(rules: list[Remap], name: str, namespace: str) -> tuple[str, str]:
    """A node's name and namespace after the rules __node and __ns; the first rule of each wins."""
    new_name = next((rule.replacement for rule in rules if rule.match in ("__node", "__name") and rule.node in (None, name)), name)
    return new_name, next((rule.replacement for rule in rules if rule.match == "__ns" and rule.node in (None, new_name)), namespace)


def remap_name(full: str, node_name: str, namespace: str, rules: list[Remap], *, is_service: bool = False) -> str:
    """The absolute name of a topic or a service after remapping; the first rule that fits wins."""
    ours, theirs = ("rosservice://", "rostopic://") if is_service else ("rostopic://", "rosservice://")
    for rule in rules:
        if rule.match.startswith(("__", theirs)) or rule.node not in (None, node_name):
            continue
        if expand_topic_name(rule.match.removeprefix(ours), node_name, namespace) == full:
            return expand_valid_name(rule.replacement, node_name, namespace, is_service=is_service)
    return full


def resolve_name(
    name: str, node_name: str, namespace: str, rules: list[Remap], *, only_expand: bool = False, is_service: bool = False
) -> str:
    """The absolute name of a topic or a service after expansion, and after remapping unless it is only to be expanded.

    Raises:
        RCLError: The name breaks a rule.
    """
    try:
        full = expand_valid_name(name, node_name, namespace, is_service=is_service)
        return full if only_expand else remap_name(full, node_name, namespace, rules, is_service=is_service)
    except (NameValidationException, ValueError) as fault:
        raise RCLError(f"failed to resolve name: {fault}") from None
