# SPDX-License-Identifier: Apache-2.0
"""What a planner asks, and what it is told: a snapshot and N action sequences, and for each of them its cost.

:class:`~longscape_ros.runtime.evaluator.CandidateEvaluator` answers. A candidate that cannot be used, or is not finished in time, gets
the cost NaN and a reason; the others are not affected.

Letters: N candidates, K context frames, P shared steps, M steps of a candidate, T frames of it that are predicted, A action dimensions,
C h w latent, H W image.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longscape_ros.contract import Chunk, Prediction, Snapshot
from longscape_ros.errors import InputError
from longscape_ros.runtime.backend import Float32, Rgb
from longscape_ros.runtime.predictor import SEED_BITS


@dataclass(frozen=True, slots=True)
class Candidate:
    """A proposed action sequence. It may be unusable: its evaluation says why.

    Args:
        id: Unique within a request.
        motion: float64 [M, A], the action at the M steps after the branch; like ``Snapshot.motion`` and counted from the same origin:
            positions and states as commanded, velocities and deltas summed up since the anchor.
        assumed_from: First of the M steps whose action is assumed, not proposed; None: none is.
    """

    id: int
    motion: NDArray[np.float64]
    assumed_from: int | None = None


@dataclass(frozen=True, slots=True)
class CandidateRequest:
    """What is to be evaluated.

    Args:
        anchor_ns: t0, the stamp of the newest context image.
        context: uint8 [K, H, W, 3].
        motion: float64 [K, A], the action at the steps -(K - 1) ... 0, see :class:`~longscape_ros.contract.Snapshot`.
        candidates: N of them, each with its own length.
        commanded: float64 [P, A], the action from the anchor to the branch; None: the candidates begin at the anchor.
        horizon: Most steps of a candidate to predict, counted from the branch; None: the bundle's.
        seed: Of the noise, below 2**64; None: from the model and the anchor, as for a prediction.
        goal: uint8 [H, W, 3], for costs that need one.
        deadline_s: On the clock of ``time.perf_counter``: no batch is begun after that; None: there is none.
        decode_ids: The candidates whose frames are wanted; empty: the best one; None: none.
        keep_latents: Whether the evaluations keep their latents.
        keep_frame_costs: Whether the evaluations say what each frame costs.
        frame_id: Optical frame of the anchor image.
        plan_stamp_ns: When the newest plan in ``commanded`` started; 0: none.
    """

    anchor_ns: int
    context: Rgb
    motion: NDArray[np.float64]
    candidates: tuple[Candidate, ...]
    commanded: NDArray[np.float64] | None = None
    horizon: int | None = None
    seed: int | None = None
    goal: Rgb | None = None
    deadline_s: float | None = None
    decode_ids: tuple[int, ...] | None = ()
    keep_latents: bool = False
    keep_frame_costs: bool = False
    frame_id: str = ""
    plan_stamp_ns: int = 0

    def __post_init__(self) -> None:
        if self.context.ndim != 4 or self.context.dtype != np.uint8 or self.context.shape[3] != 3:
            raise InputError(f"Got context of {self.context.dtype} {list(self.context.shape)}, expected uint8 [K, H, W, 3].")
        if self.motion.ndim != 2 or len(self.motion) != len(self.context):
            raise InputError(
                f"Got motion of shape {list(self.motion.shape)} for {len(self.context)} context frames, expected [K, A]: up to the anchor."
            )
        if self.commanded is not None and (self.commanded.ndim != 2 or self.commanded.shape[1] != self.motion.shape[1]):
            raise InputError(f"Got commanded motion of shape {list(self.commanded.shape)}, expected [P, {self.motion.shape[1]}].")
        for label, shared in (("motion", self.motion), ("commanded motion", self.commanded)):
            if shared is not None and not np.isfinite(shared).all():
                raise InputError(f"Got {label} with NaN or infinity, expected finite numbers: all candidates would start from it.")
        if self.goal is not None and (self.goal.ndim != 3 or self.goal.dtype != np.uint8 or self.goal.shape[2] != 3):
            raise InputError(f"Got a goal image of {self.goal.dtype} {list(self.goal.shape)}, expected uint8 [H, W, 3].")
        if self.horizon is not None and self.horizon < 1:
            raise InputError(f"Got horizon {self.horizon}, expected at least 1 step.")
        if self.seed is not None and not 0 <= self.seed < 2**SEED_BITS:
            raise InputError(f"Got seed {self.seed}, expected 0 ... 2**{SEED_BITS} - 1.")
        ids = [candidate.id for candidate in self.candidates]
        if not ids:
            raise InputError("Got no candidates, expected at least one action sequence.")
        if len(set(ids)) != len(ids):
            raise InputError(f"Got candidate ids {sorted(other for other in set(ids) if ids.count(other) > 1)} twice, expected each once.")
        unknown = sorted(set(self.decode_ids or ()) - set(ids))
        if unknown:
            raise InputError(f"Got ids to decode {unknown} that no candidate has, expected some of the candidates' ids.")

    @property
    def branch(self) -> int:
        """P, steps from the anchor to where the candidates begin."""
        return 0 if self.commanded is None else len(self.commanded)


def branch_off(snapshot: Snapshot, candidates: tuple[Candidate, ...], after: int = 0, **options: Any) -> CandidateRequest:
    """A request that begins with what a snapshot knows.

    Args:
        snapshot: Images, and commands up to the branch.
        candidates: What may follow.
        after: Steps from the anchor to the branch, which the snapshot's own commands fill.
        options: Further fields of :class:`CandidateRequest`.

    Raises:
        InputError: the snapshot's commands do not reach the branch, or see :class:`CandidateRequest`.
    """
    if not 0 <= after <= snapshot.assumed_from:
        raise InputError(
            f"Got a branch after {after} steps, expected 0 ... {snapshot.assumed_from}: the steps that are commanded; "
            "begin the candidates earlier, or command the gap."
        )
    known = len(snapshot.context)
    return CandidateRequest(
        anchor_ns=snapshot.anchor_ns,
        context=snapshot.context,
        motion=snapshot.motion[:known],
        candidates=candidates,
        commanded=snapshot.motion[known : known + after],
        frame_id=snapshot.frame_id,
        plan_stamp_ns=snapshot.plan_stamp_ns if after else 0,
        **options,
    )


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What became of a candidate. All but the cost begins at the anchor, so the shared steps are in it.

    Args:
        id: The candidate's.
        cost: Lower is better; NaN: not evaluated.
        reason: Why not; else empty.
        chunks: The cut of the P + T steps, or as far as it came.
        experts: The expert that denoised each chunk.
        confidence: float32 [P + T]; NaN where unknown.
        frame_costs: float64 [T], of the frames after the branch; None: not evaluated, or not asked for.
        latents: float32 [P + T, C, h, w]; None: not evaluated, or not asked for.
    """

    id: int
    cost: float = float("nan")
    reason: str = ""
    chunks: tuple[Chunk, ...] = ()
    experts: tuple[int, ...] = ()
    confidence: Float32 = field(default_factory=lambda: np.empty(0, np.float32))
    frame_costs: NDArray[np.float64] | None = None
    latents: Float32 | None = None


