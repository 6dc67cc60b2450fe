# SPDX-License-Identifier: Apache-2.0
"""The figures of a recording."""

from __future__ import annotations

from dataclasses import replace

import pytest

from longscape_ros.demo.recording import Recording
from longscape_ros.demo.report import HORIZONS, figures
from longscape_ros.evaluation import HIGHEST_PSNR
from longscape_ros.runtime.surprise import State


def test_rates_and_times_are_those_of_the_messages(recording):
    found = figures(recording)
    assert found["seconds"] == 5.0
    assert (found["camera.frames"], found["camera.missing"]) == (99.0, 1.0)
    assert (found["predictions"], found["predictions_full"], found["predictions_per_s"]) == (5.0, 5.0, 1.0)
    assert found["latency_ms_p50"] == pytest.approx(300)
    assert found["compute_ms_p95"] == pytest.approx(200)
    assert found["remaining_horizon_ms_p5"] == pytest.approx(1600 - 300)
    assert found["interval_ms_p50"] == pytest.approx(15 * 50)


def test_predictions_that_are_right_have_the_highest_quality_and_beat_the_last_image(recording):
    found = figures(recording)
    for h in HORIZONS:
        assert found[f"psnr.model.{h}"] == HIGHEST_PSNR
        assert found[f"psnr.copy_last.{h}"] < HIGHEST_PSNR


def test_shares_of_chunks_and_experts_add_up(recording):
    found = figures(recording)
    assert found["chunks_per_prediction"] == 2.0
    assert (found["chunk.share.8"], found["chunk.share.24"]) == (0.5, 0.5)
    assert (found["chunk.reason.motion"], found["chunk.reason.gripper"], found["chunk.reason.max_length"]) == (0.5, 0.5, 0.0)
    assert (found["expert.share.0"], found["expert.share.2"]) == (0.5, 0.5)
    assert (found["executed.chunks"], found["executed.share.16"]) == (1.0, 1.0)


def test_what_the_predictor_says_of_itself_is_in_the_report(recording):
    found = figures(recording)
    assert found["predictor.requests_dropped"] == 7.0
    assert (found["meta.backend"], found["meta.model_id"]) == ("ort_cpu", "exact@0")


def test_surprises_are_counted_and_the_first_after_a_disturbance_is_timed(recording):
    found = figures(recording)
    assert (found["surprise.compared"], found["surprise.not_comparable"]) == (5.0, 1.0)
    assert (found["surprise.alarms"], found["surprise.alarms_before"]) == (2.0, 1.0)
    assert (found["disturbance.at_s"], found["meta.disturbance"]) == (3.0, "bump 1")
    assert found["disturbance.noticed_after_s"] == pytest.approx(0.2)
    calm = tuple(compared for compared in recording.compared if compared.state is not State.SURPRISED)
    assert "disturbance.noticed_after_s" not in figures(replace(recording, compared=calm))
    assert not any(name.startswith("disturbance.") for name in figures(replace(recording, disturbed=None)))


def test_a_short_prediction_counts_but_not_as_one_of_the_full_horizon(recording):
    first = recording.predictions[0]
    short = replace(first.prediction, frames=first.prediction.frames[:8], chunks=first.prediction.chunks[:1], experts=(0,))
    found = figures(replace(recording, predictions=(replace(first, prediction=short), *recording.predictions[1:])))
    assert (found["predictions"], found["predictions_full"]) == (5.0, 4.0)
    assert found["predictions_per_s"] == pytest.approx(0.8)


def test_without_predictions_there_are_no_figures_about_them(recording):
    found = figures(Recording(recording.frames, recording.plans, ()))
    assert found["predictions_per_s"] == 0.0
    assert not any(name.startswith(("psnr", "latency", "remaining", "chunk.")) for name in found)


def test_an_empty_recording_has_figures_too():
    assert figures(Recording((), (), ()))["seconds"] == 0.0
