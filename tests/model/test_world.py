# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from support.toy_runs import toy_config, toy_model
from torch import Tensor

from longscape_ros.model import flow
from longscape_ros.model.moe import Route
from longscape_ros.model.world import ChunkBatch, Denoiser, Draws, WorldConfig, WorldModel

B, T = 3, 8
LENGTHS = 4
PHASES: tuple[Literal["dense", "by_length", "routed"], ...] = ("dense", "by_length", "routed")


@pytest.fixture(scope="module")
def model() -> WorldModel:
    return toy_model()


@pytest.fixture(scope="module")
def denoiser(model: WorldModel) -> Denoiser:
    return model.denoiser


def configured(**changes: Any) -> WorldConfig:
    """The toy configuration, with one chunk per expert's length unless something else is said."""
    return replace(toy_config(), **{"routing": "chunk_length", **changes})


def batch(config: WorldConfig, planned: int = T, length: int = 0, rows: int = B) -> ChunkBatch:
    """Random chunks of which the first ``planned`` frames exist."""
    transformer = config.transformer
    generator = torch.Generator().manual_seed(0)
    return ChunkBatch(
        context=torch.randn((rows, transformer.context, *transformer.latent_shape), generator=generator),
        target=torch.randn((rows, T, *transformer.latent_shape), generator=generator),
        actions=torch.randn((rows, transformer.context + T, transformer.action_features), generator=generator),
        coming=torch.randn((rows, transformer.context + config.lookahead, transformer.action_features), generator=generator),
        mask=(torch.arange(T) < planned).float().expand(rows, T),
        length=length,
    )


def draws(chunks: ChunkBatch, config: WorldConfig, time: float | None = None, context_noise: float = 0.0) -> Draws:
    """The chance of a step; ``time`` for all chunks alike, or drawn."""
    generator = torch.Generator().manual_seed(1)
    count = len(chunks.target)
    times = flow.sample_times(count, 0.3, generator) if time is None else torch.full((count,), time)
    noise = torch.randn(chunks.target.shape, generator=generator)
    on_context = context_noise * torch.randn(chunks.context.shape, generator=generator)
    gumbel = -torch.empty(count, config.transformer.experts).exponential_(generator=generator).log()
    return Draws(times, noise, on_context, torch.full((count,), context_noise), gumbel)


def loss_of(
    denoiser: Denoiser,
    chunks: ChunkBatch,
    drawn: Draws | None = None,
    phase: Literal["dense", "by_length", "routed"] = "routed",
) -> float:
    """Of the flow alone."""
    return float(denoiser(chunks, drawn or draws(chunks, denoiser.config), phase)[1]["loss"])


@torch.no_grad()
def test_sampling_with_the_context_encoded_once_is_sampling_with_it_encoded_at_every_step(denoiser: Denoiser) -> None:
    chunks = batch(denoiser.config)
    noise = torch.randn(chunks.target.shape)
    steps = denoiser.config.sampler_steps
    again = flow.sample(flow.at_steps(lambda x, t: denoiser.conditioned(chunks.context, chunks.actions, 1)(x, t), steps), noise, steps)
    torch.testing.assert_close(denoiser.sample(chunks.context, chunks.actions, noise, 1), again)


@torch.no_grad()
def test_an_estimator_keeps_nothing_from_one_call_to_the_next(denoiser: Denoiser) -> None:
    chunks = batch(denoiser.config)
    estimate = denoiser.conditioned(chunks.context, chunks.actions, 0)
    time = torch.full((B,), 0.5)
    before = estimate(chunks.target, time)
    estimate(torch.randn(chunks.target.shape), torch.zeros(B))
    torch.testing.assert_close(estimate(chunks.target, time), before, atol=0, rtol=0)


@torch.no_grad()
def test_a_sample_depends_on_context_actions_noise_expert_and_the_number_of_steps(denoiser: Denoiser) -> None:
    chunks = batch(denoiser.config)
    noise = torch.randn(chunks.target.shape)
    reference = denoiser.sample(chunks.context, chunks.actions, noise, 0)
    assert reference.shape == chunks.target.shape
    for other in (
        denoiser.sample(chunks.context + 0.5, chunks.actions, noise, 0),
        denoiser.sample(chunks.context, chunks.actions + 0.5, noise, 0),
        denoiser.sample(chunks.context, chunks.actions, noise + 0.5, 0),
        denoiser.sample(chunks.context, chunks.actions, noise, 2),
        denoiser.sample(chunks.context, chunks.actions, noise, 0, steps=1),
    ):
        assert not torch.allclose(other, reference, atol=1e-3)


