# SPDX-License-Identifier: Apache-2.0
"""A graph of its own for every test, on loopback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.graph import Graph, own_graph
from support.robot import write_robot_bundle

from longscape_ros.bundle import Bundle


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_robot_bundle(tmp_path_factory.mktemp("bundles") / "robot")


@pytest.fixture
def graph(domain: int) -> Iterator[Graph]:
    yield from own_graph()


@pytest.fixture
def state() -> Callable[[Any], str]:
    """The lifecycle state of a node."""
    return lambda node: str(node._state_machine.current_state[1])
