# SPDX-License-Identifier: Apache-2.0
"""Length predictor, error estimator, and the confidence made of its words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from longscape_ros.contract import NO_ERROR, Confidence
from longscape_ros.model.confidence import ErrorEstimator
from longscape_ros.model.heads import PSNR_DB, CarriedEstimates, Heads, fit_logistic
from longscape_ros.model.moe import ContextClassifier

LATENT = (2, 4, 4)
FEATURES, LONGEST, K = 3, 16, 4
NUMBER_OF_LENGTHS = 2
LENGTHS = (8, 16)


@pytest.fixture
def estimator() -> ErrorEstimator:
    """One in which every weight matters."""
    torch.manual_seed(0)
    result = ErrorEstimator(LATENT, FEATURES, LONGEST)
    for parameter in result.head[-1].parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return result


@pytest.fixture
def heads(estimator: ErrorEstimator) -> Heads:
    return Heads(ContextClassifier(LATENT, 0, NUMBER_OF_LENGTHS), estimator)


def chunk(length: int = LONGEST, seed: int = 0) -> dict[str, Tensor]:
    """What an estimator is told of two chunks."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "context": torch.randn((2, K, *LATENT), generator=generator),
        "actions": torch.randn((2, K + length, FEATURES), generator=generator),
        "latents": torch.randn((2, length, *LATENT), generator=generator),
        "before": torch.tensor([-6.0, -3.0]),
    }


@torch.no_grad()
def test_an_estimate_does_not_depend_on_later_frames_and_actions(estimator: ErrorEstimator) -> None:
    reference = estimator(**chunk())
    for frame in (1, 5, 15):
        changed = chunk()
        changed["latents"][:, frame:] += 1
        changed["actions"][:, K + frame :] += 1
        estimate = estimator(**changed)
        torch.testing.assert_close(estimate[:, :frame], reference[:, :frame])
        assert (estimate[:, frame] - reference[:, frame]).abs().min() > 1e-4


@torch.no_grad()
def test_a_short_chunks_estimates_are_the_first_of_a_long_ones(estimator: ErrorEstimator) -> None:
    long = chunk()
    short = long | {"latents": long["latents"][:, :8], "actions": long["actions"][:, : K + 8]}
    torch.testing.assert_close(estimator(**short), estimator(**long)[:, :8])


@torch.no_grad()
def test_every_input_of_an_estimator_matters(estimator: ErrorEstimator) -> None:
    reference = estimator(**chunk())
    assert reference.shape == (2, LONGEST)
    for name, tensor in chunk().items():
        assert not torch.allclose(estimator(**chunk() | {name: tensor + 1}), reference, atol=1e-3), name


@torch.no_grad()
def test_before_training_a_frame_is_as_wrong_as_the_one_before_the_chunk() -> None:
    estimate = ErrorEstimator(LATENT, FEATURES, LONGEST)(**chunk())
    torch.testing.assert_close(estimate, torch.tensor([-6.0, -3.0])[:, None].expand(2, LONGEST))


# ---- confidence ----


def test_confidence_falls_with_the_error_and_stays_a_probability() -> None:
    confidence = Confidence(psnr_db=25.0, slope=-2.0, offset=-11.0)
    found = confidence.of(np.linspace(-1e6, 1e6, 2001))
    assert found.dtype == np.float32
    assert ((found >= 0) & (found <= 1)).all()
    near = confidence.of(np.linspace(-10, -1, 50))
    assert (np.diff(near) < 0).all()
    assert confidence.of(np.array([-5.5]))[0] == pytest.approx(0.5)
    assert np.isnan(confidence.of(np.array([np.nan]))).all()


@pytest.mark.parametrize(("slope", "offset"), [(-1.5, -9.0), (0.7, 2.0)])
def test_a_logistic_fit_finds_the_curve_that_the_outcomes_were_drawn_from(slope: float, offset: float) -> None:
    random = np.random.default_rng(0)
    values = random.normal(-offset / slope, 2.0, 40_000)
    outcomes = random.random(len(values)) < 1 / (1 + np.exp(-(slope * values + offset)))
    found = fit_logistic(values, outcomes)
    assert found == pytest.approx((slope, offset), rel=0.05)


@pytest.mark.parametrize("outcome", [True, False])
def test_outcomes_that_are_all_alike_give_a_finite_curve_on_their_side(outcome: bool) -> None:
    values = np.random.default_rng(0).normal(size=200)
    slope, offset = fit_logistic(values, np.full(200, outcome))
    assert np.isfinite([slope, offset]).all()
    assert ((Confidence(25.0, slope, offset).of(values) > 0.5) == outcome).all()


def test_values_that_are_all_alike_give_the_share_of_right_ones() -> None:
    outcomes = np.arange(200) < 150
    slope, offset = fit_logistic(np.full(200, -5.0), outcomes)
    assert Confidence(25.0, slope, offset).of(np.array([-5.0]))[0] == pytest.approx(0.75, abs=0.02)


# ---- rollouts as training material ----


