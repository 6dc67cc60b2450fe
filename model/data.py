# SPDX-License-Identifier: Apache-2.0
"""Recorded episodes as training batches.

A chunk may begin at every frame. Its length is what the chunk rule gives there; batches hold chunks of one length, and the
lengths are drawn evenly, so that every expert learns as much as the others however rare its length is.

Letters: M frames of all episodes, E episodes, B batch, K context frames, T chunk frames, A action dimensions, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longscape_ros.actions import encode_actions
from longscape_ros.contract import ActionSpace, ChunkRule
from longscape_ros.errors import InputError
from longscape_ros.model.world import ChunkBatch
from longscape_ros.segmentation import expert_for, lengths_from_everywhere
from longscape_ros.timeline import GridEpisode


@dataclass(frozen=True)
class Recordings:
    """Episodes end to end.

    Args:
        frames: uint8 [M, H, W, 3].
        motion: float64 [M, A].
        commanded: bool [M].
        bounds: int64 [E + 1], where each episode begins, and M.
    """

    frames: NDArray[np.uint8]
    motion: NDArray[np.float64]
    commanded: NDArray[np.bool_]
    bounds: NDArray[np.int64]

    @classmethod
    def of(cls, episodes: Sequence[GridEpisode]) -> Recordings:
        """Join episodes of one image size and action."""
        return cls(
            np.concatenate([e.frames for e in episodes]),
            np.concatenate([e.motion for e in episodes]),
            np.concatenate([e.commanded for e in episodes]),
            np.cumsum([0, *(len(e.frames) for e in episodes)]),
        )

    def motions(self) -> list[NDArray[np.float64]]:
        """The motion of each episode."""
        return [self.motion[a:b] for a, b in zip(self.bounds[:-1], self.bounds[1:], strict=True)]


class ChunkSampler:
    """Draws batches of chunks from encoded recordings.

    Args:
        recordings: Motion and episode bounds.
        latents: float16 or float32 [M, C, h, w] of the recordings' frames.
        space: The calibrated action.
        rule: The calibrated chunk rule.
        context: K.
        frames_per_batch: B * T of a batch.
        cropped: Share of batches whose chunks are cut short, padded and masked, as at the end of a plan or of the horizon.

    Raises:
        InputError: no chunk fits into the episodes.
    """

    def __init__(
        self,
        recordings: Recordings,
        latents: Tensor,
        space: ActionSpace,
        rule: ChunkRule,
        context: int,
        frames_per_batch: int,
        cropped: float = 0.15,
    ) -> None:
        self._recordings, self._latents = recordings, latents
        self._space, self._rule, self._context = space, rule, context
        self._frames_per_batch, self._cropped = frames_per_batch, cropped
        self._first = np.repeat(recordings.bounds[:-1], np.diff(recordings.bounds))  # [M], first frame of each frame's episode
        lengths = np.concatenate([np.append(lengths_from_everywhere(m, space, rule), 0) for m in recordings.motions()])  # [M]
        gaps = np.append(0, np.cumsum(~recordings.commanded))
        ends = np.minimum(np.arange(len(lengths)) + lengths, len(lengths) - 1)
        lengths[gaps[ends + 1] > gaps[np.arange(len(lengths))]] = 0  # the action of every frame must have been commanded
        self._starts = {length: np.flatnonzero(lengths == length) for length in rule.lengths if (lengths == length).any()}
        if not self._starts:
            raise InputError(f"Got no {rule.lengths[0]} commanded steps in a row in any episode, expected some; check the topic mapping.")

    @property
    def shares(self) -> dict[int, float]:
        """Length -> share of the places where a chunk can begin."""
        total = sum(len(starts) for starts in self._starts.values())
        return {length: len(self._starts.get(length, ())) / total for length in self._rule.lengths}

    def batch(self, random: np.random.Generator, routed: bool) -> ChunkBatch:
        """A batch of one length; ``routed``: through the length's expert, otherwise through the first."""
        length = int(random.choice(list(self._starts)))
        starts = self._starts[length]
        planned = length
        if random.random() < self._cropped:
            planned = int(random.integers(1, length + 1))
            length = min(candidate for candidate in self._rule.lengths if candidate >= planned)
        count = max(1, self._frames_per_batch // length)
        anchors = random.choice(starts, count)
        rows = anchors[:, None] + np.arange(1 - self._context, length + 1)  # [B, K + T]
        rows = np.maximum(rows, self._first[anchors][:, None])  # before an episode's first frame: that frame, as the timeline does
        latents = self._latents[torch.from_numpy(rows)].float()
        held = rows[:, np.minimum(np.arange(rows.shape[1]), self._context - 1 + planned)]  # past the plan's end: its last command
        actions = np.stack([encode_actions(self._recordings.motion[r], self._context - 1, self._space) for r in held])
        mask = (torch.arange(length) < planned).float().expand(count, length)
        return ChunkBatch(
            context=latents[:, : self._context],
            target=latents[:, self._context :],
            actions=torch.from_numpy(actions),
            mask=mask,
            expert=expert_for(length, self._rule) if routed else 0,
        )
