# SPDX-License-Identifier: Apache-2.0
"""What is learned last, on rollouts of the finished model: chunk lengths from the context alone, and how wrong frames are.

Letters: R rollouts, B chunks of a part, K context frames, T chunk frames, C h w latent, F action features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from longscape_ros.contract import NO_ERROR, Confidence
from longscape_ros.model.confidence import ErrorEstimator
from longscape_ros.model.data import ChunkSampler
from longscape_ros.model.moe import ContextClassifier
from longscape_ros.model.rollouts import Rollouts
from longscape_ros.model.world import WorldModel

PSNR_DB = 25.0
"""A frame counts as right from this on; confidence is the probability of that."""

Part = dict[str, Tensor]
"""Chunks of one length: ``which`` [B] their rollouts; ``context``, ``actions``, ``latents``; ``log_error`` [B, T], the true
logarithm of the mean square error; ``label`` [B], number of the rule's length; ``recorded`` [B, K, C, h, w], the context as it was;
``before`` [B], the estimate of the newest context frame."""


class CarriedEstimates:
    """What the parts of some rollouts carry from one training step to the next: state that a checkpoint needs.

    Args:
        rolled: See :func:`collect_rollouts`.
    """

    def __init__(self, rolled: dict[str, Any]) -> None:
        self._parts: list[Part] = rolled["parts"]
        self.is_known = False
        """Whether they were carried by now."""

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"before": [part["before"] for part in self._parts], "is_known": self.is_known}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from a checkpoint."""
        for part, before in zip(self._parts, state["before"], strict=True):
            part["before"] = before.to(device)
        self.is_known = state["is_known"]


class Heads(nn.Module):
    """Length predictor and error estimator, trained together.

    The estimator gets its own estimate of the frame before the chunk, as it will when it is used; these are brought up to date now
    and then (:meth:`carry`).
    """

    CARRY_EVERY = 50
    """Steps between two updates."""

    def __init__(self, length_predictor: ContextClassifier, error_estimator: ErrorEstimator) -> None:
        super().__init__()
        self.length_predictor, self.error_estimator = length_predictor, error_estimator

    def forward(self, part: Part, recorded: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses, and figures: cross entropy of the length on recorded and generated contexts, error of the error in nepers.

        Args:
            part: Of the rollouts.
            recorded: [B, K, C, h, w], contexts from anywhere in the recordings; rollouts are too few to learn lengths from.
            lengths: int64 [B], numbers of the rule's lengths there.
        """
        labels = torch.cat((lengths, part["label"]))
        scores = self.length_predictor(torch.cat((recorded, part["context"]))).float()
        length = F.cross_entropy(scores, labels)
        estimate = self.error_estimator(part["context"], part["actions"], part["latents"], part["before"]).float()
        error = F.smooth_l1_loss(estimate, part["log_error"])
        agreement = (scores.argmax(dim=1) == labels).float().mean()
        return length + error, {"length_loss": length.detach(), "agreement": agreement, "error_loss": error.detach()}

    def draw(self, rolled: dict[str, Any], random: np.random.Generator) -> Part:
        """A part of the rollouts, by its number of chunks."""
        parts = rolled["parts"]
        sizes = np.array([len(part["which"]) for part in parts], float)
        part: Part = parts[int(random.choice(len(parts), p=sizes / sizes.sum()))]
        return part

    @torch.no_grad()
    def carry(self, rolled: dict[str, Any]) -> None:
        """Let every chunk know what its predecessor's last frame is estimated at."""
        parts = rolled["parts"]
        newest = torch.full((int(rolled["rollouts"]),), NO_ERROR, device=parts[0]["context"].device)
        for part in parts:
            part["before"] = newest[part["which"]]
            estimate = self.error_estimator(part["context"], part["actions"], part["latents"], part["before"]).float()
            newest = newest.index_copy(0, part["which"], estimate[:, -1])

    @torch.no_grad()
    def calibrate(self, rolled: dict[str, Any]) -> tuple[Confidence, dict[str, float]]:
        """Fit the confidence to rollouts on episodes kept apart, and say how good both heads are there.

        Returns:
            The confidence, and ``rank_correlation`` (Spearman) of the estimated with the true error; ``calibration_error`` of the
            confidence (10 bins); ``agreement.recorded`` and ``agreement.generated``: how often the predictor gives the rule's length;
            ``agreement.commonest``: how often the commonest length would.
        """
        self.carry(rolled)
        parts = rolled["parts"]
        estimates = [self.error_estimator(p["context"], p["actions"], p["latents"], p["before"]).float() for p in parts]
        estimate = torch.cat([e.flatten() for e in estimates]).cpu().double().numpy()
        truth = torch.cat([p["log_error"].flatten() for p in parts]).cpu().double().numpy()
        right = truth < -PSNR_DB * np.log(10) / 10
        slope, offset = fit_logistic(estimate, right)
        labels = torch.cat([p["label"] for p in parts])
        figures = {"agreement.commonest": float(torch.bincount(labels).max() / len(labels))}
        for name, key in (("recorded", "recorded"), ("generated", "context")):
            guess = torch.cat([self.length_predictor(p[key]).argmax(dim=1) for p in parts])
            figures[f"agreement.{name}"] = float((guess == labels).float().mean())
        confidence = Confidence(PSNR_DB, slope, offset).of(estimate)
        bins = np.minimum((10 * confidence).astype(int), 9)
        gaps = [abs(confidence[bins == b].mean() - right[bins == b].mean()) * (bins == b).mean() for b in range(10) if (bins == b).any()]
        ranks = [np.argsort(np.argsort(values)) for values in (estimate, truth)]
        correlation = float(np.corrcoef(ranks[0], ranks[1])[0, 1]) if np.ptp(estimate) > 0 else 0.0
        figures |= {"rank_correlation": correlation, "calibration_error": float(sum(gaps))}
        return Confidence(PSNR_DB, slope, offset), figures


def fit_logistic(values: NDArray[np.float64], outcomes: NDArray[np.bool_], weight: float = 1.0) -> tuple[float, float]:
    """Slope a and offset b of P(outcome) = 1 / (1 + exp(-(a value + b))), by Newton's method; Platt's targets keep it finite.

    Args:
        values: [N].
        outcomes: [N].
        weight: Of a pull of the slope towards zero.
    """
    positive, negative = outcomes.sum(), (~outcomes).sum()
    target = np.where(outcomes, (positive + 1) / (positive + 2), 1 / (negative + 2))
    mean, scale = values.mean(), values.std() + 1e-9
    x = np.stack([(values - mean) / scale, np.ones_like(values)], axis=1)
    solution = np.zeros(2)
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(x @ solution, -30, 30)))
        pull = np.array([weight, 1e-6])
        gradient = x.T @ (p - target) + pull * solution
        hessian = (x * (p * (1 - p) + 1e-9)[:, None]).T @ x + np.diag(pull)
        step = np.linalg.solve(hessian, gradient)
        solution -= step * min(1.0, 4 / (np.abs(step).max() + 1e-9))
        if np.abs(step).max() < 1e-9:
            break
    slope = float(solution[0] / scale)
    return slope, float(solution[1] - slope * mean)


