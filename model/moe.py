# SPDX-License-Identifier: Apache-2.0
"""Mixture of experts: several feed-forward networks per block, one of them active for a whole chunk.

LongScape (arXiv 2509.21790) gives each chunk length an expert of its own. The expert is chosen once per chunk, outside the
network (:func:`longscape_ros.segmentation.expert_for` today; this is where a learned, context-aware router belongs), and only
that expert's weights are read.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FeedForward(nn.Module):
    """Linear, GELU, linear: [..., D] -> [..., D]."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(F.gelu(self.up(x), approximate="tanh"))
        return out


class ExpertFeedForward(nn.Module):
    """``experts`` feed-forward networks of which a call uses one."""

    def __init__(self, width: int, hidden: int, experts: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList(FeedForward(width, hidden) for _ in range(experts))

    def forward(self, x: Tensor, expert: int) -> Tensor:
        """[..., D] -> [..., D] through expert number ``expert``."""
        out: Tensor = self.experts[expert](x)
        return out

    @torch.no_grad()
    def upcycle(self, source: int = 0) -> None:
        """Give every expert the weights of one that was trained on all chunks (Komatsuzaki et al., arXiv 2212.05055)."""
        state = self.experts[source].state_dict()
        for expert in self.experts:
            expert.load_state_dict(state)
