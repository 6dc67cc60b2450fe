# SPDX-License-Identifier: Apache-2.0
"""Names: what is valid, how they expand, what remapping makes of them."""

from __future__ import annotations

import pytest

from longscape_ros.embedded.exceptions import InvalidNamespaceException, InvalidNodeNameException, InvalidTopicNameException
from longscape_ros.embedded.names import (
    Remap,
    expand_topic_name,
    remap_node,
    resolve_topic_name,
    validate_namespace,
    validate_node_name,
    validate_topic_name,
)


@pytest.mark.parametrize("name", ["a", "a/b", "/a/b", "~/a", "~", "{node}/a", "_a1"])
def test_good_topic_names_pass(name):
    assert validate_topic_name(name)


@pytest.mark.parametrize("name", ["", "1a", "a b", "a//b", "a/", "a/1b", "~a", "ä", "/", "a" * 300])
def test_bad_topic_names_are_refused(name):
    with pytest.raises(InvalidTopicNameException, match="Invalid topic name"):
        validate_topic_name(name)


@pytest.mark.parametrize("name", ["", "a b", "1a", "a/b", "a" * 300])
def test_bad_node_names_are_refused(name):
    with pytest.raises(InvalidNodeNameException, match="Invalid node name"):
        validate_node_name(name)


@pytest.mark.parametrize("namespace", ["a", "/a/", "//", "/1"])
def test_bad_namespaces_are_refused(namespace):
    with pytest.raises(InvalidNamespaceException):
        validate_namespace(namespace)


@pytest.mark.parametrize(
    ("topic", "expanded"),
    [("a", "/ns/a"), ("/a", "/a"), ("~/a", "/ns/node/a"), ("~", "/ns/node"), ("{node}/a", "/ns/node/a"), ("{ns}/a", "/ns/a")],
)
def test_names_expand_below_namespace_and_node(topic, expanded):
    assert expand_topic_name(topic, "node", "/ns") == expanded


def test_an_unknown_substitution_is_refused():
    with pytest.raises(InvalidTopicNameException, match=r"unknown substitution '\{robot\}'"):
        expand_topic_name("{robot}/a", "node", "/")


@pytest.mark.parametrize(
    ("rule", "topic", "resolved"),
    [
        (Remap("a", "b"), "a", "/ns/b"),
        (Remap("a", "/b"), "/ns/a", "/b"),
        (Remap("~/a", "c"), "~/a", "/ns/c"),
        (Remap("rostopic://a", "b"), "a", "/ns/b"),
        (Remap("rosservice://a", "b"), "a", "/ns/a"),
        (Remap("a", "b", node="other"), "a", "/ns/a"),
        (Remap("a", "b", node="node"), "a", "/ns/b"),
    ],
)
def test_remapping_applies_to_the_expanded_name(rule, topic, resolved):
    assert resolve_topic_name(topic, "node", "/ns", [rule]) == resolved


def test_the_first_matching_rule_wins():
    assert resolve_topic_name("a", "node", "/", [Remap("a", "first"), Remap("a", "second")]) == "/first"


def test_node_and_namespace_are_remapped_by_their_own_rules():
    assert remap_node([Remap("__node", "n"), Remap("__ns", "/s")], "node", "/") == ("n", "/s")
    assert remap_node([Remap("__node", "n", node="other")], "node", "/") == ("node", "/")
