# SPDX-License-Identifier: Apache-2.0
"""Recorded episodes as training batches.

A chunk may begin at every frame. Its length is what the chunk rule gives there; batches hold chunks of one length, and the
lengths are drawn evenly, so that every expert learns as much as the others however rare its length is.

Letters: M frames of all episodes, E episodes, B batch, K context frames, T chunk frames, L steps the router looks ahead, A action
dimensions, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longscape_ros.actions import encode_actions
from longscape_ros.contract import ActionSpace, ChunkRule
from longscape_ros.errors import InputError
from longscape_ros.model.world import ChunkBatch
from longscape_ros.segmentation import lengths_from_everywhere
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


class Generated(Protocol):
    """Contexts that the model generated: :class:`longscape_ros.model.rollouts.OwnContexts`."""

    @property
    def anchors(self) -> NDArray[np.int64]:
        """int64 [N], the frame that each entry's chunk begins after."""

    def at(self, places: NDArray[np.int64]) -> tuple[NDArray[np.int64], Tensor]:
        """Anchors [n] and contexts [n, K, C, h, w] of some entries."""


class ChunkSampler:
    """Draws batches of chunks from encoded recordings.

    Args:
        recordings: Motion and episode bounds.
        latents: float16 or float32 [M, C, h, w] of the recordings' frames; batches are made on their device.
        space: The calibrated action.
        rule: The calibrated chunk rule.
        context: K.
        frames_per_batch: B * T of a batch.
        lookahead: L.
        cropped: Share of batches whose chunks are cut short, padded and masked, as at the end of a plan or of the horizon.
        shuffled: Deal the chunk lengths out by chance instead, as many of each: to compare with.
        kept: bool [E], the episodes to draw from; None: all.

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
        lookahead: int = 32,
        cropped: float = 0.15,
        shuffled: bool = False,
        kept: NDArray[np.bool_] | None = None,
    ) -> None:
        self._recordings, self._latents = recordings, latents
        self._space, self._rule, self._context = space, rule, context
        self._frames_per_batch, self._lookahead, self._cropped = frames_per_batch, lookahead, cropped
        sizes = np.diff(recordings.bounds)
        self._first = np.repeat(recordings.bounds[:-1], sizes)  # [M], first frame of each frame's episode
        self._last = np.repeat(recordings.bounds[1:] - 1, sizes)  # [M]
        self.lengths = np.concatenate([np.append(lengths_from_everywhere(m, space, rule), 0) for m in recordings.motions()])
        """int64 [M], of the chunk that begins after each frame; 0: none does."""
        if shuffled:
            cut = np.flatnonzero(self.lengths)
            self.lengths[cut] = np.random.default_rng(0).permutation(self.lengths[cut])
        gaps = np.append(0, np.cumsum(~recordings.commanded))
        ends = np.arange(len(self.lengths)) + self.lengths
        inside = np.minimum(ends, len(self.lengths) - 1)
        # every frame of a chunk is its episode's, and its action was commanded
        self.lengths[(ends > self._last) | (gaps[inside + 1] > gaps[np.arange(len(self.lengths))])] = 0
        if kept is not None:
            self.lengths[~np.repeat(kept, sizes)] = 0
        self._starts = {length: np.flatnonzero(self.lengths == length) for length in rule.lengths if (self.lengths == length).any()}
        if not self._starts:
            raise InputError(f"Got no {rule.lengths[0]} commanded steps in a row in any episode, expected some; check the topic mapping.")

    @property
    def shares(self) -> dict[int, float]:
        """Length -> share of the places where a chunk can begin."""
        total = sum(len(starts) for starts in self._starts.values())
        return {length: len(self._starts.get(length, ())) / total for length in self._rule.lengths}

    def number(self, length: int) -> int:
        """Which of the rule's lengths this is."""
        return self._rule.lengths.index(length)

    def batch(self, random: np.random.Generator, own: Generated | None = None, own_share: float = 0.0, parts: int = 1) -> ChunkBatch:
        """A batch of one length.

        Args:
            random: Draws.
            own: Contexts that the model generated.
            own_share: Of the chunks that go on from those, as far as there are any of this length.
            parts: The batch can be cut into so many equal parts.
        """
        length = int(random.choice(list(self._starts)))
        starts = self._starts[length]
        planned, begun = length, length
        if random.random() < self._cropped:
            planned = int(random.integers(1, length + 1))
            length = min(candidate for candidate in self._rule.lengths if candidate >= planned)
        count = max(1, self._frames_per_batch // length // parts) * parts
        anchors = random.choice(starts, count)
        context = self.context(anchors)
        if own is not None and own_share:
            entries = np.flatnonzero(self.lengths[own.anchors] == begun)
            share = min(len(entries), round(own_share * count))
            if share:
                places = np.arange(share) * count // share  # spread over the parts
                anchors[places], generated = own.at(random.choice(entries, share))
                context[torch.from_numpy(places).to(context.device)] = generated
        rows = torch.from_numpy(anchors[:, None] + np.arange(1, length + 1))
        return ChunkBatch(
            context=context,
            target=self._latents[rows].float(),
            actions=self.actions(anchors, length, planned),
            coming=self.coming(anchors, planned if planned < begun else None),
            mask=(torch.arange(length) < planned).float().expand(count, length).to(self._latents.device),
            length=self.number(length),
        )

    def anchors(self, random: np.random.Generator, count: int) -> NDArray[np.int64]:
        """int64 [count], frames after which a chunk begins, drawn evenly over all such frames."""
        return random.choice(np.flatnonzero(self.lengths), count)

    def context(self, anchors: NDArray[np.int64]) -> Tensor:
        """Recorded latents [B, K, C, h, w] up to the anchors; before an episode's first frame that frame, as the timeline does."""
        rows = np.maximum(anchors[:, None] + np.arange(1 - self._context, 1), self._first[anchors][:, None])
        return self._latents[torch.from_numpy(rows)].float()

    def target(self, anchors: NDArray[np.int64], length: int) -> Tensor:
        """Recorded latents [B, T, C, h, w] after the anchors."""
        return self._latents[torch.from_numpy(anchors[:, None] + np.arange(1, length + 1))].float()

    def actions(self, anchors: NDArray[np.int64], length: int, planned: int | None = None) -> Tensor:
        """[B, K + T, F] of chunks; past ``planned`` steps the last command is held."""
        steps = np.minimum(np.arange(1 - self._context, length + 1), length if planned is None else planned)
        rows = np.clip(anchors[:, None] + steps, self._first[anchors][:, None], self._last[anchors][:, None])
        features = encode_actions(self._recordings.motion[rows], self._context - 1, self._space)
        return torch.from_numpy(features).to(self._latents.device)

    def coming(self, anchors: NDArray[np.int64], planned: int | None = None) -> Tensor:
        """[B, K + L, F], what a router sees: the same without a cut, up to the episode's end."""
        return self.actions(anchors, self._lookahead, planned)
