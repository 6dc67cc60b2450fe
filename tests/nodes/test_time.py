# SPDX-License-Identifier: Apache-2.0
"""The predictor and time: bags played with /clock at any rate, clocks that stand, jump or differ, and images dated by their arrival."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.player import Player, SimulatedClock
from support.robot import IMAGE_TOPIC, NAMES, STEP_NS, TRAJECTORY_TOPIC, message_class, sway

from longscape_ros.bags.writer import BagWriter, bag_types
from longscape_ros.contract import NANOSECONDS, Prediction, Status
from longscape_ros.messages import (
    IMAGE,
    JOINT_TRAJECTORY,
    PREDICTED_VIDEO,
    duration_message,
    image_message,
    nanoseconds,
    prediction_from_message,
    time_message,
)
from longscape_ros.offline import replay

DIAGNOSTICS = "diagnostic_msgs/msg/DiagnosticArray"
T0 = 1000 * NANOSECONDS
IMAGES = 24
PLAN_EVERY = 8
OK, WARN, STALE = 0, 1, 3


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recorded session: images at 20 Hz, and plans that come 0.2 s before they start."""
    classes, random, empty = bag_types(), np.random.default_rng(0), np.empty(0)
    path = tmp_path_factory.mktemp("bags") / "run.mcap"
    point = classes("trajectory_msgs/msg/JointTrajectoryPoint")
    with BagWriter(path) as writer:
        for step in range(IMAGES):
            at_ns = T0 + step * STEP_NS
            if step % PLAN_EVERY == 0:
                points = [
                    point(positions=row, velocities=empty, accelerations=empty, effort=empty, time_from_start=duration_message(k, classes))
                    for k, row in zip(range(STEP_NS, 97 * STEP_NS, STEP_NS), sway(step, 96), strict=True)
                ]
                header = classes("std_msgs/msg/Header")(stamp=time_message(at_ns + 4 * STEP_NS, classes), frame_id="")
                message = classes(JOINT_TRAJECTORY)(header=header, joint_names=list(NAMES), points=points)
                writer.write(TRAJECTORY_TOPIC, JOINT_TRAJECTORY, at_ns + 1_000_000, message)
            rgb = random.integers(0, 256, (30, 45, 3), np.uint8)
            writer.write(IMAGE_TOPIC, IMAGE, at_ns + 3_000_000, image_message(rgb, at_ns, "camera", classes))
    return path


class Rig:
    """A predictor on simulated time, and what it says."""

    def __init__(self, graph: Any, bundle: Any, state: Callable[[Any], str], **parameters: Any) -> None:
        defaults = {"use_sim_time": True, "input_qos": "reliable", "prediction_format": "png", "diagnostic_updater__period": 0.1}
        self.robot = graph.robot()
        self.node = graph.predictor(bundle, **{**defaults, **parameters})
        self.robot.until(lambda: state(self.node) == "active")
        self.diagnostics = self.robot.listen("/diagnostics", DIAGNOSTICS)
        self.videos = self.robot.listen("/predictor/prediction", PREDICTED_VIDEO)
        self.robot.until(lambda: self.diagnostics and self.robot.node.count_subscribers("/predictor/prediction"))

    @property
    def counters(self) -> dict[str, int]:
        return self.node._session.report("active").counters

    def player(self, bag: Path) -> Player:
        return Player(self.robot, bag, lambda images: self.counters["images" if images else "commands"], self.now_ns)

    def now_ns(self) -> int:
        return int(self.node.get_clock().now().nanoseconds)

    def said(self, part: str, since: int = 0) -> list[tuple[int, str]]:
        """Level and message of a part in the diagnostics, one after the other."""
        statuses = [status for message in self.diagnostics[since:] for status in message.status if status.name == f"predictor: {part}"]
        return [(status.level[0], status.message) for status in statuses]

    def says(self, part: str, text: str) -> None:
        """Waits until the diagnostics say something of a part."""
        self.robot.until(lambda: self.said(part) and text in self.said(part)[-1][1])

    def predicted(self) -> dict[int, Prediction]:
        """Predictions since the last call by anchor, when all that was asked for is done."""

        def done() -> bool:
            counts = self.counters
            return counts["requests"] == counts["predictions"] + counts["requests_dropped"]

        self.robot.until(done)
        for _ in range(10):
            self.robot.spin()  # what was published is under way
        found = {prediction.anchor_ns: prediction for prediction in map(prediction_from_message, self.videos)}
        self.videos.clear()
        return found


