# SPDX-License-Identifier: Apache-2.0
"""Training on small synthetic recordings, in seconds."""

from __future__ import annotations

import json
import logging
import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.toy_runs import FPS, MAPPING, write_toy_bag, write_toy_bags

from longscape_ros.contract import TopicMapping
from longscape_ros.errors import BagError, InputError
from longscape_ros.model import train as training
from longscape_ros.model.recipes import RECIPES, Recipe, cpu, toy
from longscape_ros.model.run import AUTOENCODER, DENOISER, LATENTS, LOCK, LOG, load_model, load_run, save_checkpoint
from longscape_ros.model.train import limited, read_recordings, train
from longscape_ros.segmentation import expert_for

STEPS = 40


def steps_only(minutes: float = 60) -> Recipe:
    """The recipe ``toy`` with twice the steps, and none of it decided by the clock."""
    recipe = toy()
    stages = {
        "autoencoder": replace(recipe.autoencoder, minutes=minutes, steps=STEPS),
        "denoiser": replace(recipe.denoiser, minutes=minutes, steps=STEPS),
    }
    return replace(recipe, **stages)


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bags(tmp_path_factory.mktemp("bags"))


@pytest.fixture(autouse=True)
def recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "toy", steps_only)


@dataclass(frozen=True)
class Finished:
    """A training from beginning to end.

    Args:
        run: Its folder.
        figures: What it returned.
        told: Its progress.
    """

    run: Path
    figures: dict[str, float]
    told: list[tuple[float, float, str]]


