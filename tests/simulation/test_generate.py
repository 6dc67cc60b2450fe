# SPDX-License-Identifier: Apache-2.0
"""Recorded episodes: the same again for the same seed, what is in a bag, and processes that end when they should."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

import longscape_ros
from longscape_ros.bags.mapping import load_mapping
from longscape_ros.bags.reader import find_bags, raw_messages, read_episode
from longscape_ros.bags.reader import topics as topics_of
from longscape_ros.bags.writer import bag_store
from longscape_ros.commands.generate import SPLIT_FILE, SPLITS, read_split
from longscape_ros.contract import ActionSpace
from longscape_ros.errors import InputError
from longscape_ros.messages import nanoseconds
from longscape_ros.simulation import topics
from longscape_ros.simulation.generate import (
    EPOCH_NS,
    IMAGE_DELAY_NS,
    PLAN_LEAD_NS,
    EpisodeConfig,
    Recording,
    generate,
    halve,
    record,
    statistics,
    write_bag,
)
from longscape_ros.simulation.skills import SKILLS
from longscape_ros.timeline import episode_grid

ROOT = Path(longscape_ros.__file__).parent.parent
FRAMES = 100
HELD_OUT = EpisodeConfig("drawer-open", seed=9000, image_size=32, frames=FRAMES)


@pytest.fixture(scope="module")
def recording(graphics: None) -> Recording:
    """The beginning of a held-out episode."""
    return record(HELD_OUT)


@pytest.fixture(scope="module")
def bag(recording: Recording, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bags") / HELD_OUT.name
    write_bag(path, recording, SKILLS[HELD_OUT.task].instruction)
    return path


@pytest.fixture(scope="module")
def generated(graphics: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes as ``generate`` leaves them."""
    folder = tmp_path_factory.mktemp("generated")
    generate(("reach", "push"), episodes=1, seed=9001, image_size=16, output=folder, frames=20, workers=2)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# What is recorded


def test_the_arm_moves_in_seventy_percent_of_every_32_frames(recording):
    places = recording.commands[:FRAMES, :3]
    moving = np.abs(np.diff(places, axis=0)).max(axis=1) > 0.001
    shares = [moving[start : start + 32].mean() for start in range(len(moving) - 31)]
    assert min(shares) >= 0.7
    figures = statistics(recording)
    assert figures["moving_worst"] == pytest.approx(min(shares))
    assert figures["moving"] == pytest.approx(moving.mean())
    assert figures["gripper_flips"] == np.abs(np.diff(recording.commands[:FRAMES, 3])).sum()
    assert 0 < figures["lag_p95_m"] < 0.1


def test_still_episodes_are_told(recording):
    still = Recording(recording.images, recording.measured, recording.objects, np.ones_like(recording.commands), recording.intrinsics)
    assert (statistics(still)["moving"], statistics(still)["moving_worst"], statistics(still)["gripper_flips"]) == (0, 0, 0)


def test_an_image_is_the_mean_of_four_pixels_each():
    image = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    means = image.reshape(4, 2, 6, 2, 3).mean(axis=(1, 3))
    assert np.abs(halve(image) - means).max() <= 0.5


def test_images_in_the_bag_are_lossless(recording, bag):
    kept = [bag_store().deserialize_cdr(message.data, message.type) for message in raw_messages(bag, {topics.COMPRESSED_TOPIC})]
    assert all("png" in message.format and bytes(message.data[:4]) == b"\x89PNG" for message in kept)
    episode = read_episode(bag, topics.mapping(recorded=True))
    np.testing.assert_array_equal([frame.rgb for frame in episode.frames], recording.images)
    assert (recording.images[0] != recording.images[-1]).any()


def test_the_bag_has_a_real_robots_topics_and_stamps(recording, bag):
    assert topics_of(bag) == {
        topics.INSTRUCTION_TOPIC: topics.STRING,
        topics.TRAJECTORY_TOPIC: topics.TRAJECTORY,
        topics.COMPRESSED_TOPIC: topics.COMPRESSED_IMAGE,
        topics.CAMERA_INFO_TOPIC: topics.CAMERA_INFO,
        topics.JOINT_STATES_TOPIC: topics.JOINT_STATE,
    }
    messages = list(raw_messages(bag))
    assert [message.received_ns for message in messages] == sorted(message.received_ns for message in messages)
    stamps = EPOCH_NS + topics.PERIOD_NS * np.arange(FRAMES)
    for topic in (topics.COMPRESSED_TOPIC, topics.CAMERA_INFO_TOPIC, topics.JOINT_STATES_TOPIC):
        found = [(m.received_ns, bag_store().deserialize_cdr(m.data, m.type)) for m in messages if m.topic == topic]
        assert [nanoseconds(message.header.stamp) for _, message in found] == stamps.tolist()
        assert [received for received, _ in found] == (stamps + IMAGE_DELAY_NS).tolist()
        if topic == topics.JOINT_STATES_TOPIC:
            np.testing.assert_array_equal([message.position for _, message in found], recording.measured)
        if topic == topics.CAMERA_INFO_TOPIC:
            np.testing.assert_array_equal(found[0][1].k.reshape(3, 3), recording.intrinsics)
            assert (found[0][1].height, found[0][1].width) == recording.images.shape[1:3]


