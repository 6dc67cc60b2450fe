# SPDX-License-Identifier: Apache-2.0
"""What nobody commanded: it changes what follows and nothing before, and the bag tells when."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from longscape_ros.bags.reader import raw_messages
from longscape_ros.bags.writer import bag_store
from longscape_ros.errors import InputError
from longscape_ros.simulation import topics
from longscape_ros.simulation.arm import SimulatedArm
from longscape_ros.simulation.disturbance import Disturbance, DisturbedArm, choose_frame, parse_disturbance, report
from longscape_ros.simulation.generate import EpisodeConfig, record, record_disturbed, write_bag

FRAMES = 62
"""The fewest but one: an episode's disturbance comes at its 41st frame or the one after."""


def reach(arm: SimulatedArm, disturbance: Disturbance | None, steps: int) -> list[np.ndarray[Any, Any]]:
    """Hand and object after each of some steps to the right and down, gripper closed."""
    moves = DisturbedArm(arm, disturbance)
    seen = []
    for step in range(steps):
        moves.step(np.append(arm.target + np.array([0.02, 0.0, -0.01]), float(step > 3)))
        seen.append(np.concatenate([arm.hand, arm.object, [arm.gripper]]))
    return seen


@pytest.mark.parametrize(("text", "expected"), [("move", ("move", 0.1)), ("move:0.03", ("move", 0.03)), ("block", ("block", 0.5))])
def test_a_disturbance_is_a_kind_and_perhaps_a_size(text, expected):
    assert parse_disturbance(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "one of bump"),
        ("push", "one of bump"),
        ("move:far", "a number"),
        ("move:0", "more than 0"),
        ("bump:99", "more than 0 and at most 5"),
        ("block:-1", "more than 0"),
    ],
)
def test_what_is_no_disturbance_is_refused(text, expected):
    with pytest.raises(InputError, match=f"expected {expected}"):
        parse_disturbance(text)


@pytest.mark.parametrize(
    ("task", "kind", "size"),
    [
        ("push", "move", 0.05),
        ("push", "bump", 1.0),
        ("drawer-open", "move", 0.05),
        ("drawer-open", "bump", 1.0),
        ("door-open", "move", 0.05),
    ],
)
def test_an_object_is_disturbed_from_its_frame_on_and_the_hand_is_not(task, kind, size):
    calm, disturbed = (reach(SimulatedArm(task, 9000), d, 12) for d in (None, Disturbance(kind, size, 6)))
    assert np.array_equal(calm[:6], disturbed[:6])
    way = np.linalg.norm(disturbed[8][3:6] - calm[8][3:6])
    assert 0.2 * size / (20 if kind == "bump" else 1) < way < 0.25
    assert np.allclose(calm[8][:3], disturbed[8][:3], atol=0.02)


def test_a_moved_object_is_moved_as_far_as_asked():
    arm = SimulatedArm("push", 9000)
    before = arm.object
    arm.move_object(0.07, 0.3)
    assert np.linalg.norm(arm.object[:2] - before[:2]) == pytest.approx(0.07, abs=1e-6)


def test_a_blocked_hand_stands_still_and_then_goes_on():
    calm, blocked = (reach(SimulatedArm("reach", 9000), d, 20) for d in (None, Disturbance("block", 0.4, 6)))
    assert np.array_equal(calm[:6], blocked[:6])
    assert calm[13][0] - calm[8][0] > 0.05
    assert abs(blocked[13][0] - blocked[8][0]) < 0.02
    assert blocked[19][0] - blocked[14][0] > 0.05


def test_a_gripper_that_fails_stays_open():
    calm, open_ = (reach(SimulatedArm("reach", 9000), d, 10) for d in (None, Disturbance("grip", 1.0, 2)))
    assert calm[-1][6] > open_[-1][6] + 0.1


def test_the_arm_says_once_that_it_is_disturbed():
    arm, disturbance = SimulatedArm("reach", 9000), Disturbance("block", 0.2, 2)
    moves = DisturbedArm(arm, disturbance)
    assert [moves.step(np.append(arm.target, 0.0)) for _ in range(5)] == [None, None, disturbance, None, None]


def test_the_hand_is_blocked_where_it_moves_and_the_gripper_fails_where_it_would_close_on_something():
    commands = np.zeros((100, 4))
    commands[60:, 0] = np.minimum(0.02 * np.arange(40), 0.5)
    commands[55:, 3] = 1.0
    near = np.full(100, 0.05)
    assert 55 <= choose_frame("block", "push", 1, commands, near) < 80
    assert choose_frame("grip", "push", 1, commands, near) == 55
    assert choose_frame("grip", "push", 1, commands, near + 0.1) is None
    assert 40 <= choose_frame("move", "push", 1, commands, near) < 80
    assert choose_frame("move", "push", 1, commands, near) == choose_frame("move", "push", 1, commands, near)


def test_a_report_says_what_and_when():
    told = json.loads(report(Disturbance("block", 0.5, 7), 1000, 50, [0.0, 0.25]))
    assert told == {"kind": "block", "size": 0.5, "frame": 7, "begin_ns": 1000, "end_ns": 1500, "changed": [0.0, 0.25]}


def test_a_disturbed_bag_is_the_undisturbed_one_until_then_and_tells_when(graphics, tmp_path: Path):
    config = EpisodeConfig("push", seed=9000, image_size=32, frames=FRAMES, disturbance=("move", 0.15))
    calm = record(EpisodeConfig("push", seed=9000, image_size=32, frames=FRAMES))
    disturbed = record_disturbed(config, "move", 0.15)
    assert disturbed is not None
    frame = disturbed.disturbance.frame
    assert np.array_equal(calm.commands, disturbed.commands), "the commands know nothing of it"
    assert np.array_equal(calm.images[: frame + 1], disturbed.images[: frame + 1])
    first_after = (np.abs(calm.images[frame + 1].astype(int) - disturbed.images[frame + 1]).max(axis=2) > 25).mean()
    assert disturbed.changed[0] == pytest.approx(first_after)
    assert max(disturbed.changed) > 0
    write_bag(tmp_path / config.name, disturbed, "push")
    (message,) = raw_messages(tmp_path / config.name, (topics.DISTURBANCE_TOPIC,))
    told = json.loads(bag_store().deserialize_cdr(message.data, message.type).data)
    assert (told["kind"], told["size"], told["frame"], told["changed"]) == ("move", 0.15, frame, list(disturbed.changed))
    assert config.name == "push_9000_move_0.15"


def test_an_episode_without_a_moment_for_it_is_not_recorded(graphics):
    config = EpisodeConfig("drawer-open", seed=9000, image_size=32, frames=61, disturbance=("grip", 1.0))
    assert record_disturbed(config, "grip", 1.0) is None
    with pytest.raises(InputError, match="expected at least 61"):
        EpisodeConfig("drawer-open", seed=9000, frames=60, disturbance=("grip", 1.0))
