# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from torch import Tensor

from longscape_ros.model import flow

SHAPE = (2, 8, 3, 4, 4)


def normal(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("steps", [1, 2, 4, 7])
def test_a_perfect_estimate_is_reached_in_any_number_of_steps_along_the_training_path(steps: int) -> None:
    clean, noise = normal(0), normal(1)
    visited: list[float] = []

    def estimate(x: Tensor, time: Tensor) -> Tensor:
        assert time.shape == (2,)
        visited.append(float(time[0]))
        torch.testing.assert_close(x, flow.interpolate(clean, noise, time))
        return clean

    torch.testing.assert_close(flow.sample(flow.at_steps(estimate, steps), noise, steps), clean)
    assert visited == pytest.approx([step / steps for step in range(steps)])


def test_the_sample_is_the_last_estimate() -> None:
    estimates: list[Tensor] = []

    def estimate(x: Tensor, time: Tensor) -> Tensor:
        estimates.append(torch.sin(x + time[0]))
        return estimates[-1]

    sample = flow.sample(flow.at_steps(estimate, 4), normal(0), 4)
    torch.testing.assert_close(sample, estimates[-1])


def test_the_training_path_goes_from_noise_to_clean() -> None:
    clean, noise = normal(0), normal(1)
    path = flow.interpolate(clean, noise, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(path[0], noise[0])
    torch.testing.assert_close(path[1], clean[1])


def test_the_sampling_path_has_every_point_from_the_noise_to_the_sample() -> None:
    clean, noise = normal(0), normal(1)
    points = flow.path(lambda x, step: clean, noise, 4)
    for step, point in enumerate(points):
        torch.testing.assert_close(point, flow.interpolate(clean, noise, torch.full((2,), step / 4)))
    assert len(points) == 5


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_of_pure_noise_is_as_asked(share: float) -> None:
    times = flow.sample_times(4000, share, torch.Generator().manual_seed(0))
    assert ((times >= 0) & (times < 1)).all()
    assert float((times == 0).float().mean()) == pytest.approx(share, abs=0.03)
    rest = times[times > 0]
    assert len(rest) == 0 or float(rest.mean()) == pytest.approx(0.5, abs=0.03)
