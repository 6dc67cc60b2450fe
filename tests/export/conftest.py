# SPDX-License-Identifier: Apache-2.0
"""Leaves these tests out where PyTorch is not installed (pip install 'longscape_ros[train]'), as on a robot."""

from __future__ import annotations

from support.hosts import one_thread, torch_tests

__all__ = ["one_thread"]
collect_ignore_glob = torch_tests
