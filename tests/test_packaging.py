# SPDX-License-Identifier: Apache-2.0
"""What pip and colcon make of the repository."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parent.parent

ROSDEP_KEYS = {
    "python3-hypothesis", "python3-numpy", "python3-onnxruntime-pip", "python3-opencv", "python3-pil", "python3-pytest", "python3-rich",
    "python3-rosbags-pip", "python3-yaml",
}  # fmt: skip
"""Keys of rosdep/python.yaml in ros/rosdistro (8468e88c); each has an entry for Ubuntu and for Debian. rosdep fails on an unknown key."""

ROS_PACKAGES = {
    "ament_cmake", "builtin_interfaces", "control_msgs", "diagnostic_msgs", "geometry_msgs", "launch", "launch_ros", "rcl_interfaces",
    "rclpy", "rosidl_default_generators", "rosidl_default_runtime", "rviz2", "rviz_default_plugins", "sensor_msgs", "std_msgs",
    "trajectory_msgs",
}  # fmt: skip
"""Packages of ROS 2 that Humble's, Jazzy's and Lyrical's distribution.yaml have, at the same commit."""

FROM_PIP = {"onnx", "rosbags-image"}
"""What pip needs to install beside rosdep: it has no keys for them. docs/install.md says so."""

AS_COLCON_DOES = """
import setuptools
from distutils.core import run_setup
read = run_setup("setup.py", script_args=["--dry-run"], stop_after="config")
names = ("entry_points", "extras_require", "install_requires", "packages", "package_data", "data_files", "python_requires")
print(repr({name: getattr(read, name) for name in names} | {"name": read.get_name(), "version": read.get_version()}))
"""


def setup_data(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", AS_COLCON_DOES], cwd=folder, capture_output=True, text=True, check=False)


def test_colcon_can_read_all_that_the_package_says_of_itself():
    answer = setup_data(ROOT)
    assert answer.returncode == 0, answer.stderr
    data = ast.literal_eval(answer.stdout)  # what has no literal makes colcon fail
    assert "test" in data["extras_require"]  # or colcon test runs nothing
    commands = {text.partition(" ")[0] for text in data["entry_points"]["console_scripts"]}
    assert commands == {"longscape", "longscape_predictor", "longscape_recorder"}
    assert {"longscape_ros", "longscape_ros.model", "longscape_ros.export", "longscape_ros.nodes"} <= set(data["packages"])
    assert all(name.partition(".")[0] == "longscape_ros" for name in data["packages"])
    installed = {Path(file).name for _, files in data["data_files"] for file in files}
    assert {"package.xml", "predictor.launch.py", "demo.launch.py", "predictor.yaml", "predictor.rviz"} <= installed


def test_the_two_descriptions_of_the_package_agree():
    data = ast.literal_eval(setup_data(ROOT).stdout)
    package = ElementTree.parse(ROOT / "package.xml").getroot()
    assert package.findtext("name") == data["name"]
    assert package.findtext("version") == data["version"]
    assert package.findtext("export/build_type") == "ament_python"
    messages = ElementTree.parse(ROOT / "longscape_msgs" / "package.xml").getroot()
    assert messages.findtext("name") in {depend.text for depend in package.iter("depend")}


def test_a_checkout_that_lost_its_links_says_how_to_get_them(tmp_path):
    for name in ("setup.py", "pyproject.toml", "setup.cfg", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "longscape_ros").mkdir()
    (tmp_path / "longscape_ros" / "model").write_text("../model")
    answer = subprocess.run([sys.executable, "setup.py", "--version"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert "clone again with: git clone -c core.symlinks=true" in answer.stderr


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


def test_rosdep_knows_every_key_and_the_documentation_names_what_it_lacks():
    named: set[str | None] = set()
    for folder in (ROOT, ROOT / "longscape_msgs"):
        package = ElementTree.parse(folder / "package.xml").getroot()
        named |= {element.text for element in package if element.tag.endswith("depend")}
    unknown = named - ROSDEP_KEYS - ROS_PACKAGES - {"longscape_msgs"}
    assert not unknown, f"look up {unknown} in rosdep/*.yaml and */distribution.yaml of ros/rosdistro, then add them above"
    modules = {re.match(r"[\w-]+", line)[0] for line in ast.literal_eval(setup_data(ROOT).stdout)["install_requires"]}  # type: ignore[index]
    by_key = {"numpy", "onnxruntime", "pyyaml", "rosbags", "rich"}
    assert modules - by_key == FROM_PIP
    for document in ("README.md", "docs/install.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        assert re.search(r"pip install (--break-system-packages )?onnx rosbags-image", text), document
