# SPDX-License-Identifier: Apache-2.0
"""The method beside what it is compared with, by the same predictions of the same episodes: figures, differences, and a table.

Both comparisons are told in it: that of networks that were trained (:mod:`longscape_ros.ablations`), and that of one bundle whose parts
are replaced where it is used (:mod:`longscape_ros.alternatives`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from longscape_ros.evaluation import Scores, paired_difference

METHOD = "longscape"
COMPARED = ("psnr", "gripper_error_cm")
TABLED = (1, 16, 64, 200)
"""Horizons in the table."""

_OTHERS = ("expert.share.", "chunk.share.", "drift_db_per_100_frames", "jump.ratio", "sharpness.model.")
_SHARE = "chunk.share."


def document_of(scores: Scores, horizons: Sequence[int]) -> dict[str, Any]:
    """What is kept of an evaluation, as JSON has it: ``figures``, and of those compared the ``episodes``: figure -> episode -> value."""
    figures = scores.figures()
    compared = [f"{kind}.model.{h}" for kind in COMPARED for h in horizons]
    return {"figures": figures, "episodes": {figure: scores.by_episode(figure) for figure in compared if figure in figures}}


def entry_of(document: Mapping[str, Any], method: Mapping[str, Any], horizons: Sequence[int]) -> dict[str, float]:
    """Figures of one of those compared.

    Args:
        document: Its evaluation, as of :func:`document_of`.
        method: The method's.
        horizons: Frames ahead.

    Returns:
        ``psnr.<h>`` and ``gripper_error_cm.<h>``, each also with ``ci.low.`` and ``ci.high.`` before it (95 %, episodes resampled);
        ``over_longscape.<figure>``: the mean over episodes of the method's figure subtracted from this one's, with its interval, where
        two episodes or more have it; ``expert.share.<e>``, ``chunk.share.<length>``, ``drift_db_per_100_frames``, ``jump.ratio`` and
        ``sharpness.model.<h>``.
    """
    figures, entry = document["figures"], {}
    for kind in COMPARED:
        for h in horizons:
            figure, short = f"{kind}.model.{h}", f"{kind}.{h}"
            if figure not in figures:
                continue
            entry[short] = figures[figure]
            entry |= {f"ci.{end}.{short}": figures[f"ci.{end}.{figure}"] for end in ("low", "high") if f"ci.{end}.{figure}" in figures}
            if len(document["episodes"][figure]) < 2:
                continue
            difference = paired_difference(document["episodes"][figure], method["episodes"][figure])
            entry[f"over_longscape.{short}"] = difference.mean
            entry |= {f"ci.low.over_longscape.{short}": difference.low, f"ci.high.over_longscape.{short}": difference.high}
    return entry | {key: value for key, value in figures.items() if key.startswith(_OTHERS)}


def shares_of(figures: Mapping[str, float]) -> dict[int, float]:
    """Chunk length -> its share of the chunks, of an evaluation's figures."""
    return {int(name.removeprefix(_SHARE)): value for name, value in figures.items() if name.startswith(_SHARE)}


def flat(summary: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """All figures of a comparison, each under the name of what it belongs to: ``fixed_16.psnr.64``."""
    return {f"{name}.{key}": value for name, entry in summary.items() for key, value in entry.items() if isinstance(value, float)}


def grid(summary: Mapping[str, Mapping[str, Any]], horizons: Sequence[int] = TABLED) -> list[list[str]]:
    """A table's cells: a row of headings, and one for each that has figures, with what it has more than the method.

    The first horizon has no column of the gripper, which hardly moves in a frame; of what nothing was scored, there is no column at all.

    Args:
        summary: Name -> entry as of :func:`entry_of`; what it costs, and how well it is at equal compute, has columns where it is known.
        horizons: Frames ahead.
    """
    scored = {name: entry for name, entry in summary.items() if any(f"psnr.{h}" in entry for h in horizons)}
    figures = [
        *((f"PSNR {h}", f"psnr.{h}", "") for h in horizons),
        *((f"gripper cm {h}", f"gripper_error_cm.{h}", "") for h in horizons[1:]),
        ("GMAC per frame", "gmacs_per_frame", ""),
        ("at equal compute: steps", "equal_compute.steps", ""),
        *((f"PSNR {h}", f"psnr.{h}", "equal_compute.") for h in horizons),
    ]
    known = [(figure, prefix) for _, figure, prefix in figures if any(prefix + figure in entry for entry in scored.values())]
    heads = [head for head, figure, prefix in figures if (figure, prefix) in known]
    return [["variant", *heads]] + [
        [f"`{name}`", *(_cell(entry, figure, prefix, name == METHOD) for figure, prefix in known)] for name, entry in scored.items()
    ]


def table(summary: Mapping[str, Mapping[str, Any]], horizons: Sequence[int] = TABLED) -> str:
    """The cells of :func:`grid` as Markdown."""
    heads, *rows = ("| " + " | ".join(cells) + " |" for cells in grid(summary, horizons))
    return "\n".join([heads, "|" + "---|" * (heads.count("|") - 1), *rows]) + "\n"


def _cell(entry: Mapping[str, Any], figure: str, prefix: str, is_method: bool) -> str:
    if prefix + figure not in entry:
        return ""
    if figure == "gmacs_per_frame":
        return f"{entry[figure]:.3f}"
    if figure == "equal_compute.steps":
        return f"{entry[figure]:.0f}"
    value = f"{entry[prefix + figure]:.2f}"
    if is_method:
        return f"**{value}**"
    difference = f"over_longscape.{figure}"
    if prefix + difference not in entry:
        return value
    low, high = (entry[f"{prefix}ci.{end}.{difference}"] for end in ("low", "high"))
    return f"{value} ({entry[prefix + difference]:+.2f}: {low:+.2f} to {high:+.2f})"
