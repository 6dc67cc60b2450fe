# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.episodes import make_episode
from support.grey_robot import GAIN, GreyPredictor, GreyProbe, grey_window
from support.tiny_bundle import MANIFEST, write_tiny_bundle
from support.tiny_probe import write_tiny_probe

from longscape_ros.bundle import Bundle
from longscape_ros.contract import ActionDimension, ActionSource, ActionSpace, TopicMapping
from longscape_ros.errors import BagError, BundleError, InputError
from longscape_ros.evaluation import contact_sheet, draw_sheet, evaluate, find_windows, prepare, psnr, score
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


def test_scores_are_means_of_what_the_predictor_gives(predictor: Predictor) -> None:
    windows, _ = find_windows([make_episode("a", frames=60), make_episode("b", frames=60, seed=5)], MANIFEST, (8, 16))
    figures = score(predictor, windows, (8, 16), seed=0).means()
    predictions = [predictor.predict(w.snapshot(K, beyond=32), horizon=16).frames for w in windows]
    for h in (8, 16):
        actual = [w.actual(h) for w in windows]
        ceiling = [predictor.backend.start_decoding(predictor.backend.encode(image[None]))()[0] for image in actual]
        guesses = {"model": [frames[h - 1] for frames in predictions], "copy_last": [w.now for w in windows], "autoencoder": ceiling}
        for who, images in guesses.items():
            expected = np.mean([psnr(a, image) for a, image in zip(actual, images, strict=True)])
            assert figures[f"psnr.{who}.{h}"] == pytest.approx(expected, abs=0.01)
        assert figures[f"ssim.model.{h}"] < 1
    assert figures["psnr.shuffled_actions.16"] != figures["psnr.model.16"]
    assert sum(value for name, value in figures.items() if name.startswith("chunk.share.")) == pytest.approx(1)
    assert sum(value for name, value in figures.items() if name.startswith("chunk.reason.")) == pytest.approx(1)
    assert sum(value for name, value in figures.items() if name.startswith("expert.share.")) == pytest.approx(1)
    assert all(math.isfinite(value) for value in figures.values())


def test_motion_masked_figures_of_a_copied_frame_are_worse_than_of_the_whole_image(predictor: Predictor) -> None:
    windows, _ = find_windows([make_episode("a")], MANIFEST, (8,))
    figures = score(predictor, windows, (8,), seed=0).means()
    assert figures["psnr_motion.copy_last.8"] < figures["psnr.copy_last.8"] - 3


def test_jumps_are_measured_between_successive_frames(predictor: Predictor) -> None:
    windows, _ = find_windows([make_episode("a")], MANIFEST, (32,), most=1)
    figures = score(predictor, windows, (32,), seed=0).means()
    prediction = predictor.predict(windows[0].snapshot(K, beyond=32), horizon=32)
    jumps = np.abs(np.diff(prediction.frames.astype(float), axis=0)).mean(axis=(1, 2, 3))
    starts = [chunk.start - 1 for chunk in prediction.chunks[1:]]
    assert starts
    assert figures["jump.boundary"] == pytest.approx(jumps[starts].mean())
    assert figures["jump.inside"] == pytest.approx(np.delete(jumps, starts).mean())


def test_without_another_episode_there_are_no_foreign_actions(predictor: Predictor) -> None:
    windows, _ = find_windows([make_episode("only")], MANIFEST, (8,))
    assert not [name for name in score(predictor, windows, (8,), seed=0).means() if "shuffled" in name]


def test_without_misled_predictions_all_other_figures_are_the_same(predictor: Predictor) -> None:
    windows, _ = find_windows([make_episode("a", frames=60), make_episode("b", frames=60, seed=5)], MANIFEST, (8, 16))
    every, without = (score(predictor, windows, (8, 16), misled=misled).figures() for misled in (True, False))
    misled = {name for name in every if any(word in name for word in ("shuffled", "counterfactual"))}
    assert {"psnr.shuffled_actions.8", "psnr.counterfactual_actions.8", "separation.shuffled.8"} < misled
    assert without == {name: value for name, value in every.items() if name not in misled}


def test_a_horizon_that_no_window_reaches_has_no_figures(predictor: Predictor) -> None:
    windows, _ = find_windows([make_episode("short", frames=25)], MANIFEST, (8, 96))
    figures = score(predictor, windows, (8, 96), seed=0).means()
    assert "psnr.model.8" in figures
    assert "psnr.model.96" not in figures


