# SPDX-License-Identifier: Apache-2.0
"""``longscape doctor``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from longscape_ros.commands.command import Command
from longscape_ros.commands.options import add_bundle
from longscape_ros.commands.terminal import Figures, Terminal

STYLES = {"ok": "green", "note": "dim", "missing": "bold red"}


def add_options(parser: ArgumentParser) -> None:
    """Declares the command's options."""
    add_bundle(parser)


def run(options: Namespace, terminal: Terminal) -> Figures:
    """Looks at this machine."""
    from longscape_ros.doctor import examine

    table = Table(box=SIMPLE_HEAD)
    for column in ("", "what", "found"):
        table.add_column(column, overflow="fold")
    figures: Figures = {}
    checks = examine(options.bundle)
    for check in checks:
        remedy = f"\n-> {check.remedy}" if check.remedy else ""
        table.add_row(f"[{STYLES[check.status]}]{check.status}[/]", check.name.replace("_", " "), escape(check.found + remedy))
        figures |= {f"{check.name}.status": check.status, f"{check.name}.found": check.found, f"{check.name}.remedy": check.remedy}
    terminal.out.print(table)
    return figures | {"missing": float(sum(check.status == "missing" for check in checks))}


def status(figures: Figures) -> int:
    """1: something that is required is missing."""
    return 1 if figures["missing"] else 0


COMMAND = Command(
    name="doctor",
    summary="say what this machine has, and what to do about what is missing",
    details="Exit status 1: something is missing that the predictor cannot do without. 'note' marks what only some uses need.",
    example="longscape doctor --json doctor.json",
    add_options=add_options,
    run=run,
    status=status,
    shows_figures=True,
)
