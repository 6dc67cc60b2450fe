# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.snapshots import make_snapshot
from support.tiny_bundle import MANIFEST, write_tiny_bundle
from support.watched import Watched

from longscape_ros.actions import STEPS_PER_SCALE, encode_actions
from longscape_ros.bundle import Bundle, Experts, Routing, default_bundle_path, load_bundle
from longscape_ros.contract import NO_ERROR, Chunk, Confidence, EndReason, Snapshot, Status
from longscape_ros.errors import BackendError, InputError
from longscape_ros.runtime import evaluator as evaluator_module
from longscape_ros.runtime.backends import create_backend
from longscape_ros.runtime.candidates import Candidate, CandidateRequest, CandidateResult, branch_off
from longscape_ros.runtime.costs import Cost, ErrorPenalty, Float64, GoalDistance, MotionPenalty, Need, Trajectory, WeightedSum
from longscape_ros.runtime.evaluator import MOST_ON_CPU, MOST_ON_GPU, CandidateEvaluator
from longscape_ros.runtime.predictor import GRAPH_STAGES, Predictor, noise_of
from longscape_ros.runtime.slot import BackendSlot, Opened
from longscape_ros.segmentation import expert_for, segment

K = MANIFEST.context
LENGTHS = (48, 20, 33, 8, 1, 40)
TOLERANCE = 1e-4

Values = list[float]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """Of a bundle whose experts are chosen by length."""
    bundle = write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")
    return Predictor(bundle, create_backend(bundle, "ort_cpu", threads=1))


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """Of a bundle that has all graphs."""
    bundle = write_tiny_bundle(
        tmp_path_factory.mktemp("bundles") / "learned",
        experts=Experts(4, Routing("learned", 16)),
        confidence=Confidence(psnr_db=25.0, slope=-1.0, offset=-6.0),
        length_predictor=True,
    )
    return Predictor(bundle, create_backend(bundle, "ort_cpu", threads=1))


@pytest.fixture(params=["plain", "learned"])
def predictor(request: pytest.FixtureRequest) -> Predictor:
    found: Predictor = request.getfixturevalue(request.param)
    return found


def motion_of(seed: int, steps: int, first: int = 1) -> Float64:
    """Motion of the tiny bundle from step ``first`` on: at some speed along x, waving in y, the gripper closes at some time."""
    random = np.random.default_rng(seed)
    at = np.arange(first, first + steps)
    speed, wave, closes = random.uniform(0, 0.04), random.uniform(0, 0.2), random.integers(1, 60)
    return np.stack([speed * at, wave * np.sin(at / 10), (at >= closes).astype(float)], axis=1)


def request_of(motions: Sequence[Float64], **changes: Any) -> CandidateRequest:
    """A request from the snapshots' images, with ids 100, 101 ..."""
    snapshot = make_snapshot()
    candidates = tuple(Candidate(100 + index, motion) for index, motion in enumerate(motions))
    request = branch_off(snapshot, candidates, horizon=48, seed=5, goal=goal_image(), decode_ids=None, keep_latents=True)
    return replace(request, **changes)


def goal_image() -> Any:
    return np.random.default_rng(9).integers(0, 256, (*MANIFEST.image_size, 3), np.uint8)


def snapshot_of(request: CandidateRequest, candidate: Candidate) -> Snapshot:
    """What a predictor is to be asked for the same future, where nothing is shared."""
    steps = len(candidate.motion)
    assumed_from = steps if candidate.assumed_from is None else candidate.assumed_from
    return Snapshot(request.anchor_ns, request.context, np.concatenate([request.motion, candidate.motion]), assumed_from)


def watched(predictor: Predictor, **options: Any) -> tuple[Predictor, Watched]:
    backend: Any = Watched(predictor.backend)
    return Predictor(predictor.bundle, backend, **options), backend


def eights(motion: Float64) -> tuple[Chunk, ...]:
    """A cut into chunks of eight steps."""
    return tuple(Chunk(start, 8, min(8, len(motion) - 1 - start), EndReason.MAX_LENGTH) for start in range(0, len(motion) - 1, 8))


def rows_denoised(backend: Watched) -> list[int]:
    return [len(inputs[1]) for inputs, _ in backend.of("denoise")]


def assert_same_futures(first: CandidateResult, second: CandidateResult) -> None:
    """The same candidates, whatever their order."""
    by_id = {evaluation.id: evaluation for evaluation in second.evaluations}
    for one in first.evaluations:
        other = by_id[one.id]
        assert (one.chunks, one.experts, one.reason) == (other.chunks, other.experts, other.reason)
        np.testing.assert_allclose(one.cost, other.cost, atol=TOLERANCE)
        np.testing.assert_allclose(one.confidence, other.confidence, atol=TOLERANCE)
        np.testing.assert_allclose(one.latents, other.latents, atol=TOLERANCE)


class CostOf:
    """A cost that a test makes up: of all futures at once."""

    needs: frozenset[Need] = frozenset()

    def __init__(self, function: Any) -> None:
        self._function = function

    def per_frame(self, trajectory: Trajectory) -> Float64:
        return np.full(len(trajectory.latents), 7.0)

    def __call__(self, trajectories: Sequence[Trajectory]) -> Float64:
        return np.asarray(self._function(trajectories), np.float64)


BY_NUMBER: Cost = CostOf(lambda trajectories: np.arange(len(trajectories)))


# ---- a candidate's future is the predictor's ----


