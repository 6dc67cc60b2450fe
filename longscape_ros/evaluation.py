# SPDX-License-Identifier: Apache-2.0
"""How well a bundle predicts recorded episodes, frame by frame, against simple alternatives. Needs no torch.

Letters: K context frames, N future steps, A action dimensions, H W image.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from longscape_ros.bags.reader import read_episode
from longscape_ros.bundle import Bundle, Manifest
from longscape_ros.contract import ActionSpace, Chunk, EndReason, Snapshot, TopicMapping
from longscape_ros.errors import InputError
from longscape_ros.runtime.backends import AUTO, create_backend
from longscape_ros.runtime.predictor import Predictor
from longscape_ros.timeline import GridEpisode, episode_grid

Image = NDArray[np.uint8]

HORIZONS = (1, 8, 16, 32, 64, 96)
STRIDE = 24
"""Frames between two anchors of an episode."""

LEAST_STEPS = 8
"""Future frames that an episode too short for the longest horizon must have."""

BLOCK = 32
MOVING_SHARE = 0.7
"""A window is scored if something moves in this share of every block of so many steps."""

MOVING_SPEED = 0.1 / 32
"""A command moves if it changes by more than this share of its scale per step: a tenth of the typical speed."""

CHANGED_LEVELS = 20
"""A pixel has changed if one of its channels differs by more than this (of 255)."""

CHANGED_SHARE = 0.002
"""An image has changed if this share of its pixels has; with fewer, there is no motion-masked figure."""

HIGHEST_PSNR = 60.0
"""PSNR of equal images, in dB."""

_MARGIN = 90
"""Pixels left of the pictures, for the rows' names."""

_HEAD = 24
"""Pixels above each window's pictures, for the columns' names."""

_WIDTH = 128
"""Least width of a picture on the sheet."""


@dataclass(frozen=True)
class Window:
    """A place in an episode to predict from.

    Args:
        episode: The recording on the bundle's grid.
        anchor: Index of t0.
        steps: Frames after it to score.
        planned: Steps after it that are commanded without a gap, at least ``steps``.
    """

    episode: GridEpisode
    anchor: int
    steps: int
    planned: int

    @property
    def now(self) -> Image:
        """The frame at t0."""
        frame: Image = self.episode.frames[self.anchor]
        return frame

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


