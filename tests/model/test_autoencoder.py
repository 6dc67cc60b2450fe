# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from torch import Tensor

from longscape_ros.model.autoencoder import Autoencoder, AutoencoderConfig, FrameBatch, ResidualBlock


@pytest.fixture
def autoencoder() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(AutoencoderConfig(image_size=(24, 40), channels=5, widths=(8, 8, 8)))


def images(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 24, 40, 3), dtype=torch.uint8, generator=generator)


def test_images_become_latents_of_an_eighth_and_images_again(autoencoder: Autoencoder) -> None:
    latents = autoencoder.encode(images(3))
    assert latents.shape == (3, *autoencoder.config.latent_shape) == (3, 5, 3, 5)
    assert autoencoder.decode(latents).shape == (3, 24, 40, 3)


@torch.no_grad()
def test_normalised_latents_have_mean_zero_and_deviation_one(autoencoder: Autoencoder) -> None:
    for _ in range(2):  # the second time they are normalised already
        autoencoder.set_normalisation(autoencoder.encode(images(64)))
        latents = autoencoder.encode(images(64))
        torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(5), atol=1e-4, rtol=0)
        torch.testing.assert_close(latents.std(dim=(0, 2, 3)), torch.ones(5), atol=1e-4, rtol=0)


@torch.no_grad()
def test_normalising_does_not_change_what_is_decoded(autoencoder: Autoencoder) -> None:
    before = autoencoder.decode(autoencoder.encode(images(4)))
    autoencoder.set_normalisation(autoencoder.encode(images(64)))
    torch.testing.assert_close(autoencoder.decode(autoencoder.encode(images(4))), before, atol=1e-5, rtol=0)


def test_the_normalisation_is_part_of_the_weights(autoencoder: Autoencoder) -> None:
    autoencoder.set_normalisation(autoencoder.encode(images(8)).detach())
    copy = Autoencoder(autoencoder.config)
    copy.load_state_dict(autoencoder.state_dict())
    torch.testing.assert_close(copy.encode(images(2)), autoencoder.encode(images(2)), atol=0, rtol=0)


def test_frames_do_not_depend_on_each_other(autoencoder: Autoencoder) -> None:
    torch.testing.assert_close(autoencoder.encode(images(4))[2:3], autoencoder.encode(images(4)[2:3]))


def test_the_loss_reaches_every_weight(autoencoder: Autoencoder) -> None:
    for block in autoencoder.modules():
        if isinstance(block, ResidualBlock):  # begins as the identity
            torch.nn.init.normal_(block.second.weight, std=0.1)
    loss, figures = autoencoder(FrameBatch(images(2), torch.randn(2, *autoencoder.config.latent_shape)))
    loss.backward()
    without = [name for name, parameter in autoencoder.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert not without
    assert 0 < figures["psnr"] < 20


def test_training_puts_noise_on_the_latents(autoencoder: Autoencoder) -> None:
    frames, noise = images(2), torch.randn(2, *autoencoder.config.latent_shape)
    quiet, noisy, again = (float(autoencoder(FrameBatch(frames, factor * noise))[0].detach()) for factor in (0, 20, 20))
    assert quiet != pytest.approx(noisy, rel=1e-4)
    assert noisy == again  # all chance is in the batch


def test_an_image_size_that_eight_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(64, 60\), expected positive multiples of 8"):
        AutoencoderConfig(image_size=(64, 60))
