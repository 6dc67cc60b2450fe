# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.episodes import make_episode
from support.grey_robot import GreyPredictor, GreyProbe, grey_window
from support.tiny_bundle import MANIFEST, write_tiny_bundle

from longscape_ros.evaluation import Scores, Setting, find_windows, write_report
from longscape_ros.evaluation.film import TILE, Film, choose
from longscape_ros.evaluation.plot import COLUMNS, HEIGHT, STYLES, WIDTH, draw_plot, horizons_of
from longscape_ros.evaluation.report import EPISODES, JSON, MARKDOWN, PLOT, by_task, cell, markdown
from longscape_ros.evaluation.scores import Judged
from longscape_ros.evaluation.sheet import error_image
from longscape_ros.runtime.backends import create_backend
from longscape_ros.runtime.predictor import Predictor

K = MANIFEST.context
needs_video = pytest.mark.skipif(
    importlib.util.find_spec("av") is None, reason="no av; install it with: pip install 'longscape_ros[video]'"
)


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """Three episodes with a real predictor."""
    bundle = write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")
    predictor = Predictor(bundle, create_backend(bundle, "ort_cpu", threads=1))
    windows, still = find_windows([make_episode(name, seed=seed) for seed, name in enumerate("abc")], MANIFEST, (1, 8, 64), most=3)
    return Setting(predictor, windows, still, (1, 8, 64), None)


