# SPDX-License-Identifier: Apache-2.0
"""rclpy's executors: they wait on a DDS wait set, without polling, and run what is ready."""

from __future__ import annotations

import ctypes
import functools
import inspect
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future as PoolFuture
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from cyclonedds.core import DDSException, GuardCondition, WaitSet

from longscape_ros.embedded.context import Context, get_default_context
from longscape_ros.embedded.signals import handlers_installed
from longscape_ros.embedded.task import Future, Task
from longscape_ros.embedded.time import NANOSECONDS

_UNWATCHED_WAIT_NS = NANOSECONDS // 2  # the longest wait where no signal handler of ours would end it


class TimeoutException(Exception):  # noqa: N818 - rclpy's names
    """Nothing became ready in time."""


class ShutdownException(Exception):  # noqa: N818
    """The executor was shut down."""


class ExternalShutdownException(Exception):  # noqa: N818
    """The context was shut down, as by SIGTERM."""


class ConditionReachedException(Exception):  # noqa: N818
    """What was waited for has come."""


@dataclass
class _Work:
    """One callback that may run now; its group is claimed until `end`."""

    call: Callable[[], Any]
    end: Callable[[], None]


class _Waiter:
    """A DDS wait set that follows the endpoints of the executor's nodes."""

    def __init__(self, context: Context) -> None:
        self._context = context
        wait_set, guard = context.participant.create_wait_set()
        self._wait_set: WaitSet = wait_set
        self._guard: GuardCondition = guard
        self._attached: dict[int, Any] = {}  # id of the DDS entity -> (endpoint, entity)
        self._marks: dict[int, Any] = {}  # what Cyclone's wait says of a DDS entity that ended it -> endpoint

    def follow(self, endpoints: list[Any]) -> None:
        """Watches exactly these endpoints."""
        wanted = {id(endpoint._entity): endpoint for endpoint in endpoints if endpoint.is_alive and endpoint.statuses}
        gone, new = self._attached.keys() - wanted.keys(), wanted.keys() - self._attached.keys()
        for key in gone:
            _, entity = self._attached.pop(key)
            try:
                self._wait_set.detach(entity)
            except DDSException:  # it was deleted, which detaches it
                self._wait_set.attached = [pair for pair in self._wait_set.attached if pair[0] is not entity]
        for key in new:
            endpoint, entity = wanted[key], wanted[key]._entity
            if entity is not None:
                self._wait_set.attach(entity)
                self._attached[key] = (endpoint, entity)
        if gone or new:  # a dict of its own: another thread may be reading the old one
            known = {id(entity): endpoint for endpoint, entity in self._attached.values()}
            marks = ((id(entity), ctypes.addressof(mark)) for entity, mark in self._wait_set.attached)
            self._marks = {address: known[key] for key, address in marks if key in known}

    def wait(self, timeout_ns: int) -> None:
        """Waits until DDS has something, wake() or the timeout; then passes on the statuses of those that ended the wait."""
        marks = self._marks
        ended = (ctypes.c_void_p * (len(marks) + 1))()  # one more: the guard condition
        try:
            # not WaitSet.wait, which does not tell who: a node has a dozen services that nobody asks
            count = self._wait_set._waitset_wait(self._wait_set._ref, ended, len(ended), timeout_ns)
            if count < 0:
                raise DDSException(count, "Occurred while waiting for nodes")
            if count == 0:
                return
            self._guard.take()
        except DDSException:  # the context was shut down and its last node destroyed meanwhile
            if self._context.ok():
                raise
            return
        for mark in ended[: min(count, len(ended))]:
            endpoint = marks.get(mark or 0)
            if endpoint is not None and endpoint.is_alive:
                endpoint.poll()

    def wake(self) -> None:
        """Ends the current or the next wait."""
        try:
            self._guard.set(True)
        except DDSException:  # nobody can wait any more
            if self._context.ok():
                raise


