# SPDX-License-Identifier: Apache-2.0
"""A robot whose camera sees one grey level, 100 + 400 times x, and a predictor that knows this up to an error of its own.

So every figure of an evaluation has a value that can be worked out by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from support.tiny_bundle import MANIFEST

from longscape_ros.contract import Chunk, EndReason, Prediction, Snapshot
from longscape_ros.evaluation.windows import Window
from longscape_ros.timeline import GridEpisode

LEVEL, GAIN = 100.0, 400.0
"""Grey level at x = 0, and levels per metre."""

CHUNK = 8
SHAPE = (*MANIFEST.image_size, 3)


def grey(x: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Positions [N] -> images uint8 [N, H, W, 3]."""
    return np.broadcast_to(np.round(LEVEL + GAIN * x)[:, None, None, None], (len(x), *SHAPE)).astype(np.uint8)


def grey_episode(name: str, x: NDArray[np.float64]) -> GridEpisode:
    """The robot goes along x [N]; the gripper stays open."""
    motion = np.stack([x, np.zeros_like(x), np.zeros_like(x)], axis=1)
    stamps = np.round(np.arange(len(x)) * 1e9 / MANIFEST.fps).astype(np.int64)
    return GridEpisode(name, stamps, grey(x), motion, np.ones(len(x), bool), "")


def grey_window(name: str, x: NDArray[np.float64], steps: int) -> Window:
    """A window at the first possible place; what is measured is x itself, once for each of three directions."""
    anchor = MANIFEST.context - 1
    measured = np.stack([x, np.zeros_like(x), np.zeros_like(x)], axis=1)[anchor : anchor + steps + 1]
    return Window(grey_episode(name, x), anchor, steps, steps, measured)


class GreyProbe:
    """Reads x off the grey level."""

    def locate(self, rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
        x = (rgb.reshape(len(rgb), -1).mean(axis=1) - LEVEL) / GAIN
        return np.stack([x, np.zeros_like(x), np.zeros_like(x)], axis=1)


class _Backend:
    """Latents are the images."""

    def encode(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        return rgb.astype(np.float32)

    def start_decoding(self, latents: NDArray[np.float32]) -> Callable[[], NDArray[np.uint8]]:
        rgb = np.clip(np.round(latents), 0, 255).astype(np.uint8)
        return lambda: rgb


@dataclass
class GreyPredictor:
    """Predicts the level that the commands lead to, plus ``error`` levels at each step ahead [N] -> [N].

    Args:
        error: Of the frames 1, 2 ... ahead.
        confidence: Of the same.
        confident_db: What confidence is the probability of.
    """

    error: Callable[[NDArray[np.float64]], NDArray[np.float64]] = lambda h: np.full(len(h), 2.0)
    confidence: Callable[[NDArray[np.float64]], NDArray[np.float64]] = lambda h: np.full(len(h), np.nan)
    confident_db: float | None = None

    model_id = "grey@0"

    def __post_init__(self) -> None:
        said = None if self.confident_db is None else SimpleNamespace(psnr_db=self.confident_db)
        fields = {name: getattr(MANIFEST, name) for name in ("context", "action_space", "segmentation", "experts", "fps", "image_size")}
        self.bundle: Any = SimpleNamespace(manifest=SimpleNamespace(**fields, confidence=said))
        self.backend: Any = _Backend()

    def roll_out(self, snapshot: Snapshot, *, horizon: int) -> Any:
        known = len(snapshot.context)
        ahead = np.arange(1.0, horizon + 1)
        levels = LEVEL + GAIN * snapshot.motion[known : known + horizon, 0] + self.error(ahead)
        return SimpleNamespace(latents=np.broadcast_to(levels[:, None, None, None], (horizon, *SHAPE)).astype(np.float32))

    def predict(self, snapshot: Snapshot, *, horizon: int) -> Prediction:
        chunks = tuple(Chunk(s, CHUNK, min(CHUNK, horizon - s), EndReason.MOTION) for s in range(0, horizon, CHUNK))
        return Prediction(
            anchor_ns=snapshot.anchor_ns,
            fps=MANIFEST.fps,
            frames=self.backend.start_decoding(self.roll_out(snapshot, horizon=horizon).latents)(),
            chunks=chunks,
            experts=tuple(index % 2 for index in range(len(chunks))),
            assumed_from=horizon,
            confidence=self.confidence(np.arange(1.0, horizon + 1)).astype(np.float32),
            seed=0,
            model_id=self.model_id,
        )
