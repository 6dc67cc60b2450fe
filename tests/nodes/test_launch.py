# SPDX-License-Identifier: Apache-2.0
"""The launch files: which processes they start with which command lines, that the node takes them, and what RViz shows.

They run with ROS's own launch where that is present, and with a stand-in for it everywhere.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import launch_real, launch_stand_in
from support.robot import WAIT_S, isolated_environment

from longscape_ros.embedded.arguments import parse_arguments, read_parameter_file
from longscape_ros.nodes.parameters import specs

ROOT = Path(__file__).parent.parent.parent
PREDICTOR, DEMO = ROOT / "launch" / "predictor.launch.py", ROOT / "launch" / "demo.launch.py"
FILE, RVIZ = ROOT / "config" / "predictor.yaml", ROOT / "config" / "predictor.rviz"
SHARES = {"longscape_ros": ROOT}
CAMERA = "/camera/image_raw"
SHOWN = {CAMERA, "/predictor/prediction/filmstrip", "/predictor/prediction/image", "/predictor/surprise/image"}
"""The topics that RViz shows."""

Commands = Callable[..., dict[str, list[str]]]


def texts(tree: ast.AST) -> list[str]:
    """All text constants."""
    return [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def published(kind: str) -> set[str]:
    """The private topics that the node's source names."""
    found: set[str] = set()
    for name in ("outputs.py", "session.py", "predictor_node.py"):
        tree = ast.parse((ROOT / "longscape_ros" / "nodes" / name).read_text(encoding="utf-8"))
        found |= {text for text in texts(tree) if text.startswith(kind) and " " not in text}
    return found


def has_launch() -> bool:
    """Whether ROS's own launch is installed; a folder of that name in the working directory is not it."""
    spec = importlib.util.find_spec("launch")
    return spec is not None and spec.origin is not None and importlib.util.find_spec("launch_ros") is not None


@pytest.fixture(params=["stand-in", "real"])
def launched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Commands:
    """Gives what a launch file starts: executable (or module) -> its command line."""
    real = request.param == "real"
    if real and not has_launch():
        pytest.skip("no launch and launch_ros of ROS 2; PyPI and Debian do not have them, source a ROS 2 to run this")
    if not real:
        for name, module in launch_stand_in.modules():
            monkeypatch.setitem(sys.modules, name, module)

    def started(path: Path, **arguments: str) -> dict[str, list[str]]:
        stand_in = launch_stand_in.commands
        found = launch_real.commands(path, arguments, SHARES, tmp_path) if real else stand_in(path, arguments, SHARES)
        return {words[2] if words[0] == sys.executable else words[0]: words for words in found}

    return started


def without_files(words: list[str]) -> list[str]:
    """A command line with the parameters that a temporary file has in the place of that file."""
    shown = []
    for word in words:
        if "launch_params_" in word:
            shown.append(repr({name: value for values in read_parameter_file(Path(word)).values() for name, value in values.items()}))
        else:
            shown.append(word)
    return shown


# ---- which processes, with which command lines ----


def test_the_headline_command_starts_the_predictor_with_its_camera_its_commands_and_its_model(launched):
    started = launched(PREDICTOR, image="/camera/image_raw", action="/arm_controller/joint_trajectory", bundle="/path")
    assert list(started) == ["longscape_ros/longscape_predictor"]
    assert without_files(started["longscape_ros/longscape_predictor"])[1:] == [
        *("--ros-args", "--ros-args", "-r", "__node:=predictor", "--params-file", str(FILE)),
        *("--params-file", "{'action_topics': '/arm_controller/joint_trajectory', 'model.bundle': '/path'}"),
        *("-r", "~/input/image:=/camera/image_raw", "-r", "~/input/camera_info:=/camera/camera_info"),
    ]


def test_without_arguments_the_parameter_file_alone_decides(launched):
    words = launched(PREDICTOR)["longscape_ros/longscape_predictor"]
    assert [words[at + 1] for at, word in enumerate(words) if word == "--params-file"] == [str(FILE)]


