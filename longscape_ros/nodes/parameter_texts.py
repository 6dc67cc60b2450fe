# SPDX-License-Identifier: Apache-2.0
"""The parameters' declarations as people read them: the table in docs/ros.md, and config/predictor.yaml.

``python -m longscape_ros.nodes.parameter_texts`` writes both anew in a checkout.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

from longscape_ros.errors import InputError
from longscape_ros.nodes.parameters import Spec, specs

DOCUMENT = Path("docs") / "ros.md"
FILE = Path("config") / "predictor.yaml"

BEGIN, END = "<!-- parameters: made by longscape_ros.nodes.parameter_texts -->", "<!-- end of parameters -->"
"""The lines of the document between which the table stands."""

_WIDTH = 126
_TYPES = {bool: "bool", int: "int", float: "double", str: "string"}
_INTRODUCTION = (
    "Every parameter of the predictor node with its default. Fixed: set at start only. Configured: takes effect when the node is "
    "configured; a change needs a cleaned-up node. Live: takes effect with the next image. docs/ros.md says more."
)


def table(declared: Iterable[Spec]) -> str:
    """A Markdown table with a row for each parameter."""
    rows = ["| name | type | default | values | change | |", "|---|---|---|---|---|---|"]
    for spec in declared:
        values = ", ".join(f"`{choice}`" for choice in spec.choices)
        if spec.low is not None and spec.high is not None:
            values = f"{spec.low:g} to {spec.high:g}"
        kind = _TYPES[type(spec.default)]
        rows.append(f"| `{spec.name}` | {kind} | `{_value(spec.default)}` | {values} | {spec.change.value} | {spec.description} |")
    return "\n".join(rows)


def parameter_file(declared: Iterable[Spec]) -> str:
    """A parameter file for nodes of any name, with every parameter, its default and what it means."""
    lines = ["# SPDX-License-Identifier: Apache-2.0", *_comment(_INTRODUCTION, ""), "/**:", "  ros__parameters:"]
    group = ""
    for spec in declared:
        above, _, name = spec.name.rpartition(".")
        if above and above != group:
            lines.append(f"    {above}:")
        group = above
        indent = "      " if above else "    "
        limits = f" From {spec.low:g} to {spec.high:g}." if spec.low is not None and spec.high is not None else ""
        lines += _comment(f"{spec.text}{limits} ({spec.change.value})", indent)
        lines.append(f"{indent}{name}: {_value(spec.default)}")
    return "\n".join(lines) + "\n"


def with_table(document: str, declared: Iterable[Spec]) -> str:
    """A document with the table in the place of the one it has.

    Raises:
        InputError: It has no such place.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(f"Got a document without a table of parameters, expected the lines {BEGIN} and {END} around it.")
    return f"{before}{BEGIN}\n\n{table(declared)}\n\n{END}{after}"


def ordered(declared: Iterable[Spec]) -> list[Spec]:
    """The declarations, those of one group beside each other: YAML names a group once."""
    found = list(declared)
    groups = list(dict.fromkeys(spec.name.rpartition(".")[0] or spec.name for spec in found))
    return sorted(found, key=lambda spec: groups.index(spec.name.rpartition(".")[0] or spec.name))


def write(root: Path) -> list[Path]:
    """Writes table and file of a checkout anew; the files that changed.

    Raises:
        InputError: The document has no place for the table.
    """
    declared = ordered(specs())
    document = (root / DOCUMENT).read_text(encoding="utf-8")
    wanted = {root / DOCUMENT: with_table(document, declared), root / FILE: parameter_file(declared)}
    changed = [path for path, text in wanted.items() if path.read_text(encoding="utf-8") != text]
    for path in changed:
        path.write_text(wanted[path], encoding="utf-8")
    return changed


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ", break_on_hyphens=False)


def _value(value: bool | int | float | str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else str(value)


if __name__ == "__main__":
    sys.stdout.writelines(f"{path}\n" for path in write(Path.cwd()))
