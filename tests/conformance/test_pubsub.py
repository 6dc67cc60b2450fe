# SPDX-License-Identifier: Apache-2.0
"""Publishers and subscriptions: who hears whom, what callbacks get, who is counted."""

from __future__ import annotations

import time

import numpy as np
import pytest
from rclpy.duration import Duration
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.exceptions import InvalidHandle
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message, serialize_message
from rclpy.wait_for_message import wait_for_message
from sensor_msgs.msg import Image
from std_msgs.msg import Float64, String

RELIABLE = QoSProfile(depth=5)
BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=2, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def listen(node, qos, topic="numbers"):
    """The numbers that a new subscription hears."""
    heard = []
    node.create_subscription(Float64, topic, lambda message: heard.append(message.data), qos)
    return heard


def publish(publisher, *numbers):
    for number in numbers:
        publisher.publish(Float64(data=number))


@pytest.mark.parametrize(("offered", "requested"), [(RELIABLE, RELIABLE), (RELIABLE, BEST_EFFORT), (BEST_EFFORT, BEST_EFFORT)])
def test_messages_arrive_in_order(ros, offered, requested):
    talker, listener = ros.node("talker"), ros.node("listener")
    publisher, heard = talker.create_publisher(Float64, "numbers", offered), listen(listener, requested)
    assert ros.until(lambda: publisher.get_subscription_count() == 1)
    publish(publisher, 0.0, 1.0, 2.0)
    assert ros.until(lambda: len(heard) == 3)
    assert (heard, publisher.get_subscription_count(), listener.count_publishers("numbers")) == ([0.0, 1.0, 2.0], 1, 1)


def test_a_best_effort_publisher_never_reaches_a_reliable_subscription(ros):
    node = ros.node()
    publisher = node.create_publisher(Float64, "numbers", BEST_EFFORT)
    strict, content = listen(node, RELIABLE), listen(node, BEST_EFFORT)
    assert ros.until(lambda: publisher.get_subscription_count())
    publish(publisher, 0.0, 1.0, 2.0)
    assert ros.until(lambda: len(content) == 3)
    assert (strict, publisher.get_subscription_count()) == ([], 1)


def test_a_late_joiner_gets_the_newest_messages_of_a_transient_local_publisher(ros):
    node = ros.node()
    publisher = node.create_publisher(Float64, "numbers", LATCHED)
    publish(publisher, 0.0, 1.0, 2.0)
    latched, volatile = listen(node, LATCHED), listen(node, RELIABLE)
    assert ros.until(lambda: len(latched) == 2 and publisher.get_subscription_count() == 2)
    publish(publisher, 3.0)
    assert ros.until(lambda: len(latched) == 3 and volatile)
    assert (latched, volatile) == ([1.0, 2.0, 3.0], [3.0])


def test_a_late_joiner_gets_nothing_old_of_a_volatile_publisher(ros):
    node = ros.node()
    publisher = node.create_publisher(Float64, "numbers", RELIABLE)
    publish(publisher, 0.0, 1.0, 2.0)
    volatile, latched = listen(node, RELIABLE), listen(node, LATCHED)
    assert ros.until(lambda: publisher.get_subscription_count())
    publish(publisher, 3.0)
    assert ros.until(lambda: volatile)
    assert (volatile, latched) == ([3.0], [])


def test_a_slow_subscription_keeps_the_newest_messages(ros):
    node = ros.node()
    publisher = node.create_publisher(Float64, "numbers", QoSProfile(history=HistoryPolicy.KEEP_ALL))
    few, all_of_them = listen(node, QoSProfile(depth=2)), listen(node, QoSProfile(history=HistoryPolicy.KEEP_ALL))
    assert ros.until(lambda: publisher.get_subscription_count() == 2)
    publish(publisher, *map(float, range(10)))
    assert ros.until(lambda: len(all_of_them) == 10)
    assert (few, all_of_them) == ([8.0, 9.0], [float(number) for number in range(10)])


def test_an_image_arrives_unchanged(ros):
    node = ros.node()
    pixels = np.random.default_rng(1).integers(0, 256, (480, 640, 3), np.uint8)
    image = Image(height=480, width=640, encoding="rgb8", step=1920, data=pixels.ravel())
    image.header.frame_id, image.header.stamp.sec = "camera", 7
    received = []
    node.create_subscription(Image, "image", received.append, BEST_EFFORT)
    publisher = node.create_publisher(Image, "image", RELIABLE)
    assert ros.until(lambda: publisher.get_subscription_count() == 1)
    publisher.publish(image)
    assert ros.until(lambda: received)
    assert received == [image]
    assert bytes(received[0].data) == pixels.tobytes()


