# SPDX-License-Identifier: Apache-2.0
"""Engines are built by another process, which says how far it is, and never outlives its parent."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.failing import progress, script
from support.waiting import WAIT_S, until

from longscape_ros.runtime.building import EngineBuild, Progress

BUILDER = """
import os, time
from longscape_ros.errors import BackendError
from longscape_ros.runtime.build_engines import work
from longscape_ros.runtime.building import Progress

def build(tell):
    open({pid!r}, "w").write(f"{{os.getpid()}} {{os.nice(0)}}")
    tell(Progress(1, 2, 0.25, "encoder.onnx"))
    os.write(1, b"half a line of a compiler")
    {body}

raise SystemExit(work(build))
"""


def builder(folder: Path, body: str) -> list[str]:
    """A process that builds as ours does."""
    return [sys.executable, "-c", BUILDER.format(pid=str(folder / "pid"), body=body)]


def pid_of(folder: Path) -> int:
    noted = folder / "pid"
    assert until(lambda: noted.exists() and noted.read_text())
    return int(noted.read_text().split()[0])


def runs(pid: int) -> bool:
    """Whether a process is there and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(
    ("progress", "text"),
    [(Progress(3, 6, 0.52), "3 of 6, 42 %"), (Progress(1, 6), "1 of 6, 0 %"), (Progress(6, 6, 1.0), "6 of 6, 100 %")],
)
def test_progress_is_the_engine_in_work_and_the_share_of_all(progress, text):
    assert str(progress) == text


def test_progress_reaches_the_parent_between_all_that_compilers_say_and_each_engine_is_logged_once(caplog):
    chatter = ("a warning", '{"other": 1}', "[1, 2]")
    said = (progress(1, 2), *chatter, progress(1, 2, 0.5), progress(2, 2, name="decoder.onnx"), {"finished": True})
    told: list[Progress] = []
    with caplog.at_level(logging.INFO):
        assert EngineBuild(script(*said), told.append).run() == ""
    assert told == [Progress(1, 2, 0.0, "encoder.onnx"), Progress(1, 2, 0.5, "encoder.onnx"), Progress(2, 2, 0.0, "decoder.onnx")]
    assert caplog.messages == ["Building engines: 1 of 2, 0 % (encoder.onnx) ...", "Building engines: 2 of 2, 50 % (decoder.onnx) ..."]


def test_the_builder_tells_its_progress_and_that_it_finished_at_a_low_priority(tmp_path):
    told: list[Progress] = []
    assert EngineBuild(builder(tmp_path, "pass"), told.append).run() == ""
    assert told == [Progress(1, 2, 0.25, "encoder.onnx")]
    assert int((tmp_path / "pid").read_text().split()[1]) == os.nice(0) + 10


def test_a_fault_that_the_builder_knows_is_told_in_its_words(tmp_path):
    assert EngineBuild(builder(tmp_path, "raise BackendError('decoder.onnx: no such operator')")).run() == "decoder.onnx: no such operator"


def test_a_fault_that_nobody_thought_of_is_told_with_its_last_words(tmp_path):
    fault = EngineBuild(builder(tmp_path, "1 / 0")).run()
    assert fault.startswith("the process ended with exit status 1; it said last: ")
    assert fault.endswith("ZeroDivisionError: division by zero")


def test_closing_ends_a_build_that_runs_on_another_thread(tmp_path):
    build = EngineBuild(builder(tmp_path, "time.sleep(60)"))
    faults: list[str] = []
    thread = threading.Thread(target=lambda: faults.append(build.run()))
    thread.start()
    pid = pid_of(tmp_path)
    build.close()
    thread.join(WAIT_S)
    assert (faults, build.is_closed, runs(pid)) == (["it was called off"], True, False)


def test_a_build_that_was_closed_does_not_begin(tmp_path):
    build = EngineBuild(builder(tmp_path, "pass"))
    build.close()
    assert build.run() == "it was called off"
    assert not (tmp_path / "pid").exists()


def test_a_ctrl_c_in_the_terminal_does_not_reach_the_builder(tmp_path):
    """It goes to the foreground's process group, in which the builder is not."""
    build = EngineBuild(builder(tmp_path, "time.sleep(60)"))
    thread = threading.Thread(target=build.run)
    thread.start()
    assert os.getpgid(pid_of(tmp_path)) != os.getpgid(0)
    build.close()
    thread.join(WAIT_S)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_builder_ends_with_its_parent_however_that_ends(tmp_path, number):
    begin = f"from longscape_ros.runtime.building import EngineBuild\nEngineBuild({builder(tmp_path, 'time.sleep(60)')!r}).run()"
    parent = subprocess.Popen([sys.executable, "-c", begin])
    pid = pid_of(tmp_path)
    assert runs(pid)
    parent.send_signal(number)
    parent.wait(WAIT_S)
    assert until(lambda: not runs(pid))
