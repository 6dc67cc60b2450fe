# SPDX-License-Identifier: Apache-2.0
"""Which chunks training draws from recordings."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from longscape_ros.actions import encode_actions
from longscape_ros.contract import ActionDimension, ActionSpace, ChunkRule
from longscape_ros.errors import InputError
from longscape_ros.model.data import ChunkSampler, Recordings
from longscape_ros.model.world import ChunkBatch
from longscape_ros.segmentation import lengths_from_everywhere
from longscape_ros.timeline import GridEpisode

CONTEXT = 4
SPACE = ActionSpace((ActionDimension("x", "m", "position", motion_range=1.0, scale=1.0),))
RULE = ChunkRule(base=8, lengths=(8, 16, 24, 32), threshold=0.5)
FRAMES_PER_BATCH = 64
LOOKAHEAD = 12


def episode(frames: int, seed: int = 0, silent: slice = slice(0, 0)) -> GridEpisode:
    """x moves slowly, and faster and faster; in ``silent`` nothing was commanded."""
    at = np.linspace(0, 1, frames)
    commanded = np.ones(frames, bool)
    commanded[silent] = False
    motion = np.cumsum(0.1 * at**2)[:, None] + seed
    return GridEpisode(f"episode {seed}", np.arange(frames), np.zeros((frames, 8, 8, 3), np.uint8), motion, commanded, "")


def sampler(*episodes: GridEpisode, cropped: float = 0.0, **options: Any) -> tuple[ChunkSampler, Recordings]:
    """Over latents that say which frame they are: [M, 1, 1, 1]."""
    recordings = Recordings.of(episodes)
    latents = torch.arange(len(recordings.frames), dtype=torch.float32).reshape(-1, 1, 1, 1)
    return ChunkSampler(recordings, latents, SPACE, RULE, CONTEXT, FRAMES_PER_BATCH, LOOKAHEAD, cropped, **options), recordings


def batches(drawn: ChunkSampler, count: int, **options: Any) -> list[ChunkBatch]:
    return [drawn.batch(np.random.default_rng([7, step]), **options) for step in range(count)]


def rows(batch: ChunkBatch) -> NDArray[np.int64]:
    """int64 [B, K + T], the frames that a batch consists of."""
    latents = torch.cat((batch.context, batch.target), dim=1)
    return latents[:, :, 0, 0, 0].numpy().astype(np.int64)


def test_recordings_are_episodes_end_to_end() -> None:
    recordings = Recordings.of([episode(50), episode(70, seed=1)])
    assert recordings.bounds.tolist() == [0, 50, 120]
    assert recordings.frames.shape == (120, 8, 8, 3)
    assert [len(motion) for motion in recordings.motions()] == [50, 70]
    np.testing.assert_array_equal(recordings.motions()[1], episode(70, seed=1).motion)


def test_lengths_are_drawn_evenly_however_rare_they_are() -> None:
    drawn, _ = sampler(episode(300), episode(300, seed=1))
    assert min(drawn.shares.values()) < 0.15
    counts = Counter(batch.target.shape[1] for batch in batches(drawn, 400))
    assert set(counts) == set(RULE.lengths)
    assert all(70 < count < 130 for count in counts.values()), counts


def test_a_batch_has_one_length_its_number_and_as_many_frames_as_asked() -> None:
    drawn, _ = sampler(episode(300))
    for batch in batches(drawn, 50):
        length = batch.target.shape[1]
        assert len(batch.target) == FRAMES_PER_BATCH // length
        assert batch.length == RULE.lengths.index(length)
        assert batch.actions.shape == (len(batch.target), CONTEXT + length, 2)
        assert (batch.mask == 1).all()
        assert batch.mask.shape == (len(batch.target), length)


def test_chunks_begin_where_the_rule_gives_their_length_and_stay_in_their_episode() -> None:
    drawn, recordings = sampler(episode(120), episode(150, seed=1))
    expected = np.concatenate([np.append(lengths_from_everywhere(m, SPACE, RULE), 0) for m in recordings.motions()])
    episode_of = np.repeat([0, 1], [120, 150])
    seen = set()
    for batch in batches(drawn, 1200):
        length = batch.target.shape[1]
        for frames in rows(batch):
            anchor = frames[CONTEXT - 1]
            seen.add(anchor)
            assert expected[anchor] == length
            assert len(set(episode_of[frames])) == 1
            np.testing.assert_array_equal(frames[CONTEXT - 1 :], np.arange(anchor, anchor + length + 1))
    assert {0, 120} <= seen  # an episode's first frame is an anchor too


def test_before_an_episodes_first_frame_the_context_repeats_it() -> None:
    drawn, _ = sampler(episode(120), episode(40, seed=1))
    second = [frames for batch in batches(drawn, 300) for frames in rows(batch) if frames[CONTEXT - 1] == 121]
    assert second
    assert all(frames[:CONTEXT].tolist() == [120, 120, 120, 121] for frames in second)


def test_actions_are_those_of_the_frames_counted_from_the_anchor() -> None:
    drawn, recordings = sampler(episode(300))
    for batch in batches(drawn, 20):
        for frames, actions in zip(rows(batch), batch.actions.numpy(), strict=True):
            np.testing.assert_array_equal(actions, encode_actions(recordings.motion[frames], CONTEXT - 1, SPACE))


def test_only_chunks_that_were_commanded_throughout_are_drawn() -> None:
    silent = slice(60, 63)
    drawn, recordings = sampler(episode(150, silent=silent))
    assert not recordings.commanded[silent].any()
    anchors = set()
    for batch in batches(drawn, 400):
        for frames in rows(batch):
            assert recordings.commanded[frames[CONTEXT - 1 :]].all()
            anchors.add(int(frames[CONTEXT - 1]))
    assert any(anchor < 60 for anchor in anchors)
    assert any(anchor >= 63 for anchor in anchors)


def test_a_recording_without_a_commanded_chunk_is_refused() -> None:
    with pytest.raises(InputError, match=r"no 8 commanded steps in a row.*check the topic mapping"):
        sampler(episode(40, silent=slice(None, None, 5)))


def test_shares_count_the_places_where_each_length_begins() -> None:
    drawn, recordings = sampler(episode(300))
    lengths = lengths_from_everywhere(recordings.motion, SPACE, RULE)
    for length in RULE.lengths:
        assert drawn.shares[length] == pytest.approx((lengths == length).sum() / (lengths > 0).sum())


def test_chunks_cut_short_are_masked_and_their_last_command_is_held() -> None:
    drawn, recordings = sampler(episode(300), cropped=1.0)
    planned_seen = set()
    for batch in batches(drawn, 100):
        length = batch.target.shape[1]
        planned = int(batch.mask[0].sum())
        planned_seen.add(planned)
        assert length == min(candidate for candidate in RULE.lengths if candidate >= planned)
        assert batch.length == RULE.lengths.index(length)
        np.testing.assert_array_equal(batch.mask, np.tile(np.arange(length) < planned, (len(batch.mask), 1)))
        for frames, actions in zip(rows(batch), batch.actions.numpy(), strict=True):
            held = frames.copy()
            held[CONTEXT + planned :] = frames[CONTEXT - 1 + planned]
            np.testing.assert_array_equal(actions, encode_actions(recordings.motion[held], CONTEXT - 1, SPACE))
    assert min(planned_seen) < 4
    assert max(planned_seen) > 24


def test_about_as_many_batches_are_cut_short_as_asked() -> None:
    drawn, _ = sampler(episode(300), cropped=0.25)
    short = [bool((batch.mask == 0).any()) for batch in batches(drawn, 400)]
    assert 0.15 < np.mean(short) < 0.3  # some are cut at a length of the rule, and full


def test_a_batch_depends_on_its_generator_alone() -> None:
    drawn, _ = sampler(episode(300), cropped=0.5)
    first, again = (drawn.batch(np.random.default_rng([3, 5])) for _ in range(2))
    for name in ("context", "target", "actions", "coming", "mask"):
        torch.testing.assert_close(getattr(first, name), getattr(again, name), atol=0, rtol=0)


# ---- lengths dealt out by chance ----


def test_shuffled_lengths_are_as_many_of_each_as_the_rule_gives_as_far_as_they_fit() -> None:
    ruled, _ = sampler(episode(400), episode(400, seed=1))
    dealt, recordings = sampler(episode(400), episode(400, seed=1), shuffled=True)
    assert not np.array_equal(ruled.lengths, dealt.lengths)
    anchors = np.arange(len(dealt.lengths))
    ends = np.repeat(recordings.bounds[1:] - 1, np.diff(recordings.bounds))
    assert (anchors + dealt.lengths <= ends).all()
    lost = 0
    for length in RULE.lengths:
        before, after = int((ruled.lengths == length).sum()), int((dealt.lengths == length).sum())
        assert 0 <= before - after <= 2 * length  # only those that reach beyond an episode's end
        lost += before - after
    assert lost == ((ruled.lengths > 0) & (dealt.lengths == 0)).sum() > 0
    again, _ = sampler(episode(400), episode(400, seed=1), shuffled=True)
    np.testing.assert_array_equal(dealt.lengths, again.lengths)


# ---- episodes kept apart ----


def test_nothing_is_drawn_from_episodes_kept_apart() -> None:
    kept = np.array([True, False, True])
    drawn, _ = sampler(episode(100), episode(120, seed=1), episode(90, seed=2), kept=kept)
    episode_of = np.repeat([0, 1, 2], [100, 120, 90])
    seen = {int(episode_of[frame]) for batch in batches(drawn, 200) for frames in rows(batch) for frame in frames}
    assert seen == {0, 2}
    anchors = drawn.anchors(np.random.default_rng(0), 2000)
    assert set(episode_of[anchors].tolist()) == {0, 2}
    apart, _ = sampler(episode(100), episode(120, seed=1), episode(90, seed=2), kept=~kept)
    assert set(episode_of[apart.anchors(np.random.default_rng(0), 500)].tolist()) == {1}


def test_anchors_are_drawn_evenly_over_all_frames_that_a_chunk_begins_after() -> None:
    drawn, _ = sampler(episode(60), episode(60, seed=1))
    counts = np.bincount(drawn.anchors(np.random.default_rng(0), 20_000), minlength=120)
    possible = drawn.lengths > 0
    assert (counts[~possible] == 0).all()
    assert counts[possible].min() > 0.6 * counts[possible].mean()


# ---- contexts that the model generated ----


@dataclass
class Own:
    """Generated contexts that say so: -1 minus their entry's number."""

    anchors: NDArray[np.int64]

    def at(self, places: NDArray[np.int64]) -> tuple[NDArray[np.int64], Tensor]:
        numbers = -1.0 - torch.from_numpy(places)
        return self.anchors[places], numbers.float().reshape(-1, 1, 1, 1, 1).expand(-1, CONTEXT, 1, 1, 1)


