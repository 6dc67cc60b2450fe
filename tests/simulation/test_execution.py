# SPDX-License-Identifier: Apache-2.0
"""Executing plans: what is commanded when."""

from __future__ import annotations

import numpy as np
import pytest

from longscape_ros.contract import Plan
from longscape_ros.errors import InputError
from longscape_ros.simulation.arm import COMMAND_NAMES
from longscape_ros.simulation.execution import TrajectoryExecution

MS = 1_000_000
NOW = 1_700_000_000_000_000_000
REST = np.array([0.0, 0.6, 0.2, 0.0])


def plan(start_ms: int, points: dict[int, tuple[float, float]], received_ms: int = 0, names: tuple[str, ...] = COMMAND_NAMES) -> Plan:
    """A plan of hand_x and the gripper: milliseconds since its start -> values."""
    values = {"hand_y": 0.6, "hand_z": 0.2}
    rows = [[{**values, "hand_x": x, "gripper": gripper}.get(name, 0.0) for name in names] for x, gripper in points.values()]
    times = np.array(list(points), dtype=np.int64) * MS
    return Plan(NOW + received_ms * MS, NOW + start_ms * MS, names, times, np.array(rows))


def commands(execution: TrajectoryExecution, *times_ms: int) -> list[tuple[float, float]]:
    """hand_x and gripper at some times."""
    found = [execution.command(NOW + time * MS) for time in times_ms]
    return [(pytest.approx(float(c[0])), float(c[3])) for c in found]


def test_before_the_first_plan_begins_the_arm_rests() -> None:
    execution = TrajectoryExecution(REST)
    execution.accept(plan(100, {50: (0.1, 0.0)}))
    assert np.array_equal(execution.command(NOW + 100 * MS), REST)
    assert not execution.started
    execution.command(NOW + 150 * MS)
    assert execution.started


def test_points_are_reached_in_straight_lines_and_the_last_is_held() -> None:
    execution = TrajectoryExecution(REST)
    execution.accept(plan(0, {100: (0.1, 0.0), 200: (0.3, 0.0)}))
    assert commands(execution, 50, 100, 150, 200, 900) == [(0.05, 0), (0.1, 0), (0.2, 0), (0.3, 0), (0.3, 0)]


def test_points_on_the_grid_come_out_exactly() -> None:
    values = np.random.default_rng(0).normal(size=(96, 4))
    execution = TrajectoryExecution(REST)
    execution.accept(Plan(NOW, NOW, COMMAND_NAMES, np.arange(1, 97) * 50 * MS, values))
    assert np.array_equal([execution.command(NOW + step * 50 * MS) for step in range(1, 97)], values)


def test_the_gripper_takes_a_value_when_its_point_is_reached() -> None:
    execution = TrajectoryExecution(REST)
    execution.accept(plan(0, {100: (0.0, 1.0), 200: (0.0, 0.0)}))
    assert [gripper for _, gripper in commands(execution, 50, 99, 100, 199, 200)] == [0, 0, 1, 1, 0]


def test_a_newer_plan_replaces_the_old_one_from_its_own_start_on() -> None:
    execution = TrajectoryExecution(REST)
    execution.accept(plan(0, {400: (0.4, 0.0)}))
    execution.accept(plan(200, {100: (0.0, 0.0)}, received_ms=50))
    assert commands(execution, 100, 200, 250, 300, 400) == [(0.1, 0), (0.2, 0), (0.1, 0), (0.0, 0), (0.0, 0)]


def test_a_newer_plan_also_replaces_plans_that_would_start_later() -> None:
    execution = TrajectoryExecution(REST)
    execution.accept(plan(300, {100: (0.9, 0.0)}))
    execution.accept(plan(100, {100: (0.2, 0.0)}, received_ms=50))
    assert commands(execution, 200, 400, 900) == [(0.2, 0), (0.2, 0), (0.2, 0)]


def test_a_plan_that_comes_late_goes_on_to_its_points_ahead() -> None:
    execution = TrajectoryExecution(REST)
    execution.accept(plan(0, {100: (5.0, 1.0), 200: (0.2, 0.0)}, received_ms=150))
    assert commands(execution, 175, 200) == [(0.1, 1), (0.2, 0)]


def test_a_single_sample_takes_effect_at_once() -> None:
    execution = TrajectoryExecution(REST)
    execution.accept(plan(0, {0: (0.01, 1.0)}, received_ms=30))
    assert commands(execution, 50) == [(0.01, 1)]


def test_names_come_in_any_order() -> None:
    execution = TrajectoryExecution(REST)
    execution.accept(plan(0, {50: (0.1, 1.0)}, names=("gripper", "hand_z", "hand_x", "hand_y")))
    assert execution.command(NOW + 50 * MS) == pytest.approx([0.1, 0.6, 0.2, 1.0])


@pytest.mark.parametrize("names", [COMMAND_NAMES[:3], (*COMMAND_NAMES, "elbow"), ("a", "b", "c", "d")])
def test_other_names_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="expected exactly"):
        TrajectoryExecution(REST).accept(plan(0, {50: (0.1, 1.0)}, names=names))


def test_a_plan_that_is_over_is_refused_and_the_old_one_goes_on() -> None:
    execution = TrajectoryExecution(REST)
    execution.accept(plan(0, {1000: (1.0, 0.0)}))
    with pytest.raises(InputError, match=r"ended 0\.300 s before it came"):
        execution.accept(plan(0, {50: (0.5, 0.0), 100: (0.6, 0.0)}, received_ms=400))
    assert commands(execution, 500) == [(0.5, 0)]
