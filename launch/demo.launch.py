# SPDX-License-Identifier: Apache-2.0
# ruff: isort: skip_file
"""The simulated arm, its policy and the predictor in ROS: ``ros2 launch longscape_ros demo.launch.py task:=drawer-open``."""

from __future__ import annotations

import sys

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, IncludeLaunchDescription
from launch.conditions import IfCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare


def generate_launch_description() -> LaunchDescription:
    """Four processes: driver, policy, predictor, and RViz unless it is switched off."""
    episode = ["--ros-args", "-p", ["task:=", LaunchConfiguration("task")], "-p", ["seed:=", LaunchConfiguration("seed")]]
    predictor = PathJoinSubstitution([FindPackageShare("longscape_ros"), "launch", "predictor.launch.py"])
    arguments = {
        "task": ("drawer-open", "What the arm does."),
        "seed": ("9000", "Of the objects' places and of what is done."),
        "policy": ("true", "Whether a scripted policy commands the arm."),
        "bundle": ("", "Folder of the model, or the name of one that ships with the package; empty: default."),
        "backend": ("", "What runs the model; empty: the best that works here."),
        "rviz": ("true", "Show camera and futures."),
        "log_level": ("", "Of the predictor: debug, info, warn, error or fatal."),
    }
    passed_on = {name: LaunchConfiguration(name) for name in ("bundle", "backend", "rviz", "log_level")}
    return LaunchDescription(
        [
            *(DeclareLaunchArgument(name, default_value=value, description=text) for name, (value, text) in arguments.items()),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(predictor),
                launch_arguments={**passed_on, "mapping": "simulated_arm"}.items(),
            ),
            ExecuteProcess(cmd=[sys.executable, "-m", "longscape_ros.simulation.driver", *episode], output="screen"),
            ExecuteProcess(
                cmd=[sys.executable, "-m", "longscape_ros.simulation.policy", *episode],
                output="screen",
                condition=IfCondition(LaunchConfiguration("policy")),
            ),
        ]
    )
