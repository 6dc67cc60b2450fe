# SPDX-License-Identifier: Apache-2.0
"""A bundle's weights can be trained further, and its model can be made again."""

from __future__ import annotations

from dataclasses import replace

import torch

from longscape_ros.actions import feature_count
from longscape_ros.bundle import Bundle, default_bundle_path, load_bundle
from longscape_ros.model.recipes import cpu
from longscape_ros.model.stored import stored_config, stored_model, stored_weights
from longscape_ros.runtime.backends import create_backend


def default_bundle() -> Bundle:
    return load_bundle(default_bundle_path())


def test_the_sizes_of_the_default_bundles_model_follow_from_its_weights() -> None:
    bundle = default_bundle()
    found = stored_config(bundle, stored_weights(bundle))
    expected = cpu().world(feature_count(bundle.manifest.action_space))
    assert found.transformer == expected.transformer
    assert replace(found.autoencoder, latent_noise=expected.autoencoder.latent_noise) == expected.autoencoder


def test_the_default_bundle_computes_in_torch_what_its_graphs_do() -> None:
    bundle = default_bundle()
    model = stored_model(bundle)
    generator = torch.Generator().manual_seed(0)
    context, actions, noise = (torch.randn(size, generator=generator) for size in ((1, 4, 16, 8, 8), (1, 12, 7), (1, 8, 16, 8, 8)))
    backend = create_backend(bundle, "ort_cpu", threads=1, precision="fp32")
    with torch.no_grad():
        for expert in range(4):
            found = model.denoiser.sample(context, actions, noise, expert, bundle.manifest.sampler_steps)
            expected = torch.from_numpy(backend.denoise(expert, context.numpy(), actions.numpy(), noise.numpy()))
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        pictures = model.autoencoder.decode(context[0]).clamp(0, 1) * 255
    assert (pictures - torch.from_numpy(backend.start_decoding(context[0].numpy())()).float()).abs().max() < 0.51
    backend.close()
