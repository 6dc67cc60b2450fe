# SPDX-License-Identifier: Apache-2.0
"""What nodes know of each other, here and in other processes, and who stays hidden."""

from __future__ import annotations

import signal

import pytest
from support.ros import DOOR

from longscape_ros.embedded.context import Context
from longscape_ros.embedded.dds import Participant, domain_configuration
from longscape_ros.embedded.exceptions import RCLError
from longscape_ros.embedded.messages import deserialize_message, library, message_class, service_class
from longscape_ros.embedded.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

PATIENCE_S = 60.0
INFO = "rmw_dds_common/msg/ParticipantEntitiesInfo"
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
Image, String = message_class("sensor_msgs/msg/Image"), message_class("std_msgs/msg/String")
SetBool = service_class("std_srvs/srv/SetBool")
PEER = """
import contextlib
import sys
from longscape_ros.embedded import api
from longscape_ros.embedded.executors import ExternalShutdownException
from longscape_ros.embedded.messages import message_class
from longscape_ros.embedded.qos import QoSProfile

Image, String = message_class("sensor_msgs/msg/Image"), message_class("std_msgs/msg/String")
name, *arguments = sys.argv[1:]
api.init(args=["--ros-args", *arguments])
node = api.create_node(name, namespace="/robot")
echo = node.create_publisher(Image, "echo", 5)
node.create_subscription(Image, "image", echo.publish, 5, raw=True)
node.create_publisher(String, "about", QoSProfile(depth=1, durability=1)).publish(String(data=name))
print("ready", flush=True)
with contextlib.suppress(ExternalShutdownException):  # not raised if the signal comes before the first wait
    api.spin(node)
print("ended", flush=True)
"""


def endpoints(node):
    """The GIDs of all DDS readers and of all DDS writers that a node has."""
    ends = [*node.services, *node.clients]
    readers = {end.gid for end in (*node.subscriptions, *ends)}
    return readers, {publisher.gid for publisher in node.every_publisher()} | {end.writer_gid for end in ends}


def lease(duration):
    """Cyclone's setting for how long a participant is believed to live after its last sign of life."""
    return f"<CycloneDDS><Domain><Discovery><LeaseDuration>{duration}</LeaseDuration></Discovery></Domain></CycloneDDS>"


@pytest.fixture
def start_peer(start):
    """Starts nodes in processes of their own, which leave the graph at the end: killed ones would haunt it for ten seconds."""
    peers = []

    def run(name="peer", *arguments, **environment):
        peers.append(start(PEER, name, *arguments, **environment))
        return peers[-1]

    yield run
    for peer in peers:
        peer.terminate()
    for peer in peers:
        peer.communicate(timeout=PATIENCE_S)


@pytest.fixture
def announced(context):
    """Gives what participants last said on ros_discovery_info: {GID: {(namespace, node): (readers, writers)}}."""
    reader = context.participant.create_reader("ros_discovery_info", INFO, QoSProfile(depth=100, durability=LATCHED.durability))
    newest = {}

    def read():
        for sample in reader.take(100):
            if hasattr(sample, "cdr"):
                info = deserialize_message(sample.cdr, message_class(INFO))
                newest[bytes(info.gid.data)] = {
                    (node.node_namespace, node.node_name): tuple(
                        {bytes(gid.data) for gid in gids} for gids in (node.reader_gid_seq, node.writer_gid_seq)
                    )
                    for node in info.node_entities_info_seq
                }
        return newest

    return read


def test_topics_are_listed_under_their_names_in_dds_too(make_node, start_peer, spin):
    start_peer()
    witness = make_node("witness")
    assert spin([witness], lambda: witness.count_publishers("/robot/about") == 1)
    assert dict(witness.get_topic_names_and_types(no_demangle=True))["rt/robot/about"] == ["std_msgs::msg::dds_::String_"]


