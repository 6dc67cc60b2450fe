# SPDX-License-Identifier: Apache-2.0
"""The rclpy API on Eclipse Cyclone DDS, for hosts without ROS. One door: :func:`ensure_rclpy`."""

from longscape_ros.embedded.install import ensure_rclpy

__all__ = ["ensure_rclpy"]
