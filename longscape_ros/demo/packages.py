# SPDX-License-Identifier: Apache-2.0
"""What must be installed for a demo."""

from __future__ import annotations

import importlib.util

from longscape_ros.errors import HostError

_PACKAGES = {"metaworld": "sim", "mujoco": "sim", "av": "video", "PIL": "video"}
"""Package -> the extra that it comes with."""


def require_packages() -> None:
    """Makes sure that all is there before anything is started.

    Raises:
        HostError: A package is missing.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if all(importlib.util.find_spec(name) is None for name in ("rclpy", "cyclonedds")):
        missing.append("cyclonedds")
    if missing:
        raise HostError(f"Got no package {', '.join(missing)}, which the demo needs; install them with: pip install 'longscape_ros[demo]'")


def client_library() -> str:
    """``rclpy`` where ROS is sourced, else ``embedded``."""
    return "embedded" if importlib.util.find_spec("rclpy") is None else "rclpy"
