# SPDX-License-Identifier: Apache-2.0
"""Experts, routes through them, and the router that chooses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from longscape_ros.model.moe import LOAD_RATE, ContextClassifier, ExpertFeedForward, Route, Router

EXPERTS = 3
LATENT = (2, 4, 4)
ACTION_VALUES = 10 * 3


@pytest.fixture
def experts() -> ExpertFeedForward:
    torch.manual_seed(0)
    return ExpertFeedForward(width=8, hidden=16, experts=EXPERTS)


def tokens(rows: int) -> Tensor:
    """[B, G, P, D]."""
    return torch.randn(rows, 2, 5, 8, generator=torch.Generator().manual_seed(rows))


def router(top: int = 1, action_values: int = ACTION_VALUES) -> Router:
    torch.manual_seed(0)
    return Router(LATENT, action_values, EXPERTS, top)


def seen(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Contexts and coming actions."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 4, *LATENT, generator=generator), torch.randn(rows, 10, 3, generator=generator)


# ---- experts ----


def test_experts_differ(experts: ExpertFeedForward) -> None:
    x = tokens(2)
    results = [experts(x, expert) for expert in range(3)]
    assert all(result.shape == x.shape for result in results)
    assert not torch.allclose(results[0], results[1])
    assert not torch.allclose(results[0], results[2])


def test_only_the_active_expert_learns(experts: ExpertFeedForward) -> None:
    experts(tokens(2), 1).square().sum().backward()
    assert [expert.up.weight.grad is not None for expert in experts.experts] == [False, True, False]


def test_of_a_mixed_batch_only_the_chosen_experts_learn(experts: ExpertFeedForward) -> None:
    experts(tokens(3), Route.to(torch.tensor([2, 0, 2]))).square().sum().backward()
    assert [expert.up.weight.grad is not None for expert in experts.experts] == [True, False, True]


def test_a_mixed_batch_is_each_chunk_through_its_own_expert(experts: ExpertFeedForward) -> None:
    x, chosen = tokens(5), [2, 0, 0, 1, 2]
    mixed = experts(x, Route.to(torch.tensor(chosen)))
    for row, expert in enumerate(chosen):
        torch.testing.assert_close(mixed[row], experts(x[row : row + 1], expert)[0])


def test_two_experts_are_mixed_by_their_weights(experts: ExpertFeedForward) -> None:
    x = tokens(2)
    weights = torch.tensor([[0.25, 0.75], [0.6, 0.4]])
    mixed = experts(x, Route(torch.tensor([[0, 2], [1, 0]]), weights))
    torch.testing.assert_close(mixed[0], 0.25 * experts(x, 0)[0] + 0.75 * experts(x, 2)[0])
    torch.testing.assert_close(mixed[1], 0.6 * experts(x, 1)[1] + 0.4 * experts(x, 0)[1])


def test_upcycled_experts_are_alike_and_go_their_own_ways_afterwards(experts: ExpertFeedForward) -> None:
    x = tokens(2)
    before = experts(x, 1)
    experts.upcycle(source=1)
    for expert in range(3):
        torch.testing.assert_close(experts(x, expert), before, atol=0, rtol=0)
    with torch.no_grad():
        experts.experts[2].up.weight.add_(1)
    torch.testing.assert_close(experts(x, 0), before, atol=0, rtol=0)
    assert not torch.allclose(experts(x, 2), before)


# ---- the router ----


def test_the_highest_score_is_chosen_and_noise_can_change_that() -> None:
    scores = torch.tensor([[0.0, 1.0, 0.0], [2.0, 0.0, 0.0]])
    assert router().choose(scores).experts.tolist() == [[1], [0]]
    noise = torch.tensor([[0.0, 0.0, 10.0], [0.0, 0.0, 0.0]])
    assert router().choose(scores, noise).experts.tolist() == [[2], [0]]


def test_one_chosen_expert_leaves_its_output_as_it_is_and_the_router_still_learns(experts: ExpertFeedForward) -> None:
    chooser, x = router(), tokens(6)
    route = chooser.choose(chooser(*seen(6)))
    assert (route.weights == 1).all()
    mixed = experts(x, route)
    for row, expert in enumerate(route.experts[:, 0].tolist()):
        torch.testing.assert_close(mixed[row], experts(x[row : row + 1], expert)[0])
    mixed.square().sum().backward()
    for name, parameter in chooser.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_an_expert_that_should_do_less_is_scored_lower_after_a_step(experts: ExpertFeedForward) -> None:
    chooser = router()
    scores = chooser(*seen(1))
    expert = int(scores.argmax())
    experts(tokens(1), chooser.choose(scores)).square().sum().backward()  # the smaller the output, the smaller the loss
    with torch.no_grad():
        for parameter in chooser.parameters():
            if parameter.grad is not None:
                parameter -= 1e-3 * parameter.grad
        after = chooser(*seen(1))
    assert after.softmax(-1)[0, expert] < scores.detach().softmax(-1)[0, expert]


def test_two_chosen_experts_share_one_weight_by_their_scores() -> None:
    route = router(top=2).choose(torch.tensor([[1.0, 0.0, 3.0]]))
    assert route.experts.tolist() == [[2, 0]]
    torch.testing.assert_close(route.weights.sum(), torch.tensor(1.0))
    torch.testing.assert_close(route.weights[0, 0] / route.weights[0, 1], torch.tensor(2.0).exp())


def test_a_router_sees_context_and_coming_actions() -> None:
    chooser = router()
    context, coming = seen(2)
    reference = chooser(context, coming)
    moved = context.clone()
    moved[:, -1] += 1
    assert not torch.allclose(chooser(moved, coming), reference)
    for step in (0, 9):
        other = coming.clone()
        other[:, step] += 1
        assert not torch.allclose(chooser(context, other), reference), step


def test_a_router_of_the_context_alone_ignores_the_actions() -> None:
    chooser = router(action_values=0)
    context, coming = seen(2)
    torch.testing.assert_close(chooser(context, coming), chooser(context, coming + 5), atol=0, rtol=0)
    assert not torch.allclose(chooser(context + torch.randn_like(context), coming), chooser(context, coming))


def test_a_classifier_that_sees_actions_needs_them() -> None:
    with pytest.raises(AssertionError, match="sees actions gets them"):
        ContextClassifier(LATENT, ACTION_VALUES, EXPERTS)(seen(1)[0])


# ---- balance ----


def balance_after(chosen: list[int], scores: Tensor, batches: int) -> float:
    """The load-balance term after many batches of the same choices."""
    chooser = router()
    route = Route.to(torch.tensor(chosen))
    for _ in range(batches):
        term = chooser.balance(scores, route)
    return float(term)


def test_balance_is_one_for_an_even_load_or_even_scores() -> None:
    even, uneven = torch.zeros(3, EXPERTS), torch.tensor([[2.0, 0.0, 0.0]] * 3)
    assert balance_after([0, 1, 2], even, 1) == pytest.approx(1)
    assert balance_after([0, 1, 2], uneven, 1) == pytest.approx(1)  # what is used counts, not what is preferred
    assert balance_after([0, 0, 0], even, 300) == pytest.approx(1)


def test_balance_grows_if_scores_prefer_what_is_used_most() -> None:
    scores = torch.tensor([[2.0, 0.0, 0.0]] * 3)
    few, many = (balance_after([0, 0, 0], scores, batches) for batches in (5, 300))
    share = float(scores.softmax(-1)[0, 0])
    assert 1 < few < many
    assert many == pytest.approx(EXPERTS * share, rel=0.02)
    assert balance_after([1, 1, 1], scores, 300) < 1  # to prefer what is used least is rewarded


def test_the_load_is_a_running_mean_of_the_experts_shares() -> None:
    chooser, scores = router(), torch.zeros(4, EXPERTS)
    chooser.balance(scores, Route.to(torch.tensor([0, 0, 0, 1])))
    expected = (1 - LOAD_RATE) / EXPERTS + LOAD_RATE * torch.tensor([0.75, 0.25, 0.0])
    torch.testing.assert_close(chooser.load, expected)
    torch.testing.assert_close(chooser.state_dict()["load"], expected)  # is part of a checkpoint


def test_the_load_stays_as_it_is_outside_of_training() -> None:
    chooser = router().eval()
    chooser.balance(torch.zeros(4, EXPERTS), Route.to(torch.tensor([0, 0, 0, 0])))
    torch.testing.assert_close(chooser.load, torch.full((EXPERTS,), 1 / EXPERTS))


def test_a_step_against_the_balance_term_evens_the_scores() -> None:
    chooser = router()
    chooser.load.copy_(torch.tensor([1.0, 0.0, 0.0]))
    context, coming = seen(8)
    before = chooser(context, coming)
    chooser.balance(before, Route.to(torch.zeros(8, dtype=torch.int64))).backward()
    with torch.no_grad():
        for parameter in chooser.parameters():
            parameter -= 0.1 * parameter.grad if parameter.grad is not None else 0
        after = chooser(context, coming)
    assert after.softmax(-1)[:, 0].mean() < before.detach().softmax(-1)[:, 0].mean()


def test_experts_that_share_learn_from_all_chunks_and_more_from_their_own(experts: ExpertFeedForward) -> None:
    x = torch.randn(3, 2, 4, 8)
    experts(x[:2], Route.to(torch.tensor([0, 1]))).square().sum().backward()
    alone = [expert.up.weight.grad for expert in experts.experts]
    first, second = alone[0], alone[1]
    assert first is not None
    assert second is not None
    assert alone[2] is None
    total = first + second
    expected = [total + 0.5 * first, total + 0.5 * second, total]
    experts.share_gradients(own=0.5)
    for expert, gradient in zip(experts.experts, expected, strict=True):
        torch.testing.assert_close(expert.up.weight.grad, gradient)