def compare(found: dict[int, Prediction], expected: dict[int, Prediction]) -> int:
    """How many predictions knew the same plan as those of the same anchors; these must be equal."""
    alike = [(p, expected[anchor]) for anchor, p in found.items() if p.plan_stamp_ns == expected[anchor].plan_stamp_ns]
    for one, other in alike:
        assert np.array_equal(one.frames, other.frames)
        assert (one.seed, one.experts, one.assumed_from) == (other.seed, other.experts, other.assumed_from)
    return len(alike)


# Bags at any rate


def test_a_bag_played_in_a_loop_at_any_rate_gives_the_predictions_of_its_replay(graph, bundle, state, bag):
    rig = Rig(graph, bundle, state, image_timeout=0.5)
    replayed = {p.anchor_ns: p for p in replay(bundle, bag, every=0.0, backend="ort_cpu")}
    player = rig.player(bag)
    for turn, rate in enumerate((None, 10.0, 1.0, 0.25)):
        player.play(rate)
        found = rig.predicted()
        assert found, rate
        assert {prediction.status for prediction in found.values()} == {Status.OK}
        assert compare(found, replayed) == len(found)
        counts = rig.counters
        assert counts["clock_jumps"] == turn, "once for every time that the bag began anew"
        assert [counts[name] for name in ("images_stale", "commands_stale", "frames_ahead", "frames_out_of_order", "plans_past")] == [0] * 5
    assert len(found) > IMAGES // 2, "at a quarter of the speed nearly all images are predicted from"


def test_while_a_bag_is_paused_nothing_is_stale_and_then_it_goes_on(graph, bundle, state, bag):
    rig = Rig(graph, bundle, state, image_timeout=0.3)
    replayed = {p.anchor_ns: p for p in replay(bundle, bag, every=0.0, backend="ort_cpu")}
    player = rig.player(bag)
    half = len(player.messages) // 2
    player.play(1.0, player.messages[:half])
    before = rig.predicted()
    paused_at = len(rig.diagnostics)
    rig.says("clock", "simulated time has stood still for 1.")
    assert STALE not in [level for level, _ in rig.said("camera", paused_at)]
    assert rig.said("camera")[-1] == (OK, "no image, for simulated time stands still")
    assert rig.said("clock")[-1][0] == WARN
    player.play(1.0, player.messages[half:])
    after = rig.predicted()
    assert before
    assert max(after) > max(before)
    assert compare(before | after, replayed) == len(before | after)
    rig.says("clock", "simulated time has stood still for 1.")
    assert (OK, "follows /clock") in rig.said("clock", paused_at)
    assert [rig.counters[name] for name in ("clock_jumps", "images_stale", "segmentation_restarts")] == [0, 0, 0]


# Clocks


def test_before_the_first_clock_the_node_says_that_it_waits_and_commands_are_kept(graph, bundle, state):
    rig = Rig(graph, bundle, state, input_qos="sensor_data")
    rig.robot.connect()
    rig.says("clock", "nothing has come on /clock; play the bag with 'ros2 bag play --clock'")
    assert rig.said("clock")[-1][0] == STALE
    rig.robot.plan(start_ns=T0, steps=200)
    rig.robot.until(lambda: rig.counters["messages_before_clock"] == 1)
    rig.robot.image(T0)
    rig.robot.until(lambda: rig.counters["messages_before_clock"] == 2)
    assert rig.counters["images"] == rig.counters["commands"] == 0
    clock = SimulatedClock(rig.robot)
    show(rig, clock, T0 + STEP_NS)
    rig.robot.image(T0 + STEP_NS)
    rig.robot.until(lambda: rig.videos)
    prediction = prediction_from_message(rig.videos[0])
    assert (prediction.anchor_ns, prediction.status, prediction.plan_stamp_ns) == (T0 + STEP_NS, Status.OK, T0)
    assert [rig.counters[name] for name in ("commands", "clock_jumps", "images_stale")] == [1, 0, 0]


def show(rig: Rig, clock: SimulatedClock, now_ns: int) -> None:
    """Sets the node's clock."""
    rig.robot.until(lambda: (clock.show(now_ns), rig.now_ns() == now_ns)[1])


def steps(rig: Rig, clock: SimulatedClock, begin_ns: int, count: int) -> None:
    """A plan and some images, each taken before the next."""
    for step in range(count):
        show(rig, clock, begin_ns + step * STEP_NS)
        if step == 0:
            rig.robot.plan(start_ns=begin_ns, steps=200)
        before = rig.counters["images"]
        rig.robot.image(begin_ns + step * STEP_NS, shade=step)
        rig.robot.until(lambda before=before: rig.counters["images"] > before)


