# SPDX-License-Identifier: Apache-2.0
"""Timing: repeated runs of one thing, turns of several, and what is said of the times."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from longscape_ros.errors import InputError

LEAST_RUNS = 5
"""Runs of everything, however long they take, but for those that are :data:`LONG_MS`."""

LONG_MS = 1000.0
"""A run that takes longer is made :data:`FEWEST_RUNS` times at least, the first included: at this length nothing needs to be warm."""

FEWEST_RUNS = 2
RESAMPLES = 1000
_ENDS = (2.5, 97.5)

Run = Callable[[], object]
"""Something to be timed."""

Timed = Callable[[], float]
"""Something that says itself how many milliseconds it took."""


def timed(run: Run) -> Timed:
    """Has ``run`` timed by this machine's clock."""

    def milliseconds() -> float:
        begin = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - begin)

    return milliseconds


def in_turns(runs: Mapping[str, Timed], seconds: float, least: int = LEAST_RUNS) -> dict[str, list[float]]:
    """Milliseconds of each, one after the other in every turn, so that what disturbs the machine disturbs all alike.

    A first turn does not count, unless it took :data:`LONG_MS` on average.

    Args:
        runs: By name.
        seconds: For all turns.
        least: Turns that are made even if there is no time for them.

    Returns:
        A list per name, all of one length: what stands at one place was measured in one turn.
    """
    end = time.perf_counter() + seconds
    first = {name: run() for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    if sum(first.values()) > LONG_MS * len(runs):
        times, least = {name: [milliseconds] for name, milliseconds in first.items()}, min(least, FEWEST_RUNS)
    while len(next(iter(times.values()))) < least or time.perf_counter() < end:
        for name, run in runs.items():
            times[name].append(run())
    return times


def repeat(run: Run, seconds: float, least: int = LEAST_RUNS) -> list[float]:
    """Milliseconds of each run of one thing, see :func:`in_turns`."""
    return in_turns({"": timed(run)}, seconds, least)[""]


@dataclass(frozen=True, slots=True)
class Spread:
    """What is said of a list of times: median, 95th percentile, and how many there are."""

    p50: float
    p95: float
    n: int

    @classmethod
    def of(cls, times: Sequence[float]) -> Spread:
        """Of at least one time.

        Raises:
            InputError: there is none.
        """
        if not len(times):
            raise InputError("Got no times, expected at least one.")
        middle, high = np.percentile(times, (50, 95))
        return cls(float(middle), float(high), len(times))

    def figures(self, name: str) -> dict[str, float]:
        """``<name>_p50``, ``<name>_p95`` and ``<name>_n``."""
        return {f"{name}_p50": self.p50, f"{name}_p95": self.p95, f"{name}_n": float(self.n)}


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as large one list of times is as another, with the ends of a 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, above: Sequence[float], below: Sequence[float]) -> Ratio:
        """The ratio of the medians of times that were measured in turns; turns are resampled for the interval.

        Raises:
            InputError: the lists are not of one length, or empty.
        """
        if len(above) != len(below) or not len(above):
            raise InputError(f"Got {len(above)} and {len(below)} times, expected as many of both: they are compared turn by turn.")
        pairs = np.array([above, below], np.float64)
        chosen = np.random.default_rng(0).integers(0, pairs.shape[1], (RESAMPLES, pairs.shape[1]))
        medians = np.median(pairs[:, chosen], axis=2)  # [2, RESAMPLES]
        low, high = np.percentile(medians[0] / medians[1], _ENDS)
        middle = np.median(pairs, axis=1)
        return cls(float(middle[0] / middle[1]), float(low), float(high))

    def times(self, factor: float) -> Ratio:
        """Multiplied with what is known exactly."""
        return Ratio(factor * self.value, factor * self.low, factor * self.high)

    def figures(self, name: str) -> dict[str, float]:
        """``<name>``, ``ci.low.<name>`` and ``ci.high.<name>``."""
        return {name: self.value, f"ci.low.{name}": self.low, f"ci.high.{name}": self.high}
