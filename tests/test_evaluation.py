# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.episodes import make_episode
from support.tiny_bundle import MANIFEST, write_tiny_bundle

from longscape_ros.bundle import Bundle
from longscape_ros.contract import ActionDimension, ActionSource, ActionSpace, TopicMapping
from longscape_ros.errors import BundleError, InputError
from longscape_ros.evaluation import Image, contact_sheet, draw_sheet, evaluate, find_windows, psnr, score, ssim, with_actions_of
from longscape_ros.runtime.backends import create_backend
from longscape_ros.runtime.predictor import Predictor

K = MANIFEST.context

WIDOWX_MOVES = ("x", "y", "z")
WIDOWX = TopicMapping(
    image_topic="/camera/over_shoulder/image_raw/compressed",
    image_type="sensor_msgs/msg/CompressedImage",
    action_sources=(
        ActionSource("/servo_node/delta_twist_cmds", "geometry_msgs/msg/TwistStamped", {n: f"twist.linear.{n}" for n in WIDOWX_MOVES}),
        ActionSource("/gripper/command", "std_msgs/msg/Float64", {"gripper": "data"}, stamp="receive"),
    ),
    dimensions=(
        *(ActionDimension(name, "1", "delta", motion_range=10, scale=5) for name in WIDOWX_MOVES),
        ActionDimension("gripper", "1", "state", scale=1, hysteresis=0.2, is_gripper=True),
    ),
    fps=5.0,
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="module")
def predictor(bundle: Bundle) -> Predictor:
    return Predictor(bundle, create_backend(bundle, "ort_cpu", threads=1))


def noise_image(seed: int, size: tuple[int, int] = (32, 48)) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def test_psnr_is_ten_times_the_logarithm_of_peak_over_error() -> None:
    black = np.zeros((4, 4, 3), np.uint8)
    assert psnr(black, black + np.uint8(255)) == 0
    assert psnr(black, black + np.uint8(10)) == pytest.approx(10 * math.log10(255**2 / 100))


def test_psnr_of_equal_images_is_capped() -> None:
    assert psnr(noise_image(0), noise_image(0)) == 60


def test_a_mask_counts_only_its_pixels() -> None:
    actual, predicted = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint8)
    predicted[0, 0] = 51
    mask = np.zeros((4, 4), bool)
    mask[0, 0] = True
    assert psnr(actual, predicted, mask) == pytest.approx(20 * math.log10(5))
    assert psnr(actual, predicted, ~mask) == 60


def test_ssim_is_one_for_equal_images_and_symmetric_and_lower_for_a_worse_one() -> None:
    image = cv2.GaussianBlur(noise_image(0), (5, 5), 2)
    slightly, badly = (np.clip(image + s * np.random.default_rng(1).standard_normal(image.shape), 0, 255).astype(np.uint8) for s in (5, 40))
    assert ssim(image, image) == pytest.approx(1)
    assert ssim(image, badly) == pytest.approx(ssim(badly, image))
    assert ssim(image, badly) < ssim(image, slightly) < 1


def test_ssim_of_flat_images_follows_the_papers_formula() -> None:
    dark, bright = np.full((16, 16, 3), 50, np.uint8), np.full((16, 16, 3), 100, np.uint8)
    c1 = (0.01 * 255) ** 2
    assert ssim(dark, bright) == pytest.approx((2 * 50 * 100 + c1) / (50**2 + 100**2 + c1))


def test_windows_stand_every_24_frames_where_the_whole_horizon_lies_ahead() -> None:
    windows, still = find_windows([make_episode("long", frames=150)], MANIFEST, (1, 8, 96))
    assert [window.anchor for window in windows] == [3, 27, 51]
    assert {window.steps for window in windows} == {96}
    assert still == 0


def test_a_short_episode_is_scored_as_far_as_it_goes() -> None:
    windows, _ = find_windows([make_episode("short", frames=25)], MANIFEST, (1, 8, 16, 32))
    assert [(window.anchor, window.steps) for window in windows] == [(3, 21)]
    with pytest.raises(InputError, match="Got 0 windows"):
        find_windows([make_episode("too short", frames=11)], MANIFEST, (1, 8, 16, 32))


