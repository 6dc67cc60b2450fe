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

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE_S = 30.0
HAS_CYCLONE = importlib.util.find_spec("cyclonedds") is not None
collect_ignore_glob = [] if HAS_CYCLONE else ["test_*.py"]


def pytest_report_header() -> str | None:
    return None if HAS_CYCLONE else "embedded graph: not tested, cyclonedds is not installed (pip install 'longscape_ros[embedded]')"


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
