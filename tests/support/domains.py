# SPDX-License-Identifier: Apache-2.0
"""DDS domains for tests, of which several run at a time."""

from __future__ import annotations

import os

from longscape_ros.demo.graph import DOMAINS, free_domain


def unused_domain() -> int:
    """A domain that nobody uses, and no other process of the tests; nor does it use the one after it."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    share = len(DOMAINS) // count
    return free_domain(DOMAINS[worker * share : (worker + 1) * share - 1])
