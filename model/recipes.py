# SPDX-License-Identifier: Apache-2.0
"""How to train: each recipe is a function that returns a complete, frozen configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from longscape_ros.model.autoencoder import AutoencoderConfig
from longscape_ros.model.transformer import TransformerConfig
from longscape_ros.model.world import WorldConfig


@dataclass(frozen=True)
class Stage:
    """One stage of a training.

    Args:
        minutes: Time limit; with ``steps`` the one that is reached first ends the stage.
        steps: Step limit.
        frames: Frames per batch.
        rate: Peak learning rate.
        warm_up: Steps in which the rate rises.
        decay: Last share of the stage in which the rate falls to zero.
        average: Decay per step of the averaged weights, which are what is kept.
    """

    minutes: float
    steps: int
    frames: int
    rate: float
    warm_up: int = 100
    decay: float = 0.3
    average: float = 0.998

    def __post_init__(self) -> None:
        if min(self.minutes, self.steps, self.frames, self.rate) <= 0 or not 0 <= self.decay <= 1:
            raise ValueError(f"Got {self}, expected positive limits, frames and rate, and a decay from 0 to 1.")


@dataclass(frozen=True)
class Recipe:
    """A model and its training.

    Args:
        image_size: (H, W) in pixels.
        base: Base window of the chunk rule.
        lengths: Chunk lengths in frames; each has an expert.
        channels: Latent channels.
        width: Width of the transformer.
        depth: Blocks of the transformer.
        heads: Attention heads.
        context: Context frames.
        autoencoder: First stage.
        denoiser: Second stage.
        dense: Share of the second stage in which all chunks train one expert, before it is copied to the others.
        seed: Of all randomness.
    """

    image_size: tuple[int, int]
    autoencoder: Stage
    denoiser: Stage
    base: int = 8
    lengths: tuple[int, ...] = (8, 16, 24, 32)
    channels: int = 16
    width: int = 256
    depth: int = 6
    heads: int = 4
    context: int = 4
    dense: float = 0.6
    seed: int = 0

    def world(self, action_features: int) -> WorldConfig:
        """The model's configuration for an action of so many features."""
        autoencoder = AutoencoderConfig(image_size=self.image_size, channels=self.channels)
        transformer = TransformerConfig(
            latent_shape=autoencoder.latent_shape,
            action_features=action_features,
            context=self.context,
            max_length=self.lengths[-1],
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            hidden=2 * self.width,
            experts=len(self.lengths),
        )
        return WorldConfig(autoencoder, transformer)


def cpu() -> Recipe:
    """64x64 on two CPU cores in an hour and a half: the default bundle's recipe."""
    return Recipe(
        image_size=(64, 64),
        autoencoder=Stage(minutes=25, steps=20_000, frames=64, rate=1.5e-3),
        denoiser=Stage(minutes=65, steps=100_000, frames=512, rate=8e-4, warm_up=200, average=0.999),
    )


def cpu_short() -> Recipe:
    """64x64 on two CPU cores in ten minutes: a first look at a handful of one's own bags."""
    return Recipe(
        image_size=(64, 64),
        autoencoder=Stage(minutes=3.5, steps=20_000, frames=48, rate=2e-3, warm_up=30, average=0.99),
        denoiser=Stage(minutes=6, steps=100_000, frames=256, rate=1e-3, warm_up=30, average=0.99),
    )


def toy() -> Recipe:
    """Seconds: shows that bags, options and disk space are in order; the result predicts nothing."""
    return Recipe(
        image_size=(32, 32),
        channels=4,
        width=32,
        depth=2,
        heads=2,
        autoencoder=Stage(minutes=1, steps=20, frames=16, rate=1e-3, warm_up=5),
        denoiser=Stage(minutes=1, steps=20, frames=64, rate=1e-3, warm_up=5),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {"cpu": cpu, "cpu-short": cpu_short, "toy": toy}
"""Name on the command line -> recipe."""
