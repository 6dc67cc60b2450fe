# SPDX-License-Identifier: Apache-2.0
"""How to train: each recipe is a function that returns a complete, frozen configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from longscape_ros.model.autoencoder import AutoencoderConfig
from longscape_ros.model.distil import Method
from longscape_ros.model.transformer import TransformerConfig
from longscape_ros.model.world import Routing, WorldConfig


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
        autoencoder: First stage.
        denoiser: Second stage; None: the training ends with the autoencoder.
        distil: Third stage, to fewer sampling steps; None: left out.
        heads: Last stage, of length predictor and error estimator; None: left out.
        base: Base window of the chunk rule.
        lengths: Chunk lengths in frames.
        shuffled: Deal the chunk lengths out by chance: to compare with.
        channels: Latent channels.
        width: Width of the transformer.
        depth: Blocks of the transformer.
        heads_of_attention: Attention heads.
        context: Context frames.
        lookahead: Steps that a router sees of the coming actions; their travel in so many steps scales the actions, too.
        experts: Feed-forward networks per block.
        hidden: Their width, in widths of the transformer.
        sharing: Experts learn from all chunks, and so many times more from their own; None: from their own only.
        routing: How a chunk finds its expert.
        top: Experts per chunk.
        tells_noise: Whether the network is told how much noise is on the context.
        sampler_steps: Network evaluations per chunk while the denoiser is trained, and after it without distillation.
        distilled_steps: Network evaluations after distillation.
        method: Of distillation.
        dense: Share of the second stage in which all chunks train one expert, before it is copied to the others; 0: never.
        by_length: Share up to which a router imitates LongScape's choice of experts, before it chooses for itself.
        own: Share of chunks that go on from what the model itself generated; at the sizes measured so far it is best without.
        own_from: Share of the second stage after which they do.
        own_every: Steps between two refreshments of those.
        own_rollouts: New rollouts per refreshment.
        own_chunks: Chunks per rollout.
        held: Share of the episodes that the denoiser never sees, to calibrate the confidence on.
        rollouts: Rollouts to train the heads on.
        rollout_frames: Their length.
        compiled: Whether the transformer's blocks are compiled on a GPU.
        seed: Of all randomness.
    """

    image_size: tuple[int, int]
    autoencoder: Stage
    denoiser: Stage | None
    distil: Stage | None
    heads: Stage | None
    base: int = 8
    lengths: tuple[int, ...] = (8, 16, 24, 32)
    shuffled: bool = False
    channels: int = 16
    width: int = 256
    depth: int = 6
    heads_of_attention: int = 4
    context: int = 4
    lookahead: int = 32
    experts: int = 4
    hidden: int = 2
    sharing: float | None = 1.0
    routing: Routing = "learned"
    top: int = 1
    tells_noise: bool = False
    sampler_steps: int = 4
    distilled_steps: int = 2
    method: Method = "progressive"
    dense: float = 0.4
    by_length: float = 0.55
    own: float = 0.0
    own_from: float = 0.5
    own_every: int = 50
    own_rollouts: int = 48
    own_chunks: int = 4
    held: float = 0.04
    rollouts: int = 192
    rollout_frames: int = 200
    compiled: bool = True
    seed: int = 0

    def world(self, action_features: int) -> WorldConfig:
        """The model's configuration for an action of so many features."""
        autoencoder = AutoencoderConfig(image_size=self.image_size, channels=self.channels)
        transformer = TransformerConfig(
            latent_shape=autoencoder.latent_shape,
            action_features=action_features,
            context=self.context,
            max_length=max(self.lengths[-1], 2 * TransformerConfig.tubelet),
            width=self.width,
            depth=self.depth,
            heads=self.heads_of_attention,
            hidden=self.hidden * self.width,
            experts=self.experts,
        )
        return WorldConfig(
            autoencoder,
            transformer,
            lengths=self.lengths,
            routing=self.routing,
            top=self.top,
            lookahead=self.lookahead,
            sampler_steps=self.sampler_steps,
            tells_noise=self.tells_noise,
        )

    @property
    def stages(self) -> dict[str, Stage]:
        """The stages in their order, by name."""
        every = {"autoencoder": self.autoencoder, "denoiser": self.denoiser, "distil": self.distil, "heads": self.heads}
        return {name: stage for name, stage in every.items() if stage is not None}

    @property
    def minutes(self) -> float:
        """Time limit of all stages together."""
        return sum(stage.minutes for stage in self.stages.values())


def cpu() -> Recipe:
    """64x64 on two CPU cores in an hour and three quarters, from nothing; what the bundles that ship began with."""
    return Recipe(
        image_size=(64, 64),
        autoencoder=Stage(minutes=25, steps=20_000, frames=64, rate=1.5e-3),
        denoiser=Stage(minutes=60, steps=100_000, frames=512, rate=8e-4, warm_up=200, average=0.999),
        distil=Stage(minutes=12, steps=4_000, frames=512, rate=2e-4, warm_up=50, average=0.99),
        heads=Stage(minutes=8, steps=2_000, frames=512, rate=1e-3, average=0.99),
    )


def cpu_tune() -> Recipe:
    """64x64 on CPU cores: goes on from a bundle of the recipe ``cpu``, in steps and not by the clock, as the ablations need it."""
    return replace(
        cpu(),
        autoencoder=Stage(minutes=60, steps=1, frames=64, rate=1e-6),
        denoiser=Stage(minutes=90, steps=500, frames=512, rate=3e-4, warm_up=25, decay=0.6, average=0.99),
        distil=Stage(minutes=30, steps=200, frames=512, rate=1e-4, warm_up=20, average=0.98),
        heads=Stage(minutes=30, steps=600, frames=512, rate=1e-3, warm_up=20, average=0.98),
        dense=0.0,
        by_length=0.15,
        own_from=0.05,
    )


