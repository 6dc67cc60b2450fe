# SPDX-License-Identifier: Apache-2.0
"""Processes that live and end together: each with a log file, none left behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from longscape_ros.errors import HostError

GRACE_S = {signal.SIGINT: 10.0, signal.SIGTERM: 3.0, signal.SIGKILL: 3.0}
"""What a process is sent to end it, one after the other, and the seconds it has after each."""

LAST_LINES = 3
"""How much of a log an error shows."""

_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class Command:
    """A module to run.

    Args:
        name: For people and the log file.
        module: As for ``python -m``.
        arguments: Its arguments.
        speaks: Whether its standard output is read by the parent; else it goes to the log, like standard error.
        last: Whether it is ended only after the others.
    """

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    speaks: bool = False
    last: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process used so far; NaN where the host does not say."""

    peak_rss_mb: float = float("nan")
    cpu_s: float = float("nan")


class Child:
    """A running module, in a session of its own: a Ctrl-C in the terminal reaches the parent alone.

    Args:
        command: What to run.
        log: File for what it says.
        environment: Its environment variables.
    """

    def __init__(self, command: Command, log: Path, environment: Mapping[str, str]) -> None:
        self.command = command
        self.log = log
        self.usage = Usage()
        self._started_s = time.monotonic()
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-u", "-m", "longscape_ros.demo.child", command.module, *command.arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if command.speaks else file,
                stderr=file,
                env=dict(environment),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> IO[bytes]:
        """What it writes to standard output, if its command says that it speaks."""
        assert self._process.stdout is not None, f"{self.command.name} does not speak"
        return self._process.stdout

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.poll()

    @property
    def age_s(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._started_s

    def measure(self) -> Usage:
        """Reads what it used so far, if it still runs (Linux only)."""
        with contextlib.suppress(OSError, IndexError, ValueError, StopIteration):
            status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii", errors="replace")
            peak_kb = next(float(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
            fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
            self.usage = Usage(peak_kb / 1024, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))
        return self.usage

    def last_words(self) -> str:
        """The end of its log as one line, without colours."""
        lines = _ESCAPES.sub("", self.log.read_text(encoding="utf-8", errors="replace")).splitlines()
        return " | ".join([line.strip() for line in lines if line.strip()][-LAST_LINES:]) or "(nothing)"

    def send(self, number: signal.Signals) -> None:
        """Signals it and all that it started."""
        if self.exit_code is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def wait(self, until_s: float) -> bool:
        """Whether it has ended, at the latest at this time of ``time.monotonic``."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, until_s - time.monotonic()))
        return self.exit_code is not None

    def close(self) -> None:
        """Closes the pipes, once it has ended."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


class Processes:
    """Children that are all ended when the ``with`` block is left.

    Args:
        logs: Folder for their logs.
        environment: Their environment variables.
    """

    def __init__(self, logs: Path, environment: Mapping[str, str]) -> None:
        self._logs = logs
        self._environment = dict(environment)
        self.children: dict[str, Child] = {}

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self, command: Command) -> Child:
        """Starts one."""
        child = Child(command, self._logs / f"{command.name}.log", self._environment)
        self.children[command.name] = child
        return child

    def check(self) -> None:
        """Makes sure that all run.

        Raises:
            HostError: One has ended; the text has the end of its log.
        """
        for child in self.children.values():
            child.measure()
            if child.exit_code is not None:
                raise HostError(_obituary(child))

    def stop(self) -> None:
        """Ends them: those that come last after the others. An interrupt meanwhile kills what is left at once."""
        try:
            for last in (False, True):
                _end([child for child in self.children.values() if child.command.last == last])
        except BaseException:
            for child in self.children.values():
                child.send(signal.SIGKILL)
            raise
        finally:
            for child in self.children.values():
                child.close()


def _end(children: Sequence[Child]) -> None:
    for number, grace_s in GRACE_S.items():
        running = [child for child in children if child.exit_code is None]
        for child in running:
            child.measure()
            child.send(number)
        until_s = time.monotonic() + grace_s
        if all(child.wait(until_s) for child in running):
            return


def _obituary(child: Child) -> str:
    code = child.exit_code or 0
    ended = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
    return (
        f"The process {child.command.name} {ended} {child.age_s:.0f} s after its start, expected it to run until the end. It said last: "
        f"{child.last_words()} All it said is in {child.log}; `longscape doctor` says what this machine lacks."
    )