@pytest.mark.parametrize(("share", "parts"), [(0.25, 1), (0.5, 1), (1.0, 1), (0.5, 2)])
def test_a_share_of_the_chunks_goes_on_from_generated_contexts_of_their_length(share: float, parts: int) -> None:
    drawn, recordings = sampler(episode(300), episode(200, seed=1))
    own = Own(np.random.default_rng(1).permutation(np.flatnonzero(drawn.lengths)))
    for batch in batches(drawn, 60, own=own, own_share=share, parts=parts):
        length = batch.target.shape[1]
        generated = batch.context[:, 0, 0, 0, 0] < 0
        assert int(generated.sum()) == round(share * len(batch.target))
        for part in generated.chunk(parts):
            assert float(part.float().mean()) == pytest.approx(share, abs=1 / len(part))  # spread over the parts
        for row in torch.nonzero(generated).flatten().tolist():
            entry = int(-1 - batch.context[row, 0, 0, 0, 0])
            anchor = own.anchors[entry]
            assert drawn.lengths[anchor] == length
            assert (batch.context[row] == batch.context[row, 0]).all()
            np.testing.assert_array_equal(batch.target[row, :, 0, 0, 0], np.arange(anchor + 1, anchor + length + 1))
            first, last = (recordings.bounds[np.searchsorted(recordings.bounds, anchor, "right") - 1 + k] for k in (0, 1))
            around = np.clip(np.arange(anchor - CONTEXT + 1, anchor + length + 1), first, last - 1)
            expected = encode_actions(recordings.motion[around], CONTEXT - 1, SPACE)
            np.testing.assert_array_equal(batch.actions[row], expected)


def test_recorded_contexts_serve_where_none_of_the_length_was_generated() -> None:
    drawn, _ = sampler(episode(300))
    own = Own(np.flatnonzero(drawn.lengths == 16))
    for batch in batches(drawn, 60, own=own, own_share=0.5):
        assert bool((batch.context < 0).any()) == (batch.target.shape[1] == 16)


def test_few_generated_contexts_are_not_drawn_more_often_than_there_are() -> None:
    drawn, _ = sampler(episode(300))
    own = Own(np.flatnonzero(drawn.lengths == 8)[:2])
    shares = {int((batch.context[:, 0] < 0).sum()) for batch in batches(drawn, 60, own=own, own_share=1.0)}
    assert shares == {0, 2}


# ---- what a router sees ----


def test_a_router_sees_the_coming_actions_beyond_the_chunk_up_to_the_episodes_end() -> None:
    drawn, recordings = sampler(episode(300), episode(40, seed=1))
    beyond = 0
    for batch in batches(drawn, 150):
        assert batch.coming.shape == (len(batch.target), CONTEXT + LOOKAHEAD, 2)
        for frames, coming in zip(rows(batch), batch.coming.numpy(), strict=True):
            anchor = frames[CONTEXT - 1]
            first, end = (0, 300) if anchor < 300 else (300, 340)
            seen = np.clip(np.arange(anchor - CONTEXT + 1, anchor + LOOKAHEAD + 1), first, end - 1)
            np.testing.assert_array_equal(coming, encode_actions(recordings.motion[seen], CONTEXT - 1, SPACE))
            beyond += anchor + LOOKAHEAD >= end
    assert beyond  # the last command was held past an episode's end


