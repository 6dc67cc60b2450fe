# SPDX-License-Identifier: Apache-2.0
"""Places in recorded episodes to predict from, and what the predictor is given there.

Letters: K context frames, N future steps, A action dimensions, H W image, D measured positions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from longscape_ros.bags.reader import read_episode
from longscape_ros.bundle import Bundle, Manifest
from longscape_ros.contract import ActionSpace, Snapshot, TopicMapping
from longscape_ros.errors import InputError
from longscape_ros.evaluation.metrics import CHANGED_SHARE, Image, changed
from longscape_ros.timeline import GridEpisode, episode_grid

T = TypeVar("T")

HORIZONS = (1, 8, 16, 32, 64, 96, 128, 200)
STRIDE = 24
"""Frames between two anchors of an episode."""

LEAST_STEPS = 8
"""Future frames that an episode too short for the longest horizon must have."""

_NUMBER = re.compile(r"[_-]?\d+(#\d+)?$|#\d+$")
"""What recordings of one task differ by: a number at the end of their names, and what tells equal names apart."""

BLOCK = 32
MOVING_SHARE = 0.7
"""A window is scored if something moves in this share of every block of so many steps."""

MOVING_SPEED = 0.1 / 32
"""A command moves if it changes by more than this share of its scale per step: a tenth of the typical speed."""


@dataclass(frozen=True)
class Window:
    """A place in an episode to predict from.

    Args:
        episode: The recording on the bundle's grid.
        anchor: Index of t0.
        steps: Frames after it to score.
        planned: Steps after it that are commanded without a gap, at least ``steps``.
        measured: float64 [1 + steps, D], where the gripper was at t0 and at each frame after it, in metres; NaN or None where unknown.
    """

    episode: GridEpisode
    anchor: int
    steps: int
    planned: int
    measured: NDArray[np.float64] | None = None

    @property
    def now(self) -> Image:
        """The frame at t0."""
        frame: Image = self.episode.frames[self.anchor]
        return frame

    @property
    def future(self) -> Image:
        """uint8 [N, H, W, 3], the recorded frames that are to be scored."""
        frames: Image = self.episode.frames[self.anchor + 1 : self.anchor + 1 + self.steps]
        return frames

    def actual(self, step: int) -> Image:
        """The recorded frame ``step`` steps after t0."""
        frame: Image = self.episode.frames[self.anchor + step]
        return frame

    def snapshot(self, context: int, beyond: int) -> Snapshot:
        """What the predictor gets: recorded commands, up to ``beyond`` steps further than is scored, to cut the last chunk by."""
        first, end = self.anchor - context + 1, self.anchor + 1
        motion = self.episode.motion[first : end + min(self.steps + beyond, self.planned)]
        return Snapshot(
            anchor_ns=int(self.episode.stamps_ns[self.anchor]),
            context=self.episode.frames[first:end],
            motion=motion,
            assumed_from=len(motion) - context,
        )


def read_episodes(bundle: Bundle, bags: Iterable[Path], mapping: TopicMapping | None = None) -> list[GridEpisode]:
    """Read bags onto the bundle's grid.

    Raises:
        InputError: neither ``mapping`` nor the bundle says which topics to read.
        BundleError: the mapping's action is not the bundle's.
    """
    manifest = bundle.manifest
    mapping = bundle.mapping_or(mapping)
    size = manifest.image_size
    return [
        episode_grid(read_episode(bag, mapping, size), manifest.action_space, manifest.fps, size, mapping.image_latency_ns) for bag in bags
    ]


def find_windows(
    episodes: Iterable[GridEpisode], manifest: Manifest, horizons: Sequence[int], most: int | None = None
) -> tuple[list[Window], int]:
    """Places to predict from, and how many were left out because too little moves.

    Raises:
        InputError: there is none.
    """
    places = [window for episode in episodes for window in _places(episode, manifest.context, max(horizons))]
    moving = [window for window in places if _moves(window, manifest.action_space)]
    if not moving:
        raise InputError(
            f"Got {len(places)} windows of which none moves, expected episodes with at least {manifest.context + LEAST_STEPS} frames at "
            f"{manifest.fps:g} Hz in which the robot is commanded; give more or other bags."
        )
    return spread(moving, most), len(places) - len(moving)


def spread(windows: Sequence[T], most: int | None) -> list[T]:
    """At most so many windows, or whatever they are, spread evenly; None: all."""
    if most is None or most >= len(windows):
        return list(windows)
    return [windows[i] for i in np.linspace(0, len(windows) - 1, max(most, 1)).round().astype(int)]


def episode_names(windows: Sequence[Window]) -> list[str]:
    """Each window's episode; episodes of one name are told apart by a number."""
    names: dict[int, str] = {}
    for window in windows:
        key = id(window.episode)
        if key not in names:
            alike = sum(name.partition("#")[0] == window.episode.name for name in names.values())
            names[key] = f"{window.episode.name}#{alike + 1}" if alike else window.episode.name
    return [names[id(window.episode)] for window in windows]


