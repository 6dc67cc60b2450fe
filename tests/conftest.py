# SPDX-License-Identifier: Apache-2.0
"""What all tests share: the helpers in tests/support, and the bags of real robots where they are at hand."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from longscape_ros.runtime.cache import FOLDER_VARIABLE

TESTS = Path(__file__).resolve().parent
sys.path.insert(0, str(TESTS))  # for `from support.x import y`; importlib mode does not add it
from support.domains import unused_domain  # noqa: E402
from support.ros import HAS_CYCLONE, HAS_ROS  # noqa: E402

if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: several threads in each are slower
    os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")


FIRST = ("test_ablations.py", "test_scripts.py", "test_export.py", "test_cli.py", "test_demo.py")
"""Files that take minutes: they are begun first, and the others fill in beside them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))


def pytest_report_header() -> str:
    graph = "rclpy of ROS" if HAS_ROS else "embedded" if HAS_CYCLONE else "none: tests/conformance is left out"
    left_out = "" if HAS_CYCLONE else "; tests/embedded is left out, cyclonedds is not installed (pip install 'longscape_ros[embedded]')"
    return f"graph: {graph}{left_out}"


@pytest.fixture(scope="session", autouse=True)
def cache_of_artifacts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is kept is kept for one run of the tests alone, for all its processes and those that they start."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # each has a folder of its own in the run's
        folder = folder.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, str(folder / "cache"))
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with recordings of real robots (data/) and of a real ROS 2 (ros2_truth/): LONGSCAPE_SHARED, or beside the checkout."""
    folder = Path(os.environ.get("LONGSCAPE_SHARED") or TESTS.parent.parent / "shared")
    if not (folder / "data").is_dir():
        pytest.skip(f"no recordings of real robots in {folder}; set LONGSCAPE_SHARED to the folder that has data/ and ros2_truth/")
    return folder


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> int:
    """A DDS domain of the test's own, on loopback."""
    number = unused_domain()
    monkeypatch.setenv("ROS_DOMAIN_ID", str(number))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    return number