def evaluate(
    bundle: Bundle,
    bags: Sequence[Path],
    mapping: TopicMapping | None = None,
    horizons: Sequence[int] = HORIZONS,
    windows: int | None = None,
    seed: int = 0,
    backend: str = AUTO,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """Score a bundle on bags.

    Args:
        bundle: The model.
        bags: Recordings it was not trained on.
        mapping: Topics of the bags; None: the bundle's.
        horizons: Steps after the anchor to score at.
        windows: Most places to predict from, spread evenly; None: all.
        seed: For the choice of foreign actions.
        backend: See :func:`create_backend`.
        progress: Called with windows done and in all.

    Returns:
        Means over the windows that reach a horizon ``h`` (a figure that no window gives is absent):

        - ``psnr.<who>.<h>`` in dB, ``who`` being ``model``; ``copy_last`` (the anchor's frame); ``autoencoder`` (the actual frame
          encoded and decoded: the ceiling); ``shuffled_actions`` (the model with commands from another episode). ``psnr_motion.*``
          counts only pixels that changed since the anchor. ``ssim.model.<h>``, ``ssim.copy_last.<h>``.
        - ``chunk.share.<length>``, ``chunk.reason.<name>``: shares of all chunks.
        - ``jump.boundary``, ``jump.inside``: mean absolute difference of successive predicted frames across and inside chunks, in
          levels of 255; ``jump.boundary_actual``, ``jump.inside_actual``: of the actual frames at the same places.
        - ``windows``, ``windows.still`` (left out, see :data:`MOVING_SHARE`), ``episodes``.

    Raises:
        InputError: there is nothing to score.
    """
    horizons = _checked(horizons)
    predictor = Predictor(bundle, create_backend(bundle, backend))
    episodes = read_episodes(bundle, bags, mapping)
    chosen, still = find_windows(episodes, bundle.manifest, horizons, windows)
    figures = score(predictor, chosen, horizons, seed, progress)
    predictor.backend.close()
    return figures | {"windows.still": float(still)}


def contact_sheet(
    bundle: Bundle,
    bags: Sequence[Path],
    path: Path,
    mapping: TopicMapping | None = None,
    horizons: Sequence[int] = HORIZONS,
    windows: int = 4,
    backend: str = AUTO,
) -> Path:
    """Draw a PNG: per window a row of actual frames, one of predicted ones, and one of the error, labelled; returns its path.

    Raises:
        InputError: there is nothing to predict.
    """
    horizons = _checked(horizons)
    predictor = Predictor(bundle, create_backend(bundle, backend))
    chosen, _ = find_windows(read_episodes(bundle, bags, mapping), bundle.manifest, horizons, windows)
    draw_sheet(predictor, chosen, horizons, path)
    predictor.backend.close()
    return path


def score(
    predictor: Predictor,
    windows: Sequence[Window],
    horizons: Sequence[int],
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """The figures of :func:`evaluate` for given windows."""
    scores = _Scores()
    random = np.random.default_rng(seed)
    for done, window in enumerate(windows):
        _score(predictor, window, _foreign(window, windows, random), horizons, scores)
        if progress is not None:
            progress(done + 1, len(windows))
    return scores.means() | {"windows": float(len(windows)), "episodes": float(len({id(window.episode) for window in windows}))}


def psnr(actual: Image, predicted: Image, mask: NDArray[np.bool_] | None = None) -> float:
    """Peak signal-to-noise ratio of uint8 images [H, W, 3] in dB, at most :data:`HIGHEST_PSNR`; over ``mask`` [H, W] if given."""
    squared = np.square(actual.astype(np.float64) - predicted)
    error = float(squared.mean() if mask is None else squared[mask].mean())
    return min(HIGHEST_PSNR, 10 * np.log10(255**2 / error)) if error > 0 else HIGHEST_PSNR


def ssim(actual: Image, predicted: Image) -> float:
    """Structural similarity of uint8 images [H, W, 3]: luminance, Gaussian window 11 x 11 of sigma 1.5, valid positions only.

    Source: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity", IEEE
    Transactions on Image Processing 13(4), 2004.
    """
    x, y = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float64) for image in (actual, predicted))
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