@pytest.mark.parametrize("max_batch", [1, 3, 64])
def test_a_candidates_future_is_what_the_predictor_makes_of_the_same_actions(predictor: Predictor, max_batch: int) -> None:
    request = request_of([motion_of(index, steps) for index, steps in enumerate(LENGTHS)])
    result = CandidateEvaluator(predictor, GoalDistance(), max_batch).evaluate(request)
    assert len({evaluation.chunks for evaluation in result.evaluations}) > 3
    for candidate, evaluation in zip(request.candidates, result.evaluations, strict=True):
        rollout = predictor.roll_out(snapshot_of(request, candidate), horizon=48, seed=5)
        assert (evaluation.id, evaluation.chunks, evaluation.experts) == (candidate.id, rollout.chunks, rollout.experts)
        np.testing.assert_allclose(evaluation.latents, rollout.latents, atol=TOLERANCE)
        np.testing.assert_allclose(evaluation.confidence, rollout.confidence, atol=TOLERANCE)
        assert evaluation.confidence.dtype == np.float32


@settings(max_examples=20, deadline=None)
@given(
    seeds=st.lists(st.integers(0, 20), min_size=1, max_size=9),
    horizon=st.integers(1, 50),
    max_batch=st.integers(1, 5),
    steps=st.integers(1, 50),
)
def test_whatever_is_batched_with_whatever_the_futures_are_the_predictors(
    learned: Predictor, seeds: list[int], horizon: int, max_batch: int, steps: int
) -> None:
    request = request_of([motion_of(seed, 1 + (steps * seed) % 50) for seed in seeds], horizon=horizon)
    result = CandidateEvaluator(learned, GoalDistance(), max_batch).evaluate(request)
    for candidate, evaluation in zip(request.candidates, result.evaluations, strict=True):
        rollout = learned.roll_out(snapshot_of(request, candidate), horizon=horizon, seed=5)
        assert (evaluation.chunks, evaluation.experts) == (rollout.chunks, rollout.experts)
        np.testing.assert_allclose(evaluation.latents, rollout.latents, atol=TOLERANCE)


def test_with_the_bundle_that_ships_too() -> None:
    bundle = load_bundle(default_bundle_path(), verify=False)
    manifest = bundle.manifest
    predictor = Predictor(bundle, create_backend(bundle, "ort_cpu", threads=1, precision="fp32"))
    random = np.random.default_rng(0)
    context = random.integers(0, 256, (manifest.context, *manifest.image_size, 3), np.uint8)
    past = np.zeros((manifest.context, len(manifest.action_space)))
    steps = np.arange(1, 25)[:, None] / 32
    scales = np.array([dimension.scale for dimension in manifest.action_space.dimensions])
    motions = [steps * scales * random.uniform(-2, 2, len(scales)) for _ in range(4)]
    request = CandidateRequest(
        1, context, past, tuple(Candidate(index, motion) for index, motion in enumerate(motions)), goal=context[0], keep_latents=True
    )
    result = CandidateEvaluator(predictor, GoalDistance()).evaluate(request)
    for candidate, evaluation in zip(request.candidates, result.evaluations, strict=True):
        rollout = predictor.roll_out(snapshot_of(request, candidate))
        assert evaluation.chunks == rollout.chunks
        np.testing.assert_allclose(evaluation.latents, rollout.latents, atol=TOLERANCE)
    assert result.best == result.costs.argmin()
    predictor.backend.close()


def test_neither_the_others_nor_the_order_matter(predictor: Predictor) -> None:
    request = request_of([motion_of(index, steps) for index, steps in enumerate(LENGTHS)])
    evaluator = CandidateEvaluator(predictor, GoalDistance(), max_batch=2)
    whole = evaluator.evaluate(request)
    assert_same_futures(evaluator.evaluate(replace(request, candidates=request.candidates[::-1])), whole)
    for candidate in request.candidates:
        assert_same_futures(evaluator.evaluate(replace(request, candidates=(candidate,))), whole)


def test_equal_requests_give_equal_bits(predictor: Predictor) -> None:
    request = request_of([motion_of(index, 40) for index in range(5)])
    first, second = (CandidateEvaluator(predictor, GoalDistance(), 2).evaluate(request) for _ in range(2))
    assert first.costs.tobytes() == second.costs.tobytes()
    for one, other in zip(first.evaluations, second.evaluations, strict=True):
        np.testing.assert_array_equal(one.latents, other.latents)


def test_where_actions_are_assumed_each_candidate_gets_the_lengths_that_the_predictor_gives_it(learned: Predictor) -> None:
    request = request_of([motion_of(index, 48) for index in range(6)])
    assumed = [0, 9, 16, 20, 47, None]
    candidates = tuple(replace(c, assumed_from=step) for c, step in zip(request.candidates, assumed, strict=True))
    request = replace(request, candidates=candidates, decode_ids=(100, 103, 105))
    result = CandidateEvaluator(learned, GoalDistance(), max_batch=3).evaluate(request)
    for candidate, evaluation in zip(candidates, result.evaluations, strict=True):
        rollout = learned.roll_out(snapshot_of(request, candidate), horizon=48, seed=5)
        assert (evaluation.chunks, evaluation.experts) == (rollout.chunks, rollout.experts)
        np.testing.assert_allclose(evaluation.latents, rollout.latents, atol=TOLERANCE)
    assert [result.predictions[index].assumed_from for index in (100, 103, 105)] == [0, 20, 48]


def test_the_horizon_is_the_bundles_or_the_requests_and_short_candidates_stay_short(plain: Predictor) -> None:
    evaluator = CandidateEvaluator(plain, GoalDistance())
    request = request_of([motion_of(0, 48), motion_of(1, 20)], keep_frame_costs=True)
    for horizon, expected in ((None, [MANIFEST.horizon, 20]), (48, [48, 20]), (5, [5, 5])):
        result = evaluator.evaluate(replace(request, horizon=horizon))
        assert [len(evaluation.latents) for evaluation in result.evaluations] == expected  # type: ignore[arg-type]
        assert [len(evaluation.frame_costs) for evaluation in result.evaluations] == expected  # type: ignore[arg-type]


