# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.snapshots import make_snapshot
from support.tiny_bundle import MANIFEST, write_tiny_bundle
from support.watched import Watched

from longscape_ros.actions import encode_actions
from longscape_ros.bundle import Experts, Routing
from longscape_ros.contract import NO_ERROR, Chunk, Confidence, EndReason, Status
from longscape_ros.errors import BackendError, InputError
from longscape_ros.runtime.backend import Float32
from longscape_ros.runtime.backends import create_backend
from longscape_ros.runtime.predictor import BESIDE_STAGES, GRAPH_STAGES, OTHER_STAGES, Predictor, noise_of
from longscape_ros.segmentation import expert_for, segment

K = MANIFEST.context
RULE = MANIFEST.segmentation


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    bundle = write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")
    return Predictor(bundle, create_backend(bundle, "ort_cpu", threads=2))


def test_a_prediction_has_a_frame_for_every_planned_step_and_says_how_it_was_made(predictor: Predictor) -> None:
    snapshot = make_snapshot(steps=48)
    prediction = predictor.predict(snapshot, horizon=96)
    chunks = segment(snapshot.motion[K - 1 :], MANIFEST.action_space, RULE)
    assert prediction.frames.shape == (48, *MANIFEST.image_size, 3)
    assert prediction.frames.dtype == np.uint8
    assert prediction.chunks == chunks
    assert len(chunks) > 1
    assert prediction.experts == tuple(expert_for(chunk.length, RULE) for chunk in chunks)
    assert (prediction.anchor_ns, prediction.plan_stamp_ns, prediction.frame_id) == (10**9, 7, "camera")
    assert prediction.fps == MANIFEST.fps
    assert prediction.model_id == predictor.bundle.model_id
    assert prediction.status == Status.OK
    assert prediction.confidence.shape == (48,)
    assert np.isnan(prediction.confidence).all()


def test_a_rollout_is_chunk_after_chunk_in_latents(predictor: Predictor) -> None:
    snapshot = make_snapshot(steps=40)
    rollout = predictor.roll_out(snapshot, horizon=40, seed=5)
    context = predictor.backend.encode(snapshot.context)
    motion = np.concatenate([snapshot.motion, snapshot.motion[-1:].repeat(32, axis=0)])
    expected = []
    for index, chunk in enumerate(segment(snapshot.motion[K - 1 :], MANIFEST.action_space, RULE)):
        actions = encode_actions(motion[chunk.start : chunk.start + K + chunk.length], K - 1, MANIFEST.action_space)
        noise = noise_of(5, index).standard_normal((1, chunk.length, *MANIFEST.latent_shape), np.float32)
        latents = predictor.backend.denoise(expert_for(chunk.length, RULE), context[None], actions[None], noise)[0]
        expected.append(latents[: chunk.valid])
        context = latents[-K:]
    assert np.array_equal(rollout.latents, np.concatenate(expected))


def test_equal_snapshots_give_equal_bits_on_another_backend_object_too(predictor: Predictor) -> None:
    other = Predictor(predictor.bundle, create_backend(predictor.bundle, "ort_cpu", threads=2))
    first, second = predictor.predict(make_snapshot()), other.predict(make_snapshot())
    assert first.seed == second.seed
    assert np.array_equal(first.frames, second.frames)


def test_the_seed_follows_from_the_anchor_unless_it_is_given(predictor: Predictor) -> None:
    early, late = (predictor.roll_out(make_snapshot(anchor_ns=ns)) for ns in (1, 2))
    assert early.seed != late.seed
    assert not np.array_equal(early.latents, late.latents)
    early, late = (predictor.roll_out(make_snapshot(anchor_ns=ns), seed=2**64 - 1) for ns in (1, 2))
    assert np.array_equal(early.latents, late.latents)


def test_chunks_get_different_noise(predictor: Predictor) -> None:
    assert noise_of(1, 0).standard_normal() != noise_of(1, 1).standard_normal() != noise_of(2, 1).standard_normal()


