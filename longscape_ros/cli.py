# SPDX-License-Identifier: Apache-2.0
"""``longscape COMMAND``: finds the command, shows and writes its figures, and turns faults into one line and an exit status.

Exit status: 0 done; 1 ``doctor`` found something missing; 2 a fault that the user can act on; 130 interrupted.
"""

from __future__ import annotations

import importlib.util
import logging
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from textwrap import fill

from longscape_ros.commands import (
    ablate,
    bench,
    compare,
    curve,
    demo,
    doctor,
    evaluate,
    export,
    generate,
    predict,
    probe,
    surprise,
    train,
    view,
)
from longscape_ros.commands.command import Command
from longscape_ros.commands.terminal import Figures, Terminal, write_json
from longscape_ros.errors import HostError, LongscapeError

COMMANDS: tuple[Command, ...] = tuple(
    module.COMMAND
    for module in (demo, generate, train, curve, export, probe, evaluate, compare, surprise, ablate, predict, view, bench, doctor)
)

EXTRAS = {
    "torch": "train",
    "einops": "train",
    "onnx": "train",
    "onnxscript": "train",
    "mujoco": "sim",
    "metaworld": "sim",
    "cyclonedds": "embedded",
    "av": "video",
    "PIL": "video",
    "rerun": "view",
}
"""Package that may be missing -> the extra that it comes with."""

FAULT, INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: As on the command line, without the program's name; None: those of this process.

    Returns:
        The exit status, see the module's text.
    """
    options = parser().parse_args(arguments)
    command: Command = options.command
    terminal = Terminal()
    terminal.log_to(logging.INFO if options.verbose else logging.WARNING)
    try:
        return _run(command, options, terminal)
    except KeyboardInterrupt:
        terminal.say("Interrupted.")
        return INTERRUPTED
    except (LongscapeError, OSError) as error:
        terminal.say(f"longscape {command.name}: {' '.join(str(error).split())}")
        return FAULT
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRAS:
            raise
        terminal.say(f"longscape {command.name}: {_missing(str(error.name), EXTRAS[str(error.name).partition('.')[0]])}")
        return FAULT


def parser() -> ArgumentParser:
    """The parser of all commands and options."""
    top = ArgumentParser(
        prog="longscape",
        description="Predicts what a robot's camera will see from its commanded actions.",
        epilog="longscape COMMAND --help says more about each.",
    )
    top.add_argument("--version", action="version", version=f"longscape_ros {_version()}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        sub = commands.add_parser(
            command.name,
            help=command.summary,
            description=fill(f"{command.summary[0].upper()}{command.summary[1:]}. {command.details}", 100),
            epilog=f"example:\n  {command.example}\n\ndocs/commands.md lists the figures that --json writes.",
            formatter_class=_Help,
        )
        command.add_options(sub)
        sub.add_argument("--json", type=Path, metavar="FILE", help="write the figures into a file, as a flat JSON object")
        sub.add_argument("-v", "--verbose", action="store_true", help="say more of what is done")
        sub.set_defaults(command=command)
    return top


class _Help(RawDescriptionHelpFormatter):
    """Keeps line breaks, and leaves room for long options."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=120)


def _run(command: Command, options: Namespace, terminal: Terminal) -> int:
    for module in _absent(command.modules if command.needs(options) else ()):
        raise HostError(_missing(module, command.extra))
    figures = command.run(options, terminal)
    if not command.shows_figures:
        terminal.table(f"longscape {command.name}", {name: figure for name, figure in figures.items() if _is_shown(name, figure)})
    if options.json:
        write_json(options.json, _labelled(command, figures))
        terminal.say(f"Figures: {options.json}")
    return command.status(figures)


def _labelled(command: Command, figures: Figures) -> Figures:
    return {**figures, "meta.command": command.name, "meta.version": _version()}


def _is_shown(name: str, figure: float | str) -> bool:
    """Counters of what did not happen, and the ends of intervals, are left to the JSON."""
    return figure != "" and not name.startswith("ci.") and not (name.startswith("timeline.") and figure == 0)


def _absent(modules: Sequence[str]) -> Iterator[str]:
    return (module for module in modules if importlib.util.find_spec(module) is None)


def _missing(module: str, extra: str) -> str:
    return f"Got no package {module!r}, which this command needs; install it with: pip install 'longscape_ros[{extra}]'"


def _version() -> str:
    try:
        return version("longscape_ros")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0"
