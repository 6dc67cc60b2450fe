# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from longscape_ros.model.recipes import RECIPES, Stage
from longscape_ros.model.world import WorldModel


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_makes_a_model_with_an_expert_per_chunk_length(name: str) -> None:
    recipe = RECIPES[name]()
    world = recipe.world(action_features=7)
    assert world.autoencoder.image_size == recipe.image_size
    assert world.transformer.experts == len(recipe.lengths)
    assert world.transformer.max_length == max(recipe.lengths)
    assert world.transformer.action_features == 7
    assert all(length % recipe.base == 0 and length % world.transformer.tubelet == 0 for length in recipe.lengths)
    assert 0 <= recipe.dense <= recipe.by_length < 1
    assert (recipe.dense == 0) == (name == "cpu-tune")  # which begins with experts that differ already
    assert recipe.distil is None or recipe.sampler_steps % recipe.distilled_steps == 0


@pytest.mark.parametrize("name", ["cpu", "cpu-128", "gpu", "gpu-128"])
def test_the_models_of_bundles_that_ship_fit_into_forty_megabytes_in_half_precision(name: str) -> None:
    with torch.device("meta"):
        model = WorldModel(RECIPES[name]().world(action_features=14))
    assert 2 * sum(parameter.numel() for parameter in model.parameters()) < 39_000_000  # the rest is for graphs and examples


def test_a_recipe_is_made_anew_and_cannot_be_changed() -> None:
    assert RECIPES["cpu"]() == RECIPES["cpu"]()
    with pytest.raises(AttributeError):
        RECIPES["cpu"]().seed = 3  # type: ignore[misc]


@pytest.mark.parametrize("changes", [{"minutes": 0.0}, {"steps": 0}, {"frames": -1}, {"rate": 0.0}, {"decay": 1.5}])
def test_a_stage_that_cannot_be_trained_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected positive limits"):
        replace(Stage(minutes=1, steps=10, frames=8, rate=1e-3), **changes)
