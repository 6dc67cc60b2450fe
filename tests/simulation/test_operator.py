# SPDX-License-Identifier: Apache-2.0
"""The operator: its episodes are repeatable, lively, and within reach."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from longscape_ros.errors import InputError
from longscape_ros.simulation.arm import SimulatedArm
from longscape_ros.simulation.operator import LEASH_M, Operator
from longscape_ros.simulation.skills import SKILLS

FRAMES = 200
SEED = 9001

BEGUN = {
    "reach": (0.187, 0.894, 0.216),
    "push": (0.118, 0.644, 0.079),
    "pick-place": (-0.132, 0.629, 0.165),
    "drawer-open": (-0.109, 0.583, 0.169),
    "button-press-topdown": (0.117, 0.804, 0.231),
    "door-open": (0.187, 0.749, 0.189),
}
"""Task -> where the hand is commanded to be in frame 60 of the first held-out episode, in metres."""


@dataclass(frozen=True)
class Play:
    """What happened in an episode.

    Args:
        commands: float64 [frames, 4].
        objects: float64 [frames, 3], where the object was after each.
        hands: float64 [frames, 3].
        warnings: How often MuJoCo found the simulation unstable or too crowded.
    """

    commands: NDArray[np.float64]
    objects: NDArray[np.float64]
    hands: NDArray[np.float64]
    warnings: int

    @property
    def moving(self) -> NDArray[np.float64]:
        """In what share of every 32 frames the command moves."""
        return shares(self.commands[:, :3])


def shares(places: NDArray[np.float64]) -> NDArray[np.float64]:
    moving = np.abs(np.diff(places, axis=0)).max(axis=1) > 0.001
    return np.convolve(moving, np.full(32, 1 / 32), mode="valid")


def travel(places: NDArray[np.float64]) -> float:
    return float(np.ptp(places, axis=0).max())


def play(task: str, seed: int, frames: int = FRAMES) -> Play:
    arm = SimulatedArm(task, seed)
    operator = Operator(arm, seed)
    commands, objects, hands = [], [], []
    for _ in range(frames):
        commands.append(operator.command())
        arm.step(commands[-1])
        objects.append(arm.object)
        hands.append(arm.hand)
    return Play(np.stack(commands), np.stack(objects), np.stack(hands), sum(int(told.number) for told in arm._data.warning))


@pytest.fixture(scope="module")
def played(simulator: None) -> dict[str, Play]:
    return {task: play(task, SEED) for task in SKILLS}


def test_an_operator_can_do_all_of_meta_world(simulator: None) -> None:
    from metaworld import env_dict

    assert {f"{task}-v3" for task in SKILLS} == env_dict.ALL_V3_ENVIRONMENTS.keys()
    assert len(SKILLS) == 50
    assert len({skills.instruction for skills in SKILLS.values()}) == len(SKILLS)


def test_experts_look_at_tasks_of_the_same_scene(simulator: None) -> None:
    from metaworld import env_dict

    for task, skills in SKILLS.items():
        scenes = [env_dict.ALL_V3_ENVIRONMENTS[f"{name}-v3"].model_name.fget(None) for name in (task, *skills.sights)]
        assert len(set(scenes)) == 1, task


@pytest.mark.parametrize("task", SKILLS)
def test_the_command_moves_in_most_frames_and_so_does_the_hand(played: dict[str, Play], task: str) -> None:
    moving = played[task].moving
    assert moving.mean() > 0.85
    assert moving.min() > 0.4
    assert shares(played[task].hands).mean() > 0.7


@pytest.mark.parametrize("task", SKILLS)
def test_the_simulation_is_stable_and_the_object_stays_about(played: dict[str, Play], task: str) -> None:
    assert played[task].warnings == 0
    assert np.isfinite(played[task].objects).all()
    assert np.abs(played[task].objects - (0.0, 0.65, 0.2)).max() < 1.0


@pytest.mark.parametrize("task", sorted(set(SKILLS) - {"reach", "reach-wall"}))
def test_the_object_is_moved(played: dict[str, Play], task: str) -> None:
    assert travel(played[task].objects) > 0.02 or travel(play(task, 9000).objects) > 0.02  # not every operator comes to it soon


@pytest.mark.parametrize("task", BEGUN)
def test_the_default_bundles_episodes_stay_what_they_were(simulator: None, task: str) -> None:
    np.testing.assert_allclose(play(task, 9000, frames=60).commands[-1, :3], BEGUN[task], atol=0.005)


@pytest.mark.parametrize("task", BEGUN)
def test_the_command_moves_in_seventy_percent_of_nearly_every_32_frames_of_the_default_bundles_tasks(simulator: None, task: str) -> None:
    moving = play(task, SEED, frames=400).moving
    assert (moving >= 0.7).mean() > 0.95
    assert moving.min() > 0.5


def test_the_gripper_opens_and_closes(played: dict[str, Play]) -> None:
    flips = [np.abs(np.diff(each.commands[:, 3])).sum() for each in played.values()]
    assert all(set(each.commands[:, 3]) <= {0.0, 1.0} for each in played.values())
    assert sum(flips) >= len(SKILLS)


def test_an_episode_can_be_repeated_and_another_seed_is_another_one(simulator: None) -> None:
    first, again, other = (play("shelf-place", seed, frames=80).commands for seed in (9001, 9001, 9002))
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


def there_and_back(places: NDArray[np.float64]) -> float:
    """How far something that is [n] along an axis goes in one direction and in the other, at least."""
    risen = (places - np.minimum.accumulate(places)).max()
    fallen = (np.maximum.accumulate(places) - places).max()
    return float(min(risen, fallen))


@pytest.mark.parametrize(
    ("task", "axis", "least_m"),
    [
        ("drawer-open", 1, 0.1),
        ("drawer-close", 1, 0.1),
        ("door-close", 0, 0.3),
        ("door-lock", 2, 0.1),
        ("window-open", 0, 0.15),
        ("faucet-close", 0, 0.1),
        ("handle-press", 2, 0.1),
        ("handle-pull-side", 2, 0.1),
        ("plate-slide", 0, 0.1),
        ("stick-push", 1, 0.1),
    ],
)
def test_what_is_done_is_undone_again(simulator: None, task: str, axis: int, least_m: float) -> None:
    assert there_and_back(play(task, 9000, frames=500).objects[:, axis]) > least_m


def test_a_block_is_put_on_the_shelf(simulator: None) -> None:
    arm = SimulatedArm("shelf-place", 9000)
    operator = Operator(arm, 9000)
    for _ in range(400):
        arm.step(operator.command())
    assert np.abs(arm.object - arm.goal).max() < 0.08


def test_a_hand_that_is_caught_goes_back_the_way_it_came(simulator: None) -> None:
    arm = SimulatedArm("push", 9000)
    operator = Operator(arm, 9000)
    down = iter(np.append(arm.target - (0.0, 0.0, 0.01 * step), 0.0) for step in range(200))
    phase = operator._unless_caught(down)
    heights = []
    for command in phase:
        hand = arm.hand
        arm.step(np.append(np.clip(command[:3], hand - LEASH_M, hand + LEASH_M), 0.0))
        heights.append(arm.hand[2])
    lowest = int(np.argmin(heights))
    assert heights[lowest] < heights[0] - 0.08
    assert heights[-1] > heights[0] - 0.03
    assert lowest < len(heights) < 150


def test_a_task_without_skills_is_refused(simulator: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(SKILLS, "hammer")
    with pytest.raises(InputError, match="Got task 'hammer', which no operator can do; expected one of reach, push"):
        Operator(SimulatedArm("hammer", 1), 1)
