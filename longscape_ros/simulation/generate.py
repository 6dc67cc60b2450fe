# SPDX-License-Identifier: Apache-2.0
"""Episodes of the simulated robot as rosbag2 MCAP bags: the same topics, types and stamps a real robot would record."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from longscape_ros.bags.mapping import save_mapping
from longscape_ros.bags.writer import BagWriter, bag_types
from longscape_ros.contract import NANOSECONDS
from longscape_ros.errors import HostError, InputError
from longscape_ros.messages import compressed_message
from longscape_ros.simulation import topics
from longscape_ros.simulation.arm import CAMERA_FRAME, SimulatedArm, choose_graphics
from longscape_ros.simulation.disturbance import (
    EARLIEST_FRAME,
    LATEST_FRAMES,
    SHOWN_FRAMES,
    Disturbance,
    DisturbanceKind,
    DisturbedArm,
    choose_frame,
    report,
)
from longscape_ros.simulation.operator import Operator
from longscape_ros.simulation.skills import SKILLS

EPOCH_NS = 1_700_000_000 * NANOSECONDS
"""Stamp of each episode's first frame, so that the same episode is the same bag."""

IMAGE_DELAY_NS = 5_000_000
"""How long after its stamp an image is received."""

PLAN_LEAD_NS = 200_000_000
"""How long before its start a plan is received."""

CHANGED = 25
"""Of 255: what differs by more in a channel of a pixel is seen to differ."""

