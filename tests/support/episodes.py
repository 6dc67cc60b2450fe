# SPDX-License-Identifier: Apache-2.0
"""Episodes on the tiny bundle's grid: a bright square follows the commands."""

from __future__ import annotations

import numpy as np
from support.tiny_bundle import MANIFEST

from longscape_ros.timeline import GridEpisode


def make_episode(name: str, frames: int = 120, speed: float = 0.01, seed: int = 0) -> GridEpisode:
    """x goes back and forth at ``speed`` per step, y stays; the gripper closes in the middle."""
    height, width = MANIFEST.image_size
    at = np.arange(frames)
    x = np.abs((at * speed + 0.01 * seed) % 0.4 - 0.2)
    motion = np.stack([x, np.zeros(frames), (at > frames // 2).astype(float)], axis=1)
    images = np.full((frames, height, width, 3), 40, np.uint8)
    for image, position in zip(images, x, strict=True):
        left = int(position / 0.2 * (width - 6))
        image[6:12, left : left + 6] = (250, 200, 150)
    stamps = np.round(at * 1e9 / MANIFEST.fps).astype(np.int64) + 1000 * seed
    return GridEpisode(name=name, stamps_ns=stamps, frames=images, motion=motion, commanded=np.ones(frames, bool), instruction="")
