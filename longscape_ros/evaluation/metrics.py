# SPDX-License-Identifier: Apache-2.0
"""How near one image is to another. Letters: N images, H W their size."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

HIGHEST_PSNR = 60.0
"""PSNR of equal images, in dB."""

CHANGED_LEVELS = 20
"""A pixel has changed if one of its channels differs by more than this (of 255)."""

CHANGED_SHARE = 0.002
"""An image has changed if this share of its pixels has; with fewer, there is no motion-masked figure."""


def psnr(actual: Image, predicted: Image, mask: NDArray[np.bool_] | None = None) -> float:
    """Peak signal-to-noise ratio of uint8 images [H, W, 3] in dB, at most :data:`HIGHEST_PSNR`; over ``mask`` [H, W] if given."""
    squared = np.square(actual.astype(np.float64) - predicted)
    error = float(squared.mean() if mask is None else squared[mask].mean())
    return min(HIGHEST_PSNR, 10 * np.log10(255**2 / error)) if error > 0 else HIGHEST_PSNR


def rmse(actual: Image, predicted: Image) -> NDArray[np.float64]:
    """Root of the mean square error of uint8 images [N, H, W, 3], or of one image [H, W, 3] in place of all, in levels: float64 [N]."""
    difference = (actual.astype(np.float32) - predicted).reshape(len(actual), -1)
    return np.asarray(np.sqrt(np.einsum("np,np->n", difference, difference, dtype=np.float64) / difference.shape[1]))


def psnr_of(levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """PSNR in dB of errors that :func:`rmse` gives."""
    return np.asarray(np.minimum(HIGHEST_PSNR, 20 * np.log10(255 / np.maximum(levels, 1e-9))))


def ssim(actual: Image, predicted: Image) -> float:
    """Structural similarity of uint8 images [H, W, 3]: luminance, Gaussian window 11 x 11 of sigma 1.5, valid positions only.

    Source: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity", IEEE
    Transactions on Image Processing 13(4), 2004.
    """
    x, y = (_luminance(image) for image in (actual, predicted))
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x, variance_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return float((luminance * structure).mean())


def changed(before: Image, after: Image) -> NDArray[np.bool_]:
    """bool [H, W]: which pixels changed, see :data:`CHANGED_LEVELS`."""
    mask: NDArray[np.bool_] = cv2.absdiff(before, after).max(axis=2) > CHANGED_LEVELS
    return mask


def difference(one: Image, other: Image) -> float:
    """Mean absolute difference of uint8 images of one shape, in levels of 255."""
    return float(cv2.absdiff(one, other).mean())


def gradient_energy(image: Image) -> float:
    """Mean square of the Laplacian of the luminance of a uint8 image [H, W, 3]: what blur takes away."""
    return float(np.square(cv2.Laplacian(_luminance(image), cv2.CV_64F)).mean())


def deviation(image: Image) -> float:
    """Standard deviation of the luminance of a uint8 image [H, W, 3], in levels of 255."""
    return float(_luminance(image).std())


def _luminance(image: Image) -> NDArray[np.float64]:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.float64)


def _blur(image: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(cv2.GaussianBlur(image, (11, 11), 1.5)[5:-5, 5:-5], np.float64)