STILL_M = 0.001
"""What moves less between two frames counts as still."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EpisodeConfig:
    """One episode to be recorded.

    Args:
        task: See :data:`longscape_ros.simulation.skills.SKILLS`.
        seed: Of the objects' places and of what the operator does.
        image_size: Height and width in pixels.
        frames: How many.
        disturbance: Kind and size of what disturbs it, see :mod:`longscape_ros.simulation.disturbance`; None: nothing.
    """

    task: str
    seed: int
    image_size: int = 64
    frames: int = 400
    disturbance: tuple[DisturbanceKind, float] | None = None

    def __post_init__(self) -> None:
        if self.task not in SKILLS:
            raise InputError(f"Got task {self.task!r}, expected one of {', '.join(SKILLS)}.")
        if self.seed < 0:
            raise InputError(f"Got seed {self.seed}, expected zero or more.")
        if self.frames < 2 or not 8 <= self.image_size <= 240:
            raise InputError(f"Got {self.frames} frames of {self.image_size} pixels, expected at least 2 frames of 8 to 240 pixels.")
        if self.disturbance is not None and self.frames <= EARLIEST_FRAME + LATEST_FRAMES:
            least = EARLIEST_FRAME + LATEST_FRAMES + 1
            raise InputError(f"Got {self.frames} frames, expected at least {least} for one of them to be disturbed.")

    @property
    def name(self) -> str:
        """Of the bag."""
        plain = f"{self.task}_{self.seed}"
        return plain if self.disturbance is None else f"{plain}_{self.disturbance[0]}_{self.disturbance[1]:g}"


@dataclass(frozen=True, slots=True)
class Recording:
    """What happened in an episode of N frames.

    Args:
        images: uint8 [N, H, W, 3].
        measured: float64 [N, 4], where the hand and the gripper were at each frame.
        objects: float64 [N, 3].
        commands: float64 [N + PLAN_STEPS, 4]; row k is executed between frames k and k + 1.
        intrinsics: float64 [3, 3], the camera's matrix at the images' size.
        disturbance: What disturbed it; None: nothing.
        changed: Share of the pixels that it changed, of the images that follow, as far as that was looked at.
    """

    images: NDArray[np.uint8]
    measured: NDArray[np.float64]
    objects: NDArray[np.float64]
    commands: NDArray[np.float64]
    intrinsics: NDArray[np.float64]
    disturbance: Disturbance | None = None
    changed: tuple[float, ...] = ()


def generate(
    tasks: Sequence[str],
    episodes: int,
    seed: int,
    image_size: int,
    output: Path,
    frames: int = 400,
    workers: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    disturbance: tuple[DisturbanceKind, float] | None = None,
) -> dict[str, float]:
    """Records episodes in parallel processes, one bag each, in turns over the tasks; those already in the folder are kept.

    Args:
        tasks: See :data:`longscape_ros.simulation.skills.SKILLS`.
        episodes: Per task, with seeds ``seed``, ``seed + 1``...
        seed: The first.
        image_size: Height and width of the images in pixels. They are rendered at twice the size and averaged, as a live camera
            of twice the size would be.
        output: Folder for the bags ``<task>_<seed>`` and ``mapping.yaml``.
        frames: Per episode.
        workers: Processes; None: one per core.
        progress: Called with (episodes done, of how many, the newest one's name).
        disturbance: Kind and size of what disturbs each; episodes with no moment for it are left out.

    Returns:
        Flat figures: ``episodes``, ``kept``, ``undisturbed`` (left out), ``seconds``, and means over the new episodes as of
        :func:`record_bag`.

    Raises:
        InputError: There is no such task, or a number is out of range.
        HostError: Meta-World or a graphics library is missing, or a worker was killed.
    """
    configs = [EpisodeConfig(task, seed + i, image_size, frames, disturbance) for i in range(episodes) for task in tasks]
    if not configs:
        raise InputError(f"Got {len(tasks)} tasks and {episodes} episodes, expected at least one of each.")
    if workers is not None and workers < 1:
        raise InputError(f"Got {workers} workers, expected at least one.")
    choose_graphics()
    output.mkdir(parents=True, exist_ok=True)
    save_mapping(output / "mapping.yaml", topics.mapping(recorded=True))
    missing = [config for config in configs if not (output / config.name).is_dir()]
    kept = len(configs) - len(missing)
    began = time.monotonic()
    figures: list[dict[str, float]] = []
    for done, (name, figure) in enumerate(_in_parallel(missing, output, workers or os.cpu_count() or 1), start=1):
        if figure is not None:
            figures.append(figure)
        if progress is not None:
            progress(kept + done, len(configs), name)
    undisturbed = float(len(missing) - len(figures))
    means = {key: float(np.mean([figure[key] for figure in figures])) for key in (figures[0] if figures else {})}
    counts = {"episodes": float(len(configs)), "kept": float(kept)} | ({} if disturbance is None else {"undisturbed": undisturbed})
    return counts | {"seconds": time.monotonic() - began, **means}


def _in_parallel(configs: Sequence[EpisodeConfig], output: Path, workers: int) -> Iterator[tuple[str, dict[str, float] | None]]:
    if not configs:
        return
    spawn = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(min(workers, len(configs)), mp_context=spawn, initializer=_begin_worker) as pool:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # workers inherit it: Ctrl-C is this process's business
        waiting = {pool.submit(record_bag, config, output): config.name for config in configs}
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except BrokenProcessPool as error:
            raise HostError(
                "Got a worker process that was killed, perhaps for want of memory, expected it to finish its episode; "
                "use fewer --workers. The episodes so far are kept."
            ) from error
        except BaseException:  # nobody waits for the episodes that have begun
            for worker in set(multiprocessing.active_children()) - others:
                worker.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    """In a worker process: Mesa's software renderer starts no threads of its own, for the processes fill the cores already."""
    os.environ["LP_NUM_THREADS"] = "0"
    threading.Thread(target=_end_with_parent, name="parent-watch", daemon=True).start()


def _end_with_parent() -> None:
    """A pool's workers wait for work for ever if their parent is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has a parent"
    parent.join()
    os._exit(1)


def record_bag(config: EpisodeConfig, output: Path) -> dict[str, float] | None:
    """Records one episode into ``output / config.name``, which appears only when it is complete.

    Returns:
        Its :func:`statistics`, and ``frames_per_s``: how many frames this process recorded per second. None: there was no moment for
        the disturbance, and nothing is written.
    """
    began = time.monotonic()
    recording = record(config) if config.disturbance is None else record_disturbed(config, *config.disturbance)
    if recording is None:
        return None
    write_bag(output / config.name, recording, SKILLS[config.task].instruction)
    return {**statistics(recording), "frames_per_s": config.frames / (time.monotonic() - began)}


def record(config: EpisodeConfig) -> Recording:
    """Plays one episode, and goes on without a camera until the last plan is known."""
    arm = SimulatedArm(config.task, config.seed, 2 * config.image_size)
    operator = Operator(arm, config.seed)
    images, measured, objects, commands = [], [], [], []
    for _ in range(config.frames):
        images.append(halve(arm.render()))
        measured.append(arm.measured)
        objects.append(arm.object)
        commands.append(operator.command())
        arm.step(commands[-1])
    for _ in range(topics.PLAN_STEPS):
        commands.append(operator.command())
        arm.step(commands[-1])
    intrinsics = _intrinsics(arm)
    arm.close()
    return Recording(np.stack(images), np.stack(measured), np.stack(objects), np.stack(commands), intrinsics)


def record_disturbed(config: EpisodeConfig, kind: DisturbanceKind, size: float) -> Recording | None:
    """Plays one episode with the commands of the undisturbed one, and disturbs it; None: there is no moment for that."""
    commands, near = undisturbed(config.task, config.seed, config.frames)
    frame = choose_frame(kind, config.task, config.seed, commands, near)
    if frame is None:
        return None
    arm = SimulatedArm(config.task, config.seed, 2 * config.image_size)
    disturbance = Disturbance(kind, size, frame)
    disturbed = DisturbedArm(arm, disturbance)
    images, measured, objects, usual = [], [], [], []
    for k in range(config.frames):
        images.append(halve(arm.render()))
        measured.append(arm.measured)
        objects.append(arm.object)
        if k == frame:
            usual = _look_ahead(arm, commands[k : k + SHOWN_FRAMES])
        disturbed.step(commands[k])
    intrinsics = _intrinsics(arm)
    arm.close()
    changed = tuple(_changed(seen, expected) for seen, expected in zip(images[frame + 1 :], usual, strict=False))
    return Recording(np.stack(images), np.stack(measured), np.stack(objects), commands, intrinsics, disturbance, changed)


def undisturbed(task: str, seed: int, frames: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The commands float64 [N + PLAN_STEPS, 4], and how far the object is from the hand at each of N frames, float64 [N]."""
    arm = SimulatedArm(task, seed)
    operator = Operator(arm, seed)
    commands, near = [], []
    for _ in range(frames + topics.PLAN_STEPS):
        near.append(float(np.linalg.norm(arm.object - arm.hand)))
        commands.append(operator.command())
        arm.step(commands[-1])
    arm.close()
    return np.stack(commands), np.array(near[:frames])


def _look_ahead(arm: SimulatedArm, commands: NDArray[np.float64]) -> list[NDArray[np.uint8]]:
    """The images after each of some commands; the arm is then where it was before."""
    state = arm.state()
    images = []
    for command in commands:
        arm.step(command)
        images.append(halve(arm.render()))
    arm.restore(state)
    return images


def _changed(seen: NDArray[np.uint8], expected: NDArray[np.uint8]) -> float:
    """Share of the pixels that differ by more than :data:`CHANGED` in a channel."""
    difference = np.abs(seen.astype(np.int16) - expected)
    return float((difference.max(axis=2) > CHANGED).mean())


def _intrinsics(arm: SimulatedArm) -> NDArray[np.float64]:
    """float64 [3, 3], of images of half the size."""
    intrinsics = arm.intrinsics() * np.array([[0.5], [0.5], [1.0]])
    intrinsics[:2, 2] -= 0.25  # pixel centres: (u + 0.5) / 2 - 0.5
    return np.asarray(intrinsics)


def halve(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 [2h, 2w, 3] -> [h, w, 3], each pixel the mean of four."""
    height, width = image.shape[:2]
    return np.asarray(cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def statistics(recording: Recording) -> dict[str, float]:
    """How lively an episode is.

    ``moving``: share of frames in which the command moves; ``moving_worst``: the least such share in any 32 frames;
    ``gripper_flips``; ``object_moving``: share of frames in which the object moves; ``lag_p95_m``: the hand's distance from the
    command, exceeded in 5 % of the frames.
    """
    frames = len(recording.images)
    places = recording.commands[:frames, :3]
    moving = np.abs(np.diff(places, axis=0)).max(axis=1) > STILL_M
    window = min(32, len(moving))
    shares = np.convolve(moving, np.full(window, 1 / window), mode="valid")
    lag = np.linalg.norm(recording.measured[1:, :3] - places[:-1], axis=1)
    return {
        "moving": float(moving.mean()),
        "moving_worst": float(shares.min()),
        "gripper_flips": float(np.abs(np.diff(recording.commands[:frames, 3])).sum()),
        "object_moving": float((np.linalg.norm(np.diff(recording.objects, axis=0), axis=1) > STILL_M).mean()),
        "lag_p95_m": float(np.percentile(lag, 95)),
    }


def write_bag(path: Path, recording: Recording, instruction: str) -> None:
    """Writes a recording as a rosbag2 MCAP bag, messages in the order they are received."""
    with BagWriter(path) as bag:
        for received_ns, topic, kind, message in sorted(_messages(recording, instruction), key=lambda m: m[0]):
            bag.write(topic, kind, received_ns, message)


def _messages(recording: Recording, instruction: str) -> Iterator[tuple[int, str, str, Any]]:
    """Receive time, topic, type and message."""
    classes = bag_types()
    build = topics.RobotMessages(classes, np.array)
    yield EPOCH_NS - PLAN_LEAD_NS, topics.INSTRUCTION_TOPIC, topics.STRING, classes(topics.STRING)(data=instruction)
    if recording.disturbance is not None:
        begin_ns = EPOCH_NS + recording.disturbance.frame * topics.PERIOD_NS
        text = report(recording.disturbance, begin_ns, topics.PERIOD_NS, list(recording.changed))
        yield begin_ns + IMAGE_DELAY_NS, topics.DISTURBANCE_TOPIC, topics.STRING, classes(topics.STRING)(data=text)
    for k, image in enumerate(recording.images):
        stamp_ns = EPOCH_NS + k * topics.PERIOD_NS
        received_ns = stamp_ns + IMAGE_DELAY_NS
        if k % topics.PLAN_EVERY == 0:
            plan = build.trajectory(stamp_ns, recording.commands[k : k + topics.PLAN_STEPS])
            yield stamp_ns - PLAN_LEAD_NS, topics.TRAJECTORY_TOPIC, topics.TRAJECTORY, plan
        compressed = compressed_message(image, stamp_ns, CAMERA_FRAME, classes)
        yield received_ns, topics.COMPRESSED_TOPIC, topics.COMPRESSED_IMAGE, compressed
        info = build.camera_info(stamp_ns, recording.intrinsics, len(image))
        yield received_ns, topics.CAMERA_INFO_TOPIC, topics.CAMERA_INFO, info
        yield received_ns, topics.JOINT_STATES_TOPIC, topics.JOINT_STATE, build.joint_state(stamp_ns, recording.measured[k])
