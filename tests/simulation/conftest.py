# SPDX-License-Identifier: Apache-2.0
"""Skips what the host cannot simulate, with the reason."""

from __future__ import annotations

from contextlib import suppress

import pytest
from support.hosts import skip_unless_installed, skip_unless_rendered

from longscape_ros.errors import HostError
from longscape_ros.simulation.arm import choose_graphics


@pytest.fixture(scope="session")
def simulator() -> None:
    """Meta-World and MuJoCo are installed; MuJoCo takes its OpenGL library when it is first imported, so that one is chosen before."""
    skip_unless_installed("metaworld", "mujoco", extra="sim")
    with suppress(HostError):
        choose_graphics()


@pytest.fixture(scope="session")
def graphics(simulator: None) -> None:
    """And the simulation can be rendered."""
    skip_unless_rendered()
