# SPDX-License-Identifier: Apache-2.0
"""Builds a bundle's engines into the cache, as a process that :class:`longscape_ros.runtime.building.EngineBuild` starts and listens to.

``python -m longscape_ros.runtime.build_engines --bundle DIR --precision fp16 --cache DIR``, with a pipe as standard input; a line of JSON
on the standard output for each step, and one at the end: ``{"progress": {...}}``, ``{"finished": true}`` or ``{"fault": "why"}``.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from longscape_ros.bundle import load_bundle
from longscape_ros.errors import LongscapeError
from longscape_ros.runtime.building import FAULT, FINISHED, PROGRESS, Progress
from longscape_ros.runtime.cache import ArtifactCache
from longscape_ros.runtime.engines import PRECISIONS, build_engines
from longscape_ros.runtime.tensorrt import CURRENT, TARGETS

MODULE = "longscape_ros.runtime.build_engines"

NICENESS = 10
"""How much less this process counts than others where CPUs are scarce: predictions go on meanwhile."""

EVERY_S = 0.2
"""Least time between two lines about the same engine."""

Tell = Callable[[Progress], None]


def command(bundle: Path, precision: str, target: str = CURRENT, cache: ArtifactCache | None = None) -> list[str]:
    """The command line that builds the engines of a bundle, named by its folder, into a cache; None: the user's."""
    folder = (ArtifactCache() if cache is None else cache).folder
    options = {"--bundle": bundle, "--precision": precision, "--target": target, "--cache": folder}
    return [sys.executable, "-m", MODULE, *(str(word) for option in options.items() for word in option)]


def main(arguments: Sequence[str] | None = None) -> int:
    """The process; see :func:`work`."""
    parser = ArgumentParser(description="Builds the engines of a bundle into a cache.")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--precision", choices=PRECISIONS, required=True)
    parser.add_argument("--target", choices=TARGETS, default=CURRENT)
    parser.add_argument("--cache", type=Path, help="folder that engines are kept in (default: the user's)")
    options = parser.parse_args(arguments)

    def build(tell: Tell) -> None:
        build_engines(load_bundle(options.bundle), options.precision, options.target, ArtifactCache(options.cache), _now_and_then(tell))

    return work(build)


def work(build: Callable[[Tell], None]) -> int:
    """Build, tell the parent how far it is and how it ended, and end at once when the parent is gone.

    Args:
        build: Builds; is given what takes its progress.

    Returns:
        The exit status.
    """
    threading.Thread(target=_end_with_parent, name="parent-watch", daemon=True).start()
    os.nice(NICENESS)
    try:
        build(lambda progress: _say(PROGRESS, asdict(progress)))
    except LongscapeError as error:
        _say(FAULT, str(error))
        return 1
    _say(FINISHED, True)
    return 0


def _now_and_then(tell: Tell) -> Callable[[int, int, float, str], None]:
    """Tells of every engine when it begins and when it is done, and in between not more often than is read."""
    last_s = 0.0

    def told(number: int, total: int, share: float, graph: str) -> None:
        nonlocal last_s
        if share in (0.0, 1.0) or time.monotonic() - last_s >= EVERY_S:
            last_s = time.monotonic()
            tell(Progress(number, total, share, graph))

    return told


def _say(kind: str, content: object) -> None:
    """A line for the parent, written at once and with a line's beginning to itself: compilers write to the same file."""
    os.write(sys.stdout.fileno(), f"\n{json.dumps({kind: content})}\n".encode())


def _end_with_parent() -> None:
    """Nobody writes into the pipe: reading ends when the parent's end closes, which it does even if the parent is killed."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)  # the thread that builds may be inside the compiler for minutes


if __name__ == "__main__":
    sys.exit(main())
