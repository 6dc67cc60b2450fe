# SPDX-License-Identifier: Apache-2.0
"""A robot arm with a camera, simulated: Meta-World's Sawyer in MuJoCo, commanded at 20 Hz like a real robot's driver would be.

Meta-World controls the hand at 80 Hz by moving a point that the hand is tied to, at most 1 cm per axis and control step. Here a
command is the absolute place that point shall have at the end of a 50 ms interval; it gets there in a straight line of four
control steps. An episode has no step limit and is never reset: all that moves is moved by the commands.

The camera is Meta-World's ``corner2``, closer to the table and aimed at its middle, without the markers that give goals away.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from longscape_ros.errors import HostError, InputError

if TYPE_CHECKING:
    import mujoco

FPS = 20
"""Frames and commands per second."""

CONTROL_STEPS = 4
"""Meta-World's control steps (80 Hz) per frame."""

STRIDE_M = 0.01
"""The farthest the commanded point moves per axis and control step."""

COMMAND_NAMES = ("hand_x", "hand_y", "hand_z", "gripper")
"""The command's numbers: where the hand shall be, in metres, and the gripper from 0 (open) to 1 (closed)."""

CAMERA = "corner2"
CAMERA_POSITION_M = (0.75, 0.075, 0.7)
CAMERA_LOOKS_AT_M = (0.02, 0.66, 0.17)
CAMERA_FOV_DEG = 46.0
CAMERA_FRAME = "camera_optical_frame"


ARM_JOINTS = tuple(f"right_j{i}" for i in range(7))
POSTURE_RAD = (1.889, -0.576, -0.977, 1.642, 0.943, 1.044, 2.293)
"""The arm's joints with the hand over the middle of the table."""

POSTURE_STIFFNESS = 20.0
"""Newton metres per radian."""

TABLE_LOW_M = (-0.3, 0.4)
TABLE_HIGH_M = (0.3, 0.9)
"""Least and largest x, y that a loose object is taken to."""

LEAST_LEVER_M = 0.03
"""What hangs on a hinge is taken to be at least so far from it."""

_FREE, _HINGE = 0, 3
"""mujoco.mjtJoint."""

STALE_AT_FIRST = ("drawer-open",)
"""Tasks whose first frame shows objects where they were before the seed placed them, as Meta-World leaves it: episodes of this one
have been published so, and stay the same."""


