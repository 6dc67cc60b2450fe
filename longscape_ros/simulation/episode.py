# SPDX-License-Identifier: Apache-2.0
"""The parameters that the simulation's driver and policy must have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from longscape_ros.host import declare
from longscape_ros.simulation.arm import FPS
from longscape_ros.simulation.disturbance import Disturbance, parse_disturbance


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


def declare_disturbance(node: Any) -> Disturbance | None:
    """Declares ``disturbance`` and ``disturbance_after``, which are the driver's alone; None: nothing disturbs the arm.

    Raises:
        InputError: There is no such disturbance.
    """
    what = declare(node, "disturbance", "", "KIND or KIND:SIZE of bump, move, block or grip; empty: nothing disturbs the arm.")
    after_s = declare(node, "disturbance_after", 3.0, "Seconds from the first command to the disturbance.")
    return Disturbance(*parse_disturbance(str(what)), frame=round(float(after_s) * FPS)) if what else None
