# SPDX-License-Identifier: Apache-2.0
"""Builds engines in a process of its own, so that predictions go on meanwhile and a crash in a compiler ends nothing else.

The process says how far it is in lines of JSON on its standard output (:mod:`longscape_ros.runtime.build_engines`); what else it says is
kept for the case that it fails. It has a session of its own, so a Ctrl-C in the terminal reaches the parent alone; it ends when the
pipe to its standard input closes, which it does when the parent is gone, however that ended.
"""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

GRACE_S = 3.0
"""Seconds that the process has to end after it was asked to."""

LAST_LINES = 5
"""How much of what a process said is told when it fails."""

PROGRESS, FINISHED, FAULT = "progress", "finished", "fault"
"""Keys of the lines that are meant for the parent."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a build is.

    Args:
        number: Of the engine that is being built, from 1 on.
        total: Engines to build.
        share: Of that one that is done, 0 to 1.
        name: Of its graph.
    """

    number: int
    total: int
    share: float = 0.0
    name: str = ""

    def __str__(self) -> str:
        return f"{self.number} of {self.total}, {100 * (self.number - 1 + self.share) / self.total:.0f} %"


class EngineBuild:
    """A build; to be run once, and closed.

    Args:
        command: Its command line.
        told: Called with the progress, on the thread that runs the build.
    """

    def __init__(self, command: Sequence[str], told: Callable[[Progress], None] | None = None) -> None:
        self._command = list(command)
        self._told = told
        self._lock = threading.Lock()
        self._closed = False
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_closed(self) -> bool:
        """Whether it was called off, or is over."""
        return self._closed

    def run(self) -> str:
        """Build, and wait for it; why it failed, or nothing."""
        with self._lock:
            if self._closed:
                return "it was called off"
            try:
                self._process = process = subprocess.Popen(
                    self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
                )
            except OSError as error:
                return f"the process could not be started: {error}"
        finished, fault, said = self._listen(process)
        code = process.wait()
        if self._closed:
            return "it was called off"
        if finished and not code:
            return ""
        return fault or f"the process {_ending(code)}; it said last: {' | '.join(said) or '(nothing)'}"

    def close(self) -> None:
        """End the process, if it still runs."""
        with self._lock:
            self._closed = True
            process = self._process
        if process is None:
            return
        for end in (process.terminate, process.kill):
            if process.poll() is not None:
                break
            with contextlib.suppress(OSError):
                end()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
        if process.stdin is not None:
            process.stdin.close()

    def _listen(self, process: subprocess.Popen[bytes]) -> tuple[bool, str, deque[str]]:
        """Until the process has no more to say: whether it finished, its fault, and its last words."""
        assert process.stdout is not None
        finished, fault = False, ""
        said: deque[str] = deque(maxlen=LAST_LINES)
        number = 0
        with process.stdout as lines:
            for line in lines:
                text = line.decode(errors="replace").strip()
                message = _message(text)
                if PROGRESS in message:
                    progress = Progress(**message[PROGRESS])
                    if progress.number != number:
                        _LOG.info("Building engines: %s (%s) ...", progress, progress.name)
                        number = progress.number
                    if self._told is not None:
                        self._told(progress)
                elif FINISHED in message:
                    finished = True
                elif FAULT in message:
                    fault = str(message[FAULT])
                elif text:
                    said.append(text)
        return finished, fault, said


def _message(text: str) -> dict[str, Any]:
    """What a line says to the parent; nothing if it was not meant for it."""
    try:
        message = json.loads(text)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}


def _ending(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
