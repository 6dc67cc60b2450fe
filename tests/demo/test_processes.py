# SPDX-License-Identifier: Apache-2.0
"""Processes that live and end together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import longscape_ros
from longscape_ros.demo.processes import Command, Processes
from longscape_ros.errors import HostError

PROGRAMS = {
    "obedient": "import sys, time\nprint('here', *sys.argv[1:], flush=True)\nwhile True: time.sleep(0.05)",
    "stubborn": "import signal, time\nfor s in (signal.SIGINT, signal.SIGTERM): signal.signal(s, signal.SIG_IGN)\n"
    "print('here', flush=True)\nwhile True: time.sleep(0.05)",
    "dying": "import sys\nprint('\\x1b[31mthe reason and the remedy\\x1b[0m', file=sys.stderr)\nsys.exit(3)",
}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """With the programs above as modules."""
    for name, text in PROGRAMS.items():
        (tmp_path / f"{name}.py").write_text(text)
    paths = [str(tmp_path), str(Path(longscape_ros.__file__).parent.parent)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def eventually(there: Callable[[], bool], timeout_s: float = 30.0) -> bool:
    until_s = time.monotonic() + timeout_s
    while not there() and time.monotonic() < until_s:
        time.sleep(0.02)
    return there()


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_process_runs_a_module_with_its_arguments_and_a_log(tmp_path, environment):
    with Processes(tmp_path, environment) as processes:
        child = processes.start(Command("one", "obedient", ("--ros-args", "-p", "a:=1")))
        assert eventually(lambda: "here" in child.log.read_text())
        processes.check()
        assert child.usage.peak_rss_mb > 1
    assert child.log.read_text().startswith("here --ros-args -p a:=1")
    assert not runs(child.pid)


def test_what_a_process_says_can_be_read_instead(tmp_path, environment):
    with Processes(tmp_path, environment) as processes:
        child = processes.start(Command("one", "obedient", speaks=True))
        assert child.output.readline() == b"here\n"


def test_a_process_that_ends_early_is_reported_with_its_last_words(tmp_path, environment):
    with Processes(tmp_path, environment) as processes:
        child = processes.start(Command("camera", "dying"))
        assert eventually(lambda: child.exit_code is not None)
        with pytest.raises(HostError, match=r"camera ended with exit status 3 .* It said last: the reason and the remedy .*camera\.log"):
            processes.check()


def test_a_process_that_is_killed_is_reported_with_the_signal(tmp_path, environment):
    with Processes(tmp_path, environment) as processes:
        child = processes.start(Command("camera", "obedient"))
        child.send(signal.SIGKILL)
        assert eventually(lambda: child.exit_code is not None)
        with pytest.raises(HostError, match="was ended by SIGKILL"):
            processes.check()


def test_a_process_that_does_not_want_to_end_is_killed(tmp_path, environment, monkeypatch):
    monkeypatch.setattr("longscape_ros.demo.processes.GRACE_S", {signal.SIGINT: 0.1, signal.SIGTERM: 0.1, signal.SIGKILL: 10.0})
    with Processes(tmp_path, environment) as processes:
        child = processes.start(Command("one", "stubborn"))
        assert eventually(lambda: "here" in child.log.read_text())
    assert child.exit_code == -signal.SIGKILL


def test_those_that_come_last_end_after_the_others(tmp_path, environment):
    with Processes(tmp_path, environment) as processes:
        last = processes.start(Command("recorder", "obedient", last=True))
        first = processes.start(Command("camera", "obedient"))
        assert eventually(lambda: all("here" in child.log.read_text() for child in (first, last)))
        ended = []
        for child in (first, last):
            wait = child.wait
            child.wait = lambda until_s, wait=wait, name=child.command.name: (wait(until_s), ended.append(name))[0]
    assert ended == ["camera", "recorder"]


def test_an_exception_in_the_block_leaves_no_process_behind(tmp_path, environment):
    processes = Processes(tmp_path, environment)

    def interrupted() -> None:
        with processes:
            processes.start(Command("one", "obedient"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not runs(processes.children["one"].pid)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc to look for processes in")
def test_processes_end_when_their_parent_is_killed(tmp_path, environment):
    script = f"""
import os, time
from pathlib import Path
from longscape_ros.demo.processes import Command, Processes
with Processes(Path({str(tmp_path)!r}), os.environ) as processes:
    print(processes.start(Command("one", "obedient")).pid, flush=True)
    time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
        assert eventually(lambda: "here" in (tmp_path / "one.log").read_text())
        parent.kill()
        parent.wait()
    assert eventually(lambda: not runs(pid))
