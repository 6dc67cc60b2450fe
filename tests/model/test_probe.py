# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch

from longscape_ros.errors import InputError
from longscape_ros.model.probe import MeasuredFrames, PositionProbe, ProbeConfig, fit_probe, measure

SIZE = 32
METRES_PER_PIXEL = 0.01
CONFIG = ProbeConfig(image_size=(SIZE, SIZE), positions=2, width=8, points=8, minutes=2.0, steps=300, rate=4e-3)


def dots(count: int, seed: int) -> MeasuredFrames:
    """A bright dot of three pixels on grey noise; its column and row are what is measured, a centimetre per pixel."""
    random = np.random.default_rng(seed)
    rgb = random.integers(60, 80, (count, SIZE, SIZE, 3)).astype(np.uint8)
    places = random.integers(2, SIZE - 2, (count, 2))
    for image, (column, row) in zip(rgb, places, strict=True):
        image[row - 1 : row + 2, column - 1 : column + 2] = (240, 200, 40)
    return MeasuredFrames(rgb, (METRES_PER_PIXEL * places).astype(np.float32))


@pytest.fixture(scope="module")
def probe(one_thread: None) -> PositionProbe:
    return fit_probe(dots(800, seed=0), CONFIG)


@pytest.fixture(scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


def test_a_probe_learns_where_a_dot_is_to_less_than_a_pixel(probe: PositionProbe) -> None:
    unseen = dots(200, seed=1)
    errors = measure(probe, unseen)
    still = 100 * np.linalg.norm(unseen.positions - unseen.positions.mean(axis=0), axis=1).mean()
    assert still > 10
    assert errors.mean_cm < 1
    assert errors.mean_cm < errors.p95_cm < 3


def test_a_probe_follows_the_dot_and_nothing_else(probe: PositionProbe) -> None:
    frames = dots(1, seed=2)
    moved = frames.rgb.copy()
    moved[0] = np.roll(moved[0], 3, axis=1)
    with torch.no_grad():
        before, after = (probe(torch.from_numpy(rgb)) for rgb in (frames.rgb, moved))
    assert (after - before)[0].tolist() == pytest.approx([0.03, 0.0], abs=0.015)


def test_equal_seeds_give_equal_probes() -> None:
    config = ProbeConfig(image_size=(SIZE, SIZE), positions=2, width=8, points=4, steps=3)
    frames = dots(64, seed=3)
    one, same = (fit_probe(frames, config) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), same.state_dict().values(), strict=True))


def test_progress_goes_from_nothing_to_the_limit() -> None:
    calls: list[tuple[float, float, str]] = []
    config = ProbeConfig(image_size=(SIZE, SIZE), positions=2, width=8, points=4, steps=40, minutes=5)
    fit_probe(dots(64, seed=4), config, lambda *call: calls.append(call))
    assert [call[:2] for call in calls] == [(2.5, 5), (5, 5)]
    assert calls[-1][2].startswith("step 40, ")


def test_too_few_images_and_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="Got 3 images with a measured position, expected at least"):
        fit_probe(dots(3, seed=5), CONFIG)
    with pytest.raises(InputError, match=r"Got image size \[30, 32\], expected positive multiples of 4"):
        ProbeConfig(image_size=(30, 32))
    with pytest.raises(InputError, match="Got 0 minutes"):
        ProbeConfig(minutes=0)
