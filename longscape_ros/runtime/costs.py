# SPDX-License-Identifier: Apache-2.0
"""What a predicted future costs, from its latents and actions; no image is decoded. Lower is better.

A cost is a small frozen object: called with futures it gives one number each; ``per_frame`` tells where in one of them that comes
from. Write others by the same protocol, and combine them with :class:`WeightedSum`.

Letters: N futures, T frames of a future, C h w latent, D action dimensions that move.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from longscape_ros.errors import InputError

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

Need = Literal["goal", "confidence"]
"""What a cost cannot do without: the goal's latents, or the error estimator's word."""

Norm = Literal["l1", "l2"]
When = Literal["last", "nearest", "all"]


@dataclass(frozen=True, slots=True)
class Trajectory:
    """What a cost sees of one future.

    Args:
        latents: float32 [T, C, h, w], its frames; where commands were shared, only those after them.
        travel: float64 [S + T, D], how far each moving dimension goes in each step, over an eighth of its scale (1: one scale in
            eight steps). The last T rows belong to the frames; the S rows before them lead up to it.
        confidence: float32 [T], the probability that a frame is right; NaN: unknown.
        goal: float32 [C, h, w]; None: there is no goal image.
    """

    latents: Float32
    travel: Float64
    confidence: Float32
    goal: Float32 | None = None

    def __post_init__(self) -> None:
        frames = len(self.latents)
        if frames < 1 or self.confidence.shape != (frames,) or self.travel.ndim != 2 or len(self.travel) < frames:
            raise InputError(
                f"Got latents {list(self.latents.shape)}, travel {list(self.travel.shape)} and confidence {list(self.confidence.shape)}, "
                "expected [T, C, h, w], [at least T, D] and [T] with T > 0."
            )
        if self.goal is not None and self.goal.shape != self.latents.shape[1:]:
            raise InputError(f"Got a goal of latents {list(self.goal.shape)}, expected {list(self.latents.shape[1:])} as the frames have.")


class Cost(Protocol):
    """What a future costs."""

    @property
    def needs(self) -> frozenset[Need]:
        """What must be there; asked before anything is computed."""

    def per_frame(self, trajectory: Trajectory) -> Float64:
        """float64 [T], the cost of each frame of one future."""

    def __call__(self, trajectories: Sequence[Trajectory]) -> Float64:
        """float64 [N], the cost of each future."""


@dataclass(frozen=True, slots=True)
class GoalDistance:
    """How far the frames' latents are from those of a goal image.

    Args:
        norm: ``l1``: mean absolute difference, as V-JEPA 2-AC plans with (arXiv 2506.09985); ``l2``: mean square difference, as
            DINO-WM does (arXiv 2411.04983).
        when: ``last``: at the end of the future, as both do; ``nearest``: where it comes closest to the goal; ``all``: the mean over
            its frames, frame t (from 0) weighted with ``growth`` to the power of t. DINO-WM's code offers that too.
        growth: How much more each frame counts than the one before it, for ``all``; 1: all count the same.
    """

    norm: Norm = "l1"
    when: When = "last"
    growth: float = 1.0

    def __post_init__(self) -> None:
        if self.norm not in get_args(Norm):
            raise InputError(f"Got norm {self.norm!r}, expected one of {', '.join(get_args(Norm))}.")
        if self.when not in get_args(When):
            raise InputError(f"Got when = {self.when!r}, expected one of {', '.join(get_args(When))}.")
        if not 0 < self.growth < float("inf"):
            raise InputError(f"Got growth {self.growth}, expected a positive number; 1 counts every frame the same.")

    @property
    def needs(self) -> frozenset[Need]:
        """See :class:`Cost`."""
        return frozenset({"goal"})

    def per_frame(self, trajectory: Trajectory) -> Float64:
        """See :class:`Cost`.

        Raises:
            InputError: there is no goal.
        """
        if trajectory.goal is None:
            raise InputError("Got no goal for the distance to it, expected the goal's image in the request.")
        difference = trajectory.latents - trajectory.goal
        size = np.abs(difference) if self.norm == "l1" else np.square(difference)
        return np.asarray(size.mean(axis=(1, 2, 3), dtype=np.float64))

    def __call__(self, trajectories: Sequence[Trajectory]) -> Float64:
        """See :class:`Cost`."""
        return np.array([self._over_time(self.per_frame(trajectory)) for trajectory in trajectories], np.float64)

    def _over_time(self, distance: Float64) -> float:
        if self.when == "last":
            return float(distance[-1])
        if self.when == "nearest":
            return float(distance.min())
        weights = self.growth ** np.arange(1.0 - len(distance), 1.0)  # the last is 1, so that none overflows
        return float((distance * weights).sum() / weights.sum())


@dataclass(frozen=True, slots=True)
class MotionPenalty:
    """Mean square of how far, and how jerkily, the moving dimensions go; states (grippers) count nothing.

    Args:
        magnitude: Weight of the travel per step.
        jerk: Weight of the second difference of the travel per step, the change of the acceleration. Steps before the future count
            in it, so that a leap at its beginning is seen.
    """

    magnitude: float = 1.0
    jerk: float = 0.0

    def __post_init__(self) -> None:
        weights = (self.magnitude, self.jerk)
        if not all(0 <= weight < float("inf") for weight in weights) or not any(weights):
            raise InputError(f"Got magnitude {self.magnitude} and jerk {self.jerk}, expected finite weights from zero on, not both zero.")

    @property
    def needs(self) -> frozenset[Need]:
        """See :class:`Cost`."""
        return frozenset()

    def per_frame(self, trajectory: Trajectory) -> Float64:
        """See :class:`Cost`."""
        frames = len(trajectory.latents)
        travel = trajectory.travel
        if not travel.shape[1]:
            return np.zeros(frames)
        before = np.concatenate([travel[:1], travel[:1], travel])  # unknown steps were like the first known one
        jerk = np.diff(before, n=2, axis=0)
        squares = self.magnitude * np.square(travel[-frames:]) + self.jerk * np.square(jerk[-frames:])
        return np.asarray(squares.mean(axis=1))

    def __call__(self, trajectories: Sequence[Trajectory]) -> Float64:
        """See :class:`Cost`."""
        return np.array([self.per_frame(trajectory).mean() for trajectory in trajectories], np.float64)


@dataclass(frozen=True, slots=True)
class ErrorPenalty:
    """Mean probability that a frame is wrong: keeps planners from futures that the model cannot tell. Of bundles with an estimator."""

    @property
    def needs(self) -> frozenset[Need]:
        """See :class:`Cost`."""
        return frozenset({"confidence"})

    def per_frame(self, trajectory: Trajectory) -> Float64:
        """See :class:`Cost`; NaN where the confidence is unknown."""
        return 1 - trajectory.confidence.astype(np.float64)

    def __call__(self, trajectories: Sequence[Trajectory]) -> Float64:
        """See :class:`Cost`."""
        return np.array([self.per_frame(trajectory).mean() for trajectory in trajectories], np.float64)


@dataclass(frozen=True, slots=True)
class WeightedSum:
    """Several costs, each times its weight: ``WeightedSum(((1.0, GoalDistance()), (0.01, MotionPenalty())))``.

    Args:
        terms: Weights and costs.
    """

    terms: tuple[tuple[float, Cost], ...]

    def __post_init__(self) -> None:
        if not self.terms:
            raise InputError("Got a sum of no costs, expected at least one term (weight, cost).")
        weights = [weight for weight, _ in self.terms]
        if not np.isfinite(weights).all():
            raise InputError(f"Got the weights {weights}, expected finite numbers.")

    @property
    def needs(self) -> frozenset[Need]:
        """See :class:`Cost`."""
        return frozenset().union(*(cost.needs for _, cost in self.terms))

    def per_frame(self, trajectory: Trajectory) -> Float64:
        """See :class:`Cost`."""
        return np.asarray(sum(weight * cost.per_frame(trajectory) for weight, cost in self.terms))

    def __call__(self, trajectories: Sequence[Trajectory]) -> Float64:
        """See :class:`Cost`."""
        return np.asarray(sum(weight * cost(trajectories) for weight, cost in self.terms))
