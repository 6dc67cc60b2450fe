# SPDX-License-Identifier: Apache-2.0
"""QoS profiles: what they hold, when two match, and how parameters override them."""

from __future__ import annotations

import pytest

from longscape_ros.embedded.dds import endpoint_qos, profile_of
from longscape_ros.embedded.messages import message_class
from longscape_ros.embedded.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    InvalidQoSProfileException,
    QoSCompatibility,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
    qos_profile_sensor_data,
)
from longscape_ros.embedded.qos_overriding import InvalidQosOverridesError, QoSOverridingOptions
from longscape_ros.embedded.time import Duration

String = message_class("std_msgs/msg/String")
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def test_a_profile_is_reliable_and_volatile_unless_it_says_otherwise():
    profile = QoSProfile(depth=3)
    assert (profile.depth, profile.reliability, profile.durability) == (3, ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE)
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


@pytest.mark.parametrize("profile", [QoSProfile(depth=3), LATCHED, qos_profile_sensor_data, QoSProfile(history=HistoryPolicy.KEEP_ALL)])
def test_what_dds_is_told_is_what_others_see(profile):
    seen = profile_of(endpoint_qos(profile, "std_msgs/msg/String", writer=True))
    assert (seen.history, seen.reliability, seen.durability) == (profile.history, profile.reliability, profile.durability)


@pytest.mark.parametrize(
    ("offered", "requested", "expected"),
    [
        (QoSProfile(depth=1), qos_profile_sensor_data, QoSCompatibility.OK),
        (qos_profile_sensor_data, QoSProfile(depth=1), QoSCompatibility.ERROR),
        (LATCHED, QoSProfile(depth=1), QoSCompatibility.OK),
        (QoSProfile(depth=1), LATCHED, QoSCompatibility.ERROR),
        (QoSProfile(depth=1), QoSProfile(depth=1, deadline=Duration(seconds=1)), QoSCompatibility.ERROR),
        (QoSProfile(depth=1, reliability=ReliabilityPolicy.SYSTEM_DEFAULT), QoSProfile(depth=1), QoSCompatibility.WARNING),
    ],
)
def test_compatibility_is_told_with_a_reason(offered, requested, expected):
    compatibility, reason = qos_check_compatible(offered, requested)
    assert compatibility is expected
    assert bool(reason) == (expected is not QoSCompatibility.OK)


def test_policies_can_be_overridden_by_parameters(make_node):
    node = make_node("n", "-p qos_overrides./image.subscription.depth:=9 -p qos_overrides./image.subscription.reliability:=best_effort")
    options = QoSOverridingOptions.with_default_policies()
    subscription = node.create_subscription(String, "image", print, 1, qos_overriding_options=options)
    assert (subscription.qos_profile.depth, subscription.qos_profile.reliability) == (9, ReliabilityPolicy.BEST_EFFORT)
    assert node.get_parameter("qos_overrides./image.subscription.history").value == "keep_last"


def test_an_override_that_makes_no_sense_is_refused(make_node):
    node = make_node("n", "-p qos_overrides./a.publisher.reliability:=sometimes")
    with pytest.raises(InvalidQosOverridesError, match=r"expected one of .*best_effort"):
        node.create_publisher(String, "a", 1, qos_overriding_options=QoSOverridingOptions([QoSPolicyKind.RELIABILITY]))
