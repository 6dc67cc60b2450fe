# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from longscape_ros import sharing
from longscape_ros.sharing import begin, share

WAIT_S = 10.0


@pytest.fixture(params=[0, 1, 3])
def helpers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """So many threads beside the caller's."""
    pool = ThreadPoolExecutor(request.param) if request.param else None
    monkeypatch.setattr(sharing, "_pool", lambda: pool)
    yield request.param
    if pool is not None:
        pool.shutdown()


@pytest.fixture
def one_helper(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(sharing, "_pool", lambda: pool)
        yield pool


def test_shared_work_comes_back_in_order(helpers: int) -> None:
    assert share(lambda number: number**2, range(50)) == [number**2 for number in range(50)]
    assert share(lambda number: number, []) == []


def test_several_threads_work_at_once(one_helper: ThreadPoolExecutor) -> None:
    together = threading.Barrier(2, timeout=WAIT_S)
    begun: list[int] = []

    def work(item: int) -> int:
        if item not in begun:  # a slow helper's item may be done again
            begun.append(item)
            together.wait()
        return item

    assert share(work, range(2)) == [0, 1]
    assert not together.broken


def test_what_a_helper_holds_up_is_done_by_the_caller(one_helper: ThreadPoolExecutor) -> None:
    caller, held, taken = threading.current_thread(), threading.Event(), threading.Event()

    def work(item: int) -> str:
        if threading.current_thread() is not caller:
            taken.set()
            held.wait(WAIT_S)
        else:
            taken.wait(WAIT_S)
        return f"{item} by {'caller' if threading.current_thread() is caller else 'helper'}"

    assert share(work, range(2)) == ["0 by caller", "1 by caller"]
    held.set()


def test_a_helper_that_does_not_come_is_not_waited_for(one_helper: ThreadPoolExecutor) -> None:
    held = threading.Event()
    one_helper.submit(held.wait, WAIT_S)
    assert share(str, range(3)) == ["0", "1", "2"]
    assert begin(str, 5)() == "5"
    held.set()


def test_what_is_begun_goes_on_beside_the_caller(one_helper: ThreadPoolExecutor) -> None:
    done = threading.Event()
    result = begin(lambda: (done.set(), threading.current_thread().name)[1])
    assert done.wait(WAIT_S)
    assert result() != threading.current_thread().name


def test_what_is_begun_gives_its_result_with_any_number_of_helpers(helpers: int) -> None:
    results = [begin(divmod, number, 3) for number in range(10)]
    assert [result() for result in results] == [divmod(number, 3) for number in range(10)]


def test_faults_come_to_the_caller(helpers: int) -> None:
    with pytest.raises(ZeroDivisionError):
        share(lambda number: 1 // number, [2, 1, 0])
    with pytest.raises(ZeroDivisionError):
        begin(lambda: 1 // 0)()


def test_a_pool_that_takes_nothing_any_more_leaves_the_work_to_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    monkeypatch.setattr(sharing, "_pool", lambda: pool)
    assert share(str, range(3)) == ["0", "1", "2"]
    assert begin(str, 1)() == "1"
