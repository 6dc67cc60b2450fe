# SPDX-License-Identifier: Apache-2.0
"""The chunks of the motion that is being executed, as the images come in; plain Python.

K context frames, N future steps, A action dimensions; the rate of the grid is f.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longscape_ros.bundle import Manifest
from longscape_ros.contract import NANOSECONDS, Chunk, Snapshot
from longscape_ros.segmentation import OnlineSegmenter


@dataclass(frozen=True, slots=True)
class ExecutedChunk:
    """A chunk whose motion has been executed.

    Args:
        chunk: What the segmenter says of it.
        begin_ns: When it began.
        end_ns: When it ended.
    """

    chunk: Chunk
    begin_ns: int
    end_ns: int


class ExecutedChunks:
    """Takes the snapshot of every image and steps through the grid that begins at the first of them.

    The motion at a step is that of the image nearest to it, so the camera may be faster or slower than the grid. After a gap of
    more than K - 1 steps, in which nothing is known to have been executed, it begins anew.

    Args:
        manifest: Of the bundle, for the rate, the action space and the chunk rule.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._fps = manifest.fps
        self._context = manifest.context
        self._accumulates = np.array([d.kind in ("velocity", "delta") for d in manifest.action_space.dimensions])
        self._segmenter = OnlineSegmenter(manifest.action_space, manifest.segmentation)
        self._origin_ns: int | None = None
        self._steps = 0  # executed since the origin
        self._row: NDArray[np.float64] = np.empty(0)  # [A], the motion there, accumulated from the origin
        self.restarts = 0

    def restart(self) -> None:
        """Forgets what was executed; the next snapshot is the new origin."""
        self._origin_ns = None

    def update(self, snapshot: Snapshot) -> tuple[ExecutedChunk, ...]:
        """The chunks that ended since the snapshot before, oldest first."""
        anchor = self._context - 1
        if self._origin_ns is None:
            self._begin(snapshot)
            return ()
        steps = round((snapshot.anchor_ns - self._origin_ns) * self._fps / NANOSECONDS) - self._steps
        if steps > anchor or steps < 0:
            self.restarts += 1
            self._begin(snapshot)
            return ()
        motion = self._accumulated(snapshot.motion, anchor - steps)
        ended = []
        for row in range(anchor - steps + 1, anchor + 1):
            self._steps += 1
            chunk = self._segmenter.step(motion[row], motion[row + 1 :])
            if chunk is not None:
                ended.append(ExecutedChunk(chunk, self._time_ns(chunk.start), self._time_ns(chunk.start + chunk.length)))
        self._row = motion[anchor]
        return tuple(ended)

    def _begin(self, snapshot: Snapshot) -> None:
        self._origin_ns, self._steps = snapshot.anchor_ns, 0
        self._row = snapshot.motion[self._context - 1].copy()
        self._segmenter.reset(self._row)

    def _accumulated(self, motion: NDArray[np.float64], before: int) -> NDArray[np.float64]:
        """Like ``motion``, [K + N, A], with velocities and deltas accumulated from the origin; row ``before`` is the last executed."""
        return np.where(self._accumulates, motion - motion[before] + self._row, motion)

    def _time_ns(self, step: int) -> int:
        assert self._origin_ns is not None
        return self._origin_ns + round(step * NANOSECONDS / self._fps)