def test_the_seed_is_the_predictors_unless_it_is_given(plain: Predictor) -> None:
    evaluator = CandidateEvaluator(plain, GoalDistance())
    request = request_of([motion_of(0, 20)], seed=None)
    rollout = plain.roll_out(snapshot_of(request, request.candidates[0]), horizon=48)
    result = evaluator.evaluate(request)
    assert result.seed == rollout.seed
    np.testing.assert_allclose(result.evaluations[0].latents, rollout.latents, atol=TOLERANCE)
    assert evaluator.evaluate(replace(request, seed=2**64 - 1)).seed == 2**64 - 1


def test_another_cut_and_another_choice_of_the_predictors_hold_for_candidates_too(learned: Predictor) -> None:
    def by_chance(length: int, noise: np.random.Generator) -> int:
        return int(noise.integers(4))

    predictor = Predictor(learned.bundle, learned.backend, cut=eights, choose=by_chance)
    request = request_of([motion_of(index, 36) for index in range(3)])
    result = CandidateEvaluator(predictor, GoalDistance()).evaluate(request)
    for candidate, evaluation in zip(request.candidates, result.evaluations, strict=True):
        rollout = predictor.roll_out(snapshot_of(request, candidate), horizon=48, seed=5)
        assert [chunk.length for chunk in evaluation.chunks] == [8] * 5
        assert evaluation.experts == rollout.experts
        np.testing.assert_allclose(evaluation.latents, rollout.latents, atol=TOLERANCE)


# ---- batches ----


def test_chunks_of_equal_length_and_expert_share_a_batch_and_the_images_are_encoded_once(predictor: Predictor) -> None:
    watching, backend = watched(predictor)
    straight = np.zeros((16, 3))
    motions = [straight + 1e-4 * index * np.arange(1, 17)[:, None] * [1, 0, 0] for index in range(7)]
    CandidateEvaluator(watching, GoalDistance(), max_batch=64).evaluate(request_of(motions))
    assert [len(inputs[0]) for inputs, _ in backend.of("encode")] == [K, 1]  # the context, and the goal
    batches = backend.of("denoise")
    assert sum(rows_denoised(backend)) == 7
    assert len(batches) == len({inputs[0] for inputs, _ in batches})  # one per expert
    for _, context, _, noise in (inputs for inputs, _ in batches):
        for row in range(1, len(context)):
            np.testing.assert_array_equal(context[row], context[0])
            np.testing.assert_array_equal(noise[row], noise[0])  # differences come from the actions


@pytest.mark.parametrize("most", [1, 2, 5])
def test_no_graph_gets_a_larger_batch_than_allowed(learned: Predictor, most: int) -> None:
    predictor, backend = watched(learned)
    request = request_of([motion_of(index, 48) for index in range(12)])
    candidates = tuple(replace(c, assumed_from=10) for c in request.candidates)
    result = CandidateEvaluator(predictor, GoalDistance(), most).evaluate(replace(request, candidates=candidates))
    for graph, argument in (("denoise", 1), ("route", 0), ("predict_length", 0), ("estimate_error", 0)):
        sizes = [len(inputs[argument]) for inputs, _ in backend.of(graph)]
        assert max(sizes) == most
    assert result.batches == len(backend.of("denoise"))
    assert result.chunks_denoised == sum(rows_denoised(backend)) == sum(len(e.chunks) for e in result.evaluations)


def test_the_batch_is_small_on_a_cpu_and_large_on_a_gpu_unless_it_is_given(plain: Predictor) -> None:
    assert CandidateEvaluator(plain, GoalDistance()).max_batch == MOST_ON_CPU
    assert CandidateEvaluator(plain, GoalDistance(), 7).max_batch == 7
    on_gpu = Predictor(plain.bundle, SimpleNamespace(name="tensorrt"))  # type: ignore[arg-type]
    assert CandidateEvaluator(on_gpu, GoalDistance()).max_batch == MOST_ON_GPU


# ---- what is equal is computed once ----


def test_equal_candidates_are_rolled_out_once_and_get_equal_futures(predictor: Predictor) -> None:
    watching, backend = watched(predictor)
    motion = motion_of(1, 40)
    result = CandidateEvaluator(watching, GoalDistance(), 3).evaluate(request_of([motion, motion.copy(), motion.copy()]))
    assert sum(rows_denoised(backend)) == len(result.evaluations[0].chunks) == result.chunks_denoised
    assert len(set(result.costs)) == 1
    assert len(backend.of("route")) == (result.chunks_denoised if predictor.bundle.manifest.experts.routing.kind == "learned" else 0)
    assert max((len(inputs[0]) for inputs, _ in backend.of("route")), default=1) == 1
    np.testing.assert_array_equal(result.evaluations[0].latents, result.evaluations[2].latents)
    assert result.best == 0


def test_a_common_beginning_is_computed_once_and_what_follows_is_not(plain: Predictor) -> None:
    begin = np.stack([0.005 * np.arange(1, 33), np.zeros(32), np.zeros(32)], axis=1)  # too slow to end a chunk before 32 steps
    ways = [begin[-1] + 0.001 * np.outer(np.arange(1, 9), [way, 1.0, 0.0]) for way in (-1.0, 0.0, 1.0, 1.0)]
    request = request_of([np.concatenate([begin, way]) for way in ways])
    predictor, backend = watched(plain)
    result = CandidateEvaluator(predictor, GoalDistance(), 64).evaluate(request)
    assert [[chunk.length for chunk in evaluation.chunks] for evaluation in result.evaluations] == [[32, 8]] * 4
    assert rows_denoised(backend) == [1, 3]  # two of the ways are the same
    assert len(np.unique(result.costs)) == 3
    for candidate, evaluation in zip(request.candidates, result.evaluations, strict=True):
        rollout = plain.roll_out(snapshot_of(request, candidate), horizon=48, seed=5)
        np.testing.assert_allclose(evaluation.latents, rollout.latents, atol=TOLERANCE)


