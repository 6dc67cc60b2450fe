# SPDX-License-Identifier: Apache-2.0
"""The bundles that ship: whole, small, of the simulated arm, and as good as their manifests say."""

from __future__ import annotations

from pathlib import Path

import pytest

from longscape_ros.bags.mapping import load_mapping
from longscape_ros.bundle import Bundle, find_bundle, load_bundle
from longscape_ros.errors import BundleError, HostError
from longscape_ros.evaluation import evaluate
from longscape_ros.examples import read_examples
from longscape_ros.offline import predict_bag
from longscape_ros.runtime.backend import FP16, INT8
from longscape_ros.runtime.kinds import is_verified
from longscape_ros.simulation.generate import EpisodeConfig, record_bag

SIZES = {"default": 64, "default_128": 128}
"""Name -> height and width of the images."""

LARGEST_BYTES = 40_000_000
LARGEST_DIFFERENCE = 1e-4


@pytest.fixture(scope="module", params=SIZES)
def bundle(request: pytest.FixtureRequest) -> Bundle:
    return load_bundle(find_bundle(request.param))


@pytest.fixture(scope="module")
def episode(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bag that nobody trained on."""
    config = EpisodeConfig("drawer-open", seed=9999, frames=160, image_size=bundle.manifest.image_size[0])
    output = tmp_path_factory.mktemp("bags")
    try:
        record_bag(config, output)
    except HostError as error:
        pytest.skip(str(error))
    return output / config.name


def test_it_is_whole_and_small_and_has_a_card(bundle):
    assert sum(record.bytes for record in bundle.manifest.files.values()) <= LARGEST_BYTES
    assert (bundle.path / "MODEL_CARD.md").read_text(encoding="utf-8").startswith(f"# {bundle.manifest.name}: ")


def test_it_is_of_the_simulated_arm(bundle):
    manifest, size = bundle.manifest, SIZES[bundle.path.name]
    assert manifest.mapping == load_mapping("simulated_arm")
    assert (manifest.name, manifest.image_size, manifest.fps, manifest.horizon) == (bundle.path.name, (size, size), 20.0, 32)


def test_it_has_a_router_confidence_and_two_sampling_steps(bundle):
    manifest = bundle.manifest
    assert (manifest.experts.count, manifest.experts.routing.kind, manifest.sampler_steps) == (4, "learned", 2)
    assert manifest.confidence is not None
    assert manifest.length_predictor


def test_its_graphs_compute_what_torch_does(bundle):
    differences = {name: bundle.manifest.verification[name] for name in (*bundle.manifest.graphs(), "rollout")}
    assert all(difference <= LARGEST_DIFFERENCE for difference in differences.values()), differences


def test_it_has_examples_and_predicts_the_same_in_lower_precisions(bundle):
    assert len(read_examples(bundle)) == 4
    assert is_verified(bundle.manifest, INT8)
    assert is_verified(bundle.manifest, FP16)


def test_its_figures_on_held_out_episodes_are_better_than_copying_and_follow_the_actions(bundle):
    figures = bundle.manifest.evaluation
    assert figures["psnr.model.8"] >= figures["psnr.copy_last.8"] + 3
    assert figures["psnr.model.16"] >= figures["psnr.copy_last.16"] + 4
    assert figures["psnr.model.200"] > figures["psnr.copy_last.200"]
    assert figures["psnr.shuffled_actions.16"] <= figures["psnr.model.16"] - 2


def test_every_chunk_length_and_every_expert_is_in_use(bundle):
    figures = bundle.manifest.evaluation
    assert all(figures[f"chunk.share.{length}"] >= 0.05 for length in bundle.manifest.segmentation.lengths)
    assert all(figures[f"expert.share.{expert}"] >= 0.05 for expert in range(bundle.manifest.experts.count))


def test_it_predicts_a_new_episode_better_than_copying(bundle, episode):
    figures = evaluate(bundle, [episode], horizons=(8, 16), backend="ort_cpu")
    assert figures["psnr.model.8"] > figures["psnr.copy_last.8"] + 1
    assert figures["psnr.model.16"] > figures["psnr.copy_last.16"] + 1


@pytest.mark.parametrize(("robot", "name"), [("franka_droid", "panda_joint1"), ("widowx_bridge", "roll")])
def test_another_robots_recordings_are_refused_with_the_names_of_both(bundle, shared, tmp_path, robot, name):
    bag = shared / "data" / robot / "episode_0"
    text = rf"expected the action names \['hand_x', 'hand_y', 'hand_z', 'gripper'\], found \[.*'{name}'"
    with pytest.raises(BundleError, match=text) as raised:
        predict_bag(bag, tmp_path / "out.mcap", bundle, load_mapping(robot))
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []
