# SPDX-License-Identifier: Apache-2.0
"""Which chunks training draws from recordings."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from longscape_ros.actions import encode_actions
from longscape_ros.contract import ActionDimension, ActionSpace, ChunkRule
from longscape_ros.errors import InputError
from longscape_ros.model.data import ChunkSampler, Recordings
from longscape_ros.model.world import ChunkBatch
from longscape_ros.segmentation import expert_for, lengths_from_everywhere
from longscape_ros.timeline import GridEpisode

CONTEXT = 4
SPACE = ActionSpace((ActionDimension("x", "m", "position", motion_range=1.0, scale=1.0),))
RULE = ChunkRule(base=8, lengths=(8, 16, 24, 32), threshold=0.5)
FRAMES_PER_BATCH = 64


def episode(frames: int, seed: int = 0, silent: slice = slice(0, 0)) -> GridEpisode:
    """x moves slowly, and faster and faster; in ``silent`` nothing was commanded."""
    at = np.linspace(0, 1, frames)
    commanded = np.ones(frames, bool)
    commanded[silent] = False
    motion = np.cumsum(0.1 * at**2)[:, None] + seed
    return GridEpisode(f"episode {seed}", np.arange(frames), np.zeros((frames, 8, 8, 3), np.uint8), motion, commanded, "")


def sampler(*episodes: GridEpisode, cropped: float = 0.0) -> tuple[ChunkSampler, Recordings]:
    """Over latents that say which frame they are: [M, 1, 1, 1]."""
    recordings = Recordings.of(episodes)
    latents = torch.arange(len(recordings.frames), dtype=torch.float32).reshape(-1, 1, 1, 1)
    return ChunkSampler(recordings, latents, SPACE, RULE, CONTEXT, FRAMES_PER_BATCH, cropped), recordings


def batches(drawn: ChunkSampler, count: int, routed: bool = True) -> list[ChunkBatch]:
    return [drawn.batch(np.random.default_rng([7, step]), routed) for step in range(count)]


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


def test_a_batch_has_one_length_its_expert_and_as_many_frames_as_asked() -> None:
    drawn, _ = sampler(episode(300))
    for batch in batches(drawn, 50):
        length = batch.target.shape[1]
        assert len(batch.target) == FRAMES_PER_BATCH // length
        assert batch.expert == expert_for(length, RULE)
        assert batch.actions.shape == (len(batch.target), CONTEXT + length, 2)
        assert (batch.mask == 1).all()
        assert batch.mask.shape == (len(batch.target), length)


def test_before_the_experts_part_all_chunks_go_to_the_first() -> None:
    drawn, _ = sampler(episode(300))
    assert {batch.expert for batch in batches(drawn, 50, routed=False)} == {0}


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
        assert batch.expert == expert_for(length, RULE)
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
    first, again = (drawn.batch(np.random.default_rng([3, 5]), True) for _ in range(2))
    for name in ("context", "target", "actions", "mask"):
        torch.testing.assert_close(getattr(first, name), getattr(again, name), atol=0, rtol=0)