@settings(max_examples=25, deadline=None)
@given(short=st.integers(1, 60), steps=st.integers(1, 60))
def test_a_short_horizon_gives_the_first_frames_of_a_long_one(predictor: Predictor, short: int, steps: int) -> None:
    snapshot = make_snapshot(steps)
    long, cut = predictor.predict(snapshot, horizon=60), predictor.predict(snapshot, horizon=short)
    count = min(short, steps)
    assert len(cut.frames) == sum(chunk.valid for chunk in cut.chunks) == count
    # chunks are the same; the last one may be decoded in a smaller batch, which may round a pixel differently
    assert np.abs(cut.frames.astype(int) - long.frames[:count]).max() <= 1
    assert np.array_equal(predictor.roll_out(snapshot, horizon=short).latents, predictor.roll_out(snapshot, horizon=60).latents[:count])


def test_without_a_horizon_the_bundles_is_used(predictor: Predictor) -> None:
    assert len(predictor.predict(make_snapshot(steps=48)).frames) == MANIFEST.horizon


def test_assumed_frames_are_marked_within_the_horizon(predictor: Predictor) -> None:
    snapshot = replace(make_snapshot(steps=40), assumed_from=20)
    assert predictor.predict(snapshot, horizon=40).assumed_from == 20
    assert predictor.predict(snapshot, horizon=10).assumed_from == 10


def test_stopping_between_chunks_keeps_the_chunks_so_far(predictor: Predictor) -> None:
    snapshot = make_snapshot()
    whole = predictor.predict(snapshot, horizon=48)
    stopped = predictor.predict(snapshot, horizon=48, should_stop=lambda: True)
    assert stopped.chunks == whole.chunks[:1]
    assert stopped.status == Status.DEGRADED
    assert np.array_equal(stopped.frames, whole.frames[: whole.chunks[0].valid])
    assert predictor.predict(snapshot, horizon=48, should_stop=lambda: False).status == Status.OK


def test_a_status_given_is_kept(predictor: Predictor) -> None:
    prediction = predictor.predict(make_snapshot(), status=Status.STALE_INPUT, should_stop=lambda: True)
    assert prediction.status == Status.STALE_INPUT


def test_timings_add_up(predictor: Predictor) -> None:
    timings = predictor.predict(make_snapshot()).timings_ms
    assert set(timings) == {*GRAPH_STAGES, *OTHER_STAGES, *BESIDE_STAGES, "graphs", "graphs_cpu", "total"}
    assert timings["graphs"] == pytest.approx(sum(timings[stage] for stage in GRAPH_STAGES))
    assert sum(timings[stage] for stage in (*GRAPH_STAGES, *OTHER_STAGES)) < timings["total"]
    assert timings["route"] == timings["estimate"] == 0  # this bundle has no such graphs
    assert 0 < timings["graphs"] <= timings["total"]


def test_a_bundle_with_one_expert_sends_every_chunk_to_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    bundle = write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "single", experts=Experts(1))
    predictor = Predictor(bundle, create_backend(bundle, "ort_cpu", threads=1))
    predictor.warm_up()
    assert set(predictor.predict(make_snapshot()).experts) == {0}


