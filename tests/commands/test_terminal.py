# SPDX-License-Identifier: Apache-2.0
"""What a command shows, in a terminal and without one, and its figures as JSON."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from longscape_ros.commands import terminal as module
from longscape_ros.commands.terminal import Terminal, write_json


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Terminal:
    """Where there is no terminal."""
    return Terminal()


@pytest.fixture
def screen() -> Terminal:
    """A terminal of 100 columns."""
    made = Terminal()
    made.err = Console(file=io.StringIO(), force_terminal=True, width=100)
    return made


def test_figures_go_to_the_output_and_words_to_the_error_stream(lines, capsys):
    lines.say("Measuring [0, 1] ...")
    lines.table("longscape bench", {"peak_rss_mb": 130.484})
    shown = capsys.readouterr()
    assert shown.err == "Measuring [0, 1] ...\n"
    assert [line.split() for line in shown.out.splitlines() if line.strip()] == [["longscape", "bench"], ["peak_rss_mb", "130.48"]]


def test_a_line_is_as_long_as_it_is(lines, capsys):
    lines.say("word " * 100)
    assert capsys.readouterr().err.count("\n") == 1


def test_figures_with_a_number_become_columns_of_a_table_that_says_what_the_number_is(lines, capsys):
    figures = {"windows": 6.0, "psnr.model.1": 18.6, "psnr.model.16": 17.0, "psnr.copy_last.1": 30.0, "chunk.share.8": 0.25}
    figures |= {"expert.share.0": 0.5}
    lines.table("longscape eval", figures)
    shown = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip("─ ")]
    assert shown == [
        ["longscape", "eval"],
        ["windows", "6"],
        ["chunk", "length", "8"],
        ["chunk.share", "0.25"],
        ["expert", "0"],
        ["expert.share", "0.5"],
        ["frames", "ahead", "1", "16"],
        ["psnr.model", "18.60", "17"],
        ["psnr.copy_last", "30"],
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [(2445701.0, "2445701"), (0.0, "0"), (18.6049, "18.60"), (1.43e-6, "1.43e-06"), (math.nan, "nan"), (-math.inf, "-inf"), ("[a]", "[a]")],
)
def test_numbers_are_shown_as_short_as_they_can_be_read(lines, capsys, value, text):
    lines.table("t", {"name": value})
    assert capsys.readouterr().out.split() == ["t", "name", text]


def test_without_a_terminal_progress_is_a_line_at_first_and_one_at_the_end(lines, capsys):
    with lines.progress("train [a]") as report:
        for done in range(11):
            report(done, 10, f"step {done}")
        report(10, 10, "again")
    assert capsys.readouterr().err.splitlines() == ["train [a]: 0% step 0", "train [a]: 100% step 10"]


def test_without_a_terminal_there_is_a_line_now_and_then(lines, capsys, monkeypatch):
    monkeypatch.setattr(module, "LINE_EVERY_S", 0.0)
    with lines.progress("train") as report:
        for done in range(3):
            report(done, 4, "")
    assert capsys.readouterr().err.splitlines() == ["train: 0%", "train: 25%", "train: 50%"]


def test_a_job_of_no_size_is_done(lines, capsys):
    with lines.progress("predict") as report:
        report(0.0, 0.0, "")
    assert capsys.readouterr().err == "predict: 100%\n"


def test_in_a_terminal_progress_is_a_bar(screen):
    with screen.progress("train [a]") as report:
        report(3, 4, "loss [0.1]")
    shown = screen.err.file.getvalue()
    for wanted in ("train [a]", "75%", "loss [0.1]", "━"):
        assert wanted in shown, wanted


def test_json_is_flat_and_finite_and_appears_in_a_new_folder_at_once(tmp_path):
    path = tmp_path / "new" / "figures.json"
    write_json(path, {"a": 1.5, "b": math.nan, "c": math.inf, "meta.cpu": "Größe"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": 1.5, "b": None, "c": None, "meta.cpu": "Größe"}
    assert [file.name for file in path.parent.iterdir()] == ["figures.json"]


def test_older_figures_are_replaced(tmp_path):
    path: Path = tmp_path / "figures.json"
    for value in (1.0, 2.0):
        write_json(path, {"a": value})
    assert json.loads(path.read_text()) == {"a": 2.0}
