# SPDX-License-Identifier: Apache-2.0
"""Files that are made on this machine and kept: found again by all they depend on, and never used when they are damaged."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from longscape_ros.runtime import cache as module
from longscape_ros.runtime.cache import FOLDER_VARIABLE, ArtifactCache, default_folder, temporary_folder

KEY = {"graph": "encoder.onnx", "gpu": "SM89"}
CONTENT = bytes(range(256)) * 40 + b"\n\n"


@pytest.fixture
def cache(tmp_path: Path) -> ArtifactCache:
    return ArtifactCache(tmp_path / "deep" / "cache")


@pytest.fixture(autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files of this test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("tmp")))
    return temporary_folder()


def unwritable(folder: Path) -> ArtifactCache:
    """A cache whose folder nobody can make, whoever runs the test: a file is in its way."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("a file")
    return ArtifactCache(folder)


def test_what_was_kept_is_found_again_by_another_process_of_the_same_key(cache):
    path = cache.put("engine", KEY, CONTENT)
    assert path is not None
    assert path.parent == cache.folder
    assert ArtifactCache(cache.folder).get("engine", dict(reversed(KEY.items()))) == CONTENT


@pytest.mark.parametrize("content", [b"", b"\n", b"longscape artifact 1\n{}\n"])
def test_any_content_is_given_back_as_it_was(cache, content):
    cache.put("engine", KEY, content)
    assert cache.get("engine", KEY) == content


def test_another_key_or_kind_finds_nothing(cache, caplog):
    cache.put("engine", KEY, CONTENT)
    assert cache.get("engine", KEY | {"gpu": "SM86"}) is None
    assert cache.get("engine", {"graph": "encoder.onnx"}) is None
    assert cache.get("timings", KEY) is None
    assert caplog.text == ""  # nothing is wrong


def test_the_newest_content_takes_the_place_of_the_older(cache):
    cache.put("engine", KEY, b"old")
    cache.put("engine", KEY, b"new")
    assert cache.get("engine", KEY) == b"new"
    assert len(list(cache.folder.iterdir())) == 1


@pytest.mark.parametrize("place", [0, 30, 150, -1])
def test_a_flipped_bit_anywhere_makes_a_file_useless_and_is_logged(cache, caplog, place):
    path = cache.put("engine", KEY, CONTENT)
    assert path is not None
    stored = bytearray(path.read_bytes())
    stored[place] ^= 1
    path.write_bytes(bytes(stored))
    assert cache.get("engine", KEY) is None
    assert f"{path} is not used and will be made again" in caplog.text
    cache.put("engine", KEY, CONTENT)
    assert cache.get("engine", KEY) == CONTENT


@pytest.mark.parametrize("length", [0, 5, 21, 100, -1])
def test_a_file_that_was_cut_off_is_not_used(cache, length):
    path = cache.put("engine", KEY, CONTENT)
    assert path is not None
    path.write_bytes(path.read_bytes()[:length])
    assert cache.get("engine", KEY) is None


def test_a_file_of_another_key_under_this_ones_name_is_not_used(cache, caplog):
    path = cache.put("engine", KEY | {"gpu": "SM86"}, CONTENT)
    assert path is not None
    path.rename(cache.folder / cache.name("engine", KEY))
    assert cache.get("engine", KEY) is None
    assert "SM86" in caplog.text
    assert "SM89" in caplog.text


def test_something_that_is_no_file_is_not_used_and_does_no_harm(cache, caplog):
    (cache.folder / cache.name("engine", KEY)).mkdir(parents=True)
    assert cache.get("engine", KEY) is None
    assert "cannot be read" in caplog.text


def test_a_write_that_fails_leaves_the_old_file_and_no_other(cache, monkeypatch):
    cache.put("engine", KEY, b"old")

    def fail(handle: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(module.os, "fsync", fail)
    assert cache.put("engine", KEY, b"new") is None
    monkeypatch.undo()
    assert cache.get("engine", KEY) == b"old"
    assert [path.name for path in cache.folder.iterdir()] == [cache.name("engine", KEY)]


def test_a_folder_that_cannot_be_written_sends_files_to_the_users_temporary_one_and_warns_once(tmp_path, caplog, temporary):
    cache = unwritable(tmp_path / "cache")
    path = cache.put("engine", KEY, CONTENT)
    assert path is not None
    assert path.parent == temporary
    assert temporary.stat().st_mode & 0o777 == 0o700
    cache.put("engine", KEY | {"gpu": "SM86"}, CONTENT)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert FOLDER_VARIABLE in caplog.text
    assert ArtifactCache(cache.folder).get("engine", KEY) == CONTENT  # as the process that runs the engine does


def test_what_came_with_the_system_is_read_where_nothing_can_be_written(cache, monkeypatch):
    cache.put("engine", KEY, CONTENT)
    monkeypatch.setattr(module, "_write", lambda *arguments: (_ for _ in ()).throw(PermissionError("read-only file system")))
    assert cache.put("engine", KEY, b"new") is None
    assert cache.get("engine", KEY) == CONTENT


def test_files_in_a_temporary_folder_that_others_can_write_are_not_used(tmp_path, temporary):
    cache = unwritable(tmp_path / "cache")
    assert cache.put("engine", KEY, CONTENT) is not None
    temporary.chmod(0o777)
    assert cache.get("engine", KEY) is None
    assert cache.put("engine", KEY, CONTENT) is None
    temporary.chmod(0o700)
    assert cache.get("engine", KEY) == CONTENT


def test_a_temporary_folder_that_is_a_link_is_not_used(tmp_path, temporary):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    temporary.symlink_to(tmp_path / "elsewhere")
    assert unwritable(tmp_path / "cache").put("engine", KEY, CONTENT) is None
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_writers_at_the_same_time_leave_one_whole_file(cache):
    contents = [bytes([number]) * 200_000 for number in range(8)]
    threads = [threading.Thread(target=cache.put, args=("engine", KEY, content)) for content in contents]
    seen: list[bytes | None] = []
    for thread in threads:
        thread.start()
        seen.append(cache.get("engine", KEY))
    for thread in threads:
        thread.join()
    assert cache.get("engine", KEY) in contents
    assert all(content is None or content in contents for content in seen)
    assert len(list(cache.folder.iterdir())) == 1


def test_a_process_that_is_killed_while_it_writes_leaves_nothing_that_is_used(cache):
    script = f"""
import os
from pathlib import Path
from longscape_ros.runtime import cache
cache.os.fsync = lambda handle: os._exit(9)
cache.ArtifactCache(Path({str(cache.folder)!r})).put("engine", {KEY!r}, b"half")
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    assert cache.get("engine", KEY) is None
    cache.put("engine", KEY, CONTENT)
    assert cache.get("engine", KEY) == CONTENT


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({FOLDER_VARIABLE: "/a/b", "XDG_CACHE_HOME": "/x"}, "/a/b"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/longscape_ros"),
        ({}, "/home/someone/.cache/longscape_ros"),
    ],
)
def test_the_folder_follows_the_environment(monkeypatch, variables, folder):
    for name in (FOLDER_VARIABLE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert default_folder() == Path(folder)
    assert ArtifactCache().folder == Path(folder)


def test_a_user_without_a_home_has_a_temporary_folder(monkeypatch, temporary):
    for name in (FOLDER_VARIABLE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert default_folder() == temporary
    assert str(os.getuid()) in temporary.name
