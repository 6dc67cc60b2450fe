# SPDX-License-Identifier: Apache-2.0
"""The predictor as a process: ``python -m longscape_ros.nodes.predictor --ros-args -r '~/input/image:=/camera/image_raw'``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from longscape_ros.host import Closable, run


def main(args: Sequence[str] | None = None) -> int:
    """Runs the node until SIGINT, SIGTERM or a fault; the exit status."""
    return run(_make, args)


def _make() -> tuple[Any, Closable]:
    from longscape_ros.nodes.predictor_node import PredictorNode

    node = PredictorNode()
    return node, node


if __name__ == "__main__":
    sys.exit(main())
