# SPDX-License-Identifier: Apache-2.0
"""The documented colcon workspace: found, built, installed, live and tested, with real colcon, ament and rosidl."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rosbags.typesys import Stores, get_types_from_idl, get_typestore
from support.workspace import (
    DEBIAN_COLCON,
    OWN_COLCON,
    ROOT,
    add_stand_ins,
    make_workspace,
    real_ros,
    skip_without_debian_ros,
    skip_without_own_colcon,
)

from longscape_ros.embedded.messages import TypeLibrary

WAIT_S = 900
MESSAGES = ("ActionSequence", "ActionSequenceArray", "CandidateCosts", "PredictedVideo", "Surprise")
FAILING = "def test_that_fails():\n    assert False\n"


def run(*command: object, cwd: Path, path: str = "", fails: bool = False) -> str:
    """What a command says, both streams; its environment is that of no workspace."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("COLCON", "AMENT", "PYTHONPATH"))}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"} | ({"PATH": path} if path else {})
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert (done.returncode != 0) == fails, f"{command} in {cwd}:\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def sourced(workspace: Path, command: str, install: str = "install") -> str:
    """What a shell says that has sourced the workspace."""
    return run("bash", "-c", f". {install}/setup.bash && {command}", cwd=workspace).strip()


# ---- the Python package, with the colcon of the tests' own environment ----


@pytest.fixture(scope="module")
def python_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace without the message package, which only a host with ament can build."""
    skip_without_own_colcon()
    workspace = make_workspace(tmp_path_factory.mktemp("python"))
    (workspace / "src" / "longscape_msgs").unlink()
    return workspace


@pytest.fixture(scope="module")
def built(python_workspace: Path) -> Path:
    run(OWN_COLCON, "build", cwd=python_workspace)
    return python_workspace


def test_colcon_and_rosdep_find_both_packages_in_the_documented_workspace(tmp_path):
    skip_without_own_colcon()
    workspace = make_workspace(tmp_path)
    listed = {tuple(line.split("\t")) for line in run(OWN_COLCON, "list", cwd=workspace).splitlines()}
    assert listed == {
        ("longscape_msgs", "src/longscape_msgs", "(ros.ament_cmake)"),
        ("longscape_ros", "src/longscape_ros", "(ros.ament_python)"),
    }
    order = run(OWN_COLCON, "list", "--names-only", "--topological-order", cwd=workspace).split()
    assert order == ["longscape_msgs", "longscape_ros"]
    crawl = "from catkin_pkg.packages import find_packages; print(*sorted(p.name for p in find_packages('src').values()))"
    assert run(sys.executable, "-c", crawl, cwd=workspace).split() == ["longscape_msgs", "longscape_ros"]  # rosdep's own crawl


def test_a_build_installs_what_ros2_run_and_ros2_launch_look_for(built):
    prefix = built / "install" / "longscape_ros"
    assert {path.name for path in (prefix / "lib" / "longscape_ros").iterdir()} == {
        "longscape",
        "longscape_predictor",
        "longscape_recorder",
    }
    share = prefix / "share" / "longscape_ros"
    for folder in ("launch", "config"):
        assert {path.name for path in (share / folder).iterdir()} == {path.name for path in (ROOT / folder).iterdir() if path.is_file()}
    assert (prefix / "share" / "ament_index" / "resource_index" / "packages" / "longscape_ros").is_file()
    assert (share / "package.xml").is_file()


def test_an_installed_executable_runs_the_installed_package_with_its_model_and_messages(built):
    said = sourced(built, "install/longscape_ros/lib/longscape_ros/longscape --help")
    assert "predict" in said
    look = (
        "import longscape_ros, longscape_ros.model, longscape_ros.export; from pathlib import Path; from longscape_ros.bundle import "
        "find_bundle, load_bundle; print(longscape_ros.__file__, load_bundle(find_bundle('')).manifest.name, "
        "*sorted(p.stem for p in (Path(longscape_ros.__file__).parent / 'interfaces' / 'msg').iterdir()))"
    )
    place, bundle, *messages = sourced(built, f'{sys.executable} -c "{look}"').split()
    assert Path(place).is_relative_to(built / "install")
    assert bundle == "default"
    assert messages == sorted(MESSAGES)


def test_what_is_edited_after_a_symlink_build_is_live(python_workspace):
    run(OWN_COLCON, "build", "--symlink-install", "--build-base", "build_live", "--install-base", "install_live", cwd=python_workspace)
    source = python_workspace / "src" / "longscape_ros"
    for edited in ("longscape_ros/errors.py", "model/flow.py", "config/predictor.yaml", "launch/predictor.launch.py"):
        with (source / edited).open("a", encoding="utf-8") as file:
            file.write("\n# edited\n")
    look = (
        "import longscape_ros.errors as a, longscape_ros.model.flow as b; "
        "print(*(open(m.__file__).read().count('# edited') for m in (a, b)))"
    )
    assert sourced(python_workspace, f'{sys.executable} -c "{look}"', "install_live").split() == ["1", "1"]
    share = python_workspace / "install_live" / "longscape_ros" / "share" / "longscape_ros"
    for installed in ("config/predictor.yaml", "launch/predictor.launch.py"):
        assert (share / installed).read_text(encoding="utf-8").endswith("# edited\n")


def test_colcon_test_runs_the_tests_and_reports_what_fails(built):
    source = built / "src" / "longscape_ros" / "tests"
    (source / "test_that_fails.py").write_text(FAILING, encoding="utf-8")
    run(OWN_COLCON, "test", "--pytest-args", "tests/test_contract.py", "tests/test_that_fails.py", cwd=built)
    summary = run(OWN_COLCON, "test-result", cwd=built, fails=True)
    figures = re.search(r"Summary: (\d+) tests, (\d+) errors, (\d+) failures?", summary)
    assert figures is not None, summary
    tests, errors, failures = map(int, figures.groups())
    assert tests > 10
    assert (errors, failures) == (0, 1)


# ---- both packages, with Debian's colcon, ament and rosidl ----


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documented workspace, built with a plain ``colcon build``."""
    skip_without_debian_ros()
    workspace = make_workspace(tmp_path_factory.mktemp("debian"))
    add_stand_ins(workspace)
    run(DEBIAN_COLCON, "build", cwd=workspace, path="/usr/bin:/bin")
    return workspace


