# SPDX-License-Identifier: Apache-2.0
"""Files that are made on this machine and kept for the next time: engines, quantised graphs, compiled kernels, traces of graphs.

A file says what it was made from and how, and carries its content's hash; one that is damaged, cut off, or made from something else is
never used, and the next one that is made takes its place. A file appears all at once, so processes may share a folder.

A folder that cannot be written is read all the same (engines may come with a system's image); what is made then lies in a folder of
the user's below the system's temporary one, where the process that built an engine and the one that runs it both find it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

FOLDER_VARIABLE = "LONGSCAPE_CACHE"
"""Environment variable that names another folder."""

_MAGIC = b"longscape artifact 1\n"
_SHOWN = 400
"""Characters of a header that a message quotes."""

_LOG = logging.getLogger(__name__)


def default_folder() -> Path:
    """Where the user's files are kept: $LONGSCAPE_CACHE, else longscape_ros in $XDG_CACHE_HOME or ~/.cache."""
    if named := os.environ.get(FOLDER_VARIABLE):
        return Path(named)
    if caches := os.environ.get("XDG_CACHE_HOME"):
        return Path(caches) / "longscape_ros"
    try:
        return Path.home() / ".cache" / "longscape_ros"
    except RuntimeError:  # a user without a home, as in some containers
        return temporary_folder()


def temporary_folder() -> Path:
    """Where this user's files are kept when no better place can be written; need not exist."""
    return Path(tempfile.gettempdir()) / f"longscape_ros-{os.getuid()}"


class ArtifactCache:
    """A folder of such files.

    Args:
        folder: None: :func:`default_folder`. It is made when the first file is.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = default_folder() if folder is None else folder
        self._has_warned = False

    def name(self, kind: str, key: Mapping[str, str]) -> str:
        """What the file of a kind and a key is called."""
        return f"{kind}-{hashlib.sha256(_json(dict(key))).hexdigest()[:24]}.bin"

    def get(self, kind: str, key: Mapping[str, str]) -> bytes | None:
        """The content kept for a key; None: there is none that can be used, which is logged unless there is none at all.

        Args:
            kind: What it is, in letters, digits, '-' and '_'.
            key: All that it depends on.
        """
        name = self.name(kind, key)
        content = _read(self.folder / name, key)
        if content is None and _is_ours(temporary_folder()):
            content = _read(temporary_folder() / name, key)
        return content

    def put(self, kind: str, key: Mapping[str, str], content: bytes) -> Path | None:
        """Keep content for a key, in the place of what was kept for it before.

        Returns:
            The file; None: neither the folder nor the temporary one can be written, which is logged.
        """
        name = self.name(kind, key)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            return _write(self.folder / name, key, content)
        except OSError as error:
            place = temporary_folder()
            if not self._has_warned:
                self._has_warned = True
                _LOG.warning(
                    "%s cannot be written (%s); files go to %s. Set %s to a better place.", self.folder, error, place, FOLDER_VARIABLE
                )
        try:
            place.mkdir(mode=0o700, exist_ok=True)
            if not _is_ours(place):
                raise PermissionError(f"{place} is not a folder of this user's alone")
            return _write(place / name, key, content)
        except OSError as error:
            _LOG.warning("%s cannot be kept and is made again at the next start: %s", name, error)
            return None


def _is_ours(folder: Path) -> bool:
    """Whether nobody else can have put files there; in a folder for everyone's temporary files somebody could."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022


def _read(path: Path, key: Mapping[str, str]) -> bytes | None:
    """The content of a file, if it is whole and was made for this key."""
    try:
        stored = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        _LOG.warning("%s is not used: it cannot be read: %s", path, error)
        return None
    header, _, content = stored.removeprefix(_MAGIC).partition(b"\n")
    expected = _header(key, content)
    if stored.startswith(_MAGIC) and header == expected:
        return content
    found = header[:_SHOWN] if stored.startswith(_MAGIC) else stored[: len(_MAGIC)]
    _LOG.warning("%s is not used and will be made again: found %r, expected %r.", path, found, expected[:_SHOWN])
    return None


def _write(path: Path, key: Mapping[str, str], content: bytes) -> Path:
    handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_MAGIC + _header(key, content) + b"\n")
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    return path


def _header(key: Mapping[str, str], content: bytes) -> bytes:
    """One line: what the content was made from, and what it must be."""
    return _json({"key": dict(key), "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()})


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
