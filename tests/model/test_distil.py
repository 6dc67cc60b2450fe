# SPDX-License-Identifier: Apache-2.0
"""Distillation to fewer sampling steps."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from support.toy_runs import toy_config, toy_model
from torch import Tensor

from longscape_ros.model import flow
from longscape_ros.model.distil import Distillation, Method
from longscape_ros.model.world import ChunkBatch, Denoiser, Draws

B, T = 6, 8
METHODS: tuple[Method, ...] = ("progressive", "endpoint")


@pytest.fixture
def denoiser() -> Denoiser:
    """A teacher of four steps."""
    return toy_model(replace(toy_config(), sampler_steps=4)).denoiser


def batch(denoiser: Denoiser, planned: int = T) -> tuple[ChunkBatch, Draws]:
    """Random chunks at times spread over 0 ... 1."""
    config = denoiser.config.transformer
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    chunks = ChunkBatch(
        context=normal(B, config.context, *config.latent_shape),
        target=normal(B, T, *config.latent_shape),
        actions=normal(B, config.context + T, config.action_features),
        coming=normal(B, config.context + denoiser.config.lookahead, config.action_features),
        mask=(torch.arange(T) < planned).float().expand(B, T),
        length=0,
    )
    context_noise = torch.zeros_like(chunks.context)
    noise = normal(*chunks.target.shape)
    return chunks, Draws(torch.arange(B) / B, noise, context_noise, torch.zeros(B), torch.zeros(B, config.experts))


def with_estimates(
    distillation: Distillation, teacher: Callable[[Tensor, Tensor], Tensor], student: Callable[[Tensor, Tensor], Tensor]
) -> None:
    """Replace both networks by functions of point and time."""
    distillation.student.conditioned = lambda *_: student  # type: ignore[method-assign]
    distillation._teacher[0].conditioned = lambda *_: teacher  # type: ignore[method-assign]


def toward(clean: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Always the same estimate: the path is straight, and one step of it goes as far as many."""
    return lambda x, time: clean.expand_as(x)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_on_a_straight_path_a_student_that_is_its_teacher_has_nothing_to_learn(denoiser: Denoiser, method: Method, steps: int) -> None:
    distillation = Distillation(denoiser, steps, method)
    clean = torch.randn(1, 1, *denoiser.config.transformer.latent_shape)
    with_estimates(distillation, toward(clean), toward(clean))
    loss, figures = distillation(*batch(denoiser))
    assert float(loss) == pytest.approx(0, abs=1e-9)
    assert figures["loss"] == loss
    with_estimates(distillation, toward(clean), toward(clean + 1))
    assert float(distillation(*batch(denoiser))[0]) == pytest.approx(1, rel=1e-4)


def curved(x: Tensor, time: Tensor) -> Tensor:
    """An estimate that depends on where one is: the path bends."""
    return 0.5 * x + time.reshape(-1, 1, 1, 1, 1)


