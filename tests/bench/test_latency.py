# SPDX-License-Identifier: Apache-2.0
"""The node as a process, and a camera and a subscriber in another."""

from __future__ import annotations

import importlib.util

import pytest
from support.hosts import skip_unless_installed

from longscape_ros.bench import node
from longscape_ros.bench.camera import WARM_UP, Seen
from longscape_ros.bench.latency import end_to_end, figures_of
from longscape_ros.bundle import Bundle


def test_what_was_lost_and_what_was_replaced_is_counted() -> None:
    latencies = [float(k) for k in range(1, 102)]
    before = {"camera.images": "7", "inference.requests_dropped": "1", "inference.predictions": "2"}
    after = {"camera.images": "105", "inference.requests_dropped": "31", "inference.predictions": "70"}
    seen = Seen(latencies, published=100, received=66, frames=32, seconds=4, before=before, after=after)
    assert figures_of(seen) == {
        "latency_ms_p50": 51.0,
        "latency_ms_p95": 96.0,
        "latency_ms_p99": 100.0,
        "latency_ms_n": 101.0,
        "latency.images": 100.0,
        "latency.images_lost": 2.0,
        "latency.images_replaced": 30.0,
        "latency.predictions": 66.0,
        "latency.predictions_lost": 2.0,
        "latency.predictions_per_s": 16.5,
    }


def test_without_ros_and_dds_the_reason_is_told(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    figures = end_to_end(bundle, 1.0, "auto", "auto", 1)
    assert list(figures) == ["meta.not_run.latency"]
    assert "neither rclpy nor cyclonedds" in str(figures["meta.not_run.latency"])


def test_a_node_that_does_not_start_is_told_with_its_last_words(bundle: Bundle) -> None:
    if node.why_not():
        pytest.skip(node.why_not())
    figures = end_to_end(bundle, 1.0, "abacus", "auto", 1)
    assert "process predictor ended" in str(figures["meta.not_run.latency"])


def test_a_camera_gets_its_predictions_back_from_the_node_in_another_process(bundle: Bundle) -> None:
    if importlib.util.find_spec("rclpy") is None:
        skip_unless_installed("cyclonedds", extra="embedded")
    figures = end_to_end(bundle, 2.0, "ort_cpu", "auto", 1)
    assert "meta.not_run.latency" not in figures, figures
    assert str(figures["meta.latency"]).endswith("20 images per second, 32 frames each")
    numbers = {name: value for name, value in figures.items() if isinstance(value, float)}
    assert numbers["latency.images"] > WARM_UP
    assert 0 < numbers["latency_ms_n"] <= numbers["latency.images"] - WARM_UP
    assert 0 < numbers["latency_ms_p50"] <= numbers["latency_ms_p95"] <= numbers["latency_ms_p99"]
    assert numbers["latency.images_lost"] >= 0
    assert numbers["latency.predictions_lost"] >= 0
    arrived = numbers["latency.images"] - numbers["latency.images_lost"]
    made = numbers["latency.predictions"] + numbers["latency.predictions_lost"]
    assert made + numbers["latency.images_replaced"] <= arrived