def test_after_a_large_forward_jump_of_the_clock_the_node_goes_on(graph, bundle, state):
    rig = Rig(graph, bundle, state, input_qos="sensor_data")
    rig.robot.connect()
    clock = SimulatedClock(rig.robot)
    steps(rig, clock, T0, 6)
    assert rig.predicted()
    steps(rig, clock, T0 + 3600 * NANOSECONDS, 6)
    found = rig.predicted()
    assert min(found) >= T0 + 3600 * NANOSECONDS
    assert {prediction.status for prediction in found.values() if prediction.plan_stamp_ns > T0} == {Status.OK}
    assert [rig.counters[name] for name in ("clock_jumps", "images_stale", "segmentation_restarts")] == [0, 0, 1]


def test_a_camera_that_falls_silent_is_stale_by_simulated_time(graph, bundle, state):
    rig = Rig(graph, bundle, state, input_qos="sensor_data", image_timeout=2.0)
    rig.robot.connect()
    clock = SimulatedClock(rig.robot)
    steps(rig, clock, T0, 3)
    begin = len(rig.diagnostics)
    rig.robot.until(lambda: len(rig.diagnostics) > begin + 3)
    assert STALE not in [level for level, _ in rig.said("camera", begin)]
    show(rig, clock, T0 + 60 * NANOSECONDS)
    rig.says("camera", "no image for 59.9 s")


def test_images_from_the_time_before_a_loop_that_come_late_do_not_disturb(graph, bundle, state):
    rig = Rig(graph, bundle, state, input_qos="sensor_data")
    rig.robot.connect()
    clock = SimulatedClock(rig.robot)
    steps(rig, clock, T0 + 100 * NANOSECONDS, 3)
    steps(rig, clock, T0, 3)
    rig.robot.image(T0 + 100 * NANOSECONDS + 4 * STEP_NS)
    rig.robot.until(lambda: rig.counters["frames_ahead"] == 1)
    rig.predicted()
    rig.robot.image(T0 + 3 * STEP_NS)
    rig.robot.until(lambda: T0 + 3 * STEP_NS in rig.predicted())
    assert rig.counters["clock_jumps"] == 1


# Cameras with a clock of their own


@pytest.mark.parametrize("off_s", [-3600, 3600])
def test_a_camera_that_is_not_synchronized_is_noticed_and_the_remedy_named(graph, bundle, state, capfd, off_s):
    rig = Rig(graph, bundle, state, input_qos="sensor_data", use_sim_time=False)
    rig.robot.connect()
    rig.robot.plan()
    counter = "frames_ahead" if off_s > 0 else "images_stale"
    rig.robot.until(lambda: (rig.robot.image(rig.robot.now_ns() + off_s * NANOSECONDS), rig.counters[counter] >= 5)[1])
    rig.says("camera", "synchronize the camera's clock, or set image_stamp to receive")
    rig.robot.until(lambda: "set image_stamp to receive" in capfd.readouterr().err)
    found = rig.predicted()
    assert found == {}, "images from the future are left out, and before the first command nothing is known"


@pytest.mark.parametrize("off_s", [-3600, 3600])
def test_images_dated_by_their_arrival_make_the_same_of_any_stamp_and_all_outputs_agree(graph, bundle, state, off_s):
    rig = Rig(graph, bundle, state, input_qos="sensor_data", use_sim_time=False, image_stamp="receive", image_latency=0.05)
    robot = rig.robot
    robot.connect()
    kinds = {"filmstrip": IMAGE, "image": IMAGE, "camera_info": "sensor_msgs/msg/CameraInfo"}
    outputs = [robot.listen(f"/predictor/prediction/{name}", kind) for name, kind in kinds.items()]
    surprises = robot.listen("/predictor/surprise", "longscape_msgs/msg/Surprise")
    info: Any = message_class(kinds["camera_info"])(height=48, width=72, k=np.array([60.0, 0, 36, 0, 60, 24, 0, 0, 1]))
    camera = robot.node.create_publisher(message_class(kinds["camera_info"]), "/camera/camera_info", 10)
    robot.until(camera.get_subscription_count)
    camera.publish(info)
    begin_ns = robot.now_ns()
    robot.plan(steps=200)

    def stamps(messages: list[Any]) -> set[int]:
        return {nanoseconds(message.header.stamp) for message in messages}

    def complete() -> set[int]:
        robot.image(robot.now_ns() + off_s * NANOSECONDS)
        for _ in range(5):
            robot.spin()
        return set.intersection(*map(stamps, [rig.videos, *outputs, surprises]))

    robot.until(complete)
    counts = rig.counters
    assert [counts[name] for name in ("images_stale", "frames_ahead", "clock_jumps", "images_invalid")] == [0] * 4
    assert all(begin_ns - 50_000_000 <= stamp <= robot.now_ns() - 50_000_000 for stamp in stamps(rig.videos))
    assert {prediction.status for prediction in rig.predicted().values()} == {Status.OK}
