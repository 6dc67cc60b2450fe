# SPDX-License-Identifier: Apache-2.0
"""What the simulation's two nodes have in common: parameters, message classes, and a clean way in and out."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from longscape_ros.embedded import ensure_rclpy
from longscape_ros.errors import LongscapeError

THROTTLE_S = 5.0
"""Seconds between two warnings of the same kind."""


class Part(Protocol):
    """What a node is about."""

    def close(self) -> None:
        """Called when the node shuts down."""


@dataclass(frozen=True, slots=True)
class EpisodeParameters:
    """The parameters that driver and policy must have in common."""

    task: str
    seed: int


def declare_episode(node: Any) -> EpisodeParameters:
    """Declares ``task`` and ``seed``."""
    task = declare(node, "task", "drawer-open", "Meta-World's task, without the version.")
    seed = declare(node, "seed", 9000, "Seed of the objects' places and of what is done.")
    return EpisodeParameters(str(task), int(seed))


def declare(node: Any, name: str, default: Any, description: str) -> Any:
    """Declares a parameter that is fixed once the node runs; its value."""
    descriptor = message_class("rcl_interfaces/msg/ParameterDescriptor")(description=description, read_only=True)
    return node.declare_parameter(name, default, descriptor).value


def message_class(name: str) -> type:
    """``sensor_msgs/msg/Image`` -> rclpy's class."""
    package, kind = name.split("/msg/")
    found = getattr(importlib.import_module(f"{package}.msg"), kind)
    assert isinstance(found, type)
    return found


def run(name: str, make: Callable[[Any], Part], args: Sequence[str] | None) -> int:
    """Runs a node until SIGINT, SIGTERM or a fault; the exit status."""
    ensure_rclpy()
    import rclpy
    from rclpy.executors import ExternalShutdownException
    from rclpy.node import Node

    rclpy.init(args=args)
    node = Node(name)
    part: Part | None = None
    try:
        part = make(node)
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    except LongscapeError as error:
        node.get_logger().fatal(str(error))
        return 1
    except RuntimeError:  # rclpy's error of a callback that publishes when a signal has just shut rclpy down
        if rclpy.ok():
            raise
        return 0
    finally:
        if part is not None:
            part.close()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0
