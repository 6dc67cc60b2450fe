# SPDX-License-Identifier: Apache-2.0
"""Mixture of experts: several feed-forward networks per block, of which a whole chunk goes through one or two.

LongScape (arXiv 2509.21790) gives each chunk length an expert of its own. Here a :class:`Router` may choose instead: it sees the
context's latents and the coming actions, not yet cut into chunks, and decides once per chunk, outside the network, so that only
the chosen expert's weights are read.

Letters: B batch, E experts, k experts per chunk, G groups, P patches, D width, K context frames, L steps the router looks ahead,
C h w latent, F action features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.distributed import all_reduce, is_initialized
from torch.nn import functional as F

POOLED = 4
"""Side of the picture that a router sees, in cells."""

LOAD_RATE = 0.02
"""Share of a batch in the running load of the experts."""


@dataclass(frozen=True)
class Route:
    """Which experts each chunk of a batch goes through.

    Args:
        experts: int64 [B, k].
        weights: [B, k], what their outputs are multiplied by.
    """

    experts: Tensor
    weights: Tensor

    @classmethod
    def to(cls, experts: Tensor) -> Route:
        """One expert per chunk, int64 [B], with weight 1."""
        return cls(experts[:, None], torch.ones(len(experts), 1, device=experts.device))


def standard_gumbel(*shape: int, generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise: the largest of several is each of them equally often."""
    return -torch.empty(shape, device=generator.device).exponential_(generator=generator).log()


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
    """``experts`` feed-forward networks of which a chunk uses some."""

    def __init__(self, width: int, hidden: int, experts: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList(FeedForward(width, hidden) for _ in range(experts))

    def forward(self, x: Tensor, route: Route | int) -> Tensor:
        """[B, G, P, D] -> [B, G, P, D]: through one expert for all, or each chunk through its own."""
        if isinstance(route, int):
            out: Tensor = self.experts[route](x)
            return out
        total = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows, slots = torch.nonzero(route.experts == number, as_tuple=True)
            if len(rows):
                weighted = route.weights[rows, slots, None, None, None] * expert(x[rows])
                total = total.index_add(0, rows, weighted.to(x.dtype))
        return total

    @torch.no_grad()
    def upcycle(self, source: int = 0) -> None:
        """Give every expert the weights of one that was trained on all chunks (Komatsuzaki et al., arXiv 2212.05055)."""
        state = self.experts[source].state_dict()
        for expert in self.experts:
            expert.load_state_dict(state)

    @torch.no_grad()
    def share_gradients(self, own: float) -> None:
        """Let every expert learn from all chunks, and ``own`` times more from those that it had.

        This is how experts would learn that are written as deviations from one that they share: with little data, an expert that sees
        only its own chunks learns less than one network that sees all.
        """
        for alike in zip(*(expert.parameters() for expert in self.experts), strict=True):
            gradients = [parameter.grad for parameter in alike if parameter.grad is not None]
            if not gradients:
                continue
            total = torch.stack(gradients).sum(dim=0)
            for parameter in alike:
                parameter.grad = total.clone() if parameter.grad is None else total + own * parameter.grad


class ContextClassifier(nn.Module):
    """Scores for a choice that is made before a chunk: a small network on the context's latents, and on actions if there are any.

    Args:
        latent_shape: (C, h, w).
        action_values: Numbers of the flattened actions; 0: it sees none.
        choices: Scores to give.
        width: Of the hidden layer.
    """

    def __init__(self, latent_shape: tuple[int, int, int], action_values: int, choices: int, width: int = 128) -> None:
        super().__init__()
        channels, self.height, _ = latent_shape
        self.picture = nn.Linear(2 * channels * POOLED**2, width)
        self.motion = nn.Linear(action_values, width) if action_values else None
        self.head = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, choices))

    def forward(self, context: Tensor, actions: Tensor | None = None) -> Tensor:
        """Context [B, K, C, h, w], actions [B, K + L, F] -> scores [B, choices]."""
        seen = torch.cat((context[:, -1], context[:, -1] - context[:, 0]), dim=1)  # where things are, and where they go
        x = self.picture(F.avg_pool2d(seen, max(1, self.height // POOLED)).flatten(1))
        if self.motion is not None:
            assert actions is not None, "a network that sees actions gets them"
            x = x + self.motion(rearrange(actions, "b l f -> b (l f)"))
        out: Tensor = self.head(x)
        return out


class Router(nn.Module):
    """Chooses the experts of a chunk by context and coming actions.

    In training the scores get Gumbel noise, so that experts are tried out; of one chosen expert the output is kept as it is and only
    the gradient reaches the router (a straight-through gate), of two the outputs are weighted by their scores. The load-balance
    term is the Switch Transformer's (arXiv 2101.03961) with a running load over many batches: a batch has chunks of one length, and
    balance inside each batch would forbid experts for lengths (compare arXiv 2501.11873).

    Args:
        latent_shape: (C, h, w).
        action_values: Numbers of the flattened actions [K + L, F]; 0: a context-only router.
        experts: E.
        top: k.
        noise: Scale of the noise in training.
    """

    load: Tensor

    def __init__(self, latent_shape: tuple[int, int, int], action_values: int, experts: int, top: int = 1, noise: float = 0.3) -> None:
        super().__init__()
        self.scores = ContextClassifier(latent_shape, action_values, experts)
        self.top, self.noise = top, noise
        self.register_buffer("load", torch.full((experts,), 1 / experts))

    def forward(self, context: Tensor, actions: Tensor) -> Tensor:
        """Context [B, K, C, h, w], actions [B, K + L, F] -> scores [B, E]."""
        out: Tensor = self.scores(context, actions if self.scores.motion is not None else None)
        return out

    def choose(self, scores: Tensor, gumbel: Tensor | None = None) -> Route:
        """The route of scores [B, E]; with standard Gumbel noise [B, E] in training."""
        noisy = scores if gumbel is None else scores + self.noise * gumbel
        experts = noisy.topk(self.top, dim=-1).indices
        shares = scores.softmax(dim=-1).gather(1, experts)
        if self.top == 1:
            return Route(experts, 1 + (shares - shares.detach()))  # exactly 1
        return Route(experts, shares / shares.sum(dim=-1, keepdim=True))

    def balance(self, scores: Tensor, route: Route) -> Tensor:
        """Load-balance term, 1 where all experts are used alike; in training it takes the batch into the running load."""
        with torch.no_grad():
            counts = torch.bincount(route.experts.flatten(), minlength=len(self.load)).float()
            if is_initialized():
                all_reduce(counts)
            if self.training:
                self.load.lerp_(counts / counts.sum(), LOAD_RATE)
        return len(self.load) * (self.load * scores.softmax(dim=-1).mean(dim=0)).sum()
