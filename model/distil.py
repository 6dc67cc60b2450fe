# SPDX-License-Identifier: Apache-2.0
"""Fewer sampling steps: a student learns to reach in one or two evaluations what the finished denoiser reaches in several.

Two ways to make the student's targets from the teacher's own path of N evaluations, starting from the same noise:

- ``progressive`` (arXiv 2202.00512): one step of the student lands where several steps of the teacher do.
- ``endpoint`` (consistency along the teacher's path, arXiv 2303.01469 with the teacher's sample as the one target): from every
  point where the student may start, its estimate is the teacher's sample.

Letters: B batch, T chunk frames, C h w latent.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from longscape_ros.model import flow
from longscape_ros.model.world import ChunkBatch, Denoiser, Draws

Method = Literal["progressive", "endpoint"]


class Distillation(nn.Module):
    """A student and its teacher.

    Args:
        student: Starts as the teacher; is trained.
        steps: Evaluations that the student shall need; a divisor of the teacher's.
        method: How its targets are made.
    """

    def __init__(self, student: Denoiser, steps: int, method: Method) -> None:
        super().__init__()
        whole = student.config.sampler_steps
        if steps < 1 or whole % steps:
            raise ValueError(f"Got {steps} steps for a teacher of {whole}, expected a divisor of that.")
        self.student = student
        self._teacher = [copy.deepcopy(student).eval().requires_grad_(False)]  # in a list: not a part that is trained or stored
        self.steps, self.method = steps, method

    def forward(self, batch: ChunkBatch, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean square distance of the student's estimates to their targets, over the frames that exist, and figures."""
        context = batch.context + draws.context_noise
        route = self.student.route(context, batch.coming, batch.length, draws.gumbel)
        clean = 1 - draws.context_level if self.student.config.tells_noise else None
        with torch.no_grad():
            teacher = self._teacher[0].conditioned(context, batch.actions, route, clean)
            whole = self.student.config.sampler_steps
            points = flow.path(flow.at_steps(teacher, whole), draws.noise, whole)
            path = torch.stack(points)  # [N + 1, B, T, C, h, w]
        rows = torch.arange(len(draws.time), device=draws.time.device)
        stride = self.student.config.sampler_steps // self.steps
        number = (draws.time * self.steps).long().clamp(max=self.steps - 1)  # [B], which of the student's steps
        start, end = path[number * stride, rows], path[(number + 1) * stride, rows]
        onward = (self.steps - number).reshape(-1, 1, 1, 1, 1)  # an Euler step goes this part of the way to the estimate
        target = path[-1] if self.method == "endpoint" else start + (end - start) * onward
        estimate = self.student.conditioned(context, batch.actions, route, clean)(start, number / self.steps)
        loss = batch.mean_square(estimate - target)
        return loss, {"loss": loss.detach()}
