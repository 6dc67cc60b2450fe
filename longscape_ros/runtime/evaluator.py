# SPDX-License-Identifier: Apache-2.0
"""Which of several action sequences leads where it should: rolls all of them out, judges them, and decodes the best.

The images are encoded once. Where commands are already under way, they are rolled out once too, from the anchor to the moment at which
the candidates begin; there a chunk ends, whatever the rule says, and the candidates branch off. All futures go on in latents, in
batches (:mod:`longscape_ros.runtime.futures`), and are judged there (:mod:`longscape_ros.runtime.costs`); only what is asked for is
decoded. The noise is the same for all, so that what differs between them comes from their actions.

Letters: see :mod:`longscape_ros.runtime.candidates`; D action dimensions that move.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from longscape_ros.actions import STEPS_PER_SCALE
from longscape_ros.contract import Prediction, Status
from longscape_ros.errors import InputError
from longscape_ros.runtime.backend import Float32, Rgb
from longscape_ros.runtime.candidates import Candidate, CandidateRequest, CandidateResult, Evaluation
from longscape_ros.runtime.costs import Cost, Trajectory
from longscape_ros.runtime.futures import Future, Roller, State
from longscape_ros.runtime.predictor import Predictor, Stopwatch, clip, require_known, seed_of

FARTHEST = 1e9
"""Times a dimension's scale that a candidate may go; what lies beyond is a fault, and would overflow as the model's input."""

MOST_ON_CPU = 4
"""Rows in a batch on a CPU: more are hardly faster, and a deadline is only looked at between batches."""

MOST_ON_GPU = 64
"""Rows in a batch on a GPU."""

GPU_BACKENDS = frozenset({"tensorrt", "ort_tensorrt", "ort_cuda"})
"""The backends that get large batches; the others run on a CPU, or need not be fast."""


class CandidateEvaluator:
    """Evaluates candidates with a predictor's bundle, backend and chunk rule; for the predictor's thread.

    A candidate's future is what the predictor makes of the same actions with the same seed, but for the rounding of batches of
    another size. In 8-bit integers that is no longer little: activations have one scale for a whole batch. ``max_batch=1`` avoids it.

    Args:
        predictor: Whose model it is.
        cost: See :mod:`longscape_ros.runtime.costs`.
        max_batch: Most rows in a batch; None: :data:`MOST_ON_GPU` or :data:`MOST_ON_CPU`.

    Raises:
        InputError: ``max_batch`` is not positive, or the cost needs what the bundle cannot tell.
    """

    def __init__(self, predictor: Predictor, cost: Cost, max_batch: int | None = None) -> None:
        if max_batch is not None and max_batch < 1:
            raise InputError(f"Got max_batch {max_batch}, expected at least 1.")
        if "confidence" in cost.needs and predictor.bundle.manifest.confidence is None:
            raise InputError(
                f"Got a cost that needs the confidence, which bundle {predictor.model_id} cannot tell; "
                "train one with an error estimator, or leave that cost out."
            )
        self._predictor = predictor
        self._cost = cost
        self._max_batch = max_batch

    @property
    def max_batch(self) -> int:
        """Most rows in a batch."""
        return self._max_batch or (MOST_ON_GPU if self._predictor.backend.name in GPU_BACKENDS else MOST_ON_CPU)

    def evaluate(
        self,
        request: CandidateRequest,
        *,
        status: Status = Status.OK,
        should_stop: Callable[[], bool] | None = None,
        on_costs: Callable[[CandidateResult], None] | None = None,
    ) -> CandidateResult:
        """Roll all candidates out, and judge them.

        Args:
            request: What to evaluate.
            status: To report in the predictions; DEGRADED in the place of OK if a better backend should work here, and does not.
            should_stop: Asked between batches; True ends it, and nothing is decoded.
            on_costs: Gets the result as soon as the costs are known, before anything is decoded.

        Raises:
            InputError: the request does not fit the bundle, or the cost needs a goal and there is none.
            BackendError: a graph failed, and there is no other backend.
        """
        predictor = self._predictor
        _check(request, predictor, self._cost)

        def why_stop() -> str:
            if should_stop is not None and should_stop():
                return "it was asked to stop"
            late = request.deadline_s is not None and time.perf_counter() > request.deadline_s
            return "the deadline passed" if late else ""

        def costs() -> tuple[_Run, CandidateResult]:
            run = _Run(predictor, self._cost, request, self.max_batch)
            return run, run.result(run.roll(why_stop))

        run, result = predictor.serve(costs)
        if on_costs is not None:
            on_costs(result)
        wanted = _wanted(request, result)
        if not wanted or (should_stop is not None and should_stop()):
            return result
        frames = predictor.serve(lambda: run.decode(wanted))
        if predictor.degraded and status == Status.OK:
            status = Status.DEGRADED
        result = replace(result, timings_ms=run.timings_ms())
        return replace(result, predictions={result.ids[index]: run.prediction(result, index, frames[index], status) for index in wanted})


class _Run:
    """One request on its way: rolled out and judged on one backend; what is wanted is decoded on the one that is in use then."""

    def __init__(self, predictor: Predictor, cost: Cost, request: CandidateRequest, max_batch: int) -> None:
        self._clock = Stopwatch()
        self._cost_s = 0.0
        self._predictor = predictor
        self._backend = predictor.backend
        self._manifest = predictor.bundle.manifest
        self._cost = cost
        self._request = request
        self._seed = seed_of(predictor.model_id, request.anchor_ns) if request.seed is None else request.seed
        self._roller = Roller(self._backend, self._manifest, self._seed, max_batch, predictor.choose, self._clock)
        self._faults = [self._fault(candidate) for candidate in request.candidates]
        self._futures: dict[int, Future] = {}  # by the candidate's index
        self._batches: list[Float32] = []  # the roller's, on the host

    def timings_ms(self) -> dict[str, float]:
        """See :class:`CandidateResult`."""
        return self._clock.timings_ms() | {"cost": 1e3 * self._cost_s}

    def roll(self, why_stop: Callable[[], str]) -> str:
        """Roll out what can be used; why it was ended, empty: it was not."""
        usable = {index: self._request.candidates[index] for index, fault in enumerate(self._faults) if not fault}
        stopped = why_stop()
        if stopped or not usable:
            return stopped
        shared = self._shared(State(self._clock("encode", self._backend.encode, self._request.context)))
        stopped = self._roller.roll([shared], why_stop)
        if stopped:
            return stopped
        self._futures = {index: self._future(candidate, shared) for index, candidate in usable.items()}
        return self._roller.roll(list(self._futures.values()), why_stop)

    def result(self, stopped: str) -> CandidateResult:
        """The costs, and why there is none."""
        judged = self._judge([index for index, future in self._futures.items() if future.done])
        evaluations = tuple(
            judged[index] if index in judged else self._unfinished(index, stopped) for index in range(len(self._request.candidates))
        )
        costs = np.array([evaluation.cost for evaluation in evaluations])
        return CandidateResult(
            anchor_ns=self._request.anchor_ns,
            evaluations=evaluations,
            best=-1 if np.isnan(costs).all() else int(np.nanargmin(costs)),
            predictions={},
            branch=self._request.branch,
            seed=self._seed,
            model_id=self._predictor.model_id,
            chunks_denoised=self._roller.denoised,
            batches=len(self._roller.batches),
            timings_ms=self.timings_ms(),
        )

    def decode(self, indices: Sequence[int]) -> dict[int, Rgb]:
        """Frames uint8 [P + T, H, W, 3] of each candidate; what they have in common is decoded once."""
        pieces = {index: [(piece.batch, piece.row, piece.chunk.valid) for piece in self._futures[index].pieces] for index in indices}
        decoding = {}
        for batch, row, valid in dict.fromkeys(piece for own in pieces.values() for piece in own):
            latents = self._batches[batch][row, :valid]
            decoding[batch, row, valid] = self._clock("decode", self._predictor.backend.start_decoding, latents)
        frames = {piece: self._clock("decode", finish) for piece, finish in decoding.items()}
        return {index: np.concatenate([frames[piece] for piece in own]) for index, own in pieces.items()}

    def prediction(self, result: CandidateResult, index: int, frames: Rgb, status: Status) -> Prediction:
        """A candidate's frames, with all that is known of them."""
        evaluation = result.evaluations[index]
        return Prediction(
            anchor_ns=self._request.anchor_ns,
            fps=self._manifest.fps,
            frames=frames,
            chunks=evaluation.chunks,
            experts=evaluation.experts,
            assumed_from=min(self._futures[index].assumed_from, len(frames)),
            confidence=evaluation.confidence,
            seed=self._seed,
            model_id=self._predictor.model_id,
            status=status,
            plan_stamp_ns=self._request.plan_stamp_ns,
            timings_ms=result.timings_ms,
            frame_id=self._request.frame_id,
        )

    def _fault(self, candidate: Candidate) -> str:
        """Why a candidate cannot be used; empty: it can."""
        space = self._manifest.action_space
        motion = candidate.motion
        if motion.ndim != 2 or motion.shape[1] != len(space):
            return f"Got motion of shape {list(motion.shape)}, expected [M, {len(space)}] for the actions {list(space.names)}."
        if not len(motion):
            return "Got an action sequence without a step, expected at least one."
        if motion.dtype.kind not in "fiu" or not np.isfinite(motion).all():
            return f"Got motion of {motion.dtype}, or with NaN or infinity; expected finite numbers."
        if candidate.assumed_from is not None and candidate.assumed_from < 0:
            return f"Got assumed_from {candidate.assumed_from}, expected a step from 0 on, or None."
        far = np.abs(motion).max(axis=0) > [FARTHEST * dimension.scale for dimension in space.dimensions]
        if far.any():
            names = [name for name, is_far in zip(space.names, far, strict=True) if is_far]
            return f"Got motion of {names} beyond {FARTHEST:g} times what is usual, expected the bundle's units."
        return ""

    def _shared(self, state: State) -> Future:
        """What all candidates have in common: the commands from the anchor to the branch. There may be none."""
        request = self._request
        motion = _joined(request.motion, request.commanded)
        ruled = self._predictor.cut(motion[len(request.motion) - 1 :]) if request.branch else ()
        return Future(motion, ruled, steps=request.branch, assumed_from=request.branch, state=state)

    def _future(self, candidate: Candidate, shared: Future) -> Future:
        request, branch, own = self._request, self._request.branch, len(candidate.motion)
        motion = _joined(request.motion, request.commanded, candidate.motion)
        steps = branch + min(self._manifest.horizon if request.horizon is None else request.horizon, own)
        cut = self._predictor.cut(motion[len(request.motion) - 1 + branch :])
        ruled = clip(tuple(replace(chunk, start=chunk.start + branch) for chunk in cut), steps)
        assumed_from = branch + (own if candidate.assumed_from is None else candidate.assumed_from)
        return Future(motion, ruled, steps, assumed_from, shared.state, list(shared.pieces))

    def _judge(self, indices: Sequence[int]) -> dict[int, Evaluation]:
        """The evaluations of candidates whose futures are done."""
        if not indices:
            return {}
        request, branch = self._request, self._request.branch
        goal = None if request.goal is None else self._clock("encode", self._backend.encode, request.goal[None])
        for batch in self._roller.batches:
            self._batches.append(self._clock("denoise", self._backend.fetch, batch))  # waits for what still runs
        latents = [
            np.concatenate([self._batches[piece.batch][piece.row, : piece.chunk.valid] for piece in self._futures[index].pieces])
            for index in indices
        ]
        goal_latents = None if goal is None else self._backend.fetch(goal)[0]
        confidences = [self._confidence(self._futures[index]) for index in indices]
        trajectories = [
            Trajectory(own[branch:], self._travel(self._futures[index]), confidence[branch:], goal_latents)
            for index, own, confidence in zip(indices, latents, confidences, strict=True)
        ]
        begin = time.perf_counter()
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows gets a reason
            costs = self._cost(trajectories)
            frame_costs = [self._cost.per_frame(trajectory) if request.keep_frame_costs else None for trajectory in trajectories]
        self._cost_s += time.perf_counter() - begin
        if costs.shape != (len(indices),):
            raise InputError(f"Got costs of shape {list(costs.shape)} for {len(indices)} futures, expected one each; correct the cost.")
        evaluations = {}
        for index, own, confidence, cost, frame_cost in zip(indices, latents, confidences, costs.tolist(), frame_costs, strict=True):
            finite = bool(np.isfinite(cost))
            evaluations[index] = replace(
                self._evaluation(index, confidence),
                cost=cost if finite else float("nan"),
                reason="" if finite else f"Found the cost {cost}, expected a finite number: the prediction or the cost overflowed.",
                frame_costs=frame_cost,
                latents=own if request.keep_latents else None,
            )
        return evaluations

    def _unfinished(self, index: int, stopped: str) -> Evaluation:
        """Of a candidate that is unusable, or that there was no time for."""
        candidate, fault = self._request.candidates[index], self._faults[index]
        if fault:
            return Evaluation(candidate.id, reason=fault)
        if index not in self._futures:
            return Evaluation(candidate.id, reason=f"Not evaluated: {stopped} before the candidates began.")
        future, branch = self._futures[index], self._request.branch
        reason = f"Not evaluated: {stopped} after {future.state.step - branch} of {future.steps - branch} steps."
        return replace(self._evaluation(index, self._confidence(future)), reason=reason)

    def _evaluation(self, index: int, confidence: Float32) -> Evaluation:
        """What is known of a future but its cost."""
        pieces = self._futures[index].pieces
        chunks, experts = tuple(piece.chunk for piece in pieces), tuple(piece.expert for piece in pieces)
        return Evaluation(self._request.candidates[index].id, chunks=chunks, experts=experts, confidence=confidence)

    def _travel(self, future: Future) -> NDArray[np.float64]:
        """float64 [K - 1 + P + T, D], see :class:`Trajectory`."""
        dimensions = self._manifest.action_space.dimensions
        moving = [a for a, d in enumerate(dimensions) if d.moves]
        scales = np.array([dimensions[a].scale / STEPS_PER_SCALE for a in moving])
        return np.asarray(np.diff(future.motion[: self._manifest.context + future.steps, moving], axis=0) / scales)

    def _confidence(self, future: Future) -> Float32:
        confidence = self._manifest.confidence
        log_error = np.concatenate([np.empty(0, np.float32), *(piece.log_error[: piece.chunk.valid] for piece in future.pieces)])
        return log_error if confidence is None else confidence.of(log_error)


def _check(request: CandidateRequest, predictor: Predictor, cost: Cost) -> None:
    """Refuse a request that does not fit the bundle or the cost."""
    require_known(predictor.bundle, request.context, request.motion)
    size = request.context.shape[1:]
    if request.goal is not None and request.goal.shape != size:
        raise InputError(f"Got a goal image {list(request.goal.shape)}, expected {list(size)} like the context; resize it.")
    if "goal" in cost.needs and request.goal is None:
        raise InputError("Got no goal image, expected one, because the cost is a distance to it; give one, or use another cost.")


def _wanted(request: CandidateRequest, result: CandidateResult) -> list[int]:
    """Indices of the candidates to decode."""
    if request.decode_ids is None:
        return []
    if not request.decode_ids:
        return [result.best] if result.best >= 0 else []
    return [index for index, evaluation in enumerate(result.evaluations) if evaluation.id in request.decode_ids and not evaluation.reason]


def _joined(*parts: NDArray[np.float64] | None) -> NDArray[np.float64]:
    return np.concatenate([np.asarray(part, np.float64) for part in parts if part is not None])
