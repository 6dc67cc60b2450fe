# SPDX-License-Identifier: Apache-2.0
"""A bundle's weights can be trained further."""

from __future__ import annotations

import torch

from longscape_ros.bundle import default_bundle_path, load_bundle
from longscape_ros.export.initial import initial_weights
from longscape_ros.model.recipes import cpu
from longscape_ros.model.world import WorldModel
from longscape_ros.runtime.backends import create_backend


def test_the_default_bundle_computes_in_torch_what_its_graphs_do() -> None:
    bundle = load_bundle(default_bundle_path())
    weights = initial_weights(bundle)
    model = WorldModel(cpu().world(7))
    own = model.state_dict()
    assert {name for name in own if name.startswith(("autoencoder.", "denoiser.transformer."))} <= set(weights)
    model.load_state_dict({name: weight for name, weight in weights.items() if name in own}, strict=False)
    model.eval()
    generator = torch.Generator().manual_seed(0)
    context, actions, noise = (torch.randn(size, generator=generator) for size in ((1, 4, 16, 8, 8), (1, 12, 7), (1, 8, 16, 8, 8)))
    backend = create_backend(bundle, "ort_cpu", threads=1)
    with torch.no_grad():
        for expert in range(4):
            found = model.denoiser.sample(context, actions, noise, expert, bundle.manifest.sampler_steps)
            expected = torch.from_numpy(backend.denoise(expert, context.numpy(), actions.numpy(), noise.numpy()))
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        pictures = model.autoencoder.decode(context[0]).clamp(0, 1) * 255
    assert (pictures - torch.from_numpy(backend.start_decoding(context[0].numpy())()).float()).abs().max() < 0.51
    backend.close()
