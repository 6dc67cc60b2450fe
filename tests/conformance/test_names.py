# SPDX-License-Identifier: Apache-2.0
"""Names: what is valid, how they expand, what remapping makes of them."""

from __future__ import annotations

import pytest
from rcl_interfaces.srv import ListParameters
from rclpy.exceptions import (
    InvalidNamespaceException,
    InvalidNodeNameException,
    InvalidServiceNameException,
    InvalidTopicNameException,
)
from rclpy.expand_topic_name import expand_topic_name
from rclpy.node import Node
from rclpy.validate_full_topic_name import validate_full_topic_name
from rclpy.validate_namespace import validate_namespace
from rclpy.validate_node_name import validate_node_name
from rclpy.validate_topic_name import validate_topic_name
from std_msgs.msg import String

INVALID = ["", "1a", "a b", "a/", "a/1b", "a~", "~/", "ä", "/", "{a", "a}", "{1}", "a{x y}"]
"""Names of topics that are invalid before expansion already."""


@pytest.fixture
def names(ros):
    """names(rules) gives the node's full name with these remapping rules, and those of its topics a, ~/a and /a and of its service a."""

    def resolved(*rules):
        cli_args = ["--ros-args", *(word for rule in rules for word in ("-r", rule))]
        node = Node("n", namespace="/ns", context=ros.context, cli_args=cli_args)
        topics = [node.resolve_topic_name(name) for name in ("a", "~/a", "/a")]
        found = [node.get_fully_qualified_name(), *topics, node.resolve_service_name("a")]
        node.destroy_node()
        return found

    return resolved


@pytest.mark.parametrize("name", ["a", "a/b", "/a/b", "~/a", "~", "{node}/a", "a/{node}", "{ns}", "_a1", "a__b", "a//b", "a" * 300])
def test_good_topic_names_pass(name):
    assert validate_topic_name(name)
    assert validate_topic_name(name, is_service=True)


@pytest.mark.parametrize("name", INVALID)
def test_bad_topic_names_are_refused(name):
    with pytest.raises(InvalidTopicNameException, match="Invalid topic name"):
        validate_topic_name(name)
    with pytest.raises(InvalidServiceNameException, match="Invalid service name"):
        validate_topic_name(name, is_service=True)


def test_full_topic_names_have_stricter_rules():
    for name in ("/a", "/a/b", "/a/_b1", "/" + "a" * 246):
        assert validate_full_topic_name(name)
    for name in ("", "a", "~/a", "/", "/a/", "/a//b", "/a b", "/{node}", "/1a", "/a/1", "/" + "a" * 247):
        with pytest.raises(InvalidTopicNameException):
            validate_full_topic_name(name)


def test_node_names_are_single_tokens():
    for name in ("a", "_a", "a1", "a" * 255):
        assert validate_node_name(name)
    for name in ("", "a b", "1a", "a/b", "a-b", "~", "a" * 256):
        with pytest.raises(InvalidNodeNameException, match="Invalid node name"):
            validate_node_name(name)


def test_namespaces_are_absolute():
    for name in ("/", "/a", "/a/b", "/" + "a" * 244):
        assert validate_namespace(name)
    for name in ("", "a", "/a/", "//", "/1", "/a b", "/a//b", "/" + "a" * 245):
        with pytest.raises(InvalidNamespaceException):
            validate_namespace(name)


def test_nodes_have_valid_names(ros):
    assert [ros.node("n", namespace=namespace).get_namespace() for namespace in (None, "", "/", "a", "/a/b")] == [
        "/",
        "/",
        "/",
        "/a",
        "/a/b",
    ]
    with pytest.raises(InvalidNodeNameException):
        ros.node("a b")
    with pytest.raises(InvalidNamespaceException):
        ros.node("n", namespace="/a/")


@pytest.mark.parametrize(
    ("topic", "expanded"),
    [
        ("a", "/ns/a"), ("/a", "/a"), ("~/a", "/ns/node/a"), ("~", "/ns/node"), ("{node}/a", "/ns/node/a"), ("{ns}/a", "/ns/a"),
        ("{namespace}/a", "/ns/a"), ("a/{node}", "/ns/a/node"),
    ],
)  # fmt: skip
def test_names_expand_below_namespace_and_node(topic, expanded):
    assert expand_topic_name(topic, "node", "/ns") == expanded


def test_names_expand_below_the_root_too():
    assert [expand_topic_name(topic, "node", "/") for topic in ("a", "~/a", "~", "a/{node}")] == ["/a", "/node/a", "/node", "/a/node"]


@pytest.mark.parametrize(("topic", "node", "namespace"), [("{robot}/a", "n", "/"), ("a b", "n", "/"), ("a", "n d", "/"), ("a", "n", "ns")])
def test_what_cannot_be_expanded_is_refused(topic, node, namespace):
    with pytest.raises(ValueError, match=r"invalid|Invalid"):
        expand_topic_name(topic, node, namespace)


@pytest.mark.parametrize("name", [*INVALID, "a//b", "{ns}", "a" * 300])
def test_nothing_is_created_under_a_bad_name(ros, name):
    node = ros.node()
    for create in (lambda: node.create_publisher(String, name, 1), lambda: node.create_subscription(String, name, print, 1)):
        with pytest.raises(InvalidTopicNameException):
            create()
    for create in (lambda: node.create_client(ListParameters, name), lambda: node.create_service(ListParameters, name, print)):
        with pytest.raises(InvalidServiceNameException):
            create()
    for resolve in (node.resolve_topic_name, node.resolve_service_name):
        with pytest.raises(RuntimeError):
            resolve(name)


