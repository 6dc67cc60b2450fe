# SPDX-License-Identifier: Apache-2.0
"""What rclpy says, and the embedded graph has to say too: these tests run on either, as they are.

They use nothing but rclpy's public names, and ask of the middleware no more than rclpy documents.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest
from support.ros import HAS_CYCLONE, HAS_ROS, Ros, processes

if HAS_ROS or HAS_CYCLONE:
    from longscape_ros.embedded import ensure_rclpy

    ensure_rclpy()  # the tests import rclpy when they are collected
else:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True)
def own_domain(domain: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """A domain for every test, and none of the settings that the developer may have."""
    for name in ("ROS_LOCALHOST_ONLY", "ROS_STATIC_PEERS", "CYCLONEDDS_URI", "RCUTILS_CONSOLE_OUTPUT_FORMAT", "ROS_PYTHON_CHECK_FIELDS"):
        monkeypatch.delenv(name, raising=False)
    return domain


@pytest.fixture
def ros(own_domain: int) -> Iterator[Ros]:
    """Nodes in the test's thread."""
    made = Ros()
    yield made
    made.close()


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a Python script in a process of its own."""
    yield from processes()
