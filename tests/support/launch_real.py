# SPDX-License-Identifier: Apache-2.0
"""Runs a launch file with ROS's own ``launch`` and notes the command lines of the processes that it starts, in place of starting them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

WAIT_S = 120

RECORDER = """#!{python}
import json, os, sys, tempfile
file = tempfile.NamedTemporaryFile("w", dir={folder!r}, suffix=".json", delete=False)
json.dump(sys.argv, file)
file.close()
"""

RUNNER = """
import json, sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
path, arguments, sys.executable = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
service = LaunchService(noninteractive=True)
source = PythonLaunchDescriptionSource(path)
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(source, launch_arguments=arguments.items())]))
sys.exit(service.run())
"""


def commands(path: Path, arguments: Mapping[str, str], shares: Mapping[str, Path], folder: Path) -> list[list[str]]:
    """See :func:`support.launch_stand_in.commands`; in no particular order.

    Raises:
        ValueError: Launch ended with an error, which is the text.
    """
    prefix, noted = folder / "prefix", folder / "noted"
    noted.mkdir()
    recorders = [prefix / "lib" / "rviz2" / "rviz2", prefix / "lib" / "longscape_ros" / "longscape_predictor", folder / "python"]
    for recorder in recorders:
        recorder.parent.mkdir(parents=True, exist_ok=True)
        recorder.write_text(RECORDER.format(python=sys.executable, folder=str(noted)), encoding="utf-8")
        recorder.chmod(0o755)
    index = prefix / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    for package in ("rviz2", "longscape_ros"):
        (index / package).touch()
    for package, share in shares.items():
        (prefix / "share" / package).symlink_to(share)
    found = os.pathsep.join([str(prefix), *filter(None, [os.environ.get("AMENT_PREFIX_PATH")])])
    environment = {**os.environ, "AMENT_PREFIX_PATH": found, "ROS_LOG_DIR": str(folder / "log")}
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, path, json.dumps(dict(arguments)), folder / "python"],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=WAIT_S, check=False,
    )  # fmt: skip
    if done.returncode:
        raise ValueError(done.stdout + done.stderr)
    result = []
    for file in noted.iterdir():
        program, *words = json.loads(file.read_text(encoding="utf-8"))
        for package, share in shares.items():
            words = [word.replace(str(prefix / "share" / package), str(share)) for word in words]
        name = Path(program)
        result.append([sys.executable if name.name == "python" else f"{name.parent.name}/{name.name}", *words])
    return result