def rolled(chunks: int = 3, seed: int = 0, recorded_is_context: bool = True) -> dict[str, Any]:
    """Rollouts in which the error grows with the size of the latents; short chunks follow dark contexts, long ones bright ones."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for number in range(chunks):
        for label, length in enumerate(LENGTHS):
            which = torch.arange(20) + 20 * label
            latents = torch.randn((20, length, *LATENT), generator=generator) * torch.rand((20, length, 1, 1, 1), generator=generator)
            context = 0.1 * torch.randn((20, K, *LATENT), generator=generator) + (2 * label - 1)
            parts.append(
                {
                    "which": which,
                    "context": context,
                    "recorded": context.clone() if recorded_is_context else -context,
                    "actions": torch.randn((20, K + length, FEATURES), generator=generator),
                    "latents": latents,
                    "log_error": -7 + 2 * number / chunks + 3 * latents.abs().mean(dim=(2, 3, 4)),
                    "label": torch.full((20,), label),
                    "before": torch.full((20,), NO_ERROR),
                }
            )
    return {"rollouts": 40, "parts": parts}


@torch.no_grad()
def test_every_chunk_carries_its_predecessors_last_estimate(heads: Heads) -> None:
    material = rolled()
    heads.carry(material)
    for index, part in enumerate(material["parts"]):
        if index < 2:
            expected = torch.full((20,), NO_ERROR)
        else:
            before = material["parts"][index - 2]
            expected = heads.error_estimator(before["context"], before["actions"], before["latents"], before["before"])[:, -1]
        torch.testing.assert_close(part["before"], expected)


def test_what_is_carried_goes_on_from_a_checkpoint(heads: Heads) -> None:
    material, again = rolled(), rolled()
    carried = CarriedEstimates(material)
    assert not carried.is_known
    heads.carry(material)
    carried.is_known = True
    other = CarriedEstimates(again)
    other.load_state_dict(carried.state_dict(), torch.device("cpu"))
    assert other.is_known
    for one, two in zip(material["parts"], again["parts"], strict=True):
        torch.testing.assert_close(one["before"], two["before"], atol=0, rtol=0)


def test_parts_are_drawn_by_their_number_of_chunks(heads: Heads) -> None:
    material = rolled(chunks=1)
    small = {name: tensor[:2] for name, tensor in material["parts"][0].items()}
    material["parts"][0] = small
    random = np.random.default_rng(0)
    shares = np.mean([heads.draw(material, random) is small for _ in range(2000)])
    assert shares == pytest.approx(2 / 22, abs=0.03)


def test_both_heads_learn_and_the_confidence_is_calibrated_on_other_rollouts(heads: Heads) -> None:
    training, held = rolled(), rolled(seed=1)
    optimizer = torch.optim.Adam(heads.parameters(), lr=3e-3)
    random = np.random.default_rng(0)
    for step in range(150):
        if step % heads.CARRY_EVERY == 0:
            heads.carry(training)
        part = heads.draw(training, random)
        loss, figures = heads(part, part["recorded"], part["label"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(figures["error_loss"]) < 0.2
    confidence, quality = heads.calibrate(held)
    assert confidence.psnr_db == PSNR_DB
    assert confidence.slope < 0  # the greater the error, the less likely a frame is right
    assert quality["rank_correlation"] > 0.7
    assert quality["calibration_error"] < 0.1
    assert quality["agreement.recorded"] == quality["agreement.generated"] == 1.0
    assert quality["agreement.commonest"] == 0.5


def test_quality_is_that_of_chance_where_nothing_was_learned() -> None:
    torch.manual_seed(0)
    untrained = Heads(ContextClassifier(LATENT, 0, NUMBER_OF_LENGTHS), ErrorEstimator(LATENT, FEATURES, LONGEST))
    confidence, quality = untrained.calibrate(rolled())
    assert quality["rank_correlation"] == 0.0
    assert np.isfinite([confidence.slope, confidence.offset]).all()
    assert quality["calibration_error"] < 0.1  # the share of right frames is known nevertheless


def test_agreement_is_told_apart_on_recorded_and_generated_contexts(heads: Heads) -> None:
    with torch.no_grad():
        heads.length_predictor.head[-1].weight.zero_()
        heads.length_predictor.head[-1].bias.copy_(torch.tensor([1.0, 0.0]))
    material = rolled()
    for part in material["parts"][1::2]:
        part["label"].zero_()
    assert heads.calibrate(material)[1]["agreement.generated"] == 1.0
    material = rolled(recorded_is_context=False)
    optimizer = torch.optim.Adam(heads.length_predictor.parameters(), lr=1e-2)
    for _ in range(40):
        for part in material["parts"][:2]:  # by the generated contexts only: recorded ones are their opposite here
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(heads.length_predictor(part["context"]), part["label"]).backward()
            optimizer.step()
    quality = heads.calibrate(material)[1]
    assert quality["agreement.generated"] > 0.9
    assert quality["agreement.recorded"] < 0.1