@torch.no_grad()
def test_a_mixed_batch_samples_what_each_chunk_samples_alone(denoiser: Denoiser) -> None:
    chunks = batch(denoiser.config)
    noise = torch.randn(chunks.target.shape)
    mixed = denoiser.sample(chunks.context, chunks.actions, noise, Route.to(torch.tensor([3, 0, 1])))
    for row, expert in enumerate((3, 0, 1)):
        part = slice(row, row + 1)
        alone = denoiser.sample(chunks.context[part], chunks.actions[part], noise[part], expert)
        torch.testing.assert_close(mixed[part], alone, atol=1e-5, rtol=1e-5)


def test_frames_that_do_not_exist_have_no_part_in_the_loss(denoiser: Denoiser) -> None:
    chunks = batch(denoiser.config, planned=5)
    drawn = draws(chunks, denoiser.config, time=0.0)  # at pure noise the target enters through the loss alone
    padding, frame = chunks.target.clone(), chunks.target.clone()
    padding[:, 5:] += 100
    frame[:, 4] += 100
    assert loss_of(denoiser, replace(chunks, target=padding), drawn) == pytest.approx(loss_of(denoiser, chunks, drawn))
    assert loss_of(denoiser, replace(chunks, target=frame), drawn) > 10 * loss_of(denoiser, chunks, drawn)


def test_the_loss_is_a_mean_over_the_frames_that_exist() -> None:
    config = configured()
    denoiser = Denoiser(config)  # untrained: predicts that nothing moves
    for planned in (1, 5, T):
        chunks = batch(config, planned)
        chunks = replace(chunks, target=chunks.context[:, -1:] + torch.full_like(chunks.target, 2.0))
        loss, figures = denoiser(chunks, draws(chunks, config, time=0.0), "routed")
        assert float(loss.detach()) == figures["loss"] == pytest.approx(4.0, rel=1e-5)
        assert figures["loss_over_copy_last"] == pytest.approx(1.0, rel=1e-5)


def test_the_loss_reaches_every_weight_of_the_denoiser_but_those_of_other_experts() -> None:
    config = configured()
    denoiser = toy_model(config).denoiser
    chunks = batch(config, length=2)
    denoiser(chunks, draws(chunks, config), "routed")[0].backward()
    without = {name for name, parameter in denoiser.named_parameters() if parameter.grad is None}
    others = {name for name, _ in denoiser.named_parameters() if ".experts." in name and ".experts.2." not in name}
    assert without == others


def test_what_the_actions_do_is_learned_from_few_examples() -> None:
    torch.manual_seed(0)
    config = configured()
    denoiser = Denoiser(config)

    def shifting() -> ChunkBatch:
        """Latents move by as much as the first feature of each frame's action says."""
        chunks = replace(batch(config, rows=32), actions=torch.randn(32, 4 + T, config.transformer.action_features))
        context = torch.randn(32, 1, *config.transformer.latent_shape).expand(-1, 4, -1, -1, -1)
        target = context[:, -1:] + chunks.actions[:, 4:, 0, None, None, None]
        return replace(chunks, context=context, target=target)

    optimizer = torch.optim.Adam(denoiser.parameters(), lr=1e-2)
    for _ in range(60):
        chunks = shifting()
        gumbel = torch.zeros(32, config.transformer.experts)
        noise, clean = torch.randn(chunks.target.shape), torch.zeros_like(chunks.context)
        drawn = Draws(0.7 * torch.rand(32), noise, clean, torch.zeros(32), gumbel)
        loss, _ = denoiser(chunks, drawn, "routed")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    chunks = shifting()
    with torch.no_grad():
        sample = denoiser.sample(chunks.context, chunks.actions, torch.randn(chunks.target.shape), 0)
        still = (chunks.context[:, -1:] - chunks.target).square().mean()
    assert float((sample - chunks.target).square().mean()) < 0.2 * float(still)


def test_training_puts_noise_on_the_context(denoiser: Denoiser) -> None:
    chunks = batch(denoiser.config)
    quiet, noisy = (draws(chunks, denoiser.config, context_noise=noise) for noise in (0.0, 2.0))
    assert loss_of(denoiser, chunks, quiet, "dense") != pytest.approx(loss_of(denoiser, chunks, noisy, "dense"))
    shifted = replace(chunks, context=chunks.context + noisy.context_noise)
    assert loss_of(denoiser, chunks, noisy, "dense") == pytest.approx(loss_of(denoiser, shifted, quiet, "dense"))


