# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.tiny_bundle import MANIFEST, write_tiny_bundle

from longscape_ros.bench import bench
from longscape_ros.bundle import Bundle, Experts, Routing
from longscape_ros.contract import ActionDimension, ActionSpace, Confidence
from longscape_ros.errors import InputError

LENGTHS = MANIFEST.segmentation.lengths


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="module")
def figures(bundle: Bundle) -> dict[str, float | str]:
    return bench(bundle, threads=1, seconds=0.5)


def number(figures: dict[str, float | str], name: str) -> float:
    value = figures[name]
    assert isinstance(value, float)
    return value


def test_every_length_and_graph_is_timed(figures: dict[str, float | str]) -> None:
    timed = [f"chunk{length}_ms" for length in LENGTHS] + ["horizon32_ms", "message_ms"]
    for name in timed:
        assert 0 < number(figures, f"{name}_p50") <= number(figures, f"{name}_p95")
    graphs = {name for name in figures if name.startswith("graph.")}
    assert graphs == {
        "graph.encoder_ms_p50",
        *(f"graph.denoiser_{expert}.{length}_ms_p50" for expert, length in enumerate(LENGTHS)),
        *(f"graph.decoder.{length}_ms_p50" for length in LENGTHS),
    }
    assert all(number(figures, name) > 0 for name in graphs)


def test_the_overhead_is_a_part_of_the_messages_way(figures: dict[str, float | str]) -> None:
    assert 0 < number(figures, "overhead_fraction") < 1
    assert 0 < number(figures, "overhead_ms_p50") < number(figures, "message_ms_p50")


def test_the_figures_say_what_was_measured_and_fit_into_json(figures: dict[str, float | str], bundle: Bundle) -> None:
    assert figures["meta.model_id"] == bundle.model_id
    assert figures["meta.threads"] == "1"
    assert figures["meta.backend"] == "ort_cpu" or str(figures["meta.backend"]).startswith("ort_")
    assert sum(int(length) for length in str(figures["meta.horizon32_chunks"]).split("+")) >= 32
    assert 10 < number(figures, "peak_rss_mb") < 100_000
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_the_cost_of_choosing_among_experts_is_measured_beside_one_expert(figures: dict[str, float | str]) -> None:
    assert 0.1 < number(figures, "mixture_over_dense") < 10


def test_all_graphs_of_a_bundle_are_timed(tmp_path: Path) -> None:
    experts, confidence = Experts(2, Routing("learned", 8)), Confidence(25.0, -1.0, -6.0)
    bundle = write_tiny_bundle(tmp_path / "tiny", experts=experts, confidence=confidence, length_predictor=True)
    figures = bench(bundle, threads=1, seconds=0.1)
    for name in ("router", "length_predictor", *(f"error_estimator.{length}" for length in LENGTHS)):
        assert number(figures, f"graph.{name}_ms_p50") > 0
    assert number(figures, "mixture_over_dense") > 0


@pytest.mark.parametrize("kind", ["velocity", "delta"])
def test_robots_commanded_in_other_ways_are_measured_too(tmp_path: Path, kind: str) -> None:
    space = ActionSpace((replace(ActionDimension("x"), kind=kind),))
    bundle = write_tiny_bundle(tmp_path / "tiny", action_space=space, experts=Experts(1))
    assert number(bench(bundle, threads=1, seconds=0.1), "message_ms_p50") > 0


def test_no_time_is_refused(bundle: Bundle) -> None:
    with pytest.raises(InputError, match="Got 0 seconds"):
        bench(bundle, seconds=0)
