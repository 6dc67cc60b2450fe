# SPDX-License-Identifier: Apache-2.0
"""The embedded graph from inside: a domain of their own for these tests, contexts that end with the test, and other processes.

What rclpy says too is tested in tests/conformance.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import ros
from support.domains import unused_domain
from support.ros import HAS_CYCLONE, processes

PATIENCE_S = 30.0
collect_ignore_glob = [] if HAS_CYCLONE else ["test_*.py"]


@pytest.fixture(scope="session", autouse=True)
def own_domain() -> Iterator[int]:
    """A domain that nobody else is likely to use, on this machine only."""
    domain = unused_domain()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        patch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        for name in ("ROS_LOCALHOST_ONLY", "ROS_STATIC_PEERS", "CYCLONEDDS_URI", "RCUTILS_CONSOLE_OUTPUT_FORMAT"):
            patch.delenv(name, raising=False)
        yield domain


@pytest.fixture
def context() -> Iterator[Any]:
    """An initialized context without arguments."""
    from longscape_ros.embedded.context import Context

    context = Context()
    context.init([])
    yield context
    context.close()


@pytest.fixture
def make_node(context: Any) -> Iterator[Callable[..., Any]]:
    """Makes nodes of the context, which are destroyed at the end."""
    from longscape_ros.embedded.node import Node

    nodes: list[Any] = []

    def make(name: str = "node", arguments: str = "", kind: type[Any] = Node, **options: Any) -> Any:
        nodes.append(kind(name, context=context, cli_args=["--ros-args", *arguments.split()], **options))
        return nodes[-1]

    yield make
    for node in nodes:
        node.destroy_node()


@pytest.fixture
def spin(context: Any) -> Iterator[Callable[..., bool]]:
    """spin(nodes, condition) runs the nodes' callbacks until the condition holds; whether it does."""
    from longscape_ros.embedded.executors import SingleThreadedExecutor

    executor = SingleThreadedExecutor(context=context)

    def until(nodes: list[Any], condition: Callable[[], Any], patience_s: float = PATIENCE_S) -> bool:
        for node in nodes:
            executor.add_node(node)
        end = time.monotonic() + patience_s
        while not condition() and time.monotonic() < end:
            executor.spin_once(timeout_sec=0.05)
        return bool(condition())

    yield until
    executor.shutdown()


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a Python script in a process of its own."""
    yield from processes()


@pytest.fixture
def survive(start: Callable[..., subprocess.Popen[str]]) -> Callable[[str], None]:
    """Runs a script that says that it is alive at its end, and nothing else."""

    def run(script: str) -> None:
        process = start(script)
        assert process.communicate(timeout=ros.PATIENCE_S) == ("alive\n", "")
        assert process.returncode == 0

    return run
