# SPDX-License-Identifier: Apache-2.0
"""The model's own rollouts as training material.

A model that is trained on recorded contexts only meets its own mistakes for the first time when chunks are chained. So it is also
trained to go on, towards what was recorded, from contexts that it generated itself (compare DAgger, arXiv 1011.0686, and self
forcing, arXiv 2506.08009). They are kept for a while in a ring and drawn many times.

Letters: R rollouts, K context frames, T chunk frames, C h w latent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longscape_ros.model.data import ChunkSampler
from longscape_ros.model.moe import standard_gumbel
from longscape_ros.model.world import Denoiser


@dataclass(frozen=True)
class RolledChunks:
    """One chunk each of some rollouts, all of one length.

    Args:
        which: int64 [R], the rollouts.
        anchors: int64 [R], the frames that the chunks begin after.
        context: Latents [R, K, C, h, w], what was generated before, or recorded.
        actions: [R, K + T, F].
        latents: [R, T, C, h, w], what was generated.
    """

    which: NDArray[np.int64]
    anchors: NDArray[np.int64]
    context: Tensor
    actions: Tensor
    latents: Tensor


class Rollouts:
    """Rollouts in progress, each at its own place in the recordings; they end where no further chunk fits.

    Args:
        sampler: Recordings and chunk rule.
        anchors: int64 [R], where they begin.
    """

    def __init__(self, sampler: ChunkSampler, anchors: NDArray[np.int64]) -> None:
        self._sampler = sampler
        self.anchors = anchors.copy()
        self.context = sampler.context(anchors)  # [R, K, C, h, w]
        self._stopped = np.zeros(len(anchors), bool)

    def stop(self, which: NDArray[np.bool_]) -> None:
        """End the rollouts marked in bool [R]."""
        self._stopped |= which

    @torch.no_grad()
    def advance(self, denoiser: Denoiser, generator: torch.Generator, steps: int) -> Iterator[RolledChunks]:
        """Denoise the next chunk of every rollout that can go on; those of one length together."""
        lengths = np.where(self._stopped, 0, self._sampler.lengths[self.anchors])
        known = self.context.shape[1]
        device = self.context.device
        for length in sorted(set(lengths.tolist()) - {0}):
            which = np.flatnonzero(lengths == length)
            anchors = self.anchors[which]
            rows = torch.from_numpy(which).to(device)
            context = self.context[rows]
            actions, coming = self._sampler.actions(anchors, length), self._sampler.coming(anchors)
            experts = denoiser.config.transformer.experts
            gumbel = standard_gumbel(len(which), experts, generator=generator)
            number = self._sampler.number(length)
            route = denoiser.route(context, coming, number, gumbel)
            noise = torch.randn(len(which), length, *context.shape[2:], device=device, generator=generator)
            latents = denoiser.sample(context, actions, noise, route, steps).float()
            self.context[rows] = torch.cat((context, latents), dim=1)[:, -known:]
            self.anchors[which] = anchors + length
            yield RolledChunks(which, anchors, context, actions, latents)


class OwnContexts:
    """A ring of contexts that the model generated, and the frames they stand for.

    Args:
        capacity: Most contexts kept.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._contexts: Tensor | None = None  # bfloat16 [N, K, C, h, w]
        self._anchors = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self._anchors)

    def refresh(
        self, denoiser: Denoiser, sampler: ChunkSampler, random: np.random.Generator, rollouts: int, chunks: int, steps: int
    ) -> None:
        """Add the contexts after one, two, ... ``chunks`` generated chunks of some new rollouts; the oldest make room."""
        running = Rollouts(sampler, sampler.anchors(random, rollouts))
        generator = torch.Generator(running.context.device).manual_seed(int(random.integers(2**62)))
        for _ in range(chunks):
            moved = np.concatenate([part.which for part in running.advance(denoiser, generator, steps)] or [np.empty(0, np.int64)])
            self._add(running.anchors[moved], running.context[torch.from_numpy(moved).to(running.context.device)].bfloat16())

    def _add(self, anchors: NDArray[np.int64], contexts: Tensor) -> None:
        kept = contexts if self._contexts is None else torch.cat((self._contexts, contexts))
        self._contexts = kept[-self._capacity :]
        self._anchors = np.concatenate((self._anchors, anchors))[-self._capacity :]

    def at(self, places: NDArray[np.int64]) -> tuple[NDArray[np.int64], Tensor]:
        """Anchors [n] and contexts [n, K, C, h, w] of some entries."""
        assert self._contexts is not None, "nothing was generated yet"
        return self._anchors[places], self._contexts[torch.from_numpy(places).to(self._contexts.device)].float()

    @property
    def anchors(self) -> NDArray[np.int64]:
        """int64 [N], the frame that each entry's chunk begins after."""
        return self._anchors

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"contexts": self._contexts, "anchors": torch.from_numpy(self._anchors)}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from a checkpoint."""
        self._contexts = None if state["contexts"] is None else state["contexts"].to(device)
        self._anchors = state["anchors"].numpy()
