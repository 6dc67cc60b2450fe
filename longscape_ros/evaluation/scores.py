# SPDX-License-Identifier: Apache-2.0
"""What an evaluation found: figures pooled over windows, per episode, and with intervals."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from longscape_ros.errors import InputError
from longscape_ros.evaluation.statistics import (
    LEVEL,
    RESAMPLES,
    Numbers,
    Statistic,
    calibration_error,
    calibration_sums,
    correlation,
    correlation_sums,
    interval,
    mean_correlation,
    ranks,
    ratio,
)

LEAST_WINDOWS = 3
"""Windows that must reach a frame for a correlation across them."""


@dataclass(frozen=True, slots=True)
class Judged:
    """How one prediction went, frame by frame. N frames.

    Args:
        episode: Whose.
        window: Which of the windows that were scored.
        psnr: float64 [N] in dB.
        rmse: float64 [N] in levels of 255.
        confidence: float64 [N]; NaN where unknown.
    """

    episode: str
    window: int
    psnr: Numbers
    rmse: Numbers
    confidence: Numbers


@dataclass(frozen=True, slots=True)
class _Pool:
    """A figure: what makes it of sums, and the sums of each episode."""

    statistic: Statistic
    sums: dict[str, Numbers]

    def of(self, sums: Numbers) -> float:
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(self.statistic(sums))


class Scores:
    """Sums by figure and episode, from which every figure is made.

    Args:
        confident_db: PSNR that a frame's confidence is the probability of; None: it is none.
    """

    def __init__(self, confident_db: float | None = None) -> None:
        self.confident_db = confident_db
        self.windows: list[Judged] = []
        self._pools: dict[str, _Pool] = {}

    # ---- filling ----

    def add(self, figure: str, episode: str, value: float, weight: float = 1.0) -> None:
        """Count a value. A figure is the sum of its values over the sum of their weights: the mean, where each weight is one."""
        self.add_sums(figure, episode, np.array([value, weight]), ratio)

    def add_sums(self, figure: str, episode: str, sums: Numbers, statistic: Statistic) -> None:
        """Add to the sums [M] of any other kind of figure; ``statistic`` makes the figure of them."""
        pool = self._pools.setdefault(figure, _Pool(statistic, {}))
        pool.sums[episode] = pool.sums.get(episode, np.zeros(len(sums))) + sums

    def add_window(self, judged: Judged) -> None:
        """Keep a prediction's curves, for films and for the figures of confidence."""
        self.windows.append(judged)
        self.__dict__.pop("_confidence", None)

    # ---- reading ----

    @property
    def episodes(self) -> list[str]:
        """Those with at least one window."""
        return list(dict.fromkeys(judged.episode for judged in self.windows))

    def means(self) -> dict[str, float]:
        """Every figure, over all windows; one that has nothing to stand on is absent."""
        figures = {name: pool.of(np.sum(list(pool.sums.values()), axis=0)) for name, pool in self._all().items()}
        return {name: value for name, value in figures.items() if math.isfinite(value)}

    def by_episode(self, figure: str) -> dict[str, float]:
        """Episode -> the figure of its windows alone; episodes that give none are absent.

        Raises:
            InputError: no window gives the figure.
        """
        pools = self._all()
        if figure not in pools:
            raise InputError(f"Got the figure {figure!r}, expected one of {', '.join(pools)}.")
        values = {episode: pools[figure].of(sums) for episode, sums in pools[figure].sums.items()}
        return {episode: value for episode, value in values.items() if math.isfinite(value)}

    def intervals(self, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL) -> dict[str, tuple[float, float]]:
        """Figure -> ends of its interval under resampling of episodes; absent with fewer than two episodes."""
        ends = {
            name: interval(np.stack(list(pool.sums.values())), pool.statistic, resamples, seed, level) for name, pool in self._all().items()
        }
        return {name: (low, high) for name, (low, high) in ends.items() if math.isfinite(low) and math.isfinite(high)}

    def figures(self, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, float]:
        """:meth:`means`, then ``ci.low.<figure>`` and ``ci.high.<figure>``, then ``windows`` and ``episodes``."""
        means = self.means()
        ends = {name: pair for name, pair in self.intervals(resamples, seed).items() if name in means}
        low = {f"ci.low.{name}": pair[0] for name, pair in ends.items()}
        high = {f"ci.high.{name}": pair[1] for name, pair in ends.items()}
        return means | low | high | {"windows": float(len(self.windows)), "episodes": float(len(self.episodes))}

    def _all(self) -> dict[str, _Pool]:
        return self._pools | self._confidence

    @functools.cached_property
    def _confidence(self) -> dict[str, _Pool]:
        """The figures of confidence. Ranks are those among all windows, in resamples too."""
        known = [judged for judged in self.windows if len(judged.confidence) and np.isfinite(judged.confidence).all()]
        if not known:
            return {}
        owner = np.repeat(np.arange(len(known)), [len(judged.rmse) for judged in known])
        doubt = ranks(np.concatenate([-judged.confidence for judged in known]))
        error = ranks(np.concatenate([judged.rmse for judged in known]))
        overall = [correlation_sums(doubt[owner == index], error[owner == index]) for index in range(len(known))]
        found = {
            "confidence.rank_correlation": _Pool(correlation, _by_episode(known, overall)),
            "confidence.rank_correlation_within_horizon": _Pool(mean_correlation, _by_episode(known, _within_horizon(known))),
        }
        if self.confident_db is not None:
            sums = [calibration_sums(judged.confidence, judged.psnr >= self.confident_db) for judged in known]
            found["confidence.calibration_error"] = _Pool(calibration_error, _by_episode(known, sums))
        return found


def _within_horizon(known: Sequence[Judged]) -> list[Numbers]:
    """Per window the sums [N * 6] of pairs of ranks, at each frame among the windows that reach it."""
    longest = max(len(judged.rmse) for judged in known)
    sums = np.zeros((len(known), longest, 6))
    for step in range(longest):
        reaching = [index for index, judged in enumerate(known) if len(judged.rmse) > step]
        if len(reaching) < LEAST_WINDOWS:
            break
        doubt = ranks(np.array([-known[index].confidence[step] for index in reaching]))
        error = ranks(np.array([known[index].rmse[step] for index in reaching]))
        sums[reaching, step] = correlation_sums(doubt[:, np.newaxis], error[:, np.newaxis])
    return [row.ravel() for row in sums]


def _by_episode(known: Sequence[Judged], sums: Sequence[Numbers]) -> dict[str, Numbers]:
    total: dict[str, Numbers] = {}
    for judged, own in zip(known, sums, strict=True):
        total[judged.episode] = total.get(judged.episode, np.zeros(len(own))) + own
    return total
