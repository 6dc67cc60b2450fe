# SPDX-License-Identifier: Apache-2.0
"""What all nodes have in common: message classes by name, fixed parameters, a clean way in and out, the package's log in the node's."""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, Protocol

from longscape_ros.embedded import ensure_rclpy
from longscape_ros.errors import HostError, InputError, LongscapeError
from longscape_ros.interrupts import Interrupts, interrupted_once

THROTTLE_S = 5.0
"""Seconds between two warnings of the same kind."""

_PACKAGE = "longscape_ros"


class Closable(Protocol):
    """What a process is about."""

    def close(self) -> None:
        """Ends everything in good order; called once, whatever ended the node."""


def message_class(name: str) -> type:
    """``sensor_msgs/msg/Image`` -> rclpy's class.

    Raises:
        HostError: The package of the message is not installed.
    """
    package, kind = name.split("/msg/")
    try:
        module = importlib.import_module(f"{package}.msg")
    except ModuleNotFoundError as error:
        if error.name not in (package, f"{package}.msg"):
            raise
        raise HostError(
            f"Found no Python package {package}, expected {name} in it. "
            + (
                "Build it beside longscape_ros: in the workspace's src, ln -s longscape_ros/longscape_msgs, then colcon build."
                if package == "longscape_msgs"
                else f"Install it, with apt as ros-$ROS_DISTRO-{package.replace('_', '-')}, or build it in the workspace."
            )
        ) from error
    found = getattr(module, kind)
    assert isinstance(found, type)
    return found


def declare(node: Any, name: str, default: Any, description: str) -> Any:
    """Declares a parameter that is fixed once the node runs; its value.

    Raises:
        InputError: It was given a value that does not fit.
    """
    descriptor = message_class("rcl_interfaces/msg/ParameterDescriptor")(description=description, read_only=True)
    return declare_as(node, name, default, descriptor)


def declare_as(node: Any, name: str, default: Any, descriptor: Any) -> Any:
    """Declares a parameter; its value.

    Raises:
        InputError: It was given a value that does not fit.
    """
    from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException

    try:
        return node.declare_parameter(name, default, descriptor).value
    except (InvalidParameterTypeException, InvalidParameterValueException) as error:
        example = json.dumps(default)  # as YAML has it: 0.0 and not 0, true and not True
        raise InputError(
            f"Got a value that does not fit the parameter {name} ({error}); expected one like {example}. Correct the command line or the "
            "parameter file."
        ) from error


def matching_qos(offered: Sequence[Any], depth: int) -> Any:
    """The strongest quality of service that all publishers of a topic offer, as ``ros2 bag record`` takes it.

    Args:
        offered: Their QoS profiles.
        depth: Messages that are kept for a slow reader.
    """
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

    reliable = all(profile.reliability == ReliabilityPolicy.RELIABLE for profile in offered)
    kept = all(profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for profile in offered)
    return QoSProfile(
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if kept else DurabilityPolicy.VOLATILE,
    )


def loss_events(on_lost: Callable[[Any], None] | None) -> Any:
    """A subscription's ``event_callbacks`` that tell how many messages were lost on the way; None: only what rclpy does by itself."""
    try:
        from rclpy.event_handler import SubscriptionEventCallbacks
    except ModuleNotFoundError:  # Humble
        from rclpy.qos_event import SubscriptionEventCallbacks
    return SubscriptionEventCallbacks(message_lost=on_lost)


def run(make: Callable[[], tuple[Any, Closable]], args: Sequence[str] | None, grace_s: float | None = None) -> NoReturn:
    """Runs a node until SIGINT, SIGTERM or a fault, and ends the process; its exit status is 1 after a fault, which is logged.

    Args:
        make: Makes the node, and what is closed at the end (the node may be both); called when rclpy is ready.
        args: Command line; None: the process's.
        grace_s: Seconds that closing may take; then the process ends with what is still at work in it. None: as long as it takes.

    Raises:
        Exception: A fault that a user cannot act on.
    """
    with interrupted_once() as interrupts:  # until the end, for a signal that comes in between would be the exit status
        try:
            status = _run(make, args, grace_s, interrupts)
        except KeyboardInterrupt:  # before there was anything to end
            status = 0
        _leave(status)


