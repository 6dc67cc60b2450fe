# SPDX-License-Identifier: Apache-2.0
"""Short work on several CPUs: what would otherwise be done one after the other, or while nothing can be done but wait.

Only work that lets other Python threads run meanwhile gains (OpenCV, NumPy's random numbers, ONNX Runtime). What no thread has begun when
its result is needed is done by the caller, so a busy machine costs little more than doing all of it there in the first place.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from queue import Empty, SimpleQueue
from typing import ParamSpec, TypeVar

MOST_HELPERS = 3
"""Threads beside the caller's: the work is a millisecond, and more would wait longer than they work."""

PATIENCE = 0.5
"""How long the others are waited for when nothing is left to take, over the time until then."""

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


def begin(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Callable[[], R]:
    """Begin ``work`` on another thread, if there is one to spare; what is returned gives its result, or raises what it raised."""
    future = _submit(functools.partial(work, *args, **kwargs))
    if future is None:
        return functools.partial(work, *args, **kwargs)

    def result() -> R:
        return work(*args, **kwargs) if future.cancel() else future.result()

    return result


def share(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """``[work(item) for item in items]``, on several threads; they take the items one by one.

    An item that another thread has taken and does not finish, because something else has its CPU, is done again by the caller. So all
    takes hardly longer than without the others, and ``work`` must not mind being done twice.
    """
    results: dict[int, R] = {}
    waiting: SimpleQueue[int] = SimpleQueue()
    for index in range(len(items)):
        waiting.put(index)

    def take() -> None:
        while True:
            try:
                index = waiting.get_nowait()
            except Empty:
                return
            results[index] = work(items[index])

    helpers = [future for _ in items[1:] if (future := _submit(take)) is not None]
    begin_s = time.perf_counter()
    try:
        take()
    finally:
        begun = [future for future in helpers if not future.cancel()]
    done, _ = wait(begun, PATIENCE * (time.perf_counter() - begin_s))
    for future in done:
        future.result()
    return [results[index] if index in results else work(items[index]) for index in range(len(items))]


def helper_count() -> int:
    """Threads that there are beside the caller's."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cpus - 1, MOST_HELPERS)


@functools.cache
def _pool() -> ThreadPoolExecutor | None:
    count = helper_count()
    return ThreadPoolExecutor(count, thread_name_prefix="longscape-helper") if count else None


def _submit(work: Callable[[], R]) -> Future[R] | None:
    """None: there is no thread for it."""
    pool = _pool()
    if pool is None:
        return None
    try:
        return pool.submit(work)
    except RuntimeError:  # the interpreter is about to end
        return None
