# SPDX-License-Identifier: Apache-2.0
"""The nodes as processes: how they start, refuse, and end."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from support.robot import WAIT_S, another_robot, isolated_environment
from support.waiting import until

from longscape_ros.bags.mapping import save_mapping


def start(module: str, domain: int, log: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", f"longscape_ros.nodes.{module}", "--ros-args", *arguments]
    with log.open("wb") as file:
        return subprocess.Popen(command, env=isolated_environment(domain), stdout=file, stderr=file)


@contextmanager
def predicting(graph, bundle, domain, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A predictor in a process of its own while it predicts and compares; then it has to end cleanly."""
    robot = graph.robot()
    process = start("predictor", domain, log, "-p", f"model.bundle:={bundle.path}", "-r", "~/input/image:=/camera/image_raw")
    try:
        robot.connect()
        surprises = robot.listen("/predictor/surprise", "longscape_msgs/msg/Surprise")
        robot.live(400, done=lambda: surprises)
        yield process
        assert process.wait(WAIT_S) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log.read_text()
    robot.until(lambda: "predictor" not in robot.node.get_node_names())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_predictor_ends_cleanly_while_it_predicts(graph, bundle, domain, tmp_path, number):
    with predicting(graph, bundle, domain, tmp_path / "log") as process:
        process.send_signal(number)


@pytest.mark.parametrize("seconds", [0.0, 0.02, 0.2])
def test_the_predictor_ends_cleanly_though_ctrl_c_comes_again_on_its_way_out(graph, bundle, domain, tmp_path, seconds):
    """Under ros2 launch it does: once from the terminal, once from launch."""
    with predicting(graph, bundle, domain, tmp_path / "log") as process:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        while process.poll() is None:
            process.send_signal(signal.SIGINT)


def test_a_command_line_that_the_client_library_refuses_is_one_line_that_says_why(domain, tmp_path):
    process = start("predictor", domain, tmp_path / "log", "--log-level", "loud")
    assert process.wait(WAIT_S) == 1
    said = (tmp_path / "log").read_text()
    assert "rclpy does not start: " in said
    assert "loud" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("module", "value", "expected"),
    [
        ("predictor", "prediction_rate:=0", "expected one like 0.0."),
        ("predictor", "horizon:=-3", "expected one like 0."),
        ("recorder", "output:=7", 'expected one like "recording.mcap".'),
    ],
)
def test_a_parameters_value_that_does_not_fit_is_one_line_that_says_what_does(domain, tmp_path, module, value, expected):
    process = start(module, domain, tmp_path / "log", "-p", value)
    assert process.wait(WAIT_S) == 1
    said = (tmp_path / "log").read_text()
    assert f"does not fit the parameter {value.partition(':=')[0]} (" in said
    assert expected in said
    assert "Traceback" not in said


STUCK = """
import time
from longscape_ros.embedded import ensure_rclpy
ensure_rclpy()
from longscape_ros.nodes import predictor
from longscape_ros.runtime.predictor import Predictor
def stuck(self, *args, **kwargs):
    print("predicting", flush=True)
    time.sleep(600)
warm = Predictor.predict
Predictor.predict = lambda self, *args, **more: (stuck if "should_stop" in more else warm)(self, *args, **more)
predictor.main()
"""
"""A predictor whose model takes ten minutes over an image."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_predictor_ends_though_its_model_is_in_the_middle_of_an_inference(graph, bundle, domain, tmp_path, number):
    robot = graph.robot()
    log = tmp_path / "log"
    words = ["--ros-args", "-p", f"model.bundle:={bundle.path}", "-r", "~/input/image:=/camera/image_raw"]
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-c", STUCK, *words], env=isolated_environment(domain), stdout=file, stderr=file)
    try:
        robot.connect()
        robot.live(400, done=lambda: b"predicting" in log.read_bytes())
        process.send_signal(number)
        assert process.wait(WAIT_S) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_predictor_ends_cleanly_while_it_loads_a_model(domain, tmp_path, number):
    """The model that ships, for it takes a while; ONNX Runtime would abort a process that ends meanwhile."""
    log = tmp_path / "log"
    process = start("predictor", domain, log, "-p", "mapping:=simulated_arm")
    try:
        assert until(lambda: b"Warming up" in log.read_bytes())
        process.send_signal(number)
        assert process.wait(WAIT_S) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log.read_text()
    assert "terminate" not in log.read_text()


def test_a_predictor_that_cannot_serve_the_robot_ends_with_one_line_that_says_why(bundle, domain, tmp_path):
    save_mapping(tmp_path / "mapping.yaml", another_robot())
    arguments = ("-p", f"model.bundle:={bundle.path}", "-p", f"mapping:={tmp_path / 'mapping.yaml'}")
    process = start("predictor", domain, tmp_path / "log", *arguments)
    assert process.wait(WAIT_S) == 1
    fatal = [line for line in (tmp_path / "log").read_text().splitlines() if "FATAL" in line]
    assert len(fatal) == 1
    assert "expected the action names ['x', 'y', 'gripper']" in fatal[0]
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_parameter_that_is_no_choice_ends_the_predictor_before_it_starts(domain, tmp_path):
    process = start("predictor", domain, tmp_path / "log", "-p", "input_qos:=loud")
    assert process.wait(WAIT_S) == 1
    assert "Got input_qos = 'loud', expected one of sensor_data, reliable." in (tmp_path / "log").read_text()


def test_build_only_ends_with_status_0_and_says_what_came_out(bundle, domain, tmp_path):
    process = start("predictor", domain, tmp_path / "log", "-p", f"model.bundle:={bundle.path}", "-p", "build_only:=true")
    assert process.wait(WAIT_S) == 0
    said = (tmp_path / "log").read_text()
    assert f"{bundle.model_id} is built: it runs on ort_" in said
    assert "Traceback" not in said


def test_build_only_of_a_backend_that_does_not_work_ends_with_status_1(bundle, domain, tmp_path):
    wanted = (f"model.bundle:={bundle.path}", "build_only:=true", "model.precision:=fp16", "model.backend:=ort_cpu")
    process = start("predictor", domain, tmp_path / "log", *(word for parameter in wanted for word in ("-p", parameter)))
    assert process.wait(WAIT_S) == 1
    assert "Got the precision 'fp16' for the backend 'ort_cpu'" in (tmp_path / "log").read_text()


def test_a_parameter_file_configures_the_predictor(graph, bundle, domain, tmp_path):
    robot = graph.robot()
    shipped = Path(__file__).parent.parent.parent / "config" / "predictor.yaml"
    arguments: tuple[Any, ...] = ("--params-file", str(shipped), "-p", f"model.bundle:={bundle.path}", "-r", "__node:=other")
    process = start("predictor", domain, tmp_path / "log", *arguments)
    try:
        robot.until(lambda: robot.node.count_publishers("/other/prediction"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0
    finally:
        process.kill()
        process.wait()
