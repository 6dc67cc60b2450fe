# SPDX-License-Identifier: Apache-2.0
"""The one thread that predicts. While it is busy, the newest request waits and older ones are dropped and counted."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from longscape_ros.contract import Prediction, Snapshot, Status
from longscape_ros.runtime.mailbox import Mailbox
from longscape_ros.runtime.predictor import Predictor
from longscape_ros.runtime.statistics import Rolling

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """What to predict; see :meth:`Predictor.predict`.

    ``arrived_s``: when the input came that it was made of, of ``time.perf_counter``; None: when it was submitted.
    """

    snapshot: Snapshot
    horizon: int | None = None
    seed: int | None = None
    status: Status = Status.OK
    submitted_s: float = field(default_factory=time.perf_counter)
    arrived_s: float | None = None
    show_anchor: bool = False


class InferenceWorker:
    """Serves requests on its own thread.

    Both callbacks run on that thread. A fault, of theirs too, is counted, goes to ``on_error``, and the thread goes on.

    Args:
        predictor: Used by this thread alone from :meth:`start` on.
        on_prediction: Gets each prediction; its ``timings_ms`` also has ``prepare``, from the input's arrival to the request, and
            ``queue``, the wait before it began.
        on_error: Gets what was raised instead.
    """

    def __init__(self, predictor: Predictor, on_prediction: Callable[[Prediction], None], on_error: Callable[[Exception], None]) -> None:
        self._predictor = predictor
        self._on_prediction = on_prediction
        self._on_error = on_error
        self._mailbox: Mailbox[Request] = Mailbox()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="longscape-inference", daemon=True)
        self.errors = 0
        self.latency_ms = Rolling()
        self.queue_ms = Rolling()

    @property
    def dropped(self) -> int:
        """Requests that a newer one replaced before they were served."""
        return self._mailbox.dropped

    @property
    def predictions(self) -> int:
        """Predictions made."""
        return self.latency_ms.count

    def start(self) -> None:
        """Start the thread, once."""
        self._thread.start()

    def submit(self, request: Request | Snapshot) -> Request | None:
        """Ask for a prediction; returns the request that will not be served for it, if any."""
        return self._mailbox.put(request if isinstance(request, Request) else Request(request))

    def stop(self, timeout_s: float | None = 10.0) -> bool:
        """Finish the chunk in work, publish nothing more, end the thread; whether it ended in time."""
        self._stopping.set()
        self._mailbox.close()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _serve(self) -> None:
        while not self._stopping.is_set():
            request = self._mailbox.take()
            if request is None:
                continue
            try:
                self._answer(request)
            except Exception as error:  # a fault in one request must not end the service
                self.errors += 1
                self._report(error)

    def _answer(self, request: Request) -> None:
        queue_ms = 1e3 * (time.perf_counter() - request.submitted_s)
        prediction = self._predictor.predict(
            request.snapshot,
            horizon=request.horizon,
            seed=request.seed,
            status=request.status,
            should_stop=self._stopping.is_set,
            show_anchor=request.show_anchor,
        )
        if self._stopping.is_set():
            return
        self.queue_ms.add(queue_ms)
        self.latency_ms.add(prediction.timings_ms["total"])
        prepare_ms = 0.0 if request.arrived_s is None else 1e3 * (request.submitted_s - request.arrived_s)
        self._on_prediction(replace(prediction, timings_ms=prediction.timings_ms | {"prepare": prepare_ms, "queue": queue_ms}))

    def _report(self, error: Exception) -> None:
        try:
            self._on_error(error)
        except Exception:
            _LOG.exception("The callback for errors failed on %r.", error)
