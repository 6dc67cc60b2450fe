# SPDX-License-Identifier: Apache-2.0
"""A bundle goes on being served when its backend fails, and when a better one is ready."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
from support.failing import Failing, Machine, built_by, progress, script
from support.snapshots import make_snapshot
from support.tiny_bundle import write_tiny_bundle
from support.waiting import until

from longscape_ros.bundle import Bundle
from longscape_ros.contract import Prediction, Status
from longscape_ros.errors import BackendError, InputError
from longscape_ros.runtime.backends import create_backend
from longscape_ros.runtime.fallback import Serving
from longscape_ros.runtime.kinds import Engines, Kind, Wanted
from longscape_ros.runtime.predictor import Predictor
from longscape_ros.runtime.slot import BackendSlot, Opened
from longscape_ros.runtime.worker import InferenceWorker

WAIT_S = 10
HORIZON = 48
FINISHED = {"finished": True}
ENGINES = (progress(1, 2), progress(2, 2, 0.5, "decoder.onnx"), FINISHED)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="module")
def expected(bundle: Bundle) -> Prediction:
    """What every backend here predicts."""
    return Predictor(bundle, create_backend(bundle, "ort_cpu", threads=1, precision="fp32")).predict(make_snapshot(), horizon=HORIZON)


@pytest.fixture(scope="module")
def warm_calls(bundle: Bundle) -> int:
    """Calls of graphs that warming up takes."""
    backend = Failing(bundle, "ort_cpu")
    Predictor(bundle, backend).warm_up()  # type: ignore[arg-type]
    return backend.calls


@pytest.fixture
def machine(bundle: Bundle) -> Machine:
    return Machine(bundle)


@pytest.fixture
def serve(bundle: Bundle, machine: Machine) -> Iterator[Callable[..., Serving]]:
    """Serves the bundle on the machine; closed at the end, with every backend that was opened."""
    begun: list[Serving] = []

    def begin(name: str = "auto") -> Serving:
        begun.append(Serving(bundle, Wanted(name), machine.kinds))
        return begun[-1]

    yield begin
    for serving in begun:
        serving.close()
    assert machine.left_open == []


def predict(serving: Serving) -> Prediction:
    return serving.predictor.predict(make_snapshot(), horizon=HORIZON)


# What serves


def test_the_best_backend_serves_and_nothing_is_degraded(machine, serve, expected):
    machine.add("tensorrt", why_not="no GPU; buy one").add("ort_cuda").add("ort_cpu", on_gpu=False)
    serving = serve()
    found = predict(serving)
    assert (found.status, serving.predictor.backend.name) == (Status.OK, "ort_cuda")
    assert np.array_equal(found.frames, expected.frames)
    how = serving.condition
    assert (how.backend, how.precision, how.device, how.threads) == ("ort_cuda", "fp32", "a GPU that is a CPU", 1)
    assert (how.degraded, how.cause, how.engines) == (False, "", "")
    assert how.refused == {"tensorrt": "no GPU; buy one"}
    assert how.figures()["not_used"] == "tensorrt: no GPU; buy one"
    assert [backend.name for backend in machine.opened] == ["ort_cuda"]


def test_a_backend_that_does_not_open_is_passed_over_and_predictions_are_degraded(machine, serve):
    machine.add("ort_cuda", opens=False).add("ort_cpu", on_gpu=False)
    serving = serve()
    assert predict(serving).status == Status.DEGRADED
    assert serving.condition.cause == "ort_cuda in fp32: ort_cuda does not open"
    assert serving.condition.refused == {"ort_cuda in fp32": "ort_cuda does not open"}


def test_a_backend_that_fails_when_it_is_warmed_up_is_closed_and_passed_over(machine, serve):
    machine.add("ort_cuda", fails_at=3).add("ort_cpu", on_gpu=False)
    serving = serve()
    assert predict(serving).status == Status.DEGRADED
    assert machine.left_open == ["ort_cpu"]


def test_where_nothing_works_every_reason_is_told(machine, serve):
    machine.add("tensorrt", why_not="no GPU").add("ort_cuda", opens=False).add("ort_cpu", opens=False, on_gpu=False)
    with pytest.raises(BackendError, match=r"No backend works here: tensorrt: no GPU; ort_cuda .*; ort_cpu in fp32: ort_cpu does not open"):
        serve()


# When it fails


@pytest.mark.parametrize("calls", [0, 1, 2, 5])
def test_a_backend_that_fails_at_a_request_is_replaced_and_the_request_is_served(machine, serve, expected, warm_calls, calls, caplog):
    machine.add("ort_cuda", fails_at=warm_calls + calls).add("ort_cpu", on_gpu=False)
    serving = serve()
    assert serving.predictor.backend.name == "ort_cuda"
    with caplog.at_level(logging.ERROR):
        found = [predict(serving) for _ in range(3)]
    assert all(np.array_equal(one.frames, expected.frames) for one in found)
    assert [one.status for one in found] == [Status.DEGRADED] * 3
    assert [backend.name for backend in machine.opened] == ["ort_cuda", "ort_cpu"]
    assert machine.opened[1].calls > warm_calls  # it was warmed up
    assert machine.left_open == ["ort_cpu"]
    cause = "ort_cuda in fp32 failed while it ran: ort_cuda is out of memory"
    assert serving.condition.cause == cause
    assert [record.message for record in caplog.records] == [f"The next backend takes over: {cause}"]


def test_the_second_failure_goes_one_further_and_the_first_cause_stays(machine, serve, expected, warm_calls):
    machine.add("tensorrt", fails_at=warm_calls + 1).add("ort_cuda", fails_at=warm_calls + 20).add("ort_cpu", on_gpu=False)
    serving = serve()
    found = [predict(serving) for _ in range(4)]
    assert all(np.array_equal(one.frames, expected.frames) for one in found)
    assert serving.condition.backend == "ort_cpu"
    assert serving.condition.cause.startswith("tensorrt in fp32 failed")
    assert list(serving.condition.refused) == ["tensorrt in fp32", "ort_cuda in fp32"]


def test_a_lower_backend_that_does_not_open_is_passed_over_too(machine, serve, warm_calls):
    machine.add("tensorrt", fails_at=warm_calls).add("ort_cuda", opens=False).add("ort_cpu", on_gpu=False)
    serving = serve()
    assert predict(serving).status == Status.DEGRADED
    assert serving.condition.backend == "ort_cpu"


def test_a_gpu_that_is_lost_is_not_tried_again(machine, serve, warm_calls):
    machine.add("tensorrt", fails_at=warm_calls, lost=True).add("ort_cuda").add("ort_cpu", on_gpu=False)
    serving = serve()
    assert predict(serving).status == Status.DEGRADED
    assert [backend.name for backend in machine.opened] == ["tensorrt", "ort_cpu"]


def test_a_backend_that_cannot_even_be_closed_is_replaced_all_the_same(machine, serve, warm_calls):
    machine.add("ort_cuda", fails_at=warm_calls, closes=False).add("ort_cpu", on_gpu=False)
    serving = serve()
    assert predict(serving).status == Status.DEGRADED


def test_the_last_backends_error_comes_out_and_it_may_work_the_next_time(machine, serve, warm_calls):
    machine.add("ort_cpu", on_gpu=False, fails_at=warm_calls)
    serving = serve()
    with pytest.raises(BackendError, match="ort_cpu is out of memory"):
        predict(serving)
    machine.opened[0].fails_at = None
    assert predict(serving).status == Status.OK


def test_when_no_backend_is_left_the_failure_comes_out(machine, serve, warm_calls):
    machine.add("ort_cuda", fails_at=warm_calls).add("ort_cpu", opens=False, on_gpu=False)
    serving = serve()
    with pytest.raises(BackendError, match="ort_cuda is out of memory"):
        predict(serving)
    with pytest.raises(BackendError, match="ort_cuda was closed"):
        predict(serving)


def test_a_backend_that_was_named_is_replaced_by_those_below_it(machine, serve, warm_calls):
    machine.add("tensorrt").add("ort_cuda", fails_at=warm_calls).add("ort_cpu", on_gpu=False)
    serving = serve("ort_cuda")
    assert (predict(serving).status, serving.condition.backend) == (Status.DEGRADED, "ort_cpu")


def test_what_a_failed_request_held_is_let_go_before_the_next_backend_is_opened(bundle):
    held: list[weakref.ref[Any]] = []
    seen: list[Any] = []

    def answer() -> str:
        array = np.zeros(3)
        held.append(weakref.ref(array))
        if seen:
            return "served"
        try:
            raise MemoryError
        except MemoryError as error:
            raise BackendError("out of memory") from error

    def successor(failed: Opened, error: BackendError) -> Opened:
        seen.append(held[0]())
        return failed

    holder = BackendSlot(Opened(Failing(bundle, "ort_cuda")), successor)  # type: ignore[arg-type]
    assert holder.serve(answer) == "served"
    assert seen == [None]


def test_a_fault_of_the_request_replaces_nothing(machine, serve):
    machine.add("ort_cuda").add("ort_cpu", on_gpu=False)
    serving = serve()
    with pytest.raises(InputError):
        serving.predictor.predict(make_snapshot(), horizon=0)
    assert serving.condition.backend == "ort_cuda"


def test_a_status_that_says_more_is_kept(machine, serve, warm_calls):
    machine.add("ort_cuda", fails_at=warm_calls).add("ort_cpu", on_gpu=False)
    found = serve().predictor.predict(make_snapshot(), horizon=HORIZON, status=Status.STALE_INPUT)
    assert found.status == Status.STALE_INPUT


def test_a_rollout_is_served_by_the_next_backend_too(machine, serve, expected, warm_calls):
    machine.add("ort_cuda", fails_at=warm_calls + 2).add("ort_cpu", on_gpu=False)
    serving = serve()
    rollout = serving.predictor.roll_out(make_snapshot(), horizon=HORIZON)
    assert np.array_equal(serving.predictor.backend.start_decoding(rollout.latents)(), expected.frames)
    assert serving.condition.backend == "ort_cpu"


def test_while_a_worker_predicts_no_request_is_lost(machine, serve, expected, warm_calls):
    machine.add("ort_cuda", fails_at=warm_calls + 10).add("ort_cpu", on_gpu=False)
    results: SimpleQueue[Any] = SimpleQueue()
    worker = InferenceWorker(serve().predictor, results.put, results.put)
    worker.start()
    for anchor in range(1, 8):
        worker.submit(make_snapshot(anchor_ns=anchor))
        found = results.get(timeout=WAIT_S)
        assert found.anchor_ns == anchor
    worker.stop()
    assert (worker.errors, worker.dropped, worker.predictions) == (0, 0, 7)


# When a better one is ready


def slot(bundle: Bundle) -> tuple[BackendSlot, Failing, Failing]:
    one, other = Failing(bundle, "ort_cpu"), Failing(bundle, "tensorrt")
    return BackendSlot(Opened(one, cause="tensorrt is not ready")), one, other  # type: ignore[arg-type]


def test_a_backend_that_is_offered_takes_over_between_two_requests(bundle, expected):
    holder, one, other = slot(bundle)
    predictor = Predictor(bundle, holder)
    assert predictor.predict(make_snapshot(), horizon=HORIZON).status == Status.DEGRADED
    during: list[tuple[str, int]] = []

    def stop() -> bool:
        """Asked between two chunks: the offer comes in the middle of a request."""
        if not during:
            holder.offer(Opened(other))
        during.append((predictor.backend.name, one.closed))
        return False

    first = predictor.predict(make_snapshot(), horizon=HORIZON, should_stop=stop)
    assert set(during) == {("ort_cpu", 0)}
    assert first.status == Status.DEGRADED
    second = predictor.predict(make_snapshot(), horizon=HORIZON)
    assert (predictor.backend.name, one.closed, second.status) == ("tensorrt", 1, Status.OK)
    assert np.array_equal(second.frames, expected.frames)


def test_what_is_offered_serves_a_request_at_which_the_one_in_use_fails(bundle, expected):
    holder, one, other = slot(bundle)
    one.fails_at = 3  # after the first chunk
    predictor = Predictor(bundle, holder)

    def offer() -> bool:
        if predictor.backend is one:
            holder.offer(Opened(other))
        return False

    found = predictor.predict(make_snapshot(), horizon=HORIZON, should_stop=offer)
    assert np.array_equal(found.frames, expected.frames)
    assert (predictor.backend.name, one.closed) == ("tensorrt", 1)


def test_of_two_offers_the_newer_one_is_taken_and_the_other_is_closed(bundle):
    holder, _, other = slot(bundle)
    newer = Failing(bundle, "ort_cuda")
    holder.offer(Opened(other))
    holder.offer(Opened(newer))
    assert other.closed == 1
    assert holder.serve(lambda: holder.backend) is newer


def test_a_slot_closes_all_that_it_holds_and_what_comes_too_late(bundle):
    holder, one, other = slot(bundle)
    late = Failing(bundle, "late")
    holder.offer(Opened(other))
    holder.close()
    holder.offer(Opened(late))
    assert (one.closed, other.closed, late.closed) == (1, 1, 1)


def test_offers_from_another_thread_lose_no_request(bundle, expected):
    first = Failing(bundle, "first")
    holder = BackendSlot(Opened(first))
    offered: list[Failing] = [first]
    over = threading.Event()

    def offer_many() -> None:
        for number in range(20):
            offered.append(Failing(bundle, f"number {number}"))
            holder.offer(Opened(offered[-1]))
        over.set()

    thread = threading.Thread(target=offer_many)
    predictor = Predictor(bundle, holder)
    thread.start()
    found = []
    while not over.is_set() or len(found) < 3:
        found.append(predictor.predict(make_snapshot(), horizon=8))
    thread.join(WAIT_S)
    assert all(np.array_equal(one.frames, expected.frames[:8]) for one in found)
    holder.close()
    assert [backend.closed for backend in offered] == [1] * len(offered)


# Engines


def test_while_engines_are_built_another_backend_serves_and_then_they_take_over(machine, serve, expected, tmp_path):
    go = tmp_path / "go"
    wait = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\nprint('{{\"finished\": true}}', flush=True)"
    built = [False]
    machine.add("tensorrt", engines=built_by(script(*ENGINES[:2], then=wait), built)).add("ort_cpu", on_gpu=False)
    serving = serve()
    assert predict(serving).status == Status.DEGRADED
    assert until(lambda: serving.condition.engines == "building engines: 2 of 2, 75 %")
    how = serving.condition
    assert (how.backend, how.cause) == ("ort_cpu", "tensorrt in fp32: its engines are being built")
    built.append(True)
    go.touch()
    assert until(lambda: len(machine.opened) == 2 and not serving.condition.engines)
    found = predict(serving)
    assert (found.status, serving.condition.backend, serving.condition.cause) == (Status.OK, "tensorrt", "")
    assert np.array_equal(found.frames, expected.frames)
    assert machine.left_open == ["tensorrt"]


def test_a_backend_that_is_named_is_stood_in_for_while_its_engines_are_built(machine, serve):
    machine.add("tensorrt", engines=built_by(script(*ENGINES))).add("ort_cpu", on_gpu=False)
    serving = serve("tensorrt")
    assert until(lambda: len(machine.opened) == 2 and not serving.condition.engines)
    assert (predict(serving).status, serving.condition.backend) == (Status.OK, "tensorrt")


def test_engines_that_are_built_already_are_used_at_once(machine, serve):
    machine.add("tensorrt", engines=built_by(script(code=1), (True,))).add("ort_cpu", on_gpu=False)
    serving = serve()
    assert (serving.condition.backend, serving.condition.engines) == ("tensorrt", "")


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        (script(progress(1, 2), {"fault": "unsupported operator Foo"}, code=1), "unsupported operator Foo"),
        (script("about to crash", then="import os; os.abort()"), "the process was ended by SIGABRT; it said last: about to crash"),
        (script("no such file", code=3), "the process ended with exit status 3; it said last: no such file"),
        (script(progress(1, 2)), "the process ended with exit status 0; it said last: (nothing)"),
        (["/no/such/program"], "the process could not be started: [Errno 2] No such file or directory: '/no/such/program'"),
    ],
)
def test_a_build_that_fails_is_reported_and_the_other_backend_stays(machine, serve, command, fault, caplog):
    machine.add("tensorrt", engines=built_by(command)).add("ort_cpu", on_gpu=False)
    serving = serve()
    assert until(lambda: serving.condition.engines.startswith("engines could not be built"))
    how = serving.condition
    assert how.engines == f"engines could not be built: {fault}"
    assert how.cause == f"tensorrt in fp32: {how.engines}"
    assert how.refused == {"tensorrt in fp32": how.engines}
    assert (predict(serving).status, serving.condition.backend) == (Status.DEGRADED, "ort_cpu")
    assert f"ort_cpu goes on serving: {how.engines}" in caplog.messages


@pytest.mark.parametrize("failing", [{"opens": False}, {"fails_at": 2}])
def test_engines_that_were_built_and_do_not_run_are_reported_and_the_other_backend_stays(machine, serve, failing):
    machine.add("tensorrt", engines=built_by(script(*ENGINES)), **failing).add("ort_cpu", on_gpu=False)
    serving = serve()
    assert until(lambda: serving.condition.engines.startswith("engines were built, but do not run: tensorrt"))
    assert (predict(serving).status, serving.condition.backend) == (Status.DEGRADED, "ort_cpu")


def test_engines_take_over_from_whatever_serves_when_they_are_there(machine, serve, tmp_path, warm_calls):
    go = tmp_path / "go"
    wait = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\nprint('{{\"finished\": true}}', flush=True)"
    machine.add("tensorrt", engines=built_by(script(then=wait))).add("ort_cuda", fails_at=warm_calls).add("ort_cpu", on_gpu=False)
    serving = serve()
    assert serving.condition.backend == "ort_cuda"
    predict(serving)
    assert serving.condition.backend == "ort_cpu"
    assert serving.condition.cause == "tensorrt in fp32: its engines are being built"
    go.touch()
    assert until(lambda: len(machine.opened) == 3 and not serving.condition.engines)
    assert (predict(serving).status, serving.condition.backend) == (Status.OK, "tensorrt")


def test_real_engines_are_built_by_another_process_and_that_they_do_not_run_here_is_survived(bundle, serve, machine, tmp_path):
    """For another GPU than this machine's; so they can be built anywhere, and run nowhere here."""
    from longscape_ros.runtime import cuda, tensorrt
    from longscape_ros.runtime.build_engines import command
    from longscape_ros.runtime.cache import ArtifactCache
    from longscape_ros.runtime.engines import load_engines, missing_engines
    from longscape_ros.runtime.tensorrt_backend import open_tensorrt

    if reason := tensorrt.unavailable(tensorrt.RTX):
        pytest.skip(reason)
    if not cuda.unavailable():
        pytest.skip("this machine may run them")
    cache = ArtifactCache(tmp_path)
    tried: list[int] = []

    def open_kind(*_: Any) -> Any:
        engines = load_engines(bundle, "fp32", "sm89", cache)
        tried.append(len(engines.plans))
        return open_tensorrt(bundle, engines.plans, engines.trt.module, cuda.open_device())

    engines = Engines(lambda *_: not missing_engines(bundle, "fp32", "sm89", cache), lambda *_: command(bundle.path, "fp32", "sm89", cache))
    machine.kinds.append(Kind("tensorrt", ("fp32",), lambda: "", open_kind, engines=engines, on_gpu=True))
    machine.add("ort_cpu", on_gpu=False)
    serving = serve()
    assert predict(serving).status == Status.DEGRADED
    graphs = len(bundle.manifest.graphs())
    seen: set[str] = set()
    while not tried and until(lambda: serving.condition.engines not in seen):
        seen.add(serving.condition.engines)
        predict(serving)
    assert any(text.startswith(f"building engines: {graphs} of {graphs}, ") for text in seen), seen
    assert tried == [graphs]
    assert until(lambda: serving.condition.engines.startswith("engines were built, but do not run: "))
    assert cuda.unavailable()[:20] in serving.condition.engines
    assert (predict(serving).status, serving.condition.backend) == (Status.DEGRADED, "ort_cpu")


def test_closing_ends_a_build_that_is_under_way(bundle, machine, tmp_path):
    pid = tmp_path / "pid"
    note = f"import os, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)"
    machine.add("tensorrt", engines=built_by(script(progress(1, 2), then=note))).add("ort_cpu", on_gpu=False)
    serving = Serving(bundle, Wanted(), machine.kinds)
    assert until(lambda: pid.exists() and pid.read_text())
    serving.close()
    assert not Path(f"/proc/{pid.read_text()}").exists()
    assert machine.left_open == []