# ---- phases and routes ----


def active(denoiser: Denoiser, chunks: ChunkBatch, phase: Literal["dense", "by_length", "routed"]) -> tuple[set[int], bool]:
    """The experts that a training step reaches, and whether it reaches the router."""
    denoiser.zero_grad()
    denoiser(chunks, draws(chunks, denoiser.config), phase)[0].backward()
    experts = denoiser.transformer.blocks[0].feed_forward.experts
    reached = {number for number, expert in enumerate(experts) if expert.up.weight.grad is not None}
    return reached, any(parameter.grad is not None for name, parameter in denoiser.named_parameters() if name.startswith("router"))


@pytest.mark.parametrize("length", range(LENGTHS))
def test_without_a_router_a_chunk_goes_to_its_lengths_expert_once_the_experts_have_parted(length: int) -> None:
    denoiser = toy_model(configured()).denoiser
    assert denoiser.router is None
    chunks = batch(denoiser.config, length=length)
    assert active(denoiser, chunks, "dense") == ({0}, False)
    for phase in PHASES[1:]:
        assert active(denoiser, chunks, phase) == ({length}, False)
    assert denoiser.route(chunks.context, chunks.coming, length, torch.zeros(B, 4)) == length


@pytest.mark.parametrize("length", range(LENGTHS))
def test_a_router_is_left_alone_at_first_then_imitates_and_then_chooses(length: int) -> None:
    denoiser = toy_model(configured(routing="learned")).denoiser.train()
    assert denoiser.router is not None
    chunks = batch(denoiser.config, length=length)
    assert active(denoiser, chunks, "dense") == ({0}, False)
    assert active(denoiser, chunks, "by_length") == ({length}, True)
    scores = denoiser.router(chunks.context, chunks.coming)
    chosen = denoiser.router.choose(scores, draws(chunks, denoiser.config).gumbel).experts
    assert active(denoiser, chunks, "routed") == (set(chosen.flatten().tolist()), True)


def test_by_length_a_router_learns_to_say_the_lengths_expert() -> None:
    denoiser = toy_model(configured(routing="learned")).denoiser.train()
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=1e-2)
    chunks = batch(denoiser.config, length=3)
    for _ in range(20):
        optimizer.zero_grad()
        denoiser(chunks, draws(chunks, denoiser.config), "by_length")[0].backward()
        optimizer.step()
    route = denoiser.route(chunks.context, chunks.coming, 0, torch.zeros(B, 4))
    assert isinstance(route, Route)
    assert (route.experts == 3).all()


def test_the_load_balance_term_is_added_with_its_weight() -> None:
    denoiser = toy_model(configured(routing="learned", balance=0.5)).denoiser.train()
    chunks = batch(denoiser.config)
    loss, figures = denoiser(chunks, draws(chunks, denoiser.config), "routed")
    assert float(figures["balance"]) > 0
    assert float(loss.detach()) == pytest.approx(float(figures["loss"] + 0.5 * figures["balance"]))


@torch.no_grad()
@pytest.mark.parametrize("routing", ["learned", "context"])
def test_the_routes_in_use_are_those_of_the_highest_score_without_chance(routing: str) -> None:
    denoiser = toy_model(configured(routing=routing)).denoiser
    assert denoiser.router is not None
    chunks = batch(denoiser.config, rows=16)
    scores = denoiser.router(chunks.context, chunks.coming)
    for gumbel in (torch.zeros(16, 4), 100 * torch.eye(4).repeat(4, 1)):
        route = denoiser.route(chunks.context, chunks.coming, 2, gumbel)
        assert isinstance(route, Route)
        assert route.experts[:, 0].tolist() == scores.argmax(dim=1).tolist()
    assert len(set(scores.argmax(dim=1).tolist())) > 1


@torch.no_grad()
def test_a_learned_route_depends_on_the_coming_actions_and_a_route_by_context_does_not() -> None:
    for routing, depends in (("learned", True), ("context", False)):
        router = toy_model(configured(routing=routing)).denoiser.router
        assert router is not None
        chunks = batch(toy_config())
        same = torch.equal(router(chunks.context, chunks.coming), router(chunks.context, chunks.coming + 1))
        assert same != depends


