# SPDX-License-Identifier: Apache-2.0
"""Skips what the host cannot simulate, with the reason."""

from __future__ import annotations

import importlib.util

import pytest

from longscape_ros.errors import HostError
from longscape_ros.simulation.arm import choose_graphics


@pytest.fixture(scope="session")
def simulator() -> None:
    """Meta-World and MuJoCo are installed."""
    missing = [name for name in ("metaworld", "mujoco") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"no {' and no '.join(missing)}; install them with: pip install 'longscape_ros[sim]'")


@pytest.fixture(scope="session")
def graphics(simulator: None) -> None:
    """And the simulation can be rendered."""
    try:
        choose_graphics()
    except HostError as error:
        pytest.skip(str(error))
