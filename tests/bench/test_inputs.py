# SPDX-License-Identifier: Apache-2.0
"""What is predicted from, and the arithmetic of another setting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.tiny_bundle import MANIFEST, write_tiny_bundle

from longscape_ros.bench import inputs, longscape
from longscape_ros.bench.longscape import EVALUATIONS, PARAMETERS, STEPS, TOKENS_PER_LATENT, arithmetic, chunk_flops
from longscape_ros.bundle import Bundle
from longscape_ros.contract import ActionDimension, ActionSpace
from longscape_ros.images import resize_rgb
from longscape_ros.segmentation import segment


def test_a_camera_image_shrinks_to_the_context_it_was_made_of(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "square", image_size=(64, 64), latent_shape=(2, 8, 8))
    camera = inputs.camera_image(bundle)
    assert camera.shape == (480, 640, 3)
    small = resize_rgb(camera, (64, 64)).astype(int)
    assert np.abs(small - inputs.context_images(bundle)[-1]).mean() < 2


def test_the_scene_is_smooth_and_moves(bundle: Bundle) -> None:
    context = inputs.context_images(bundle)
    assert context.shape == (MANIFEST.context, *MANIFEST.image_size, 3)
    assert not np.array_equal(context[0], context[-1])
    assert np.abs(np.diff(context[0].astype(int), axis=0)).mean() < 10  # noise would have 85


def test_a_plan_commands_the_motion_it_is_made_of() -> None:
    plan = inputs.plan(MANIFEST, 5, 40)
    assert np.array_equal(plan.values, inputs.motion(MANIFEST, 40))
    assert (plan.start_ns, plan.times_ns[0], plan.times_ns[19]) == (5, 50_000_000, 1_000_000_000)


def test_candidates_all_differ_and_go_on_from_the_anchor() -> None:
    motions = inputs.candidate_motions(MANIFEST, 8, 32)
    anchor = inputs.motion(MANIFEST, MANIFEST.context)[-1]
    travel = np.array([d.scale if d.moves else 0.0 for d in MANIFEST.action_space.dimensions])
    assert all(motion.shape == (32, len(MANIFEST.action_space)) for motion in motions)
    for a, one in enumerate(motions):
        assert (np.abs(one[0] - anchor) <= 0.1 * travel).all()
        assert (np.abs(one[-1] - anchor) >= 0.5 * travel).all()
        for other in motions[:a]:
            assert (one[:8] != other[:8])[:, travel > 0].all()


def test_typical_motion_is_cut_into_the_chunks_it_is_typical_of() -> None:
    space = ActionSpace((ActionDimension("x", motion_range=0.2, scale=0.1),))
    manifest_rule = MANIFEST.segmentation
    rows = np.arange(33)[:, np.newaxis] / 32 * 0.1
    assert [chunk.length for chunk in segment(rows, space, manifest_rule)] == [32]


def test_longscapes_setting_is_multiplied_out() -> None:
    tokens = 5 * TOKENS_PER_LATENT  # four latent frames and one of context
    assert chunk_flops(16) == 2 * PARAMETERS * tokens * STEPS * EVALUATIONS
    assert TOKENS_PER_LATENT == 1350


def test_both_settings_are_compared_per_second_of_video(bundle: Bundle) -> None:
    figures = arithmetic(bundle, 100.0)
    macs = longscape.work.denoiser_macs(bundle, 32)
    assert figures["macs.denoiser.32"] == macs
    assert figures["arithmetic.bundle.gflops.32"] == pytest.approx(2 * macs / 1e9)
    assert figures["arithmetic.bundle.gflops_per_s"] == pytest.approx(2 * macs / 1e9 * 20 / 32)
    assert figures["arithmetic.longscape.gflops_per_s"] == pytest.approx(chunk_flops(32) / 1e9 * 10 / 32)
    assert figures["arithmetic.longscape.s_per_s"] == pytest.approx(chunk_flops(32) * 10 / 32 / 2e11)
    assert not [name for name in arithmetic(bundle, None) if name.endswith("s_per_s")] or all(
        name.endswith("gflops_per_s") for name in arithmetic(bundle, None) if name.endswith("s_per_s")
    )