@torch.no_grad()
def test_chance_routes_by_its_draw_alone() -> None:
    denoiser = toy_model(configured(routing="random")).denoiser
    chunks = batch(denoiser.config, rows=4)
    route = denoiser.route(chunks.context, chunks.coming, 2, torch.eye(4)[[3, 0, 2, 1]])
    assert isinstance(route, Route)
    assert route.experts[:, 0].tolist() == [3, 0, 2, 1]


@torch.no_grad()
def test_one_expert_needs_no_route() -> None:
    config = configured(routing="learned")
    config = replace(config, transformer=replace(config.transformer, experts=1))
    denoiser = Denoiser(config)
    assert denoiser.router is None
    chunks = batch(config, length=3)
    assert denoiser.route(chunks.context, chunks.coming, 3, torch.zeros(B, 1)) == 0
    assert {loss_of(denoiser, chunks, phase=phase) for phase in PHASES} == {loss_of(denoiser, chunks)}


@torch.no_grad()
def test_outside_of_training_the_loss_is_that_of_the_routes_in_use() -> None:
    denoiser = toy_model(configured(routing="learned")).denoiser
    assert denoiser.router is not None
    chunks = batch(denoiser.config)
    drawn = draws(chunks, denoiser.config)
    load = denoiser.router.load.clone()
    losses = [loss_of(denoiser.eval(), chunks, replace(drawn, gumbel=factor * drawn.gumbel)) for factor in (0, 100)]
    assert losses[0] == losses[1]
    assert torch.equal(denoiser.router.load, load)
    assert loss_of(denoiser.train(), chunks, replace(drawn, gumbel=100 * drawn.gumbel)) != losses[0]
    assert not torch.equal(denoiser.router.load, load)


# ---- configurations ----


def test_an_autoencoder_for_other_latents_is_refused() -> None:
    config = toy_config()
    with pytest.raises(ValueError, match=r"latents of \(8, 4, 4\) and a transformer for \(4, 4, 4\)"):
        replace(config, autoencoder=replace(config.autoencoder, channels=8))


@pytest.mark.parametrize(
    ("changes", "experts", "message"),
    [
        ({"routing": "chunk_length"}, 3, r"Got 3 experts for the chunk lengths \(8, 16, 24, 32\), expected one per length, or one"),
        ({"top": 5}, 4, "Got 5 experts per chunk of 4, expected 1 to 4"),
        ({"top": 0}, 4, "Got 0 experts per chunk"),
        ({"routing": "chunk_length", "top": 2}, 4, "Got 2 experts per chunk with chunk_length routing, expected 1; only a router"),
        ({"routing": "random", "top": 2}, 4, "with random routing, expected 1"),
    ],
)
def test_experts_and_routing_that_do_not_fit_are_refused(changes: dict[str, Any], experts: int, message: str) -> None:
    config = toy_config()
    with pytest.raises(ValueError, match=message):
        replace(config, **changes, transformer=replace(config.transformer, experts=experts))


def test_a_router_may_have_any_number_of_experts() -> None:
    config = configured(routing="learned", top=2)
    router = Denoiser(replace(config, transformer=replace(config.transformer, experts=3))).router
    assert router is not None
    assert (len(router.load), router.top) == (3, 2)


def test_all_that_a_bundle_is_made_of_is_in_the_models_weights(model: WorldModel) -> None:
    parts = {name.partition(".")[0] for name in model.state_dict()}
    assert parts == {"autoencoder", "denoiser", "length_predictor", "error_estimator"}


def test_the_length_predictor_sees_the_context_and_nothing_else(model: WorldModel) -> None:
    context: Tensor = batch(model.config).context
    scores = model.length_predictor(context)
    assert scores.shape == (B, LENGTHS)
    assert model.length_predictor.motion is None


def test_only_a_network_that_is_told_of_noise_on_the_context_depends_on_its_level() -> None:
    for tells in (False, True):
        torch.manual_seed(0)
        denoiser = Denoiser(replace(toy_config(), tells_noise=tells))
        for parameter in denoiser.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
        chunks = batch(denoiser.config)
        quiet = draws(chunks, denoiser.config)
        told = replace(quiet, context_level=quiet.context_level + 0.3)
        same = torch.equal(denoiser(chunks, quiet, "dense")[0], denoiser(chunks, told, "dense")[0])
        assert same != tells
