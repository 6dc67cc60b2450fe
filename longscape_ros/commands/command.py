# SPDX-License-Identifier: Apache-2.0
"""What a command is."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass

from longscape_ros.commands.terminal import Figures, Terminal


@dataclass(frozen=True, slots=True)
class Command:
    """One of ``longscape``'s commands.

    Args:
        name: What it is called by.
        summary: What it does, in a line.
        details: More on that, for its own help.
        example: A complete call.
        add_options: Declares its options.
        run: Does it; the figures are shown and written by the caller.
        extra: What must be installed for it besides the package itself, one of setup.py's extras; empty: nothing.
        modules: Those of the extra whose absence is reported before it runs.
        needs: Whether a call needs them, from its options.
        status: Its exit status, from the figures.
        shows_figures: Whether it shows its figures itself; else the caller does.
    """

    name: str
    summary: str
    details: str
    example: str
    add_options: Callable[[ArgumentParser], None]
    run: Callable[[Namespace, Terminal], Figures]
    extra: str = ""
    modules: tuple[str, ...] = ()
    needs: Callable[[Namespace], bool] = lambda options: True
    status: Callable[[Figures], int] = lambda figures: 0
    shows_figures: bool = False
