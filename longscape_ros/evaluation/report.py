# SPDX-License-Identifier: Apache-2.0
"""A folder that shows an evaluation: its figures as JSON and as tables, curves, and films."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from longscape_ros.evaluation.evaluate import Setting
from longscape_ros.evaluation.film import choose, write_film
from longscape_ros.evaluation.plot import draw_plot, horizons_of
from longscape_ros.evaluation.scores import Scores
from longscape_ros.evaluation.scoring import CEILING, COPY_LAST, COUNTERFACTUAL, DRIFT, MODEL, SHUFFLED, WHO
from longscape_ros.evaluation.sheet import write_png
from longscape_ros.evaluation.windows import task_of

JSON, EPISODES, MARKDOWN, PLOT = "eval.json", "episodes.json", "eval.md", "eval.png"

NAMES = {
    MODEL: "model",
    COPY_LAST: "newest image copied",
    SHUFFLED: "model, other episode's actions",
    COUNTERFACTUAL: "model, mirrored actions",
    CEILING: "autoencoder alone (ceiling)",
    "probe": "the probe itself, on actual frames",
}

_LEVELS = {
    "psnr": "PSNR in dB",
    "psnr_motion": "PSNR in dB where something changed since the newest image",
    "ssim": "SSIM",
    "gripper_error_cm": "Gripper's distance from where it was measured, in cm",
}
_BY_HORIZON = {
    "separation.counterfactual": "mirrored actions' effect over the error",
    "separation.shuffled": "other actions' effect over the error",
    "sharpness.model": "sharpness kept",
    "sharpness.autoencoder": "sharpness kept by the autoencoder",
    "contrast.model": "contrast kept",
    "contrast.autoencoder": "contrast kept by the autoencoder",
    "counterfactual.reachable": "share of mirrored places that the gripper can reach",
}
_GROUPS = {
    "Drift": (DRIFT,),
    "Jumps where chunks meet": ("jump.",),
    "Confidence": ("confidence.",),
    "Gripper": ("gripper_error_cm.probe",),
    "Chunks": ("chunk.",),
    "Experts": ("expert.",),
    "What was scored": ("windows", "episodes"),
}
TASK_HORIZONS = (16, 64)
"""Frames ahead in the table by task, beside the longest."""

EPISODES_OF_TASK = "episodes"
_log = logging.getLogger(__name__)


def write_report(
    setting: Setting,
    scores: Scores,
    folder: Path,
    texts: Mapping[str, str] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[Path]:
    """Write ``eval.json``, ``episodes.json``, ``eval.md``, ``eval.png`` and films of the best, median and worst episode.

    Films need the extra ``video``; without it they are left out, and the log says so.

    Args:
        setting: What was scored.
        scores: What came out.
        folder: Where to.
        texts: More for ``eval.json``, under names that begin with ``meta.``.
        progress: Told (films done, of how many, what).

    Returns:
        The files written.
    """
    figures = setting.figures(scores)
    manifest, model_id = setting.predictor.bundle.manifest, setting.predictor.model_id
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / JSON, json.dumps({**figures, **(texts or {})}, indent=2, ensure_ascii=False) + "\n")
    by_episode = {figure: scores.by_episode(figure) for figure in scores.means()}
    _write(folder / EPISODES, json.dumps(by_episode, indent=2, ensure_ascii=False) + "\n")
    write_png(folder / PLOT, draw_plot(figures, f"{model_id}, {figures['episodes']:.0f} episodes", manifest.fps))
    films = _write_films(setting, scores, folder, progress)
    _write(folder / MARKDOWN, markdown(figures, model_id, manifest.fps, [path.name for path in films], by_task(scores)))
    return [folder / JSON, folder / EPISODES, folder / MARKDOWN, folder / PLOT, *films]


def by_task(scores: Scores) -> dict[str, dict[str, float]]:
    """Task -> its figures, by the alphabet: recordings whose names differ only by a number at their end are of one task.

    Returns:
        ``episodes``; ``psnr.model.<h>`` and ``psnr.copy_last.<h>`` at :data:`TASK_HORIZONS` and the longest horizon, as far as they were
        scored: means over the task's episodes that reach it. Empty if no two recordings are of one task, or all are.
    """
    episodes: dict[str, list[str]] = {}
    for episode in scores.episodes:
        episodes.setdefault(task_of(episode), []).append(episode)
    scored = horizons_of(scores.means(), f"psnr.{MODEL}")
    if not scored or len(episodes) < 2 or len(episodes) == len(scores.episodes):
        return {}
    shown = sorted({h for h in scored if h in TASK_HORIZONS} | {max(scored)})
    names = [f"psnr.{who}.{h}" for h in shown for who in (MODEL, COPY_LAST)]
    known = {name: scores.by_episode(name) for name in names}
    tasks = {}
    for task in sorted(episodes):
        values = {name: [found[episode] for episode in episodes[task] if episode in found] for name, found in known.items()}
        means = {name: float(np.mean(found)) for name, found in values.items() if found}
        tasks[task] = {EPISODES_OF_TASK: float(len(episodes[task])), **means}
    return tasks


def markdown(
    figures: Mapping[str, float],
    model_id: str,
    fps: float,
    films: Sequence[str] = (),
    tasks: Mapping[str, Mapping[str, float]] | None = None,
) -> str:
    """The figures as tables, each with its interval in brackets.

    Args:
        figures: As of :meth:`Setting.figures`.
        model_id: Whose.
        fps: Its rate.
        films: Names of the files.
        tasks: As of :func:`by_task`.
    """
    counts = f"{figures['windows']:.0f} predictions from {figures['episodes']:.0f} episodes"
    lines = [
        f"# Evaluation of {model_id}",
        "",
        f"{counts}. Columns are frames ahead, {fps:g} per second. In brackets: 95 % intervals, episodes resampled.",
        "",
        f"![curves]({PLOT})",
        "",
    ]
    for kind, title in _LEVELS.items():
        rows = {name: f"{kind}.{who}" for who, name in NAMES.items() if who in WHO or kind == "gripper_error_cm"}
        lines += _table(title, rows, figures)
    lines += _table("Effect of the actions, and detail", {name: figure for figure, name in _BY_HORIZON.items()}, figures)
    lines += _table_by_task(tasks or {})
    for title, prefixes in _GROUPS.items():
        names = [name for name in figures if name.startswith(prefixes) and not (title == "Gripper" and name[-1].isdigit())]
        if names:
            lines += [f"## {title}", "", "| figure | |", "|---|---|", *(f"| `{name}` | {cell(figures, name)} |" for name in names), ""]
    if films:
        lines += ["## Films", "", "Actual, predicted and error, of the best, the median and the worst episode at the longest horizon.", ""]
        lines += [*(f"- [{name}]({name})" for name in films), ""]
    return "\n".join(lines)


def cell(figures: Mapping[str, float], name: str) -> str:
    """A figure and its interval as text; empty: there is none."""
    if name not in figures:
        return ""
    digits = 2 if name.startswith(("psnr", "gripper", "drift", "jump")) else 3
    if name.startswith(("windows", "episodes")):
        digits = 0
    low, high = figures.get(f"ci.low.{name}"), figures.get(f"ci.high.{name}")
    text = f"{figures[name]:.{digits}f}"
    return text if low is None or high is None else f"{text} [{low:.{digits}f}, {high:.{digits}f}]"


def _table(title: str, rows: Mapping[str, str], figures: Mapping[str, float]) -> Iterator[str]:
    """A heading and a table, a row per figure that there is, a column per horizon."""
    known = {name: figure for name, figure in rows.items() if horizons_of(figures, figure)}
    if not known:
        return
    horizons = sorted({h for figure in known.values() for h in horizons_of(figures, figure)})
    yield from (f"## {title}", "", f"| | {' | '.join(map(str, horizons))} |", f"|---|{'---|' * len(horizons)}")
    for name, figure in known.items():
        yield f"| {name} | {' | '.join(cell(figures, f'{figure}.{h}') for h in horizons)} |"
    yield ""


def _table_by_task(tasks: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """A heading and a table, a row per task; at each horizon the model, the newest image copied, and what the model gains over it."""
    if not tasks:
        return
    horizons = sorted({h for figures in tasks.values() for h in horizons_of(figures, f"psnr.{MODEL}")})
    heads = [f"{what} {h}" for h in horizons for what in ("model", "copied", "gain")]
    yield from ("## By task", "", "PSNR in dB, mean over the task's episodes: the model, the newest image copied, and the difference.", "")
    yield from (f"| task | episodes | {' | '.join(heads)} |", f"|---|{'---|' * (1 + len(heads))}")
    for task, figures in tasks.items():
        cells = []
        for h in horizons:
            ours, copied = (figures.get(f"psnr.{who}.{h}") for who in (MODEL, COPY_LAST))
            cells += ["", "", ""] if ours is None or copied is None else [f"{ours:.2f}", f"{copied:.2f}", f"{ours - copied:+.2f}"]
        yield f"| {task} | {figures[EPISODES_OF_TASK]:.0f} | {' | '.join(cells)} |"
    yield ""


def _write_films(setting: Setting, scores: Scores, folder: Path, progress: Callable[[int, int, str], None] | None) -> list[Path]:
    if importlib.util.find_spec("av") is None:
        _log.warning("Films are left out: they need the package 'av'; install it with: pip install 'longscape_ros[video]'")
        return []
    longest = max(h for h in setting.horizons if f"psnr.model.{h}" in scores.means())
    chosen = choose(scores, longest)
    films = []
    for number, (rank, index) in enumerate(chosen.items()):
        judged = scores.windows[index]
        if progress is not None:
            progress(number, len(chosen), f"film of the {rank} episode")
        name = f"{rank} of {len(scores.episodes)}: {judged.episode}"
        films.append(write_film(setting.predictor, setting.windows[index], name, folder / f"{rank}.mp4"))
    if progress is not None:
        progress(len(chosen), len(chosen), "films")
    return films


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
