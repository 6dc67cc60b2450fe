# SPDX-License-Identifier: Apache-2.0
"""The world model: autoencoder and denoiser, and how a chunk is routed, trained and sampled.

Letters: B batch, K context frames, T chunk frames, L steps the router looks ahead, C h w latent, F action features, E experts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from longscape_ros.model import flow
from longscape_ros.model.autoencoder import Autoencoder, AutoencoderConfig
from longscape_ros.model.confidence import ErrorEstimator
from longscape_ros.model.moe import ContextClassifier, Route, Router
from longscape_ros.model.transformer import ChunkTransformer, TransformerConfig

Routing = Literal["chunk_length", "learned", "context", "random"]
"""How a chunk finds its expert: by its length, as in LongScape; by a router that sees the context and the coming actions, or the
context only; or by chance, to compare with."""


@dataclass(frozen=True)
class WorldConfig:
    """A whole model, and the noise it is trained with.

    Args:
        autoencoder: See :class:`AutoencoderConfig`.
        transformer: See :class:`TransformerConfig`.
        lengths: Chunk lengths, for the length predictor.
        routing: See :data:`Routing`.
        top: Experts per chunk.
        lookahead: L.
        balance: Weight of the router's load-balance term.
        sampler_steps: Network evaluations per chunk.
        noise_share: Share of training samples at pure noise.
        context_noise: Greatest deviation of the noise on the context in training; it holds drift down when chunks are chained.
        tells_noise: Whether the network is told how much noise that is, as if the context were at that diffusion time; when it is used,
            the context is said to be clean.
    """

    autoencoder: AutoencoderConfig
    transformer: TransformerConfig
    lengths: tuple[int, ...] = (8, 16, 24, 32)
    routing: Routing = "chunk_length"
    top: int = 1
    lookahead: int = 32
    balance: float = 0.01
    sampler_steps: int = 4
    noise_share: float = 0.3
    context_noise: float = 0.3
    tells_noise: bool = False

    def __post_init__(self) -> None:
        if self.autoencoder.latent_shape != self.transformer.latent_shape:
            raise ValueError(
                f"Got latents of {self.autoencoder.latent_shape} and a transformer for {self.transformer.latent_shape}, expected the same."
            )
        experts = self.transformer.experts
        if self.routing == "chunk_length" and experts not in (1, len(self.lengths)):
            raise ValueError(f"Got {experts} experts for the chunk lengths {self.lengths}, expected one per length, or one.")
        if not 1 <= self.top <= experts:
            raise ValueError(f"Got {self.top} experts per chunk of {experts}, expected 1 to {experts}.")
        if self.top > 1 and self.routing not in ("learned", "context"):
            raise ValueError(f"Got {self.top} experts per chunk with {self.routing} routing, expected 1; only a router can weigh experts.")

    @property
    def is_routed(self) -> bool:
        """Whether there is a router."""
        return self.transformer.experts > 1 and self.routing in ("learned", "context")


@dataclass(frozen=True)
class ChunkBatch:
    """Training chunks of one length.

    Args:
        context: Latents [B, K, C, h, w].
        target: Latents [B, T, C, h, w].
        actions: [B, K + T, F].
        coming: [B, K + L, F], what the router sees of the actions.
        mask: [B, T], 1 where the frame exists, 0 where it is padding; alike in all rows.
        length: Number of the chunks' length in the rule.
    """

    context: Tensor
    target: Tensor
    actions: Tensor
    coming: Tensor
    mask: Tensor
    length: int

    def mean_square(self, difference: Tensor) -> Tensor:
        """Of latents [B, T, C, h, w], over the frames that exist."""
        return (difference.float().square().mean(dim=(2, 3, 4)) * (self.mask / self.mask.sum())).sum()


@dataclass(frozen=True)
class Draws:
    """The chance in a training step; drawn outside the model, so that parts of a batch in several processes get what the whole would.

    Args:
        time: [B], diffusion times.
        noise: [B, T, C, h, w], standard normal.
        context_noise: [B, K, C, h, w], added to the context.
        context_level: [B], its deviation.
        gumbel: [B, E], standard Gumbel.
    """

    time: Tensor
    noise: Tensor
    context_noise: Tensor
    context_level: Tensor
    gumbel: Tensor


class Denoiser(nn.Module):
    """Chunk transformer and router, which are trained together."""

    def __init__(self, config: WorldConfig) -> None:
        super().__init__()
        self.config = config
        shape, features = config.transformer.latent_shape, config.transformer.action_features
        self.transformer = ChunkTransformer(config.transformer)
        self.router: Router | None = None
        if config.is_routed:
            values = features * (config.transformer.context + config.lookahead) if config.routing == "learned" else 0
            self.router = Router(shape, values, config.transformer.experts, config.top)

    def forward(self, batch: ChunkBatch, draws: Draws, phase: Literal["dense", "by_length", "routed"]) -> tuple[Tensor, dict[str, Tensor]]:
        """Flow-matching loss of a batch: mean square error of the clean estimate over the frames that exist, and figures.

        Args:
            batch: The chunks.
            draws: Times and noise.
            phase: ``dense``: all through the first expert. ``by_length``: a router only learns to imitate LongScape's choice, which
                it starts from. ``routed``: as configured.
        """
        noisy = flow.interpolate(batch.target, draws.noise, draws.time)
        context = batch.context + draws.context_noise
        route, extra, figures = self._route(batch, context, draws.gumbel, phase)
        clean = 1 - draws.context_level if self.config.tells_noise else None
        estimate = self.conditioned(context, batch.actions, route, clean)(noisy, draws.time)
        loss = batch.mean_square(estimate - batch.target)
        with torch.no_grad():
            copy = batch.mean_square(batch.context[:, -1:] - batch.target)
        return loss + extra, {"loss": loss.detach(), "loss_over_copy_last": loss.detach() / copy.clamp_min(1e-6), **figures}

    def _route(self, batch: ChunkBatch, context: Tensor, gumbel: Tensor, phase: str) -> tuple[Route | int, Tensor, dict[str, Tensor]]:
        """The route of training chunks, and the router's own loss."""
        nothing = context.new_zeros(())
        if phase == "dense":
            return 0, nothing, {}
        if self.router is None:
            return self._unrouted(batch.length, gumbel), nothing, {}
        scores = self.router(context, batch.coming).float()
        if phase == "by_length" and len(self.config.lengths) > 1:
            by_length = self._by_length(batch.length)
            imitated = torch.full((len(scores),), by_length, device=scores.device)
            return by_length, nn.functional.cross_entropy(scores, imitated), {}
        route = self.router.choose(scores, gumbel if self.training else None)
        balance = self.router.balance(scores, route)
        return route, self.config.balance * balance, {"balance": balance.detach()}

    def route(self, context: Tensor, coming: Tensor, length: int, gumbel: Tensor) -> Route | int:
        """Where chunks of length number ``length`` go when the model is used; ``gumbel`` [B, E] decides where chance routes."""
        return self._unrouted(length, gumbel) if self.router is None else self.router.choose(self.router(context, coming))

    def _unrouted(self, length: int, gumbel: Tensor) -> Route | int:
        """The route of chunks of length number ``length`` where no router decides."""
        if self.config.transformer.experts == 1 or self.config.routing == "chunk_length":
            return self._by_length(length)
        return Route.to(gumbel.argmax(dim=1))

    def _by_length(self, length: int) -> int:
        """LongScape's choice: the lengths' experts are numbered from the shortest."""
        return length * self.config.transformer.experts // len(self.config.lengths)

    def conditioned(
        self, context: Tensor, actions: Tensor, route: Route | int, clean: Tensor | None = None
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """The estimator of one chunk, (noisy, time) -> clean, with the context's keys and values computed once."""
        known = self.config.transformer.context
        cache = self.transformer.encode_context(context, actions[:, :known], route, clean)
        return lambda noisy, time: self.transformer(noisy, time, context[:, -1], actions[:, known:], route, cache)

    def sample(self, context: Tensor, actions: Tensor, noise: Tensor, route: Route | int, steps: int | None = None) -> Tensor:
        """Denoise a chunk: context [B, K, C, h, w], actions [B, K + T, F], noise [B, T, C, h, w] -> latents like the noise."""
        known = self.config.transformer.context
        cache = self.transformer.encode_context(context, actions[:, :known], route)
        return self.transformer.sample(noise, context[:, -1], actions[:, known:], route, cache, steps or self.config.sampler_steps)


class WorldModel(nn.Module):
    """All that a bundle is made of.

    ``autoencoder`` and ``denoiser`` make pictures; ``length_predictor`` guesses a chunk's length from the context alone, as LongScape
    does, for futures without a plan; ``error_estimator`` says how wrong the pictures will be.
    """

    def __init__(self, config: WorldConfig) -> None:
        super().__init__()
        self.config = config
        transformer = config.transformer
        self.autoencoder = Autoencoder(config.autoencoder)
        self.denoiser = Denoiser(config)
        self.length_predictor = ContextClassifier(transformer.latent_shape, 0, len(config.lengths))
        self.error_estimator = ErrorEstimator(transformer.latent_shape, transformer.action_features, transformer.max_length)