def _run(make: Callable[[], tuple[Any, Closable]], args: Sequence[str] | None, grace_s: float | None, interrupts: Interrupts) -> int:
    ensure_rclpy()
    import rclpy
    from rclpy.executors import ExternalShutdownException
    from rclpy.logging import get_logger

    node: Any = None
    part: Closable | None = None
    status = 1
    try:
        try:
            rclpy.init(args=args)
        except RuntimeError as error:  # rclpy's error of a command line or an environment that it cannot read
            get_logger(_PACKAGE).fatal(f"rclpy does not start: {error}")
            return status
        try:
            node, part = make()
            rclpy.spin(node)
        finally:
            interrupts.over = True
        status = 0
    except (KeyboardInterrupt, ExternalShutdownException):
        status = 0
    except LongscapeError as error:
        (node.get_logger() if node is not None else get_logger(_PACKAGE)).fatal(str(error))
    except RuntimeError:  # rclpy's error of a callback that publishes when a signal has just shut rclpy down
        if rclpy.ok():
            raise
        status = 0
    finally:
        interrupts.over = True
        with _within(grace_s, status):
            if part is not None:
                part.close()
            if node is not None:
                node.destroy_node()
            rclpy.try_shutdown()
    return status


@contextmanager
def _within(grace_s: float | None, status: int) -> Iterator[None]:
    """Ends the process with this status if what is done here takes longer."""
    if grace_s is None:
        yield
        return
    end = threading.Timer(grace_s, _leave, (status,))
    end.daemon = True
    end.start()
    try:
        yield
    finally:
        end.cancel()


def _leave(status: int) -> NoReturn:
    """Ends the process at once; the kernel frees the rest, and processes that build engines end with it.

    Taking the interpreter down with ONNX Runtime in it costs half a second and more on a busy machine, and ONNX Runtime aborts a process
    whose interpreter ends while it loads a model on another thread.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a pipe that nobody reads any more
            stream.flush()
    os._exit(status)


def run_part(name: str, make: Callable[[Any], Closable], args: Sequence[str] | None) -> NoReturn:
    """Like :func:`run`, for what works with a node of this name."""

    def node_and_part() -> tuple[Any, Closable]:
        from rclpy.node import Node

        node = Node(name)
        return node, make(node)

    run(node_and_part, args)


class NodeLog(logging.Handler):
    """Gives what the package logs to a node's logger, until it is closed.

    Args:
        logger: The node's.
    """

    def __init__(self, logger: Any) -> None:
        super().__init__(logging.INFO)
        self._logger = logger
        self._source = logging.getLogger(_PACKAGE)
        others = self._others()
        self._former_level: int = others[0]._former_level if others else self._source.level
        self._source.setLevel(logging.INFO)
        self._source.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Logs a record; each severity from a line of its own, as rclpy demands."""
        text = record.getMessage()
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        else:
            self._logger.info(text)

    def close(self) -> None:
        """Stops listening; the last of several puts the level back."""
        self._source.removeHandler(self)
        if not self._others():
            self._source.setLevel(self._former_level)
        super().close()

    def _others(self) -> list[NodeLog]:
        return [handler for handler in self._source.handlers if isinstance(handler, NodeLog)]


class Throttle:
    """Lets one text of each kind pass per :data:`THROTTLE_S`; rclpy's own throttle knows lines of code, not kinds.

    A clock that goes back lets the next one pass.
    """

    def __init__(self) -> None:
        self._passed_s: dict[str, float] = {}

    def passes(self, kind: str, now_s: float) -> bool:
        """Whether a text of this kind may be logged now."""
        before_s = self._passed_s.get(kind)
        if before_s is not None and 0 <= now_s - before_s < THROTTLE_S:
            return False
        self._passed_s[kind] = now_s
        return True
