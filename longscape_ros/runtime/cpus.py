# SPDX-License-Identifier: Apache-2.0
"""How many CPUs this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path


def usable_cpus(control_group: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs that this process may use: its affinity, and the quota of its control group (containers)."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cpus, _quota(control_group))))


def _quota(control_group: Path) -> float:
    """CPUs that the control group allows (version 2, then 1); infinity without a limit."""
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = " ".join((control_group / file).read_text(encoding="ascii") for file in files).split()
            quota, period = float(words[0]), float(words[1])
        except (OSError, ValueError, IndexError):  # no such file, or "max"
            continue
        if quota > 0 and period > 0:
            return quota / period
    return math.inf
