# SPDX-License-Identifier: Apache-2.0
"""Skips what the host cannot simulate, with the reason."""

from __future__ import annotations

import pytest
from support.hosts import skip_unless_installed, skip_unless_rendered


@pytest.fixture(scope="session")
def simulator() -> None:
    """Meta-World and MuJoCo are installed."""
    skip_unless_installed("metaworld", "mujoco", extra="sim")


@pytest.fixture(scope="session")
def graphics(simulator: None) -> None:
    """And the simulation can be rendered."""
    skip_unless_rendered()
