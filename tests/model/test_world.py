# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.toy_runs import toy_config, toy_model

from longscape_ros.model import flow
from longscape_ros.model.world import ChunkBatch, WorldModel

B, T = 3, 8


@pytest.fixture(scope="module")
def model() -> WorldModel:
    return toy_model()


def batch(model: WorldModel, planned: int = T, expert: int = 0) -> ChunkBatch:
    """Random chunks of which the first ``planned`` frames exist."""
    config = model.config.transformer
    generator = torch.Generator().manual_seed(0)
    return ChunkBatch(
        context=torch.randn((B, config.context, *config.latent_shape), generator=generator),
        target=torch.randn((B, T, *config.latent_shape), generator=generator),
        actions=torch.randn((B, config.context + T, config.action_features), generator=generator),
        mask=(torch.arange(T) < planned).float().expand(B, T),
        expert=expert,
    )


def loss_of(model: WorldModel, chunks: ChunkBatch) -> float:
    torch.manual_seed(0)
    return float(model(chunks)[0].detach())


@torch.no_grad()
def test_sampling_with_the_context_encoded_once_is_sampling_with_it_encoded_at_every_step(model: WorldModel) -> None:
    chunks = batch(model, expert=1)
    noise = torch.randn(chunks.target.shape)
    again = flow.sample(lambda x, t: model.estimate(chunks.context, chunks.actions, 1, x, t), noise, model.config.sampler_steps)
    torch.testing.assert_close(model.sample(chunks.context, chunks.actions, noise, 1), again)


@torch.no_grad()
def test_an_estimator_keeps_nothing_from_one_call_to_the_next(model: WorldModel) -> None:
    chunks = batch(model)
    estimate = model.conditioned(chunks.context, chunks.actions, 0)
    time = torch.full((B,), 0.5)
    before = estimate(chunks.target, time)
    estimate(torch.randn(chunks.target.shape), torch.zeros(B))
    torch.testing.assert_close(estimate(chunks.target, time), before, atol=0, rtol=0)


@torch.no_grad()
def test_a_sample_depends_on_context_actions_noise_and_expert(model: WorldModel) -> None:
    chunks = batch(model)
    noise = torch.randn(chunks.target.shape)
    reference = model.sample(chunks.context, chunks.actions, noise, 0)
    assert reference.shape == chunks.target.shape
    for other in (
        model.sample(chunks.context + 0.5, chunks.actions, noise, 0),
        model.sample(chunks.context, chunks.actions + 0.5, noise, 0),
        model.sample(chunks.context, chunks.actions, noise + 0.5, 0),
        model.sample(chunks.context, chunks.actions, noise, 2),
    ):
        assert not torch.allclose(other, reference, atol=1e-3)


def test_frames_that_do_not_exist_have_no_part_in_the_loss() -> None:
    model = toy_model(replace(toy_config(), noise_share=1.0))  # the target enters through the loss alone
    chunks = batch(model, planned=5)
    padding, frame = chunks.target.clone(), chunks.target.clone()
    padding[:, 5:] += 100
    frame[:, 4] += 100
    assert loss_of(model, replace(chunks, target=padding)) == pytest.approx(loss_of(model, chunks))
    assert loss_of(model, replace(chunks, target=frame)) > 10 * loss_of(model, chunks)


def test_the_loss_is_a_mean_over_the_frames_that_exist() -> None:
    model = WorldModel(replace(toy_config(), noise_share=1.0, context_noise=0.0))  # untrained: predicts that nothing moves
    for planned in (1, 5, T):
        chunks = batch(model, planned)
        target = chunks.context[:, -1:] + torch.full_like(chunks.target, 2.0)
        torch.manual_seed(0)
        loss, figures = model(replace(chunks, target=target))
        assert float(loss.detach()) == figures["loss"] == pytest.approx(4.0, rel=1e-5)
        assert figures["loss_over_copy_last"] == pytest.approx(1.0, rel=1e-5)


def test_the_loss_reaches_every_weight_of_the_denoiser_but_those_of_other_experts(model: WorldModel) -> None:
    model.zero_grad()
    model(batch(model, expert=2))[0].backward()
    without = {name for name, parameter in model.transformer.named_parameters() if parameter.grad is None}
    others = {name for name, _ in model.transformer.named_parameters() if ".experts." in name and ".experts.2." not in name}
    assert without == others


def test_what_the_actions_do_is_learned_from_few_examples() -> None:
    torch.manual_seed(0)
    model = WorldModel(replace(toy_config(), context_noise=0.0))

    def shifting() -> ChunkBatch:
        """Latents move by as much as the first feature of each frame's action says."""
        chunks = replace(batch(model), actions=torch.randn(32, 4 + T, model.config.transformer.action_features))
        context = torch.randn(32, 1, *model.config.transformer.latent_shape).expand(-1, 4, -1, -1, -1)
        target = context[:, -1:] + chunks.actions[:, 4:, 0, None, None, None]
        return replace(chunks, context=context, target=target, mask=torch.ones(32, T))

    optimizer = torch.optim.Adam(model.transformer.parameters(), lr=1e-2)
    for _ in range(60):
        loss, _ = model(shifting())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    chunks = shifting()
    with torch.no_grad():
        sample = model.sample(chunks.context, chunks.actions, torch.randn(chunks.target.shape), 0)
        still = (chunks.context[:, -1:] - chunks.target).square().mean()
    assert float((sample - chunks.target).square().mean()) < 0.2 * float(still)


def test_training_puts_noise_on_the_context_and_sampling_does_not() -> None:
    quiet, noisy = (toy_model(replace(toy_config(), context_noise=noise)) for noise in (0.0, 2.0))
    chunks = batch(quiet)
    assert loss_of(quiet, chunks) != pytest.approx(loss_of(noisy, chunks))
    with torch.no_grad():
        samples = [model.sample(chunks.context, chunks.actions, chunks.target, 0) for model in (quiet, noisy)]
    torch.testing.assert_close(samples[0], samples[1], atol=0, rtol=0)


def test_an_autoencoder_for_other_latents_is_refused() -> None:
    config = toy_config()
    with pytest.raises(ValueError, match=r"latents of \(8, 4, 4\) and a transformer for \(4, 4, 4\)"):
        replace(config, autoencoder=replace(config.autoencoder, channels=8))