def test_warming_up_changes_nothing(predictor: Predictor) -> None:
    before = predictor.predict(make_snapshot()).frames
    predictor.warm_up()
    assert np.array_equal(predictor.predict(make_snapshot()).frames, before)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"context": np.zeros((K, 8, 8, 3), np.uint8)}, {}, r"Got context images \[4, 8, 8, 3\], expected \[4, 16, 24, 3\]"),
        ({"motion": np.zeros((40, 2))}, {}, "Got motion of 2 dimensions, expected 3: x, y, gripper"),
        ({}, {"horizon": 0}, "Got horizon 0"),
        ({}, {"seed": -1}, "Got seed -1"),
        ({}, {"seed": 2**64}, "Got seed 18446744073709551616"),
    ],
)
def test_what_does_not_fit_is_refused(predictor: Predictor, change: dict, options: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(InputError, match=message):
        predictor.predict(replace(make_snapshot(), **change), **options)


# ---- router, length predictor, error estimator ----

LOOKAHEAD = 8
CONFIDENCE = Confidence(psnr_db=25.0, slope=-1.0, offset=-6.0)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """Of a bundle that has all graphs."""
    bundle = write_tiny_bundle(
        tmp_path_factory.mktemp("bundles") / "learned",
        experts=Experts(4, Routing("learned", LOOKAHEAD)),
        confidence=CONFIDENCE,
        length_predictor=True,
    )
    return Predictor(bundle, create_backend(bundle, "ort_cpu", threads=1))


def watched(predictor: Predictor, **options: Any) -> tuple[Predictor, Watched]:
    """The same over a backend that remembers."""
    backend: Any = Watched(predictor.backend)
    return Predictor(predictor.bundle, backend, **options), backend


def coming_at(snapshot_motion: Any, start: int) -> Float32:
    """What the router is to see at a step: the last command is held beyond the plan."""
    rows = np.minimum(np.arange(start, start + K + LOOKAHEAD), len(snapshot_motion) - 1)
    return encode_actions(snapshot_motion[rows], K - 1, MANIFEST.action_space)


def test_a_chunk_goes_to_the_expert_that_the_router_scores_highest(learned: Predictor) -> None:
    predictor, backend = watched(learned)
    seen = set()
    for seed in range(8):
        backend.calls.clear()
        prediction = predictor.predict(make_snapshot(steps=48, seed=seed), horizon=48)
        scores = [result[0] for _, result in backend.of("route")]
        assert prediction.experts == tuple(int(row.argmax()) for row in scores)
        assert prediction.experts == tuple(inputs[0] for inputs, _ in backend.of("denoise"))
        seen |= set(prediction.experts)
    assert len(seen) > 1


def test_the_router_sees_the_chunks_context_and_the_actions_from_there_on(learned: Predictor) -> None:
    predictor, backend = watched(learned)
    snapshot = make_snapshot(steps=44)
    prediction = predictor.predict(snapshot, horizon=44)
    routed, denoised = backend.of("route"), backend.of("denoise")
    assert len(routed) == len(prediction.chunks) > 2
    for chunk, (route, _), (denoise, _) in zip(prediction.chunks, routed, denoised, strict=True):
        np.testing.assert_array_equal(route[0], denoise[1])  # the same context
        np.testing.assert_array_equal(route[1][0], coming_at(snapshot.motion, chunk.start))


def test_what_comes_after_the_chunk_can_change_its_expert(learned: Predictor) -> None:
    snapshot = make_snapshot(steps=48)
    first = learned.predict(snapshot, horizon=48)
    length = first.chunks[0].length
    found = set()
    for step in np.linspace(-2, 2, 9):
        motion = snapshot.motion.copy()
        motion[K + length :, 1] += step
        other = learned.predict(replace(snapshot, motion=motion), horizon=length)
        if other.chunks[0].length == length:
            found.add(other.experts[0])
    assert length >= LOOKAHEAD
    assert found == {first.experts[0]}  # a router looks so far ahead and no farther
    found = set()
    for step in np.linspace(-2, 2, 9):
        motion = snapshot.motion.copy()
        motion[K + 1 : K + LOOKAHEAD, 1] += step
        found.add(learned.predict(replace(snapshot, motion=motion), horizon=8).experts[0])
    assert len(found) > 1


def test_confidence_is_the_probability_that_the_estimated_errors_stand_for(learned: Predictor) -> None:
    predictor, backend = watched(learned)
    prediction = predictor.predict(make_snapshot(steps=44), horizon=44)
    estimates, denoised = backend.of("estimate_error"), backend.of("denoise")
    before = np.array([NO_ERROR], np.float32)
    log_error = []
    for chunk, (estimate, found), (denoise, latents) in zip(prediction.chunks, estimates, denoised, strict=True):
        for told, wanted in zip(estimate, (denoise[1], denoise[2], latents, before), strict=True):
            np.testing.assert_array_equal(told, wanted)
        before = found[0, -1:]
        log_error.append(found[0, : chunk.valid])
    np.testing.assert_array_equal(prediction.confidence, CONFIDENCE.of(np.concatenate(log_error)))
    assert prediction.confidence.shape == (44,)
    assert prediction.confidence.dtype == np.float32
    assert ((prediction.confidence >= 0) & (prediction.confidence <= 1)).all()
    assert prediction.confidence[0] > prediction.confidence[-1]  # this estimator's errors add up


def test_confidence_is_unknown_without_an_estimator(predictor: Predictor) -> None:
    assert np.isnan(predictor.predict(make_snapshot(steps=20)).confidence).all()


def test_lengths_are_predicted_only_where_no_command_is_known(learned: Predictor) -> None:
    for seed in range(6):
        for assumed_from in (0, 9, 16, 20, 40, 48):
            predictor, backend = watched(learned)
            snapshot = replace(make_snapshot(steps=48, seed=seed), assumed_from=assumed_from)
            prediction = predictor.predict(snapshot, horizon=48)
            ruled = segment(snapshot.motion[K - 1 :], MANIFEST.action_space, RULE)
            known = [chunk for chunk in prediction.chunks if chunk.start < assumed_from]
            assert tuple(known) == ruled[: len(known)]
            guessed = prediction.chunks[len(known) :]
            asked = backend.of("predict_length")
            assert len(asked) == len(guessed)
            contexts = [denoise[1] for denoise, _ in backend.of("denoise")][len(known) :]
            for chunk, (inputs, scores), context in zip(guessed, asked, contexts, strict=True):
                np.testing.assert_array_equal(inputs[0], context)
                assert chunk.length == RULE.lengths[int(scores[0].argmax())]
                assert chunk.valid == min(chunk.length, 48 - chunk.start)
                assert chunk.reason == EndReason.END_OF_PLAN
            starts = np.cumsum([0, *(chunk.length for chunk in prediction.chunks)])
            assert [chunk.start for chunk in prediction.chunks] == starts[:-1].tolist()
            assert len(prediction.frames) == 48


def test_without_a_length_predictor_the_rule_goes_on_over_assumed_commands(predictor: Predictor) -> None:
    snapshot = make_snapshot(steps=48)
    assert predictor.predict(replace(snapshot, assumed_from=0), horizon=48).chunks == predictor.predict(snapshot, horizon=48).chunks


def test_with_all_graphs_equal_snapshots_give_equal_bits_and_a_short_horizon_the_first_frames(learned: Predictor) -> None:
    snapshot = replace(make_snapshot(steps=48), assumed_from=20)
    other = Predictor(learned.bundle, create_backend(learned.bundle, "ort_cpu", threads=1))
    first, second = learned.predict(snapshot, horizon=48), other.predict(snapshot, horizon=48)
    assert np.array_equal(first.frames, second.frames)
    assert np.array_equal(first.confidence, second.confidence)
    assert (first.chunks, first.experts) == (second.chunks, second.experts)
    long = learned.roll_out(snapshot, horizon=48)
    for horizon in (1, 7, 16, 19, 20, 33):
        short = learned.roll_out(snapshot, horizon=horizon)
        assert np.array_equal(short.latents, long.latents[:horizon])
        assert np.array_equal(short.confidence, long.confidence[:horizon])


def test_another_cut_takes_the_rules_place(learned: Predictor) -> None:
    cuts: list[int] = []

    def eights(motion: Any) -> tuple[Chunk, ...]:
        cuts.append(len(motion))
        return tuple(Chunk(start, 8, 8, EndReason.MAX_LENGTH) for start in range(0, len(motion) - 1, 8))

    prediction = Predictor(learned.bundle, learned.backend, cut=eights).predict(make_snapshot(steps=48), horizon=20)
    assert cuts == [49]  # from the anchor on
    assert [(chunk.start, chunk.length, chunk.valid) for chunk in prediction.chunks] == [(0, 8, 8), (8, 8, 8), (16, 8, 4)]


def test_another_choice_takes_the_routers_place_and_gets_the_chunks_chance(learned: Predictor) -> None:
    asked: list[int] = []

    def by_chance(length: int, noise: np.random.Generator) -> int:
        asked.append(length)
        return int(noise.integers(4))

    predictor, backend = watched(learned, choose=by_chance)
    snapshot = make_snapshot(steps=48)
    first, again = (predictor.predict(snapshot, horizon=48, seed=3) for _ in range(2))
    assert asked == [chunk.length for chunk in first.chunks] * 2
    assert first.experts == again.experts == tuple(int(noise_of(3, n).integers(4)) for n in range(len(first.chunks)))
    assert np.array_equal(first.frames, again.frames)
    assert not backend.of("route")


def test_warming_up_runs_every_graph(learned: Predictor) -> None:
    predictor, backend = watched(learned)
    predictor.warm_up()
    run = {name for name, _, _ in backend.calls}
    assert run == {"encode", "route", "predict_length", "denoise", "estimate_error", "start_decoding"}
    assert {inputs[0] for inputs, _ in backend.of("denoise")} == set(range(4))


def test_a_graph_that_the_bundle_does_not_have_is_not_run(predictor: Predictor) -> None:
    context = np.zeros((1, K, *MANIFEST.latent_shape), np.float32)
    with pytest.raises(BackendError, match=r"length_predictor\.onnx, which is not open: .* or the bundle has no such graph"):
        predictor.backend.predict_length(context)
