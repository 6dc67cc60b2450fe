# SPDX-License-Identifier: Apache-2.0
"""Figures that are pooled over episodes, and how sure they are.

Windows of one episode resemble each other, so what is drawn anew for an interval is episodes, with all that they contain (a cluster
bootstrap: Davison and Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8). Every figure is a function of sums
over episodes, so that all resamples are one product of matrices.

Letters: E episodes, S resamples, M sums that a figure is made of.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longscape_ros.errors import InputError

RESAMPLES = 2000
LEVEL = 0.95
"""Share of the resamples that an interval holds."""

Numbers = NDArray[np.float64]
Statistic = Callable[[Numbers], Numbers]
"""Sums [..., M] -> figure [...]; NaN where there is none."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How much more one model has of a figure than another, over the same episodes.

    Args:
        mean: Of the episodes' differences.
        low: Lower end of its interval.
        high: Upper end.
        better: Share of episodes in which the first has more.
        episodes: How many.
    """

    mean: float
    low: float
    high: float
    better: float
    episodes: int


def paired_difference(
    first: Mapping[str, float], second: Mapping[str, float], resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL
) -> Difference:
    """Compare two models, episode by episode; an interval without zero means that they differ.

    Args:
        first: Episode -> its figure, as of :meth:`Scores.by_episode`.
        second: The same of the other model.
        resamples: Of the episodes.
        seed: Of the resamples.
        level: Share of the resamples between ``low`` and ``high``.

    Raises:
        InputError: they are not of the same episodes, or of fewer than two.
    """
    if set(first) != set(second) or len(first) < 2:
        alone = sorted(set(first) ^ set(second))
        raise InputError(
            f"Got figures of {len(first)} and of {len(second)} episodes, of which only one side has {alone[:5]}; "
            "expected the same two or more episodes on both sides: score both models on the same bags and horizons."
        )
    differences = np.array([first[episode] - second[episode] for episode in sorted(first)])
    low, high = interval(np.stack([differences, np.ones_like(differences)], axis=1), ratio, resamples, seed, level)
    return Difference(float(differences.mean()), low, high, float((differences > 0).mean()), len(differences))


def interval(sums: Numbers, statistic: Statistic, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL) -> tuple[float, float]:
    """Percentile interval of a figure under resampling of episodes.

    Args:
        sums: float64 [E, M], each episode's part of the sums.
        statistic: The figure of sums.
        resamples: S.
        seed: Of the resamples.
        level: Share of the resamples inside.

    Returns:
        Its two ends; NaN if fewer than two episodes tell something.
    """
    if len(sums) < 2:
        return np.nan, np.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        samples = statistic(drawn(len(sums), resamples, seed) @ sums)  # [S]
    samples = samples[np.isfinite(samples)]
    if not len(samples):
        return np.nan, np.nan
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@functools.lru_cache(maxsize=8)
def drawn(episodes: int, resamples: int, seed: int) -> Numbers:
    """float64 [S, E]: how often each episode is in each resample."""
    return np.random.default_rng(seed).multinomial(episodes, np.full(episodes, 1 / episodes), resamples).astype(np.float64)


def ratio(sums: Numbers) -> Numbers:
    """Sums [..., 2] of values and of weights -> [...]; the mean, where each weight is one."""
    return np.asarray(sums[..., 0] / sums[..., 1])


def slope(values: Numbers, at: Numbers) -> float:
    """Least-squares slope of ``values`` over ``at``, both float64 [n]."""
    centred = at - at.mean()
    return float((centred * values).sum() / np.square(centred).sum())


def ranks(values: Numbers) -> Numbers:
    """float64 [n] -> their ranks from 1, equal values sharing the mean of theirs."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    first = np.searchsorted(ordered, ordered, side="left")
    last = np.searchsorted(ordered, ordered, side="right")
    result = np.empty(len(values))
    result[order] = (first + last + 1) / 2
    return result


def correlation_sums(x: Numbers, y: Numbers) -> Numbers:
    """What :func:`correlation` needs of pairs [..., n]: float64 [..., 6]."""
    return np.stack([np.ones_like(x).sum(-1), x.sum(-1), y.sum(-1), (x * x).sum(-1), (y * y).sum(-1), (x * y).sum(-1)], axis=-1)


def correlation(sums: Numbers) -> Numbers:
    """Pearson's coefficient of pairs, from their sums [..., 6]; of ranks it is Spearman's. NaN where one side does not vary."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    spread_x, spread_y = n * xx - x * x, n * yy - y * y
    varies = (spread_x > 1e-9 * np.abs(n * xx)) & (spread_y > 1e-9 * np.abs(n * yy))
    product = np.sqrt(np.where(varies, spread_x * spread_y, 1.0))
    return np.where(varies, (n * xy - x * y) / product, np.nan)


def mean_correlation(sums: Numbers) -> Numbers:
    """Mean over groups of the coefficients, from their sums [..., groups * 6]; groups without one do not count."""
    single = correlation(sums.reshape(*sums.shape[:-1], -1, 6))
    counts = np.isfinite(single).sum(-1)
    return np.where(counts > 0, np.nansum(single, -1) / np.maximum(counts, 1), np.nan)


def calibration_sums(stated: Numbers, happened: NDArray[np.bool_], bins: int = 10) -> Numbers:
    """What :func:`calibration_error` needs: per bin the count, the sum of the stated probabilities, and of what happened.

    Args:
        stated: float64 [n], probabilities from 0 to 1.
        happened: bool [n].
        bins: Of equal width.

    Returns:
        float64 [bins * 3].
    """
    place = np.clip((stated * bins).astype(int), 0, bins - 1)
    parts = [np.bincount(place, weights, bins) for weights in (None, stated, happened.astype(float))]
    return np.stack(parts, axis=1).ravel().astype(np.float64)


def calibration_error(sums: Numbers) -> Numbers:
    """Expected calibration error from sums [..., bins * 3]: mean distance of what was stated from what happened, per bin.

    Source: Naeini, Cooper, Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015.
    """
    grouped = sums.reshape(*sums.shape[:-1], -1, 3)
    return np.asarray(np.abs(grouped[..., 1] - grouped[..., 2]).sum(-1) / grouped[..., 0].sum(-1))
