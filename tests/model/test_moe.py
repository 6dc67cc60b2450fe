# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from longscape_ros.model.moe import ExpertFeedForward


@pytest.fixture
def experts() -> ExpertFeedForward:
    torch.manual_seed(0)
    return ExpertFeedForward(width=8, hidden=16, experts=3)


def test_experts_differ(experts: ExpertFeedForward) -> None:
    x = torch.randn(2, 5, 8)
    results = [experts(x, expert) for expert in range(3)]
    assert all(result.shape == x.shape for result in results)
    assert not torch.allclose(results[0], results[1])
    assert not torch.allclose(results[0], results[2])


def test_only_the_active_expert_learns(experts: ExpertFeedForward) -> None:
    experts(torch.randn(2, 5, 8), 1).square().sum().backward()
    assert [expert.up.weight.grad is not None for expert in experts.experts] == [False, True, False]


def test_upcycled_experts_are_alike_and_go_their_own_ways_afterwards(experts: ExpertFeedForward) -> None:
    x = torch.randn(2, 5, 8)
    before = experts(x, 1)
    experts.upcycle(source=1)
    for expert in range(3):
        torch.testing.assert_close(experts(x, expert), before, atol=0, rtol=0)
    with torch.no_grad():
        experts.experts[2].up.weight.add_(1)
    torch.testing.assert_close(experts(x, 0), before, atol=0, rtol=0)
    assert not torch.allclose(experts(x, 2), before)
