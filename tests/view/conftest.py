# SPDX-License-Identifier: Apache-2.0
"""Rerun itself, where it is installed, and a recording of a robot with predictions."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from support.view_messages import write_predicted

HAS_RERUN = importlib.util.find_spec("rerun") is not None
collect_ignore_glob = [] if HAS_RERUN else ["test_recordings.py", "test_live.py", "test_targets.py"]


def pytest_report_header() -> str | None:
    return None if HAS_RERUN else "the Rerun viewer: not tested, rerun-sdk is not installed (pip install 'longscape_ros[view]')"


@pytest.fixture(scope="session")
def predicted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``longscape predict`` makes of three seconds of a robot's recording."""
    return write_predicted(tmp_path_factory.mktemp("recordings"))
