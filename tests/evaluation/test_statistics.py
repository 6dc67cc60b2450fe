# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from longscape_ros.errors import InputError
from longscape_ros.evaluation import paired_difference
from longscape_ros.evaluation.statistics import (
    calibration_error,
    calibration_sums,
    correlation,
    correlation_sums,
    interval,
    mean_correlation,
    ranks,
    ratio,
    slope,
)


def means(values: np.ndarray) -> np.ndarray:
    """Sums of one value per episode."""
    return np.stack([values, np.ones_like(values)], axis=1)


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    trials = 400
    held = 0
    for _ in range(trials):
        low, high = interval(means(random.normal(7.0, 2.0, 24)), ratio)
        held += low <= 7.0 <= high
    assert 0.90 <= held / trials <= 0.98


def test_an_interval_is_as_wide_as_the_standard_error_says() -> None:
    values = np.random.default_rng(1).normal(0, 3, 400)
    low, high = interval(means(values), ratio)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.08)
    assert low < values.mean() < high


def test_equal_seeds_give_equal_intervals_and_other_seeds_others() -> None:
    sums = means(np.random.default_rng(2).normal(0, 1, 12))
    assert interval(sums, ratio, seed=3) == interval(sums, ratio, seed=3) != interval(sums, ratio, seed=4)


def test_one_episode_has_no_interval() -> None:
    assert np.isnan(interval(means(np.array([3.0])), ratio)).all()


def test_a_small_constant_difference_between_models_is_found_among_episodes_that_differ_much() -> None:
    random = np.random.default_rng(5)
    second = {f"episode {i}": float(value) for i, value in enumerate(random.normal(20, 6, 24))}
    first = {name: value + 0.5 + 0.1 * random.standard_normal() for name, value in second.items()}
    difference = paired_difference(first, second)
    assert difference.mean == pytest.approx(0.5, abs=0.08)
    assert 0.4 < difference.low < difference.mean < difference.high < 0.6
    assert (difference.better, difference.episodes) == (1.0, 24)
    ends = [interval(means(np.array(list(side.values()))), ratio) for side in (first, second)]
    assert ends[0][0] < ends[1][1]  # each alone could not tell


def test_a_difference_that_is_not_there_is_not_found() -> None:
    random = np.random.default_rng(6)
    sides = [{str(i): float(value) for i, value in enumerate(random.normal(0, 1, 24))} for _ in range(2)]
    difference = paired_difference(*sides)
    assert difference.low < 0 < difference.high
    assert paired_difference(*sides[::-1]).mean == pytest.approx(-difference.mean)


def test_models_that_were_scored_on_other_episodes_are_not_compared() -> None:
    with pytest.raises(InputError, match=r"only one side has \['b', 'c'\]; expected the same two or more episodes"):
        paired_difference({"a": 1.0, "b": 2.0}, {"a": 1.0, "c": 2.0})
    with pytest.raises(InputError, match="two or more"):
        paired_difference({"a": 1.0}, {"a": 1.0})


def test_the_slope_of_a_line_is_its_slope() -> None:
    at = np.arange(32.0, 201.0)
    assert slope(25 - 0.031 * at, at) == pytest.approx(-0.031)


def test_equal_values_share_a_rank() -> None:
    assert ranks(np.array([10.0, 20.0, 20.0, 5.0])).tolist() == [2, 3.5, 3.5, 1]


def test_correlation_from_sums_is_pearsons() -> None:
    x, y = np.random.default_rng(3).normal(size=(2, 50))
    assert correlation(correlation_sums(x, y)) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert correlation(correlation_sums(x, -3 * x + 100)) == pytest.approx(-1)
    assert np.isnan(correlation(correlation_sums(x, np.full(50, 0.1))))


def test_the_mean_correlation_leaves_out_groups_in_which_nothing_varies() -> None:
    x = np.arange(4.0)
    sums = np.concatenate([correlation_sums(x, x), correlation_sums(x, -x), correlation_sums(x, x), correlation_sums(x, 0 * x)])
    assert mean_correlation(sums) == pytest.approx(1 / 3)
    assert np.isnan(mean_correlation(correlation_sums(x, 0 * x)))


def test_who_says_80_percent_and_is_right_in_60_is_off_by_20() -> None:
    happened = np.arange(10) < 6
    assert calibration_error(calibration_sums(np.full(10, 0.8), happened)) == pytest.approx(0.2)
    assert calibration_error(calibration_sums(np.array([1.0, 0.0, 1.0]), np.array([True, False, True]))) == 0
    both = calibration_sums(np.full(10, 0.8), happened) + calibration_sums(np.full(30, 0.1), np.arange(30) < 3)
    assert calibration_error(both) == pytest.approx(0.05)