def test_every_argument_reaches_the_node(launched, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text(FILE.read_text(encoding="utf-8"), encoding="utf-8")
    given = {
        "model.bundle": "b", "model.backend": "ort_cpu", "model.precision": "fp32", "mapping": "m", "action_topics": "/a,/b",
        "image_type": "sensor_msgs/msg/Image", "image_stamp": "receive", "autostart": False, "build_only": True, "use_sim_time": True,
    }  # fmt: skip
    names = {"model.bundle": "bundle", "model.backend": "backend", "model.precision": "precision", "action_topics": "action"}
    arguments = {names.get(name, name): str(value) for name, value in given.items()}
    started = launched(PREDICTOR, params_file=str(mine), namespace="/ns", log_level="debug", camera_info="info", image="i", **arguments)
    words = started["longscape_ros/longscape_predictor"]
    parsed = parse_arguments(words[1:])
    assert parsed.unparsed == []
    assert parsed.log_levels == {"": "debug"}
    assert {remap.match: remap.replacement for remap in parsed.remaps} == {
        "__node": "predictor", "__ns": "/ns", "~/input/image": "i", "~/input/camera_info": "info"
    }  # fmt: skip
    values = parsed.overrides_for("/ns/predictor")
    assert {name: values[name] for name in given} == given
    assert str(mine) in words
    assert set(given) <= {spec.name for spec in specs()} | {"use_sim_time"}


def test_a_camera_of_compressed_images_is_told_by_its_name(launched):
    words = launched(PREDICTOR, image="/lens/image_raw/compressed")["longscape_ros/longscape_predictor"]
    assert parse_arguments(words[1:]).overrides_for("/predictor")["image_type"] == "sensor_msgs/msg/CompressedImage"


@pytest.mark.parametrize(
    ("image", "camera_info"),
    [("/wrist/image_raw", "/wrist/camera_info"), ("lens/image_raw/compressed", "lens/camera_info"), ("image", "camera_info")],
)
def test_the_intrinsics_are_looked_for_beside_the_cameras_topic(launched, image, camera_info):
    words = launched(PREDICTOR, image=image)["longscape_ros/longscape_predictor"]
    assert {remap.match: remap.replacement for remap in parse_arguments(words[1:]).remaps}["~/input/camera_info"] == camera_info


def test_a_switch_that_is_neither_true_nor_false_is_refused(launched):
    with pytest.raises(ValueError, match="Got autostart:=yes, expected true or false"):
        launched(PREDICTOR, autostart="yes")


def test_a_parameter_file_that_is_not_there_is_refused(launched):
    with pytest.raises(ValueError, match="Got params_file:=/nowhere, found no such file"):
        launched(PREDICTOR, params_file="/nowhere")


def test_the_demo_starts_the_arm_its_policy_the_predictor_and_rviz(launched):
    started = launched(DEMO, task="push", seed="7", backend="ort_cpu")
    driver, policy = "longscape_ros.simulation.driver", "longscape_ros.simulation.policy"
    assert set(started) == {"longscape_ros/longscape_predictor", "rviz2/rviz2", driver, policy}
    for module in (driver, policy):
        assert importlib.util.find_spec(module) is not None
        assert started[module][1:] == ["-m", module, "--ros-args", "-p", "task:=push", "-p", "seed:=7"]
    values = parse_arguments(started["longscape_ros/longscape_predictor"][1:]).overrides_for("/predictor")
    assert (values["mapping"], values["model.backend"]) == ("simulated_arm", "ort_cpu")


def test_the_demo_leaves_out_what_is_switched_off(launched):
    started = launched(DEMO, policy="false", rviz="false")
    assert set(started) == {"longscape_ros/longscape_predictor", "longscape_ros.simulation.driver"}


def test_the_documented_launch_file_starts_a_predictor_per_camera(monkeypatch, tmp_path):
    for name, module in launch_stand_in.modules():
        monkeypatch.setitem(sys.modules, name, module)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "ros.md").read_text(encoding="utf-8"), re.DOTALL)
    (example,) = (block for block in blocks if "generate_launch_description" in block)
    (tmp_path / "cameras.launch.py").write_text(example, encoding="utf-8")
    started = [parse_arguments(words[1:]) for words in launch_stand_in.commands(tmp_path / "cameras.launch.py", {}, SHARES)]
    seen = [{remap.match: remap.replacement for remap in arguments.remaps} for arguments in started]
    assert [(remaps["__ns"], remaps["~/input/image"]) for remaps in seen] == [
        ("/wrist", "/wrist_camera/image_raw"),
        ("/front", "/front_camera/image_raw"),
    ]
    assert {
        arguments.overrides_for(f"{remaps['__ns']}/predictor")["action_topics"] for arguments, remaps in zip(started, seen, strict=True)
    } == {"/arm_controller/joint_trajectory"}


# ---- RViz ----


def displays(path: str | Path) -> dict[str, dict[str, Any]]:
    """Topic -> what RViz's configuration says of it."""
    document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    return {display["Topic"]["Value"]: display["Topic"] for display in document["Visualization Manager"]["Displays"]}


def test_rviz_shows_the_camera_and_what_the_predictor_publishes_reliably():
    shown = displays(RVIZ)
    assert set(shown) == SHOWN
    assert {topic for topic, settings in shown.items() if settings["Reliability Policy"] != "Reliable"} == {CAMERA}
    private = {topic.replace("/predictor/", "~/") for topic in shown if topic.startswith("/predictor")}
    assert private <= published("~/")


