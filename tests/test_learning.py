# SPDX-License-Identifier: Apache-2.0
"""Learning curves: logs that are whole, resumed and broken, the power law through them, their figures and their picture."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from longscape_ros.cli import main
from longscape_ros.errors import InputError
from longscape_ros.learning import DECAY, DECAYS, LOG, Learning, StageCurve, fit_trend, read_learning, read_log, smoothed
from longscape_ros.learning_plot import COLOURS, WIDTH, draw_learning

STEPS = 4000
EXPONENT = -0.25
FALL = 1 - 2**EXPONENT
"""Of a loss that goes with step ** EXPONENT, per doubling."""

Line = dict[str, Any]


def line(step: int, stage: str = "denoiser", **figures: float | None) -> Line:
    """A line as a training logs it."""
    return {"stage": stage, "step": step, "minutes": step / 100, "progress": step / STEPS, **figures}


def loss_at(step: int) -> float:
    """A power law while the rate is constant; then it falls faster, as losses do when the rate falls."""
    return 3.0 * step**EXPONENT * (1 - 0.4 * max(0.0, step / STEPS - 0.7))


def power_law(held: bool = True) -> list[Line]:
    """Lines of both stages; the loss on episodes kept apart is a tenth larger."""
    lines = [line(step, "autoencoder", loss=0.01, psnr=20 + math.log2(step)) for step in range(20, 1001, 20)]
    for step in range(20, STEPS + 1, 20):
        lines.append(line(step, loss=loss_at(step), loss_over_copy_last=0.5))
        if held and step % (STEPS // 10) == 0:
            lines.append(line(step, held_loss=1.1 * loss_at(step)))
    return lines


def write(folder: Path, lines: list[Line], end: str = "\n") -> Path:
    """A run's folder with a log."""
    folder.mkdir(parents=True)
    (folder / LOG).write_text("\n".join(map(json.dumps, lines)) + end)
    return folder


def curve(values: dict[int, float], progress: float = 0.1) -> StageCurve:
    """Step -> loss, all at one progress."""
    steps = np.array(list(values), float)
    return StageCurve(steps, steps / 100, np.full(len(steps), progress), {"loss": np.array(list(values.values()))})


# Reading


def test_a_log_becomes_a_curve_per_stage_with_both_kinds_of_lines_in_one(tmp_path):
    stages = read_log(write(tmp_path / "run", power_law()) / LOG)
    assert list(stages) == ["autoencoder", "denoiser"]
    denoiser = stages["denoiser"]
    assert denoiser.steps.tolist() == list(range(20, STEPS + 1, 20))
    assert denoiser.points("held_loss")[0].tolist() == list(range(400, STEPS + 1, 400))
    assert len(denoiser.points("loss")[0]) == 200
    assert denoiser.minutes[-1] == 40
    assert denoiser.last("loss_over_copy_last") == 0.5
    assert denoiser.last("psnr") is None


def test_values_that_are_null_or_not_finite_are_left_out(tmp_path):
    lines = [line(20, loss=0.5, held_loss=None), line(40, loss=None), line(60, loss=math.nan), line(80, loss=0.25)]
    denoiser = read_log(write(tmp_path / "run", lines) / LOG)["denoiser"]
    steps, values = denoiser.points("loss")
    assert (steps.tolist(), values.tolist()) == ([20, 80], [0.5, 0.25])
    assert denoiser.points("held_loss")[0].size == 0


def test_of_a_training_that_went_on_from_an_earlier_checkpoint_the_later_lines_count(tmp_path):
    first_leg = [*(line(step, loss=1.0) for step in range(20, 201, 20)), line(205, held_loss=1.0)]
    second_leg = [line(step, loss=0.5) for step in range(140, 181, 20)]
    denoiser = read_log(write(tmp_path / "run", first_leg + second_leg) / LOG)["denoiser"]
    assert denoiser.steps.tolist() == list(range(20, 181, 20))  # what the first leg had logged beyond 180 belongs to weights that are lost
    assert denoiser.values["loss"].tolist() == 6 * [1.0] + 3 * [0.5]
    assert denoiser.last("held_loss") is None


def test_a_repeated_step_keeps_the_later_line(tmp_path):
    denoiser = read_log(write(tmp_path / "run", [line(20, loss=1.0), line(40, loss=1.0), line(40, loss=0.5)]) / LOG)["denoiser"]
    assert denoiser.values["loss"].tolist() == [1.0, 0.5]


UNREADABLE = ('{"stage": "denoiser", "st', '{"stage": "denoiser"}', "[1, 2]", '{"stage": "denoiser", "step": "20", "loss": 1}')


