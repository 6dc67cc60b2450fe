# SPDX-License-Identifier: Apache-2.0
"""A colcon workspace with this checkout in it, made as the README says, and the packages of ROS 2 that Debian lacks.

Debian has colcon, ament_cmake and rosidl's generators for C and C++. It has no message packages of ROS 2, and no
rosidl_default_generators, which only names the generators. :func:`add_stand_ins` makes those: the messages from rosbags' definitions.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from rosbags.typesys import Stores, get_typestore

ROOT = Path(__file__).resolve().parent.parent.parent

DEBIAN_COLCON = Path("/usr/bin/colcon")
DEBIAN_PARTS = (DEBIAN_COLCON, Path("/usr/share/ament_cmake"), Path("/usr/share/rosidl_generator_c"), Path("/usr/bin/g++"))
OWN_COLCON = Path(sys.executable).parent / "colcon"

STAND_INS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "builtin_interfaces": ((), ("Duration", "Time")),
    "std_msgs": (("builtin_interfaces",), ("Header",)),
    "sensor_msgs": (("builtin_interfaces", "std_msgs"), ("CompressedImage",)),
}
"""Package -> the packages it depends on, and those of its messages that longscape_msgs uses."""

_GENERATORS = "".join(f"find_package({name} REQUIRED)\n" for name in ("rosidl_cmake", "rosidl_generator_c", "rosidl_generator_cpp"))
_MANIFEST = """<?xml version="1.0"?>
<package format="3">
  <name>{name}</name>
  <version>0.0.0</version>
  <description>Stands in for ROS's package of this name in tests.</description>
  <maintainer email="maintainers@longscape.dev">longscape_ros maintainers</maintainer>
  <license>Apache-2.0</license>
  <buildtool_depend>ament_cmake</buildtool_depend>
  {depends}
  <export><build_type>ament_cmake</build_type></export>
</package>
"""


def skip_without_own_colcon() -> None:
    """Skips where colcon is not installed in the environment that runs the tests."""
    if not OWN_COLCON.is_file():
        pytest.skip(f"no {OWN_COLCON}; install it with: pip install colcon-common-extensions colcon-ros")


def skip_without_debian_ros() -> None:
    """Skips where Debian's colcon, ament and rosidl are not installed."""
    if missing := [str(path) for path in DEBIAN_PARTS if not path.exists()]:
        pytest.skip(f"no {', '.join(missing)}; .ci/run installs colcon, ament and rosidl from Debian where it may")


def real_ros() -> Path:
    """The environment with ROS 2 Jazzy from PyPI that ``scripts/setup_ros.sh`` makes; skips where there is none."""
    folder = Path(os.environ.get("LONGSCAPE_ROS") or ROOT / ".venv-ros")
    if not (folder / ".complete").is_file():
        pytest.skip(f"no {folder}; make it with: scripts/setup_ros.sh {folder}")
    return folder


def make_workspace(folder: Path) -> Path:
    """A folder with ``src/longscape_ros``, a copy of this checkout, and beside it the link that the README tells to make."""
    source = folder / "src" / "longscape_ros"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=False
    )
    if listed.returncode:
        pytest.skip("this is no git checkout, so what belongs to the package cannot be told from what does not")
    for name in listed.stdout.decode().split("\0"):
        path = ROOT / name
        if not name or not (path.is_symlink() or path.is_file()):
            continue
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target, follow_symlinks=False)
    (folder / "src" / "longscape_msgs").symlink_to("longscape_ros/longscape_msgs")
    return folder


def add_stand_ins(workspace: Path) -> None:
    """What longscape_msgs needs of ROS 2 and Debian has not, as packages of the workspace."""
    definitions = get_typestore(Stores.ROS2_JAZZY)
    for name, (depends, messages) in STAND_INS.items():
        files = [f"msg/{message}.msg" for message in messages]
        wanted = ("rosidl_default_generators", *depends)
        lines = [f"find_package({depend} REQUIRED)" for depend in wanted]
        lines.append(
            f"rosidl_generate_interfaces(${{PROJECT_NAME}} {' '.join(files)} {' '.join(('DEPENDENCIES', *depends)) * bool(depends)})"
        )
        package = _package(workspace, name, wanted, lines)
        (package / "msg").mkdir()
        for message, file in zip(messages, files, strict=True):
            text, _ = definitions.generate_msgdef(f"{name}/msg/{message}", ros_version=2)
            (package / file).write_text(text.partition("=====")[0], encoding="utf-8")
    _package(workspace, "rosidl_default_runtime", (), ())
    generators = _package(workspace, "rosidl_default_generators", (), (), extras="extras.cmake")
    (generators / "extras.cmake").write_text(_GENERATORS, encoding="utf-8")


def _package(workspace: Path, name: str, depends: Sequence[str], lines: Sequence[str], extras: str = "") -> Path:
    folder = workspace / "src" / name
    folder.mkdir()
    tags = "".join(f"<depend>{depend}</depend>" for depend in depends)
    if name in STAND_INS:
        tags += "<member_of_group>rosidl_interface_packages</member_of_group>"
    (folder / "package.xml").write_text(_MANIFEST.format(name=name, depends=tags), encoding="utf-8")
    text = ["cmake_minimum_required(VERSION 3.16)", f"project({name})", "find_package(ament_cmake REQUIRED)", *lines]
    text.append(f"ament_package({f'CONFIG_EXTRAS {extras}' if extras else ''})")
    (folder / "CMakeLists.txt").write_text("\n".join(text) + "\n", encoding="utf-8")
    return folder
