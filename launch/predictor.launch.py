# SPDX-License-Identifier: Apache-2.0
# ruff: isort: skip_file
"""The predictor on a robot: ``ros2 launch longscape_ros predictor.launch.py image:=/camera/image_raw rviz:=true``."""

from __future__ import annotations

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

OVERRIDES = {
    "bundle": "model.bundle",
    "backend": "model.backend",
    "precision": "model.precision",
    "build_only": "build_only",
    "mapping": "mapping",
    "image_type": "image_type",
}
"""Launch arguments that, unless they are empty, take the place of what the parameter file says."""

TRUTH = {"true": True, "false": False}
"""What an argument says -> the value of a parameter that is true or false."""


def generate_launch_description() -> LaunchDescription:
    """The predictor node and, if asked for, RViz."""
    share = FindPackageShare("longscape_ros")
    arguments = {
        "image": ("/camera/image_raw", "The camera."),
        "camera_info": ("/camera/camera_info", "Its intrinsics; need not exist."),
        "namespace": ("", "Namespace of the node."),
        "params_file": (PathJoinSubstitution([share, "config", "predictor.yaml"]), "The node's parameters."),
        "use_sim_time": ("false", "Follow /clock, as when a bag is played."),
        "rviz": ("false", "Show camera and futures."),
        **{name: ("", f"Overrides the parameter {parameter}.") for name, parameter in OVERRIDES.items()},
    }
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        arguments=["-d", PathJoinSubstitution([share, "config", "predictor.rviz"])],
        condition=IfCondition(LaunchConfiguration("rviz")),
    )
    declared = [DeclareLaunchArgument(name, default_value=value, description=text) for name, (value, text) in arguments.items()]
    return LaunchDescription([*declared, OpaqueFunction(function=_predictor), rviz])


def _predictor(context: LaunchContext) -> list[Node]:
    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    overrides = {parameter: TRUTH.get(value(name).lower(), value(name)) for name, parameter in OVERRIDES.items() if value(name)}
    return [
        Node(
            package="longscape_ros",
            executable="longscape_predictor",
            name="predictor",
            namespace=value("namespace"),
            parameters=[value("params_file"), {**overrides, "use_sim_time": value("use_sim_time").lower() == "true"}],
            remappings=[("~/input/image", value("image")), ("~/input/camera_info", value("camera_info"))],
            output="screen",
        )
    ]
