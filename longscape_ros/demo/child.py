# SPDX-License-Identifier: Apache-2.0
"""Runs a module as ``python -m`` does, and ends it when the process that started it is gone, however that ended.

``python -m longscape_ros.demo.child MODULE [ARGUMENT ...]``, with a pipe from the parent as standard input.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

GRACE_S = 10.0
"""Seconds that a child has to end by itself once its parent is gone."""


def main() -> None:
    """Runs the module that the first argument names; its exit status is the process's."""
    threading.Thread(target=_end_with_parent, name="parent-watch", daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def _end_with_parent() -> None:
    """Nobody writes into the pipe: reading ends when the parent's end closes, which it does even if the parent is killed."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(GRACE_S)
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    main()
