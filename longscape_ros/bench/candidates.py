# SPDX-License-Identifier: Apache-2.0
"""What a planner's question costs: several candidates rolled out and judged in latents, beside one that is predicted and decoded."""

from __future__ import annotations

from longscape_ros.bench import inputs
from longscape_ros.bench.timing import Ratio, Spread, in_turns, timed
from longscape_ros.runtime.candidates import Candidate, branch_off
from longscape_ros.runtime.costs import GoalDistance
from longscape_ros.runtime.evaluator import CandidateEvaluator
from longscape_ros.runtime.predictor import Predictor

COUNT = 8
FUTURE = 32
"""Frames of each."""


def time_candidates(predictor: Predictor, seconds: float, counts: tuple[int, ...] = (COUNT,)) -> dict[str, float]:
    """Time both in turns.

    The candidates all differ, and none begins like another; they share the images alone.

    Args:
        predictor: Warm.
        seconds: For all.
        counts: Numbers of candidates, :data:`COUNT` among them.

    Returns:
        ``candidates<N>_ms_p50``, ``_p95``, ``_n``; ``one_decoded_ms_p50`` ...; ``candidates8_over_one_decoded`` with its interval.
    """
    bundle = predictor.bundle
    one = inputs.snapshot(bundle, FUTURE)
    evaluator = CandidateEvaluator(predictor, GoalDistance())
    runs = {"one_decoded": timed(lambda: predictor.predict(one, horizon=FUTURE))}
    for count in counts:
        motions = inputs.candidate_motions(bundle.manifest, count, FUTURE)
        candidates = tuple(Candidate(index, motion) for index, motion in enumerate(motions))
        request = branch_off(one, candidates, goal=one.context[0], horizon=FUTURE, decode_ids=None)
        runs[f"candidates{count}"] = timed(lambda request=request: evaluator.evaluate(request))  # type: ignore[misc]
    times = in_turns(runs, seconds)
    figures: dict[str, float] = {}
    for name, own in times.items():
        figures |= Spread.of(own).figures(f"{name}_ms")
    return figures | Ratio.of(times[f"candidates{COUNT}"], times["one_decoded"]).figures(f"candidates{COUNT}_over_one_decoded")