def test_plans_come_before_they_start_and_tell_exactly_what_is_executed(recording, bag):
    plans = read_episode(bag, topics.mapping(recorded=True)).plans
    assert [plan.start_ns for plan in plans] == [EPOCH_NS + k * topics.PERIOD_NS for k in range(0, FRAMES, topics.PLAN_EVERY)]
    for index, plan in enumerate(plans):
        first = index * topics.PLAN_EVERY
        assert plan.received_ns == plan.start_ns - PLAN_LEAD_NS
        np.testing.assert_array_equal(plan.times_ns, topics.PERIOD_NS * np.arange(1, topics.PLAN_STEPS + 1))
        np.testing.assert_array_equal(plan.values, recording.commands[first : first + topics.PLAN_STEPS])


def test_the_mapping_of_the_recordings_reads_them_back(recording, bag, generated):
    written = load_mapping(generated / "mapping.yaml")
    assert written == load_mapping("simulated_arm")
    calibrated = topics.mapping(recorded=True)
    assert (written.image_topic, written.action_sources, written.fps) == (calibrated.image_topic, calibrated.action_sources, topics.FPS)
    grid = episode_grid(read_episode(bag, written), ActionSpace(written.dimensions), written.fps, (32, 32))
    np.testing.assert_array_equal(grid.frames, recording.images)
    np.testing.assert_array_equal(grid.motion[1:], recording.commands[: FRAMES - 1])
    assert grid.instruction == "open and close the drawer"


# In parallel, and again


def test_the_same_seed_gives_the_same_bytes(generated, tmp_path):
    generate(("push", "reach"), episodes=1, seed=9001, image_size=16, output=tmp_path, frames=20, workers=1)
    assert content(tmp_path) == content(generated)
    assert len(content(tmp_path)) == 5
    config = EpisodeConfig("reach", seed=9001, image_size=16, frames=20)
    write_bag(tmp_path / "here" / config.name, record(config), SKILLS["reach"].instruction)
    assert content(tmp_path / "here" / config.name) == content(generated / config.name)


def test_episodes_that_are_there_are_not_made_again(generated, tmp_path):
    before = content(generated)
    told: list[tuple[int, int, str]] = []
    figures = generate(("reach", "push"), 1, 9001, 16, generated, frames=20, progress=lambda *report: told.append(report))
    assert told == []
    assert {name: figures[name] for name in ("episodes", "kept")} == {"episodes": 2, "kept": 2}
    assert content(generated) == before


def test_what_is_missing_is_made_and_the_figures_are_those_of_the_new_episodes(generated):
    (old, *_) = find_bags(generated / "push_9001")
    before = content(old)
    told: list[tuple[int, int, str]] = []
    figures = generate(("push",), 2, 9001, 16, generated, frames=20, workers=8, progress=lambda *report: told.append(report))
    assert told == [(2, 2, "push_9002")]
    assert figures.keys() == {"episodes", "kept", "seconds", "frames_per_s", *statistics(record(EpisodeConfig("push", 9002, 16, 2)))}
    assert (figures["episodes"], figures["kept"]) == (2, 1)
    assert 20 / figures["seconds"] < figures["frames_per_s"] < 10_000
    assert content(old) == before
    assert content(generated / "push_9002") != before


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"task": "juggle"}, "Got task 'juggle', expected one of reach, push"),
        ({"seed": -1}, "Got seed -1"),
        ({"frames": 1}, "Got 1 frames of 64 pixels"),
        ({"image_size": 241}, "Got 400 frames of 241 pixels, expected at least 2 frames of 8 to 240 pixels"),
    ],
)
def test_an_episode_out_of_range_is_refused(arguments, text):
    with pytest.raises(InputError, match=text):
        EpisodeConfig(**{"task": "reach", "seed": 1, **arguments})


