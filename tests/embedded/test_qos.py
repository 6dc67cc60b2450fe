# SPDX-License-Identifier: Apache-2.0
"""QoS profiles in DDS."""

from __future__ import annotations

import pytest

from longscape_ros.embedded.dds import endpoint_qos, profile_of
from longscape_ros.embedded.qos import DurabilityPolicy, HistoryPolicy, QoSPolicyKind, QoSProfile, qos_profile_sensor_data
from longscape_ros.embedded.qos_overriding import QoSOverridingOptions, declare_qos_overrides

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@pytest.mark.parametrize("profile", [QoSProfile(depth=3), LATCHED, qos_profile_sensor_data, QoSProfile(history=HistoryPolicy.KEEP_ALL)])
def test_what_dds_is_told_is_what_others_see(profile):
    seen = profile_of(endpoint_qos(profile, "std_msgs/msg/String", writer=True))
    assert (seen.history, seen.reliability, seen.durability) == (profile.history, profile.reliability, profile.durability)


def test_an_override_that_makes_no_sense_is_told_with_the_values_there_are(make_node):
    node = make_node("n", "-p qos_overrides./a.publisher.reliability:=sometimes")
    with pytest.raises(RuntimeError, match=r"Got qos_overrides./a.publisher.reliability=sometimes, expected one of .*best_effort"):
        declare_qos_overrides(node, "publisher", "/a", LATCHED, QoSOverridingOptions([QoSPolicyKind.RELIABILITY]))
