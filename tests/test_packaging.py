# SPDX-License-Identifier: Apache-2.0
"""What pip and colcon make of the repository."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent

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
