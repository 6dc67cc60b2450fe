# SPDX-License-Identifier: Apache-2.0
"""Tests that need more than the package itself: left out, with the reason, where it is missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest

from longscape_ros.errors import HostError
from longscape_ros.simulation.arm import choose_graphics


def skip_unless_installed(*names: str, extra: str) -> None:
    """Skips without these packages, which come with an extra."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"no {' and no '.join(missing)}; install them with: pip install 'longscape_ros[{extra}]'", allow_module_level=True)


def skip_unless_rendered() -> None:
    """Skips where the simulation cannot be rendered."""
    try:
        choose_graphics()
    except HostError as error:
        pytest.skip(str(error))


torch_tests = [] if importlib.util.find_spec("torch") else ["test_*.py"]
"""For ``collect_ignore_glob`` of tests of what is not on a robot."""


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are slower on several."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
