# SPDX-License-Identifier: Apache-2.0
"""The files that only a host with ROS runs: they name what exists."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from longscape_ros.nodes.parameters import specs

ROOT = Path(__file__).parent.parent.parent
LAUNCH = sorted((ROOT / "launch").glob("*.launch.py"))


def texts(tree: ast.AST) -> list[str]:
    """All text constants."""
    return [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def parsed(name: str) -> ast.Module:
    return ast.parse((ROOT / "launch" / name).read_text(encoding="utf-8"))


def assigned(tree: ast.Module, name: str) -> Any:
    """The literal value of a name at the top of a module."""
    values = [n.value for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == name]  # type: ignore[attr-defined]
    return ast.literal_eval(values[0])


def scripts() -> dict[str, str]:
    """The executables in setup.py."""
    return dict(re.findall(r'"([\w-]+) = ([\w.:]+)"', (ROOT / "setup.py").read_text(encoding="utf-8")))


def published(kind: str) -> set[str]:
    """The private topics that the node's source names."""
    found: set[str] = set()
    for name in ("outputs.py", "session.py", "predictor_node.py"):
        tree = ast.parse((ROOT / "longscape_ros" / "nodes" / name).read_text(encoding="utf-8"))
        found |= {text for text in texts(tree) if text.startswith(kind) and " " not in text}
    return found


@pytest.mark.parametrize("path", LAUNCH, ids=lambda path: path.name)
def test_a_launch_file_compiles_and_has_the_function_that_launch_calls(path):
    module = ast.parse(path.read_text(encoding="utf-8"))
    compile(module, str(path), "exec")
    assert "generate_launch_description" in [node.name for node in module.body if isinstance(node, ast.FunctionDef)]


def test_the_executables_of_the_launch_file_are_installed_and_can_be_called():
    executables = {text for text in texts(parsed("predictor.launch.py")) if text.startswith("longscape_") and text != "longscape_ros"}
    assert executables == {"longscape_predictor"}
    for name in ("longscape_predictor", "longscape_recorder"):
        module, _, function = scripts()[name].partition(":")
        spec = importlib.util.find_spec(module)
        assert spec is not None
        assert spec.origin is not None
        assert function in [n.name for n in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body if isinstance(n, ast.FunctionDef)]


def test_the_launch_file_remaps_the_inputs_that_the_node_has():
    remapped = {text for text in texts(parsed("predictor.launch.py")) if text.startswith("~/")}
    assert remapped == published("~/input/")


def test_the_launch_file_overrides_parameters_that_the_node_has():
    overrides = assigned(parsed("predictor.launch.py"), "OVERRIDES")
    by_name = {spec.name: spec for spec in specs()}
    assert set(overrides.values()) <= set(by_name)
    truth = assigned(parsed("predictor.launch.py"), "TRUTH")
    assert truth == {"true": True, "false": False}
    texts_only = {name for name in overrides.values() if not isinstance(by_name[name].default, str)}
    assert texts_only <= {"build_only"}, "what an argument says is a text, or true or false"


def test_the_demo_starts_modules_that_exist():
    modules = [text for text in texts(parsed("demo.launch.py")) if re.fullmatch(r"longscape_ros(\.\w+)+", text)]
    assert modules == ["longscape_ros.simulation.driver", "longscape_ros.simulation.policy"]
    for module in modules:
        assert importlib.util.find_spec(module) is not None
    files = {text for text in texts(parsed("demo.launch.py")) if text.endswith(".launch.py")}
    assert {ROOT / "launch" / name for name in files} <= set(LAUNCH)


def test_rviz_shows_the_camera_and_what_the_predictor_publishes():
    document = yaml.safe_load((ROOT / "config" / "predictor.rviz").read_text(encoding="utf-8"))
    displays = {display["Topic"]["Value"]: display["Topic"] for display in document["Visualization Manager"]["Displays"]}
    assert set(displays) == {"/camera/image_raw", "/predictor/prediction/filmstrip", "/predictor/prediction/image"}
    assert {topic.replace("/predictor/", "~/") for topic in displays if topic.startswith("/predictor")} <= published("~/")


def test_the_documentation_names_every_topic_of_the_node():
    text = (ROOT / "docs" / "ros.md").read_text(encoding="utf-8")
    assert [topic for topic in sorted(published("~/")) if f"`{topic}`" not in text] == []


@pytest.mark.parametrize("folder", [ROOT, ROOT / "longscape_msgs"], ids=["longscape_ros", "longscape_msgs"])
def test_a_package_manifest_has_what_colcon_needs(folder):
    manifest = ElementTree.parse(folder / "package.xml").getroot()
    maintainer = manifest.find("maintainer")
    assert maintainer is not None
    assert re.fullmatch(r"[^@\s]+@[^@\s]+\.[a-z]+", maintainer.attrib["email"]), "an invalid address hides the package's type"
    expected = "ament_python" if folder == ROOT else "ament_cmake"
    assert manifest.findtext("export/build_type") == expected
    assert manifest.findtext("license") == "Apache-2.0"


def test_the_manifest_depends_on_every_message_package_in_use():
    manifest = ElementTree.parse(ROOT / "package.xml").getroot()
    declared = {element.text for element in manifest.findall("depend")}
    used: set[str] = set()
    for path in (ROOT / "longscape_ros").rglob("*.py"):
        if not {"embedded", "model", "export"} & set(path.relative_to(ROOT / "longscape_ros").parts):
            used |= set(re.findall(r'"(\w+)/msg/\w+"', path.read_text(encoding="utf-8")))
    assert used <= declared, f"add {sorted(used - declared)} to package.xml"
