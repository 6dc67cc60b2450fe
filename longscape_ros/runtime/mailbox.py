# SPDX-License-Identifier: Apache-2.0
"""A box that holds the newest item only."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Hands items from any thread to any thread; a new item replaces one that was not taken, and the loss is counted."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._items: list[T] = []
        self._closed = False
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """How many items were replaced, or refused because the box was closed."""
        return self._dropped

    def put(self, item: T) -> T | None:
        """Leave an item; returns the one that nobody will get for it: the one it replaced, or itself if the box is closed."""
        with self._changed:
            if self._closed:
                self._dropped += 1
                return item
            replaced = self._items.pop() if self._items else None
            self._dropped += replaced is not None
            self._items.append(item)
            self._changed.notify()
            return replaced

    def take(self, timeout_s: float | None = None) -> T | None:
        """Wait for an item (None: without end); None when the time is over or the box is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed, timeout_s)
            return self._items.pop() if self._items and not self._closed else None

    def close(self) -> None:
        """Wake whoever waits; nothing comes out any more."""
        with self._changed:
            self._closed = True
            self._dropped += len(self._items)
            self._items.clear()
            self._changed.notify_all()
