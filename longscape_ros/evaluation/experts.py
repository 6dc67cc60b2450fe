# SPDX-License-Identifier: Apache-2.0
"""What a bundle's experts specialise in, and how well chunk lengths can be guessed without the actions.

Letters: K context frames, A action dimensions, C h w latent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from longscape_ros.contract import ActionSpace, EndReason
from longscape_ros.evaluation.windows import Window, task_of
from longscape_ros.runtime.predictor import Predictor

PRESSING_M = 0.015
"""A hand that is farther than this from where it was commanded a step before is held back by something, and so in contact."""

SPEEDS = ("slow", "medium", "fast")
"""Thirds of all chunks by their motion per step."""


@dataclass(frozen=True)
class RoutedChunk:
    """A chunk and where it went.

    Args:
        expert: Its expert.
        length: Steps.
        reason: Why it ended.
        speed: Motion per step: the largest excursion of a moving dimension in ranges, over the length.
        gripper: ``open``, ``closed`` or ``flips``; empty: there is none.
        task: As of :func:`longscape_ros.evaluation.windows.task_of`.
        contact: Whether the hand was held back; None: nothing was measured.
        guesses: Numbers of the lengths that a predictor gives from the recorded and from the generated context; None: there is none.
    """

    expert: int
    length: int
    reason: EndReason
    speed: float
    gripper: str
    task: str
    contact: bool | None
    guesses: tuple[int, int] | None = None


def routed_chunks(predictor: Predictor, windows: Sequence[Window], progress: Callable[[int, int], None] | None = None) -> list[RoutedChunk]:
    """Roll every window out, without decoding, and note each whole chunk."""
    manifest = predictor.bundle.manifest
    known, lengths = manifest.context, manifest.segmentation.lengths
    chunks: list[RoutedChunk] = []
    for done, window in enumerate(windows):
        snapshot = window.snapshot(known, lengths[-1])
        rollout = predictor.roll_out(snapshot, horizon=window.steps)
        encoded = predictor.backend.encode(window.episode.frames[window.anchor - known + 1 : window.anchor + window.steps + 1])
        generated = np.concatenate([encoded[:known], rollout.latents])
        for chunk, expert in zip(rollout.chunks, rollout.experts, strict=True):
            if chunk.valid < chunk.length:
                continue
            guesses = None
            if manifest.length_predictor:
                contexts = np.stack([latents[chunk.start : chunk.start + known] for latents in (encoded, generated)])
                first, second = predictor.backend.predict_length(contexts).argmax(axis=1).tolist()
                guesses = (first, second)
            span = slice(known - 1 + chunk.start, known + chunk.start + chunk.length)
            chunks.append(
                RoutedChunk(
                    expert=expert,
                    length=chunk.length,
                    reason=chunk.reason,
                    speed=_excursion(snapshot.motion[span], manifest.action_space) / chunk.length,
                    gripper=_gripper(snapshot.motion[span], manifest.action_space),
                    task=task_of(window.episode.name),
                    contact=_contact(window, chunk.start, chunk.length, manifest.action_space),
                    guesses=guesses,
                )
            )
        if progress is not None:
            progress(done + 1, len(windows))
    return chunks


def specialisation(chunks: Sequence[RoutedChunk], lengths: Sequence[int], experts: int) -> dict[str, float]:
    """Figures of who does what.

    Returns:
        ``experts.share.<e>``; ``experts.<kind>.<group>.<e>``: of the chunks of a group the share that goes to expert e, where kind and
        group are ``length`` and its steps, ``speed`` (:data:`SPEEDS`), ``reason``, ``gripper``, ``task``, ``contact`` (``yes``, ``no``);
        ``experts.information.<kind>``: mutual information of expert and group in bits, which is 0 if they have nothing to do with each
        other; ``length_predictor.agreement.recorded`` and ``.generated``: how often the predictor gives the rule's length from the
        recorded and from the generated context, ``length_predictor.agreement.commonest``: how often the commonest length is right.
    """
    figures = {f"experts.share.{e}": float(np.mean([c.expert == e for c in chunks])) for e in range(experts)}
    for kind, groups in _groups(chunks).items():
        for group in sorted(set(groups), key=_order):
            inside = [c.expert for c, g in zip(chunks, groups, strict=True) if g == group]
            figures |= {f"experts.{kind}.{group}.{e}": inside.count(e) / len(inside) for e in range(experts)}
        figures[f"experts.information.{kind}"] = mutual_information([c.expert for c in chunks], groups)
    guessed = [(c.guesses, list(lengths).index(c.length)) for c in chunks if c.guesses is not None]
    if guessed:
        for place, name in enumerate(("recorded", "generated")):
            figures[f"length_predictor.agreement.{name}"] = float(np.mean([guesses[place] == right for guesses, right in guessed]))
        figures["length_predictor.agreement.commonest"] = max(Counter(right for _, right in guessed).values()) / len(guessed)
    return figures


def mutual_information(first: Sequence[object], second: Sequence[object]) -> float:
    """In bits, of two labels of the same things."""
    pairs, left, right = Counter(zip(first, second, strict=True)), Counter(first), Counter(second)
    total = len(first)
    return float(sum(n / total * np.log2(n * total / (left[a] * right[b])) for (a, b), n in pairs.items()))


def groups_of(figures: dict[str, float]) -> list[tuple[str, str]]:
    """(kind, group) of all shares among :func:`specialisation`'s figures, in their order; the first, ("share", ""), is all chunks."""
    heads = [name.split(".")[1:-1] for name in figures if name.startswith("experts.") and name.endswith(".0")]
    return [(head[0], ".".join(head[1:])) for head in heads if head[0] != "information"]