@torch.no_grad()
def collect_rollouts(
    model: WorldModel,
    sampler: ChunkSampler,
    frames: NDArray[np.uint8],
    random: np.random.Generator,
    count: int,
    steps: int,
    sampling_steps: int,
) -> dict[str, Any]:
    """Roll the model out and compare with what was recorded.

    Args:
        model: With a finished denoiser.
        sampler: Where to begin.
        frames: uint8 [M, H, W, 3], all recorded frames.
        random: Draws the places.
        count: R.
        steps: Frames per rollout, at most.
        sampling_steps: Network evaluations per chunk.

    Returns:
        ``rollouts``: R; ``parts``: in the order they were made, see :data:`Part`.
    """
    running = Rollouts(sampler, sampler.anchors(random, count))
    device = running.context.device
    generator = torch.Generator(device).manual_seed(int(random.integers(2**62)))
    begun = running.anchors.copy()
    parts: list[Part] = []
    while True:
        went = list(running.advance(model.denoiser, generator, sampling_steps))
        for chunk in went:
            length = chunk.latents.shape[1]
            rows = chunk.anchors[:, None] + np.arange(1, length + 1)
            decoded = model.autoencoder.decode(chunk.latents.flatten(0, 1)).float().clamp(0, 1)
            actual = torch.from_numpy(frames[rows.ravel()]).to(device).float() / 255
            error = (decoded - actual).square().mean(dim=(1, 2, 3)).clamp_min(1e-6).log().reshape(rows.shape)
            parts.append(
                {
                    "which": torch.from_numpy(chunk.which).to(device),
                    "context": chunk.context,
                    "recorded": sampler.context(chunk.anchors),
                    "actions": chunk.actions,
                    "latents": chunk.latents,
                    "log_error": error,
                    "label": torch.full((len(rows),), sampler.number(length), device=device),
                    "before": torch.full((len(rows),), NO_ERROR, device=device),
                }
            )
        running.stop(running.anchors - begun >= steps)
        if not went:
            return {"rollouts": count, "parts": parts}
