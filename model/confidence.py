# SPDX-License-Identifier: Apache-2.0
"""How wrong a predicted frame is: an estimate from what was predicted, and a probability made of it.

The estimator looks at the chunk that the denoiser made, at its context and actions, and at how wrong it took the frame before the
chunk to be; so it can follow errors that grow from chunk to chunk. It is trained on the model's own rollouts after the denoiser is
finished, and calibrated (Platt, 1999) on episodes that the denoiser never saw.

Letters: B batch, K context frames, T chunk frames, C h w latent, F action features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

POOLED = 4
"""Side of the picture that the estimator sees, in cells."""


class ErrorEstimator(nn.Module):
    """Estimates the logarithm of the mean square error of each frame of a chunk, in pixels from 0 to 1.

    Args:
        latent_shape: (C, h, w).
        action_features: F.
        max_length: Longest chunk.
        width: Of the hidden layers.
    """

    def __init__(self, latent_shape: tuple[int, int, int], action_features: int, max_length: int, width: int = 96) -> None:
        super().__init__()
        channels, self.height, _ = latent_shape
        self.place = nn.Parameter(0.02 * torch.randn(max_length, width))
        self.picture = nn.Linear(3 * channels * POOLED**2, width)
        self.action = nn.Linear(action_features + 1, width)
        self.mix = nn.Conv1d(width, width, 5)
        last = nn.Linear(width, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.head = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), last)

    def forward(self, context: Tensor, actions: Tensor, latents: Tensor, before: Tensor) -> Tensor:
        """Context [B, K, C, h, w], actions [B, K + T, F], latents [B, T, C, h, w], estimate of the newest context frame [B] -> [B, T]."""
        count, length = latents.shape[:2]
        last = context[:, -1:]
        previous = torch.cat((last, latents[:, :-1]), dim=1)
        seen = torch.cat((latents, (latents - last).abs(), (latents - previous).abs()), dim=2)  # [B, T, 3 C, h, w]
        cells = F.avg_pool2d(seen.flatten(0, 1), max(1, self.height // POOLED)).reshape(count, length, -1)
        carried = before[:, None, None].expand(count, length, 1)
        known = context.shape[1]
        x = self.picture(cells) + self.action(torch.cat((actions[:, known:], carried), dim=-1)) + self.place[:length]
        past = F.pad(F.silu(x).transpose(1, 2), (4, 0))  # a frame's estimate depends on no later one
        x = x + self.mix(past).transpose(1, 2)
        estimate: Tensor = before[:, None] + self.head(x).squeeze(-1)
        return estimate
