# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from longscape_ros.errors import InputError
from longscape_ros.evaluation import Scores
from longscape_ros.evaluation.scores import Judged


def test_a_figure_is_the_mean_over_windows_and_each_episodes_is_over_its_own() -> None:
    scores = Scores()
    for episode, value in (("a", 1.0), ("a", 3.0), ("b", 8.0)):
        scores.add("psnr", episode, value)
    assert scores.means() == {"psnr": 4.0}
    assert scores.by_episode("psnr") == {"a": 2.0, "b": 8.0}


def test_a_figure_with_weights_is_a_ratio_of_sums() -> None:
    scores = Scores()
    scores.add("separation", "a", 1.0, 10.0)
    scores.add("separation", "b", 9.0, 10.0)
    scores.add("separation", "c", 0.0, 0.0)
    assert scores.means() == {"separation": 0.5}
    assert scores.by_episode("separation") == {"a": 0.1, "b": 0.9}


def test_an_interval_draws_episodes_not_windows() -> None:
    random = np.random.default_rng(0)
    values = random.normal(0, 1, 20)
    few, many = Scores(), Scores()
    for episode, value in enumerate(values):
        few.add("psnr", str(episode), value)
        for _ in range(50):  # windows that all say the same
            many.add("psnr", str(episode), value)
    assert many.intervals()["psnr"] == pytest.approx(few.intervals()["psnr"])
    low, high = few.intervals()["psnr"]
    assert low < values.mean() < high


def test_figures_have_their_intervals_beside_them() -> None:
    scores = Scores()
    for episode in "abc":
        scores.add("psnr.model.8", episode, float(ord(episode)))
        scores.add_window(Judged(episode, ord(episode), np.ones(3), np.ones(3), np.full(3, np.nan)))
    scores.add("only.once", "a", 1.0)
    figures = scores.figures()
    assert figures["ci.low.psnr.model.8"] <= figures["psnr.model.8"] <= figures["ci.high.psnr.model.8"]
    assert (figures["windows"], figures["episodes"]) == (3, 3)
    assert "ci.low.only.once" not in figures
    assert figures["only.once"] == 1


def test_an_unknown_figure_is_refused_with_those_there_are() -> None:
    scores = Scores()
    scores.add("psnr.model.8", "a", 1.0)
    with pytest.raises(InputError, match=r"Got the figure 'psnr', expected one of psnr.model.8"):
        scores.by_episode("psnr")


def confident(doubts: list[list[float]], errors: list[list[float]], confident_db: float | None = None) -> Scores:
    scores = Scores(confident_db)
    for index, (doubt, error) in enumerate(zip(doubts, errors, strict=True)):
        levels = np.array(error)
        scores.add_window(Judged(f"episode {index}", index, 40 - levels, levels, -np.array(doubt)))
    return scores


def test_knowing_that_later_frames_are_worse_is_no_merit_within_a_horizon() -> None:
    later_is_worse = [[1.0, 2.0, 3.0]] * 4
    figures = confident(later_is_worse, [[1 + 0.1 * i, 2 + 0.1 * i, 3 + 0.1 * i] for i in range(4)]).means()
    assert figures["confidence.rank_correlation"] > 0.9
    assert "confidence.rank_correlation_within_horizon" not in figures


def test_knowing_which_window_is_worse_counts_within_a_horizon() -> None:
    figures = confident([[1.0, 5.0], [2.0, 6.0], [3.0, 4.0]], [[1.0, 2.0], [2.0, 3.0], [3.0, 1.0]])
    assert figures.means()["confidence.rank_correlation_within_horizon"] == pytest.approx(1)
    against = confident([[1.0, 5.0], [2.0, 6.0], [3.0, 4.0]], [[3.0, 2.0], [2.0, 1.0], [1.0, 3.0]])
    assert against.means()["confidence.rank_correlation_within_horizon"] == pytest.approx(-1)


def test_calibration_needs_to_know_what_confidence_means() -> None:
    doubts, errors = [[-0.9, -0.1]] * 3, [[1.0, 20.0]] * 3
    assert "confidence.calibration_error" not in confident(doubts, errors).means()
    assert confident(doubts, errors, confident_db=30.0).means()["confidence.calibration_error"] == pytest.approx(0.1)


def test_windows_added_later_count_for_confidence_too() -> None:
    scores = confident([[1.0], [2.0], [3.0]], [[1.0], [2.0], [3.0]])
    assert scores.means()["confidence.rank_correlation"] == pytest.approx(1)
    scores.add_window(Judged("late", 3, np.array([30.0]), np.array([0.5]), np.array([-9.0])))
    assert scores.means()["confidence.rank_correlation"] < 0.5
