# SPDX-License-Identifier: Apache-2.0
"""A Sawyer arm at a table: Meta-World (https://arxiv.org/abs/1910.10897) in MuJoCo, driven and watched like a real robot.

Commands are absolute: where the hand shall be at the end of a 50 ms interval, in metres, and whether the gripper is closed.
Rendering is headless, through EGL or OSMesa.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from longscape_ros.errors import HostError, InputError

FPS = 20
"""Rate of the camera and of the commands in Hz."""

SUBSTEPS = 4
"""Simulator control steps (80 Hz) per command."""

REACH = 0.01
"""How far the simulator moves its set point in one of its control steps, in metres per axis."""

ACTION_NAMES = ("hand_x", "hand_y", "hand_z", "gripper")
"""Columns of a command: three metres, and 0 (open) to 1 (closed)."""

NATIVE_SIZE = 128
"""Side of the rendered picture in pixels."""

_CAMERA = "corner2"
_CAMERA_POSITION = (0.75, 0.075, 0.7)
_GL_REMEDY = "install one with: apt-get install -y libegl1 libosmesa6"


@dataclass(frozen=True)
class ArmState:
    """All that decides how the simulation goes on."""

    physics: NDArray[np.float64]
    mocap: NDArray[np.float64]
    previous_observation: NDArray[np.float64]


class SimulatedArm:
    """One task's scene.

    Args:
        task: A Meta-World task without its version, for example ``push``.
        seed: Decides where the objects start.

    Raises:
        InputError: there is no such task.
    """

    def __init__(self, task: str, seed: int) -> None:
        os.environ.setdefault("MUJOCO_GL", choose_gl())
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS

        if f"{task}-v3" not in ALL_V3_ENVIRONMENTS:
            known = ", ".join(sorted(name.removesuffix("-v3") for name in ALL_V3_ENVIRONMENTS))
            raise InputError(f"Got the task {task!r}, expected one of {known}.")
        self.task = task
        self.env: Any = ALL_V3_ENVIRONMENTS[f"{task}-v3"]()
        self.env._freeze_rand_vec = False
        self.env._set_task_called = True
        self.env._partially_observable = False
        self.env.max_path_length = np.inf
        self.env.seed(seed)
        self.observation: NDArray[np.float64] = self.env.reset()[0]
        self._renderer: Any = None

    @property
    def set_point(self) -> NDArray[np.float64]:
        """float64 [3], where the hand has been told to be, in metres."""
        point: NDArray[np.float64] = self.env.data.mocap_pos[0].copy()
        return point

    @property
    def hand(self) -> NDArray[np.float64]:
        """float64 [3], where the hand is, in metres."""
        return self.observation[:3].copy()

    @property
    def opening(self) -> float:
        """How far the gripper is open, 0 to 1."""
        return float(self.observation[3])

    @property
    def workspace(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lowest and highest hand position, each float64 [3], in metres."""
        return self.env.mocap_low.copy(), self.env.mocap_high.copy()

    def step(self, command: NDArray[np.float64]) -> None:
        """Advance by 50 ms towards ``command``, float64 [4] as in :data:`ACTION_NAMES`; the set point moves evenly, at most 4 cm per axis."""
        start = self.set_point
        effort = 1.0 if command[3] > 0.5 else -1.0
        for substep in range(1, SUBSTEPS + 1):
            wanted = start + (command[:3] - start) * (substep / SUBSTEPS)
            move = np.clip((wanted - self.set_point) / REACH, -1, 1)
            self.observation = self.env.step(np.array([*move, effort], dtype=np.float32))[0]

    def set_goal(self, random: np.random.Generator) -> None:
        """Move the task's (invisible) goal elsewhere, where the task has one that moves."""
        vector = self.env._get_state_rand_vec()
        if vector is not None and len(vector) == 6:
            goal = np.array(vector[3:], dtype=np.float64)
            goal[2] = np.asarray(self.env._target_pos)[2] if self.task == "push" else goal[2]
            self.env._target_pos = goal + random.uniform(-0.02, 0.02, 3) * [1, 1, 0]

    def state(self) -> ArmState:
        """A copy of the simulation's state."""
        import mujoco

        flag = mujoco.mjtState.mjSTATE_INTEGRATION
        physics = np.empty(mujoco.mj_stateSize(self.env.model, flag))
        mujoco.mj_getState(self.env.model, self.env.data, physics, flag)
        return ArmState(physics, self.env.data.mocap_pos.copy(), self.env._prev_obs.copy())

    def restore(self, state: ArmState) -> None:
        """Go back to a state of this scene or of one made from the same task and seed."""
        import mujoco

        mujoco.mj_setState(self.env.model, self.env.data, state.physics, mujoco.mjtState.mjSTATE_INTEGRATION)
        mujoco.mj_forward(self.env.model, self.env.data)
        self.env.data.mocap_pos = state.mocap.copy()
        self.env._prev_obs = state.previous_observation.copy()

    def render(self) -> NDArray[np.uint8]:
        """uint8 RGB [128, 128, 3] of the scene as it is."""
        import mujoco

        if self._renderer is None:
            self._renderer = self._make_renderer()
            mujoco.mj_camlight(self.env.model, self.env.data)  # the camera has just been moved
        options = mujoco.MjvOption()
        options.sitegroup[:] = 0
        self._renderer.update_scene(self.env.data, camera=_CAMERA, scene_option=options)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._renderer.scene.flags[flag] = 0
        upside_down = self._renderer.render()
        return np.ascontiguousarray(upside_down[::-1, ::-1])

    def _make_renderer(self) -> Any:
        import mujoco

        model = self.env.model
        model.vis.quality.offsamples = 0
        model.cam_pos[model.camera(_CAMERA).id] = _CAMERA_POSITION
        try:
            return mujoco.Renderer(model, NATIVE_SIZE, NATIVE_SIZE)
        except Exception as error:
            raise HostError(f"Got no headless OpenGL ({error}), expected EGL or OSMesa; {_GL_REMEDY}.") from error

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def choose_gl() -> str:
    """``egl`` or ``osmesa``, whichever library is installed.

    Raises:
        HostError: neither is.
    """
    from ctypes.util import find_library

    for name, library in (("egl", "EGL"), ("osmesa", "OSMesa")):
        if find_library(library):
            return name
    raise HostError(f"Found neither libEGL nor libOSMesa, expected one of them for rendering without a screen; {_GL_REMEDY}.")


def downsample(rgb: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The picture as the model's camera pipeline shrinks it: uint8 [side, side, 3] by area averaging."""
    return cv2.resize(rgb, (side, side), interpolation=cv2.INTER_AREA).astype(np.uint8)
