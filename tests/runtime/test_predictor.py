# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.snapshots import make_snapshot
from support.tiny_bundle import MANIFEST, write_tiny_bundle

from longscape_ros.actions import encode_actions
from longscape_ros.bundle import Experts
from longscape_ros.contract import Status
from longscape_ros.errors import InputError
from longscape_ros.runtime.backends import create_backend
from longscape_ros.runtime.predictor import Predictor, noise_of
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
    assert set(timings) == {"encode", "denoise", "decode", "graphs", "total"}
    assert timings["graphs"] == pytest.approx(timings["encode"] + timings["denoise"] + timings["decode"])
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
