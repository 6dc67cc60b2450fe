# SPDX-License-Identifier: Apache-2.0
"""rclpy's Context: the arguments, the domain and the lifetime of everything that a process has in the graph."""

from __future__ import annotations

import atexit
import functools
import inspect
import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

from longscape_ros.embedded.arguments import Arguments, parse_arguments
from longscape_ros.embedded.dds import Participant
from longscape_ros.embedded.exceptions import NotInitializedException, RCLError
from longscape_ros.embedded.graph import Graph
from longscape_ros.embedded.logging import set_levels


class Context:
    """Initialized once, shut down once. Its DDS participant starts with the first node and ends with the last."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._initialized = False
        self._ok = False
        self._domain_id = 0
        self._callbacks: list[Callable[[], Any]] = []  # each gives the callback, or None once its object is gone
        self._participant: Participant | None = None
        self._graph: Graph | None = None
        self._nodes: weakref.WeakSet[Any] = weakref.WeakSet()
        self.arguments = Arguments()
        self.executor: Any = None  # that of rclpy.spin, made when first needed

    def init(self, args: list[str] | None = None, *, initialize_logging: bool = True, domain_id: int | None = None) -> None:
        """Reads the ROS arguments (of sys.argv by default) and the domain id (of ROS_DOMAIN_ID).

        Raises:
            RuntimeError: a second call, or an invalid domain id.
            UnknownROSArgsError: an argument that ROS does not know.
        """
        with self._lock:
            if domain_id is not None and domain_id < 0:
                raise RuntimeError(f"Domain id ({domain_id}) should not be lower than zero.")
            if self._initialized:
                raise RuntimeError("Context.init() must only be called once")
            self.arguments = parse_arguments(sys.argv if args is None else list(args))
            self._domain_id = domain_id_from_environment() if domain_id is None else domain_id
            if initialize_logging:
                set_levels(self.arguments.log_levels)
            self._initialized = self._ok = True
        atexit.register(_close_at_exit, weakref.ref(self))

    def ok(self) -> bool:
        """Whether the context is initialized and not shut down."""
        return self._ok

    def shutdown(self) -> None:
        """Ends the context: whoever waits on it wakes.

        Raises:
            RuntimeError: it was never initialized, or has been shut down already.
        """
        if not self._initialized:
            raise RuntimeError("Context must be initialized before it can be shutdown")
        if not self._finish():
            raise RCLError("rcl_shutdown already called on the given context")

    def try_shutdown(self) -> None:
        """Ends the context if it has not ended."""
        self._finish()

    def _finish(self) -> bool:
        with self._lock:
            if not self._ok:
                return False
            self._ok = False
            callbacks, self._callbacks = self._callbacks, []
        for reference in callbacks:
            callback = reference()
            if callback is not None:
                callback()
        self._close_if_unused()
        return True

    def on_shutdown(self, callback: Callable[[], Any]) -> None:
        """Calls back at shutdown; at once if that has been. Bound methods are held weakly."""
        if not callable(callback):
            raise TypeError(f"callback should be a callable, got {type(callback)}")
        with self._lock:
            if not self._initialized or self._ok:
                self._callbacks = [*(reference for reference in self._callbacks if reference() is not None), _reference(callback)]
                return
        callback()

    def get_domain_id(self) -> int:
        """The DDS domain."""
        if not self._initialized:
            raise RuntimeError("Context must be initialized before it can have a domain id")
        return self._domain_id

    @property
    def participant(self) -> Participant:
        """The DDS participant, created when first needed."""
        with self._lock:
            if self._participant is None:
                if not self._ok:
                    raise NotInitializedException("the context is not initialized or has been shut down")
                self._participant = Participant(self._domain_id, self.arguments.enclave)
            return self._participant

    @property
    def graph(self) -> Graph:
        """What is known of the nodes and topics of the domain."""
        with self._lock:
            if self._graph is None:
                self._graph = Graph(self.participant)
            return self._graph

    def track(self, node: Any) -> None:
        """Keeps the participant alive as long as the node lives."""
        self._nodes.add(node)

    def untrack(self, node: Any) -> None:
        """The node has been destroyed."""
        self._nodes.discard(node)
        if not self._ok:
            self._close_if_unused()

    def _close_if_unused(self) -> None:
        with self._lock:
            if self._nodes or self._participant is None:
                return
            participant, self._participant, self._graph = self._participant, None, None
        participant.close()

    def close(self) -> None:
        """Shuts down and leaves the domain, whatever nodes are left."""
        self._finish()
        self._nodes.clear()
        self._close_if_unused()

    def __enter__(self) -> Context:
        self.init()
        return self

    def __exit__(self, *_: object) -> None:
        self.try_shutdown()


def _reference(callback: Callable[[], Any]) -> Callable[[], Any]:
    return weakref.WeakMethod(callback) if inspect.ismethod(callback) else lambda: callback


def _close_at_exit(reference: weakref.ref[Context]) -> None:
    context = reference()
    if context is not None:
        context.close()


def domain_id_from_environment() -> int:
    """ROS_DOMAIN_ID, 0 without it.

    Raises:
        RCLError: it is no number.
    """
    text = os.environ.get("ROS_DOMAIN_ID", "") or "0"
    if not text.isdigit():
        raise RCLError(f"Got ROS_DOMAIN_ID={text!r}, expected a number from 0 to 232. Correct the environment variable.")
    return int(text)


class _Default:
    """The default context; another one takes its place once it is shut down."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.context: Context | None = None


@functools.cache
def _default() -> _Default:
    return _Default()


def get_default_context(*, shutting_down: bool = False) -> Context:
    """The context used where none is given."""
    holder = _default()
    with holder.lock:
        context = holder.context or Context()
        holder.context = None if shutting_down else context
        return context
