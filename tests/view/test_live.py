# SPDX-License-Identifier: Apache-2.0
"""The graph, shown live: real nodes over DDS, and what was written for Rerun read back."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.graph import Graph, own_graph
from support.robot import IMAGE_TOPIC, NAMES, STEP_NS, TRAJECTORY_TOPIC, Robot, isolated_environment, message_class, write_robot_bundle
from support.rrd import Rrd

from longscape_ros.bundle import Bundle
from longscape_ros.view.blueprint import blueprint
from longscape_ros.view.drawing import Drawing
from longscape_ros.view.live import Listener
from longscape_ros.view.scene import SceneConfig
from longscape_ros.view.target import Target, open_stream
from longscape_ros.view.topics import Part, Wanted

WAIT_S = 60.0
LEAST = {"camera": 10, "prediction": 5, "commands": 1, "surprise": 3, "diagnostics": 1, "model": 1}
"""Messages of each part that a live test waits for."""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_robot_bundle(tmp_path_factory.mktemp("bundles") / "robot")


@pytest.fixture
def graph(domain: int) -> Iterator[Graph]:
    yield from own_graph()


@pytest.fixture
def start(domain: int) -> Iterator[Start]:
    """Starts ``longscape view ...`` in the test's domain; what still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "longscape_ros", "view", *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, env=isolated_environment(domain), text=True, **pipes))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def joined(robot: Robot, *topics: str) -> None:
    """Waits until the view listens beside the predictor."""
    robot.until(lambda: all(robot.node.count_subscribers(topic) >= 2 for topic in topics), WAIT_S)


def test_a_robot_and_its_predictor_are_shown_as_they_go(graph, bundle, tmp_path):
    from rclpy.node import Node

    robot, _ = graph.robot(), graph.predictor(bundle, diagnostic_updater__period=0.2)
    predictions = robot.listen("/predictor/prediction", "longscape_msgs/msg/PredictedVideo")
    surprises = robot.listen("/predictor/surprise", "longscape_msgs/msg/Surprise")
    layout = blueprint(8, live=True, parts=tuple(Part))
    with open_stream(Target(save=tmp_path / "live.rrd"), "live", layout, say=lambda text: None) as stream:
        listener = Listener(graph.add(Node("longscape_view", context=graph.context)), Wanted(), SceneConfig(horizon=8), Drawing(stream))
        counts = listener.feed.scene.counts
        robot.connect()
        joined(robot, IMAGE_TOPIC, TRAJECTORY_TOPIC, "/predictor/prediction")
        images = robot.live(400, done=lambda: all(counts[part] >= least for part, least in LEAST.items()))
        listener.close()
    figures = listener.feed.figures()
    rrd = Rrd(tmp_path / "live.rrd")
    assert figures["meta.camera"] == IMAGE_TOPIC
    assert figures["meta.commands"] == TRAJECTORY_TOPIC
    assert figures["meta.model_id"] == bundle.model_id
    assert LEAST["camera"] <= len(rrd.rows["/camera"]) == figures["images"] <= images
    assert figures["invalid_messages"] == 0
    heard = {bytes(message.frames[7].data): message for message in predictions}
    ahead = rrd.rows["/prediction/ahead"]
    assert len(ahead) == figures["predictions"]
    shown = [heard.get(bytes(row.only("EncodedImage:blob"))) for row in ahead]
    found = [(row.shown_ns, stamp(message)) for row, message in zip(ahead, shown, strict=True) if message is not None]
    assert found  # each reader loses what it is too slow for
    assert all(moment == anchor + 8 * STEP_NS for moment, anchor in found)
    assert {f"/commands/{name}" for name in NAMES} <= set(rrd.rows)
    assert {"/inference/delay_ms", "/states/predicted_expert", "/texts/model", "/texts/diagnostics"} <= set(rrd.rows)
    assert {f"/diagnostics/predictor/{part}" for part in ("camera", "commands", "inference", "model")} <= set(rrd.rows)
    published = [row.only("Scalars:scalars") for row in rrd.rows["/surprise/surprise"]]
    assert {error for error in published if not math.isnan(error)} <= {message.error for message in surprises}
    assert len(published) + len(rrd.rows["/surprise/image"]) == figures["surprises"] >= LEAST["surprise"]
    assert rrd.rows["/error/now"]


def test_the_command_shows_the_graph_until_sigterm_and_leaves_a_whole_file(graph, start, tmp_path):
    robot = graph.robot()
    process = start("--save", tmp_path / "live.rrd", "--json", tmp_path / "live.json", "-v")
    robot.until(lambda: robot.image() and robot.node.count_subscribers(IMAGE_TOPIC), WAIT_S)
    shown = threading.Event()
    threading.Thread(target=wait_for, args=(process, "Showing /camera/image_raw as camera.", shown), daemon=True).start()
    robot.until(shown.is_set, WAIT_S)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=WAIT_S) == 0
    figures = json.loads((tmp_path / "live.json").read_text(encoding="utf-8"))
    assert figures["meta.source"] == "graph"
    assert len(Rrd(tmp_path / "live.rrd").rows.get("/camera", ())) == figures["images"]


def wait_for(process: subprocess.Popen[str], text: str, said: threading.Event) -> None:
    """Reads what the process says, to its end."""
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            said.set()


def stamp(message: Any) -> int:
    return int(message.header.stamp.sec) * 10**9 + int(message.header.stamp.nanosec)


def test_of_two_robots_the_namespace_chooses_one_for_a_given_time(graph, start, tmp_path):
    from rclpy.qos import QoSProfile

    robot = graph.robot()
    kind: Any = message_class("longscape_msgs/msg/PredictedVideo")
    publishers = {ns: robot.node.create_publisher(kind, f"/{ns}/predictor/prediction", QoSProfile(depth=1)) for ns in ("a", "b")}
    process = start("--namespace", "/b", "--save", tmp_path / "live.rrd", "--json", tmp_path / "live.json", "--seconds", 6)
    robot.until(publishers["b"].get_subscription_count, WAIT_S)
    assert robot.node.count_subscribers("/a/predictor/prediction") == 0
    publishers["b"].publish(kind())  # a video without frames
    while process.poll() is None:
        graph.spin_once()
    _, said = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, said
    figures = json.loads((tmp_path / "live.json").read_text(encoding="utf-8"))
    assert figures["invalid_messages"] == 1
    assert "Got a predicted video without frames" in said
    assert "No prediction has come yet. What is published here:" in said


def test_a_graph_with_nothing_on_it_gives_a_file_with_a_layout(start, tmp_path):
    process = start("--save", tmp_path / "live.rrd", "--seconds", 1)
    _, said = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, said
    rrd = Rrd(tmp_path / "live.rrd")
    assert rrd.rows == {}
    assert {"camera", "diagnostics", "commands"} <= set(rrd.views)
