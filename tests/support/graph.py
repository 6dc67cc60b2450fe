# SPDX-License-Identifier: Apache-2.0
"""A robot and its predictor as nodes of one graph, in the test's thread."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.robot import Robot

from longscape_ros.bundle import Bundle

REMAPPINGS = ("-r", "~/input/image:=/camera/image_raw", "-r", "~/input/camera_info:=/camera/camera_info")


class Graph:
    """Nodes that work in the test's thread."""

    def __init__(self) -> None:
        from rclpy.context import Context
        from rclpy.executors import SingleThreadedExecutor

        self.context = Context()
        self.context.init(args=[])
        self.executor = SingleThreadedExecutor(context=self.context)
        self._closed_at_end: list[Any] = []

    def add(self, node: Any, part: Any = None) -> Any:
        """Has a node work; what is closed before it is destroyed, if anything."""
        self.executor.add_node(node)
        self._closed_at_end.append((node, part))
        return node

    def spin_once(self) -> None:
        self.executor.spin_once(timeout_sec=0.01)

    def robot(self, name: str = "robot", **options: Any) -> Robot:
        from rclpy.node import Node

        return Robot(self.add(Node(name, context=self.context, **options)), self.spin_once)

    def predictor(self, bundle: Bundle | Path, namespace: str = "", **parameters: Any) -> Any:
        """A predictor node; double underscores in names stand for dots."""
        from rclpy.parameter import Parameter

        from longscape_ros.nodes.predictor_node import PredictorNode

        values = {"model.bundle": str(bundle.path if isinstance(bundle, Bundle) else bundle), "model.threads": 1}
        values |= {name.replace("__", "."): value for name, value in parameters.items()}
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        arguments = ["--ros-args", *REMAPPINGS]
        node = PredictorNode(context=self.context, namespace=namespace, cli_args=arguments, parameter_overrides=overrides)
        return self.add(node, node)

    def close(self) -> None:
        for node, part in self._closed_at_end:
            if part is not None:
                part.close()
            node.destroy_node()
        self.executor.shutdown()
        self.context.try_shutdown()


def own_graph() -> Iterator[Graph]:
    """A graph that is closed at the end; for fixtures."""
    from longscape_ros.embedded import ensure_rclpy

    ensure_rclpy()
    made = Graph()
    yield made
    made.close()
