# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
from support.snapshots import make_snapshot
from support.tiny_bundle import write_tiny_bundle

from longscape_ros.contract import Status
from longscape_ros.errors import InputError
from longscape_ros.runtime.backends import create_backend
from longscape_ros.runtime.predictor import Predictor
from longscape_ros.runtime.worker import InferenceWorker, Request

WAIT_S = 10


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    bundle = write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")
    return Predictor(bundle, create_backend(bundle, "ort_cpu", threads=1))


class Desk:
    """A worker, and what came out of it; while ``gate`` is shut, it is held inside its callback."""

    def __init__(self, predictor: Predictor) -> None:
        self.results: SimpleQueue[Any] = SimpleQueue()
        self.gate = threading.Event()
        self.gate.set()
        self.busy = threading.Event()
        self.worker = InferenceWorker(predictor, self.receive, self.results.put)
        self.worker.start()

    def receive(self, prediction: Any) -> None:
        self.busy.set()
        self.gate.wait(WAIT_S)
        self.results.put(prediction)

    def next(self) -> Any:
        return self.results.get(timeout=WAIT_S)


@pytest.fixture
def desk(predictor: Predictor) -> Iterator[Desk]:
    desk = Desk(predictor)
    yield desk
    desk.gate.set()
    desk.worker.stop()


def test_a_request_comes_back_as_the_predictors_own_answer_with_the_wait(desk: Desk, predictor: Predictor) -> None:
    desk.worker.submit(Request(make_snapshot(), horizon=10, seed=3, status=Status.STALE_INPUT))
    prediction = desk.next()
    assert np.array_equal(prediction.frames, predictor.predict(make_snapshot(), horizon=10, seed=3).frames)
    assert prediction.status == Status.STALE_INPUT
    assert prediction.timings_ms["queue"] >= 0
    assert prediction.timings_ms["prepare"] == 0
    assert desk.worker.predictions == 1


def test_the_time_from_the_inputs_arrival_to_the_request_is_told(desk: Desk) -> None:
    desk.worker.submit(Request(make_snapshot(), submitted_s=5.0, arrived_s=4.75))
    assert desk.next().timings_ms["prepare"] == 250


def test_while_the_worker_is_busy_the_newest_request_wins_and_the_rest_are_counted(desk: Desk) -> None:
    desk.gate.clear()
    desk.worker.submit(make_snapshot(anchor_ns=1))
    assert desk.busy.wait(WAIT_S)
    for anchor in (2, 3, 4):
        desk.worker.submit(make_snapshot(anchor_ns=anchor))
    desk.gate.set()
    assert [desk.next().anchor_ns, desk.next().anchor_ns] == [1, 4]
    assert desk.worker.dropped == 2


def test_a_fault_is_reported_and_the_next_request_is_served(desk: Desk) -> None:
    desk.worker.submit(replace(make_snapshot(), motion=np.zeros((40, 2))))
    assert isinstance(desk.next(), InputError)
    desk.worker.submit(make_snapshot(anchor_ns=5))
    assert desk.next().anchor_ns == 5
    assert desk.worker.errors == 1


def test_a_fault_in_either_callback_is_survived(predictor: Predictor) -> None:
    done: SimpleQueue[Any] = SimpleQueue()

    def fail(item: Any) -> None:
        done.put(item)
        raise ValueError("the callback is broken")

    worker = InferenceWorker(predictor, fail, fail)
    worker.start()
    for anchor in (1, 2):
        worker.submit(make_snapshot(anchor_ns=anchor))
        assert done.get(timeout=WAIT_S).anchor_ns == anchor
        assert isinstance(done.get(timeout=WAIT_S), ValueError)
    assert worker.stop()
    assert worker.errors == 2


def test_stopping_ends_the_thread_and_publishes_nothing_more(predictor: Predictor) -> None:
    desk = Desk(predictor)
    desk.gate.clear()
    desk.worker.submit(make_snapshot(anchor_ns=1))
    assert desk.busy.wait(WAIT_S)
    desk.worker.submit(make_snapshot(anchor_ns=2))
    assert not desk.worker.stop(timeout_s=0.01)
    desk.gate.set()
    assert desk.worker.stop()
    assert desk.next().anchor_ns == 1
    assert desk.results.empty()
    refused = Request(make_snapshot())
    assert desk.worker.submit(refused) is refused


def test_a_worker_that_never_started_can_be_stopped(predictor: Predictor) -> None:
    assert InferenceWorker(predictor, print, print).stop()
