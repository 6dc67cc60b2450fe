# SPDX-License-Identifier: Apache-2.0
"""rclpy's own functions: init, spin, shutdown and their kind."""

from __future__ import annotations

from typing import Any

from longscape_ros.embedded.context import Context, get_default_context
from longscape_ros.embedded.executors import Executor, SingleThreadedExecutor
from longscape_ros.embedded.messages import library
from longscape_ros.embedded.node import Node
from longscape_ros.embedded.parameters import Parameter
from longscape_ros.embedded.qos import QoSProfile
from longscape_ros.embedded.signals import (
    SignalHandlerOptions,
    forget_interrupt,
    install_signal_handlers,
    uninstall_signal_handlers,
    watch_context,
)
from longscape_ros.embedded.task import Future
from longscape_ros.embedded.time import NANOSECONDS
from longscape_ros.embedded.type_description_service import START_TYPE_DESCRIPTION_SERVICE_PARAM


class InitContextManager:
    """What init() gives: `with rclpy.init():` shuts down at its end."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def __enter__(self) -> InitContextManager:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.try_shutdown()
        uninstall_signal_handlers()


def init(
    *,
    args: list[str] | None = None,
    context: Context | None = None,
    domain_id: int | None = None,
    signal_handler_options: SignalHandlerOptions | None = None,
) -> InitContextManager:
    """Initializes a context, the default one if None, from ROS arguments (those of sys.argv if None).

    SIGINT and SIGTERM shut the contexts down; by default their handlers are installed with the default context alone.

    Raises:
        RuntimeError: It is initialized already.
    """
    chosen = context or get_default_context()
    if signal_handler_options is None:
        signal_handler_options = SignalHandlerOptions.ALL if context is None else SignalHandlerOptions.NO
    chosen.init(args, domain_id=domain_id)
    install_signal_handlers(signal_handler_options)
    watch_context(chosen)
    return InitContextManager(chosen)


def ok(*, context: Context | None = None) -> bool:
    """Whether a context is initialized and not shut down."""
    return (context or get_default_context()).ok()


def shutdown(*, context: Context | None = None, uninstall_handlers: bool | None = None) -> None:
    """Shuts a context down.

    Raises:
        RuntimeError: It is not initialized, or has been shut down already.
    """
    (context or get_default_context(shutting_down=True)).shutdown()
    if uninstall_handlers or (uninstall_handlers is None and context is None):
        uninstall_signal_handlers()


def try_shutdown(*, context: Context | None = None, uninstall_handlers: bool | None = None) -> None:
    """Shuts a context down if it has not been."""
    forget_interrupt()
    chosen = context or get_default_context()
    if chosen.ok():
        shutdown(context=context, uninstall_handlers=uninstall_handlers)
    elif context is None:
        get_default_context(shutting_down=True)


def create_node(node_name: str, **kwargs: Any) -> Node:
    """A node; takes what Node takes."""
    return Node(node_name, **kwargs)


def get_global_executor(context: Context | None = None) -> Executor:
    """The executor used where none is given."""
    chosen = context or get_default_context()
    if chosen.executor is None:
        chosen.executor = SingleThreadedExecutor(context=chosen)
    executor: Executor = chosen.executor
    return executor


def spin_once(node: Node, *, executor: Executor | None = None, timeout_sec: float | None = None) -> None:
    """Runs one callback of a node; returns without one after the timeout."""
    executor = executor or get_global_executor(node.context)
    executor.add_node(node)
    try:
        executor.spin_once(timeout_sec=timeout_sec)
    finally:
        executor.remove_node(node)


def spin(node: Node, executor: Executor | None = None) -> None:
    """Runs a node's callbacks until shutdown.

    Raises:
        ExternalShutdownException: The context was shut down, as by SIGTERM.
        KeyboardInterrupt: SIGINT.
    """
    executor = executor or get_global_executor(node.context)
    executor.add_node(node)
    try:
        while executor.context.ok():
            executor.spin_once()
    finally:
        executor.remove_node(node)


def spin_until_future_complete(node: Node, future: Future, executor: Executor | None = None, timeout_sec: float | None = None) -> None:
    """Runs a node's callbacks until the future is done, or the timeout."""
    executor = executor or get_global_executor(node.context)
    executor.add_node(node)
    try:
        executor.spin_until_future_complete(future, timeout_sec)
    finally:
        executor.remove_node(node)


def wait_for_message(
    msg_type: Any, node: Node, topic: str, *, qos_profile: QoSProfile | int = 1, time_to_wait: float = -1
) -> tuple[bool, Any]:
    """Waits for one message, without running the node's callbacks: (True, message), or (False, None) after so many seconds (-1: never).

    Do not call it while another thread spins the node.
    """
    received = Future()
    helper = Node(
        f"{node.get_name()}_waiting",
        context=node.context,
        use_global_arguments=False,
        enable_rosout=False,
        start_parameter_services=False,
        parameter_overrides=[Parameter(START_TYPE_DESCRIPTION_SERVICE_PARAM, value=False)],
    )
    helper.create_subscription(msg_type, node.resolve_topic_name(topic), received.set_result, qos_profile)
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(helper)
    try:
        executor.spin_until_future_complete(received, time_to_wait)
    finally:
        executor.shutdown()
        helper.destroy_node()
    return received.done(), received.result()


def timeout_sec_to_nsec(timeout_sec: float | None) -> int:
    """Nanoseconds of a timeout; -1 for none."""
    return -1 if timeout_sec is None or timeout_sec < 0 else int(timeout_sec * NANOSECONDS)


def get_rmw_implementation_identifier() -> str:
    """The middleware: Eclipse Cyclone DDS, without ROS's layer on it."""
    return "embedded_cyclonedds"


def get_message(identifier: str) -> Any:
    """The class of "sensor_msgs/msg/Image" or "sensor_msgs/Image"; ValueError if there is none."""
    package, _, name = identifier.replace("/msg/", "/").partition("/")
    try:
        return library().message_class(f"{package}/msg/{name}")
    except KeyError:
        text = f"Got the message type {identifier!r}, which is unknown. docs/ros.md says which are known without ROS."
        raise ValueError(text) from None


def get_service(identifier: str) -> Any:
    """The class of "std_srvs/srv/SetBool" or "std_srvs/SetBool"; ValueError if there is none."""
    package, _, name = identifier.replace("/srv/", "/").partition("/")
    try:
        return library().service_class(f"{package}/srv/{name}")
    except KeyError:
        text = f"Got the service type {identifier!r}, which is unknown. docs/ros.md says which are known without ROS."
        raise ValueError(text) from None
