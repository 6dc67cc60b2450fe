# SPDX-License-Identifier: Apache-2.0
"""The parameters that the simulation's driver and policy must have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from longscape_ros.host import declare


@dataclass(frozen=True, slots=True)
class EpisodeParameters:
    """Which episode is played."""

    task: str
    seed: int


def declare_episode(node: Any) -> EpisodeParameters:
    """Declares ``task`` and ``seed``."""
    task = declare(node, "task", "drawer-open", "Meta-World's task, without the version.")
    seed = declare(node, "seed", 9000, "Seed of the objects' places and of what is done.")
    return EpisodeParameters(str(task), int(seed))
