# SPDX-License-Identifier: Apache-2.0
"""A few moments of the recordings that a model was trained on, kept in its bundle to try it with.

What a backend computes is compared on these (:mod:`longscape_ros.export.verify`) and timed on them: a model that is given noise instead
of pictures has other errors than the one that runs on the robot.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from longscape_ros.bundle import Bundle
from longscape_ros.contract import Snapshot
from longscape_ros.errors import BundleError, InputError

EXAMPLES = "examples.npz"
"""Name of the file in a bundle: ``context`` uint8 [E, K, H, W, 3] and ``motion`` float64 [E, K + N, A], see :class:`Snapshot`."""

COUNT = 4
STEPS = 96
"""Most future steps: a rollout of 64 frames and what its last chunk is cut by."""


def choose_examples(
    frames: NDArray[np.uint8], motion: NDArray[np.float64], bounds: NDArray[np.int64], context: int, count: int = COUNT
) -> list[Snapshot]:
    """Moments of different episodes, each where its episode's next :data:`STEPS` steps travel most.

    Args:
        frames: uint8 [M, H, W, 3], the episodes end to end.
        motion: float64 [M, A].
        bounds: int64 [E + 1], where each episode begins, and M.
        context: K.
        count: Of the moments, if there are so many episodes.

    Raises:
        InputError: no episode is long enough.
    """
    usable = [(a, b) for a, b in pairwise(bounds) if b - a > context]
    if not usable:
        raise InputError(f"Got no episode of more than {context} frames, expected some; record longer ones.")
    longest = max(int(b - a) for a, b in usable)
    steps = min(STEPS, longest - context)
    whole = [(a, b) for a, b in usable if b - a >= context + steps]
    chosen = [whole[i] for i in np.unique(np.linspace(0, len(whole) - 1, count).round().astype(int))]
    snapshots = []
    for first, end in chosen:
        travel = np.abs(np.diff(motion[first:end], axis=0)) / (np.ptp(motion[first:end], axis=0) + 1e-9)
        far = np.convolve(travel.sum(axis=1), np.ones(steps), "valid")[context - 1 :]
        start = int(first + far.argmax())
        snapshots.append(Snapshot(0, frames[start : start + context], motion[start : start + context + steps], assumed_from=steps))
    return snapshots


def write_examples(path: Path, snapshots: Sequence[Snapshot]) -> None:
    """Write moments of equal shapes."""
    np.savez_compressed(path, context=np.stack([s.context for s in snapshots]), motion=np.stack([s.motion for s in snapshots]))


def read_examples(bundle: Bundle) -> list[Snapshot]:
    """The examples of a bundle; none where it has none.

    Raises:
        BundleError: the file is none of this kind.
    """
    if EXAMPLES not in bundle.manifest.files:
        return []
    path = bundle.file(EXAMPLES)
    try:
        with np.load(path, allow_pickle=False) as stored:
            moments = list(zip(stored["context"], stored["motion"], strict=True))
        return [Snapshot(0, context, motion, assumed_from=len(motion) - len(context)) for context, motion in moments]
    except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        raise BundleError(f"{path}: found no examples ({error!r}), expected 'context' and 'motion'; export the model again.") from error
