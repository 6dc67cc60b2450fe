# SPDX-License-Identifier: Apache-2.0
"""Publishers and subscriptions: who hears whom, what callbacks get, who is counted."""

from __future__ import annotations

import time

import numpy as np
import pytest

from longscape_ros.embedded.api import wait_for_message
from longscape_ros.embedded.events import PublisherEventCallbacks, SubscriptionEventCallbacks
from longscape_ros.embedded.exceptions import InvalidHandle, NoTypeSupportImportedException, RCLError
from longscape_ros.embedded.messages import message_class, serialize_message
from longscape_ros.embedded.qos import DurabilityPolicy, HistoryPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from longscape_ros.embedded.time import Duration

Float64, String, Image = (message_class(name) for name in ("std_msgs/msg/Float64", "std_msgs/msg/String", "sensor_msgs/msg/Image"))
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
def test_messages_arrive_in_order(make_node, spin, offered, requested):
    talker, listener = make_node("talker"), make_node("listener")
    publisher, heard = talker.create_publisher(Float64, "numbers", offered), listen(listener, requested)
    assert spin([talker, listener], lambda: publisher.get_subscription_count() == 1)
    publish(publisher, 0.0, 1.0, 2.0)
    assert spin([talker, listener], lambda: len(heard) == 3)
    assert (heard, publisher.get_subscription_count(), listener.count_publishers("numbers")) == ([0.0, 1.0, 2.0], 1, 1)


def test_a_best_effort_publisher_never_reaches_a_reliable_subscription(make_node, spin):
    node = make_node()
    publisher = node.create_publisher(Float64, "numbers", BEST_EFFORT)
    strict, content = listen(node, RELIABLE), listen(node, BEST_EFFORT)
    assert spin([node], lambda: publisher.get_subscription_count())
    publish(publisher, 0.0, 1.0, 2.0)
    assert spin([node], lambda: len(content) == 3)
    assert (strict, publisher.get_subscription_count()) == ([], 1)


def test_a_late_joiner_gets_the_newest_messages_of_a_transient_local_publisher(make_node, spin):
    node = make_node()
    publisher = node.create_publisher(Float64, "numbers", LATCHED)
    publish(publisher, 0.0, 1.0, 2.0)
    latched, volatile = listen(node, LATCHED), listen(node, RELIABLE)
    assert spin([node], lambda: len(latched) == 2 and publisher.get_subscription_count() == 2)
    publish(publisher, 3.0)
    assert spin([node], lambda: len(latched) == 3 and volatile)
    assert (latched, volatile) == ([1.0, 2.0, 3.0], [3.0])


def test_a_late_joiner_gets_nothing_old_of_a_volatile_publisher(make_node, spin):
    node = make_node()
    publisher = node.create_publisher(Float64, "numbers", RELIABLE)
    publish(publisher, 0.0, 1.0, 2.0)
    volatile, latched = listen(node, RELIABLE), listen(node, LATCHED)
    assert spin([node], lambda: publisher.get_subscription_count())
    publish(publisher, 3.0)
    assert spin([node], lambda: volatile)
    assert (volatile, latched) == ([3.0], [])


def test_a_slow_subscription_keeps_the_newest_messages(make_node, spin):
    node = make_node()
    publisher = node.create_publisher(Float64, "numbers", QoSProfile(history=HistoryPolicy.KEEP_ALL))
    few, all_of_them = listen(node, QoSProfile(depth=2)), listen(node, QoSProfile(history=HistoryPolicy.KEEP_ALL))
    assert spin([node], lambda: publisher.get_subscription_count() == 2)
    publish(publisher, *map(float, range(10)))
    assert spin([node], lambda: len(all_of_them) == 10)
    assert (few, all_of_them) == ([8.0, 9.0], [float(number) for number in range(10)])


def test_an_image_arrives_unchanged(make_node, spin):
    node = make_node()
    pixels = np.random.default_rng(1).integers(0, 256, (480, 640, 3), np.uint8)
    image = Image(height=480, width=640, encoding="rgb8", step=1920, data=pixels.ravel())
    image.header.frame_id, image.header.stamp.sec = "camera", 7
    received = []
    node.create_subscription(Image, "image", received.append, BEST_EFFORT)
    publisher = node.create_publisher(Image, "image", RELIABLE)
    assert spin([node], lambda: publisher.get_subscription_count() == 1)
    publisher.publish(image)
    assert spin([node], lambda: received)
    assert received == [image]
    assert bytes(received[0].data) == pixels.tobytes()


