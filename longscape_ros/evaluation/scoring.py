# SPDX-License-Identifier: Apache-2.0
"""Scores a predictor at places in recorded episodes, frame by frame, against what simple alternatives would have given.

Letters: K context frames, N future steps, R scored frames, H W image, D measured positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from longscape_ros.contract import EndReason, Prediction, Snapshot
from longscape_ros.evaluation.metrics import (
    CHANGED_SHARE,
    Image,
    changed,
    deviation,
    difference,
    gradient_energy,
    psnr,
    psnr_of,
    rmse,
    ssim,
)
from longscape_ros.evaluation.scores import Judged, Scores
from longscape_ros.evaluation.statistics import Numbers, slope
from longscape_ros.evaluation.windows import Window, episode_names, foreign_window, mirrored, with_actions_of
from longscape_ros.probe import Locator
from longscape_ros.runtime.predictor import Predictor

MODEL = "model"
COPY_LAST = "copy_last"
SHUFFLED = "shuffled_actions"
COUNTERFACTUAL = "counterfactual_actions"
CEILING = "autoencoder"
WHO = (MODEL, COPY_LAST, SHUFFLED, COUNTERFACTUAL, CEILING)
"""What is compared with the actual frames."""

DRIFT = "drift_db_per_100_frames"
DRIFT_FROM = 32
"""First frame ahead whose PSNR counts for the drift."""

DRIFT_LEAST = 32
"""Frames from :data:`DRIFT_FROM` on that a window must have to give a drift."""

JUMPS = ("jump.boundary", "jump.boundary_actual", "jump.inside", "jump.inside_actual")
CM = 100.0


def score(
    predictor: Predictor,
    windows: Sequence[Window],
    horizons: Sequence[int],
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    probe: Locator | None = None,
    misled: bool = True,
) -> Scores:
    """Predict from every window and compare.

    Args:
        predictor: The model.
        windows: Where from; with ``measured`` positions if there is a probe.
        horizons: Steps after the anchor to score at.
        seed: For the choice of foreign actions.
        progress: Called with windows done and in all.
        probe: Finds the gripper in images.
        misled: Whether to predict with other commands too, which takes two more rollouts per window; without, there are no figures of
            ``shuffled_actions`` and ``counterfactual_actions``.

    Returns:
        Figures as of :func:`longscape_ros.evaluation.evaluate`, per episode and in all.
    """
    confidence: Any = getattr(predictor.bundle.manifest, "confidence", None)
    scores = Scores(None if confidence is None else float(confidence.psnr_db))
    random = np.random.default_rng(seed)
    reach = _reach(windows)
    for index, (window, episode) in enumerate(zip(windows, episode_names(windows), strict=True)):
        foreign = foreign_window(window, windows, random)
        _Window(predictor, window, episode, horizons, scores).score(index, foreign, probe, reach, misled)
        if progress is not None:
            progress(index + 1, len(windows))
    return scores


@dataclass(frozen=True)
class _Window:
    """One window on its way into the scores."""

    predictor: Predictor
    window: Window
    episode: str
    horizons: Sequence[int]
    scores: Scores

    @property
    def reached(self) -> list[int]:
        return [h for h in self.horizons if h <= self.window.steps]

    def add(self, figure: str, value: float, weight: float = 1.0) -> None:
        self.scores.add(figure, self.episode, value, weight)

    def score(self, index: int, foreign: Window | None, probe: Locator | None, reach: NDArray[np.float64] | None, misled: bool) -> None:
        manifest = self.predictor.bundle.manifest
        beyond = manifest.segmentation.lengths[-1]
        snapshot = self.window.snapshot(manifest.context, beyond)
        prediction = self.predictor.predict(snapshot, horizon=self.window.steps)
        rows = [h - 1 for h in self.reached]
        actual = self.window.future[rows]  # [R, H, W, 3]
        guesses: dict[str, Image] = {
            MODEL: prediction.frames[rows],
            COPY_LAST: np.broadcast_to(self.window.now, actual.shape),
            CEILING: self.predictor.backend.start_decoding(self.predictor.backend.encode(actual))(),
        }
        if misled:
            guesses[COUNTERFACTUAL] = self._misled(mirrored(snapshot, manifest.action_space))
        if misled and foreign is not None:
            others = with_actions_of(snapshot, foreign.snapshot(manifest.context, beyond), manifest.action_space)
            guesses[SHUFFLED] = self._misled(others)
        for who in WHO:
            if who in guesses:
                self._score_images(who, actual, guesses[who])
        self._score_separation(actual, guesses)
        self._score_every_frame(index, prediction)
        self._score_chunks(prediction)
        if probe is not None and self.window.measured is not None:
            self._score_gripper(probe, self.window.measured, reach, actual, guesses)

    def _misled(self, snapshot: Snapshot) -> Image:
        """Frames [R, H, W, 3] predicted from other commands; only those that are scored are decoded."""
        rollout = self.predictor.roll_out(snapshot, horizon=self.window.steps)
        return self.predictor.backend.start_decoding(rollout.latents[[h - 1 for h in self.reached]])()

    def _score_images(self, who: str, actual: Image, guesses: Image) -> None:
        for h, truth, guess in zip(self.reached, actual, guesses, strict=True):
            mask = changed(self.window.now, truth)
            self.add(f"psnr.{who}.{h}", psnr(truth, guess))
            if mask.mean() > CHANGED_SHARE:
                self.add(f"psnr_motion.{who}.{h}", psnr(truth, guess, mask))
            self.add(f"ssim.{who}.{h}", ssim(truth, guess))
            if who in (MODEL, CEILING):
                energy, spread = gradient_energy(truth), deviation(truth)
                if energy > 0:
                    self.add(f"sharpness.{who}.{h}", gradient_energy(guess) / energy)
                if spread > 0:
                    self.add(f"contrast.{who}.{h}", deviation(guess) / spread)

    def _score_separation(self, actual: Image, guesses: dict[str, Image]) -> None:
        for who, name in ((COUNTERFACTUAL, "counterfactual"), (SHUFFLED, "shuffled")):
            for h, truth, predicted, other in zip(self.reached, actual, guesses[MODEL], guesses.get(who, ()), strict=False):
                self.add(f"separation.{name}.{h}", difference(predicted, other), difference(predicted, truth))

    def _score_every_frame(self, index: int, prediction: Prediction) -> None:
        future = self.window.future
        errors = {MODEL: rmse(future, prediction.frames), COPY_LAST: rmse(future, self.window.now)}
        curves = {who: psnr_of(error) for who, error in errors.items()}
        confidence = np.asarray(prediction.confidence, np.float64)
        self.scores.add_window(Judged(self.episode, index, curves[MODEL], errors[MODEL], confidence))
        if self.window.steps >= DRIFT_FROM + DRIFT_LEAST:
            at = np.arange(DRIFT_FROM, self.window.steps + 1, dtype=float)
            drift = {who: 100 * slope(curve[DRIFT_FROM - 1 :], at) for who, curve in curves.items()}
            self.add(DRIFT, drift[MODEL])
            self.add(f"{DRIFT}.{COPY_LAST}", drift[COPY_LAST])
            self.add(f"{DRIFT}.over_{COPY_LAST}", drift[MODEL] - drift[COPY_LAST])

    def _score_chunks(self, prediction: Prediction) -> None:
        """Shares of the chunks, and how frames jump where one chunk ends and the next begins."""
        chunks, segmentation = prediction.chunks, self.predictor.bundle.manifest.segmentation
        for length in segmentation.lengths:
            self.add(f"chunk.share.{length}", sum(chunk.length == length for chunk in chunks), len(chunks))
        for reason in EndReason:
            self.add(f"chunk.reason.{reason.name.lower()}", sum(chunk.reason == reason for chunk in chunks), len(chunks))
        for expert in range(self.predictor.bundle.manifest.experts.count):
            self.add(f"expert.share.{expert}", sum(other == expert for other in prediction.experts), len(chunks))
        if self.window.steps < 2:
            return
        starts = [chunk.start for chunk in chunks if 0 < chunk.start < self.window.steps]
        at_boundary = np.isin(np.arange(1, self.window.steps), starts)
        predicted, actual = _jumps(prediction.frames), _jumps(self.window.future)
        sums = []
        for place, here in (("boundary", at_boundary), ("inside", ~at_boundary)):
            for name, jumps in ((f"jump.{place}", predicted), (f"jump.{place}_actual", actual)):
                sums.append([float(jumps[here].sum()), float(here.sum())])
                if here.any():
                    self.add(name, *sums[-1])
        self.scores.add_sums("jump.ratio", self.episode, np.ravel(sums), _jump_ratio)

    def _score_gripper(
        self, probe: Locator, measured: Numbers, reach: NDArray[np.float64] | None, actual: Image, guesses: dict[str, Image]
    ) -> None:
        rows = np.array(self.reached)
        truth = measured[rows]  # [R, D]
        for who, images in {"probe": actual, **guesses}.items():
            where = 2 * measured[0] - truth if who == COUNTERFACTUAL else truth
            errors = CM * np.linalg.norm(probe.locate(np.ascontiguousarray(images)) - where, axis=1)
            for h, error, place in zip(self.reached, errors, where, strict=True):
                if not np.isfinite(error):
                    continue
                if who == COUNTERFACTUAL and reach is not None:
                    reached = bool((place >= reach[0]).all() and (place <= reach[1]).all())
                    self.add(f"counterfactual.reachable.{h}", float(reached))
                    if not reached:
                        continue
                self.add(f"gripper_error_cm.{who}.{h}", float(error))
                if who == "probe":
                    self.add("gripper_error_cm.probe", float(error))


def _reach(windows: Sequence[Window]) -> NDArray[np.float64] | None:
    """float64 [2, D], the smallest box around all measured positions."""
    measured = [window.measured for window in windows if window.measured is not None]
    positions = np.concatenate(measured) if measured else np.empty((0, 0))
    positions = positions[np.isfinite(positions).all(axis=1)]
    return np.stack([positions.min(axis=0), positions.max(axis=0)]) if len(positions) else None


def _jumps(frames: Image) -> Numbers:
    """Mean absolute differences of successive frames [N, H, W, 3], in levels: float64 [N - 1]."""
    return np.array([cv2.absdiff(after, before).mean() for before, after in pairwise(frames)])


def _jump_ratio(sums: Numbers) -> Numbers:
    """Jumps at boundaries over actual ones, divided by the same inside chunks, from sums and counts [..., 8] as they are added."""
    boundary, boundary_actual, inside, inside_actual = (sums[..., i] for i in (0, 2, 4, 6))
    return np.asarray((boundary / boundary_actual) / (inside / inside_actual))
