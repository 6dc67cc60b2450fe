# SPDX-License-Identifier: Apache-2.0
"""The operator: its episodes are repeatable, lively, and within reach."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from longscape_ros.errors import InputError
from longscape_ros.simulation.arm import SimulatedArm
from longscape_ros.simulation.operator import LEASH_M, SKILLS, Operator

FRAMES = 400

Played = dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
"""Task -> commands and places of the object."""


def play(task: str, seed: int, frames: int = FRAMES) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Commands [frames, 4], and where the object was [frames, 3]."""
    arm = SimulatedArm(task, seed)
    operator = Operator(arm, seed)
    commands, objects = [], []
    for _ in range(frames):
        commands.append(operator.command())
        arm.step(commands[-1])
        objects.append(arm.object)
    return np.stack(commands), np.stack(objects)


@pytest.fixture(scope="module")
def played(simulator: None) -> Played:
    return {task: play(task, 9001) for task in SKILLS}


@pytest.mark.parametrize("task", SKILLS)
def test_the_command_moves_in_seventy_percent_of_nearly_every_32_frames(played: Played, task: str) -> None:
    commands, _ = played[task]
    moving = np.abs(np.diff(commands[:, :3], axis=0)).max(axis=1) > 0.001
    shares = np.convolve(moving, np.full(32, 1 / 32), mode="valid")
    assert (shares >= 0.7).mean() > 0.95
    assert shares.min() > 0.5


@pytest.mark.parametrize("task", sorted(set(SKILLS) - {"reach"}))
def test_the_object_is_moved(played: Played, task: str) -> None:
    _, objects = played[task]
    assert np.ptp(objects, axis=0).max() > 0.02


def test_the_gripper_opens_and_closes(played: Played) -> None:
    flips = [np.abs(np.diff(commands[:, 3])).sum() for commands, _ in played.values()]
    assert all(set(commands[:, 3]) <= {0.0, 1.0} for commands, _ in played.values())
    assert sum(flips) >= len(SKILLS)


def test_an_episode_can_be_repeated_and_another_seed_is_another_one(simulator: None) -> None:
    first, _ = play("pick-place", 9001, frames=80)
    again, _ = play("pick-place", 9001, frames=80)
    other, _ = play("pick-place", 9002, frames=80)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_commands_stay_in_the_workspace_and_near_the_hand(simulator: None) -> None:
    arm = SimulatedArm("push", 9003)
    operator = Operator(arm, 9003)
    low, high = arm.workspace
    for _ in range(FRAMES):
        command = operator.command()
        assert ((command[:3] >= low) & (command[:3] <= high)).all()
        assert np.abs(command[:3] - arm.hand).max() <= LEASH_M + 1e-9
        arm.step(command)


def test_the_drawer_is_opened_and_closed_again(simulator: None) -> None:
    _, objects = play("drawer-open", 9000, frames=500)
    travel = objects[:, 1] - objects[:, 1].max()
    opened = int(travel.argmin())
    assert travel[opened] < -0.1
    assert travel[opened:].max() > -0.03


def test_a_task_that_no_operator_can_do_is_refused(simulator: None) -> None:
    with pytest.raises(InputError, match="Got task 'hammer'"):
        Operator(SimulatedArm("hammer", 1), 1)