def cpu_more() -> Recipe:
    """64x64 on one CPU core in an hour and three quarters: goes on from a bundle of the recipe ``cpu``."""
    return replace(
        cpu(),
        autoencoder=Stage(minutes=15, steps=20_000, frames=64, rate=8e-4, average=0.997),
        denoiser=Stage(minutes=76, steps=100_000, frames=512, rate=6e-4, warm_up=200, average=0.999),
        distil=Stage(minutes=8, steps=4_000, frames=512, rate=1e-4, warm_up=20, average=0.98),
        heads=Stage(minutes=6, steps=2_000, frames=512, rate=1e-3, average=0.99),
    )


def cpu_128() -> Recipe:
    """128x128 on one CPU core in an hour and three quarters: goes on from a 64x64 bundle of the recipe ``cpu``."""
    return replace(
        cpu_more(),
        image_size=(128, 128),
        autoencoder=Stage(minutes=25, steps=20_000, frames=24, rate=8e-4, average=0.997),
        denoiser=Stage(minutes=62, steps=100_000, frames=256, rate=6e-4, warm_up=200, average=0.998),
        distil=Stage(minutes=10, steps=4_000, frames=256, rate=1e-4, warm_up=20, average=0.96),
        heads=Stage(minutes=8, steps=2_000, frames=512, rate=1e-3, average=0.99),
        rollouts=96,
    )


def cpu_128_more() -> Recipe:
    """128x128 on one CPU core in two hours: goes on from a bundle of the recipe ``cpu-128``."""
    return replace(
        cpu_128(),
        autoencoder=Stage(minutes=10, steps=20_000, frames=24, rate=4e-4, average=0.997),
        denoiser=Stage(minutes=90, steps=100_000, frames=256, rate=6e-4, warm_up=200, average=0.998),
        distil=Stage(minutes=12, steps=4_000, frames=256, rate=1e-4, warm_up=20, average=0.96),
    )


def cpu_short() -> Recipe:
    """64x64 on two CPU cores in ten minutes: a first look at a handful of one's own bags."""
    return Recipe(
        image_size=(64, 64),
        autoencoder=Stage(minutes=3, steps=20_000, frames=48, rate=2e-3, warm_up=30, average=0.99),
        denoiser=Stage(minutes=5, steps=100_000, frames=256, rate=1e-3, warm_up=30, average=0.99),
        distil=Stage(minutes=1, steps=500, frames=256, rate=2e-4, warm_up=20, average=0.95),
        heads=Stage(minutes=1, steps=500, frames=256, rate=1e-3, warm_up=20, average=0.95),
        rollouts=16,
        rollout_frames=64,
    )


def gpu() -> Recipe:
    """64x64 on one data-centre GPU in 20 minutes, of which three legs of at most 9 are made with ``--leg``.

    The model is as large as a bundle that ships may be: 40 MB in half precision.
    """
    return Recipe(
        image_size=(64, 64),
        width=320,
        heads_of_attention=5,
        autoencoder=Stage(minutes=5, steps=100_000, frames=512, rate=1.5e-3, average=0.999),
        denoiser=Stage(minutes=11.5, steps=1_000_000, frames=8192, rate=8e-4, warm_up=300, average=0.999),
        distil=Stage(minutes=2, steps=10_000, frames=8192, rate=2e-4, warm_up=50, average=0.99),
        heads=Stage(minutes=1.5, steps=2_000, frames=8192, rate=1e-3, average=0.99),
        own_rollouts=512,
        rollouts=512,
    )


def gpu_128() -> Recipe:
    """128x128 on one data-centre GPU in 20 minutes."""
    return replace(gpu(), image_size=(128, 128), autoencoder=replace(gpu().autoencoder, frames=256), own_rollouts=128, rollouts=256)


def workstation() -> Recipe:
    """64x64 on one workstation GPU overnight."""
    return replace(
        gpu(),
        autoencoder=Stage(minutes=60, steps=200_000, frames=512, rate=1.5e-3, average=0.999),
        denoiser=Stage(minutes=480, steps=2_000_000, frames=4096, rate=8e-4, warm_up=300, average=0.9995),
        distil=Stage(minutes=45, steps=20_000, frames=4096, rate=2e-4, warm_up=50, average=0.99),
        heads=Stage(minutes=15, steps=4_000, frames=4096, rate=1e-3, average=0.99),
    )


def toy() -> Recipe:
    """Seconds: shows that bags, options and disk space are in order; the result predicts nothing."""
    return Recipe(
        image_size=(32, 32),
        channels=4,
        width=32,
        depth=2,
        heads_of_attention=2,
        autoencoder=Stage(minutes=1, steps=20, frames=16, rate=1e-3, warm_up=5),
        denoiser=Stage(minutes=1, steps=20, frames=64, rate=1e-3, warm_up=5),
        distil=Stage(minutes=1, steps=5, frames=64, rate=1e-3, warm_up=2),
        heads=Stage(minutes=1, steps=5, frames=64, rate=1e-3, warm_up=2),
        own=0.2,
        own_every=5,
        own_rollouts=4,
        own_chunks=2,
        rollouts=4,
        rollout_frames=32,
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "cpu": cpu,
    "cpu-more": cpu_more,
    "cpu-128": cpu_128,
    "cpu-128-more": cpu_128_more,
    "cpu-tune": cpu_tune,
    "cpu-short": cpu_short,
    "gpu": gpu,
    "gpu-128": gpu_128,
    "workstation": workstation,
    "toy": toy,
}
"""Name on the command line -> recipe."""
