# SPDX-License-Identifier: Apache-2.0
"""What a bench run is asked to measure."""

from __future__ import annotations

from dataclasses import dataclass

from longscape_ros.bench.cells import Cell
from longscape_ros.bench.stream import CAMERAS, Stream
from longscape_ros.bundle import Manifest
from longscape_ros.errors import InputError
from longscape_ros.runtime.backend import AUTO

BATCHES = (1, 2, 4, 8, 16, 32, 64)
HORIZONS = (16, 32, 64, 128, 200)
QUICK_BATCHES = (1, 8)
QUICK_HORIZONS = (32, 64, 200)
HEADLINE = 16
"""The chunk length of the ratios, or the nearest that a bundle has."""

FULL_SECONDS = 240.0
"""Time of a full run, if no other is given; the largest batches take what they need beside it."""

SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class BenchConfig:
    """A bench run.

    Args:
        backend: What the predictions are timed on, see :func:`longscape_ros.runtime.backends.create_backend`.
        precision: What it computes in.
        threads: CPU threads, of everything; None: the backend's choice, and for comparisons the fastest number.
        seconds: For the measurements, roughly; each is made a few times at least.
        full: Whether every batch size, chunk length and horizon is measured, not only a few.
        compare: Whether the backends are compared, each in a process of its own.
        compiled: Whether torch's graphs are compiled for the comparison too.
        end_to_end: Whether the node is run as a process, with a camera and a subscriber in another.
        cameras: Those that the node is to keep up with, one after the other, if it is run.
        only_cameras: Whether nothing else is measured.

    Raises:
        InputError: ``seconds`` is not positive, ``threads`` is below 1, or a camera is there twice.
    """

    backend: str = AUTO
    precision: str = AUTO
    threads: int | None = None
    seconds: float = SECONDS
    full: bool = False
    compare: bool = True
    compiled: bool = False
    end_to_end: bool = True
    cameras: tuple[Stream, ...] = CAMERAS
    only_cameras: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.seconds < float("inf"):
            raise InputError(f"Got {self.seconds} seconds, expected a positive time.")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"Got {self.threads} threads, expected at least 1.")
        if len(set(self.cameras)) < len(self.cameras):
            raise InputError(f"Got the cameras {', '.join(map(str, self.cameras))}, expected each once.")

    @property
    def horizons(self) -> tuple[int, ...]:
        """Frames ahead of the whole predictions that are timed."""
        return HORIZONS if self.full else QUICK_HORIZONS

    @property
    def batches(self) -> tuple[int, ...]:
        """Sizes of the batches that are timed."""
        return BATCHES if self.full else QUICK_BATCHES

    def cells(self, manifest: Manifest) -> list[Cell]:
        """What is timed on every side; the first decides which number of threads is the fastest."""
        lengths = manifest.segmentation.lengths
        first = Cell("denoise", headline(manifest))
        chosen = lengths if self.full else (first.size,)
        cells = [Cell("denoise", length, batch) for length in chosen for batch in self.batches]
        cells += [Cell("decode", length) for length in chosen]
        cells += [Cell("chunk", length) for length in chosen]
        cells += [Cell("horizon", horizon) for horizon in (self.horizons if self.full else QUICK_HORIZONS[:1])]
        return [first, *(cell for cell in cells if cell != first)]


def headline(manifest: Manifest) -> int:
    """The chunk length of the ratios."""
    return min(manifest.segmentation.lengths, key=lambda length: (abs(length - HEADLINE), length))