class Executor:
    """Base of the executors: collects what is ready from its nodes, in turn."""

    def __init__(self, *, context: Context | None = None) -> None:
        self._context = context or get_default_context()
        self._lock = threading.RLock()
        self._nodes: list[Any] = []
        self._tasks: deque[Task] = deque()
        self._candidates: deque[tuple[Any, Any]] = deque()  # (node, entity): a node may be removed before its turn
        self._waiter: _Waiter | None = None
        self._changed = True
        self._is_shutdown = False
        self._running = 0
        self._here = threading.local()  # depth: how many of the running callbacks are this thread's
        self._idle = threading.Condition()
        self._context.on_shutdown(self.wake)

    @property
    def context(self) -> Context:
        """The context whose shutdown ends spinning."""
        return self._context

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def create_task(self, callback: Any, *args: Any, **kwargs: Any) -> Task:
        """Runs a function or a coroutine with the callbacks."""
        task = Task(callback, args, kwargs, executor=self)
        self.run_again(task)
        return task

    def run_again(self, task: Task) -> None:
        """Queues a task's next step."""
        self._tasks.append(task)
        self.wake()

    def add_node(self, node: Any) -> bool:
        """Takes over a node's callbacks; False if it has them already."""
        with self._lock:
            if node in self._nodes:
                return False
            self._nodes.append(node)
        node.executor = self
        self.notify_change()
        return True

    def remove_node(self, node: Any) -> None:
        """Leaves a node's callbacks alone."""
        with self._lock:
            if node in self._nodes:
                self._nodes.remove(node)
        if node.executor is self:
            node.executor = None
        self.notify_change()

    def get_nodes(self) -> list[Any]:
        """The nodes whose callbacks run here."""
        with self._lock:
            return list(self._nodes)

    def wake(self) -> None:
        """Ends the current wait, so that what is ready is looked for again."""
        waiter = self._waiter
        if waiter is not None:
            waiter.wake()

    def notify_change(self) -> None:
        """A node got or lost an entity."""
        self._changed = True
        self.wake()

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        """Stops spinning and waits for callbacks that run; False if some run still after the timeout."""
        self._is_shutdown = True
        self.wake()
        limit = None if timeout_sec is None or timeout_sec < 0 else timeout_sec
        own = getattr(self._here, "depth", 0)  # a callback that shuts its executor down does not wait for itself
        with self._idle:
            if not self._idle.wait_for(lambda: self._running <= own, limit):
                return False
        for node in self.get_nodes():
            self.remove_node(node)
        with self._lock:
            self._waiter = None
            self._candidates.clear()
        return True

    def spin(self) -> None:
        """Runs callbacks until shutdown.

        Raises:
            ExternalShutdownException: the context was shut down.
        """
        while self._context.ok() and not self._is_shutdown:
            self.spin_once()

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Runs one callback; returns without one after the timeout."""
        self._spin_once(timeout_sec, lambda: False)

    def spin_until_future_complete(self, future: Future, timeout_sec: float | None = None) -> None:
        """Runs callbacks until the future is done, or the timeout."""
        future.add_done_callback(lambda _: self.wake())
        end = None if timeout_sec is None or timeout_sec < 0 else time.monotonic() + timeout_sec
        while self._context.ok() and not future.done() and not self._is_shutdown:
            self._spin_once(None if end is None else max(0.0, end - time.monotonic()), future.done)
            if end is not None and time.monotonic() >= end:
                return

    def spin_once_until_future_complete(self, future: Future, timeout_sec: float | None = None) -> None:
        """Runs one callback, unless the future is done first."""
        future.add_done_callback(lambda _: self.wake())
        self._spin_once(timeout_sec, future.done)

    def _spin_once(self, timeout_sec: float | None, condition: Callable[[], bool]) -> None:
        try:
            work = self._wait_for_work(timeout_sec, condition)
        except (TimeoutException, ShutdownException, ConditionReachedException):
            return
        self._execute(work)

    def _execute(self, work: _Work) -> None:
        raise NotImplementedError

    def _on_group_free(self) -> None:
        """A callback has ended, and others of its group may run now."""
        self.wake()

    def _run(self, work: _Work) -> None:
        """Runs a callback; a coroutine becomes a task that holds the callback's group until it ends."""
        self._here.depth = getattr(self._here, "depth", 0) + 1
        try:
            self._call(work)
        finally:
            self._here.depth -= 1
            with self._idle:
                self._running -= 1
                self._idle.notify_all()

    def _call(self, work: _Work) -> None:
        try:
            result = work.call()
        except BaseException:
            work.end()
            raise
        if not inspect.iscoroutine(result):
            work.end()
            return
        task = Task(result, executor=None)
        task.add_done_callback(lambda _: work.end())
        task._set_executor(self)
        task()
        _raise_fault(task)

    def _wait_for_work(self, timeout_sec: float | None, condition: Callable[[], bool]) -> _Work:
        end = None if timeout_sec is None or timeout_sec < 0 else time.monotonic_ns() + int(timeout_sec * NANOSECONDS)
        waited = False
        while True:
            self._check_running(condition)
            work = self._take_work()
            if work is not None:
                return work
            self._check_running(condition)  # again: looking for work may have used up the wake-up that told of a change
            left = _UNWATCHED_WAIT_NS if end is None else end - time.monotonic_ns()
            if waited and end is not None and left <= 0:
                raise TimeoutException
            self._wait(None if end is None else max(0, left))
            waited = True

    def _check_running(self, condition: Callable[[], bool]) -> None:
        if self._is_shutdown:
            raise ShutdownException
        if not self._context.ok():
            raise ExternalShutdownException
        if condition():
            raise ConditionReachedException

    def _wait(self, limit_ns: int | None) -> None:
        waiter = self._followed_waiter()
        if self._tasks:
            limit_ns = 0
        limits = [limit_ns, self._until_next_timer()]
        if threading.current_thread() is threading.main_thread() and not handlers_installed():
            limits.append(_UNWATCHED_WAIT_NS)
        waiter.wait(max(0, min((limit for limit in limits if limit is not None), default=2**62)))

    def _followed_waiter(self) -> _Waiter:
        with self._lock:
            if self._is_shutdown:
                raise ShutdownException
            if self._waiter is None:
                self._waiter = _Waiter(self._context)
                self._changed = True
                if not self._context.ok():
                    raise ExternalShutdownException
            if self._changed:
                self._changed = False
                endpoints = [endpoint for node in self._nodes for endpoint in node.endpoints()]
                self._waiter.follow(endpoints)
            return self._waiter

    def _until_next_timer(self) -> int | None:
        waits = (
            timer.time_until_next_call()
            for node in self.get_nodes()
            for timer in node.timers
            if not timer.is_driven() and timer.callback_group.can_execute(timer)
        )
        return min((wait for wait in waits if wait is not None), default=None)

    def _take_work(self) -> _Work | None:
        """The next callback that may run, in turn over everything that is ready."""
        with self._lock:
            while self._tasks:
                task = self._tasks.popleft()
                if not task.done():
                    return self._begin(functools.partial(_step, task), lambda: None)
            if not self._candidates:
                self._followed_waiter().wait(0)
                self._candidates.extend(self._ready())
            while self._candidates:
                node, entity = self._candidates.popleft()
                work = self._claim(entity) if node in self._nodes else None
                if work is not None:
                    return work
        return None

    def _ready(self) -> Iterator[tuple[Any, Any]]:
        for node in self._nodes:
            for entity in node.entities():
                if entity.is_ready() and entity.callback_group.can_execute(entity):
                    yield node, entity

    def _claim(self, entity: Any) -> _Work | None:
        group = entity.callback_group
        if not group.beginning_execution(entity):
            return None
        call = entity.take()
        if call is None:
            group.ending_execution(entity)
            return None

        def end() -> None:
            group.ending_execution(entity)
            self._on_group_free()

        return self._begin(call, end)

    def _begin(self, call: Callable[[], Any], end: Callable[[], None]) -> _Work:
        with self._idle:
            self._running += 1
        return _Work(call, end)