def test_raw_subscriptions_get_the_bytes_and_publishers_take_them(ros):
    node = ros.node()
    raw, decoded = [], []
    node.create_subscription(String, "text", raw.append, 10, raw=True)
    node.create_subscription(String, "text", decoded.append, 10)
    publisher = node.create_publisher(String, "text", 10)
    assert ros.until(lambda: publisher.get_subscription_count() == 2)
    data = serialize_message(String(data="hello"))
    publisher.publish(data)
    assert ros.until(lambda: raw and decoded)
    assert raw[0].startswith(data)  # DDS may fill up to a multiple of four
    assert [deserialize_message(raw[0], String), *decoded] == [String(data="hello")] * 2


def test_a_callback_with_two_arguments_gets_the_info_too(ros):
    node = ros.node()
    infos = []
    node.create_subscription(String, "text", lambda message, info: infos.append(info), 1)
    publisher = node.create_publisher(String, "text", 1)
    assert ros.until(lambda: publisher.get_subscription_count() == 1)
    before = time.time_ns()
    publisher.publish(String(data="x"))
    assert ros.until(lambda: infos)
    expected = {"source_timestamp", "received_timestamp", "publication_sequence_number", "reception_sequence_number"}
    assert infos[0].keys() == expected
    assert before <= infos[0]["source_timestamp"] <= infos[0]["received_timestamp"] <= time.time_ns()


@pytest.mark.parametrize("callback", [lambda: None, lambda a, b, c: None])
def test_a_callback_that_takes_something_else_is_refused(ros, callback):
    with pytest.raises(RuntimeError, match="callable with one argument"):
        ros.node().create_subscription(String, "text", callback, 1)


def test_an_exception_in_a_callback_comes_out_of_spinning_and_the_next_message_is_heard(ros):
    node = ros.node()
    seen = []

    def stumble(message):
        seen.append(message.data)
        if message.data == "stone":
            raise KeyError("stumbled")

    node.create_subscription(String, "text", stumble, 10)
    publisher = node.create_publisher(String, "text", 10)
    assert ros.until(lambda: publisher.get_subscription_count() == 1)
    publisher.publish(String(data="stone"))
    publisher.publish(String(data="grass"))
    with pytest.raises(KeyError, match="stumbled"):
        ros.until(lambda: False)
    assert ros.until(lambda: seen == ["stone", "grass"])


def test_a_message_of_another_type_is_refused(ros):
    publisher = ros.node().create_publisher(String, "text", 1)
    with pytest.raises(TypeError, match=r"Expected .*String.*, got .*Float64"):
        publisher.publish(Float64())


def test_what_is_no_message_class_or_no_qos_is_refused(ros):
    node = ros.node()
    with pytest.raises(AttributeError):
        node.create_publisher(str, "text", 1)
    with pytest.raises(TypeError):
        node.create_publisher(String, "text", "reliable")
    with pytest.raises(ValueError):
        node.create_subscription(String, "text", print, -1)


def test_only_matching_endpoints_are_counted(ros):
    node = ros.node()
    publisher = node.create_publisher(String, "text", BEST_EFFORT)
    content = node.create_subscription(String, "text", print, BEST_EFFORT)
    strict = node.create_subscription(String, "text", print, RELIABLE)
    node.create_subscription(String, "elsewhere", print, BEST_EFFORT)
    assert ros.until(lambda: publisher.get_subscription_count() == 1)
    assert ros.until(lambda: node.count_subscribers("text") == 2)
    assert (content.get_publisher_count(), strict.get_publisher_count(), node.count_publishers("text")) == (1, 0, 1)


def test_a_destroyed_endpoint_is_no_longer_counted(ros):
    node = ros.node()
    publisher, subscription = node.create_publisher(String, "text", 1), node.create_subscription(String, "text", print, 1)
    assert ros.until(lambda: publisher.get_subscription_count() == subscription.get_publisher_count() == 1)
    assert node.destroy_publisher(publisher)
    assert ros.until(lambda: subscription.get_publisher_count() == node.count_publishers("text") == 0)
    with pytest.raises(InvalidHandle, match="destruction was requested"):
        publisher.publish(String())
    assert node.destroy_subscription(subscription)
    assert ros.until(lambda: node.count_subscribers("text") == 0)
    assert not node.destroy_publisher(publisher)
    assert not node.destroy_subscription(subscription)