@dataclass(frozen=True, slots=True)
class CandidateResult:
    """What became of a request.

    Args:
        anchor_ns: The request's.
        evaluations: One per candidate, in the order of the request.
        best: Index of the lowest cost, the first of equal ones; -1: none was evaluated.
        predictions: Candidate's id -> its frames from the anchor on, of those asked for that could be evaluated.
        branch: P, the shared steps at the beginning of each.
        seed: Of the noise.
        model_id: Bundle name and hash.
        chunks_denoised: Chunks that went through a denoiser; fewer than the futures have where they have some in common.
        batches: In how many batches.
        timings_ms: As those of a prediction, and ``cost``: milliseconds in the cost function.
    """

    anchor_ns: int
    evaluations: tuple[Evaluation, ...]
    best: int
    predictions: dict[int, Prediction]
    branch: int
    seed: int
    model_id: str
    chunks_denoised: int
    batches: int
    timings_ms: dict[str, float]

    @property
    def ids(self) -> tuple[int, ...]:
        """N ids, in the order of the request."""
        return tuple(evaluation.id for evaluation in self.evaluations)

    @property
    def costs(self) -> NDArray[np.float64]:
        """float64 [N]; NaN: not evaluated."""
        return np.array([evaluation.cost for evaluation in self.evaluations], np.float64)

    @property
    def reasons(self) -> tuple[str, ...]:
        """N texts, why a candidate was not evaluated; else empty."""
        return tuple(evaluation.reason for evaluation in self.evaluations)
