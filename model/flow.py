# SPDX-License-Identifier: Apache-2.0
"""Rectified flow (arXiv 2209.03003) with a network that estimates the clean sample.

The path is x_t = (1 - t) noise + t clean. The network estimates ``clean``; the flow's velocity follows from it, and a handful of
Euler steps go from noise to sample. The last step lands on the estimate itself.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def sample_times(batch: int, noise_share: float, generator: torch.Generator) -> Tensor:
    """Training times [B]: a share of pure noise (where few-step sampling starts), the rest uniform in 0 ... 1."""
    uniform = torch.rand(batch, device=generator.device, generator=generator)
    pure = torch.rand(batch, device=generator.device, generator=generator) < noise_share
    return torch.where(pure, torch.zeros_like(uniform), uniform)


def interpolate(clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """x_t of [B, ...] tensors at times [B]."""
    t = time.reshape(-1, *[1] * (clean.ndim - 1))
    return (1 - t) * noise + t * clean


def at_steps(estimate: Callable[[Tensor, Tensor], Tensor], steps: int) -> Callable[[Tensor, int], Tensor]:
    """Of an estimator of (x_t, t [B]), one of (x_t, number of the step)."""
    return lambda x, step: estimate(x, x.new_full((len(x),), step / steps))


def path(estimate: Callable[[Tensor, int], Tensor], noise: Tensor, steps: int) -> list[Tensor]:
    """Euler steps from noise [B, ...]: ``steps`` + 1 points, the last one the sample.

    Args:
        estimate: (x_t, number of the step) -> clean sample, at the times t = 0, 1 / steps, ... .
        noise: Standard normal.
        steps: Network evaluations.
    """
    points = [noise]
    for step in range(steps):
        x = points[-1]
        points.append(x + (estimate(x, step) - x) / (steps - step))
    return points


def sample(estimate: Callable[[Tensor, int], Tensor], noise: Tensor, steps: int) -> Tensor:
    """The sample at the end of :func:`path`."""
    return path(estimate, noise, steps)[-1]