def test_a_destroyed_node_takes_its_endpoints_along_and_creates_no_more(ros):
    node, witness = ros.node("leaving"), ros.node("witness")
    node.create_publisher(String, "text", 1)
    assert ros.until(lambda: witness.count_publishers("text") == 1)
    node.destroy_node()
    assert ros.until(lambda: witness.count_publishers("text") == 0)
    with pytest.raises(InvalidHandle, match="destruction was requested"):
        node.create_publisher(String, "text", 1)


def test_nothing_is_published_after_shutdown(ros):
    publisher = ros.node().create_publisher(String, "text", 1)
    ros.context.shutdown()
    with pytest.raises(RuntimeError, match="publisher's context is invalid"):
        publisher.publish(String())


def test_a_publisher_waits_until_its_messages_are_acknowledged(ros):
    node = ros.node()
    publisher, heard = node.create_publisher(Float64, "numbers", RELIABLE), listen(node, RELIABLE)
    assert ros.until(lambda: publisher.get_subscription_count() == 1)
    publish(publisher, 1.0)
    assert publisher.wait_for_all_acked(Duration(seconds=30))
    assert ros.until(lambda: heard)


def test_one_message_can_be_waited_for(ros):
    node = ros.node()
    node.create_publisher(Float64, "numbers", LATCHED).publish(Float64(data=5.0))
    assert wait_for_message(Float64, node, "numbers", qos_profile=LATCHED, time_to_wait=30) == (True, Float64(data=5.0))
    assert wait_for_message(Float64, node, "silence", time_to_wait=0.01) == (False, None)


def test_incompatible_endpoints_are_told_of_each_other(ros):
    node = ros.node()
    events = []
    node.create_publisher(String, "text", BEST_EFFORT, event_callbacks=PublisherEventCallbacks(incompatible_qos=events.append))
    node.create_subscription(String, "text", print, RELIABLE, event_callbacks=SubscriptionEventCallbacks(incompatible_qos=events.append))
    assert ros.until(lambda: len(events) == 2)
    assert [(event.total_count, event.last_policy_kind) for event in events] == [(1, QoSPolicyKind.RELIABILITY)] * 2


def test_an_incompatible_endpoint_is_warned_of_unless_told_otherwise(ros, capfd):
    node = ros.node()
    node.create_subscription(String, "text", print, RELIABLE)
    quiet = SubscriptionEventCallbacks(use_default_callbacks=False, matched=lambda event: None)
    node.create_subscription(String, "text", print, RELIABLE, event_callbacks=quiet)
    node.create_publisher(String, "text", BEST_EFFORT)
    lines = []
    assert ros.until(lambda: lines.extend(capfd.readouterr().err.splitlines()) or len(lines) >= 2)
    assert all("offering" in line or "requesting" in line for line in lines)
    assert all(line.endswith("Last incompatible policy: RELIABILITY") for line in lines)


def test_endpoints_are_told_when_they_match_and_part(ros):
    node = ros.node()
    counts = []
    publisher = node.create_publisher(
        String, "text", 1, event_callbacks=PublisherEventCallbacks(matched=lambda event: counts.append(event.current_count))
    )
    subscription = node.create_subscription(String, "text", print, 1)
    assert ros.until(lambda: counts == [1])
    node.destroy_subscription(subscription)
    assert ros.until(lambda: counts == [1, 0])
    assert publisher.get_subscription_count() == 0


def test_a_missed_deadline_is_reported_on_both_sides(ros):
    node = ros.node()
    missed = set()
    profile = QoSProfile(depth=1, deadline=Duration(seconds=0.05))
    publisher = node.create_publisher(
        String, "text", profile, event_callbacks=PublisherEventCallbacks(deadline=lambda event: missed.add("offered"))
    )
    node.create_subscription(
        String, "text", print, profile, event_callbacks=SubscriptionEventCallbacks(deadline=lambda event: missed.add("requested"))
    )
    assert ros.until(lambda: publisher.get_subscription_count() == 1)
    publisher.publish(String())
    assert ros.until(lambda: missed == {"offered", "requested"})