def test_debians_colcon_knows_the_types_of_both_packages(debian):
    listed = run(DEBIAN_COLCON, "list", cwd=debian, path="/usr/bin:/bin")
    types = {line.split("\t")[0]: line.split("\t")[2] for line in listed.splitlines()}
    assert types["longscape_msgs"] == "(ros.ament_cmake)"
    assert types["longscape_ros"] == "(ros.ament_python)"


def test_a_plain_build_makes_both_packages(debian):
    prefix = debian / "install"
    assert (prefix / "longscape_ros" / "lib" / "longscape_ros" / "longscape_predictor").is_file()
    assert (prefix / "longscape_msgs" / "lib" / "liblongscape_msgs__rosidl_generator_c.so").is_file()
    index = prefix / "longscape_msgs" / "share" / "ament_index" / "resource_index" / "rosidl_interfaces" / "longscape_msgs"
    assert {f"msg/{name}.{kind}" for name in MESSAGES for kind in ("idl", "msg")} == set(index.read_text(encoding="utf-8").split())


@pytest.mark.parametrize("name", MESSAGES)
def test_rosidl_and_the_embedded_graph_read_the_same_message(debian, name):
    """rosidl's own translation into IDL has the type hash that the embedded graph announces. (Debian's rosidl computes no hashes.)"""
    rosidl = get_typestore(Stores.ROS2_JAZZY)
    for path in sorted((debian / "install" / "longscape_msgs" / "share" / "longscape_msgs" / "msg").glob("*.idl")):
        text = "".join(line for line in path.open(encoding="utf-8") if not line.startswith("#include"))  # rosbags reads one file alone
        rosidl.register(get_types_from_idl(text))
    embedded = TypeLibrary()
    embedded.add_folder(ROOT / "longscape_ros" / "interfaces")
    kind = f"longscape_msgs/msg/{name}"
    assert embedded.store.hash_rihs01(kind) == rosidl.hash_rihs01(kind)


# ---- both packages, with the rosidl and the rclpy of ROS 2 Jazzy that PyPI has ----


@pytest.mark.parametrize("name", MESSAGES)
def test_the_type_hashes_of_ros_2_are_those_of_the_embedded_graph(name):
    installed = real_ros() / "ws" / "install" / "longscape_msgs" / "share" / "longscape_msgs" / "msg"
    described = json.loads((installed / f"{name}.json").read_text(encoding="utf-8"))
    embedded = TypeLibrary()
    embedded.add_folder(ROOT / "longscape_ros" / "interfaces")
    for item in described["type_hashes"]:
        assert embedded.store.hash_rihs01(item["type_name"]) == item["hash_string"], item["type_name"]


def test_the_installed_predictor_starts_in_the_workspace_of_ros_2():
    setup = real_ros() / "setup.bash"
    wanted = "autostart:=false -p input_qos:=loud"  # it says what it is asked, and ends
    command = f". {setup} && $(ros_run longscape_predictor) --ros-args -p {wanted}"
    prelude = "ros_run() { for prefix in ${AMENT_PREFIX_PATH//:/ }; do ls $prefix/lib/longscape_ros/$1 2>/dev/null; done; }; "
    said = run("bash", "-c", prelude + command, cwd=setup.parent, fails=True)
    assert "Got input_qos = 'loud', expected one of sensor_data, reliable." in said
    rclpy = run("bash", "-c", f". {setup} && python -c 'import rclpy; print(rclpy.__file__)'", cwd=setup.parent)
    assert Path(rclpy.strip()).is_relative_to(real_ros())
