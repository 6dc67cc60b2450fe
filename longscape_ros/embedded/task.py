# SPDX-License-Identifier: Apache-2.0
"""rclpy's Future and Task."""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Callable, Generator
from typing import Any


class Future:
    """A result that comes later; `await` it in a coroutine that an executor runs."""

    def __init__(self, *, executor: Any = None) -> None:
        self._done = False
        self._cancelled = False
        self._result: Any = None
        self._exception: BaseException | None = None
        self._callbacks: list[Callable[[Future], Any]] = []
        self._lock = threading.RLock()
        self._executor: Callable[[], Any] = lambda: None
        self._set_executor(executor)

    def __await__(self) -> Generator[Future, None, Any]:
        while not self._done:
            yield self
        return self.result()

    def cancel(self) -> None:
        """Ends the wait without a result."""
        with self._lock:
            if not self._done:
                self._cancelled = True
        self._finish()

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._cancelled

    def done(self) -> bool:
        """Whether it has a result, an exception, or was cancelled."""
        return self._done or self._cancelled

    def result(self) -> Any:
        """The result, None so far; raises the exception if there is one."""
        if self._exception is not None:
            raise self._exception
        return self._result

    def exception(self) -> BaseException | None:
        """The exception, if there is one."""
        return self._exception

    def set_result(self, result: Any) -> None:
        """Gives the result."""
        with self._lock:
            self._result = result
            self._done, self._cancelled = True, False
        self._finish()

    def set_exception(self, exception: BaseException) -> None:
        """Gives an exception instead."""
        with self._lock:
            self._exception = exception
            self._done, self._cancelled = True, False
        self._finish()

    def add_done_callback(self, callback: Callable[[Future], Any]) -> None:
        """Calls back once done: on the executor if there is one, else where it is done."""
        with self._lock:
            if not self.done():
                self._callbacks.append(callback)
                return
        self._call(callback)

    def _finish(self) -> None:
        with self._lock:
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            self._call(callback)

    def _call(self, callback: Callable[[Future], Any]) -> None:
        executor = self._executor()
        if executor is None:
            callback(self)
        else:
            executor.create_task(callback, self)

    def _set_executor(self, executor: Any) -> None:
        self._executor = (lambda: None) if executor is None else weakref.ref(executor)


class Task(Future):
    """A function or a coroutine that an executor runs, step by step where it awaits."""

    def __init__(self, handler: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None, *, executor: Any = None) -> None:
        super().__init__(executor=executor)
        if inspect.iscoroutinefunction(handler):
            handler = handler(*args, **(kwargs or {}))
            args, kwargs = (), None
        self._handler, self._args, self._kwargs = handler, args, kwargs or {}
        self._running = threading.Lock()

    def __call__(self) -> None:
        """Runs the function, or the coroutine up to its next await."""
        if self.done() or not self._running.acquire(blocking=False):
            return
        try:
            if inspect.iscoroutine(self._handler):
                self._step()
            else:
                self.set_result(self._handler(*self._args, **self._kwargs))
        except StopIteration as stop:
            self.set_result(stop.value)
        except Exception as fault:
            self.set_exception(fault)
        finally:
            self._running.release()

    def _step(self) -> None:
        awaited = self._handler.send(None)
        again = self._again
        if isinstance(awaited, Future):
            awaited.add_done_callback(lambda _: again())
        else:
            again()

    def _again(self) -> None:
        executor = self._executor()
        if executor is not None:
            executor.run_again(self)

    def executing(self) -> bool:
        """Whether it runs right now."""
        return self._running.locked()
