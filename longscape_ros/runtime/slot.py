# SPDX-License-Identifier: Apache-2.0
"""The backend in use, for the thread that predicts; when it fails, or when a better one is ready, another takes its place."""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from longscape_ros.errors import BackendError
from longscape_ros.runtime.backend import Backend

T = TypeVar("T")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Opened:
    """A backend that is open, and why it is not another one.

    Args:
        backend: Ready to run.
        refused: Better backends, and why they are not used.
        cause: Why one of them does not work although it should; empty: all is as it can be on this machine.
    """

    backend: Backend
    refused: Mapping[str, str] = field(default_factory=dict)
    cause: str = ""

    @property
    def degraded(self) -> bool:
        """Whether a better backend should work here, and does not."""
        return bool(self.cause)


Successor = Callable[[Opened, BackendError], Opened | None]
"""(what failed, its error) -> what serves instead, ready; None: nothing. It closes what failed if there is something to try instead."""


class BackendSlot:
    """Holds the backend in use.

    :meth:`serve` belongs to one thread, the one that predicts; the rest may be called from any.

    Args:
        opened: The backend to begin with; closed with the slot, as is every other one that comes here.
        successor: Asked, on the thread that predicts, when the backend fails; None: a failure goes to the caller.
    """

    def __init__(self, opened: Opened, successor: Successor | None = None) -> None:
        self._lock = threading.Lock()
        self._opened = opened
        self._offered: Opened | None = None
        self._closed = False
        self._successor = successor

    @property
    def opened(self) -> Opened:
        """What is in use."""
        return self._opened

    @property
    def backend(self) -> Backend:
        """The backend in use."""
        return self._opened.backend

    def offer(self, opened: Opened) -> None:
        """Have another backend, which is ready, take the place of the one in use before the next request; that one is closed then."""
        with self._lock:
            unused = opened if self._closed else self._offered
            self._offered = None if self._closed else opened
        if unused is not None:
            close_quietly(unused.backend)

    def serve(self, answer: Callable[[], T]) -> T:
        """What ``answer`` gives; where the backend fails, it is called again with another one in its place.

        Args:
            answer: Answers a request with the backend in use; must be repeatable.

        Raises:
            BackendError: it failed, and there is no other.
        """
        self._take_offer()
        while True:
            try:
                return answer()
            except BackendError as error:
                self._replace(error)

    def close(self) -> None:
        """Close every backend that is here; none is taken any more."""
        with self._lock:
            self._closed = True
            offered, self._offered = self._offered, None
        for opened in (offered, self._opened):
            if opened is not None:
                close_quietly(opened.backend)

    def _take_offer(self) -> bool:
        """Whether another backend was waiting, and is in use now."""
        with self._lock:
            offered, self._offered = self._offered, None
        if offered is None:
            return False
        former, self._opened = self._opened, offered
        close_quietly(former.backend)
        _LOG.info("From now on %s serves instead of %s.", offered.backend.name, former.backend.name)
        return True

    def _replace(self, error: BackendError) -> None:
        """Take what waits, or else what comes after the backend that failed; raise the error where there is nothing."""
        _forget_locals(error)
        if self._take_offer():
            return
        following = None if self._successor is None else self._successor(self._opened, error)
        if following is None:
            raise error
        self._opened = following


def _forget_locals(error: BaseException) -> None:
    """Drop what the calls that failed still hold, a GPU's arrays above all: the next backend may need the memory."""
    chained: BaseException | None = error
    while chained is not None:
        traceback.clear_frames(chained.__traceback__)
        chained = chained.__cause__ or chained.__context__


def close_quietly(backend: Backend) -> None:
    """Close a backend that may be broken."""
    try:
        backend.close()
    except Exception as error:  # whatever a lost device raises, the backend is not used any more
        _LOG.debug("The backend %s could not be closed: %r", backend.name, error)