def test_a_common_beginning_is_shared_only_where_the_router_sends_it_to_the_same_expert(learned: Predictor) -> None:
    predictor = Predictor(learned.bundle, learned.backend, cut=eights)
    request = request_of([np.repeat([[0.0, 0.0, 0.0], [step, -step, 1.0]], 8, axis=0) for step in np.linspace(-3, 3, 9)], horizon=8)
    result = CandidateEvaluator(predictor, GoalDistance(), 64).evaluate(request)
    for candidate, evaluation in zip(request.candidates, result.evaluations, strict=True):
        rollout = predictor.roll_out(snapshot_of(request, candidate), horizon=8, seed=5)
        assert evaluation.experts == rollout.experts
        np.testing.assert_allclose(evaluation.latents, rollout.latents, atol=TOLERANCE)
    experts = {evaluation.experts for evaluation in result.evaluations}
    assert 1 < len(experts) == result.chunks_denoised  # the router sees steps beyond the chunk; the denoiser does not


def test_candidates_that_end_inside_a_common_chunk_keep_their_part_of_it(plain: Predictor) -> None:
    rest = np.zeros((12, 3))
    request = request_of([rest[:9], rest, rest[:12], rest[:16]], keep_frame_costs=True)
    predictor, backend = watched(plain)
    result = CandidateEvaluator(predictor, GoalDistance(), 64).evaluate(request)
    assert rows_denoised(backend) == [1]
    assert [len(evaluation.latents) for evaluation in result.evaluations] == [9, 12, 12, 12]  # type: ignore[arg-type]
    np.testing.assert_array_equal(result.evaluations[0].latents, result.evaluations[1].latents[:9])  # type: ignore[index]
    assert result.costs[0] == result.evaluations[1].frame_costs[8]  # type: ignore[index]


# ---- commands that are under way ----


def reference(bundle: Bundle, backend: Any, request: CandidateRequest, motion: Float64) -> tuple[Any, Any, list[int], list[int]]:
    """Latents, confidence, chunk starts and experts by the letter: the commands' chunks, then the candidate's, one after the other."""
    manifest = bundle.manifest
    commanded = np.concatenate([request.motion, request.commanded])  # type: ignore[list-item]
    whole = np.concatenate([commanded, motion])
    branch = request.branch
    parts = [(0, commanded, segment(commanded[K - 1 :], manifest.action_space, manifest.segmentation))]
    parts.append((branch, whole, segment(whole[K - 1 + branch :], manifest.action_space, manifest.segmentation)))
    context, error, index = backend.encode(request.context), NO_ERROR, 0
    latents, log_errors, starts, experts = [], [], [], []
    for origin, known, chunks in parts:
        padded = np.concatenate([known, known[-1:].repeat(64, axis=0)])
        for chunk in chunks:
            start = origin + chunk.start
            coming = encode_actions(padded[start : start + K + manifest.experts.routing.lookahead], K - 1, manifest.action_space)
            routed = manifest.experts.routing.kind == "learned"
            expert = (
                int(backend.route(context[None], coming[None])[0].argmax()) if routed else expert_for(chunk.length, manifest.segmentation)
            )
            actions = encode_actions(padded[start : start + K + chunk.length], K - 1, manifest.action_space)[None]
            noise = noise_of(5, index).standard_normal((1, chunk.length, *manifest.latent_shape), np.float32)
            out = backend.denoise(expert, context[None], actions, noise)
            if manifest.confidence is not None:
                log_error = backend.estimate_error(context[None], actions, out, np.array([error], np.float32))[0, : chunk.valid]
                log_errors.append(log_error)
                error = log_error[-1]
            latents.append(out[0, : chunk.valid])
            starts.append(start)
            experts.append(expert)
            context = np.concatenate([context, latents[-1]])[-K:]
            index += 1
    confidence = manifest.confidence.of(np.concatenate(log_errors)) if manifest.confidence else np.full(len(whole) - K, np.nan)
    return np.concatenate(latents), confidence, starts, experts


@pytest.mark.parametrize("branch", [1, 5, 8, 19, 40])
def test_shared_commands_are_rolled_out_once_and_the_candidates_branch_off_where_they_end(predictor: Predictor, branch: int) -> None:
    watching, backend = watched(predictor)
    snapshot = make_snapshot(steps=48)
    end = snapshot.motion[K + branch - 1]
    candidates = tuple(Candidate(index, end + motion_of(index, 30) - [0, 0, end[2]]) for index in range(4))
    request = branch_off(snapshot, candidates, after=branch, seed=5, goal=goal_image(), decode_ids=None, keep_latents=True)
    result = CandidateEvaluator(watching, GoalDistance(), 64).evaluate(request)
    shared = len(segment(snapshot.motion[K - 1 : K + branch], MANIFEST.action_space, MANIFEST.segmentation))
    assert result.branch == branch
    assert rows_denoised(backend)[:shared] == [1] * shared
    assert result.chunks_denoised == shared + sum(len(evaluation.chunks) - shared for evaluation in result.evaluations)
    for candidate, evaluation in zip(candidates, result.evaluations, strict=True):
        latents, confidence, starts, experts = reference(predictor.bundle, predictor.backend, request, candidate.motion)
        assert len(latents) == branch + 30
        assert [chunk.start for chunk in evaluation.chunks] == starts
        assert list(evaluation.experts) == experts
        np.testing.assert_allclose(evaluation.latents, latents, atol=TOLERANCE)
        np.testing.assert_allclose(evaluation.confidence, confidence, atol=TOLERANCE)