@pytest.mark.parametrize("rest", UNREADABLE)
def test_a_line_that_cannot_be_read_is_left_out_with_a_warning(tmp_path, caplog, rest):
    path = write(tmp_path / "run", [line(20, loss=1.0), line(40, loss=0.5)], end=f"\n{rest}") / LOG
    with caplog.at_level(logging.WARNING):
        assert read_log(path)["denoiser"].steps.tolist() == [20, 40]
    assert [record.getMessage() for record in caplog.records] == [
        f"Left out what cannot be read of {path}: 1 line(s), the first of them line 3."
    ]


def test_a_whole_log_is_read_without_a_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        read_log(write(tmp_path / "run", power_law()) / LOG)
    assert not caplog.records


@pytest.mark.parametrize("lines", [[], [{"step": 20, "loss": 1.0}], [line(20)], [line(20, loss=None)]])
def test_a_log_without_figures_is_refused_with_a_remedy(tmp_path, lines):
    with pytest.raises(InputError, match=r"no line of figures; expected lines with stage, step and figures: name another run, or wait"):
        read_log(write(tmp_path / "run", lines) / LOG)


def test_a_folder_that_is_no_runs_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"which has no log\.jsonl; expected the folder that longscape train writes to"):
        read_learning([tmp_path])


def test_runs_are_named_by_what_tells_them_apart(tmp_path):
    one, other = (write(tmp_path / name / "run", power_law()) for name in ("one", "other"))
    assert [run.name for run in read_learning([one, other, one])] == ["one/run", "other/run"]
    assert [run.name for run in read_learning([other])] == ["run"]


def test_steps_that_do_not_ascend_are_no_curve():
    with pytest.raises(ValueError, match="expected ascending steps"):
        curve({40: 1.0, 20: 1.0})


# The trend


def test_the_exponent_of_a_power_law_is_recovered_though_the_rates_fall_bends_the_end(tmp_path):
    (run,) = read_learning([write(tmp_path / "run", power_law())])
    trend = run.trend
    assert trend is not None
    assert (trend.figure, trend.points, trend.first, trend.last) == ("held_loss", 4, 1200, 2400)  # of six before 70 %, from 980 on
    assert trend.fall_per_doubling == pytest.approx(FALL, abs=1e-9)
    assert trend.error == pytest.approx(0, abs=1e-6)
    assert trend.at(4 * 2400) == pytest.approx(1.1 * 3.0 * (4 * 2400) ** EXPONENT)


def test_what_is_logged_while_the_rate_falls_would_bend_the_trend(tmp_path):
    (run,) = read_learning([write(tmp_path / "run", power_law())], decay=0.0)
    assert run.trend is not None
    assert run.trend.fall_per_doubling > FALL + 0.02


def test_without_a_loss_on_episodes_kept_apart_the_training_loss_is_fitted(tmp_path):
    (run,) = read_learning([write(tmp_path / "run", power_law(held=False))])
    trend = run.trend
    assert trend is not None
    assert trend.figure == "loss"
    assert trend.fall_per_doubling == pytest.approx(FALL, abs=1e-9)
    assert trend.first == pytest.approx(math.sqrt(20 * trend.last), abs=20)
    assert trend.points == (trend.last - trend.first) / 20 + 1


def test_the_error_covers_what_noise_does_to_the_trend():
    random = np.random.default_rng(3)
    noisy = [{step: 3 * step**EXPONENT * math.exp(0.05 * random.normal()) for step in range(20, 2001, 20)} for _ in range(200)]
    trends = [fit_trend(curve(values), "loss") for values in noisy]
    slopes = np.array([trend.slope for trend in trends if trend is not None])
    errors = np.array([trend.error for trend in trends if trend is not None])
    assert len(slopes) == 200
    assert slopes.mean() == pytest.approx(EXPONENT, abs=0.005)
    assert errors.mean() == pytest.approx(slopes.std(), rel=0.15)


def test_two_points_or_a_rate_that_falls_from_the_beginning_give_no_trend():
    points = {400: 1.0, 420: 0.9, 440: 0.8}
    assert fit_trend(curve({20: 2.0, **points}), "loss") is not None
    assert fit_trend(curve({20: 2.0, 400: 1.0, 420: 0.9}), "loss") is None
    assert fit_trend(curve(points, progress=0.7), "loss") is None
    assert fit_trend(curve(points), "held_loss") is None
    assert fit_trend(curve(dict.fromkeys(points, 0.0)), "loss") is None  # has no logarithm