def test_an_unknown_substitution_is_refused_everywhere(ros):
    node = ros.node()
    for create in (lambda: node.create_publisher(String, "{robot}/a", 1), lambda: node.create_client(ListParameters, "{robot}/a")):
        with pytest.raises(ValueError, match="unknown substitution"):
            create()
    with pytest.raises(RuntimeError, match="unknown substitution"):
        node.resolve_topic_name("{robot}/a")


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([], ["/ns/n", "/ns/a", "/ns/n/a", "/a", "/ns/a"]),
        (["a:=b"], ["/ns/n", "/ns/b", "/ns/n/a", "/a", "/ns/b"]),
        (["/ns/a:=/b"], ["/ns/n", "/b", "/ns/n/a", "/a", "/b"]),
        (["/a:=b"], ["/ns/n", "/ns/a", "/ns/n/a", "/ns/b", "/ns/a"]),
        (["~/a:=b"], ["/ns/n", "/ns/a", "/ns/b", "/a", "/ns/a"]),
        (["a:=~/b"], ["/ns/n", "/ns/n/b", "/ns/n/a", "/a", "/ns/n/b"]),
        (["rostopic://a:=b"], ["/ns/n", "/ns/b", "/ns/n/a", "/a", "/ns/a"]),
        (["rosservice://a:=b"], ["/ns/n", "/ns/a", "/ns/n/a", "/a", "/ns/b"]),
        (["n:a:=b"], ["/ns/n", "/ns/b", "/ns/n/a", "/a", "/ns/b"]),
        (["m:a:=b"], ["/ns/n", "/ns/a", "/ns/n/a", "/a", "/ns/a"]),
        (["n:rostopic://a:=b"], ["/ns/n", "/ns/b", "/ns/n/a", "/a", "/ns/a"]),
        (["a:=first", "a:=second"], ["/ns/n", "/ns/first", "/ns/n/a", "/a", "/ns/first"]),
        (["a:=b", "b:=c"], ["/ns/n", "/ns/b", "/ns/n/a", "/a", "/ns/b"]),
        (["__node:=m"], ["/ns/m", "/ns/a", "/ns/m/a", "/a", "/ns/a"]),
        (["__name:=m"], ["/ns/m", "/ns/a", "/ns/m/a", "/a", "/ns/a"]),
        (["__ns:=/x/y"], ["/x/y/n", "/x/y/a", "/x/y/n/a", "/a", "/x/y/a"]),
        (["__ns:=/"], ["/n", "/a", "/n/a", "/a", "/a"]),
        (["__ns:=/x", "__ns:=/y"], ["/x/n", "/x/a", "/x/n/a", "/a", "/x/a"]),
        (["m:__node:=k"], ["/ns/n", "/ns/a", "/ns/n/a", "/a", "/ns/a"]),
        (["n:__node:=k", "k:__ns:=/x"], ["/x/k", "/x/a", "/x/k/a", "/a", "/x/a"]),
        (["__ns:=/x", "/ns/a:=/old", "/x/a:=/new"], ["/x/n", "/new", "/x/n/a", "/a", "/new"]),
        (["__node:=m", "n:a:=old", "m:a:=new"], ["/ns/m", "/ns/new", "/ns/m/a", "/a", "/ns/new"]),
    ],
    ids=lambda value: " ".join(value) if value and ":=" in value[0] else "",
)
def test_remapping_applies_to_expanded_names(names, rules, expected):
    assert names(*rules) == expected


def test_names_can_be_expanded_without_remapping(ros):
    node = ros.node("n", "-r a:=b", namespace="/ns")
    assert (node.resolve_topic_name("a", only_expand=True), node.resolve_service_name("a", only_expand=True)) == ("/ns/a", "/ns/a")


def test_topics_and_services_are_created_under_the_names_they_are_remapped_to(ros):
    node = ros.node("n", "-r a:=/x -r ~/b:=y -r __ns:=/house")
    made = [
        *(node.create_publisher(String, name, 1).topic_name for name in ("a", "~/b", "c")),
        *(node.create_subscription(String, name, print, 1).topic_name for name in ("a", "~/b", "c")),
        *(node.create_service(ListParameters, name, print).service_name for name in ("a", "~/b", "c")),
        *(node.create_client(ListParameters, name).service_name for name in ("a", "~/b", "c")),
    ]
    assert made == ["/x", "/house/y", "/house/c"] * 4


def test_topics_are_counted_by_their_own_names_and_described_by_remapped_ones(ros):
    node = ros.node("n", "-r a:=b")
    node.create_publisher(String, "a", 1)
    node.create_subscription(String, "a", print, 1)
    assert ros.until(lambda: node.count_publishers("b") == node.count_subscribers("b") == 1)
    assert (node.count_publishers("a"), node.count_subscribers("a")) == (0, 0)
    assert len(node.get_publishers_info_by_topic("a")) == len(node.get_subscriptions_info_by_topic("b")) == 1


def test_arguments_of_the_process_are_for_all_of_its_nodes_but_those_that_do_without(start):
    script = """
from longscape_ros.embedded import ensure_rclpy
ensure_rclpy()
import rclpy
rclpy.init(args=["program", "other", "--ros-args", "-r", "a:=b", "-r", "__ns:=/ns", "-p", "x:=1", "-p", "y:=1"])
local = rclpy.create_node("local", cli_args=["--ros-args", "-r", "a:=c", "-p", "x:=2"])
plain, without = rclpy.create_node("plain"), rclpy.create_node("without", use_global_arguments=False)
for node in (local, plain, without):
    print(node.resolve_topic_name("a"), *(node.declare_parameter(name, 0).value for name in "xy"))
rclpy.shutdown()
"""
    out, err = start(script).communicate()
    assert (out, err) == ("/ns/c 2 1\n/ns/b 1 1\n/a 0 0\n", "")
