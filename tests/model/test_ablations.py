# SPDX-License-Identifier: Apache-2.0
"""Variants of the method: what each changes, with what it begins, and that all are scored alike."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from support.toy_runs import MAPPING, write_toy_bags

from longscape_ros.ablations import RESULTS, VARIANTS, Evaluation, ablate, beginning, most_steps
from longscape_ros.ablations_plot import BETTER, OPEN, WORSE, draw_ablations
from longscape_ros.bags.reader import find_bags
from longscape_ros.comparison import METHOD, table
from longscape_ros.errors import InputError
from longscape_ros.model.cost import denoiser_macs
from longscape_ros.model.processes import Processes
from longscape_ros.model.recipes import Recipe, cpu_tune, toy
from longscape_ros.model.train import read_data
from longscape_ros.model.transformer import TransformerConfig
from longscape_ros.model.world import Denoiser, WorldModel

HORIZONS = (1, 8, 16)
NAMES = (METHOD, "dense_equal_total", "random_routing", "shuffled_lengths", "top_2")


def brief() -> Recipe:
    """The recipe ``toy`` with a denoiser that is hardly trained."""
    recipe = toy()
    assert recipe.denoiser is not None, "toy trains a denoiser"
    return replace(recipe, depth=1, sampler_steps=3, distilled_steps=1, denoiser=replace(recipe.denoiser, steps=8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ablations")


@pytest.fixture(scope="module")
def summary(folder: Path) -> dict[str, Any]:
    bags = write_toy_bags(folder / "bags", episodes=3)
    data = read_data(bags, MAPPING, (32, 32))
    evaluation = Evaluation(find_bags(bags), windows=6, horizons=HORIZONS, backend="ort_cpu")
    return ablate(data, "toy", brief(), folder / "out", NAMES, evaluation, Processes(torch.device("cpu")))


def test_every_variant_that_a_bundle_can_be_made_of_has_figures_with_intervals(summary: dict[str, Any]) -> None:
    assert set(summary) == set(NAMES)
    for name in set(NAMES) - {"top_2"}:
        for h in HORIZONS:
            assert summary[name][f"ci.low.psnr.{h}"] <= summary[name][f"psnr.{h}"] <= summary[name][f"ci.high.psnr.{h}"]
    assert "psnr.16" not in summary["top_2"]
    assert summary["top_2"]["training.denoiser.loss"] > 0


def test_the_method_differs_from_itself_by_nothing(summary: dict[str, Any]) -> None:
    assert summary[METHOD]["over_longscape.psnr.16"] == 0
    assert summary["shuffled_lengths"]["over_longscape.psnr.16"] != 0


def test_equal_compute_takes_fewer_steps_where_a_frame_costs_more(summary: dict[str, Any]) -> None:
    total = summary["dense_equal_total"]
    assert total["gmacs_per_frame"] > summary[METHOD]["gmacs_per_frame"]
    assert total["equal_compute.steps"] < total["steps"]
    assert total["equal_compute.gmacs_per_frame"] <= summary[METHOD]["gmacs_per_frame"] * 1.001
    assert total["equal_compute.psnr.16"] != total["psnr.16"]


def test_the_file_and_the_table_say_what_is_returned(summary: dict[str, Any], folder: Path) -> None:
    assert json.loads((folder / "out" / RESULTS).read_text()) == summary
    text = table(summary, (1, 16))
    assert f"{summary['random_routing']['psnr.16']:.2f} (" in text
    assert f"**{summary[METHOD]['psnr.16']:.2f}**" in text


def test_the_picture_has_a_panel_per_horizon_and_tells_better_from_worse_by_colour(tmp_path: Path) -> None:
    entry = {f"{place}over_longscape.psnr.{h}": 0.0 for h in (16, 64) for place in ("", "ci.low.", "ci.high.")}
    better = {name: {"ci.low.": 0.2, "ci.high.": 0.6}.get(name.split("over")[0], 0.4) for name in entry}
    worse = {name: {"ci.low.": -0.9, "ci.high.": -0.1}.get(name.split("over")[0], -0.5) for name in entry}
    summary = {name: {"steps": 4.0, **values} for name, values in ((METHOD, entry), ("fixed_8", worse), ("told_noise", better))}
    one, both = (cv2.imread(str(draw_ablations(summary, tmp_path / f"{len(hs)}.png", hs))) for hs in ((16,), (16, 64, 200)))
    assert both.shape[1] > one.shape[1]
    assert both.shape[0] == one.shape[0]
    for colour in (BETTER, WORSE):
        assert (both == colour[::-1]).all(axis=2).sum() == pytest.approx(2 * (one == colour[::-1]).all(axis=2).sum(), rel=0.1)
        assert (one == colour[::-1]).all(axis=2).sum() > 50
    assert not (both == OPEN[::-1]).all(axis=2).any()


def test_what_was_scored_is_kept(summary: dict[str, Any], folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("scores.json")}
    data = read_data(folder / "bags", MAPPING, (32, 32))
    evaluation = Evaluation(find_bags(folder / "bags"), windows=6, horizons=HORIZONS, backend="ort_cpu")
    again = ablate(data, "toy", brief(), folder / "out", NAMES, evaluation, Processes(torch.device("cpu")))
    assert again == summary
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_an_unknown_variant_is_refused(folder: Path, summary: dict[str, Any]) -> None:
    data = read_data(folder / "bags", MAPPING, (32, 32))
    with pytest.raises(InputError, match="Got the variants \\['best'\\], expected some of longscape"):
        ablate(data, "toy", brief(), folder / "out", ["best"], Evaluation([]), Processes(torch.device("cpu")))


def denoiser(recipe: Recipe) -> Denoiser:
    torch.manual_seed(1)
    model = Denoiser(recipe.world(3))
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return model


def chunk(length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = toy().world(3).transformer.latent_shape
    sizes = ((2, 4, *shape), (2, 4 + length, 3), (2, length, *shape))
    context, actions, noise = (torch.randn(size, generator=generator) for size in sizes)
    return context, actions, noise


def begun(recipe: Recipe, source: Denoiser) -> Denoiser:
    weights = beginning({f"denoiser.{name}": weight for name, weight in source.state_dict().items()}, recipe)
    model = Denoiser(recipe.world(3))
    model.load_state_dict({name.removeprefix("denoiser."): weight for name, weight in weights.items()}, strict=False)
    return model


def soup(source: Denoiser) -> Denoiser:
    """The source with every expert the mean of all."""
    mean = copy.deepcopy(source)
    for block in mean.transformer.blocks:
        experts = block.feed_forward.experts
        for alike in zip(*(expert.parameters() for expert in experts), strict=True):
            average = torch.stack(list(alike)).mean(dim=0)
            for parameter in alike:
                parameter.data.copy_(average)
    return mean


@pytest.mark.parametrize(("name", "length", "tolerance"), [
    ("length_routing", 16, 1e-5),
    ("dense_equal_active", 16, 1e-5),
    ("dense_equal_total", 16, 0.01),
    ("frame_autoregression", 4, 1e-5),
    ("whole_horizon", 32, 1e-5),
])  # fmt: skip
def test_every_variant_begins_as_the_same_network(name: str, length: int, tolerance: float) -> None:
    source = denoiser(toy())
    model = begun(VARIANTS[name].change(toy()), source)
    expected = soup(source).sample(*chunk(length), 0)
    assert (model.sample(*chunk(length), 0) - expected).abs().mean() < tolerance * expected.std()
    assert (source.sample(*chunk(length), 0) - expected).abs().mean() > 0.02 * expected.std()  # experts did differ


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_can_begin_with_a_bundle_that_has_a_router_and_heads(name: str) -> None:
    source = WorldModel(toy().world(3)).state_dict()
    assert {key.split(".")[0] for key in source} >= {"length_predictor", "error_estimator"}
    recipe = VARIANTS[name].change(toy())
    model = WorldModel(recipe.world(3))
    own = model.state_dict()
    begun = beginning(source, recipe)
    assert {key: weight.shape for key, weight in begun.items()} == {
        key: weight.shape for key, weight in own.items() if key.startswith(("autoencoder.", "denoiser.transformer."))
    }


def test_the_units_of_one_large_network_are_not_equal() -> None:
    model = begun(VARIANTS["dense_equal_total"].change(toy()), denoiser(toy()))
    up = model.transformer.blocks[0].feed_forward.experts[0].up.weight
    copies = up.reshape(4, -1, up.shape[1])
    assert all(not torch.equal(copies[0], other) for other in copies[1:])


def test_places_behind_the_longest_chunk_begin_like_its_last() -> None:
    source = denoiser(toy())
    model = begun(VARIANTS["whole_horizon"].change(toy()), source)
    assert model.transformer.moment.shape[0] == 51
    torch.testing.assert_close(model.transformer.moment[:9], source.transformer.moment)
    torch.testing.assert_close(model.transformer.moment[50], source.transformer.moment[8])


def test_cost_is_the_number_of_multiplications() -> None:
    """Compared with what torch counts."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    recipe = replace(cpu_tune(), width=64, depth=2, heads_of_attention=2)
    model = WorldModel(recipe.world(7))
    config = model.config.transformer
    context, noise = torch.randn(1, 4, *config.latent_shape), torch.randn(1, 16, *config.latent_shape)
    actions = torch.randn(1, 20, 7)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.denoiser.sample(context, actions, noise, 0, 2)
    assert denoiser_macs(config, 16, 2) == pytest.approx(counter.get_total_flops() / 2, rel=0.03)


def test_cost_grows_with_steps_experts_and_chunk() -> None:
    config = TransformerConfig((16, 8, 8), 7)
    assert denoiser_macs(config, 16, 4) > 3 * denoiser_macs(config, 16, 1)
    assert denoiser_macs(config, 16, 4, top=2) > denoiser_macs(config, 16, 4)
    assert 2 * denoiser_macs(config, 8, 4) > denoiser_macs(config, 16, 4) > denoiser_macs(config, 8, 4)


def test_at_least_one_step_is_taken(summary: dict[str, Any], folder: Path) -> None:
    assert most_steps(folder / "out" / METHOD, {8: 1.0}, 0.0) == 1
