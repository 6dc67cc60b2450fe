# SPDX-License-Identifier: Apache-2.0
"""Where it is shown: Rerun's window, one that runs somewhere already, a browser, or a file for later."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from longscape_ros.errors import HostError, InputError

if TYPE_CHECKING:
    from rerun import RecordingStream
    from rerun.blueprint import Blueprint

APPLICATION = "longscape"
DATA_PORT = 9876
"""Where Rerun's viewers and servers listen for data."""

WEB_PORT = 9090
"""Where the page is for a browser."""

HERE = f"rerun+http://127.0.0.1:{DATA_PORT}/proxy"
"""A viewer on this machine."""

WINDOW_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Target:
    """Where it is shown; without any of the three, in a window of Rerun's.

    Args:
        save: A file to write, ``NAME.rrd``; it appears, or replaces an older one, at the end.
        connect: URL of a viewer that runs already, see :data:`HERE`.
        web: Whether to serve a page for a browser.
        web_port: Where the page is.
        data_port: Where the window, or the page, gets its data.
    """

    save: Path | None = None
    connect: str = ""
    web: bool = False
    web_port: int = WEB_PORT
    data_port: int = DATA_PORT

    def __post_init__(self) -> None:
        if sum((self.save is not None, bool(self.connect), self.web)) > 1:
            raise InputError("Got several of --save, --connect and --web, expected at most one.")
        if self.save is not None and self.save.suffix != ".rrd":
            raise InputError(f"Got {self.save} to write to, expected a name that ends in .rrd.")
        if self.connect:
            _address(self.connect)
        for port in (self.web_port, self.data_port):
            if not 0 < port < 2**16:
                raise InputError(f"Got the port {port}, expected a number from 1 to 65535.")


@contextlib.contextmanager
def open_stream(target: Target, name: str, layout: Blueprint, say: Callable[[str], None]) -> Iterator[RecordingStream]:
    """A recording that is shown there while it is written; complete when the context ends.

    Args:
        target: Where it is shown.
        name: Of the recording.
        layout: Of the window.
        say: Told where to look.

    Raises:
        HostError: There is no display, no viewer, or a port is taken.
        OSError: The file cannot be written.
    """
    import rerun as rr

    stream = rr.RecordingStream(APPLICATION)
    stream.send_recording_name(name)
    if target.save is not None:
        with _saved(stream, target.save):
            stream.send_blueprint(layout)
            yield stream
        say(f"Written: {target.save}. Open it with: rerun {target.save}")
        return
    if target.web:
        say(f"Open {_serve(stream, target)} in a browser.")
    else:
        stream.connect_grpc(_viewer(target.connect) if target.connect else _window(target.data_port))
    stream.send_blueprint(layout)
    yield stream
    try:
        stream.flush()
    except RuntimeError as error:
        raise HostError(
            f"Got a viewer that went away ({error}), expected it to stay; if no window came, use --save FILE.rrd or --web."
        ) from error
    finally:
        stream.disconnect()


@contextlib.contextmanager
def _saved(stream: RecordingStream, path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}.", dir=path.parent) as folder:
        partial = Path(folder) / path.name
        stream.save(partial)
        yield
        stream.disconnect()
        os.replace(partial, path)


def _serve(stream: RecordingStream, target: Target) -> str:
    """Serves data and page; the page's address."""
    import rerun as rr

    for port in (target.data_port, target.web_port):
        if _listens("127.0.0.1", port):
            raise HostError(f"Got the port {port}, which another program uses; expected a free one, see --web and --port.")
    data = stream.serve_grpc(grpc_port=target.data_port)
    rr.serve_web_viewer(web_port=target.web_port, open_browser=False, connect_to=data)
    return f"http://127.0.0.1:{target.web_port}/?url={quote(data.replace('localhost', '127.0.0.1'), safe='')}"


def _viewer(url: str) -> str:
    """The URL of a viewer that listens."""
    host, port = _address(url)
    if not _listens(host, port):
        raise HostError(f"Got no answer from {url}, expected a viewer there; start one with: rerun --port {port}")
    return url


def _window(port: int) -> str:
    """Opens Rerun's window, unless one is open already; the URL that it takes data at."""
    url = f"rerun+http://127.0.0.1:{port}/proxy"
    if _listens("127.0.0.1", port):
        return url
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise HostError(
            "Got no display, expected DISPLAY or WAYLAND_DISPLAY to name one; "
            "use --save FILE.rrd, --web, or --connect to a viewer elsewhere."
        )
    log = tempfile.TemporaryFile()  # noqa: SIM115  # the window outlives this program
    command = [sys.executable, "-m", "rerun", "--port", str(port), "--expect-data-soon"]
    window = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
    until_s = time.monotonic() + WINDOW_TIMEOUT_S
    while not _listens("127.0.0.1", port):
        if window.poll() is not None or time.monotonic() > until_s:
            log.seek(0)
            words = log.read().decode(errors="replace").strip().splitlines()
            raise HostError(
                f"Got no window of Rerun's ({words[-1] if words else 'it said nothing'}), expected one on this display; "
                "use --save FILE.rrd or --web."
            )
        time.sleep(0.05)
    return url


def hold(say: Callable[[str], None]) -> None:
    """Stays until it is interrupted, for what this process serves."""
    with contextlib.suppress(KeyboardInterrupt):
        say("All of it is there; Ctrl-C ends it.")
        while True:
            time.sleep(3600.0)


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    if parts.scheme not in ("rerun+http", "rerun+https") or not parts.hostname or not parts.port:
        raise InputError(f"Got the viewer {url!r}, expected something like {HERE}.")
    return parts.hostname, parts.port


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=2.0):
            return True
    except OSError:
        return False