@pytest.fixture(scope="module")
def finished(bags: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    output = tmp_path_factory.mktemp("finished") / "run"
    told: list[tuple[float, float, str]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "toy", steps_only)
        return Finished(output, train(bags, "toy", output, progress=lambda *report: told.append(report)), told)


def test_training_leaves_a_finished_run(finished: Finished) -> None:
    output, figures = finished.run, finished.figures
    run = load_run(output)
    assert (run.recipe, run.mapping) == ("toy", MAPPING)
    assert run.data == {"episodes": 2.0, "episodes.left_out": 0.0, "frames": 240.0}
    assert run.space.dimensions[0].motion_range == pytest.approx(0.4, abs=0.2)
    assert run.space.dimensions[1].midpoint == pytest.approx(0.5)
    assert run.world.transformer.action_features == 3
    assert figures["autoencoder.steps"] == figures["denoiser.steps"] == STEPS
    assert sum(figures[f"chunk.share.{length}"] for length in run.rule.lengths) == pytest.approx(1)
    assert all(math.isfinite(value) for value in figures.values())
    model = load_model(output)
    with torch.no_grad():
        context = torch.randn(1, 4, *run.world.transformer.latent_shape)
        assert model.sample(context, torch.randn(1, 12, 3), torch.randn(1, 8, *run.world.transformer.latent_shape), 0).isfinite().all()


def test_figures_are_logged_and_the_autoencoder_gets_better(finished: Finished) -> None:
    lines = [json.loads(line) for line in (finished.run / LOG).read_text().splitlines()]
    assert [(line["stage"], line["step"]) for line in lines] == [
        (stage, step) for stage in ("autoencoder", "denoiser") for step in (20, 40)
    ]
    assert lines[1]["psnr"] > lines[0]["psnr"] + 1
    assert all(0 < line["loss_over_copy_last"] < 2 for line in lines[2:])


@pytest.mark.parametrize(("stage", "step"), [("autoencoder", 3), ("denoiser", 10), ("denoiser", 30)])  # experts are copied at 24
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(
    stage: str, step: int, bags: Path, tmp_path: Path, finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save_and_stop(path: Path, checkpoint: dict[str, Any]) -> None:
        save_checkpoint(path, checkpoint)
        if (path.stem, checkpoint.get("step")) == (stage, step):
            raise KeyboardInterrupt

    if stage == "denoiser":
        shutil.copy(finished.run / AUTOENCODER, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(training, "SAVE_EVERY_S", 0.0)
        patch.setattr(training, "save_checkpoint", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train(bags, "toy", tmp_path)
    with pytest.raises(InputError, match=f"without a finished {stage}"):
        load_model(tmp_path)
    torch.manual_seed(12345)  # what was drawn elsewhere does not matter
    assert train(bags, "toy", tmp_path) == finished.figures
    resumed = load_model(tmp_path).state_dict()
    for name, tensor in load_model(finished.run).state_dict().items():
        torch.testing.assert_close(resumed[name], tensor, atol=0, rtol=0)


def test_a_finished_training_is_not_trained_again(bags: Path, finished: Finished) -> None:
    before = load_model(finished.run).state_dict()
    assert train(bags, "toy", finished.run) == finished.figures
    for name, tensor in load_model(finished.run).state_dict().items():
        torch.testing.assert_close(tensor, before[name], atol=0, rtol=0)


def test_experts_go_their_own_ways_after_they_were_copied(finished: Finished) -> None:
    model = load_model(finished.run)
    rule = load_run(finished.run).rule
    used = [expert_for(length, rule) for length in rule.lengths if finished.figures[f"chunk.share.{length}"] > 0]
    weights = [model.transformer.blocks[0].feed_forward.experts[expert].up.weight for expert in used]
    for i, one in enumerate(weights):
        for other in weights[i + 1 :]:
            assert 0 < (one - other).abs().max() < 0.1  # alike, but not the same


def test_both_stages_have_checkpoints_and_no_half_written_ones(finished: Finished) -> None:
    assert {path.name for path in finished.run.iterdir()} == {AUTOENCODER, DENOISER, LATENTS, LOG, LOCK, "run.json"}


def test_a_time_limit_ends_the_training(bags: Path, tmp_path: Path) -> None:
    figures = train(bags, "toy", tmp_path, minutes=1e-4)
    assert 1 <= figures["autoencoder.steps"] < STEPS
    assert 1 <= figures["denoiser.steps"] < STEPS
    load_model(tmp_path)  # is finished


def test_the_time_is_shared_as_in_the_recipe() -> None:
    recipe = cpu()
    short = limited(recipe, 10)
    assert short.autoencoder.minutes + short.denoiser.minutes == pytest.approx(10)
    assert short.denoiser.minutes / short.autoencoder.minutes == pytest.approx(recipe.denoiser.minutes / recipe.autoencoder.minutes)
    assert replace(short, autoencoder=recipe.autoencoder, denoiser=recipe.denoiser) == recipe
    assert limited(recipe, None) == recipe


@pytest.mark.parametrize("minutes", [0, -1.0, math.nan])
def test_no_time_at_all_is_refused(minutes: float) -> None:
    with pytest.raises(InputError, match="minutes, expected a positive number"):
        limited(cpu(), minutes)


def test_an_unknown_recipe_is_refused_with_the_known_ones(bags: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'huge', expected one of cpu, cpu-short, toy"):
        train(bags, "huge", tmp_path)


def test_a_folder_without_bags_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BagError, match=r"expected a rosbag2 folder"):
        train(tmp_path, "toy", tmp_path / "run", mapping=MAPPING)


def test_a_recording_of_another_robot_is_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_toy_bags(tmp_path, episodes=1)
    other = replace(MAPPING, image_topic="/wrist/image_raw")
    with caplog.at_level(logging.WARNING), pytest.raises(InputError, match=r"1 bags below .* of which none could be used"):
        read_recordings(tmp_path, other, (32, 32))
    assert "episode_0" in caplog.text
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "metadata.yaml").write_text("not a bag")
    _, data = read_recordings(tmp_path, MAPPING, (32, 32))
    assert data == {"episodes": 1.0, "episodes.left_out": 1.0, "frames": 120.0}


def test_frames_and_commands_of_a_recording_meet_on_the_grid(tmp_path: Path) -> None:
    write_toy_bag(tmp_path / "bag", frames=60, seed=3)
    recordings, _ = read_recordings(tmp_path, MAPPING, (32, 32))
    assert recordings.commanded.all()
    left = np.argmax(recordings.frames[:, 16, :, 0] > 100, axis=1)  # the square's left edge in each image
    np.testing.assert_array_equal(left, np.round(recordings.motion[:, 0] / 0.4 * 24))


def test_a_mapping_can_be_given_as_an_object_a_file_or_lie_beside_the_bags(bags: Path, tmp_path: Path) -> None:
    slower = TopicMapping(MAPPING.image_topic, MAPPING.action_sources, MAPPING.dimensions, fps=FPS / 2)
    train(bags, "toy", tmp_path / "object", mapping=slower, minutes=1e-5)
    assert load_run(tmp_path / "object").mapping == slower
    train(bags, "toy", tmp_path / "file", mapping=bags / "mapping.yaml", minutes=1e-5)
    assert load_run(tmp_path / "file").mapping == MAPPING


def test_progress_goes_over_both_stages(finished: Finished) -> None:
    assert [text.split()[0] for _, _, text in finished.told] == ["autoencoder"] * 2 + ["denoiser"] * 2
    assert {total for _, total, _ in finished.told} == {120.0}
    assert [done for done, _, _ in finished.told] == sorted(done for done, _, _ in finished.told)


@pytest.mark.parametrize(("robot", "episodes", "features"), [("franka_droid", 7, 15), ("widowx_bridge", 9, 13)])
def test_recordings_of_real_robots_can_be_trained_on(robot: str, episodes: int, features: int, shared: Path, tmp_path: Path) -> None:
    figures = train(shared / "data" / robot, "toy", tmp_path, robot)
    assert (figures["episodes"], figures["episodes.left_out"]) == (episodes, 0)
    run = load_run(tmp_path)
    assert run.world.transformer.action_features == features
    assert run.mapping.fps == 5.0
    assert load_model(tmp_path).config == run.world