@pytest.mark.parametrize("steps", [1, 2])
def test_one_progressive_step_lands_where_several_of_the_teacher_do(denoiser: Denoiser, steps: int) -> None:
    distillation = Distillation(denoiser, steps, "progressive")
    chunks, drawn = batch(denoiser)
    path = flow.path(flow.at_steps(curved, 4), drawn.noise, 4)

    def perfect(x: Tensor, time: Tensor) -> Tensor:
        """The estimate whose Euler step lands on the teacher's path."""
        rows = torch.arange(B)
        number = (time * steps).round().long()
        torch.testing.assert_close(x, torch.stack(path)[number * 4 // steps, rows])
        goal = torch.stack(path)[(number + 1) * 4 // steps, rows]
        return x + (goal - x) * (steps - number).reshape(-1, 1, 1, 1, 1)

    with_estimates(distillation, curved, perfect)
    assert float(distillation(chunks, drawn)[0]) == pytest.approx(0, abs=1e-9)
    with_estimates(distillation, curved, curved)
    assert float(distillation(chunks, drawn)[0]) > 1e-3  # its own estimates do not
    torch.testing.assert_close(flow.sample(flow.at_steps(perfect, steps), drawn.noise, steps), path[-1])


def test_the_endpoints_target_is_the_teachers_sample_from_wherever_the_student_starts(denoiser: Denoiser) -> None:
    distillation = Distillation(denoiser, 2, "endpoint")
    chunks, drawn = batch(denoiser)
    sample = flow.sample(flow.at_steps(curved, 4), drawn.noise, 4)
    with_estimates(distillation, curved, lambda x, time: sample)
    assert float(distillation(chunks, drawn)[0]) == pytest.approx(0, abs=1e-9)


def test_the_methods_differ_where_the_path_bends(denoiser: Denoiser) -> None:
    losses = []
    for method in METHODS:
        distillation = Distillation(denoiser, 2, method)
        with_estimates(distillation, curved, curved)
        losses.append(float(distillation(*batch(denoiser))[0]))
    assert losses[0] != pytest.approx(losses[1], rel=0.01)


def test_every_step_of_the_student_is_trained(denoiser: Denoiser) -> None:
    distillation = Distillation(denoiser, 2, "progressive")
    asked: list[Tensor] = []

    def student(x: Tensor, time: Tensor) -> Tensor:
        asked.append(time)
        return x

    with_estimates(distillation, curved, student)
    distillation(*batch(denoiser))
    assert asked[0].tolist() == [0, 0, 0, 0.5, 0.5, 0.5]


def test_frames_that_do_not_exist_have_no_part_in_the_loss(denoiser: Denoiser) -> None:
    distillation = Distillation(denoiser, 1, "endpoint")
    chunks, drawn = batch(denoiser, planned=5)
    sample = flow.sample(flow.at_steps(curved, 4), drawn.noise, 4)
    off = torch.zeros_like(sample)
    off[:, 5:] = 100
    with_estimates(distillation, curved, lambda x, time: sample + off)
    assert float(distillation(chunks, drawn)[0]) == pytest.approx(0, abs=1e-9)


def test_the_teacher_is_neither_trained_nor_stored(denoiser: Denoiser) -> None:
    before = copy.deepcopy(denoiser.state_dict())
    distillation = Distillation(denoiser, 2, "progressive")
    assert set(distillation.state_dict()) == {f"student.{name}" for name in before}
    assert {id(p) for p in distillation.parameters()} == {id(p) for p in denoiser.parameters()}
    optimizer = torch.optim.SGD(distillation.parameters(), lr=0.1)
    distillation(*batch(denoiser))[0].backward()
    optimizer.step()
    teacher = distillation._teacher[0]
    assert all(parameter.grad is None for parameter in teacher.parameters())
    for name, tensor in teacher.state_dict().items():
        torch.testing.assert_close(tensor, before[name], atol=0, rtol=0)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in denoiser.state_dict().items())


def test_a_student_comes_nearer_to_its_teachers_sample_in_fewer_steps(denoiser: Denoiser) -> None:
    torch.manual_seed(0)
    distillation = Distillation(denoiser, 1, "progressive")
    teacher = distillation._teacher[0]
    chunks, drawn = batch(denoiser)

    @torch.no_grad()
    def distance() -> float:
        route = denoiser.route(chunks.context, chunks.coming, 0, drawn.gumbel)
        goal = teacher.sample(chunks.context, chunks.actions, drawn.noise, route, 4)
        return float((denoiser.sample(chunks.context, chunks.actions, drawn.noise, route, 1) - goal).square().mean())

    before = distance()
    optimizer = torch.optim.Adam(distillation.parameters(), lr=3e-3)
    for _ in range(15):
        optimizer.zero_grad()
        distillation(chunks, drawn)[0].backward()
        optimizer.step()
    assert distance() < 0.5 * before


@pytest.mark.parametrize("steps", [0, 3, 8])
def test_the_students_steps_divide_the_teachers(denoiser: Denoiser, steps: int) -> None:
    with pytest.raises(ValueError, match=f"Got {steps} steps for a teacher of 4, expected a divisor"):
        Distillation(denoiser, steps, "progressive")