def test_raw_subscriptions_get_the_bytes_and_publishers_take_them(make_node, spin):
    node = make_node()
    raw, decoded = [], []
    node.create_subscription(String, "text", raw.append, 10, raw=True)
    node.create_subscription(String, "text", decoded.append, 10)
    publisher = node.create_publisher(String, "text", 10)
    assert spin([node], lambda: publisher.get_subscription_count() == 2)
    data = serialize_message(String(data="hello"))
    publisher.publish(data)
    assert spin([node], lambda: raw and decoded)
    assert (raw, decoded) == ([data + bytes(-len(data) % 4)], [String(data="hello")])  # DDS fills up to a multiple of four


def test_a_callback_with_two_arguments_gets_the_info_too(make_node, spin):
    node = make_node()
    infos = []
    node.create_subscription(String, "text", lambda message, info: infos.append(info), 1)
    publisher = node.create_publisher(String, "text", 1)
    assert spin([node], lambda: publisher.get_subscription_count() == 1)
    before = time.time_ns()
    publisher.publish(String(data="x"))
    assert spin([node], lambda: infos)
    expected = {"source_timestamp", "received_timestamp", "publication_sequence_number", "reception_sequence_number"}
    assert infos[0].keys() == expected
    assert before <= infos[0]["source_timestamp"] <= infos[0]["received_timestamp"] <= time.time_ns()


@pytest.mark.parametrize("callback", [lambda: None, lambda a, b, c: None])
def test_a_callback_that_takes_something_else_is_refused(make_node, callback):
    with pytest.raises(RuntimeError, match="callable with one argument, or two"):
        make_node().create_subscription(String, "text", callback, 1)


def test_an_exception_in_a_callback_comes_out_of_spinning_and_the_next_message_is_heard(make_node, spin):
    node = make_node()
    seen = []

    def stumble(message):
        seen.append(message.data)
        if message.data == "stone":
            raise KeyError("stumbled")

    node.create_subscription(String, "text", stumble, 10)
    publisher = node.create_publisher(String, "text", 10)
    assert spin([node], lambda: publisher.get_subscription_count() == 1)
    publisher.publish(String(data="stone"))
    publisher.publish(String(data="grass"))
    with pytest.raises(KeyError, match="stumbled"):
        spin([node], lambda: False)
    assert spin([node], lambda: seen == ["stone", "grass"])


def test_a_message_of_another_type_is_refused(make_node):
    publisher = make_node().create_publisher(String, "text", 1)
    with pytest.raises(TypeError, match=r"Expected .*String.*, got .*Float64"):
        publisher.publish(Float64())


def test_what_is_no_message_class_or_no_qos_is_refused(make_node):
    node = make_node()
    with pytest.raises(NoTypeSupportImportedException, match="no type_support imported"):
        node.create_publisher(str, "text", 1)
    with pytest.raises(TypeError, match="Expected QoSProfile or int"):
        node.create_publisher(String, "text", "reliable")
    with pytest.raises(ValueError, match="Got the depth -1"):
        node.create_subscription(String, "text", print, -1)


def test_only_matching_endpoints_are_counted(make_node, spin):
    node = make_node()
    publisher = node.create_publisher(String, "text", BEST_EFFORT)
    content = node.create_subscription(String, "text", print, BEST_EFFORT)
    strict = node.create_subscription(String, "text", print, RELIABLE)
    node.create_subscription(String, "elsewhere", print, BEST_EFFORT)
    assert spin([node], lambda: publisher.get_subscription_count() == 1)
    assert spin([node], lambda: node.count_subscribers("text") == 2)
    assert (content.get_publisher_count(), strict.get_publisher_count(), node.count_publishers("text")) == (1, 0, 1)


def test_a_destroyed_endpoint_is_no_longer_counted(make_node, spin):
    node = make_node()
    publisher, subscription = node.create_publisher(String, "text", 1), node.create_subscription(String, "text", print, 1)
    assert spin([node], lambda: publisher.get_subscription_count() == subscription.get_publisher_count() == 1)
    assert node.destroy_publisher(publisher)
    assert spin([node], lambda: subscription.get_publisher_count() == node.count_publishers("text") == 0)
    with pytest.raises(InvalidHandle, match="destruction was requested"):
        publisher.publish(String())
    assert node.destroy_subscription(subscription)
    assert spin([node], lambda: node.count_subscribers("text") == 0)
    assert not node.destroy_publisher(publisher)
    assert not node.destroy_subscription(subscription)


