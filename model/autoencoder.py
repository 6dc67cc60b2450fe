# SPDX-License-Identifier: Apache-2.0
"""Images to latents and back, frame by frame.

A small convolutional autoencoder with a downsampling of 8. Its latents are what the denoiser predicts, so its error is the
ceiling of every prediction. Pixels are rearranged into channels at the border (space to depth), which keeps the convolutions off
the full resolution. The decoder has a learned bias per position: a robot's camera rarely moves, and most of its picture is the
same in every frame.

Shapes: B frames, H x W pixels, C latent channels, h = H / 8, w = W / 8.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from longscape_ros.model.processes import deviation

DOWNSAMPLING = 8


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes of the autoencoder.

    Args:
        image_size: (H, W) in pixels, multiples of 8.
        channels: C.
        widths: Convolution channels at 1/2, 1/4 and 1/8 of the resolution.
        latent_noise: Standard deviation of the noise on the (normalised) latents in training; teaches the decoder to forgive the
            denoiser's small errors.
    """

    image_size: tuple[int, int] = (64, 64)
    channels: int = 16
    widths: tuple[int, int, int] = (32, 64, 128)
    latent_noise: float = 0.05

    def __post_init__(self) -> None:
        if any(side % DOWNSAMPLING or side <= 0 for side in self.image_size):
            raise ValueError(f"Got image_size {self.image_size}, expected positive multiples of {DOWNSAMPLING}.")

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w)."""
        height, width = self.image_size
        return self.channels, height // DOWNSAMPLING, width // DOWNSAMPLING


@dataclass(frozen=True)
class FrameBatch:
    """Training frames.

    Args:
        frames: uint8 [B, H, W, 3].
        noise: Standard normal [B, C, h, w].
    """

    frames: Tensor
    noise: Tensor


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a SiLU, added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        for parameter in self.second.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.second(F.silu(self.first(F.silu(x))))
        return out


class Autoencoder(nn.Module):
    """Deterministic frame autoencoder.

    Latents are normalised per channel to zero mean and unit deviation over the training set (buffers ``latent_mean`` and
    ``latent_std``, set once by :meth:`set_normalisation`).
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        fine, middle, coarse = config.widths
        channels, height, width = config.latent_shape
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, fine, 3, padding=1),
            ResidualBlock(fine),
            nn.Conv2d(fine, middle, 4, stride=2, padding=1),
            ResidualBlock(middle),
            nn.Conv2d(middle, coarse, 4, stride=2, padding=1),
            ResidualBlock(coarse),
            nn.SiLU(),
            nn.Conv2d(coarse, channels, 1),
        )
        self.from_latents = nn.Conv2d(channels, coarse, 3, padding=1)
        self.coarse_bias = nn.Parameter(torch.zeros(1, coarse, height, width))
        self.fine_bias = nn.Parameter(torch.zeros(1, fine, 4 * height, 4 * width))
        self.coarse = nn.Sequential(ResidualBlock(coarse), nn.Conv2d(coarse, 4 * middle, 1), nn.PixelShuffle(2))
        self.middle = nn.Sequential(ResidualBlock(middle), nn.Conv2d(middle, 4 * fine, 1), nn.PixelShuffle(2))
        self.fine = nn.Sequential(ResidualBlock(fine), nn.SiLU(), nn.Conv2d(fine, 12, 3, padding=1), nn.PixelShuffle(2))
        self.register_buffer("latent_mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("latent_std", torch.ones(1, channels, 1, 1))

    def encode(self, rgb: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] -> normalised latents [B, C, h, w]."""
        pixels = rgb.to(self.latent_mean.dtype).permute(0, 3, 1, 2) / 127.5 - 1  # TensorRT can do nothing with uint8 but cast it
        latents: Tensor = (self.encoder(pixels) - self.latent_mean) / self.latent_std
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents [B, C, h, w] -> float [B, H, W, 3], 0 to 1 (not clipped)."""
        x = self.from_latents(latents * self.latent_std + self.latent_mean) + self.coarse_bias
        x = self.middle(self.coarse(x)) + self.fine_bias
        pixels: Tensor = self.fine(x)
        return (pixels.permute(0, 2, 3, 1) + 1) / 2

    def forward(self, batch: FrameBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Training loss of a batch; figures hold the PSNR in dB."""
        latents = self.encode(batch.frames)
        noisy = latents + self.config.latent_noise * deviation(latents.detach()) * batch.noise
        error = self.decode(noisy).float() - batch.frames.float() / 255
        mean_square = error.square().mean()
        loss = mean_square + 0.02 * error.abs().mean() + 1e-5 * latents.square().mean()
        return loss, {"loss": loss.detach(), "psnr": -10 * torch.log10(mean_square.detach())}

    @torch.no_grad()
    def set_normalisation(self, latents: Tensor) -> None:
        """Take mean and deviation per channel from a sample of *normalised* latents [B, C, h, w] and fold them in."""
        mean = latents.mean(dim=(0, 2, 3), keepdim=True)
        std = latents.std(dim=(0, 2, 3), keepdim=True)
        self.latent_mean += self.latent_std * mean
        self.latent_std *= std
