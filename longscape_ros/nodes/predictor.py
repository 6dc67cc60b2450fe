# SPDX-License-Identifier: Apache-2.0
"""The predictor as a process: ``python -m longscape_ros.nodes.predictor --ros-args -r '~/input/image:=/camera/image_raw'``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from longscape_ros.host import Closable, run

GRACE_S = 0.7
"""Seconds to finish the chunk in work and to leave the graph in good order; a chunk may take longer on a slow machine."""


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Runs the node until SIGINT, SIGTERM or a fault, and ends the process; soon after a signal, whatever the model is doing."""
    run(_make, args, GRACE_S)


def _make() -> tuple[Any, Closable]:
    from longscape_ros.nodes.predictor_node import PredictorNode

    node = PredictorNode()
    return node, node


if __name__ == "__main__":
    main()
