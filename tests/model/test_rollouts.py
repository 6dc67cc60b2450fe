# SPDX-License-Identifier: Apache-2.0
"""Rollouts along recordings, and the contexts kept of them. Latents say which frame they are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from longscape_ros.contract import ActionDimension, ActionSpace, ChunkRule
from longscape_ros.model.data import ChunkSampler, Recordings
from longscape_ros.model.rollouts import OwnContexts, Rollouts
from longscape_ros.model.world import Denoiser
from longscape_ros.timeline import GridEpisode

CONTEXT = 4
SPACE = ActionSpace((ActionDimension("x", "m", "position", motion_range=1.0, scale=1.0),))
RULE = ChunkRule(base=8, lengths=(8, 16, 24, 32), threshold=0.5)
SIZES = (120, 90)


class Exact:
    """A denoiser whose samples are what comes next, plus an offset per chunk; it remembers what it was asked."""

    def __init__(self, offset: float = 0.0) -> None:
        self.config = SimpleNamespace(transformer=SimpleNamespace(experts=4))
        self.offset = offset
        self.asked: list[dict[str, Any]] = []

    def route(self, context: Tensor, coming: Tensor, length: int, gumbel: Tensor) -> int:
        self.asked.append({"number": length, "coming": coming, "gumbel": gumbel})
        return length

    def sample(self, context: Tensor, actions: Tensor, noise: Tensor, route: int, steps: int) -> Tensor:
        self.asked[-1] |= {"actions": actions, "noise": noise, "route": route, "steps": steps}
        count = torch.arange(1, noise.shape[1] + 1).reshape(1, -1, 1, 1, 1)
        return context[:, -1:] + count + self.offset


def denoiser(offset: float = 0.0) -> Any:
    return cast("Denoiser", Exact(offset))


@pytest.fixture
def sampler() -> ChunkSampler:
    """Two episodes in which x moves faster and faster."""
    episodes = []
    for number, frames in enumerate(SIZES):
        motion = np.cumsum(0.1 * np.linspace(0, 1, frames) ** 2)[:, None]
        images = np.zeros((frames, 8, 8, 3), np.uint8)
        episodes.append(GridEpisode(f"{number}", np.arange(frames), images, motion, np.ones(frames, bool), ""))
    recordings = Recordings.of(episodes)
    latents = torch.arange(sum(SIZES), dtype=torch.float32).reshape(-1, 1, 1, 1)
    return ChunkSampler(recordings, latents, SPACE, RULE, CONTEXT, 64, 12)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def everywhere(sampler: ChunkSampler) -> NDArray[np.int64]:
    return np.flatnonzero(sampler.lengths)


def test_a_rollout_that_is_right_stays_on_the_recording_to_the_episodes_end(sampler: ChunkSampler) -> None:
    anchors = everywhere(sampler)
    rollouts, model = Rollouts(sampler, anchors), denoiser()
    reached = anchors.copy()
    while parts := list(rollouts.advance(model, generator(), 3)):
        for part in parts:
            length = part.latents.shape[1]
            assert (sampler.lengths[part.anchors] == length).all()
            np.testing.assert_array_equal(part.anchors, reached[part.which])
            np.testing.assert_array_equal(part.latents, sampler.target(part.anchors, length))
            np.testing.assert_array_equal(part.context, sampler.context(part.anchors))
            np.testing.assert_array_equal(part.actions, sampler.actions(part.anchors, length))
            reached[part.which] += length
    np.testing.assert_array_equal(rollouts.anchors, reached)
    np.testing.assert_array_equal(rollouts.context, sampler.context(reached))
    ends = np.where(anchors < SIZES[0], SIZES[0], sum(SIZES)) - 1
    assert (reached <= ends).all()
    assert (sampler.lengths[reached] == 0).all()  # no further chunk fits
    assert (ends - reached < RULE.lengths[0]).all()


def test_every_rollout_advances_by_one_chunk_at_a_time(sampler: ChunkSampler) -> None:
    rollouts = Rollouts(sampler, everywhere(sampler))
    parts = list(rollouts.advance(denoiser(), generator(), 3))
    assert [part.latents.shape[1] for part in parts] == sorted({int(n) for n in sampler.lengths} - {0})
    assert sorted(np.concatenate([part.which for part in parts]).tolist()) == list(range(len(everywhere(sampler))))


def test_the_denoiser_gets_route_actions_and_steps_of_the_chunk(sampler: ChunkSampler) -> None:
    rollouts, model = Rollouts(sampler, everywhere(sampler)), denoiser()
    for part, asked in zip(rollouts.advance(model, generator(), 3), model.asked, strict=True):
        length = part.latents.shape[1]
        assert (asked["number"], asked["route"], asked["steps"]) == (RULE.lengths.index(length), RULE.lengths.index(length), 3)
        assert asked["noise"].shape == part.latents.shape
        assert asked["gumbel"].shape == (len(part.which), 4)
        np.testing.assert_array_equal(asked["coming"], sampler.coming(part.anchors))
        np.testing.assert_array_equal(asked["actions"], part.actions)


def test_what_was_generated_is_the_next_chunks_context(sampler: ChunkSampler) -> None:
    rollouts, model = Rollouts(sampler, np.array([0])), denoiser(offset=0.25)
    (first,), (second,) = (list(rollouts.advance(model, generator(), 3)) for _ in range(2))
    np.testing.assert_array_equal(second.context, first.latents[:, -CONTEXT:])
    assert float((second.latents - sampler.target(second.anchors, second.latents.shape[1])).max()) == 0.5  # errors add up


def test_stopped_rollouts_stay_where_they_are(sampler: ChunkSampler) -> None:
    rollouts = Rollouts(sampler, np.array([0, 1, 2]))
    rollouts.stop(np.array([False, True, False]))
    for _ in range(2):
        moved = np.concatenate([part.which for part in rollouts.advance(denoiser(), generator(), 3)])
        assert sorted(moved.tolist()) == [0, 2]
    assert rollouts.anchors[1] == 1


# ---- kept contexts ----


def test_contexts_after_each_generated_chunk_are_kept_with_the_frames_they_stand_for(sampler: ChunkSampler) -> None:
    own = OwnContexts(capacity=1000)
    assert len(own) == 0
    own.refresh(denoiser(), sampler, np.random.default_rng(0), rollouts=10, chunks=3, steps=2)
    assert 10 < len(own) <= 30  # some come to their episode's end before the third chunk
    anchors, contexts = own.at(np.arange(len(own)))
    np.testing.assert_array_equal(anchors, own.anchors)
    np.testing.assert_array_equal(contexts, sampler.context(anchors))  # whole numbers below 256 survive bfloat16


def test_the_ring_keeps_the_newest(sampler: ChunkSampler) -> None:
    own, whole = OwnContexts(capacity=25), OwnContexts(capacity=1000)
    for kept in (own, whole):
        random = np.random.default_rng(0)
        for number in range(3):
            kept.refresh(denoiser(offset=float(number)), sampler, random, rollouts=10, chunks=2, steps=2)
    assert len(own) == 25 < len(whole)
    np.testing.assert_array_equal(own.anchors, whole.anchors[-25:])
    newest = np.arange(len(whole) - 25, len(whole))
    np.testing.assert_array_equal(own.at(np.arange(25))[1], whole.at(newest)[1])


def test_kept_contexts_go_on_from_a_checkpoint(sampler: ChunkSampler) -> None:
    own = OwnContexts(capacity=50)
    own.refresh(denoiser(), sampler, np.random.default_rng(0), rollouts=10, chunks=2, steps=2)
    again = OwnContexts(capacity=50)
    again.load_state_dict(own.state_dict(), torch.device("cpu"))
    for kept in (own, again):
        kept.refresh(denoiser(offset=0.5), sampler, np.random.default_rng(1), rollouts=10, chunks=2, steps=2)
    np.testing.assert_array_equal(own.anchors, again.anchors)
    np.testing.assert_array_equal(own.at(np.arange(len(own)))[1], again.at(np.arange(len(own)))[1])


def test_a_checkpoint_from_before_the_first_context_is_one_without_any() -> None:
    again = OwnContexts(capacity=50)
    again.load_state_dict(OwnContexts(capacity=50).state_dict(), torch.device("cpu"))
    assert len(again) == 0
