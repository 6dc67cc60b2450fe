# SPDX-License-Identifier: Apache-2.0
# ruff: isort: skip_file
"""The predictor on a robot: ``ros2 launch longscape_ros predictor.launch.py image:=/camera/image_raw rviz:=true``.

Arguments that are left empty leave the parameter file's values as they are. Names of topics may be relative to the namespace.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

OVERRIDES = {
    "bundle": "model.bundle",
    "backend": "model.backend",
    "precision": "model.precision",
    "mapping": "mapping",
    "action": "action_topics",
    "image_type": "image_type",
    "image_stamp": "image_stamp",
    "autostart": "autostart",
    "build_only": "build_only",
    "use_sim_time": "use_sim_time",
}
"""Launch arguments that, unless they are empty, take the place of what the parameter file says."""

SWITCHES = ("autostart", "build_only", "use_sim_time", "rviz")
"""Launch arguments that are true or false."""

CAMERA = "/camera/image_raw"
"""The camera's topic, by default and in the configuration of RViz."""

NODE = "predictor"
COMPRESSED = "sensor_msgs/msg/CompressedImage"


def generate_launch_description() -> LaunchDescription:
    """The predictor node and, if asked for, RViz."""
    share = FindPackageShare("longscape_ros")
    arguments = {
        "image": (CAMERA, "The camera; CompressedImage if the name ends in /compressed."),
        "camera_info": ("", "Its intrinsics, which need not exist; empty: camera_info beside the camera's topic."),
        "namespace": ("", "Namespace of the node, of its topics, and of all names here that do not begin with a slash."),
        "params_file": (PathJoinSubstitution([share, "config", "predictor.yaml"]), "The node's parameters."),
        "rviz": ("false", "Show camera and futures."),
        "rviz_config": (PathJoinSubstitution([share, "config", "predictor.rviz"]), "What RViz shows; topics are put in their places."),
        "log_level": ("", "debug, info, warn, error or fatal, or as LOGGER:=LEVEL."),
        **{name: ("", f"Overrides the parameter {parameter}.") for name, parameter in OVERRIDES.items()},
    }
    declared = [DeclareLaunchArgument(name, default_value=value, description=text) for name, (value, text) in arguments.items()]
    return LaunchDescription([*declared, OpaqueFunction(function=_nodes, args=[list(arguments)])])


def _nodes(context: LaunchContext, names: list[str]) -> list[Node]:
    values = {name: LaunchConfiguration(name).perform(context) for name in names}
    if values["image"].endswith("/compressed") and not values["image_type"]:
        values["image_type"] = COMPRESSED
    for name in ("params_file", "rviz_config"):
        _check_file(name, values[name])
    camera_info = values["camera_info"] or _beside(values["image"], "camera_info")
    switches = {name: _switch(name, values[name]) for name in SWITCHES if values[name]}
    overrides = {parameter: switches.get(name, values[name]) for name, parameter in OVERRIDES.items() if values[name]}
    if values["namespace"]:
        overrides["diagnostic_updater.use_fqn"] = True
    predictor = Node(
        package="longscape_ros",
        executable="longscape_predictor",
        name=NODE,
        namespace=values["namespace"] or None,
        parameters=[values["params_file"], *([overrides] if overrides else [])],
        remappings=[("~/input/image", values["image"]), ("~/input/camera_info", camera_info)],
        ros_arguments=["--log-level", values["log_level"]] if values["log_level"] else [],
        output="screen",
    )
    if not switches.get("rviz") or switches.get("build_only"):
        return [predictor]
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        namespace=values["namespace"] or None,
        arguments=["-d", _rviz_config(values["rviz_config"], values["namespace"], values["image"])],
        parameters=[{"use_sim_time": switches.get("use_sim_time", False)}],
    )
    return [predictor, rviz]


def _beside(image: str, name: str) -> str:
    """A topic of the camera, where image_transport has it."""
    base = image.removesuffix("/compressed")
    return base[: base.rfind("/") + 1] + name


def _check_file(name: str, path: str) -> None:
    """launch_ros only warns of a parameter file that is not there, and starts the node with its defaults."""
    if not Path(path).is_file():
        raise ValueError(f"Got {name}:={path}, found no such file.")


def _switch(name: str, value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise ValueError(f"Got {name}:={value}, expected true or false.")
    return value.lower() == "true"


def _rviz_config(path: str, namespace: str, image: str) -> str:
    """The configuration with this camera's and this namespace's topics: the file itself if it has them, else a temporary one."""
    root = f"/{namespace.strip('/')}" if namespace.strip("/") else ""
    camera = image if image.startswith("/") else f"{root}/{image}"
    text = Path(path).read_text(encoding="utf-8")
    shown = text.replace(f"Value: {CAMERA}\n", f"Value: {camera}\n").replace(f"Value: /{NODE}/", f"Value: {root}/{NODE}/")
    if shown == text:
        return path
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", prefix="longscape_", suffix=".rviz", delete=False) as file:
        file.write(shown)
    return file.name
