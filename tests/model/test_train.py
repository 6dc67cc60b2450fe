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
from longscape_ros.examples import EXAMPLES
from longscape_ros.model import fit
from longscape_ros.model import train as training
from longscape_ros.model.recipes import RECIPES, Recipe, Stage, cpu, toy
from longscape_ros.model.rollouts import OwnContexts
from longscape_ros.model.run import (
    AUTOENCODER,
    DENOISER,
    DISTIL,
    HEADS,
    LATENTS,
    LOCK,
    LOG,
    ROLLOUTS,
    TENSORBOARD,
    WEIGHTS,
    load_checkpoint,
    load_model,
    load_run,
    save_checkpoint,
)
from longscape_ros.model.train import held_episodes, limited, read_data, train
from longscape_ros.model.world import Denoiser
from longscape_ros.segmentation import expert_for

STEPS = {AUTOENCODER: 40, DENOISER: 40, DISTIL: 20, HEADS: 60}


def steps_only(minutes: float = 60) -> Recipe:
    """The recipe ``toy`` with more steps, and none of it decided by the clock."""
    recipe = toy()
    changes: dict[str, Any] = {name: replace(stage, minutes=minutes, steps=STEPS[name]) for name, stage in recipe.stages.items()}
    return replace(recipe, **changes)


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
    assert {stage: figures[f"{stage}.steps"] for stage in STEPS} == STEPS
    assert figures["finished"] == 1.0
    assert sum(figures[f"chunk.share.{length}"] for length in run.rule.lengths) == pytest.approx(1)
    assert all(math.isfinite(value) for value in figures.values())
    assert (run.sampler_steps, run.stages) == (2, tuple(STEPS))
    model = load_model(output)
    with torch.no_grad():
        context = torch.randn(1, 4, *run.world.transformer.latent_shape)
        noise = torch.randn(1, 8, *run.world.transformer.latent_shape)
        assert model.denoiser.sample(context, torch.randn(1, 12, 3), noise, 0).isfinite().all()


def test_figures_are_logged_and_the_autoencoder_gets_better(finished: Finished) -> None:
    lines = [json.loads(line) for line in (finished.run / LOG).read_text().splitlines()]
    assert [(line["stage"], line["step"]) for line in lines] == [
        (stage, step) for stage, steps in STEPS.items() for step in range(20, steps + 1, 20)
    ]
    assert lines[1]["psnr"] > lines[0]["psnr"] + 1
    assert all(0 < line["loss_over_copy_last"] < 2 for line in lines if line["stage"] == DENOISER)
    assert "balance" in lines[3]  # the router chooses by then
    assert all(math.isfinite(value) for line in lines for key, value in line.items() if key != "stage")


def test_figures_go_to_tensorboard_too(finished: Finished) -> None:
    (events,) = (finished.run / TENSORBOARD).glob("events.out.tfevents.*")
    content = events.read_bytes()
    for tag in ("autoencoder/psnr", "denoiser/loss_over_copy_last", "distil/loss", "heads/agreement"):
        assert tag.encode() in content


def test_the_confidence_is_calibrated_and_its_quality_told(finished: Finished) -> None:
    confidence = load_run(finished.run).confidence
    assert confidence is not None
    assert math.isfinite(confidence.slope)
    assert math.isfinite(confidence.offset)
    for name in ("agreement.recorded", "agreement.generated", "agreement.commonest", "calibration_error"):
        assert 0 <= finished.figures[f"heads.{name}"] <= 1
    assert -1 <= finished.figures["heads.rank_correlation"] <= 1


