# SPDX-License-Identifier: Apache-2.0
"""The chunk transformer: denoises all latent frames of a chunk at once, given the frames before it and the actions.

Tokens are tubelets (ViViT, arXiv 2103.15691): small patches of a few consecutive latent frames. A chunk's tokens attend to each
other and to the context's; the context attends to itself only, so its keys and values are computed once per chunk and serve every
sampling step. Every frame's action and the diffusion time go in through adaptive layer norm (DiT, arXiv 2212.09748;
Cosmos-Predict2.5 measured this place best for frame-level actions).

Letters: B batch, K context frames, T chunk frames, C h w latent, G groups of ``tubelet`` frames, P patches per group, D width,
N heads, F action features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from longscape_ros.model import flow
from longscape_ros.model.moe import ExpertFeedForward, Route

Cache = list[tuple[Tensor, Tensor]]
"""Keys and values [B, N, G * P, D / N] of the context, one pair per block."""

Modulations = Sequence[Tensor]
"""Shifts, scales and gates: [B, G, 1, 6 D] for each block, and [B, G, 1, 2 D] for the output."""


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of the chunk transformer.

    Args:
        latent_shape: (C, h, w).
        action_features: F, columns of :func:`longscape_ros.actions.encode_actions`.
        context: K.
        max_length: Longest chunk in frames.
        patch: Side of a patch in latent pixels.
        tubelet: Frames per token.
        width: D.
        depth: Blocks.
        heads: N.
        hidden: Width inside an expert.
        experts: Feed-forward networks per block.
    """

    latent_shape: tuple[int, int, int]
    action_features: int
    context: int = 4
    max_length: int = 32
    patch: int = 2
    tubelet: int = 4
    width: int = 256
    depth: int = 6
    heads: int = 4
    hidden: int = 512
    experts: int = 4

    def __post_init__(self) -> None:
        if any(side % self.patch for side in self.latent_shape[1:]):
            raise ValueError(f"Got a latent of {self.latent_shape} and patch {self.patch}, expected a patch that divides height and width.")
        if self.context % self.tubelet or self.max_length % self.tubelet:
            raise ValueError(
                f"Got {self.context} context frames, chunks up to {self.max_length} and tubelet {self.tubelet}, "
                "expected a tubelet that divides both."
            )
        if self.width % self.heads or self.width % 2:
            raise ValueError(f"Got width {self.width} and {self.heads} heads, expected an even width that the heads divide.")

    @property
    def patches(self) -> int:
        """P."""
        return self.latent_shape[1] * self.latent_shape[2] // self.patch**2


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Scale and shift [B, G, P, D] by per-group [B, G, 1, D]."""
    return x * (1 + scale) + shift


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention [B, N, ..., D / N].

    While training on a CPU it is written out: there the fused kernel's backward pass takes two to four times as long, for chunks are
    short. The kernel is left out of autocast then, which would turn the weights into single precision.
    """
    if query.device.type != "cpu" or not query.requires_grad:
        return F.scaled_dot_product_attention(query, key, value)
    with torch.autocast("cpu", enabled=False):
        weights = torch.softmax(query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1), dim=-1)
        return weights @ value