def read_episodes(bundle: Bundle, bags: Iterable[Path], mapping: TopicMapping | None = None) -> list[GridEpisode]:
    """Read bags onto the bundle's grid.

    Raises:
        InputError: neither ``mapping`` nor the bundle says which topics to read.
        BundleError: the mapping's action is not the bundle's.
    """
    manifest = bundle.manifest
    mapping = bundle.mapping_or(mapping)
    return [
        episode_grid(read_episode(bag, mapping), manifest.action_space, manifest.fps, manifest.image_size, mapping.image_latency_ns)
        for bag in bags
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
    still = len(places) - len(moving)
    if most is not None and most < len(moving):
        moving = [moving[i] for i in np.linspace(0, len(moving) - 1, max(most, 1)).round().astype(int)]
    return moving, still


def _checked(horizons: Sequence[int]) -> tuple[int, ...]:
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


def _foreign(window: Window, windows: Sequence[Window], random: np.random.Generator) -> Window | None:
    """A window of another episode with at least as many steps, if there is one."""
    others = [other for other in windows if other.episode is not window.episode and other.steps >= window.steps]
    return others[random.integers(len(others))] if others else None


def with_actions_of(snapshot: Snapshot, foreign: Snapshot, space: ActionSpace) -> Snapshot:
    """A snapshot whose commands after t0 are another's, moved so that they start where the robot is."""
    now = len(snapshot.context) - 1
    moving = np.array([dimension.moves for dimension in space.dimensions])
    ahead = foreign.motion[now + 1 :] + np.where(moving, snapshot.motion[now] - foreign.motion[now], 0.0)
    return replace(snapshot, motion=np.concatenate([snapshot.motion[: now + 1], ahead]), assumed_from=len(ahead))


class _Scores:
    """Sums of figures, by name."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = defaultdict(list)
        self._chunks: list[Chunk] = []

    def add(self, name: str, value: float) -> None:
        self._values[name].append(value)

    def add_chunks(self, chunks: Iterable[Chunk]) -> None:
        self._chunks.extend(chunks)

    def means(self) -> dict[str, float]:
        shares = {
            f"chunk.share.{length}": [c.length == length for c in self._chunks] for length in sorted({c.length for c in self._chunks})
        }
        shares |= {f"chunk.reason.{reason.name.lower()}": [c.reason == reason for c in self._chunks] for reason in EndReason}
        return {name: float(np.mean(values)) for name, values in (self._values | shares).items()}


def _score(predictor: Predictor, window: Window, foreign: Window | None, horizons: Sequence[int], scores: _Scores) -> None:
    manifest = predictor.bundle.manifest
    reached = [h for h in horizons if h <= window.steps]
    beyond = manifest.segmentation.lengths[-1]
    snapshot = window.snapshot(manifest.context, beyond)
    prediction = predictor.predict(snapshot, horizon=window.steps)
    actual = np.stack([window.actual(h) for h in reached])
    guesses = {
        "model": prediction.frames[[h - 1 for h in reached]],
        "copy_last": np.broadcast_to(window.now, actual.shape),
        "autoencoder": predictor.backend.decode(predictor.backend.encode(actual)),
    }
    if foreign is not None:
        misled = with_actions_of(snapshot, foreign.snapshot(manifest.context, beyond), manifest.action_space)
        rollout = predictor.roll_out(misled, horizon=window.steps)
        guesses["shuffled_actions"] = predictor.backend.decode(rollout.latents[[h - 1 for h in reached]])
    for who, frames in guesses.items():
        for h, truth, guess in zip(reached, actual, frames, strict=True):
            mask = changed(window.now, truth)
            scores.add(f"psnr.{who}.{h}", psnr(truth, guess))
            if mask.mean() > CHANGED_SHARE:
                scores.add(f"psnr_motion.{who}.{h}", psnr(truth, guess, mask))
            if who in ("model", "copy_last"):
                scores.add(f"ssim.{who}.{h}", ssim(truth, guess))
    scores.add_chunks(prediction.chunks)
    _score_jumps(window, prediction.frames, prediction.chunks, scores)


def _score_jumps(window: Window, frames: Image, chunks: Sequence[Chunk], scores: _Scores) -> None:
    starts = {chunk.start for chunk in chunks}
    for k in range(1, len(frames)):
        place = "boundary" if k in starts else "inside"
        scores.add(f"jump.{place}", float(cv2.absdiff(frames[k], frames[k - 1]).mean()))
        scores.add(f"jump.{place}_actual", float(cv2.absdiff(window.actual(k + 1), window.actual(k)).mean()))


def _blur(image: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(cv2.GaussianBlur(image, (11, 11), 1.5)[5:-5, 5:-5], np.float64)


# ---- contact sheet ----


def draw_sheet(predictor: Predictor, windows: Sequence[Window], horizons: Sequence[int], path: Path) -> Path:
    """The picture of :func:`contact_sheet` for given windows."""
    sheet = np.concatenate([_draw(predictor, window, horizons) for window in windows])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))[1].tobytes())
    return path


def _draw(predictor: Predictor, window: Window, horizons: Sequence[int]) -> Image:
    """One window's rows, RGB; columns that it does not reach stay black."""
    manifest = predictor.bundle.manifest
    reached = [h for h in horizons if h <= window.steps]
    snapshot = window.snapshot(manifest.context, manifest.segmentation.lengths[-1])
    frames = predictor.predict(snapshot, horizon=window.steps).frames
    zoom = -(-_WIDTH // manifest.image_size[1])
    height, width = (zoom * size for size in manifest.image_size)
    sheet = np.zeros((_HEAD + 3 * height, _MARGIN + (1 + len(horizons)) * width, 3), np.uint8)
    columns = [("now", window.now, window.now)] + [(f"+{h / manifest.fps:.2f} s", window.actual(h), frames[h - 1]) for h in reached]
    for column, (label, actual, predicted) in enumerate(columns):
        error = np.minimum(3 * cv2.absdiff(actual, predicted).astype(np.uint16), 255).astype(np.uint8)
        left = _MARGIN + column * width
        for row, picture in enumerate((actual, predicted, error)):
            top = _HEAD + row * height
            sheet[top : top + height, left : left + width] = picture.repeat(zoom, axis=0).repeat(zoom, axis=1)
        _write(sheet, label, left + 4, _HEAD - 8)
    for row, label in enumerate(("actual", "predicted", "error x 3")):
        _write(sheet, label, 4, _HEAD + row * height + height // 2)
    return sheet


def _write(image: Image, text: str, left: int, baseline: int) -> None:
    cv2.putText(image, text, (left, baseline), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