def test_a_destroyed_node_takes_its_endpoints_along_and_creates_no_more(make_node, spin):
    node, witness = make_node("leaving"), make_node("witness")
    node.create_publisher(String, "text", 1)
    assert spin([witness], lambda: witness.count_publishers("text") == 1)
    node.destroy_node()
    assert spin([witness], lambda: witness.count_publishers("text") == 0)
    with pytest.raises(InvalidHandle, match="destruction was requested"):
        node.create_publisher(String, "text", 1)


def test_nothing_is_published_after_shutdown(make_node, context):
    publisher = make_node().create_publisher(String, "text", 1)
    context.shutdown()
    with pytest.raises(RCLError, match="publisher's context is invalid"):
        publisher.publish(String())


def test_a_publisher_waits_until_its_messages_are_acknowledged(make_node, spin):
    node = make_node()
    publisher, heard = node.create_publisher(Float64, "numbers", RELIABLE), listen(node, RELIABLE)
    assert spin([node], lambda: publisher.get_subscription_count() == 1)
    publish(publisher, 1.0)
    assert publisher.wait_for_all_acked(Duration(seconds=30))
    assert spin([node], lambda: heard)


def test_one_message_can_be_waited_for(make_node):
    node = make_node()
    node.create_publisher(Float64, "numbers", LATCHED).publish(Float64(data=5.0))
    assert wait_for_message(Float64, node, "numbers", qos_profile=LATCHED, time_to_wait=30) == (True, Float64(data=5.0))
    assert wait_for_message(Float64, node, "silence", time_to_wait=0.01) == (False, None)


def test_incompatible_endpoints_are_told_of_each_other(make_node, spin):
    node = make_node()
    events = []
    node.create_publisher(String, "text", BEST_EFFORT, event_callbacks=PublisherEventCallbacks(incompatible_qos=events.append))
    node.create_subscription(String, "text", print, RELIABLE, event_callbacks=SubscriptionEventCallbacks(incompatible_qos=events.append))
    assert spin([node], lambda: len(events) == 2)
    assert [(event.total_count, event.last_policy_kind) for event in events] == [(1, QoSPolicyKind.RELIABILITY)] * 2


def test_an_incompatible_endpoint_is_warned_of_unless_told_otherwise(make_node, spin, capsys):
    node = make_node()
    node.create_subscription(String, "text", print, RELIABLE)
    quiet = SubscriptionEventCallbacks(use_default_callbacks=False, matched=lambda event: None)
    node.create_subscription(String, "text", print, RELIABLE, event_callbacks=quiet)
    node.create_publisher(String, "text", BEST_EFFORT)
    lines = []
    assert spin([node], lambda: lines.extend(capsys.readouterr().err.splitlines()) or len(lines) >= 2)
    assert all("offering" in line or "requesting" in line for line in lines)
    assert all(line.endswith("Last incompatible policy: RELIABILITY") for line in lines)


def test_endpoints_are_told_when_they_match_and_part(make_node, spin):
    node = make_node()
    counts = []
    publisher = node.create_publisher(
        String, "text", 1, event_callbacks=PublisherEventCallbacks(matched=lambda event: counts.append(event.current_count))
    )
    subscription = node.create_subscription(String, "text", print, 1)
    assert spin([node], lambda: counts == [1])
    node.destroy_subscription(subscription)
    assert spin([node], lambda: counts == [1, 0])
    assert publisher.get_subscription_count() == 0


def test_a_missed_deadline_is_reported_on_both_sides(make_node, spin):
    node = make_node()
    missed = set()
    profile = QoSProfile(depth=1, deadline=Duration(seconds=0.05))
    publisher = node.create_publisher(
        String, "text", profile, event_callbacks=PublisherEventCallbacks(deadline=lambda event: missed.add("offered"))
    )
    node.create_subscription(
        String, "text", print, profile, event_callbacks=SubscriptionEventCallbacks(deadline=lambda event: missed.add("requested"))
    )
    assert spin([node], lambda: publisher.get_subscription_count() == 1)
    publisher.publish(String())
    assert spin([node], lambda: missed == {"offered", "requested"})
