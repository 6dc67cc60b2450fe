# SPDX-License-Identifier: Apache-2.0
"""The world model: autoencoder and chunk transformer, and how a chunk is trained and sampled.

Letters: B batch, K context frames, T chunk frames, C h w latent, F action features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from longscape_ros.model import flow
from longscape_ros.model.autoencoder import Autoencoder, AutoencoderConfig
from longscape_ros.model.transformer import ChunkTransformer, TransformerConfig


@dataclass(frozen=True)
class WorldConfig:
    """A whole model, and the noise it is trained with.

    Args:
        autoencoder: See :class:`AutoencoderConfig`.
        transformer: See :class:`TransformerConfig`.
        sampler_steps: Network evaluations per chunk.
        noise_share: Share of training samples at pure noise.
        context_noise: Greatest deviation of the noise on the context in training; it holds drift down when chunks are chained.
    """

    autoencoder: AutoencoderConfig
    transformer: TransformerConfig
    sampler_steps: int = 4
    noise_share: float = 0.3
    context_noise: float = 0.3

    def __post_init__(self) -> None:
        if self.autoencoder.latent_shape != self.transformer.latent_shape:
            raise ValueError(
                f"Got latents of {self.autoencoder.latent_shape} and a transformer for {self.transformer.latent_shape}, expected the same."
            )


@dataclass(frozen=True)
class ChunkBatch:
    """Training chunks of one length and expert.

    Args:
        context: Latents [B, K, C, h, w].
        target: Latents [B, T, C, h, w].
        actions: [B, K + T, F].
        mask: [B, T], 1 where the frame exists, 0 where it is padding.
        expert: Which expert is active.
    """

    context: Tensor
    target: Tensor
    actions: Tensor
    mask: Tensor
    expert: int


class WorldModel(nn.Module):
    """Predicts chunks of frames, in latents."""

    def __init__(self, config: WorldConfig) -> None:
        super().__init__()
        self.config = config
        self.autoencoder = Autoencoder(config.autoencoder)
        self.transformer = ChunkTransformer(config.transformer)

    def forward(self, batch: ChunkBatch) -> tuple[Tensor, dict[str, float]]:
        """Flow-matching loss of a batch of chunks: mean square error of the clean estimate over the frames that exist."""
        count = len(batch.target)
        device = batch.target.device
        time = flow.sample_times(count, self.config.noise_share, device)
        noisy = flow.interpolate(batch.target, torch.randn_like(batch.target), time)
        strength = self.config.context_noise * torch.rand(count, 1, 1, 1, 1, device=device)
        context = batch.context + strength * torch.randn_like(batch.context)
        estimate = self.estimate(context, batch.actions, batch.expert, noisy, time)
        error = (estimate - batch.target).square().mean(dim=(2, 3, 4))  # [B, T]
        weight = batch.mask / batch.mask.sum()
        loss = (error * weight).sum()
        with torch.no_grad():
            copy = (batch.context[:, -1:] - batch.target).square().mean(dim=(2, 3, 4))
            share = float(loss.detach() / (copy * weight).sum().clamp_min(1e-6))
        return loss, {"loss": float(loss.detach()), "loss_over_copy_last": share}

    def estimate(self, context: Tensor, actions: Tensor, expert: int, noisy: Tensor, time: Tensor) -> Tensor:
        """Clean latents [B, T, C, h, w] from noisy ones at times [B]."""
        return self.conditioned(context, actions, expert)(noisy, time)

    def conditioned(self, context: Tensor, actions: Tensor, expert: int) -> Callable[[Tensor, Tensor], Tensor]:
        """The estimator of one chunk, (noisy, time) -> clean, with the context's keys and values computed once."""
        known = self.config.transformer.context
        cache = self.transformer.encode_context(context, actions[:, :known], expert)
        return lambda noisy, time: self.transformer(noisy, time, context[:, -1], actions[:, known:], expert, cache)

    def sample(self, context: Tensor, actions: Tensor, noise: Tensor, expert: int) -> Tensor:
        """Denoise a chunk: context [B, K, C, h, w], actions [B, K + T, F], noise [B, T, C, h, w] -> latents like the noise."""
        return flow.sample(self.conditioned(context, actions, expert), noise, self.config.sampler_steps)