class Block(nn.Module):
    """Attention and an expert, each behind an adaptive layer norm with a gate that starts at zero."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm = nn.LayerNorm(config.width, elementwise_affine=False, eps=1e-6)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.feed_forward = ExpertFeedForward(config.width, config.hidden, config.experts)
        self.modulation = nn.Linear(config.width, 6 * config.width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(
        self, x: Tensor, modulation: Tensor, route: Route | int, cached: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """[B, G, P, D], modulation [B, G, 1, 6 D] -> [B, G, P, D], and the keys and values of these tokens."""
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = modulation.chunk(6, dim=-1)
        groups = x.shape[1]
        qkv = self.qkv(modulate(self.norm(x), shift_a, scale_a))
        query, key, value = rearrange(qkv, "b g p (three n d) -> three b n (g p) d", three=3, n=self.heads)
        keys, values = (key, value) if cached is None else (torch.cat((cached[0], key), dim=2), torch.cat((cached[1], value), dim=2))
        attended = rearrange(attend(query, keys, values), "b n (g p) d -> b g p (n d)", g=groups)
        x = x + gate_a * self.out(attended)
        x = x + gate_f * self.feed_forward(modulate(self.norm(x), shift_f, scale_f), route)
        return x, (key, value)


class ChunkTransformer(nn.Module):
    """Estimates the clean latents of a chunk from noisy ones."""

    frequencies: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        pixels = config.tubelet * config.latent_shape[0] * config.patch**2
        reference = config.latent_shape[0] * config.patch**2
        self.embed_context = nn.Linear(pixels, config.width)
        self.embed_noisy = nn.Linear(pixels + reference, config.width)
        self.place = nn.Parameter(0.02 * torch.randn(config.patches, config.width))
        self.moment = nn.Parameter(0.02 * torch.randn((config.context + config.max_length) // config.tubelet, config.width))
        self.embed_action = nn.Sequential(
            nn.Linear(config.tubelet * config.action_features, config.width), nn.SiLU(), nn.Linear(config.width, config.width)
        )
        self.embed_time = nn.Sequential(nn.Linear(config.width, config.width), nn.SiLU(), nn.Linear(config.width, config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Linear(config.width, 2 * config.width)
        self.project = nn.Linear(config.width, pixels)
        half = config.width // 2
        self.register_buffer("frequencies", torch.exp(-math.log(10_000) * torch.arange(half) / half), persistent=False)
        for layer in (self.modulation, self.project):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def tokens(self, latents: Tensor, tubelet: int) -> Tensor:
        """[B, T, C, h, w] -> [B, G, P, tubelet * C * patch^2]."""
        patch = self.config.patch
        return rearrange(latents, "b (g f) c (y p) (x q) -> b g (y x) (f c p q)", f=tubelet, p=patch, q=patch)

    def frames(self, tokens: Tensor) -> Tensor:
        """The inverse of :meth:`tokens` with whole tubelets: [B, G, P, tubelet * C * patch^2] -> [B, T, C, h, w]."""
        config = self.config
        sizes = {"y": config.latent_shape[1] // config.patch, "f": config.tubelet, "p": config.patch, "q": config.patch}
        return rearrange(tokens, "b g (y x) (f c p q) -> b (g f) c (y p) (x q)", **sizes)

    def condition(self, actions: Tensor, time: Tensor, moments: Tensor) -> Tensor:
        """Actions [B, T, F], time [..., B or 1] in 0 ... 1 and moments [G, D] -> what modulates each group, [..., B, G, D]."""
        angles = 1000 * time[..., None] * self.frequencies
        wave = torch.cat((angles.cos(), angles.sin()), dim=-1)
        grouped = rearrange(actions, "b (g f) a -> b g (f a)", f=self.config.tubelet)
        out: Tensor = F.silu(self.embed_action(grouped) + self.embed_time(wave).unsqueeze(-2) + moments)
        return out

    def modulations(self, condition: Tensor) -> list[Tensor]:
        """Of a condition [..., G, D], see :data:`Modulations`; the shape may have more dimensions in front."""
        layers = [*(block.get_submodule("modulation") for block in self.blocks), self.modulation]
        return [layer(condition).unsqueeze(-2) for layer in layers]

    def encode_context(self, context: Tensor, actions: Tensor, route: Route | int, time: Tensor | None = None) -> Cache:
        """Keys and values of the frames before the chunk.

        Args:
            context: Latents [B, K, C, h, w].
            actions: Their actions [B, K, F].
            route: The experts of each chunk, or one expert for all.
            time: [B], how clean the context is, 0 to 1; None: clean.
        """
        moments = self.moment[: self.config.context // self.config.tubelet]
        condition = self.condition(actions, torch.ones_like(actions[:, 0, 0]) if time is None else time, moments)
        x = self.embed_context(self.tokens(context, self.config.tubelet)) + self.place + moments[:, None]
        cache = []
        for block, modulation in zip(self.blocks, self.modulations(condition), strict=False):
            x, pair = block(x, modulation, route, None)
            cache.append(pair)
        return cache

    def forward(self, noisy: Tensor, time: Tensor, last: Tensor, actions: Tensor, route: Route | int, cache: Cache) -> Tensor:
        """Clean latents of the chunk.

        Args:
            noisy: [B, T, C, h, w].
            time: [B], 0 (noise) to 1 (clean).
            last: [B, C, h, w], the newest context frame; the output is an offset from it.
            actions: [B, T, F].
            route: The experts of each chunk, or one expert for all.
            cache: From :meth:`encode_context`.
        """
        moments = self._moments(actions)
        modulations = self.modulations(self.condition(actions, time, moments))
        offset = self._offset(self.tokens(noisy, self.config.tubelet), self.tokens(last[:, None], 1), moments, modulations, route, cache)
        return last[:, None] + self.frames(offset)

    def sample(self, noise: Tensor, last: Tensor, actions: Tensor, route: Route | int, cache: Cache, steps: int) -> Tensor:
        """Euler steps from noise to a chunk, which is what :func:`flow.sample` does with :meth:`forward`.

        It is cheaper: latents stay tokens from the first step to the last, and what modulates the blocks is computed for all steps at
        once, for it does not depend on the tokens: these layers' weights, two fifths of those that work on a chunk, are read once.

        Args:
            noise: [B, T, C, h, w], standard normal.
            last: See :meth:`forward`; so are ``actions``, ``route`` and ``cache``.
            steps: Network evaluations.
        """
        moments = self._moments(actions)
        times = torch.arange(steps, device=noise.device, dtype=noise.dtype)[:, None] / steps
        modulations = [m.unbind() for m in self.modulations(self.condition(actions, times, moments))]  # per layer, per step
        reference = self.tokens(last[:, None], 1)
        start = self.tokens(last[:, None].expand(-1, self.config.tubelet, -1, -1, -1), self.config.tubelet)

        def estimate(tokens: Tensor, step: int) -> Tensor:
            return start + self._offset(tokens, reference, moments, [layer[step] for layer in modulations], route, cache)

        return self.frames(flow.sample(estimate, self.tokens(noise, self.config.tubelet), steps))

    def _moments(self, actions: Tensor) -> Tensor:
        """[G, D], the places in time of the groups of a chunk."""
        first = self.config.context // self.config.tubelet
        return self.moment[first : first + actions.shape[1] // self.config.tubelet]

    def _offset(
        self, noisy: Tensor, reference: Tensor, moments: Tensor, modulations: Modulations, route: Route | int, cache: Cache
    ) -> Tensor:
        """Tokens [B, G, P, ...] and those of the newest context frame [B, 1, P, ...] -> tokens of the clean chunk's offset from it."""
        x = torch.cat((noisy, reference.expand(-1, noisy.shape[1], -1, -1)), dim=-1)
        x = self.embed_noisy(x) + self.place + moments[:, None]
        for block, modulation, cached in zip(self.blocks, modulations, cache, strict=False):
            x, _ = block(x, modulation, route, cached)
        shift, scale = modulations[-1].chunk(2, dim=-1)
        out: Tensor = self.project(modulate(self.norm(x), shift, scale))
        return out
