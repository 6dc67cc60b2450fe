# SPDX-License-Identifier: Apache-2.0
"""A domain of their own for these tests, contexts that end with the test, and other processes."""

from __future__ import annotations

import importlib.util
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PATIENCE_S = 30.0
HAS_CYCLONE = importlib.util.find_spec("cyclonedds") is not None
HAS_ROS = importlib.util.find_spec("rclpy") is not None
_CONFORMANCE = "test_conforms_"  # these say nothing but what rclpy says, and run with the real one too
_ALL = sorted(path.name for path in HERE.glob("test_*.py"))
collect_ignore = [] if HAS_CYCLONE else [name for name in _ALL if not (HAS_ROS and name.startswith(_CONFORMANCE))]


def pytest_report_header() -> str | None:
    return None if HAS_CYCLONE else "embedded graph: not tested, cyclonedds is not installed (pip install 'longscape_ros[embedded]')"


class Ros:
    """Nodes of rclpy, the real one or the embedded one, that work in the test's thread."""

    def __init__(self) -> None:
        from rclpy.context import Context
        from rclpy.executors import SingleThreadedExecutor

        self.context = Context()
        self.context.init(args=[])
        self.executor = SingleThreadedExecutor(context=self.context)
        self._nodes: list[Any] = []

    def node(self, name: str = "node", *arguments: str, kind: type[Any] | None = None, **options: Any) -> Any:
        """A node that works; its arguments follow --ros-args."""
        from rclpy.node import Node

        node = (kind or Node)(name, context=self.context, cli_args=["--ros-args", *arguments], **options)
        self._nodes.append(node)
        self.executor.add_node(node)
        return node

    def until(self, condition: Callable[[], Any], patience_s: float = PATIENCE_S) -> bool:
        """Lets the nodes work until the condition holds; whether it does."""
        end = time.monotonic() + patience_s
        while not condition() and time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.02)
        return bool(condition())

    def answer(self, client: Any, request: Any) -> Any:
        """The response of a service that is there or comes."""
        assert self.until(client.service_is_ready), f"no service {client.srv_name}"
        future = client.call_async(request)
        assert self.until(future.done), f"no response of {client.srv_name}"
        return future.result()

    def close(self) -> None:
        for node in self._nodes:
            node.destroy_node()
        self.executor.shutdown()
        self.context.try_shutdown()


@pytest.fixture
def ros() -> Iterator[Ros]:
    """What tests of conformance have: rclpy through the door, and nodes of it."""
    from longscape_ros.embedded import ensure_rclpy

    ensure_rclpy()
    made = Ros()
    yield made
    made.close()


@pytest.fixture(scope="session", autouse=True)
def own_domain() -> Iterator[int]:
    """A domain that nobody else is likely to use, on this machine only."""
    domain = random.SystemRandom().randrange(2, 100)
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
    """Starts a Python script in a process of its own, which is killed at the end if it still runs."""
    started: list[subprocess.Popen[str]] = []

    def run(script: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        path = os.pathsep.join(entry for entry in (str(ROOT), os.environ.get("PYTHONPATH", "")) if entry)
        process = subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            env={**os.environ, "PYTHONPATH": path, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()
