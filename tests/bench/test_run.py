# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.tiny_bundle import MANIFEST, write_tiny_bundle

from longscape_ros.bench import BenchConfig, bench
from longscape_ros.bench.cells import Cell
from longscape_ros.bench.config import BATCHES, HORIZONS, QUICK_HORIZONS
from longscape_ros.bench.path import BEFORE, REST
from longscape_ros.bundle import Bundle, Experts, Routing
from longscape_ros.contract import ActionDimension, ActionSpace, Confidence
from longscape_ros.errors import InputError
from longscape_ros.runtime.predictor import BESIDE_STAGES, GRAPH_STAGES, OTHER_STAGES

LENGTHS = MANIFEST.segmentation.lengths
ALONE = BenchConfig(threads=1, seconds=0.5, compare=False, end_to_end=False)
"""What this process measures by itself."""

Figures = dict[str, float | str]


@pytest.fixture(scope="module")
def figures(bundle: Bundle) -> Figures:
    return bench(bundle, ALONE)


def number(figures: Figures, name: str) -> float:
    value = figures[name]
    assert isinstance(value, float)
    return value


def test_every_length_and_graph_is_timed(figures: Figures) -> None:
    timed = [f"chunk{length}_ms" for length in LENGTHS] + [f"horizon{size}_ms" for size in QUICK_HORIZONS] + ["message_ms"]
    for name in timed:
        assert 0 < number(figures, f"{name}_p50") <= number(figures, f"{name}_p95")
        assert number(figures, f"{name}_n") >= 3
    graphs = {name for name in figures if name.startswith("graph.")}
    assert graphs == {
        "graph.encoder_ms_p50",
        *(f"graph.denoiser_{expert}.{length}_ms_p50" for expert, length in enumerate(LENGTHS)),
        *(f"graph.decoder.{length}_ms_p50" for length in LENGTHS),
    }
    assert all(number(figures, name) > 0 for name in graphs)


def test_frames_per_second_are_those_of_the_median(figures: Figures) -> None:
    assert number(figures, "horizon64_fps") == pytest.approx(64e3 / number(figures, "horizon64_ms_p50"))


def test_the_overhead_is_a_part_of_the_messages_way_and_has_parts_itself(figures: Figures) -> None:
    assert 0 < number(figures, "overhead_fraction") < 1
    assert 0 < number(figures, "overhead_ms_p50") < number(figures, "message_ms_p50")
    parts = [*BEFORE, *OTHER_STAGES, "publish", "jpeg", REST]
    assert {name for name in figures if name.startswith("overhead.")} == {f"overhead.{part}_ms_p50" for part in parts}
    assert all(number(figures, f"overhead.{part}_ms_p50") > 0 for part in (*BEFORE, "publish", "jpeg", "inputs"))
    assert all(number(figures, f"beside.{part}_ms_p50") > 0 for part in BESIDE_STAGES)


def test_the_stages_of_a_prediction_are_timed(figures: Figures) -> None:
    for stage in ("preprocess", "encode", "denoise", "decode", "publish"):
        assert 0 < number(figures, f"stage.{stage}_ms_p50") <= number(figures, f"stage.{stage}_ms_p95")
    assert {f"stage.{stage}_ms_n" for stage in GRAPH_STAGES} <= set(figures)
    assert number(figures, "stage.denoise_step_ms_p50") <= number(figures, "stage.denoise_ms_p50")


def test_the_figures_say_what_was_measured_and_fit_into_json(figures: Figures, bundle: Bundle) -> None:
    assert figures["meta.model_id"] == bundle.model_id
    assert (figures["meta.threads"], figures["meta.backend"], figures["meta.precision"]) == ("1", "ort_cpu", "fp32")
    assert sum(int(length) for length in str(figures["meta.horizon32_chunks"]).split("+")) >= 32
    assert 10 < number(figures, "peak_rss_mb") < 100_000
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_the_cost_of_choosing_among_experts_is_measured_beside_one_expert(figures: Figures) -> None:
    low, high = (number(figures, f"ci.{end}.mixture_over_dense") for end in ("low", "high"))
    assert 0 < low <= number(figures, "mixture_over_dense") <= high


def test_candidates_are_compared_with_one_that_is_decoded(figures: Figures) -> None:
    ratio = number(figures, "candidates8_ms_p50") / number(figures, "one_decoded_ms_p50")
    assert number(figures, "candidates8_over_one_decoded") == pytest.approx(ratio)


def test_without_a_comparison_there_are_no_sides_and_no_node(figures: Figures) -> None:
    assert not [name for name in figures if name.startswith(("side.", "latency", "meta.not_run.", "peak_fraction"))]


def test_all_graphs_of_a_bundle_are_timed(tmp_path: Path) -> None:
    experts, confidence = Experts(2, Routing("learned", 8)), Confidence(25.0, -1.0, -6.0)
    bundle = write_tiny_bundle(tmp_path / "tiny", experts=experts, confidence=confidence, length_predictor=True)
    figures = bench(bundle, replace(ALONE, seconds=0.1))
    for name in ("router", "length_predictor", *(f"error_estimator.{length}" for length in LENGTHS)):
        assert number(figures, f"graph.{name}_ms_p50") > 0
    assert number(figures, "stage.route_ms_p50") > 0
    assert number(figures, "stage.estimate_ms_p50") > 0


@pytest.mark.parametrize("kind", ["velocity", "delta"])
def test_robots_commanded_in_other_ways_are_measured_too(tmp_path: Path, kind: str) -> None:
    space = ActionSpace((replace(ActionDimension("x"), kind=kind),))
    bundle = write_tiny_bundle(tmp_path / "tiny", action_space=space, experts=Experts(1))
    assert number(bench(bundle, replace(ALONE, seconds=0.1)), "message_ms_p50") > 0


@pytest.mark.parametrize(
    ("changes", "text"),
    [({"seconds": 0}, "Got 0 seconds"), ({"seconds": float("inf")}, "Got inf seconds"), ({"threads": 0}, "Got 0 threads")],
)
def test_no_time_and_no_threads_are_refused(changes: dict[str, float], text: str) -> None:
    with pytest.raises(InputError, match=text):
        BenchConfig(**changes)  # type: ignore[arg-type]


def test_a_full_run_has_every_batch_length_and_horizon() -> None:
    cells = BenchConfig(full=True).cells(MANIFEST)
    assert {(cell.size, cell.batch) for cell in cells if cell.kind == "denoise"} == {(t, b) for t in LENGTHS for b in BATCHES}
    assert {cell.size for cell in cells if cell.kind == "horizon"} == set(HORIZONS)
    assert max(HORIZONS) == 200
    assert len(cells) == len(set(cells))


def test_the_first_cell_is_the_one_that_ratios_are_taken_of() -> None:
    for full in (False, True):
        assert BenchConfig(full=full).cells(MANIFEST)[0] == Cell("denoise", 16)
    other = replace(MANIFEST, segmentation=replace(MANIFEST.segmentation, lengths=(8, 24, 32)), experts=Experts(3))
    assert BenchConfig().cells(other)[0] == Cell("denoise", 8)  # the shorter of two that are as near


def test_a_cell_without_size_or_batch_is_refused() -> None:
    for size, batch in ((0, 1), (8, 0)):
        with pytest.raises(InputError, match=f"Got size {size} and batch {batch}"):
            Cell("denoise", size, batch)