def specialisation_table(figures: dict[str, float], experts: int) -> str:
    """Markdown: a row per group, a column per expert, in per cent of the group's chunks."""
    lines = ["| chunks | " + " | ".join(f"expert {e}" for e in range(experts)) + " |", "|---" * (experts + 1) + "|"]
    for kind, group in groups_of(figures):
        head, label = (f"experts.{kind}.{group}", f"{kind} {group}") if group else (f"experts.{kind}", "all")
        lines.append(f"| {label} | " + " | ".join(f"{100 * figures[f'{head}.{e}']:.0f} %" for e in range(experts)) + " |")
    return "\n".join(lines) + "\n"


def _groups(chunks: Sequence[RoutedChunk]) -> dict[str, list[str]]:
    edges = np.quantile([c.speed for c in chunks], [1 / 3, 2 / 3])
    groups = {
        "length": [str(c.length) for c in chunks],
        "speed": [SPEEDS[int(np.searchsorted(edges, c.speed))] for c in chunks],
        "reason": [c.reason.name.lower() for c in chunks],
        "gripper": [c.gripper for c in chunks],
        "task": [c.task for c in chunks],
    }
    if all(c.contact is not None for c in chunks):
        groups["contact"] = ["yes" if c.contact else "no" for c in chunks]
    return {kind: labels for kind, labels in groups.items() if any(labels)}


def _order(group: str) -> tuple[int, str]:
    """Numbers by size, speeds from slow to fast, the rest by letters."""
    return (int(group) if group.isdigit() else SPEEDS.index(group) if group in SPEEDS else 0), group


def _excursion(motion: np.ndarray, space: ActionSpace) -> float:
    """The largest excursion of a moving dimension of motion [R, A], in its ranges."""
    return max((float(np.ptp(motion[:, a])) / d.motion_range for a, d in enumerate(space.dimensions) if d.moves), default=0.0)


def _gripper(motion: np.ndarray, space: ActionSpace) -> str:
    sides = [motion[:, a] > d.midpoint for a, d in enumerate(space.dimensions) if d.is_gripper]
    if not sides:
        return ""
    if any(side.any() and not side.all() for side in sides):
        return "flips"
    return "closed" if any(side.all() for side in sides) else "open"


def _contact(window: Window, start: int, length: int, space: ActionSpace) -> bool | None:
    """Whether the hand was held back somewhere in a chunk: where measured and commanded positions have the same number and unit."""
    measured = window.measured
    moving = [a for a, d in enumerate(space.dimensions) if d.kind == "position" and d.unit == "m"]
    if measured is None or measured.shape[1] != len(moving):
        return None
    commanded = window.episode.motion[window.anchor : window.anchor + window.steps + 1, moving]
    apart = np.linalg.norm(measured[start + 1 : start + length + 1] - commanded[start : start + length], axis=1)
    return bool((apart > PRESSING_M).mean() > 0.5)