def task_of(episode: str) -> str:
    """An episode's name up to its number: of ``push_9000`` it is ``push``; a name that is nothing but a number stays."""
    return _NUMBER.sub("", episode) or episode


def checked_horizons(horizons: Sequence[int]) -> tuple[int, ...]:
    """In order, each once.

    Raises:
        InputError: there is none, or one that is not ahead.
    """
    if not horizons or min(horizons) < 1:
        raise InputError(f"Got horizons {list(horizons)}, expected at least one, from 1 on.")
    return tuple(sorted(set(horizons)))


def _places(episode: GridEpisode, context: int, longest: int) -> list[Window]:
    """Every :data:`STRIDE` frames; with the whole horizon ahead if the episode has such places, else with what there is."""
    anchors = range(context - 1, len(episode.frames), STRIDE)
    ahead = [int(np.logical_and.accumulate(episode.commanded[anchor + 1 :]).sum()) for anchor in anchors]
    least = longest if max(ahead, default=0) >= longest else min(LEAST_STEPS, longest)
    return [Window(episode, anchor, min(longest, n), n) for anchor, n in zip(anchors, ahead, strict=True) if n >= least]


def _moves(window: Window, space: ActionSpace) -> bool:
    span = slice(window.anchor, window.anchor + window.steps + 1)
    scales = np.array([dimension.scale if dimension.moves else np.inf for dimension in space.dimensions])
    commanded = (np.abs(np.diff(window.episode.motion[span], axis=0)) > MOVING_SPEED * scales).any(axis=1)
    frames = window.episode.frames[span]
    seen = [changed(before, after).mean() > CHANGED_SHARE for before, after in pairwise(frames)]
    moving = commanded | np.array(seen)
    return all(moving[start : start + BLOCK].mean() >= MOVING_SHARE for start in range(0, window.steps, BLOCK))


def foreign_window(window: Window, windows: Sequence[Window], random: np.random.Generator) -> Window | None:
    """A window of another episode with at least as many steps, if there is one."""
    others = [other for other in windows if other.episode is not window.episode and other.steps >= window.steps]
    return others[random.integers(len(others))] if others else None


def with_actions_of(snapshot: Snapshot, foreign: Snapshot, space: ActionSpace) -> Snapshot:
    """A snapshot whose commands after t0 are another's, moved so that they start where the robot is."""
    now = len(snapshot.context) - 1
    moving = np.array([dimension.moves for dimension in space.dimensions])
    ahead = foreign.motion[now + 1 :] + np.where(moving, snapshot.motion[now] - foreign.motion[now], 0.0)
    return replace(snapshot, motion=np.concatenate([snapshot.motion[: now + 1], ahead]), assumed_from=len(ahead))


def mirrored(snapshot: Snapshot, space: ActionSpace) -> Snapshot:
    """A snapshot whose commands after t0 go the other way: what moves is mirrored at where it is at t0, states stay as they are.

    It is a plan of the same speed and shape that the robot could as well have been given. The mirrored places are not cut off at
    the robot's or the table's limits.
    """
    now = len(snapshot.context) - 1
    moving = np.array([dimension.moves for dimension in space.dimensions])
    motion = snapshot.motion.copy()
    motion[now + 1 :, moving] = 2 * motion[now, moving] - motion[now + 1 :, moving]
    return replace(snapshot, motion=motion)
