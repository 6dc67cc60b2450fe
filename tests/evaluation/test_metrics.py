# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from longscape_ros.evaluation.metrics import (
    HIGHEST_PSNR,
    Image,
    deviation,
    difference,
    gradient_energy,
    psnr,
    psnr_of,
    rmse,
    ssim,
)


def noise_image(seed: int, size: tuple[int, int] = (32, 48)) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def test_psnr_is_ten_times_the_logarithm_of_peak_over_error() -> None:
    black = np.zeros((4, 4, 3), np.uint8)
    assert psnr(black, black + np.uint8(255)) == 0
    assert psnr(black, black + np.uint8(10)) == pytest.approx(10 * math.log10(255**2 / 100))


def test_psnr_of_equal_images_is_capped() -> None:
    assert psnr(noise_image(0), noise_image(0)) == 60


def test_a_mask_counts_only_its_pixels() -> None:
    actual, predicted = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint8)
    predicted[0, 0] = 51
    mask = np.zeros((4, 4), bool)
    mask[0, 0] = True
    assert psnr(actual, predicted, mask) == pytest.approx(20 * math.log10(5))
    assert psnr(actual, predicted, ~mask) == 60


def test_ssim_is_one_for_equal_images_and_symmetric_and_lower_for_a_worse_one() -> None:
    image = cv2.GaussianBlur(noise_image(0), (5, 5), 2)
    slightly, badly = (np.clip(image + s * np.random.default_rng(1).standard_normal(image.shape), 0, 255).astype(np.uint8) for s in (5, 40))
    assert ssim(image, image) == pytest.approx(1)
    assert ssim(image, badly) == pytest.approx(ssim(badly, image))
    assert ssim(image, badly) < ssim(image, slightly) < 1


def test_ssim_of_flat_images_follows_the_papers_formula() -> None:
    dark, bright = np.full((16, 16, 3), 50, np.uint8), np.full((16, 16, 3), 100, np.uint8)
    c1 = (0.01 * 255) ** 2
    assert ssim(dark, bright) == pytest.approx((2 * 50 * 100 + c1) / (50**2 + 100**2 + c1))


def test_the_error_of_many_images_is_that_of_each() -> None:
    actual, predicted = np.stack([noise_image(0), noise_image(1)]), np.stack([noise_image(2), noise_image(1)])
    levels = rmse(actual, predicted)
    assert levels.tolist() == pytest.approx([math.sqrt(np.square(actual[0].astype(float) - predicted[0]).mean()), 0])
    assert psnr_of(levels).tolist() == pytest.approx([psnr(actual[0], predicted[0]), HIGHEST_PSNR])
    assert rmse(actual, predicted[1]).tolist() == pytest.approx(rmse(actual, np.stack([predicted[1]] * 2)).tolist())


def test_the_difference_of_images_does_not_wrap_around() -> None:
    assert difference(np.full((2, 2, 3), 250, np.uint8), np.full((2, 2, 3), 10, np.uint8)) == 240


def test_blur_takes_gradient_energy_away_and_a_flat_image_has_none() -> None:
    image = noise_image(0)
    assert gradient_energy(cv2.GaussianBlur(image, (5, 5), 1)) < 0.2 * gradient_energy(image)
    assert gradient_energy(np.full((8, 8, 3), 90, np.uint8)) == 0


def test_the_gradient_energy_of_a_single_bright_pixel_is_the_laplacians() -> None:
    image = np.zeros((9, 9, 3), np.uint8)
    image[4, 4] = 10
    assert gradient_energy(image) == (40**2 + 4 * 10**2) / 81


def test_the_deviation_of_a_half_black_and_half_white_image_is_half_the_range() -> None:
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, 4:] = 255
    assert deviation(image) == pytest.approx(127.5)