def test_rviz_is_started_with_the_installed_configuration_when_asked_for(launched):
    started = launched(PREDICTOR, rviz="true", use_sim_time="true")
    words = without_files(started["rviz2/rviz2"])
    assert words[1:3] == ["-d", str(RVIZ)]
    assert "{'use_sim_time': True}" in words


def test_rviz_shows_the_topics_of_the_namespace_and_of_the_camera(launched):
    started = launched(PREDICTOR, rviz="true", namespace="robot_1", image="lens/image_raw/compressed")
    shown = displays(started["rviz2/rviz2"][2])
    assert set(shown) == {topic.replace("/predictor/", "/robot_1/predictor/") for topic in SHOWN - {CAMERA}} | {
        "/robot_1/lens/image_raw/compressed"
    }


def test_there_is_no_rviz_beside_a_node_that_only_builds(launched):
    assert list(launched(PREDICTOR, rviz="true", build_only="true")) == ["longscape_ros/longscape_predictor"]


# ---- the real node takes the command line ----


def test_two_robots_run_side_by_side_from_the_launch_files_command_lines(graph, bundle, domain, monkeypatch, tmp_path):
    for name, module in launch_stand_in.modules():
        monkeypatch.setitem(sys.modules, name, module)
    robot = graph.robot()
    reports = robot.listen("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")
    processes = []
    for namespace, action in (("robot_1", "arm/joint_trajectory"), ("/robot_2", "/elsewhere/joint_trajectory")):
        arguments = {"namespace": namespace, "action": action, "bundle": str(bundle.path), "image": "lens/image_raw", "log_level": "warn"}
        (words,) = launch_stand_in.commands(PREDICTOR, arguments, SHARES)
        with (tmp_path / namespace.strip("/")).open("wb") as log:
            command = [sys.executable, "-m", "longscape_ros.nodes.predictor", *words[1:]]
            processes.append(subprocess.Popen(command, env=isolated_environment(domain), stdout=log, stderr=log))
    try:
        for topic in ("/robot_1/arm/joint_trajectory", "/elsewhere/joint_trajectory", "/robot_1/lens/image_raw", "/robot_2/lens/image_raw"):
            robot.until(lambda topic=topic: robot.node.count_subscribers(topic) == 1)
        for name in ("robot_1", "robot_2"):
            robot.until(lambda name=name: robot.node.count_publishers(f"/{name}/predictor/prediction") == 1)
        cameras = {"/robot_1/predictor: camera", "/robot_2/predictor: camera"}
        robot.until(lambda: cameras <= {status.name for report in reports for status in report.status})
        for process in processes:
            process.send_signal(signal.SIGTERM)
        assert [process.wait(WAIT_S) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert "[INFO]" not in (tmp_path / "robot_1").read_text()


def test_a_node_that_is_not_autostarted_waits_unconfigured(graph, bundle, domain, monkeypatch, tmp_path):
    for name, module in launch_stand_in.modules():
        monkeypatch.setitem(sys.modules, name, module)
    (words,) = launch_stand_in.commands(PREDICTOR, {"autostart": "false", "bundle": str(bundle.path)}, SHARES)
    robot = graph.robot()
    reports = robot.listen("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")
    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, "-m", "longscape_ros.nodes.predictor", *words[1:]]
        process = subprocess.Popen(command, env=isolated_environment(domain), stdout=log, stderr=log)
    try:
        robot.until(lambda: len(reports) >= 2)
        assert "unconfigured" in str(reports[-1].status[0])
        assert robot.node.count_publishers("/predictor/prediction") == 0
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 0


# ---- documentation ----


def test_the_documentation_names_every_topic_of_the_node():
    text = (ROOT / "docs" / "ros.md").read_text(encoding="utf-8")
    assert [topic for topic in sorted(published("~/")) if f"`{topic}`" not in text] == []


@pytest.mark.parametrize("path", [PREDICTOR, DEMO], ids=lambda path: path.name)
def test_the_documentation_names_every_argument_of_a_launch_file(path, monkeypatch):
    for name, module in launch_stand_in.modules():
        monkeypatch.setitem(sys.modules, name, module)
    text = (ROOT / "docs" / "ros.md").read_text(encoding="utf-8")
    section = text[text.index("## Launch files") :]
    context = launch_stand_in.LaunchContext(SHARES)
    launch_stand_in.load(path).visit(context)
    assert [name for name in context.launch_configurations if f"`{name}`" not in section] == []


def test_every_path_and_executable_that_the_readme_and_the_documentation_name_exists():
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = document.read_text(encoding="utf-8")
        for name in re.findall(r"ros2 launch longscape_ros ([\w.]+)", text):
            assert (ROOT / "launch" / name).is_file(), (document.name, name)
        for name in re.findall(r"ros2 run longscape_ros (\w+)", text):
            assert f'"{name} = ' in (ROOT / "setup.py").read_text(encoding="utf-8"), (document.name, name)
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
            assert (document.parent / link).exists(), (document.name, link)
