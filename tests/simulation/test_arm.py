# SPDX-License-Identifier: Apache-2.0
"""The simulated arm: deterministic, obedient, and seen from the right side."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from longscape_ros.errors import HostError, InputError
from longscape_ros.simulation.arm import CAMERA_LOOKS_AT_M, CAMERA_POSITION_M, SimulatedArm, choose_graphics, describe_graphics

FOLLOWED_M = 0.025
"""How near the hand stays to a command that moves at 0.2 m/s."""


@pytest.fixture(scope="module")
def seen(graphics: None) -> Iterator[SimulatedArm]:
    arm = SimulatedArm("reach", 3, 128)
    yield arm
    arm.close()


def pushes(count: int) -> NDArray[np.float64]:
    """Commands that run through the puck's place and close the gripper on the way: [count, 4]."""
    share = np.linspace(0.0, 1.0, count)
    return np.stack([0.1 * np.sin(6 * share), 0.6 + 0.1 * share, 0.2 - 0.14 * share, np.round(share)], axis=1)


def go(arm: SimulatedArm, place: tuple[float, float, float], steps: int = 40) -> None:
    start = arm.target
    for share in np.linspace(0.0, 1.0, steps):
        arm.step(np.append(start + share * (np.array(place) - start), 0.0))
    for _ in range(10):
        arm.step(np.array([*place, 0.0]))