def test_endpoints_of_another_process_are_announced_under_their_gids(make_node, start_peer, spin, announced):
    start_peer()
    witness = make_node("witness")
    assert spin([witness], lambda: witness.count_publishers("/robot/about") == witness.count_subscribers("/robot/image") == 1)
    (about,) = witness.get_publishers_info_by_topic("/robot/about")
    (image,) = witness.get_subscriptions_info_by_topic("/robot/image")
    assert (about.qos_profile.depth, image.qos_profile.depth) == (1, 5)
    assert spin([witness], lambda: any(("/robot", "peer") in nodes for nodes in announced().values()))
    (nodes,) = (nodes for nodes in announced().values() if ("/robot", "peer") in nodes)
    readers, writers = nodes["/robot", "peer"]
    assert bytes(image.endpoint_gid) in readers
    assert bytes(about.endpoint_gid) in writers


def test_a_process_that_ends_leaves_at_once(make_node, start_peer, spin):
    process = start_peer(CYCLONEDDS_URI=lease("60min"))
    witness = make_node("witness")
    assert spin([witness], lambda: witness.count_publishers("/robot/about") == 1)
    assert witness.wait_for_node("/robot/peer", PATIENCE_S)
    process.send_signal(signal.SIGTERM)
    assert spin([witness], lambda: witness.get_node_names() == ["witness"])
    assert spin([witness], lambda: witness.count_publishers("/robot/about") == 0)
    assert process.communicate(timeout=PATIENCE_S)[0] == "ready\nended\n"


def test_a_process_that_is_killed_vanishes_with_its_lease(make_node, start_peer, spin):
    process = start_peer(CYCLONEDDS_URI=lease("3s"))
    witness = make_node("witness")
    assert spin([witness], lambda: witness.count_publishers("/robot/about") == 1)
    assert witness.wait_for_node("/robot/peer", PATIENCE_S)
    process.kill()
    assert spin([witness], lambda: witness.get_node_names() == ["witness"])
    assert spin([witness], lambda: witness.count_publishers("/robot/about") == witness.count_subscribers("/robot/image") == 0)


def test_other_domains_and_processes_that_do_not_discover_stay_hidden(make_node, start_peer, own_domain):
    hidden = [
        start_peer("elsewhere", ROS_DOMAIN_ID=str(own_domain + 1)),
        start_peer("recluse", ROS_AUTOMATIC_DISCOVERY_RANGE="OFF"),
    ]
    assert [process.stdout.readline() for process in hidden] == ["ready\n"] * 2
    start_peer("neighbour", ROS_LOCALHOST_ONLY="1", ROS_AUTOMATIC_DISCOVERY_RANGE="OFF")
    witness = make_node("witness")
    assert witness.wait_for_node("/robot/neighbour", PATIENCE_S)
    assert set(witness.get_node_names()) == {"witness", "neighbour"}


def test_a_domain_that_is_no_number_is_named(monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", "seven")
    with pytest.raises(RCLError, match="Got ROS_DOMAIN_ID='seven', expected a number"):
        Context().init([])


@pytest.mark.parametrize(
    ("environment", "multicast", "found", "absent"),
    [
        ({}, True, "<ParticipantIndex>auto</ParticipantIndex>", "<Peers>"),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}, False, '<Peers><Peer address="localhost"/></Peers>', "<Tag>"),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF"}, False, "<Tag>ros_discovery_off_", "<Peers>"),
        ({"ROS_LOCALHOST_ONLY": "1", "ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF"}, False, '<Peer address="localhost"/>', "<Tag>"),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "SYSTEM_DEFAULT"}, True, "<Discovery></Discovery>", "ParticipantIndex"),
        ({"ROS_STATIC_PEERS": "10.0.0.2;arm"}, True, '<Peers><Peer address="10.0.0.2"/><Peer address="arm"/></Peers>', "localhost"),
        ({"CYCLONEDDS_URI": "file:///cyclone.xml"}, True, "</CycloneDDS>,file:///cyclone.xml", "<Peers>"),
    ],
)
def test_the_environment_configures_discovery(monkeypatch, environment, multicast, found, absent):
    monkeypatch.delenv("ROS_AUTOMATIC_DISCOVERY_RANGE")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    text = domain_configuration()
    assert ("<AllowMulticast>false</AllowMulticast>" not in text) == multicast
    assert found in text
    assert absent not in text