def test_costs_are_of_the_frames_after_the_branch_and_of_the_steps_up_to_it(learned: Predictor) -> None:
    seen: list[Trajectory] = []

    def remember(trajectories: Sequence[Trajectory]) -> list[float]:
        seen.extend(trajectories)
        return [0.0] * len(trajectories)

    motion = motion_of(3, 20, first=14)
    request = request_of([motion], commanded=motion_of(3, 13), keep_frame_costs=True)
    (evaluation,) = CandidateEvaluator(learned, CostOf(remember)).evaluate(request).evaluations
    np.testing.assert_array_equal(seen[0].latents, evaluation.latents[13:])  # type: ignore[index]
    np.testing.assert_array_equal(seen[0].confidence, evaluation.confidence[13:])
    whole = np.concatenate([request.motion, motion_of(3, 33)])
    scales = np.array([dimension.scale for dimension in MANIFEST.action_space.dimensions[:2]])
    np.testing.assert_allclose(seen[0].travel, np.diff(whole[:, :2], axis=0) / scales * STEPS_PER_SCALE)
    assert evaluation.frame_costs is not None
    assert evaluation.frame_costs.tolist() == [7.0] * 20


def test_a_prediction_of_a_candidate_begins_at_the_anchor(plain: Predictor) -> None:
    snapshot = make_snapshot(steps=48)
    candidates = tuple(Candidate(index, snapshot.motion[K + 9] + motion_of(index, 20)) for index in range(2))
    request = branch_off(snapshot, candidates, after=10, decode_ids=(0, 1), goal=goal_image(), keep_latents=True)
    predictor, backend = watched(plain)
    result = CandidateEvaluator(predictor, GoalDistance()).evaluate(request)
    for index in (0, 1):
        prediction = result.predictions[index]
        assert prediction.frames.shape == (30, *MANIFEST.image_size, 3)
        assert (prediction.anchor_ns, prediction.frame_id, prediction.plan_stamp_ns) == (snapshot.anchor_ns, "camera", 7)
        assert sum(chunk.valid for chunk in prediction.chunks) == 30
        frames = plain.backend.start_decoding(result.evaluations[index].latents)()
        assert np.abs(prediction.frames.astype(int) - frames.astype(int)).max() <= 1
    decoded = sum(len(inputs[0]) for inputs, _ in backend.of("start_decoding"))
    assert decoded == 10 + 2 * 20  # what they share is decoded once


def test_a_branch_beyond_what_is_commanded_is_refused() -> None:
    snapshot = replace(make_snapshot(steps=48), assumed_from=12)
    assert branch_off(snapshot, (Candidate(0, motion_of(0, 5)),), after=12).branch == 12
    assert branch_off(snapshot, (Candidate(0, motion_of(0, 5)),)).plan_stamp_ns == 0  # nothing of the plan is in it
    with pytest.raises(InputError, match=r"Got a branch after 13 steps, expected 0 \.\.\. 12"):
        branch_off(snapshot, (Candidate(0, motion_of(0, 5)),), after=13)


# ---- deadline and stopping ----


def test_what_is_not_done_when_it_is_stopped_has_no_cost_but_a_reason(learned: Predictor) -> None:
    predictor, backend = watched(learned)
    request = request_of([motion_of(index, 40) for index in range(8)], decode_ids=())
    evaluator = CandidateEvaluator(predictor, GoalDistance(), max_batch=2)
    whole = evaluator.evaluate(request)
    backend.calls.clear()
    stopped = evaluator.evaluate(request, should_stop=lambda: len(backend.of("denoise")) >= 8)
    assert len(backend.of("denoise")) == 8
    assert not backend.of("start_decoding")
    assert not stopped.predictions
    done = np.isfinite(stopped.costs)
    assert 0 < done.sum() < 8
    assert done[0]  # the first are finished first
    np.testing.assert_allclose(stopped.costs[done], whole.costs[done], atol=TOLERANCE)
    assert stopped.best == np.nanargmin(stopped.costs)
    for evaluation, is_done in zip(stopped.evaluations, done, strict=True):
        assert bool(evaluation.reason) != is_done
        if not is_done:
            frames = sum(chunk.valid for chunk in evaluation.chunks)
            assert evaluation.reason == f"Not evaluated: it was asked to stop after {frames} of 40 steps."
            assert len(evaluation.confidence) == frames
            assert evaluation.latents is None


@pytest.mark.parametrize("first", range(6))
@pytest.mark.parametrize("max_batch", [1, 3, 64])
def test_the_first_candidate_is_done_after_as_many_batches_as_it_has_chunks(plain: Predictor, max_batch: int, first: int) -> None:
    motions = [motion_of(index, 40) for index in range(6)]
    predictor, backend = watched(plain)
    request = request_of(motions[first:] + motions[:first])
    chunks = len(plain.predict(snapshot_of(request, request.candidates[0]), horizon=48).chunks)
    evaluator = CandidateEvaluator(predictor, GoalDistance(), max_batch)
    stopped = evaluator.evaluate(request, should_stop=lambda: len(backend.of("denoise")) >= chunks)
    assert np.isfinite(stopped.costs[0])


