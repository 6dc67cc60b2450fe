# SPDX-License-Identifier: Apache-2.0
"""rclpy's nodes for tests, in the test's thread and in processes of their own: the real rclpy's or the embedded graph's."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE_S = 60.0
"""Long enough for a machine that is busy."""
HAS_CYCLONE = importlib.util.find_spec("cyclonedds") is not None
HAS_ROS = importlib.util.find_spec("rclpy") is not None
DOOR = """
from longscape_ros.embedded import ensure_rclpy
ensure_rclpy()
"""
"""How a script begins that imports rclpy."""
NODE_WITH_ALARMS = f"""{DOOR}
import random, signal
from longscape_ros.embedded.context import Context
from longscape_ros.embedded.node import Node
armed = False
def interrupt(*_):
    global armed
    if armed:
        armed = False
        raise KeyboardInterrupt
def arm(longest_s):
    global armed
    armed = True
    signal.setitimer(signal.ITIMER_REAL, random.uniform(2e-5, longest_s))
signal.signal(signal.SIGALRM, interrupt)
context = Context()
context.init([])
node = Node("node", context=context)
"""
"""How a script begins that has a node of the embedded graph, and is interrupted once at some moment after each time it arms the alarm."""


class Ros:
    """A context, and nodes that work in the test's thread."""

    def __init__(self) -> None:
        from rclpy.context import Context
        from rclpy.executors import SingleThreadedExecutor

        self.context = Context()
        self.context.init(args=[])
        self.executor = SingleThreadedExecutor(context=self.context)
        self._nodes: list[Any] = []

    def node(self, name: str = "node", arguments: str = "", *, kind: type[Any] | None = None, **options: Any) -> Any:
        """A node that works; its arguments, which blanks part, follow --ros-args."""
        from rclpy.node import Node

        node = (kind or Node)(name, context=self.context, cli_args=["--ros-args", *arguments.split()], **options)
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

    def asker(self, package: str, kinds: Mapping[str, str], owner: str) -> Callable[..., Any]:
        """ask(service, request's fields) gives the response of one of a node's services, asked by another node.

        Args:
            package: Of the services' types.
            kinds: Service -> its type's name.
            owner: The node's full name.
        """
        types, asking = importlib.import_module(f"{package}.srv"), self.node("asking")
        clients: dict[str, Any] = {}

        def ask(name: str, **fields: Any) -> Any:
            kind = getattr(types, kinds[name])
            if name not in clients:
                clients[name] = asking.create_client(kind, f"{owner}/{name}")
            return self.answer(clients[name], kind.Request(**fields))

        return ask

    def close(self) -> None:
        """Destroys the nodes, and shuts the context down."""
        for node in self._nodes:
            node.destroy_node()
        self.executor.shutdown()
        self.context.try_shutdown()


def processes() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts Python scripts in processes of their own, with more environment variables; for fixtures.

    At the end those that still run are asked to leave the graph, as killed ones would haunt it for a while, and killed if they do not.
    """
    started: list[subprocess.Popen[str]] = []

    def run(script: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        path = os.pathsep.join(entry for entry in (str(ROOT), os.environ.get("PYTHONPATH", "")) if entry)
        process = subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            env={**os.environ, "PYTHONPATH": path, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.terminate()
    for process in started:
        try:
            process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