def _step(task: Task) -> None:
    task()
    _raise_fault(task)


def _raise_fault(task: Task) -> None:
    fault = task.exception()
    if fault is not None:
        raise fault


class SingleThreadedExecutor(Executor):
    """Runs callbacks in the thread that spins."""

    def _execute(self, work: _Work) -> None:
        self._run(work)

    def _on_group_free(self) -> None:
        """Nothing waits meanwhile: the thread that spins looks for what is ready next."""


class MultiThreadedExecutor(Executor):
    """Runs callbacks in a pool of threads; what they raise comes out of spinning."""

    def __init__(self, num_threads: int | None = None, *, context: Context | None = None) -> None:
        super().__init__(context=context)
        if num_threads is None:
            num_threads = max(2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2)
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="executor")
        self._futures: list[PoolFuture[None]] = []

    def _execute(self, work: _Work) -> None:
        future = self._pool.submit(self._run, work)
        future.add_done_callback(lambda _: self.wake())
        self._futures.append(future)

    def _check_running(self, condition: Callable[[], bool]) -> None:
        finished = [future for future in self._futures if future.done()]
        self._futures = [future for future in self._futures if not future.done()]
        for future in finished:
            future.result()
        super()._check_running(condition)

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        """Stops spinning, waits for callbacks that run, and ends the threads."""
        done = super().shutdown(timeout_sec)
        self._pool.shutdown(wait=False)
        return done
