# SPDX-License-Identifier: Apache-2.0
"""A tiny bundle to measure. What is measured is not judged: a test of speed would fail on a busy machine."""

from __future__ import annotations

import pytest
from support.tiny_bundle import write_tiny_bundle

from longscape_ros.bundle import Bundle


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")
