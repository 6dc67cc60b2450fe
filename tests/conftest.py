# SPDX-License-Identifier: Apache-2.0
"""What all tests share: the helpers in tests/support, and the bags of real robots where they are at hand."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

TESTS = Path(__file__).resolve().parent
sys.path.insert(0, str(TESTS))  # for `from support.x import y`; importlib mode does not add it
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with recordings of real robots (data/) and of a real ROS 2 (ros2_truth/): LONGSCAPE_SHARED, or beside the checkout."""
    folder = Path(os.environ.get("LONGSCAPE_SHARED") or TESTS.parent.parent / "shared")
    if not (folder / "data").is_dir():
        pytest.skip(f"no recordings of real robots in {folder}; set LONGSCAPE_SHARED to the folder that has data/ and ros2_truth/")
    return folder
