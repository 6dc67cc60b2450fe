# SPDX-License-Identifier: Apache-2.0
"""What is predicted from while times are taken: images of the bundle's own recordings where it has some, and a plan of typical speed.

Letters: B batch, K context frames, T chunk frames, N future steps, A action dimensions, F action features, C h w latent, H W image.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from longscape_ros.actions import encode_actions
from longscape_ros.bundle import Bundle, Manifest
from longscape_ros.contract import NANOSECONDS, Plan, Snapshot
from longscape_ros.examples import read_examples
from longscape_ros.runtime.backend import Float32, Rgb

CAMERA = (480, 640)
"""Height and width of the camera's images."""

SPREAD = (0.6, 1.4)
"""Candidates travel at so many times the typical speed, each dimension at its own."""


def expert_of(manifest: Manifest, length: int) -> int:
    """An expert for each chunk length; they are equally large."""
    return manifest.segmentation.lengths.index(length) % manifest.experts.count


def context_images(bundle: Bundle) -> Rgb:
    """uint8 [K, H, W, 3]."""
    examples = read_examples(bundle)
    if examples:
        return examples[0].context
    manifest = bundle.manifest
    return np.stack([_scene(manifest.image_size, step) for step in range(manifest.context)])


def camera_image(bundle: Bundle) -> Rgb:
    """The newest context image as a camera of :data:`CAMERA` would have seen it: uint8 [480, 640, 3]."""
    height, width = CAMERA
    square = cv2.resize(context_images(bundle)[-1], (height, height), interpolation=cv2.INTER_CUBIC)
    beside = (width - height) // 2
    return np.asarray(cv2.copyMakeBorder(square, 0, 0, beside, beside, cv2.BORDER_REPLICATE), np.uint8)


def motion(manifest: Manifest, rows: int, speeds: NDArray[np.float64] | float = 1.0) -> NDArray[np.float64]:
    """[rows, A]: every moving dimension travels its scale per longest chunk; states rest at one end.

    Args:
        manifest: The bundle's.
        rows: Of the result.
        speeds: Times the typical one, of each dimension [A] or of all.
    """
    space = manifest.action_space
    progress = np.arange(rows) / manifest.segmentation.lengths[-1]
    factors = np.broadcast_to(speeds, len(space))
    columns = [
        progress * d.scale * factor if d.moves else np.full(rows, d.midpoint - d.scale)
        for d, factor in zip(space.dimensions, factors, strict=True)
    ]
    return np.stack(columns, axis=1)


def candidate_motions(manifest: Manifest, count: int, steps: int) -> list[NDArray[np.float64]]:
    """What may follow the K rows of :func:`motion`: ``count`` times [steps, A], each at speeds of its own."""
    anchor = motion(manifest, manifest.context)[-1]
    speeds = np.random.default_rng(0).uniform(*SPREAD, (count, len(manifest.action_space)))
    courses = (motion(manifest, 1 + steps, own) for own in speeds)
    return [anchor + course[1:] - course[0] for course in courses]


def plan(manifest: Manifest, start_ns: int, rows: int) -> Plan:
    """:func:`motion` as commands: speeds where the dimension is one, travel per step where it is that."""
    period_ns = NANOSECONDS / manifest.fps
    values = motion(manifest, rows)
    for column, dimension in enumerate(manifest.action_space.dimensions):
        if dimension.kind in ("velocity", "delta"):
            travel = dimension.scale / manifest.segmentation.lengths[-1]
            values[:, column] = travel * manifest.fps if dimension.kind == "velocity" else travel
    times_ns = np.round(np.arange(1, rows + 1) * period_ns).astype(np.int64)
    return Plan(received_ns=start_ns, start_ns=start_ns, names=manifest.action_space.names, times_ns=times_ns, values=values)


def snapshot(bundle: Bundle, horizon: int) -> Snapshot:
    """What a prediction of ``horizon`` frames is made from; the plan reaches as far."""
    known = bundle.manifest.context
    return Snapshot(NANOSECONDS, context_images(bundle), motion(bundle.manifest, known + horizon), assumed_from=horizon)


def features(manifest: Manifest, steps: int, batch: int = 1) -> Float32:
    """[B, K + steps, F]."""
    known = manifest.context
    own = encode_actions(motion(manifest, known + steps), known - 1, manifest.action_space)
    return np.ascontiguousarray(np.broadcast_to(own, (batch, *own.shape)))


def noise(manifest: Manifest, length: int, batch: int = 1) -> Float32:
    """[B, T, C, h, w]."""
    return np.random.default_rng(0).standard_normal((batch, length, *manifest.latent_shape), np.float32)


def _scene(size: tuple[int, int], step: int) -> Rgb:
    """A table, a wall, and a block that moves: as smooth as a picture is, which decides how long its compression takes."""
    height, width = size
    image = np.empty((height, width, 3), np.uint8)
    image[:] = np.linspace((150, 160, 175), (95, 80, 70), height)[:, np.newaxis].round()
    cv2.line(image, (width // 2, 0), (width // 3, height // 2), (40, 45, 60), max(1, width // 12), cv2.LINE_AA)
    cv2.circle(image, (width // 3 + step, height * 2 // 3), max(1, height // 8), (190, 50, 40), -1, cv2.LINE_AA)
    return image
