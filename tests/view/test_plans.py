# SPDX-License-Identifier: Apache-2.0
"""Commands as curves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.robot import STEP_NS
from support.view_messages import T0, TYPES, stamp_ns, trajectory

from longscape_ros.contract import ActionSource, Plan
from longscape_ros.errors import InputError
from longscape_ros.messages import JOINT_TRAJECTORY
from longscape_ros.view.plans import InForce, read_plan
from longscape_ros.view.topics import TWIST, TWIST_STAMPED, Channel, Part


def plan(step: int, *values: float, names: tuple[str, ...] = ("x",)) -> Plan:
    """One that starts at a step, its first point a step later."""
    rows = np.array(values, np.float64).reshape(len(values), 1).repeat(len(names), axis=1)
    return Plan(stamp_ns(step), stamp_ns(step), names, np.arange(1, len(values) + 1) * STEP_NS, rows)


def steps(in_force: InForce, until: int) -> list[tuple[int, str, float]]:
    return [(round((time - T0) / STEP_NS), name, value) for time, name, value in in_force.until(stamp_ns(until))]


def test_points_are_given_once_and_only_when_they_take_effect():
    in_force = InForce()
    in_force.add(plan(0, 1.0, 2.0, 3.0))
    assert steps(in_force, 0) == []
    assert steps(in_force, 2) == [(1, "x", 1.0), (2, "x", 2.0)]
    assert steps(in_force, 2) == []
    assert steps(in_force, 9) == [(3, "x", 3.0)]


def test_a_newer_plan_replaces_the_older_from_its_start_on():
    in_force = InForce()
    in_force.add(plan(0, 1.0, 2.0, 3.0, 4.0))
    in_force.add(plan(2, 30.0, 40.0, 50.0))
    assert steps(in_force, 9) == [(1, "x", 1.0), (2, "x", 2.0), (3, "x", 30.0), (4, "x", 40.0), (5, "x", 50.0)]


def test_a_plan_of_some_joints_leaves_the_others_as_they_are():
    in_force = InForce()
    in_force.add(plan(0, 1.0, 2.0, names=("x", "y")))
    in_force.add(plan(0, 9.0, names=("y",)))
    assert sorted(steps(in_force, 9)) == [(1, "x", 1.0), (1, "y", 9.0), (2, "x", 2.0)]


def test_a_single_command_replaces_another_of_the_same_time():
    in_force = InForce()
    for value in (1.0, 2.0):
        in_force.add(Plan(T0, T0, ("x",), np.zeros(1, np.int64), np.array([[value]])))
    assert steps(in_force, 0) == [(0, "x", 2.0)]


def test_without_a_mapping_a_trajectory_gives_all_its_joints():
    channel = Channel(Part.COMMANDS, "/arm", JOINT_TRAJECTORY)
    found = read_plan(channel, trajectory(3, [[1.0, 2.0]], names=("shoulder", "elbow")), 0)
    assert (found.names, found.start_ns, found.values.tolist()) == (("shoulder", "elbow"), stamp_ns(3), [[1.0, 2.0]])


@pytest.mark.parametrize("kind", [TWIST, TWIST_STAMPED])
def test_without_a_mapping_a_twist_gives_its_six_numbers_under_the_topics_name(kind):
    vector = TYPES("geometry_msgs/msg/Vector3")
    message: Any = TYPES(TWIST)(linear=vector(1.0, 2.0, 3.0), angular=vector(4.0, 5.0, 6.0))
    if kind == TWIST_STAMPED:
        message = TYPES(TWIST_STAMPED)(header=trajectory(5, []).header, twist=message)
    found = read_plan(Channel(Part.COMMANDS, "/servo/cmd", kind), message, T0)
    assert found.names == tuple(f"servo/cmd/{part}.{axis}" for part in ("linear", "angular") for axis in "xyz")
    assert found.values.tolist() == [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]
    assert found.start_ns == (stamp_ns(5) if kind == TWIST_STAMPED else T0)


def test_a_mapping_picks_and_names():
    source = ActionSource("/arm", JOINT_TRAJECTORY, {"bend": "elbow"})
    found = read_plan(Channel(Part.COMMANDS, "/arm", JOINT_TRAJECTORY, source), trajectory(0, [[1.0, 2.0]], names=("shoulder", "elbow")), 0)
    assert (found.names, found.values.tolist()) == (("bend",), [[2.0]])
    with pytest.raises(InputError, match=r"expected \['elbow'\] among them"):
        read_plan(Channel(Part.COMMANDS, "/arm", JOINT_TRAJECTORY, source), trajectory(0, [[1.0]], names=("shoulder",)), 0)
