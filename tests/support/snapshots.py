# SPDX-License-Identifier: Apache-2.0
"""Snapshots for the tiny bundle."""

from __future__ import annotations

import numpy as np
from support.tiny_bundle import MANIFEST

from longscape_ros.contract import Snapshot


def make_snapshot(steps: int = 48, anchor_ns: int = 10**9, seed: int = 0) -> Snapshot:
    """Random images; x moves slowly, then fast; the gripper closes at step 20."""
    random = np.random.default_rng(seed)
    known = MANIFEST.context
    at = np.arange(1 - known, steps + 1)
    x = 0.002 * at + 0.02 * np.maximum(at - 30, 0)
    motion = np.stack([x, 0.1 * np.sin(at / 20), (at >= 20).astype(float)], axis=1)
    context = random.integers(0, 256, (known, *MANIFEST.image_size, 3), np.uint8)
    return Snapshot(anchor_ns, context, motion, assumed_from=steps, plan_stamp_ns=7, frame_id="camera")