def test_a_deadline_is_looked_at_before_every_batch(plain: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor, backend = watched(plain)
    monkeypatch.setattr(evaluator_module, "time", SimpleNamespace(perf_counter=lambda: float(len(backend.of("denoise")))))
    request = request_of([motion_of(index, 40) for index in range(5)], deadline_s=5.5, decode_ids=())
    result = CandidateEvaluator(predictor, GoalDistance(), max_batch=1).evaluate(request)
    assert len(backend.of("denoise")) == 6
    missing = np.isnan(result.costs)
    assert 0 < missing.sum() < 5
    assert all("the deadline passed after" in reason for reason in np.array(result.reasons)[missing])
    assert set(result.predictions) == {result.ids[result.best]}  # the deadline is the costs', not the video's


def test_after_the_deadline_nothing_is_computed(plain: Predictor) -> None:
    predictor, backend = watched(plain)
    for commanded in (None, motion_of(0, 5)):
        request = request_of([motion_of(index, 40) for index in range(3)], deadline_s=0.0, decode_ids=(), commanded=commanded)
        result = CandidateEvaluator(predictor, GoalDistance()).evaluate(request)
        assert result.best == -1
        assert np.isnan(result.costs).all()
        assert result.reasons == ("Not evaluated: the deadline passed before the candidates began.",) * 3
        assert not result.predictions
    assert not backend.calls


def test_stopping_among_the_shared_commands_leaves_nothing(plain: Predictor) -> None:
    predictor, backend = watched(plain)
    request = request_of([motion_of(0, 8)], commanded=motion_of(1, 40))
    result = CandidateEvaluator(predictor, GoalDistance()).evaluate(request, should_stop=lambda: bool(backend.of("denoise")))
    assert result.reasons == ("Not evaluated: it was asked to stop before the candidates began.",)


def test_the_costs_are_told_before_anything_is_decoded(plain: Predictor) -> None:
    predictor, backend = watched(plain)
    told: list[tuple[CandidateResult, int]] = []
    request = request_of([motion_of(index, 20) for index in range(3)], decode_ids=())
    evaluator = CandidateEvaluator(predictor, GoalDistance())
    result = evaluator.evaluate(request, on_costs=lambda early: told.append((early, len(backend.of("start_decoding")))))
    ((early, decoded),) = told
    assert decoded == 0
    assert not early.predictions
    np.testing.assert_array_equal(early.costs, result.costs)
    assert early.best == result.best
    assert early.timings_ms["decode"] == 0 < result.timings_ms["decode"]


# ---- costs ----


@pytest.mark.parametrize("cost", [GoalDistance(), GoalDistance("l2", "nearest"), MotionPenalty(jerk=0.5)])
def test_the_cost_is_that_of_the_predicted_latents(plain: Predictor, cost: Cost) -> None:
    request = request_of([motion_of(index, steps) for index, steps in enumerate(LENGTHS)], keep_frame_costs=True)
    result = CandidateEvaluator(plain, cost).evaluate(request)
    goal = plain.backend.encode(goal_image()[None])[0]
    for candidate, evaluation in zip(request.candidates, result.evaluations, strict=True):
        snapshot = snapshot_of(request, candidate)
        rollout = plain.roll_out(snapshot, horizon=48, seed=5)
        travel = np.diff(snapshot.motion[:, :2], axis=0) / 0.1 * STEPS_PER_SCALE
        trajectory = Trajectory(rollout.latents, travel, rollout.confidence, plain.backend.fetch(goal))
        np.testing.assert_allclose(evaluation.cost, cost([trajectory])[0], rtol=TOLERANCE)
        np.testing.assert_allclose(evaluation.frame_costs, cost.per_frame(trajectory), rtol=TOLERANCE, atol=TOLERANCE)
    assert result.best == result.costs.argmin()
    assert result.costs.dtype == np.float64


def test_the_candidate_that_leads_to_the_goal_is_the_best(plain: Predictor) -> None:
    motions = [motion_of(index, 24) for index in range(6)]
    request = request_of(motions)
    aim = plain.roll_out(snapshot_of(request, request.candidates[4]), horizon=48, seed=5).latents[-1]
    toward = CostOf(lambda trajectories: GoalDistance()([replace(trajectory, goal=aim) for trajectory in trajectories]))
    result = CandidateEvaluator(plain, toward).evaluate(request)
    assert result.best == 4
    assert result.costs[4] < 1e-5 < np.delete(result.costs, 4).min()


def test_the_error_estimator_can_be_part_of_the_cost(learned: Predictor, plain: Predictor) -> None:
    request = request_of([motion_of(index, 24) for index in range(3)], goal=None)
    result = CandidateEvaluator(learned, WeightedSum(((2.0, ErrorPenalty()),))).evaluate(request)
    expected = [2 * (1 - evaluation.confidence.astype(float)).mean() for evaluation in result.evaluations]
    np.testing.assert_allclose(result.costs, expected, rtol=1e-6)
    with pytest.raises(InputError, match="needs the confidence, which bundle tiny@"):
        CandidateEvaluator(plain, WeightedSum(((1.0, GoalDistance()), (1.0, ErrorPenalty()))))


def test_a_cost_that_is_not_finite_has_a_reason_and_is_never_the_best(plain: Predictor) -> None:
    costs = [float("-inf"), float("nan"), 3.0, float("inf"), 2.0, 2.0]
    request = request_of([motion_of(index, 8) for index in range(6)], decode_ids=(100, 104))
    result = CandidateEvaluator(plain, CostOf(lambda trajectories: costs)).evaluate(request)
    assert result.best == 4  # the first of equal ones
    assert np.isnan(result.costs[[0, 1, 3]]).all()
    assert [bool(reason) for reason in result.reasons] == [True, True, False, True, False, False]
    assert "Found the cost -inf, expected a finite number" in result.reasons[0]
    assert set(result.predictions) == {104}


def test_a_prediction_that_overflows_spoils_no_other(plain: Predictor) -> None:
    class Overflowing(Watched):
        def denoise(self, expert: int, context: Any, actions: Any, noise: Any) -> Any:
            latents = plain.backend.denoise(expert, context, actions, noise).copy()
            latents[np.abs(actions).max(axis=(1, 2)) > 100] = np.inf
            return latents

    backend: Any = Overflowing(plain.backend)
    request = request_of([motion_of(0, 8), 1000 * np.ones((8, 3)), motion_of(1, 8)])
    result = CandidateEvaluator(Predictor(plain.bundle, backend), GoalDistance()).evaluate(request)
    assert np.isnan(result.costs).tolist() == [False, True, False]
    assert "overflowed" in result.reasons[1]


def test_a_cost_function_that_gives_another_number_of_costs_is_refused(plain: Predictor) -> None:
    with pytest.raises(InputError, match=r"Got costs of shape \[1\] for 2 futures"):
        CandidateEvaluator(plain, CostOf(lambda trajectories: [1.0])).evaluate(request_of([motion_of(0, 8), motion_of(1, 8)]))


# ---- video ----


def test_the_best_is_decoded_unless_others_are_asked_for(predictor: Predictor) -> None:
    request = request_of([motion_of(index, 30) for index in range(4)])
    evaluator = CandidateEvaluator(predictor, GoalDistance())
    costs_only = evaluator.evaluate(request)
    assert not costs_only.predictions
    assert costs_only.timings_ms["decode"] == 0
    best = evaluator.evaluate(replace(request, decode_ids=()))
    assert set(best.predictions) == {best.ids[best.best]}
    some = evaluator.evaluate(replace(request, decode_ids=(103, 101)), status=Status.DEGRADED)
    assert set(some.predictions) == {101, 103}
    for candidate_id, prediction in (some.predictions | best.predictions).items():
        alone = predictor.predict(snapshot_of(request, request.candidates[candidate_id - 100]), horizon=48, seed=5)
        assert np.abs(prediction.frames.astype(int) - alone.frames.astype(int)).max() <= 1
        assert (prediction.chunks, prediction.experts, prediction.assumed_from) == (alone.chunks, alone.experts, alone.assumed_from)
        assert (prediction.seed, prediction.model_id, prediction.fps) == (alone.seed, alone.model_id, alone.fps)
        np.testing.assert_allclose(prediction.confidence, alone.confidence, atol=TOLERANCE)
        assert set(prediction.timings_ms) == {*GRAPH_STAGES, "graphs", "graphs_cpu", "total", "cost"}
    assert some.predictions[103].status == Status.DEGRADED


def test_timings_add_up(learned: Predictor) -> None:
    request = request_of([motion_of(index, 30) for index in range(4)], decode_ids=())
    timings = CandidateEvaluator(learned, GoalDistance()).evaluate(request).timings_ms
    stages = ("encode", "route", "denoise", "estimate", "decode")
    assert set(timings) == {*stages, "graphs", "graphs_cpu", "cost", "total"}
    assert all(timings[stage] > 0 for stage in (*stages, "cost"))
    assert timings["graphs"] == pytest.approx(sum(timings[stage] for stage in stages))
    assert timings["graphs"] + timings["cost"] <= timings["total"]


# ---- another backend where one fails ----


class Failing(Watched):
    """A backend of which one graph fails after a number of calls."""

    def __init__(self, backend: Any, graph: str, after: int) -> None:
        super().__init__(backend)
        self._graph, self._after = graph, after

    def __getattr__(self, name: str) -> Any:
        if name == self._graph and len(self.of(name)) >= self._after:
            raise BackendError("the GPU is gone")
        return super().__getattr__(name)


@pytest.mark.parametrize(("graph", "after"), [("encode", 0), ("denoise", 0), ("denoise", 3), ("fetch", 1), ("start_decoding", 1)])
def test_where_the_backend_fails_the_next_one_answers(plain: Predictor, graph: str, after: int) -> None:
    request = request_of([motion_of(index, 40) for index in range(4)], decode_ids=())
    expected = CandidateEvaluator(plain, GoalDistance()).evaluate(request)
    assert len(expected.evaluations[expected.best].chunks) > 1
    failing: Any = Failing(plain.backend, graph, after)
    good: Any = Watched(plain.backend)
    told: list[CandidateResult] = []
    slot = BackendSlot(Opened(failing), lambda failed, error: Opened(good, cause=str(error)))
    result = CandidateEvaluator(Predictor(plain.bundle, slot), GoalDistance()).evaluate(request, on_costs=told.append)
    assert len(told) == 1
    assert_same_futures(result, expected)
    assert result.best == expected.best
    (prediction,) = result.predictions.values()
    assert np.array_equal(prediction.frames, expected.predictions[result.ids[result.best]].frames)
    assert prediction.status == Status.DEGRADED
    if graph == "start_decoding":
        assert not good.of("denoise")  # what is known already is not computed again


def test_where_no_backend_is_left_the_failure_is_the_callers(plain: Predictor) -> None:
    failing: Any = Failing(plain.backend, "denoise", 1)
    with pytest.raises(BackendError, match="the GPU is gone"):
        CandidateEvaluator(Predictor(plain.bundle, failing), GoalDistance()).evaluate(request_of([motion_of(0, 40)]))


# ---- latents on a GPU, and the documentation ----


class OnDevice:
    """An array that, like one on a GPU, can be indexed and concatenated, and is no NumPy array."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: Any) -> OnDevice:
        return OnDevice(self.array[index])

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("an array on the device is not copied to the host by the way")

    def __array_function__(self, function: Any, _: Any, args: Any, kwargs: Any) -> OnDevice:
        assert function is np.concatenate
        return OnDevice(np.concatenate([part.array for part in args[0]], *args[1:], **kwargs))


class DeviceBackend:
    """A backend whose latents stay where they are until they are fetched."""

    name = "tensorrt"

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        def run(*inputs: Any) -> Any:
            result = getattr(self._backend, name)(*(x.array if isinstance(x, OnDevice) else x for x in inputs))
            return OnDevice(result) if name in ("encode", "denoise") else result

        return run


@pytest.mark.parametrize("branch", [0, 5])
def test_latents_need_not_be_numpy_arrays(learned: Predictor, branch: int) -> None:
    candidates = tuple(Candidate(index, motion_of(index, 30, first=branch + 1)) for index in range(5))
    request = branch_off(make_snapshot(), candidates, after=branch, goal=goal_image(), keep_latents=True)
    backend: Any = DeviceBackend(learned.backend)
    on_device = CandidateEvaluator(Predictor(learned.bundle, backend), GoalDistance()).evaluate(request)
    on_host = CandidateEvaluator(learned, GoalDistance()).evaluate(request)
    assert_same_futures(on_device, on_host)
    assert set(on_device.predictions) == set(on_host.predictions)


def test_the_example_in_the_documentation_runs() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "planning.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(block, "docs/planning.md", "exec"), names)
    assert names["video"].shape == (16, 64, 64, 3)
    assert names["video"].dtype == np.uint8
    assert np.isfinite(names["result"].costs).all()
    assert (names["spread"] < 0.1).all()
    names["predictor"].backend.close()


# ---- what does not fit ----


def test_a_bad_candidate_gets_a_reason_and_spoils_no_other(predictor: Predictor) -> None:
    good = [motion_of(index, 20) for index in range(3)]
    nan, far = good[0].copy(), good[0].copy()
    nan[7, 1] = np.nan
    far[7, 1] = 1e300
    words = np.full((3, 3), "fast")
    bad = [np.zeros((20, 2)), np.zeros((0, 3)), nan, np.zeros(3), far, words]
    request = request_of([good[0], *bad[:3], good[1], *bad[3:], good[2]], decode_ids=(101, 100))
    request = replace(request, candidates=(*request.candidates, Candidate(7, good[0], assumed_from=-1)))
    result = CandidateEvaluator(predictor, GoalDistance()).evaluate(request)
    expected = [
        "",
        "Got motion of shape [20, 2], expected [M, 3] for the actions ['x', 'y', 'gripper'].",
        "Got an action sequence without a step",
        "Got motion of float64, or with NaN or infinity",
        "",
        "Got motion of shape [3]",
        "Got motion of ['y'] beyond 1e+09 times what is usual",
        "Got motion of <U4",
        "",
        "Got assumed_from -1",
    ]
    for reason, start in zip(result.reasons, expected, strict=True):
        assert reason.startswith(start)
        assert bool(reason) == bool(start)
    assert np.isnan(result.costs).tolist() == [bool(start) for start in expected]
    assert set(result.predictions) == {100}
    kept = request.candidates
    assert_same_futures(
        CandidateEvaluator(predictor, GoalDistance()).evaluate(request_of(good, candidates=(kept[0], kept[4], kept[8]))), result
    )


def test_where_no_candidate_can_be_used_nothing_is_computed(plain: Predictor) -> None:
    predictor, backend = watched(plain)
    result = CandidateEvaluator(predictor, GoalDistance()).evaluate(request_of([np.zeros((0, 3))], decode_ids=()))
    assert (result.best, result.batches, result.predictions) == (-1, 0, {})
    assert not backend.calls


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidates": ()}, "Got no candidates"),
        ({"candidates": (Candidate(3, np.ones((1, 3))), Candidate(3, np.ones((2, 3))))}, r"Got candidate ids \[3\] twice"),
        ({"decode_ids": (100, 55)}, r"Got ids to decode \[55\] that no candidate has"),
        ({"context": np.zeros((K, 16, 24), np.uint8)}, r"Got context of uint8 \[4, 16, 24\]"),
        ({"context": np.zeros((K, 16, 24, 3))}, "Got context of float64"),
        ({"motion": np.zeros((K + 1, 3))}, r"Got motion of shape \[5, 3\] for 4 context frames"),
        ({"motion": np.full((K, 3), np.nan)}, "Got motion with NaN"),
        ({"commanded": np.full((2, 3), np.inf)}, "Got commanded motion with NaN or infinity"),
        ({"commanded": np.zeros((2, 2))}, r"Got commanded motion of shape \[2, 2\], expected \[P, 3\]"),
        ({"goal": np.zeros((16, 24), np.uint8)}, "Got a goal image of uint8"),
        ({"horizon": 0}, "Got horizon 0"),
        ({"seed": -1}, "Got seed -1"),
        ({"seed": 2**64}, "Got seed 18446744073709551616"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_at_once(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        request_of([motion_of(0, 8)], **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context": np.zeros((K, 8, 8, 3), np.uint8)}, r"Got context images \[4, 8, 8, 3\], expected \[4, 16, 24, 3\] as bundle tiny@"),
        ({"motion": np.zeros((K, 2)), "commanded": None}, "Got motion of 2 dimensions, expected 3: x, y, gripper"),
        ({"goal": np.zeros((8, 8, 3), np.uint8)}, r"Got a goal image \[8, 8, 3\], expected \[16, 24, 3\]"),
        ({"goal": None}, "Got no goal image"),
    ],
)
def test_a_request_that_does_not_fit_the_model_is_refused(plain: Predictor, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CandidateEvaluator(plain, GoalDistance()).evaluate(request_of([motion_of(0, 8)], **changes))


def test_an_empty_batch_is_refused(plain: Predictor) -> None:
    with pytest.raises(InputError, match="Got max_batch 0"):
        CandidateEvaluator(plain, GoalDistance(), 0)