def test_past_the_end_of_a_plan_a_router_sees_the_last_command_held() -> None:
    drawn, recordings = sampler(episode(300), cropped=1.0)
    held_seen = 0
    for batch in batches(drawn, 100):
        planned = int(batch.mask[0].sum())
        for frames, coming in zip(rows(batch), batch.coming.numpy(), strict=True):
            anchor = frames[CONTEXT - 1]
            if planned == drawn.lengths[anchor]:
                continue  # not cut short after all
            seen = np.minimum(np.arange(anchor - CONTEXT + 1, anchor + LOOKAHEAD + 1), anchor + planned)
            seen = np.clip(seen, 0, 299)
            np.testing.assert_array_equal(coming, encode_actions(recordings.motion[seen], CONTEXT - 1, SPACE))
            held_seen += planned < LOOKAHEAD
    assert held_seen


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_a_batch_can_be_cut_into_equal_parts(parts: int) -> None:
    drawn, _ = sampler(episode(300))
    for batch in batches(drawn, 40, parts=parts):
        assert len(batch.target) % parts == 0
        assert len(batch.target) >= parts


def test_actions_of_many_chunks_at_once_are_those_of_each() -> None:
    drawn, recordings = sampler(episode(120), episode(50, seed=1))
    anchors = drawn.anchors(np.random.default_rng(0), 40)
    together = drawn.actions(anchors, 8, planned=5)
    for anchor, found in zip(anchors, together.numpy(), strict=True):
        first, end = (0, 120) if anchor < 120 else (120, 170)
        steps = np.minimum(np.arange(1 - CONTEXT, 9), 5)
        motion = recordings.motion[np.clip(anchor + steps, first, end - 1)]
        np.testing.assert_array_equal(found, encode_actions(motion, CONTEXT - 1, SPACE))
