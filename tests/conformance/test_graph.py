# SPDX-License-Identifier: Apache-2.0
"""What processes know of each other: names, types, endpoints, who comes and who leaves; and what they say to each other."""

from __future__ import annotations

import signal

import numpy as np
import pytest
from rclpy.node import NodeNameNonExistentError
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.topic_endpoint_info import TopicEndpointTypeEnum
from sensor_msgs.msg import Image
from std_msgs.msg import String
from support.ros import DOOR, PATIENCE_S

HASH_OF_STRING = "RIHS01_df668c740482bbd48fb39d76a70dfd4bd59db1288021743503259e948f6b1a18"
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
PEER = f"""{DOOR}
import contextlib
import sys
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import String

rclpy.init(args=["--ros-args", *sys.argv[1:]])
node = rclpy.create_node("peer", namespace="/robot")
echo = node.create_publisher(Image, "echo", 5)
best_effort = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
node.create_subscription(Image, "image", echo.publish, best_effort)
about = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
node.create_publisher(String, "about", about).publish(String(data=node.get_name()))
print("ready", flush=True)
with contextlib.suppress(ExternalShutdownException):
    rclpy.spin(node)
print("ended", flush=True)
"""


@pytest.fixture
def start_peer(start):
    """Starts /robot/peer in a process of its own, and waits until it has all it has."""

    def run(*arguments, **environment):
        process = start(PEER, *arguments, **environment)
        assert process.stdout.readline() == "ready\n"
        return process

    return run


def test_a_node_of_another_process_is_seen_with_all_it_has(ros, start_peer):
    start_peer()
    witness = ros.node("witness")
    assert witness.wait_for_node("/robot/peer", PATIENCE_S)
    assert {("witness", "/"), ("peer", "/robot")} <= set(witness.get_node_names_and_namespaces())
    assert {"/witness", "/robot/peer"} <= set(witness.get_fully_qualified_node_names())
    published = {
        "/parameter_events": ["rcl_interfaces/msg/ParameterEvent"],
        "/robot/about": ["std_msgs/msg/String"],
        "/robot/echo": ["sensor_msgs/msg/Image"],
        "/rosout": ["rcl_interfaces/msg/Log"],
    }
    subscribed = {"/robot/image": ["sensor_msgs/msg/Image"]}
    assert ros.until(lambda: dict(witness.get_publisher_names_and_types_by_node("peer", "/robot")) == published)
    assert ros.until(lambda: dict(witness.get_subscriber_names_and_types_by_node("peer", "/robot")) == subscribed)
    assert (witness.count_publishers("/robot/about"), witness.count_subscribers("/robot/image")) == (1, 1)
    assert (published | subscribed).items() <= dict(witness.get_topic_names_and_types()).items()


def test_the_enclave_of_a_process_is_seen(ros, start_peer):
    start_peer("-e", "/safe")
    witness = ros.node("witness")
    assert ros.until(lambda: ("peer", "/robot", "/safe") in witness.get_node_names_and_namespaces_with_enclaves())
    assert ("witness", "/", "/") in witness.get_node_names_and_namespaces_with_enclaves()


def test_a_node_is_seen_under_the_name_that_it_is_remapped_to(ros, start_peer):
    start_peer("-r", "__node:=other", "-r", "__ns:=/arm", "-r", "about:=/said")
    witness = ros.node("witness")
    assert witness.wait_for_node("/arm/other", PATIENCE_S)
    assert ros.until(lambda: "/said" in dict(witness.get_publisher_names_and_types_by_node("other", "/arm")))


def test_publishers_and_subscriptions_of_another_process_are_described(ros, start_peer):
    start_peer()
    witness = ros.node("witness")
    assert ros.until(lambda: witness.count_publishers("/robot/about") == witness.count_subscribers("/robot/image") == 1)
    assert ros.until(lambda: witness.get_publishers_info_by_topic("/robot/about")[0].node_name == "peer")
    (about,) = witness.get_publishers_info_by_topic("/robot/about")
    (image,) = witness.get_subscriptions_info_by_topic("/robot/image")
    assert (about.node_name, about.node_namespace, about.topic_type) == ("peer", "/robot", "std_msgs/msg/String")
    assert str(about.topic_type_hash) == HASH_OF_STRING
    assert (about.qos_profile.durability, image.qos_profile.durability) == (DurabilityPolicy.TRANSIENT_LOCAL, DurabilityPolicy.VOLATILE)
    assert (about.qos_profile.reliability, image.qos_profile.reliability) == (ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT)
    assert (about.endpoint_type, image.endpoint_type) == (TopicEndpointTypeEnum.PUBLISHER, TopicEndpointTypeEnum.SUBSCRIPTION)
    assert bytes(about.endpoint_gid) != bytes(image.endpoint_gid)


def test_an_image_and_a_latched_text_cross_to_another_process_and_back(ros, start_peer):
    node = ros.node()
    echoed, texts = [], []
    node.create_subscription(Image, "/robot/echo", echoed.append, 5)
    publisher = node.create_publisher(Image, "/robot/image", 5)
    start_peer()
    node.create_subscription(String, "/robot/about", texts.append, LATCHED)
    assert ros.until(lambda: texts and publisher.get_subscription_count() == node.count_publishers("/robot/echo") == 1)
    pixels = np.random.default_rng(2).integers(0, 256, (64, 64, 3), np.uint8)
    image = Image(height=64, width=64, encoding="rgb8", step=192, data=pixels.ravel())
    for _ in range(50):  # the peer may learn of the subscription a little later
        publisher.publish(image)
        if ros.until(lambda: echoed, 0.5):
            break
    assert (echoed[0], texts) == (image, [String(data="peer")])


def test_a_process_that_ends_leaves(ros, start_peer):
    process = start_peer()
    witness = ros.node("witness")
    assert ros.until(lambda: witness.count_publishers("/robot/about") == 1)
    assert witness.wait_for_node("/robot/peer", PATIENCE_S)
    process.send_signal(signal.SIGTERM)
    assert ros.until(lambda: "peer" not in witness.get_node_names())
    assert ros.until(lambda: witness.count_publishers("/robot/about") == witness.count_subscribers("/robot/image") == 0)
    assert process.communicate(timeout=PATIENCE_S)[0] == "ended\n"


def test_other_domains_stay_hidden(ros, start_peer, own_domain):
    start_peer("-r", "__node:=elsewhere", ROS_DOMAIN_ID=str(own_domain + 1))
    start_peer()
    witness = ros.node("witness")
    assert witness.wait_for_node("/robot/peer", PATIENCE_S)
    assert "elsewhere" not in witness.get_node_names()


def test_nodes_of_one_name_are_both_listed(ros):
    node = ros.node("twin")
    ros.node("twin")
    assert ros.until(lambda: node.get_node_names_and_namespaces().count(("twin", "/")) == 2)


def test_a_destroyed_node_is_no_longer_listed(ros):
    node, other = ros.node(), ros.node("leaving")
    assert ros.until(lambda: "leaving" in node.get_node_names())
    other.destroy_node()
    assert ros.until(lambda: "leaving" not in node.get_node_names())


def test_waiting_for_a_node_that_never_comes_ends(ros):
    assert not ros.node().wait_for_node("/nobody", 0.01)


def test_what_nobody_has_is_refused(ros):
    node = ros.node()
    for ask in (node.get_publisher_names_and_types_by_node, node.get_subscriber_names_and_types_by_node):
        with pytest.raises(NodeNameNonExistentError):
            ask("nobody", "/")
    assert (node.count_publishers("nobody"), node.get_publishers_info_by_topic("nobody")) == (0, [])