def pads(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """[2], x and y of the middle of the finger that is cyan; nothing else in the scene is."""
    red, green, blue = np.moveaxis(image.astype(int), 2, 0)
    y, x = np.nonzero((green - red > 60) & (blue - red > 60))
    assert len(x) > 10, "the cyan finger should be in sight"
    return np.array([x.mean(), y.mean()])


def test_the_objects_are_where_the_seed_put_them_from_the_first_frame_on(simulator: None) -> None:
    arm = SimulatedArm("window-close", 9000)
    first = arm.object
    arm.step(np.append(arm.target, 0.0))
    assert np.abs(arm.object - first).max() < 0.001


def test_an_expert_can_look_at_what_another_task_of_the_scene_looks_at(simulator: None) -> None:
    press = SimulatedArm("handle-press", 9000)
    own, other = press.observation(np.zeros(3)), press.observation(np.ones(3), sight="handle-pull")
    np.testing.assert_array_equal(own[:36], press.observation(np.zeros(3), sight="handle-press")[:36])
    np.testing.assert_array_equal(np.flatnonzero(own != other), [4, 6, 36, 37, 38])
    assert other[4] - own[4] == pytest.approx(0.05, abs=0.001)  # the handle's right end, and its middle


@pytest.mark.parametrize("task", ["hammer", "stick-push"])
def test_the_object_of_a_task_with_a_tool_is_the_tool(simulator: None, task: str) -> None:
    assert SimulatedArm(task, 9000).object.shape == (3,)


def test_equal_commands_give_equal_frames_and_states(graphics: None) -> None:
    def play() -> tuple[NDArray[np.float64], list[NDArray[np.uint8]]]:
        arm = SimulatedArm("push", 5, 64)
        images = []
        for command in pushes(30):
            arm.step(command)
            images.append(arm.render())
        arm.close()
        return arm.state(), images

    (first_state, first_images), (second_state, second_images) = play(), play()
    assert np.array_equal(first_state, second_state)
    assert np.array_equal(first_images, second_images)
    assert not np.array_equal(first_images[0], first_images[-1])


def test_the_first_picture_is_taken_from_where_the_later_ones_are(graphics: None) -> None:
    arm = SimulatedArm("push", 5, 64)
    first = arm.render()
    arm.restore(arm.state())
    assert np.array_equal(arm.render(), first)
    arm.close()


def test_an_arm_without_a_camera_stays_equal_to_one_with(graphics: None) -> None:
    blind, seeing = SimulatedArm("push", 5), SimulatedArm("push", 5, 64)
    for command in pushes(30):
        blind.step(command)
        seeing.step(command)
        seeing.render()
    seeing.close()
    assert np.array_equal(blind.state(), seeing.state())


def test_a_copy_that_takes_over_a_state_goes_on_alike(simulator: None) -> None:
    arm, copy = SimulatedArm("pick-place", 2), SimulatedArm("pick-place", 2)
    commands = pushes(40)
    for command in commands[:20]:
        arm.step(command)
    copy.restore(arm.state())
    for command in commands[20:]:
        arm.step(command)
        copy.step(command)
    assert np.array_equal(arm.state(), copy.state())


def test_seeds_put_the_objects_elsewhere(simulator: None) -> None:
    places = [SimulatedArm("push", seed).object for seed in (1, 2, 1)]
    assert np.array_equal(places[0], places[2])
    assert np.linalg.norm(places[0] - places[1]) > 0.005


@pytest.mark.parametrize(("place", "reached_m"), [((0.0, 0.6, 0.2), 0.015), ((0.2, 0.6, 0.3), 0.02), ((-0.2, 0.8, 0.12), 0.03)])
def test_the_hand_reaches_commanded_places_in_free_space(simulator: None, place: tuple[float, float, float], reached_m: float) -> None:
    arm = SimulatedArm("reach", 1)
    go(arm, place)
    assert np.abs(arm.hand - place).max() < reached_m


def test_the_hand_follows_a_moving_command(simulator: None) -> None:
    arm = SimulatedArm("reach", 1)
    for step in range(30):
        command = np.array([-0.15 + 0.01 * step, 0.6, 0.2, 0.0])
        if step == 0:
            go(arm, (-0.15, 0.6, 0.2))
        arm.step(command)
        assert np.abs(arm.hand - command[:3]).max() < FOLLOWED_M


def test_the_gripper_closes_and_opens(simulator: None) -> None:
    arm = SimulatedArm("reach", 1)
    open_before = arm.gripper
    for _ in range(20):
        arm.step(np.append(arm.target, 1.0))
    closed = arm.gripper
    for _ in range(20):
        arm.step(np.append(arm.target, 0.0))
    assert closed > 0.4
    assert arm.gripper == pytest.approx(open_before, abs=0.05)
    assert open_before < 0.2


def test_a_command_moves_the_target_four_centimetres_at_most_and_stays_in_the_workspace(simulator: None) -> None:
    arm = SimulatedArm("reach", 1)
    start = arm.target
    arm.step(np.array([5.0, start[1], start[2], 0.0]))
    assert arm.target - start == pytest.approx([0.04, 0.0, 0.0])
    for _ in range(30):
        arm.step(np.array([5.0, start[1], start[2], 0.0]))
    assert arm.target[0] == arm.workspace[1][0]


def test_what_rises_in_the_world_rises_in_the_image_and_left_stays_left(seen: SimulatedArm) -> None:
    def seen_at(place: tuple[float, float, float]) -> NDArray[np.float64]:
        go(seen, place)
        return pads(seen.render())

    middle, higher, farther = seen_at((0.0, 0.6, 0.15)), seen_at((0.0, 0.6, 0.25)), seen_at((0.0, 0.75, 0.15))
    assert higher[1] < middle[1] - 10
    assert abs(higher[0] - middle[0]) < 10
    assert farther[0] > middle[0] + 10  # the camera looks along -x: +y is to its right


def test_the_intrinsics_project_the_fingers_to_where_they_are_seen(seen: SimulatedArm) -> None:
    go(seen, (0.0, 0.65, 0.15))
    back = np.subtract(CAMERA_POSITION_M, CAMERA_LOOKS_AT_M)
    back /= np.linalg.norm(back)
    right = np.cross((0.0, 0.0, 1.0), back)
    right /= np.linalg.norm(right)
    optical = np.stack([right, -np.cross(back, right), -back])  # right, down, forward
    fingers = seen.hand - (0.0, 0.0, 0.045)
    x, y, depth = seen.intrinsics() @ optical @ (fingers - CAMERA_POSITION_M)
    assert np.abs(pads(seen.render()) - (x / depth, y / depth)).max() < 10


def test_the_marker_of_the_goal_is_not_in_the_image(seen: SimulatedArm) -> None:
    import mujoco

    before = seen.render()
    site = seen._model.site("goal")
    site.pos[:] = (0.0, 0.6, 0.1)
    site.size[:] = 0.1
    mujoco.mj_forward(seen._model, seen._data)
    assert np.array_equal(seen.render(), before)


def test_an_unknown_task_is_refused_with_the_known_ones(simulator: None) -> None:
    with pytest.raises(InputError, match=r"Got task 'juggle', expected one of .*drawer-open"):
        SimulatedArm("juggle", 1)


def test_a_size_that_cannot_be_rendered_is_refused() -> None:
    with pytest.raises(InputError, match="Got image size 4000"):
        SimulatedArm("reach", 1, 4000)


def test_what_the_user_chose_for_rendering_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert choose_graphics() == "osmesa"


def test_library_and_device_that_render_are_told(graphics: None, monkeypatch: pytest.MonkeyPatch) -> None:
    library, _, device = describe_graphics().partition(": ")
    assert library == choose_graphics()
    assert device
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert describe_graphics() == library  # the device is not told everywhere


def test_a_host_without_graphics_is_told_what_to_install(simulator: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(HostError, match="apt-get install -y libegl1 libgl1 libgl1-mesa-dri"):
        choose_graphics()
    assert "MUJOCO_GL" not in os.environ


def test_an_arm_without_a_camera_does_not_spoil_a_later_one_with(graphics: None) -> None:
    code = (
        "from longscape_ros.simulation.arm import SimulatedArm; SimulatedArm('reach', 1); "
        "arm = SimulatedArm('reach', 1, 32); print(arm.render().std() > 10); arm.close()"
    )
    environment = {key: value for key, value in os.environ.items() if key != "MUJOCO_GL"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "True"
