# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from longscape_ros.bench.timing import FEWEST_RUNS, LEAST_RUNS, LONG_MS, Ratio, Spread, in_turns, repeat
from longscape_ros.errors import InputError


def test_things_are_run_in_turns_and_the_first_turn_does_not_count() -> None:
    order: list[str] = []

    def run(name: str) -> float:
        order.append(name)
        return float(len(order))

    times = in_turns({"a": lambda: run("a"), "b": lambda: run("b")}, seconds=0, least=3)
    assert order == ["a", "b"] * 4
    assert times == {"a": [3.0, 5.0, 7.0], "b": [4.0, 6.0, 8.0]}


def test_what_takes_long_is_run_fewer_times_and_all_of_them_count() -> None:
    times = in_turns({"long": lambda: LONG_MS + 1, "longer": lambda: 3 * LONG_MS}, seconds=0)
    assert times == {"long": [LONG_MS + 1] * FEWEST_RUNS, "longer": [3 * LONG_MS] * FEWEST_RUNS}
    assert FEWEST_RUNS < LEAST_RUNS


def test_runs_are_repeated_while_there_is_time() -> None:
    count = 0

    def run() -> None:
        nonlocal count
        count += 1

    assert len(repeat(run, seconds=0.02)) == count - 1 > LEAST_RUNS


def test_a_spread_is_median_and_95th_percentile() -> None:
    spread = Spread.of(list(range(1, 102)))
    assert (spread.p50, spread.p95, spread.n) == (51, 96, 101)
    assert spread.figures("x_ms") == {"x_ms_p50": 51, "x_ms_p95": 96, "x_ms_n": 101}
    with pytest.raises(InputError, match="Got no times"):
        Spread.of([])


def test_a_ratio_is_that_of_the_medians_and_its_interval_holds_it() -> None:
    random = np.random.default_rng(3)
    below = random.uniform(9, 11, 60)
    ratio = Ratio.of((2 * random.uniform(9, 11, 60)).tolist(), below.tolist())
    assert ratio.low < ratio.value < ratio.high
    assert ratio.low > 1.9
    assert ratio.high < 2.1
    assert Ratio.of([3.0, 3.0, 300.0], [1.0, 1.0, 1.0]).value == 3  # a single disturbance does not move a median
    assert Ratio.of([3.0, 3.0, 300.0], [1.0, 1.0, 1.0]).high > 3  # but it shows in the interval


def test_what_disturbs_both_sides_of_a_turn_does_not_widen_the_interval() -> None:
    slow = np.repeat([1.0, 5.0], 20)  # half of the time the machine is five times as slow
    together = Ratio.of((2 * slow).tolist(), slow.tolist())
    apart = Ratio.of((2 * slow).tolist(), slow[::-1].tolist())
    assert together == Ratio(2, 2, 2)
    assert apart.high - apart.low > 1


def test_equal_times_give_equal_intervals() -> None:
    times = [1.0, 2.0, 4.0], [2.0, 3.0, 3.5]
    assert Ratio.of(*times) == Ratio.of(*times)


def test_a_ratio_needs_times_of_the_same_turns() -> None:
    for above, below in (([1.0], [1.0, 2.0]), ([], [])):
        with pytest.raises(InputError, match="expected as many of both"):
            Ratio.of(above, below)


def test_a_ratio_times_what_is_known_exactly() -> None:
    ratio = Ratio(2.0, 1.0, 3.0).times(0.5)
    assert ratio.figures("share") == {"share": 1.0, "ci.low.share": 0.5, "ci.high.share": 1.5}
