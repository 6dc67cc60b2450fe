# SPDX-License-Identifier: Apache-2.0
"""How fast a bundle runs on this machine: backends side by side, stages, the way from camera to subscriber, and what bounds it.

Read in this order: :mod:`.run` (everything in a row), :mod:`.config`, :mod:`.timing` (turns, medians, ratios), :mod:`.cells` (what is
timed), :mod:`.compare` with :mod:`.side` and :mod:`.child` (backends in processes of their own), :mod:`.work` and :mod:`.product` (what
there is to compute, and how fast this machine can), :mod:`.path`, :mod:`.latency` and :mod:`.load` with :mod:`.node` (the
processes), :mod:`.camera` and :mod:`.stream`, :mod:`.tables`.
"""

from longscape_ros.bench.config import BenchConfig
from longscape_ros.bench.run import bench

__all__ = ["BenchConfig", "bench"]
