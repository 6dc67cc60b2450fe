# SPDX-License-Identifier: Apache-2.0
"""QoS profiles: what they hold, when two match, and how parameters override them."""

from __future__ import annotations

import pytest
from rcl_interfaces.msg import SetParametersResult
from rclpy.duration import Duration
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    InvalidQoSProfileException,
    LivelinessPolicy,
    QoSCompatibility,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
    qos_profile_sensor_data,
)
from rclpy.qos_overriding_options import InvalidQosOverridesError, QoSOverridingOptions
from std_msgs.msg import String

OK, WARNING, ERROR = QoSCompatibility.OK, QoSCompatibility.WARNING, QoSCompatibility.ERROR


def profile(**policies):
    """A profile that says of every policy what it wants."""
    return QoSProfile(**{"depth": 1, "liveliness": LivelinessPolicy.AUTOMATIC, **policies})


RELIABLE, BEST_EFFORT = profile(), profile(reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = profile(durability=DurabilityPolicy.TRANSIENT_LOCAL)
MANUAL = profile(liveliness=LivelinessPolicy.MANUAL_BY_TOPIC)
OPEN_RELIABILITY, OPEN_DURABILITY = (
    profile(reliability=ReliabilityPolicy.SYSTEM_DEFAULT),
    profile(durability=DurabilityPolicy.SYSTEM_DEFAULT),
)


def test_a_profile_is_reliable_and_volatile_unless_it_says_otherwise():
    found = QoSProfile(depth=3)
    assert (found.history, found.depth) == (HistoryPolicy.KEEP_LAST, 3)
    assert (found.reliability, found.durability) == (ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE)
    assert (qos_profile_sensor_data.depth, qos_profile_sensor_data.reliability) == (5, ReliabilityPolicy.BEST_EFFORT)


def test_keeping_the_last_needs_to_know_how_many():
    with pytest.raises(InvalidQoSProfileException, match="KEEP_LAST without a depth"):
        QoSProfile(history=HistoryPolicy.KEEP_LAST)
    assert QoSProfile(history=HistoryPolicy.KEEP_ALL).history is HistoryPolicy.KEEP_ALL


def test_a_policy_takes_only_its_own_values():
    with pytest.raises(AssertionError):
        QoSProfile(depth="5")
    with pytest.raises(ValueError):
        QoSProfile(depth=5, reliability=17)


def test_profiles_are_equal_if_they_say_the_same():
    assert profile() == profile()
    assert RELIABLE != BEST_EFFORT


@pytest.mark.parametrize(
    ("offered", "requested", "expected"),
    [
        (RELIABLE, RELIABLE, OK),
        (RELIABLE, BEST_EFFORT, OK),
        (BEST_EFFORT, BEST_EFFORT, OK),
        (BEST_EFFORT, RELIABLE, ERROR),
        (LATCHED, RELIABLE, OK),
        (LATCHED, LATCHED, OK),
        (RELIABLE, LATCHED, ERROR),
        (MANUAL, RELIABLE, OK),
        (RELIABLE, MANUAL, ERROR),
        (RELIABLE, profile(deadline=Duration(seconds=1)), ERROR),
        (profile(deadline=Duration(seconds=1)), RELIABLE, OK),
        (profile(deadline=Duration(seconds=2)), profile(deadline=Duration(seconds=1)), ERROR),
        (profile(deadline=Duration(seconds=1)), profile(deadline=Duration(seconds=2)), OK),
        (RELIABLE, profile(liveliness_lease_duration=Duration(seconds=1)), ERROR),
        (OPEN_RELIABILITY, RELIABLE, WARNING),
        (OPEN_RELIABILITY, OPEN_RELIABILITY, WARNING),
        (OPEN_RELIABILITY, BEST_EFFORT, OK),
        (RELIABLE, OPEN_RELIABILITY, OK),
        (BEST_EFFORT, OPEN_RELIABILITY, WARNING),
        (OPEN_DURABILITY, LATCHED, WARNING),
        (OPEN_DURABILITY, RELIABLE, OK),
        (RELIABLE, OPEN_DURABILITY, WARNING),
        (QoSProfile(depth=1), QoSProfile(depth=1), WARNING),  # liveliness is the system's where it is not said
        (QoSProfile(depth=1), RELIABLE, OK),
        (profile(reliability=ReliabilityPolicy.BEST_AVAILABLE), RELIABLE, OK),
    ],
)
def test_compatibility_is_told_with_a_reason(offered, requested, expected):
    compatibility, reason = qos_check_compatible(offered, requested)
    assert compatibility == expected
    assert reason.startswith("" if expected == OK else expected.name)
    assert bool(reason) == (expected != OK)


def test_policies_can_be_overridden_by_parameters(ros):
    node = ros.node("n", "-p qos_overrides./image.subscription.depth:=9 -p qos_overrides./image.subscription.reliability:=best_effort")
    options = QoSOverridingOptions.with_default_policies()
    subscription = node.create_subscription(String, "image", print, 1, qos_overriding_options=options)
    assert (subscription.qos_profile.depth, subscription.qos_profile.reliability) == (9, ReliabilityPolicy.BEST_EFFORT)
    assert node.get_parameter("qos_overrides./image.subscription.history").value == "keep_last"
    assert node.describe_parameter("qos_overrides./image.subscription.depth").read_only


def test_policies_can_be_overridden_in_a_file(ros, tmp_path):
    file = tmp_path / "qos.yaml"
    file.write_text("n: {ros__parameters: {qos_overrides: {/image: {publisher: {reliability: best_effort, depth: 3}}}}}\n")
    options = QoSOverridingOptions.with_default_policies()
    publisher = ros.node("n", f"--params-file {file}").create_publisher(String, "image", 1, qos_overriding_options=options)
    assert (publisher.qos_profile.depth, publisher.qos_profile.reliability) == (3, ReliabilityPolicy.BEST_EFFORT)


def test_endpoints_of_one_topic_are_overridden_apart_by_their_ids(ros):
    node = ros.node("n", "-p qos_overrides./a.publisher_second.depth:=4")
    first, second = (QoSOverridingOptions([QoSPolicyKind.DEPTH], entity_id=name) for name in (None, "second"))
    depths = [node.create_publisher(String, "a", 1, qos_overriding_options=options).qos_profile.depth for options in (first, second)]
    assert depths == [1, 4]


def test_endpoints_of_one_topic_without_ids_are_overridden_alike(ros):
    node, options = ros.node(), QoSOverridingOptions([QoSPolicyKind.DEPTH])
    assert [node.create_publisher(String, "a", depth, qos_overriding_options=options).qos_profile.depth for depth in (3, 5)] == [3, 3]


def test_an_override_that_makes_no_sense_is_refused(ros):
    node = ros.node("n", "-p qos_overrides./a.publisher.reliability:=sometimes")
    with pytest.raises(RuntimeError, match="sometimes"):
        node.create_publisher(String, "a", 1, qos_overriding_options=QoSOverridingOptions([QoSPolicyKind.RELIABILITY]))


def test_an_override_can_be_refused_by_a_callback(ros):
    node = ros.node("n", "-p qos_overrides./a.publisher.depth:=7")
    options = QoSOverridingOptions(
        [QoSPolicyKind.DEPTH], callback=lambda found: SetParametersResult(successful=found.depth < 5, reason="too deep")
    )
    assert node.create_publisher(String, "b", 1, qos_overriding_options=options).qos_profile.depth == 1
    with pytest.raises(InvalidQosOverridesError, match="too deep"):
        node.create_publisher(String, "a", 1, qos_overriding_options=options)