def test_no_episodes_or_no_workers_are_refused_and_leave_no_folder(tmp_path):
    with pytest.raises(InputError, match="Got 0 tasks and 1 episodes"):
        generate((), 1, 0, 16, tmp_path / "out")
    with pytest.raises(InputError, match="Got -2 workers, expected at least one"):
        generate(("reach",), 1, 0, 16, tmp_path / "out", workers=-2)
    assert not (tmp_path / "out").exists()


# Processes


def processes(session: int) -> list[int]:
    """Processes of a session that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its_session = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:  # ended meanwhile
            continue
        if int(its_session) == session and state != "Z":
            found.append(int(path.parent.name))
    return found


def eventually(there: Callable[[], object], timeout_s: float = 60.0) -> bool:
    until_s = time.monotonic() + timeout_s
    while not there() and time.monotonic() < until_s:
        time.sleep(0.05)
    return bool(there())


@pytest.fixture
def working(graphics: None, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """``longscape generate`` in a session of its own, whose two workers have made an episode and go on for long."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("no /proc to look for processes in")
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    options = ["--tasks", "reach", "--episodes", "500", "--frames", "20", "--image-size", "16", "--workers", "2", "--output"]
    process = subprocess.Popen(
        [sys.executable, "-m", "longscape_ros", "generate", *options, str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert eventually(lambda: len(list((tmp_path / "out").glob("reach_*"))) >= 2)
        assert len(processes(process.pid)) >= 3
        yield process
    finally:
        for pid in processes(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.communicate()


def test_workers_end_when_their_parent_is_killed(working):
    working.kill()
    working.wait()
    assert eventually(lambda: not processes(working.pid))


def test_an_interrupt_ends_all_at_once_and_every_episode_is_complete(working, tmp_path):
    os.killpg(working.pid, signal.SIGINT)  # as a terminal does
    said = working.communicate(timeout=60)[1]
    assert working.returncode == 130
    assert said.splitlines()[-1] == "Interrupted."
    assert "Traceback" not in said
    assert eventually(lambda: not processes(working.pid))
    made = find_bags(tmp_path / "out")
    assert 2 <= len(made) < 500
    assert {len(read_episode(episode, topics.mapping(recorded=True)).frames) for episode in made} == {20}


def test_a_worker_that_is_killed_is_a_fault_of_one_line(working):
    workers = [pid for pid in processes(working.pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    said = working.communicate(timeout=60)[1]
    assert working.returncode == 2
    assert said.splitlines()[-1].startswith("longscape generate: Got a worker process that was killed")
    assert "use fewer --workers" in said
    assert "Traceback" not in said


# The committed split


def episodes(*splits: str) -> set[tuple[str, int]]:
    """Task and seed of each."""
    parts = [read_split(name) for name in splits]
    return {(task, part["seed"] + number) for part in parts for task in part["tasks"] for number in range(part["episodes"])}


def test_the_file_has_exactly_the_splits_that_the_command_offers():
    assert tuple(yaml.safe_load(SPLIT_FILE.read_text())["splits"]) == SPLITS


def test_no_held_out_episode_is_trained_on_and_no_transfer_task_at_all():
    trained = episodes("train", "benchmark-train")
    held_out = episodes("heldout", "benchmark-heldout", "benchmark-transfer")
    assert trained.isdisjoint(held_out)
    transfer = set(read_split("benchmark-transfer")["tasks"])
    assert transfer.isdisjoint(task for task, _ in trained)
    assert transfer.isdisjoint(sight for task, _ in trained for sight in SKILLS[task].sights)
    assert len(transfer) == 5


def test_the_benchmark_has_all_tasks_and_holds_out_seeds_of_each():
    train, held_out, transfer = (read_split(f"benchmark-{name}") for name in ("train", "heldout", "transfer"))
    assert train["tasks"] == held_out["tasks"]
    assert len(train["tasks"]) == 45
    assert sorted(train["tasks"] + transfer["tasks"]) == sorted(SKILLS)


def test_the_default_bundles_splits_are_what_it_was_made_of():
    tasks = ("reach", "push", "pick-place", "drawer-open", "button-press-topdown", "door-open")
    common = {"tasks": tasks, "frames": 400, "image_size": 64}
    assert read_split("train") == {**common, "seed": 1000, "episodes": 50}
    assert read_split("heldout") == {**common, "seed": 9000, "episodes": 4}


@pytest.mark.parametrize("name", SPLITS)
def test_every_task_of_a_split_can_be_recorded_in_both_sizes(name):
    part = read_split(name)
    for task in part["tasks"]:
        for size in (part["image_size"], 128):
            EpisodeConfig(task, part["seed"], size, part["frames"])
    assert len(part["tasks"]) == len(set(part["tasks"]))
    assert part["episodes"] > 0
