# SPDX-License-Identifier: Apache-2.0
"""Where it is shown: a viewer elsewhere, a page for a browser, a window; with Rerun's own programs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from support.robot import isolated_environment
from support.rrd import Rrd
from support.view_messages import IMAGES
from support.waiting import until

from longscape_ros.cli import FAULT, main
from longscape_ros.errors import InputError
from longscape_ros.view.target import Target

WAIT_S = 60.0
Start = Callable[..., subprocess.Popen[str]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts ``python -m ...`` without a display; what still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: object) -> subprocess.Popen[str]:
        hidden = ("DISPLAY", "WAYLAND_DISPLAY")
        environment = {name: value for name, value in isolated_environment(0).items() if name not in hidden}
        command = [sys.executable, "-m", *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, env=environment, text=True, **pipes))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["view", *map(str, arguments)]) == FAULT
    return capsys.readouterr().err.splitlines()[-1]


def test_a_viewer_that_runs_already_gets_everything(predicted, tmp_path, start):
    port, received = free_port(), tmp_path / "received.rrd"
    viewer = start("rerun", "--save", received, "--port", port)
    until(lambda: listens(port), WAIT_S)
    assert main(["view", str(predicted), "--connect", f"rerun+http://127.0.0.1:{port}/proxy"]) == 0
    until(lambda: received.exists() and len(Rrd(received).rows.get("/camera", ())) == IMAGES, WAIT_S)
    viewer.send_signal(signal.SIGINT)
    viewer.communicate(timeout=WAIT_S)
    assert len(Rrd(received).rows["/prediction/ahead"]) == 6
    assert "camera" in Rrd(received).views


def test_a_page_for_a_browser_stays_until_it_is_ended(predicted, tmp_path, start):
    page, data = free_port(), free_port()
    process = start(
        "longscape_ros", "view", predicted, "--web", page, "--port", data, "--json", tmp_path / "figures.json"
    )  # fmt: skip
    until(lambda: listens(page) and listens(data), WAIT_S)
    with urllib.request.urlopen(f"http://127.0.0.1:{page}/", timeout=WAIT_S) as answer:
        assert answer.status == 200
        assert "<html" in answer.read().decode().lower()
    assert process.stderr is not None
    said = ""
    while "Ctrl-C ends it" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    address = next(word for word in said.split() if word.startswith("http://"))
    assert urlsplit(address).netloc == f"127.0.0.1:{page}"
    assert parse_qs(urlsplit(address).query) == {"url": [f"rerun+http://127.0.0.1:{data}/proxy"]}
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=WAIT_S)
    assert process.returncode == 0
    assert json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))["images"] == IMAGES


def test_without_a_display_there_is_no_window_and_the_remedies_are_named(predicted, capsys, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert "Got no display" in refused(capsys, predicted, "--port", free_port())
    monkeypatch.setenv("DISPLAY", ":987")  # one that nobody has
    said = refused(capsys, predicted, "--port", free_port())
    assert "Got no window of Rerun's" in said or "Got a viewer that went away" in said  # as it is slow or quick to notice
    assert "--save FILE.rrd" in said


def test_a_viewer_that_is_not_there_is_said(predicted, capsys):
    url = f"rerun+http://127.0.0.1:{free_port()}/proxy"
    assert f"Got no answer from {url}, expected a viewer there" in refused(capsys, predicted, "--connect", url)


def test_a_port_that_is_taken_is_said(predicted, capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"Got the port {port}, which another program uses" in refused(capsys, predicted, "--web", port, "--port", free_port())


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"save": Path("a.rrd"), "web": True}, "Got several of --save, --connect and --web"),
        ({"save": Path("a.mcap")}, "expected a name that ends in .rrd"),
        ({"connect": "127.0.0.1:9876"}, "expected something like rerun\\+http"),
        ({"web": True, "web_port": 0}, "Got the port 0"),
        ({"data_port": 65536}, "Got the port 65536"),
    ],
)
def test_targets_that_make_no_sense_are_refused(changes, text):
    with pytest.raises(InputError, match=text):
        Target(**changes)


def test_options_of_the_graph_are_refused_for_a_recording(predicted, tmp_path, capsys):
    said = refused(capsys, predicted, "--save", tmp_path / "a.rrd", "--seconds", "3")
    assert "which are for the graph" in said
    assert not os.listdir(tmp_path)