INTERRUPTIONS = (
    (AUTOENCODER, 3),
    (DENOISER, 10),  # experts are copied at 16, a router chooses from 22 on
    (DENOISER, 33),  # goes on from contexts that were generated before
    (DISTIL, 10),
    (HEADS, 55),  # estimates were carried at 50
)


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(
    bags: Path, tmp_path: Path, finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stage, step in INTERRUPTIONS:

        def save_and_stop(path: Path, checkpoint: dict[str, Any], stage: str = stage, step: int = step) -> None:
            save_checkpoint(path, checkpoint)
            if (path.stem, checkpoint.get("step")) == (stage, step):
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(fit, "SAVE_EVERY_S", 0.0)
            patch.setattr(fit, "save_checkpoint", save_and_stop)
            with pytest.raises(KeyboardInterrupt):
                train(bags, "toy", tmp_path)
        with pytest.raises(InputError, match=f"with an unfinished {stage}"):
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
    weights = [model.denoiser.transformer.blocks[0].feed_forward.experts[expert].up.weight for expert in used]
    for i, one in enumerate(weights):
        for other in weights[i + 1 :]:
            assert 0 < (one - other).abs().max() < 0.1  # alike, but not the same


def test_all_stages_have_checkpoints_and_no_half_written_ones(finished: Finished) -> None:
    checkpoints = {f"{stage}.pt" for stage in STEPS}
    found = {path.name for path in finished.run.iterdir()}
    assert found == {*checkpoints, LATENTS, ROLLOUTS, LOG, LOCK, TENSORBOARD, WEIGHTS, EXAMPLES, "run.json"}
    stored = {path.name for path in (finished.run / WEIGHTS).iterdir()}
    assert stored == {f"{stage}{end}" for stage in STEPS for end in (".json", "-0.npz")}


def test_a_time_limit_ends_the_training(bags: Path, tmp_path: Path) -> None:
    figures = train(bags, "toy", tmp_path, minutes=1e-4)
    for stage, steps in STEPS.items():
        assert 1 <= figures[f"{stage}.steps"] < steps
    load_model(tmp_path)  # is finished


def test_the_time_is_shared_as_in_the_recipe() -> None:
    recipe = cpu()
    short = limited(recipe, 10)
    assert sum(stage.minutes for stage in short.stages.values()) == short.minutes == pytest.approx(10)
    for name, stage in short.stages.items():
        assert stage.minutes / short.minutes == pytest.approx(recipe.stages[name].minutes / recipe.minutes)
    whole: dict[str, Any] = recipe.stages
    assert replace(short, **whole) == recipe
    assert limited(recipe, None) == recipe


@pytest.mark.parametrize("minutes", [0, -1.0, math.nan])
def test_no_time_at_all_is_refused(minutes: float) -> None:
    with pytest.raises(InputError, match="minutes, expected a positive number"):
        limited(cpu(), minutes)


def test_an_unknown_recipe_is_refused_with_the_known_ones(bags: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"'huge', expected one of cpu, .*{', '.join(list(RECIPES)[-2:])}"):
        train(bags, "huge", tmp_path)


def test_a_folder_without_bags_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BagError, match=r"expected a rosbag2 folder"):
        train(tmp_path, "toy", tmp_path / "run", mapping=MAPPING)


def test_a_recording_of_another_robot_is_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_toy_bags(tmp_path, episodes=1)
    other = replace(MAPPING, image_topic="/wrist/image_raw")
    with caplog.at_level(logging.WARNING), pytest.raises(InputError, match=r"1 bags below .* of which none could be used"):
        read_data(tmp_path, other, (32, 32))
    assert "episode_0" in caplog.text
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "metadata.yaml").write_text("not a bag")
    assert read_data(tmp_path, MAPPING, (32, 32)).figures == {"episodes": 1.0, "episodes.left_out": 1.0, "frames": 120.0}


def test_frames_and_commands_of_a_recording_meet_on_the_grid(tmp_path: Path) -> None:
    write_toy_bag(tmp_path / "bag", frames=60, seed=3)
    recordings = read_data(tmp_path, MAPPING, (32, 32)).recordings
    assert recordings.commanded.all()
    left = np.argmax(recordings.frames[:, 16, :, 0] > 100, axis=1)  # the square's left edge in each image
    np.testing.assert_array_equal(left, np.round(recordings.motion[:, 0] / 0.4 * 24))


