# SPDX-License-Identifier: Apache-2.0
"""Figures as tables, as Markdown, as a plot, and as files."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from longscape_ros.bench.plot import HEIGHT, WIDTH, draw
from longscape_ros.bench.report import write_report
from longscape_ros.bench.tables import AIMS, Aim, Table, batches_of, markdown, sides_of, tables

FIGURES: dict[str, float | str] = {
    "meta.model_id": "default@abc",
    "meta.backend": "ort_cpu",
    "meta.precision": "int8",
    "meta.device": "CPU",
    "meta.threads": "2",
    "meta.cpu": "Some CPU",
    "meta.cpus": "2",
    "chunk16_ms_p50": 41.25,
    "chunk16_ms_p95": 50.0,
    "chunk16_ms_n": 40.0,
    "horizon32_ms_p50": 80.0,
    "horizon32_ms_p95": 90.0,
    "horizon32_ms_n": 12.0,
    "horizon32_fps": 400.0,
    "horizon200_ms_p50": 480.0,
    "overhead_fraction": 0.041,
    "int8_over_fp32": 1.82,
    "ci.low.int8_over_fp32": 1.7,
    "ci.high.int8_over_fp32": 1.9,
    "side.ort_cpu.fp32.denoise16.b1_ms_p50": 20.0,
    "side.ort_cpu.fp32.denoise16.b1_ms_n": 30.0,
    "side.ort_cpu.fp32.denoise16.b8_ms_p50": 150.0,
    "side.ort_cpu.fp32.horizon32_ms_p50": 95.0,
    "side.ort_cpu.fp32.peak_rss_mb": 400.0,
    "meta.side.ort_cpu.fp32": "CPU, 2 threads",
    "side.torch.fp32.denoise16.b1_ms_p50": 38.0,
    "side.torch.fp32.denoise16.b1_ms_n": 30.0,
    "meta.not_run.ort_cuda.fp32": "no GPU | here",
    "stage.denoise_ms_p50": 34.0,
    "stage.route_ms_p50": 0.0,
    "overhead.resize_ms_p50": 0.7,
    "overhead_ms_p50": 3.8,
}


def found(title: str, figures: dict[str, float | str] = FIGURES) -> Table:
    return next(table for table in tables(figures) if table.title == title)


def cells(table: Table, row: str) -> tuple[str, ...]:
    return next(own[1:] for own in table.rows if own[0] == row)


def test_the_summary_says_whether_each_aim_is_met() -> None:
    summary = found("What it comes to")
    assert cells(summary, "a chunk of 16 frames, images to images") == ("41.2 ms", "p95 50 ms, n 40", "at most 150 ms: yes")
    assert cells(summary, "the same as a share") == ("4.10 %", "", "at most 3 %: no")
    faster = "8-bit integers on the CPU, times as fast as single precision"
    assert cells(summary, faster) == ("1.82", "1.70 to 1.90", "at least 1.50: yes")
    assert len(summary.rows) == 6  # what was not measured has no row


@pytest.mark.parametrize(
    ("aim", "value", "text"),
    [
        (Aim("x", "", "", 5.0), 5.0, "at most 5: yes"),
        (Aim("x", "", "", 5.0), 5.1, "at most 5: no"),
        (Aim("x", "", "", 1.5, at_most=False), 1.5, "at least 1.50: yes"),
        (Aim("x", "", "", 1.5, at_most=False), 1.4, "at least 1.50: no"),
        (Aim("x", ""), 1.4, ""),
    ],
)
def test_an_aim_is_a_least_or_a_largest_value(aim: Aim, value: float, text: str) -> None:
    assert aim.row({"x": value})[-1] == text


def test_the_aims_are_those_of_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    for aim in AIMS:
        assert f"`{aim.name}`" in page, aim.name


def test_sides_stand_beside_each_other_with_what_they_ran_on() -> None:
    table = found("Backends side by side")
    assert table.columns == ("", "on", "16 frames denoised, ms", "8 times 16, ms", "32 predicted, ms", "memory, MiB")
    assert cells(table, "ort_cpu.fp32") == ("CPU, 2 threads", "20", "150", "95", "400")
    assert cells(table, "torch.fp32") == ("", "38", "", "", "")


def test_what_could_not_be_run_has_a_reason() -> None:
    assert found("Not run here").rows == (("ort_cuda.fp32", "no GPU | here"),)


def test_stages_without_time_have_no_row() -> None:
    assert [row[0] for row in found("Stages of a prediction of 32 frames").rows] == ["all chunks denoised"]
    assert found("Outside the graphs").rows == (("resized", "0.70"), ("all", "3.80"))


def test_cameras_have_a_column_each_with_what_became_of_their_images() -> None:
    ends = {"lost": 1.0, "unused": 2.0, "replaced": 200.0, "predicted": 36.0, "unexplained": 0.0}
    at = "camera.rgb8_640x480_30hz"
    figures: dict[str, float | str] = {f"{at}.images_{end}": count for end, count in ends.items()}
    figures |= {f"{at}.cpu_outside": 0.125, f"{at}.cpu_graphs": 0.9, f"{at}.images": 239.0, f"{at}.images_per_s": 29.9}
    figures |= {f"meta.{at}": "640 x 480 rgb8 at 30 Hz, embedded"}
    figures |= {"camera.jpeg_64x64_5hz.cpu_outside": 0.1, "meta.camera.jpeg_64x64_5hz": "64 x 64 jpeg at 5 Hz, embedded"}
    table = found("Keeping up with cameras", figures)
    assert table.columns == ("", "640 x 480 rgb8 at 30 Hz", "64 x 64 jpeg at 5 Hz")
    assert [row[1] for row in table.rows] == ["29.9", "12.5", "90", "239", "1", "2", "200", "36", "0"]
    assert [row[2] for row in table.rows] == ["", "10", *[""] * 7]
    summary = found("What it comes to", figures)
    assert cells(summary, "a camera of 640 x 480 rgb8 at 30 Hz: CPU outside inference") == ("12.5 %", "", "at most 15 %: yes")


def test_batches_get_a_table_of_their_own_when_there_are_many() -> None:
    titles = [table.title for table in tables(FIGURES)]
    assert "Chunks in batches, ms" not in titles
    many = FIGURES | {
        f"side.ort_cpu.fp32.denoise{t}.b{b}_ms_{what}": float(t * b) for t in (8, 16) for b in (1, 64) for what in ("p50", "n")
    }
    table = found("Chunks in batches, ms", many)
    assert table.columns == ("batch", "1", "8", "64")
    assert cells(table, "8 frames, ort_cpu.fp32") == ("8 (8)", "", "512 (512)")
    assert cells(table, "16 frames, torch.fp32") == ("38 (30)", "", "")


def test_kinds_of_cells_get_a_table_when_there_is_more_than_one_size() -> None:
    assert "Whole predictions on every backend, ms" not in [table.title for table in tables(FIGURES)]
    more = FIGURES | {"side.torch.fp32.horizon64_ms_p50": 250.0, "side.torch.fp32.horizon64_ms_n": 3.0}
    table = found("Whole predictions on every backend, ms", more | {"side.ort_cpu.fp32.horizon32_ms_n": 9.0})
    assert table.columns == ("frames", "32", "64")
    assert table.rows == (("ort_cpu.fp32", "95 (9)", ""), ("torch.fp32", "", "250 (3)"))


def test_names_of_sides_and_batches_are_read_back() -> None:
    assert sides_of(FIGURES) == ["ort_cpu.fp32", "torch.fp32"]
    assert batches_of(FIGURES, "ort_cpu.fp32", "denoise16") == {1: 20.0, 8: 150.0}
    assert batches_of(FIGURES, "ort_cpu.fp32", "denoise8") == {}


def test_markdown_has_every_table_and_no_broken_row() -> None:
    text = list(markdown(FIGURES))
    assert [line[3:] for line in text if line.startswith("## ")] == [table.title for table in tables(FIGURES)]
    for table in tables(FIGURES):
        begin = text.index(f"## {table.title}") + 2
        rows = text[begin : begin + 2 + len(table.rows)]
        assert {row.count("|") for row in rows} == {len(table.columns) + 1}


def test_there_are_no_tables_without_figures() -> None:
    assert tables({}) == []


def test_the_plot_has_a_bar_as_long_as_its_value() -> None:
    one, two = (draw(FIGURES | {"side.torch.fp32.horizon32_ms_p50": value}) for value in (47.5, 95.0))
    assert one.shape == (HEIGHT, WIDTH, 3)
    orange = [(np.abs(image.astype(int) - (214, 130, 0)).max(axis=2) < 8).sum() for image in (one, two)]
    assert orange[1] == pytest.approx(2 * orange[0], rel=0.1)


def test_a_plot_of_nothing_says_so_and_does_not_fail() -> None:
    assert draw({}).shape == (HEIGHT, WIDTH, 3)


def test_a_report_is_three_files(tmp_path: Path) -> None:
    paths = write_report(FIGURES | {"odd": float("nan")}, tmp_path / "report")
    assert [path.name for path in paths] == ["bench.json", "bench.md", "bench.png"]
    stored = json.loads(paths[0].read_text(encoding="utf-8"))
    assert stored["odd"] is None
    assert stored["chunk16_ms_p50"] == 41.25
    assert "![plot](bench.png)" in paths[1].read_text(encoding="utf-8")
    assert cv2.imread(str(paths[2])).shape == (HEIGHT, WIDTH, 3)
    assert len(list((tmp_path / "report").iterdir())) == 3
