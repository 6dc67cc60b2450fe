# SPDX-License-Identifier: Apache-2.0
"""A process that has one backend open and times what it is told to.

``python -m longscape_ros.bench.child`` reads a line of JSON with what to open, then one per order, and answers each with a line; see
:class:`longscape_ros.bench.side.Side`, its other end. It ends when its standard input closes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from longscape_ros.bench.cells import Bench, Cell
from longscape_ros.bench.machine import gpu_memory_mb, peak_rss_mb
from longscape_ros.bundle import Bundle, load_bundle
from longscape_ros.errors import LongscapeError
from longscape_ros.runtime.backend import Backend
from longscape_ros.runtime.backends import create_backend


def serve(lines: IO[str], answer: Callable[[dict[str, Any]], None]) -> None:
    """Open what the first line says, then do what each further one does, until there are no more.

    Args:
        lines: Orders.
        answer: Gets an answer to each.
    """
    begin = time.perf_counter()
    gpu_before_mb = gpu_memory_mb()
    bench: Bench | None = None
    for line in lines:
        order = json.loads(line)
        try:
            if "open" in order:
                bundle = load_bundle(Path(order["bundle"]), verify=False)
                bench = Bench(bundle, open_side(bundle, **order["open"]))
                opened = {"device": bench.backend.device, "threads": bench.backend.threads, "open_s": time.perf_counter() - begin}
                answer({"opened": opened})
            elif bench is None:
                answer({"fault": "nothing is open"})
            elif "time" in order:
                answer({"ms": bench.milliseconds(Cell(**order["time"]))})
            else:
                used_mb = gpu_memory_mb() - gpu_before_mb
                answer({"memory": {"peak_rss_mb": peak_rss_mb(), "gpu_memory_mb": used_mb}})
        except (LongscapeError, ImportError, MemoryError) as error:
            answer({"fault": " ".join(str(error).split()) or type(error).__name__})
    if bench is not None:
        bench.backend.close()


def open_side(bundle: Bundle, name: str, precision: str, threads: int | None, device: str, compiled: bool) -> Backend:
    """The backend of a side, see :class:`longscape_ros.bench.side.SideSpec`.

    Raises:
        BackendError: it does not work here.
    """
    if name != "torch":
        return create_backend(bundle, name, threads, precision)
    from longscape_ros.runtime.torch_backend import TorchBackend

    return TorchBackend(bundle, threads, device, compiled)


def main() -> None:
    """Serves the parent; what libraries print goes to the standard error, so that it does not get among the answers."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def answer(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    serve(sys.stdin, answer)


if __name__ == "__main__":
    main()