def test_a_mapping_can_be_given_as_an_object_a_file_or_lie_beside_the_bags(bags: Path, tmp_path: Path) -> None:
    slower = TopicMapping(MAPPING.image_topic, MAPPING.action_sources, MAPPING.dimensions, fps=FPS / 2)
    train(bags, "toy", tmp_path / "object", mapping=slower, minutes=1e-5)
    assert load_run(tmp_path / "object").mapping == slower
    train(bags, "toy", tmp_path / "file", mapping=bags / "mapping.yaml", minutes=1e-5)
    assert load_run(tmp_path / "file").mapping == MAPPING


def test_progress_goes_over_all_stages(finished: Finished) -> None:
    assert [text.split()[0] for _, _, text in finished.told] == [stage for stage, steps in STEPS.items() for _ in range(steps // 20)]
    assert {total for _, total, _ in finished.told} == {240.0}
    assert [done for done, _, _ in finished.told] == sorted(done for done, _, _ in finished.told)


# ---- legs, other machines, other beginnings ----


def test_a_leg_ends_the_call_before_the_training_is_finished(bags: Path, tmp_path: Path) -> None:
    figures = train(bags, "toy", tmp_path, leg=1e-6)
    assert figures == {"episodes": 2.0, "episodes.left_out": 0.0, "frames": 240.0, "finished": 0.0}
    with pytest.raises(InputError, match="with an unfinished autoencoder"):
        load_model(tmp_path)


def test_legs_end_at_any_step_and_the_next_one_goes_on(
    bags: Path, tmp_path: Path, finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stage in (AUTOENCODER, DENOISER):
        shutil.copy(finished.run / f"{stage}.pt", tmp_path)
    calls = 0

    def now_and_then(_: Any) -> bool:
        nonlocal calls
        calls += 1
        return calls % 23 == 0

    monkeypatch.setattr(fit.Session, "over", now_and_then)
    legs = 0
    while (figures := train(bags, "toy", tmp_path))["finished"] == 0.0:
        legs += 1
        assert legs < 10
    assert legs == 3
    assert figures == finished.figures


@pytest.fixture(scope="module")
def moved(bags: Path, tmp_path_factory: pytest.TempPathFactory, finished: Finished) -> Path:
    """A training that was interrupted in the second stage, of which only the description and the weights came along."""
    run, elsewhere = tmp_path_factory.mktemp("moved") / "run", tmp_path_factory.mktemp("elsewhere")
    run.mkdir()
    shutil.copy(finished.run / f"{AUTOENCODER}.pt", run)

    def stop(path: Path, checkpoint: dict[str, Any]) -> None:
        if path.stem == DENOISER and checkpoint["step"] == 32:
            raise KeyboardInterrupt
        save_checkpoint(path, checkpoint)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "toy", steps_only)
        patch.setattr(fit, "SAVE_EVERY_S", 0.0)
        patch.setattr(fit, "save_checkpoint", stop)
        with pytest.raises(KeyboardInterrupt):
            train(bags, "toy", run)
    shutil.copy(run / "run.json", elsewhere)
    shutil.copytree(run / WEIGHTS, elsewhere / WEIGHTS)
    return elsewhere


def test_a_run_goes_on_elsewhere_from_its_description_and_weights(bags: Path, moved: Path, tmp_path: Path, finished: Finished) -> None:
    shutil.copytree(moved, tmp_path, dirs_exist_ok=True)
    figures = train(bags, "toy", tmp_path)
    lines = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert [(line["stage"], line["step"]) for line in lines][:2] == [(DENOISER, 40), (DISTIL, 20)]  # nothing is trained twice
    assert {stage: figures[f"{stage}.steps"] for stage in STEPS} == STEPS
    assert figures["autoencoder.psnr"] == pytest.approx(finished.figures["autoencoder.psnr"], rel=1e-5)
    found, reference = load_model(tmp_path).state_dict(), load_model(finished.run).state_dict()
    for name, tensor in found.items():
        if name.startswith("autoencoder."):
            torch.testing.assert_close(tensor, reference[name], atol=1e-4, rtol=1e-3)  # half precision
    assert load_checkpoint(tmp_path / f"{DENOISER}.pt")["warm_from"] == 31  # type: ignore[index]


def test_weights_of_which_a_file_is_missing_are_refused(bags: Path, moved: Path, tmp_path: Path) -> None:
    shutil.copytree(moved, tmp_path, dirs_exist_ok=True)
    (tmp_path / WEIGHTS / "denoiser-0.npz").unlink()
    with pytest.raises(InputError, match=r"denoiser\.json without denoiser-0\.npz beside it"):
        train(bags, "toy", tmp_path)


def barely(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the recipe ``toy`` one of two stages of one step, so small that the weights stay as they are."""
    stage = Stage(minutes=60, steps=1, frames=16, rate=1e-9)
    monkeypatch.setitem(RECIPES, "toy", lambda: replace(toy(), autoencoder=stage, denoiser=stage, distil=None, heads=None))


def test_a_training_can_begin_with_given_weights(bags: Path, tmp_path: Path, finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    barely(monkeypatch)
    initial = load_model(finished.run).state_dict()
    train(bags, "toy", tmp_path / "all", initial=initial | {"denoiser.of_another_version": torch.zeros(3)})
    without_router = {name: tensor for name, tensor in initial.items() if "router" not in name}
    train(bags, "toy", tmp_path / "without", initial=without_router)
    for run in ("all", "without"):
        found = load_model(tmp_path / run).state_dict()
        assert set(found) == set(initial)
        for name, tensor in found.items():
            if run == "without" and "router" in name:
                continue
            if name.startswith(("autoencoder.", "denoiser.")) and not name.endswith(("latent_mean", "latent_std", "load")):
                torch.testing.assert_close(tensor, initial[name], atol=1e-6, rtol=1e-5)
    changed = "denoiser.router.scores.picture.weight"
    assert not torch.allclose(load_model(tmp_path / "without").state_dict()[changed], initial[changed], atol=1e-3)


def test_a_training_can_begin_with_the_weights_of_another_image_size(
    bags: Path, tmp_path: Path, finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(minutes=60, steps=1, frames=16, rate=1e-9)
    larger = replace(toy(), image_size=(64, 64), autoencoder=stage, denoiser=stage, distil=None, heads=None)
    monkeypatch.setitem(RECIPES, "toy", lambda: larger)
    initial = load_model(finished.run).state_dict()
    train(bags, "toy", tmp_path, initial=initial)
    found = load_model(tmp_path).state_dict()
    for name in ("autoencoder.from_latents.weight", "denoiser.transformer.blocks.1.qkv.weight", "denoiser.router.scores.picture.weight"):
        torch.testing.assert_close(found[name], initial[name], atol=1e-6, rtol=1e-5)
    places = found["denoiser.transformer.place"].reshape(4, 4, -1)  # 8 x 8 latents in patches of 2 x 2
    before = initial["denoiser.transformer.place"].reshape(2, 2, -1)
    torch.testing.assert_close(places[::3, ::3], before, atol=1e-6, rtol=1e-5)  # corners stay
    torch.testing.assert_close(places.mean(dim=(0, 1)), before.mean(dim=(0, 1)), atol=1e-6, rtol=1e-5)
    assert found["autoencoder.fine_bias"].shape[-2:] == (32, 32)


@pytest.mark.parametrize("fault", ["missing", "wider"])
def test_weights_of_another_model_are_refused(bags: Path, tmp_path: Path, finished: Finished, fault: str) -> None:
    initial = dict(load_model(finished.run).state_dict())
    name = "denoiser.transformer.project.weight"
    if fault == "missing":
        del initial[name]
    else:
        initial[name] = torch.zeros(7, 7)
    with pytest.raises(InputError, match=rf"do not fit the recipe's model \({name} .*expected a bundle of the same sizes"):
        train(bags, "toy", tmp_path, initial=initial)


# ---- parts ----


def test_one_expert_learns_first_then_all_by_length_and_then_the_router_chooses(
    bags: Path, tmp_path: Path, finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(finished.run / f"{AUTOENCODER}.pt", tmp_path)
    monkeypatch.setitem(RECIPES, "toy", lambda: replace(steps_only(), distil=None, heads=None))
    phases: list[str] = []
    generated: list[int] = []
    forward, refresh = Denoiser.forward, OwnContexts.refresh

    def watched(self: Any, batch: Any, draws: Any, phase: Any) -> Any:
        if self.training:
            phases.append(phase)
        return forward(self, batch, draws, phase)

    def refreshed(self: OwnContexts, *arguments: Any) -> None:
        generated.append(len(phases))
        refresh(self, *arguments)

    monkeypatch.setattr(Denoiser, "forward", watched)
    monkeypatch.setattr(OwnContexts, "refresh", refreshed)
    train(bags, "toy", tmp_path)
    assert phases == ["dense"] * 16 + ["by_length"] * 6 + ["routed"] * 18
    assert generated == [20, 25, 30, 35]


def test_few_episodes_are_all_trained_on_and_of_many_some_are_kept_apart_evenly_spread() -> None:
    assert not held_episodes(7, 0.5).any()
    assert not held_episodes(100, 0.0).any()
    assert held_episodes(8, 0.01).sum() == 1
    held = np.flatnonzero(held_episodes(100, 0.04))
    assert held.tolist() == [12, 37, 62, 87]


def test_episodes_kept_apart_give_a_loss_of_their_own_and_the_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recordings = write_toy_bags(tmp_path / "bags", episodes=8, frames=60)
    stage = Stage(minutes=60, steps=2, frames=64, rate=1e-3)
    monkeypatch.setitem(RECIPES, "toy", lambda: replace(toy(), autoencoder=stage, denoiser=stage, distil=None, heads=stage))
    anchors: dict[int, set[int]] = {}
    collect = training.collect_rollouts

    def watched(model: Any, sampler: Any, *arguments: Any) -> Any:
        rolled = collect(model, sampler, *arguments)
        anchors[len(anchors)] = set(np.flatnonzero(sampler.lengths) // 60)
        return rolled

    monkeypatch.setattr(training, "collect_rollouts", watched)
    figures = train(recordings, "toy", tmp_path / "run")
    assert anchors == {0: {0, 1, 2, 3, 5, 6, 7}, 1: {4}}
    assert figures["denoiser.held_loss"] > 0
    lines = [json.loads(line) for line in (tmp_path / "run" / LOG).read_text().splitlines()]
    held = [(line["step"], line["held_loss"]) for line in lines if "held_loss" in line]  # of the averaged weights, on the way
    assert [step for step, _ in held] == [1, 2]
    assert held[-1][1] == pytest.approx(figures["denoiser.held_loss"], rel=1e-4)


@pytest.mark.parametrize(("robot", "episodes", "features"), [("franka_droid", 7, 15), ("widowx_bridge", 9, 13)])
def test_recordings_of_real_robots_can_be_trained_on(robot: str, episodes: int, features: int, shared: Path, tmp_path: Path) -> None:
    figures = train(shared / "data" / robot, "toy", tmp_path, robot)
    assert (figures["episodes"], figures["episodes.left_out"]) == (episodes, 0)
    run = load_run(tmp_path)
    assert run.world.transformer.action_features == features
    assert run.mapping.fps == 5.0
    assert load_model(tmp_path).config == run.world
