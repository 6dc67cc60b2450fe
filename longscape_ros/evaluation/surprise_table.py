# SPDX-License-Identifier: Apache-2.0
"""The figures of :mod:`longscape_ros.evaluation.surprise` as Markdown."""

from __future__ import annotations

from collections.abc import Mapping

from longscape_ros.evaluation.surprise import ALL, NOTICED_WITHIN_S, RATES, USED


def table(figures: Mapping[str, float | str]) -> str:
    """One line per disturbance, with the thresholds side by side; and one per measure."""
    number = {name: value for name, value in figures.items() if isinstance(value, float)}
    names = _names(number)
    measures = list(dict.fromkeys(name.split(f".{RATES[0]:g}.")[0] for name in number if name.endswith(f".{RATES[0]:g}.threshold")))
    lines = [
        f"Model {figures['meta.model_id']} on {figures['meta.backend']} in {figures['meta.precision']}, a prediction every "
        f"{number['every']:.0f} images. Thresholds from {number['train.episodes']:.0f} training episodes "
        f"({number['train.minutes']:.1f} min); undisturbed held-out episodes: {number['heldout.episodes']:.0f} of "
        f"{number['heldout.tasks']:.0f} tasks ({number['heldout.minutes']:.1f} min). {number['disturbed.seen']:.0f} disturbances that "
        f"change the image within {NOTICED_WITHIN_S:g} s; {number['disturbed.not_seen']:.0f} more do not, and do not count.",
        "",
        "| | episodes | " + " | ".join(f"{rate:g}/min" for rate in RATES) + " |",
        "|---|---|" + "---|" * len(RATES),
        "| threshold | | " + " | ".join(f"{number[f'{USED}.{rate:g}.threshold']:.3f}" for rate in RATES) + " |",
        "| false alarms per minute, held out | | "
        + " | ".join(_rate(number, f"{USED}.{rate:g}.false_alarms_per_min") for rate in RATES)
        + " |",
    ]
    for name in names:
        places = [f"{USED}.{rate:g}.noticed.{name}" for rate in RATES]
        lines.append(f"| {name} | {number[f'{places[0]}.of']:.0f} | " + " | ".join(_share(number, place) for place in places) + " |")
    lines += [
        "",
        "| measure | " + " | ".join(f"all noticed at {rate:g}/min | false alarms" for rate in RATES) + " |",
        "|---|" + "---|---|" * len(RATES),
    ]
    for measure in measures:
        cells = [
            f"{_percent(number.get(f'{measure}.{rate:g}.noticed.{ALL}'))} | {number[f'{measure}.{rate:g}.false_alarms_per_min']:.1f}"
            for rate in RATES
        ]
        lines.append(f"| {measure}{' (used)' if measure == USED else ''} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _names(number: Mapping[str, float]) -> list[str]:
    start = f"{USED}.{RATES[0]:g}.noticed."
    return [name.removeprefix(start).removesuffix(".of") for name in number if name.startswith(start) and name.endswith(".of")]


def _rate(number: Mapping[str, float], place: str) -> str:
    low, high = number.get(f"ci.{place}.low"), number.get(f"ci.{place}.high")
    return f"{number[place]:.1f}" + ("" if low is None or high is None else f" ({low:.1f} to {high:.1f})")


def _share(number: Mapping[str, float], place: str) -> str:
    if place not in number:
        return "-"
    interval = f"{_percent(number[f'ci.{place}.low'])} to {_percent(number[f'ci.{place}.high'])}"
    delay_s = number.get(f"{place}.delay_s")
    return f"{_percent(number[place])} ({interval})" + ("" if delay_s is None else f", {delay_s:.2f} s")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"