class SimulatedArm:
    """One episode of a task: the arm, its objects, and the camera.

    Arms of the same task and seed that get the same commands stay equal, bit for bit, with a camera or without.

    Args:
        task: Meta-World's name without the version, for example ``drawer-open``.
        seed: Of the objects' first places.
        image_size: Height and width of the camera's images in pixels; None: no camera, and no graphics library is needed.

    Raises:
        InputError: There is no such task.
        HostError: Meta-World or a graphics library is missing.
    """

    def __init__(self, task: str, seed: int, image_size: int | None = None) -> None:
        if image_size is not None and not 16 <= image_size <= 480:
            raise InputError(f"Got image size {image_size}, expected 16 to 480 pixels.")
        _prepare_graphics(needed=image_size is not None)
        self.task = task
        self.seed = seed
        self._env = _environment_class(task)(seed=seed)
        import mujoco  # after Meta-World: where both are missing, it is Meta-World that is to be installed

        self._model: mujoco.MjModel = self._env.model
        self._data: mujoco.MjData = self._env.data
        hold_posture(self._model)
        if task not in STALE_AT_FIRST:
            mujoco.mj_kinematics(self._model, self._data)
        self._camera = None if image_size is None else Camera(self._model, self._data, image_size)

    @property
    def workspace(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lowest and highest x, y, z of commands, in metres; what lies outside is clipped."""
        return self._env.mocap_low.copy(), self._env.mocap_high.copy()

    @property
    def target(self) -> NDArray[np.float64]:
        """float64 [3], the point that the hand is tied to: what was commanded last, as far as it was within reach."""
        return np.array(self._data.mocap_pos[0])

    @property
    def hand(self) -> NDArray[np.float64]:
        """float64 [3], where the hand is, in metres."""
        return np.array(self._data.body("hand").xpos)

    @property
    def gripper(self) -> float:
        """How closed the fingers are: 0 open, 1 closed."""
        gap = np.linalg.norm(self._data.body("rightclaw").xpos - self._data.body("leftclaw").xpos)
        return float(np.clip(1.0 - gap / 0.1, 0.0, 1.0))

    @property
    def measured(self) -> NDArray[np.float64]:
        """float64 [4], the hand's place and the gripper: what was measured, in the command's order."""
        return np.append(self.hand, self.gripper)

    @property
    def object(self) -> NDArray[np.float64]:
        """float64 [3], where the task's object is (its handle, button, puck or tool), in metres."""
        return np.array(self._env._get_pos_objects()[:3])

    @property
    def goal(self) -> NDArray[np.float64]:
        """float64 [3], where the task itself wants its object, in metres."""
        return np.array(self._env._target_pos)

    def observation(self, goal: NDArray[np.float64], sight: str | None = None) -> NDArray[np.float64]:
        """float64 [39], what Meta-World's scripted experts look at.

        Args:
            goal: float64 [3], in metres, of one's own.
            sight: A task with the same scene, whose idea of where the object is is taken: to pull a handle is to look at another
                part of it than to press it. None: this task's.
        """
        observation = np.concatenate([self._env._get_obs()[:36], goal])
        if sight is not None and sight != self.task:
            observation[4:7] = _environment_class(sight)._get_pos_objects(self._env)[:3]
        return observation

    def step(self, command: NDArray[np.float64]) -> None:
        """Executes one command for 50 ms.

        Args:
            command: float64 [4], see :data:`COMMAND_NAMES`; the hand moves at most 4 cm per axis, within the workspace.
        """
        import mujoco

        effort = 1.0 if command[3] > 0.5 else -1.0
        self._data.ctrl[:] = (effort, -effort)
        start = self.target
        goal = np.clip(command[:3], self._env.mocap_low, self._env.mocap_high)
        for step in range(1, CONTROL_STEPS + 1):
            way = start + (goal - start) * (step / CONTROL_STEPS) - self._data.mocap_pos[0]
            self._data.mocap_pos[0] += np.clip(way, -STRIDE_M, STRIDE_M)
            mujoco.mj_step(self._model, self._data, self._env.frame_skip)
        mujoco.mj_forward(self._model, self._data)

    def bump_object(self, speed: float, angle: float) -> None:
        """Gives the object a speed at once, as a blow would.

        Args:
            speed: In metres per second.
            angle: Where to, radians from x, of an object that lies loose; one on a joint goes where the joint has more room.
        """
        kind, at, velocity, way = self._object_joint()
        if kind == _FREE:
            self._data.qvel[velocity : velocity + 2] += speed * np.array([np.cos(angle), np.sin(angle)])
        else:
            self._data.qvel[velocity] += speed * np.sign(way) / self._lever(kind, at)

    def move_object(self, distance: float, angle: float) -> None:
        """Takes the object elsewhere, at rest.

        Args:
            distance: In metres; one on a joint goes no farther than the joint does.
            angle: See :meth:`bump_object`; it goes the opposite way where it would leave the workspace.
        """
        import mujoco

        kind, at, velocity, way = self._object_joint()
        address = self._model.jnt_qposadr[at]
        if kind == _FREE:
            shift = distance * np.array([np.cos(angle), np.sin(angle)])
            place = self._data.qpos[address : address + 2]
            low, high = np.array(TABLE_LOW_M), np.array(TABLE_HIGH_M)
            shift = np.where((place + shift < low) | (place + shift > high), -shift, shift)
            self._data.qpos[address : address + 2] += shift
            self._data.qvel[velocity : velocity + 6] = 0
        else:
            travel = min(distance / self._lever(kind, at), abs(way))
            self._data.qpos[address] += travel * np.sign(way)
            self._data.qvel[velocity] = 0
        mujoco.mj_forward(self._model, self._data)

    def _object_joint(self) -> tuple[int, int, int, float]:
        """Type, index and first velocity of the joint that the object moves on, and the way that it has there."""
        model, data = self._model, self._data
        robot = model.body_rootid[model.body("hand").id]
        joints = [j for j in range(model.njnt) if model.body_rootid[model.jnt_bodyid[j]] != robot]
        if not joints:
            raise InputError(f"Got the task {self.task}, whose object cannot be moved; expected another one.")
        at = min(joints, key=lambda j: float(np.linalg.norm(data.xipos[model.jnt_bodyid[j]] - self.object)))
        low, high = model.jnt_range[at] if model.jnt_limited[at] else (-np.inf, np.inf)
        here = data.qpos[model.jnt_qposadr[at]]
        way = high - here if high - here >= here - low else low - here
        return int(model.jnt_type[at]), at, int(model.jnt_dofadr[at]), float(way)

    def _lever(self, kind: int, at: int) -> float:
        """Metres that the object moves per unit of its joint."""
        if kind != _HINGE:
            return 1.0
        away = self.object - self._data.xanchor[at]
        return max(LEAST_LEVER_M, float(np.linalg.norm(np.cross(self._data.xaxis[at], away))))

    def render(self) -> NDArray[np.uint8]:
        """uint8 RGB [H, W, 3], what the camera sees now."""
        assert self._camera is not None, "an arm without a camera cannot render"
        return self._camera.render(self._data)

    def intrinsics(self) -> NDArray[np.float64]:
        """float64 [3, 3], the camera's matrix in pixels."""
        assert self._camera is not None, "an arm without a camera has no intrinsics"
        return self._camera.intrinsics()

    def state(self) -> NDArray[np.float64]:
        """The simulation's state, for :meth:`restore`."""
        import mujoco

        state = np.empty(mujoco.mj_stateSize(self._model, _STATE))
        mujoco.mj_getState(self._model, self._data, state, _STATE)
        return state

    def restore(self, state: NDArray[np.float64]) -> None:
        """Takes over the state of an arm of the same task and seed."""
        import mujoco

        mujoco.mj_setState(self._model, self._data, state, _STATE)
        mujoco.mj_forward(self._model, self._data)  # what follows from the state, but it also moves the solver's starting point
        mujoco.mj_setState(self._model, self._data, state, _STATE)

    def close(self) -> None:
        """Frees the camera's graphics memory."""
        if self._camera is not None:
            self._camera.close()


def hold_posture(model: mujoco.MjModel) -> None:
    """Ties the arm's joints to their middle posture by weak springs.

    The arm has a joint more than the hand's place and direction take; without springs its elbow wanders over minutes into odd
    folds that depend on all that came before.
    """
    for joint, angle in zip(ARM_JOINTS, POSTURE_RAD, strict=True):
        model.jnt_stiffness[model.joint(joint).id] = POSTURE_STIFFNESS
        model.qpos_spring[model.joint(joint).qposadr[0]] = angle


class Camera:
    """Renders the scene off screen; about 10 ms per image on one core without a GPU, thanks to what is switched off.

    Args:
        model: The scene; its camera is moved, and its render quality lowered.
        data: Its state, in which the camera is where it now belongs, before the first step too.
        size: Height and width in pixels.
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, size: int) -> None:
        import mujoco

        model.vis.quality.offsamples = 0
        model.vis.quality.shadowsize = 0
        camera = model.camera(CAMERA)
        camera.pos[:] = CAMERA_POSITION_M
        mujoco.mju_mat2Quat(camera.quat, _looking(CAMERA_POSITION_M, CAMERA_LOOKS_AT_M).ravel())
        camera.fovy[:] = CAMERA_FOV_DEG
        mujoco.mj_camlight(model, data)
        self._size = size
        self._renderer = mujoco.Renderer(model, size, size, max_geom=2000)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._renderer.scene.flags[flag] = False
        self._options = mujoco.MjvOption()
        self._options.sitegroup[:] = 0

    def render(self, data: mujoco.MjData) -> NDArray[np.uint8]:
        self._renderer.update_scene(data, CAMERA, self._options)
        return np.asarray(self._renderer.render(), dtype=np.uint8)

    def intrinsics(self) -> NDArray[np.float64]:
        focal = self._size / 2 / np.tan(np.radians(CAMERA_FOV_DEG) / 2)
        centre = (self._size - 1) / 2
        return np.array([[focal, 0.0, centre], [0.0, focal, centre], [0.0, 0.0, 1.0]])

    def close(self) -> None:
        self._renderer.close()


def _looking(place: tuple[float, float, float], at: tuple[float, float, float]) -> NDArray[np.float64]:
    """float64 [3, 3], the axes of an upright camera (right, up, backwards) as columns."""
    back = np.subtract(place, at)
    back /= np.linalg.norm(back)
    right = np.cross((0.0, 0.0, 1.0), back)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(back, right), back], axis=1)


_STATE = 8191
"""mujoco.mjtState.mjSTATE_INTEGRATION: all that the next step depends on."""


def choose_graphics() -> str:
    """Makes MuJoCo render off screen; call it before MuJoCo is first imported, or set MUJOCO_GL yourself.

    Returns:
        ``egl``, ``osmesa``, or what MUJOCO_GL says.

    Raises:
        HostError: Neither library works.
    """
    chosen = os.environ.get("MUJOCO_GL")
    if chosen:
        return chosen
    faults = []
    for library in ("egl", "osmesa"):
        trial = subprocess.run(
            [sys.executable, "-c", "import mujoco; mujoco.GLContext(16, 16).make_current()"],
            env={**os.environ, "MUJOCO_GL": library},
            capture_output=True,
            text=True,
            check=False,
        )
        if trial.returncode == 0:
            os.environ["MUJOCO_GL"] = library
            return library
        faults.append(f"{library}: {(trial.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    raise HostError(
        f"Got no way to render without a screen ({'; '.join(faults)}), expected EGL or OSMesa. Install them, on Debian and Ubuntu with: "
        "apt-get install -y libegl1 libgl1 libgl1-mesa-dri"
    )


_SAY_RENDERER = """
import mujoco
context = mujoco.GLContext(16, 16)
context.make_current()
from OpenGL import GL
print(GL.glGetString(GL.GL_RENDERER).decode())
"""


def describe_graphics() -> str:
    """What renders off screen: the library and, where it tells, the device.

    Returns:
        For example ``egl: NVIDIA H100 80GB HBM3/PCIe/SSE2``; ``llvmpipe`` and ``softpipe`` are Mesa's renderers on the CPU.

    Raises:
        HostError: Neither library works.
    """
    library = choose_graphics()
    told = subprocess.run([sys.executable, "-c", _SAY_RENDERER], capture_output=True, text=True, check=False)
    return f"{library}: {told.stdout.strip()}" if told.returncode == 0 else library


def _prepare_graphics(needed: bool) -> None:
    """MuJoCo fixes the graphics library when it is imported: an arm without a camera must not spoil it for a later one with."""
    try:
        choose_graphics()
    except HostError:
        if needed:
            raise


def _environment_class(task: str) -> Any:
    try:
        from metaworld import env_dict
    except ImportError as error:
        raise HostError(f"Got no simulator ({error}), expected Meta-World; install it with: pip install 'longscape_ros[sim]'") from error
    name = f"{task}-v3-goal-observable"
    environments: Mapping[str, Any] = env_dict.ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE
    if name not in environments:
        known = ", ".join(sorted(n.removesuffix("-v3-goal-observable") for n in environments))
        raise InputError(f"Got task {task!r}, expected one of {known}.")
    return environments[name]