def test_frames_after_a_gap_in_the_commands_are_not_scored() -> None:
    episode = make_episode("interrupted", frames=60)
    episode.commanded[40] = False
    windows, _ = find_windows([episode], MANIFEST, (8, 32))
    assert [(window.anchor, window.steps) for window in windows] == [(3, 32)]
    assert len(windows[0].snapshot(K, beyond=32).motion) == 40


def test_windows_in_which_nothing_moves_are_left_out_and_counted() -> None:
    moving, resting = make_episode("moving"), make_episode("resting", speed=0.0)
    windows, still = find_windows([moving, resting], MANIFEST, (32,))
    assert {window.episode.name for window in windows} == {"moving"}
    assert still == len(windows) == 4
    with pytest.raises(InputError, match="none moves"):
        find_windows([resting], MANIFEST, (32,))


def test_a_window_with_one_still_block_is_left_out() -> None:
    episode = make_episode("stops", frames=100)
    episode.motion[68:] = episode.motion[68]
    episode.frames[68:] = episode.frames[68]
    assert [w.anchor for w in find_windows([episode], MANIFEST, (64,))[0]] == [3]


def test_seen_motion_counts_without_a_command() -> None:
    episode = make_episode("pushed")
    episode.motion[:] = 0
    assert find_windows([episode], MANIFEST, (32,))[1] == 0


def test_the_most_windows_are_spread_over_all() -> None:
    episodes = [make_episode(name, seed=seed) for seed, name in enumerate("abcd")]
    windows, _ = find_windows(episodes, MANIFEST, (32,), most=4)
    assert [window.episode.name for window in windows] == list("abcd")


def test_a_snapshot_of_a_window_holds_what_is_before_and_what_is_commanded() -> None:
    episode = make_episode("e")
    (window, *_), _ = find_windows([episode], MANIFEST, (32,))
    snapshot = window.snapshot(K, beyond=32)
    assert np.array_equal(snapshot.context, episode.frames[:4])
    assert np.array_equal(snapshot.motion, episode.motion[: 4 + 64])
    assert snapshot.anchor_ns == episode.stamps_ns[3]


def test_foreign_actions_start_where_the_robot_is_and_states_stay_absolute() -> None:
    own, foreign = (find_windows([make_episode(str(seed), seed=seed)], MANIFEST, (32,))[0][1].snapshot(K, 0) for seed in (0, 7))
    mixed = with_actions_of(own, foreign, MANIFEST.action_space)
    assert np.array_equal(mixed.motion[:K], own.motion[:K])
    assert mixed.motion[K:, 0] - own.motion[K - 1, 0] == pytest.approx(foreign.motion[K:, 0] - foreign.motion[K - 1, 0])
    assert np.array_equal(mixed.motion[K:, 2], foreign.motion[K:, 2])


def test_scores_are_means_of_what_the_predictor_gives(predictor: Predictor) -> None:
    windows, _ = find_windows([make_episode("a", frames=60), make_episode("b", frames=60, seed=5)], MANIFEST, (8, 16))
    figures = score(predictor, windows, (8, 16), seed=0)
    predictions = [predictor.predict(w.snapshot(K, beyond=32), horizon=16).frames for w in windows]
    for h in (8, 16):
        actual = [w.actual(h) for w in windows]
        ceiling = [predictor.backend.decode(predictor.backend.encode(image[None]))[0] for image in actual]
        guesses = {"model": [frames[h - 1] for frames in predictions], "copy_last": [w.now for w in windows], "autoencoder": ceiling}
        for who, images in guesses.items():
            expected = np.mean([psnr(a, image) for a, image in zip(actual, images, strict=True)])
            assert figures[f"psnr.{who}.{h}"] == pytest.approx(expected, abs=0.01)
        assert figures[f"ssim.model.{h}"] < 1
    assert figures["psnr.shuffled_actions.16"] != figures["psnr.model.16"]
    assert sum(value for name, value in figures.items() if name.startswith("chunk.share.")) == pytest.approx(1)
    assert sum(value for name, value in figures.items() if name.startswith("chunk.reason.")) == pytest.approx(1)
    assert all(math.isfinite(value) for value in figures.values())