def test_a_discovery_range_that_ros_does_not_know_is_refused(monkeypatch):
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "galaxy")
    with pytest.raises(RCLError, match="Got ROS_AUTOMATIC_DISCOVERY_RANGE=GALAXY, expected SUBNET"):
        domain_configuration()


def test_nodes_announce_their_endpoints_until_they_are_destroyed(make_node, context, announced, spin):
    node = make_node("talker", namespace="/arm")
    publisher, subscription = node.create_publisher(String, "text", 1), node.create_subscription(String, "text", print, 1)
    service, client = node.create_service(SetBool, "lamp", print), node.create_client(SetBool, "lamp")
    assert spin([node], lambda: announced()[context.participant.gid] == {("/arm", "talker"): endpoints(node)})
    readers, writers = endpoints(node)
    assert {subscription.gid, service.gid, client.gid} < readers
    assert {publisher.gid, service.writer_gid, client.writer_gid} < writers
    node.destroy_publisher(publisher)
    node.destroy_subscription(subscription)
    node.destroy_service(service)
    node.destroy_client(client)
    left = endpoints(node)
    assert left == (readers - {subscription.gid, service.gid, client.gid}, writers - {publisher.gid, service.writer_gid, client.writer_gid})
    assert spin([node], lambda: announced()[context.participant.gid] == {("/arm", "talker"): left})
    other = make_node("other", enable_rosout=False)
    node.destroy_node()
    expected = {("/", "other"): endpoints(other)}
    assert spin([other], lambda: announced()[context.participant.gid] == expected)


def test_the_topic_of_the_announcements_is_as_ros_has_it(make_node, spin):
    node = make_node()
    assert spin([node], lambda: node.get_publishers_info_by_topic("ros_discovery_info", no_mangle=True))
    (info,) = node.get_publishers_info_by_topic("ros_discovery_info", no_mangle=True)
    assert info.topic_type == "rmw_dds_common::msg::dds_::ParticipantEntitiesInfo_"
    assert str(info.topic_type_hash) == library().type_hash(INFO)
    profile = info.qos_profile
    expected = (ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL, 1)
    assert (profile.reliability, profile.durability, profile.depth) == expected
    assert "ros_discovery_info" not in dict(node.get_topic_names_and_types())


def test_endpoints_that_no_node_announced_are_listed_without_a_name(make_node, spin, own_domain):
    node = make_node()
    stranger = Participant(own_domain, "/")
    writer = stranger.create_writer("rt/text", "std_msgs/msg/String", LATCHED)
    assert spin([node], lambda: node.count_publishers("text") == 1)
    (info,) = node.get_publishers_info_by_topic("text")
    assert bytes(info.endpoint_gid) == writer.guid.bytes
    assert (info.node_name, info.node_namespace) == ("_NODE_NAME_UNKNOWN_", "_NODE_NAMESPACE_UNKNOWN_")
    assert node.get_node_names() == ["node"]
    stranger.close()
    assert spin([node], lambda: node.count_publishers("text") == 0)


READ_WHILE_SIGNALS_COME = f"""
import os, signal, threading
{DOOR}
from std_msgs.msg import String
from longscape_ros.embedded.context import Context
from longscape_ros.embedded.node import Node
context = Context()
context.init([])
node = Node("node", context=context)
publishers = [node.create_publisher(String, f"topic_{{number}}", 1) for number in range(20)]
interrupts = 0
while interrupts < 5:
    try:
        threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT)).start()
        while True:
            node.get_topic_names_and_types()
    except KeyboardInterrupt:
        interrupts += 1
print("alive")
"""


def test_a_signal_that_strikes_while_the_graph_is_read_is_a_keyboard_interrupt(survive):
    survive(READ_WHILE_SIGNALS_COME)