def test_equal_seeds_give_equal_figures(predictor: Predictor) -> None:
    windows, _ = find_windows([make_episode(name, seed=seed) for seed, name in enumerate("abc")], MANIFEST, (8,))
    assert score(predictor, windows, (8,), seed=1).figures() == score(predictor, windows, (8,), seed=1).figures()


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
    assert figures["ci.low.psnr.model.8"] < figures["psnr.model.8"] < figures["ci.high.psnr.model.8"]
    assert figures["windows"] == len(calls) == calls[-1][1] >= 3
    assert contact_sheet(bundle, bags[:1], tmp_path / "sheet.png", horizons=(1, 8), windows=1).stat().st_size > 1000


def test_a_mapping_is_needed_and_must_have_the_bundles_actions(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Got no topic mapping"):
        evaluate(bundle, [tmp_path])
    with pytest.raises(BundleError, match="expected the action names"):
        evaluate(bundle, [tmp_path], mapping=WIDOWX)


def test_a_probe_beside_the_bundle_is_used_only_where_the_bags_measured_what_it_knows(
    shared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny", fps=5.0, action_space=ActionSpace(WIDOWX.dimensions), mapping=WIDOWX)
    bags = sorted((shared / "data" / "widowx_bridge").iterdir())[:1]
    write_tiny_probe(bundle.file("probe.onnx"), MANIFEST.image_size)
    with prepare(bundle, bags, horizons=(8,)) as setting:
        assert setting.probe is None
    assert "The bundle's probe is not used: " in caplog.text
    with pytest.raises(BagError, match="expected /joint_states"), prepare(bundle, bags, horizons=(8,), probe=bundle.file("probe.onnx")):
        pass
    write_tiny_probe(tmp_path / "other.onnx", (8, 8))
    with pytest.raises(InputError, match=r"expected \[8, 8\]"), prepare(bundle, bags, horizons=(8,), probe=tmp_path / "other.onnx"):
        pass


# ---- a robot whose figures can be worked out ----


def there_and_back(steps: int, far: float = 0.1) -> np.ndarray:
    """x [K + steps]: rests at 0 until t0, then goes to ``far`` in a straight line."""
    return np.concatenate([np.zeros(K), np.linspace(far / steps, far, steps)])


def test_separation_is_the_actions_effect_over_the_error() -> None:
    windows = [grey_window("a", there_and_back(40), 40)]
    figures = score(GreyPredictor(error=lambda h: np.full(len(h), 5.0)), windows, (20, 40)).means()
    for h in (20, 40):
        travelled = GAIN * 0.1 * h / 40  # levels; the mirrored commands lead as far the other way
        assert figures[f"separation.counterfactual.{h}"] == pytest.approx(2 * travelled / 5)
        assert figures[f"psnr.counterfactual_actions.{h}"] == pytest.approx(20 * math.log10(255 / (2 * travelled - 5)))
        assert figures[f"psnr.model.{h}"] == pytest.approx(20 * math.log10(255 / 5))


def test_a_model_that_ignores_its_actions_is_not_separated() -> None:
    class Deaf(GreyPredictor):
        def roll_out(self, snapshot, *, horizon):  # type: ignore[no-untyped-def]
            still = np.repeat(snapshot.motion[K - 1 : K], len(snapshot.motion), axis=0)
            return super().roll_out(type(snapshot)(snapshot.anchor_ns, snapshot.context, still, horizon), horizon=horizon)

    figures = score(Deaf(), [grey_window("a", there_and_back(40), 40)], (40,)).means()
    assert figures["separation.counterfactual.40"] == 0
    assert figures["psnr.counterfactual_actions.40"] == figures["psnr.model.40"]


def test_the_gripper_is_as_far_off_as_the_probe_sees_it() -> None:
    windows = [grey_window("a", there_and_back(40), 40), grey_window("b", there_and_back(40, far=-0.1), 40)]
    figures = score(GreyPredictor(error=lambda h: np.full(len(h), 8.0)), windows, (20, 40), probe=GreyProbe()).means()
    for h in (20, 40):
        assert figures[f"gripper_error_cm.model.{h}"] == pytest.approx(100 * 8 / GAIN)
        assert figures[f"gripper_error_cm.copy_last.{h}"] == pytest.approx(100 * 0.1 * h / 40)
        assert figures[f"gripper_error_cm.shuffled_actions.{h}"] == pytest.approx(100 * 0.2 * h / 40, abs=100 * 8 / GAIN)
        assert figures[f"gripper_error_cm.counterfactual_actions.{h}"] == pytest.approx(100 * 8 / GAIN)
        assert figures[f"gripper_error_cm.autoencoder.{h}"] == figures[f"gripper_error_cm.probe.{h}"] == pytest.approx(0)
        assert figures[f"counterfactual.reachable.{h}"] == 1
    assert figures["gripper_error_cm.probe"] == pytest.approx(0)


def test_a_mirrored_place_that_no_gripper_was_near_is_not_scored() -> None:
    figures = score(GreyPredictor(), [grey_window("a", there_and_back(40), 40)], (40,), probe=GreyProbe()).means()
    assert figures["counterfactual.reachable.40"] == 0
    assert "gripper_error_cm.counterfactual_actions.40" not in figures
    assert "gripper_error_cm.model.40" in figures


def test_what_was_not_measured_is_not_scored() -> None:
    window = grey_window("a", there_and_back(40), 40)
    assert window.measured is not None
    window.measured[20] = np.nan
    names = score(GreyPredictor(), [window], (20, 40), probe=GreyProbe()).means()
    assert "gripper_error_cm.model.20" not in names
    assert "gripper_error_cm.model.40" in names


def test_drift_is_the_slope_of_the_psnr_over_all_frames_from_32_on() -> None:
    steps = 132

    def error(h: np.ndarray) -> np.ndarray:
        """Doubles every 50 frames: 12.04 dB per 100 frames."""
        return 4 * 2 ** (h / 50)

    scores = score(GreyPredictor(error=error), [grey_window("a", there_and_back(steps), steps)], (1, steps))
    (judged,) = scores.windows
    at = np.arange(32, steps + 1)
    figures = scores.means()
    assert figures["drift_db_per_100_frames"] == pytest.approx(100 * np.polyfit(at, judged.psnr[31:], 1)[0])
    assert figures["drift_db_per_100_frames"] == pytest.approx(-40 * math.log10(2), abs=0.15)  # levels are whole numbers
    relative = figures["drift_db_per_100_frames"] - figures["drift_db_per_100_frames.copy_last"]
    assert figures["drift_db_per_100_frames.over_copy_last"] == pytest.approx(relative)


def test_the_jump_ratio_is_what_boundaries_have_more_than_the_inside_of_chunks() -> None:
    """The scene brightens by one level a frame; at each of the boundaries, every eight frames, the prediction jumps three levels more."""
    windows = [grey_window("a", there_and_back(40), 40)]
    figures = score(GreyPredictor(error=lambda h: 2 + 3 * ((h - 1) // 8)), windows, (40,)).means()
    assert [figures[f"jump.{name}"] for name in ("boundary", "boundary_actual", "inside", "inside_actual")] == pytest.approx([4, 1, 1, 1])
    assert figures["jump.ratio"] == pytest.approx(4)


def test_a_short_prediction_has_no_drift() -> None:
    assert "drift_db_per_100_frames" not in score(GreyPredictor(), [grey_window("a", there_and_back(63), 63)], (8,)).means()
    assert "drift_db_per_100_frames" in score(GreyPredictor(), [grey_window("a", there_and_back(64), 64)], (8,)).means()


def test_sharpness_and_contrast_of_the_ceiling_are_kept_where_the_autoencoder_loses_nothing() -> None:
    windows, _ = find_windows([make_episode("a")], MANIFEST, (8,), most=1)
    figures = score(GreyPredictor(), windows, (8,)).means()
    assert figures["sharpness.autoencoder.8"] == figures["contrast.autoencoder.8"] == pytest.approx(1)
    assert figures["sharpness.model.8"] == figures["contrast.model.8"] == 0  # it predicts one grey level


def test_confidence_is_judged_by_the_frames_errors() -> None:
    windows = [grey_window(name, there_and_back(40), 40) for name in "abc"]
    worse = GreyPredictor(error=lambda h: 2 + np.floor(h / 4), confidence=lambda h: 1 / h, confident_db=30.0)
    figures = score(worse, windows, (8,)).means()
    assert figures["confidence.rank_correlation"] == pytest.approx(0.99, abs=0.01)  # errors come in steps of four frames
    assert "confidence.rank_correlation_within_horizon" not in figures  # windows do not differ
    right = np.array([20 * math.log10(255 / (2 + h // 4)) >= 30 for h in range(1, 41)])
    stated = 1 / np.arange(1, 41)
    bins = np.minimum((10 * stated.astype(np.float32)).astype(int), 9)
    expected = sum(abs(stated[bins == b].sum() - right[bins == b].sum()) for b in range(10)) / 40
    assert figures["confidence.calibration_error"] == pytest.approx(expected, abs=1e-6)


def test_unknown_confidence_gives_no_figures() -> None:
    figures = score(GreyPredictor(confident_db=30.0), [grey_window("a", there_and_back(40), 40)], (8,)).means()
    assert not [name for name in figures if name.startswith("confidence.")]