def test_motion_masked_figures_of_a_copied_frame_are_worse_than_of_the_whole_image(predictor: Predictor) -> None:
    windows, _ = find_windows([make_episode("a")], MANIFEST, (8,))
    figures = score(predictor, windows, (8,), seed=0)
    assert figures["psnr_motion.copy_last.8"] < figures["psnr.copy_last.8"] - 3


def test_jumps_are_measured_between_successive_frames(predictor: Predictor) -> None:
    windows, _ = find_windows([make_episode("a")], MANIFEST, (32,), most=1)
    figures = score(predictor, windows, (32,), seed=0)
    prediction = predictor.predict(windows[0].snapshot(K, beyond=32), horizon=32)
    jumps = np.abs(np.diff(prediction.frames.astype(float), axis=0)).mean(axis=(1, 2, 3))
    starts = [chunk.start - 1 for chunk in prediction.chunks[1:]]
    assert starts
    assert figures["jump.boundary"] == pytest.approx(jumps[starts].mean())
    assert figures["jump.inside"] == pytest.approx(np.delete(jumps, starts).mean())


def test_without_another_episode_there_are_no_foreign_actions(predictor: Predictor) -> None:
    windows, _ = find_windows([make_episode("only")], MANIFEST, (8,))
    assert not [name for name in score(predictor, windows, (8,), seed=0) if "shuffled" in name]


def test_a_horizon_that_no_window_reaches_has_no_figures(predictor: Predictor) -> None:
    windows, _ = find_windows([make_episode("short", frames=25)], MANIFEST, (8, 96))
    figures = score(predictor, windows, (8, 96), seed=0)
    assert "psnr.model.8" in figures
    assert "psnr.model.96" not in figures


def test_equal_seeds_give_equal_figures(predictor: Predictor) -> None:
    windows, _ = find_windows([make_episode(name, seed=seed) for seed, name in enumerate("abc")], MANIFEST, (8,))
    assert score(predictor, windows, (8,), seed=1) == score(predictor, windows, (8,), seed=1)


def test_the_contact_sheet_shows_actual_and_predicted_frames(predictor: Predictor, tmp_path: Path) -> None:
    windows, _ = find_windows([make_episode("a")], MANIFEST, (8, 16), most=2)
    path = draw_sheet(predictor, windows, (8, 16), tmp_path / "figures" / "sheet.png")
    sheet = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    zoom = 6  # to at least 128 pixels of width
    height, width = (zoom * size for size in MANIFEST.image_size)
    assert sheet.shape == (2 * (24 + 3 * height), 90 + 3 * width, 3)
    frames = predictor.predict(windows[0].snapshot(K, beyond=32), horizon=16).frames
    last = slice(90 + 2 * width + zoom // 2, None, zoom)
    assert np.array_equal(sheet[24 + zoom // 2 : 24 + height : zoom, last], windows[0].actual(16))
    assert np.array_equal(sheet[24 + height + zoom // 2 : 24 + 2 * height : zoom, last], frames[15])


def test_a_real_robots_bags_are_scored_as_far_as_they_go(shared: Path, tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny", fps=5.0, action_space=ActionSpace(WIDOWX.dimensions), mapping=WIDOWX)
    bags = sorted((shared / "data" / "widowx_bridge").iterdir())[:3]
    calls: list[tuple[int, int]] = []
    figures = evaluate(bundle, bags, horizons=(1, 8, 16, 96), progress=lambda done, count: calls.append((done, count)))
    assert {"psnr.model.8", "psnr.shuffled_actions.8", "psnr_motion.copy_last.8", "ssim.copy_last.16"} < figures.keys()
    assert "psnr.model.96" not in figures
    assert 10 < figures["psnr.copy_last.8"] < 60
    assert figures["windows"] == len(calls) == calls[-1][1] >= 3
    assert contact_sheet(bundle, bags[:1], tmp_path / "sheet.png", horizons=(1, 8), windows=1).stat().st_size > 1000


def test_a_mapping_is_needed_and_must_have_the_bundles_actions(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Got no topic mapping"):
        evaluate(bundle, [tmp_path])
    with pytest.raises(BundleError, match="expected the action names"):
        evaluate(bundle, [tmp_path], mapping=WIDOWX)