@pytest.fixture(scope="module")
def folder(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "new"
    write_report(setting, setting.score(), path, {"meta.model_id": "tiny"})
    return path


def tables(text: str) -> dict[str, dict[str, str]]:
    """Row -> column -> cell of all tables with horizons, named ``<heading>/<row>``."""
    found: dict[str, dict[str, str]] = {}
    heading, columns = "", []
    for line in text.splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        elif line.startswith("| | "):
            columns = line.strip("| ").split(" | ")
        elif line.startswith("| ") and columns:
            name, *cells = line.removeprefix("| ").removesuffix(" |").split(" | ")
            found[f"{heading}/{name}"] = dict(zip(columns, cells, strict=False))
    return found


def test_a_report_has_figures_tables_and_curves(folder: Path) -> None:
    assert {JSON, EPISODES, MARKDOWN, PLOT} <= {path.name for path in folder.iterdir()}
    picture = cv2.imread(str(folder / PLOT))
    assert picture.shape == (HEIGHT, WIDTH, 3)


def test_the_numbers_of_the_tables_are_those_of_the_json(folder: Path) -> None:
    figures = json.loads((folder / JSON).read_text())
    shown = tables((folder / MARKDOWN).read_text())
    rows = {"PSNR in dB/model": "psnr.model", "SSIM/newest image copied": "ssim.copy_last", "PSNR in dB/model, mirrored actions": None}
    for row, name in rows.items():
        name = name or "psnr.counterfactual_actions"
        for h in ("1", "8", "64"):
            value, low, high = (float(part) for part in shown[row][h].replace("[", "").replace("]", "").replace(",", "").split())
            expected = [figures[f"{prefix}{name}.{h}"] for prefix in ("", "ci.low.", "ci.high.")]
            assert [value, low, high] == pytest.approx(expected, abs=0.0051)
    assert figures["meta.model_id"] == "tiny"
    assert "drift_db_per_100_frames" in (folder / MARKDOWN).read_text()


def test_the_report_keeps_each_episodes_figures_for_comparisons(folder: Path, setting: Setting) -> None:
    by_episode = json.loads((folder / EPISODES).read_text())
    figures = json.loads((folder / JSON).read_text())
    assert set(by_episode["psnr.model.8"]) == {"a", "b", "c"}
    assert np.mean(list(by_episode["psnr.model.8"].values())) == pytest.approx(figures["psnr.model.8"])  # one window each


@needs_video
def test_films_show_the_best_the_median_and_the_worst_episode(folder: Path, setting: Setting) -> None:
    import av

    by_episode = json.loads((folder / EPISODES).read_text())["psnr.model.64"]
    assert len(by_episode) == 3
    for rank in ("best", "median", "worst"):
        with av.open(str(folder / f"{rank}.mp4")) as container:
            (stream,) = container.streams.video
            assert sum(1 for _ in container.decode(stream)) == 64
            assert stream.average_rate == MANIFEST.fps
        assert f"({rank}.mp4)" in (folder / MARKDOWN).read_text()


def test_without_a_video_encoder_the_report_has_no_films(setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    written = write_report(setting, setting.score(), tmp_path)
    assert sorted(path.name for path in written) == sorted(path.name for path in tmp_path.iterdir())
    assert {path.suffix for path in written} == {".json", ".md", ".png"}
    assert "## Films" not in (tmp_path / MARKDOWN).read_text()


def judged(episode: str, window: int, db: float) -> Judged:
    return Judged(episode, window, np.full(8, db), np.ones(8), np.full(8, np.nan))


def test_an_episode_is_shown_by_its_most_usual_window() -> None:
    scores = Scores()
    for window, (episode, db) in enumerate([("a", 30.0), ("a", 31.0), ("a", 35.0), ("b", 20.0), ("c", 25.0), ("c", 26.0)]):
        scores.add_window(judged(episode, window, db))
        scores.add("psnr.model.8", episode, db)
    assert choose(scores, 8) == {"best": 1, "median": 4, "worst": 3}


def test_of_two_episodes_one_is_the_best_and_the_other_the_worst() -> None:
    scores = Scores()
    for window, (episode, db) in enumerate([("a", 20.0), ("b", 30.0)]):
        scores.add_window(judged(episode, window, db))
        scores.add("psnr.model.8", episode, db)
    assert choose(scores, 8) == {"best": 1, "worst": 0}


def test_a_single_episode_is_shown_once() -> None:
    scores = Scores()
    scores.add_window(judged("a", 0, 30.0))
    scores.add("psnr.model.8", "a", 30.0)
    assert choose(scores, 8) == {"best": 0}


def test_a_film_shows_actual_predicted_and_error_pixel_by_pixel(setting: Setting) -> None:
    window = setting.windows[0]
    prediction = setting.predictor.predict(window.snapshot(K, beyond=32), horizon=window.steps)
    film = Film(window.future, prediction, "a")
    picture = film.draw(5)
    assert picture.shape == (film.height, film.width, 3)
    factor = TILE // MANIFEST.image_size[1]
    height, width = (factor * side for side in MANIFEST.image_size)
    actual, predicted = window.future[5], prediction.frames[5]
    for column, image in enumerate((actual, predicted, error_image(actual, predicted))):
        left = 20 + column * (width + 12)
        tile = picture[84 : 84 + height, left : left + width]
        assert np.array_equal(tile[factor // 2 :: factor, factor // 2 :: factor], image)
    assert not np.array_equal(film.draw(6), picture)
    assert np.array_equal(film.draw(5), picture)


def test_the_gripper_has_a_table_and_a_panel_where_there_is_a_probe() -> None:
    x = np.concatenate([np.zeros(K), np.linspace(0.0025, 0.1, 40)])
    windows = [grey_window("a", x, 40), grey_window("b", -x, 40)]
    figures = Setting(GreyPredictor(), windows, 0, (8, 40), None).figures(  # type: ignore[arg-type]
        Setting(GreyPredictor(), windows, 0, (8, 40), GreyProbe()).score()  # type: ignore[arg-type]
    )
    shown = tables(markdown(figures, "grey", 20.0))
    row = shown["Gripper's distance from where it was measured, in cm/model"]
    assert row["40"] == cell(figures, "gripper_error_cm.model.40")
    assert row["40"].startswith("0.50 ")
    without = {name: value for name, value in figures.items() if "gripper" not in name}
    assert "Gripper" not in markdown(without, "grey", 20.0)
    assert not np.array_equal(draw_plot(figures, "grey", 20.0), draw_plot(without, "grey", 20.0))


def scored(psnr: dict[str, dict[int, list[float]]]) -> Scores:
    """Episode -> horizon -> PSNR of its windows; the newest image copied has 3 dB less at frame 16, and 5 dB less further ahead."""
    scores = Scores()
    for episode, at in psnr.items():
        scores.add_window(judged(episode, 0, 20.0))
        for h, values in at.items():
            for value in values:
                scores.add(f"psnr.model.{h}", episode, value)
                scores.add(f"psnr.copy_last.{h}", episode, value - (3 if h <= 16 else 5))
    return scores


def test_recordings_that_differ_by_the_number_at_their_end_are_one_row_of_means_over_episodes() -> None:
    scores = scored(
        {
            "push_9001": {8: [0.0], 16: [26.0], 128: [20.0]},
            "drawer-open_9000": {8: [0.0], 16: [30.0, 32.0], 128: [25.0]},
            "push_9000": {8: [0.0], 16: [20.0, 20.0, 20.0]},
        }
    )
    tasks = by_task(scores)
    assert list(tasks) == ["drawer-open", "push"]
    assert tasks["push"]["psnr.model.16"] == 23  # of two episodes, whatever their number of windows
    assert "psnr.model.8" not in tasks["push"]
    text = markdown({"windows": 3.0, "episodes": 3.0}, "mine", 20.0, tasks=tasks)
    table = text.partition("## By task")[2].partition("##")[0]
    assert [line for line in table.splitlines() if line.startswith("|")] == [
        "| task | episodes | model 16 | copied 16 | gain 16 | model 128 | copied 128 | gain 128 |",
        "|---|---|---|---|---|---|---|---|",
        "| drawer-open | 1 | 31.00 | 28.00 | +3.00 | 25.00 | 20.00 | +5.00 |",
        "| push | 2 | 23.00 | 20.00 | +3.00 | 20.00 | 15.00 | +5.00 |",
    ]


def test_a_task_of_which_no_episode_is_long_enough_has_empty_cells() -> None:
    tasks = by_task(scored({"a_1": {16: [30.0], 64: [20.0]}, "a_2": {16: [30.0]}, "b_1": {16: [30.0]}}))
    assert "| b | 1 | 30.00 | 27.00 | +3.00 |  |  |  |" in markdown({"windows": 3.0, "episodes": 3.0}, "mine", 20.0, tasks=tasks)


@pytest.mark.parametrize("names", [("push_1", "push_2"), ("push_1", "reach_1"), ("a", "b")], ids=["one", "alone", "numberless"])
def test_there_is_no_table_by_task_where_it_would_say_nothing(names: tuple[str, ...]) -> None:
    tasks = by_task(scored({name: {8: [20.0]} for name in names}))
    assert tasks == {}
    assert "By task" not in markdown({"windows": 2.0, "episodes": 2.0}, "mine", 20.0, tasks=tasks)


def test_the_report_has_the_table_by_task_and_the_figures_have_not(setting: Setting, tmp_path: Path) -> None:
    names = dict(zip((id(window.episode) for window in setting.windows), ("push_1", "push_2", "reach_1"), strict=True))
    windows = [replace(window, episode=replace(window.episode, name=names[id(window.episode)])) for window in setting.windows]
    named = replace(setting, windows=windows)
    write_report(named, named.score(misled=False), tmp_path)
    by_episode = json.loads((tmp_path / EPISODES).read_text())["psnr.model.64"]
    (row,) = [line for line in (tmp_path / MARKDOWN).read_text().splitlines() if line.startswith("| push |")]
    assert f"{np.mean([by_episode['push_1'], by_episode['push_2']]):.2f}" in row
    assert not [name for name in json.loads((tmp_path / JSON).read_text()) if "task" in name or "push" in name]


def test_a_curve_goes_through_its_figures() -> None:
    """A flat curve is one row of blue pixels, from the axis to the panel's end; one that rises through it crosses in the middle."""
    figures = {"psnr.model.1": 20.0, "psnr.model.100": 20.0, "psnr.copy_last.1": 10.0, "psnr.copy_last.100": 30.0}
    panel = draw_plot(figures, "flat", 20.0)[:, : WIDTH // COLUMNS].astype(int)
    blue, grey = (np.abs(panel - STYLES[who][1]).sum(axis=2) < 30 for who in ("model", "copy_last"))
    (row, *rows) = np.flatnonzero(blue.sum(axis=1) > 300)
    assert len(rows) < 6
    first, last = np.flatnonzero(blue[row])[[0, -1]]
    assert (first, last) == pytest.approx((75, 508), abs=12)
    crossing = np.flatnonzero(grey[row, first + 20 : last - 20]) + first + 20
    assert crossing.mean() == pytest.approx((first + last) / 2, abs=6)


def test_horizons_are_read_off_the_figures_names_in_order() -> None:
    figures = {"psnr.model.16": 1.0, "psnr.model.8": 1.0, "psnr.model.100": 1.0, "psnr.copy_last.4": 1.0, "psnr.model": 1.0}
    assert horizons_of(figures, "psnr.model") == [8, 16, 100]