def test_smoothing_takes_means_over_bins_that_widen_with_the_steps():
    steps, values = smoothed(curve({step: 1.0 + 0.1 * (-1) ** (step // 20) for step in range(20, 4001, 20)}), "loss")
    assert steps[0] == pytest.approx(20)
    assert np.all(np.diff(steps) > 0)
    assert len(steps) < 50
    assert abs(values[0] - 1) == pytest.approx(0.1)
    assert np.abs(values[-8:] - 1).max() < 0.02


def test_names_and_decays_are_those_of_the_trainer():
    recipes = pytest.importorskip("longscape_ros.model.recipes")
    trainer = pytest.importorskip("longscape_ros.model.run")
    assert (trainer.LOG, trainer.AUTOENCODER, trainer.DENOISER) == (LOG, "autoencoder", "denoiser")
    for name, recipe in recipes.RECIPES.items():
        assert recipe().denoiser.decay == DECAYS.get(name, DECAY), name


def test_the_recipe_that_a_run_names_tells_where_its_rate_falls(tmp_path):
    folder = write(tmp_path / "run", power_law())
    assert read_learning([folder])[0].decay == DECAY
    (folder / "run.json").write_text(json.dumps({"recipe": "cpu-tune"}))
    assert read_learning([folder])[0].decay == 0.6
    assert read_learning([folder], 0.2)[0].decay == 0.2


# The command and its picture


def test_the_command_writes_its_figures_and_a_picture(tmp_path, capsys):
    whole = write(tmp_path / "whole", power_law())
    begun = write(tmp_path / "begun", power_law()[:5])
    plot, figures_at = tmp_path / "curves.png", tmp_path / "curves.json"
    assert main(["curve", str(whole), str(begun), "--plot", str(plot), "--json", str(figures_at)]) == 0
    figures = json.loads(figures_at.read_text())
    assert figures == {
        "whole.autoencoder.steps": 1000,
        "whole.autoencoder.minutes": 10,
        "whole.autoencoder.psnr": pytest.approx(20 + math.log2(1000)),
        "whole.denoiser.steps": STEPS,
        "whole.denoiser.minutes": 40,
        "whole.denoiser.loss": pytest.approx(loss_at(STEPS)),
        "whole.denoiser.held_loss": pytest.approx(1.1 * loss_at(STEPS)),
        "whole.denoiser.fall_per_doubling": pytest.approx(FALL),
        "whole.denoiser.fall_per_doubling.error": pytest.approx(0, abs=1e-6),
        "whole.denoiser.fall_per_doubling.points": 4,
        "whole.denoiser.fall_per_doubling.from_step": 1200,
        "whole.denoiser.fall_per_doubling.to_step": 2400,
        "meta.whole.fitted": "held_loss",
        "begun.autoencoder.steps": 100,
        "begun.autoencoder.minutes": 1,
        "begun.autoencoder.psnr": pytest.approx(20 + math.log2(100)),
        "meta.plot": str(plot),
        "meta.command": "curve",
        "meta.version": figures["meta.version"],
    }
    assert "whole.denoiser.fall_per_doubling" in capsys.readouterr().out
    picture = cv2.cvtColor(cv2.imread(str(plot)), cv2.COLOR_BGR2RGB)
    assert picture.shape[1] == WIDTH
    shown = [(np.abs(picture[:480].astype(int) - colour).sum(axis=-1) < 12).any(axis=0).nonzero()[0] for colour in COLOURS[:2]]
    assert shown[0].min() < WIDTH / 2 < shown[0].max()  # the whole run is in both panels, the one just begun only in the left one
    assert 0 < shown[1].max() < WIDTH / 2


def test_runs_without_what_a_panel_shows_are_drawn_all_the_same(tmp_path):
    (run,) = read_learning([write(tmp_path / "run", [line(20, "heads", length_loss=1.0)])])
    assert draw_learning([run], tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    single = Learning("single", {"denoiser": curve({20: 0.5})})
    assert draw_learning([single], tmp_path / "single.png").read_bytes().startswith(b"\x89PNG")


def test_more_runs_than_colours_are_refused(tmp_path):
    runs = [Learning(str(number), {}) for number in range(len(COLOURS) + 1)]
    with pytest.raises(InputError, match="Got 7 runs to draw, expected at most 6; name fewer, or leave --plot out"):
        draw_learning(runs, tmp_path / "curves.png")


@pytest.mark.parametrize("decay", ["1", "-0.1", "nan"])
def test_a_decay_that_is_no_share_is_one_line_and_status_two(tmp_path, capsys, decay):
    assert main(["curve", str(write(tmp_path / "run", power_law())), "--decay", decay]) == 2
    assert capsys.readouterr().err.startswith(f"longscape curve: Got a decay of {float(decay)}, expected the share")


def test_the_command_loads_no_torch(tmp_path):
    run = write(tmp_path / "run", power_law())
    script = f"""
import sys
from longscape_ros.cli import main
assert main(["curve", {str(run)!r}, "--plot", {str(tmp_path / "curves.png")!r}]) == 0
assert "torch" not in sys.modules
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
