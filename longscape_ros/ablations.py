# SPDX-License-Identifier: Apache-2.0
"""What LongScape claims, tested: the method beside everything that it could be replaced by.

All variants have the same beginning, autoencoder, data, number of training steps with as many frames each, and evaluation. A second
comparison is at equal inference compute: every variant takes as many sampling steps as fit into what the method spends per frame.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longscape_ros.bundle import Bundle, load_bundle
from longscape_ros.contract import Chunk, EndReason
from longscape_ros.errors import InputError
from longscape_ros.evaluation import HORIZONS, Setting, paired_difference, prepare
from longscape_ros.export.export import export_run
from longscape_ros.model.cost import denoiser_macs
from longscape_ros.model.processes import Processes
from longscape_ros.model.recipes import Recipe
from longscape_ros.model.run import LATENTS, load_run
from longscape_ros.model.train import Data, train_on
from longscape_ros.model.transformer import TransformerConfig
from longscape_ros.runtime.backend import FP32
from longscape_ros.runtime.predictor import Choice, Cut, Predictor

METHOD = "longscape"
SHARED = "shared"
SCORES = "scores.json"
RESULTS = "ablations.json"
COMPARED = ("psnr", "gripper_error_cm")
TABLED = (1, 16, 64, 200)
"""Horizons in the table."""

WHOLE = 200
"""Frames that ``whole_horizon`` denoises at once."""

MOST_STEPS = 16
APART = 0.02
"""Noise between equal hidden units, in standard deviations of their weights."""

_EXPERT = re.compile(r"\.experts\.\d+\.")
_MOMENT = "denoiser.transformer.moment"
GIGA = 1e9

Progress = Callable[[float, float, str], None]
"""(done, total, what) of a long job."""


@dataclass(frozen=True)
class Variant:
    """Something to compare with.

    Args:
        what: In words.
        change: Of the recipe.
    """

    what: str
    change: Callable[[Recipe], Recipe]


def _fixed(length: int) -> Variant:
    return Variant(f"every chunk has {length} frames", lambda recipe: replace(recipe, lengths=(length,)))


VARIANTS: dict[str, Variant] = {
    METHOD: Variant("chunks cut by the actions, experts chosen by a router that sees context and coming actions", lambda recipe: recipe),
    "length_routing": Variant("an expert for each chunk length, as LongScape has it", lambda r: replace(r, routing="chunk_length")),
    "context_routing": Variant("the router sees the context only", lambda recipe: replace(recipe, routing="context")),
    "random_routing": Variant("experts by chance", lambda recipe: replace(recipe, routing="random")),
    "top_2": Variant("two experts per chunk, weighted", lambda recipe: replace(recipe, top=2)),
    "dense_equal_active": Variant("one network as large as what is active", lambda recipe: replace(recipe, experts=1)),
    "dense_equal_total": Variant("one network as large as all experts", lambda r: replace(r, experts=1, hidden=r.experts * r.hidden)),
    "fixed_8": _fixed(8),
    "fixed_16": _fixed(16),
    "fixed_24": _fixed(24),
    "fixed_32": _fixed(32),
    "shuffled_lengths": Variant("as many chunks of each length, dealt out by chance", lambda recipe: replace(recipe, shuffled=True)),
    "frame_autoregression": Variant("one latent frame (4 frames) at a time", lambda r: replace(r, base=4, lengths=(4,))),
    "whole_horizon": Variant(f"{WHOLE} frames at once", lambda recipe: replace(recipe, lengths=(WHOLE,))),
    "separate_learning": Variant("experts learn from their own chunks only", lambda recipe: replace(recipe, sharing=None)),
    "told_noise": Variant("the network is told how much noise is on its context", lambda recipe: replace(recipe, tells_noise=True)),
    "own_contexts": Variant("a fifth of the chunks go on from what the model generated itself", lambda r: replace(r, own=0.2)),
}
"""Name -> variant."""


@dataclass(frozen=True)
class Evaluation:
    """How all variants are scored.

    Args:
        bags: Recordings that were not trained on.
        windows: Most places to predict from; None: all.
        probe: See :func:`longscape_ros.evaluation.prepare`.
        horizons: Frames ahead.
        backend: See :func:`longscape_ros.runtime.backends.create_backend`.
    """

    bags: Sequence[Path]
    windows: int | None = None
    probe: Path | None = None
    horizons: tuple[int, ...] = HORIZONS
    backend: str = "auto"


def ablate(
    data: Data,
    recipe_name: str,
    recipe: Recipe,
    output: Path,
    names: Sequence[str],
    evaluation: Evaluation,
    processes: Processes,
    initial: dict[str, Tensor] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train and score variants; what is there already is kept, so an interrupted call goes on.

    Args:
        data: Training bags.
        recipe_name: Of the recipe.
        recipe: What the variants change; trained without distillation and heads.
        output: Folder: a run and a bundle per variant, and ``ablations.json``.
        names: Of :data:`VARIANTS`.
        evaluation: How to score.
        processes: Who trains.
        initial: Weights that all variants begin with, see :func:`beginning`.
        progress: Told how far the newest training is.

    Returns:
        What ``ablations.json`` has, see :func:`summarise`.

    Raises:
        InputError: a name is unknown, or :data:`METHOD` has not been scored and is not among them.
    """
    unknown = [name for name in names if name not in VARIANTS]
    if unknown or not names:
        raise InputError(f"Got the variants {list(names)}, expected some of {', '.join(VARIANTS)}.")
    base = replace(recipe, distil=None, heads=None)
    train_on(data, recipe_name, replace(base, denoiser=None), output / SHARED, processes, progress, initial=initial)
    for name in names:
        run = output / name
        run.mkdir(parents=True, exist_ok=True)
        for file in ("autoencoder.pt", LATENTS):
            if not (run / file).exists():
                os.link(output / SHARED / file, run / file)
        changed = VARIANTS[name].change(base)
        weights = None if initial is None else beginning(initial, changed)
        _score(name, run, train_on(data, recipe_name, changed, run, processes, progress, initial=weights), evaluation, output)
    return summarise(output, evaluation.horizons)


def beginning(initial: dict[str, Tensor], recipe: Recipe) -> dict[str, Tensor]:
    """A bundle's weights in the shape of a variant: all variants begin as one and the same network.

    Its experts are averaged (a model soup, arXiv 2203.05482); where there are several, each begins as the average; where one is as large
    as all of them, as copies of it side by side, apart by a little noise, for equal units would learn the same. Where chunks are
    longer, the places behind the last one begin like that one.
    """
    weights = {name: weight for name, weight in initial.items() if _EXPERT.search(name) is None}
    stacks: dict[str, list[Tensor]] = {}
    for name in sorted(set(initial) - set(weights)):
        stacks.setdefault(_EXPERT.sub(".experts.{}.", name), []).append(initial[name])
    for name, every in stacks.items():
        mean = torch.stack(every).mean(dim=0)
        for number in range(recipe.experts):
            weights[name.format(number)] = _widened(name, mean, recipe.hidden * recipe.width)
    moment = weights[_MOMENT]
    tubelet = TransformerConfig.tubelet
    needed = recipe.context // tubelet + max(recipe.lengths[-1] // tubelet, 2)
    weights[_MOMENT] = torch.cat([moment, moment[-1:].expand(max(0, needed - len(moment)), -1)])[:needed]
    return weights


def _widened(name: str, weight: Tensor, hidden: int) -> Tensor:
    """An expert's weight with more hidden units, and the same output: ``up.*`` has a row per unit, ``down.weight`` a column."""
    out = name.endswith("down.weight")
    copies = hidden // (weight.shape[1] if out else weight.shape[0])
    if name.endswith("down.bias") or copies == 1:
        return weight
    if out:
        return torch.cat([weight] * copies, dim=1) / copies
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randn(weight.shape, generator=generator) for _ in range(copies)]
    return torch.cat([weight + APART * weight.std() * part for part in noise])


def _score(name: str, run: Path, training: dict[str, float], evaluation: Evaluation, output: Path) -> None:
    """Write ``scores.json`` of a variant, unless it is there."""
    path = run / SCORES
    if path.is_file():
        return
    document: dict[str, Any] = {"training": training}
    if load_run(run).world.top == 1:  # no bundle has two experts per chunk: that variant is judged by its loss
        steps, method = load_run(run).sampler_steps, output / METHOD / SCORES
        if name != METHOD and not method.is_file():
            raise InputError(f"Got {name} before {METHOD}, expected {METHOD} to be scored first: its cost is the budget of all.")
        rule = {} if name == METHOD else _shares(json.loads(method.read_text())["figures"])
        document |= _evaluate(name, run, steps, evaluation, rule)
        shares = _shares(document["figures"])
        budget = document["macs_per_frame"] if name == METHOD else json.loads(method.read_text())["macs_per_frame"]
        affordable = steps if name == METHOD else most_steps(run, shares, budget)
        document["equal_compute_steps"] = affordable
        if affordable != steps:
            document["equal_compute"] = _evaluate(name, run, affordable, evaluation, rule)
    path.write_text(json.dumps(document, indent=1))


def _evaluate(name: str, run: Path, steps: int, evaluation: Evaluation, rule_shares: dict[int, float]) -> dict[str, Any]:
    folder = run / f"bundle_{steps}"
    if not folder.is_dir():
        export_run(run, folder, name, steps=steps)
    bundle = load_bundle(folder)
    with prepare(
        bundle, evaluation.bags, None, evaluation.horizons, evaluation.windows, evaluation.backend, evaluation.probe, FP32
    ) as setting:
        setting = replace(setting, predictor=_predictor(name, bundle, setting, rule_shares))
        scores = setting.score()
    figures = scores.figures()
    compared = [f"{kind}.model.{h}" for kind in COMPARED for h in evaluation.horizons]
    return {
        "steps": steps,
        "figures": figures,
        "episodes": {figure: scores.by_episode(figure) for figure in compared if figure in figures},
        "macs_per_frame": macs_per_frame(run, steps, _shares(figures)),
    }


class Dealt:
    """Cuts motion into chunks whose lengths are dealt out by chance, in the shares that the rule gives.

    Args:
        lengths: Chunk lengths.
        shares: Of each length among the chunks.
    """

    def __init__(self, lengths: Sequence[int], shares: Sequence[float]) -> None:
        self._lengths = np.array(lengths)
        self._shares = np.array(shares) / sum(shares)

    def __call__(self, motion: NDArray[np.float64]) -> tuple[Chunk, ...]:
        """The chunks of motion [N + 1, A]: the same for the same motion."""
        random = np.random.default_rng(np.frombuffer(motion[:2].tobytes(), np.uint32))
        steps, start, chunks = len(motion) - 1, 0, []
        while start < steps:
            length = int(random.choice(self._lengths, p=self._shares))
            whole = start + length <= steps
            chunks.append(Chunk(start, length, min(length, steps - start), EndReason.MAX_LENGTH if whole else EndReason.END_OF_PLAN))
            start += length
        return tuple(chunks)


def _predictor(name: str, bundle: Bundle, setting: Setting, rule_shares: dict[int, float]) -> Predictor:
    """The bundle's predictor, but for the two variants in which chance decides."""
    cut: Cut | None = None
    choose: Choice | None = None
    if name == "shuffled_lengths":
        cut = Dealt(list(rule_shares), list(rule_shares.values()))
    if name == "random_routing":
        count = bundle.manifest.experts.count

        def choose(length: int, noise: np.random.Generator) -> int:
            return int(noise.integers(count))

    return Predictor(bundle, setting.predictor.backend, cut, choose)


def macs_per_frame(run: Path, steps: int, shares: dict[int, float]) -> float:
    """Multiply-accumulates of the denoiser per predicted frame, for chunks of which ``shares`` have each length."""
    world = load_run(run).world
    cost = sum(share * denoiser_macs(world.transformer, length, steps, world.top) for length, share in shares.items())
    return cost / sum(share * length for length, share in shares.items())


def most_steps(run: Path, shares: dict[int, float], budget: float) -> int:
    """Sampling steps that fit into a budget of multiply-accumulates per frame; at least one."""
    fitting = [steps for steps in range(1, MOST_STEPS + 1) if macs_per_frame(run, steps, shares) <= 1.001 * budget]
    return max(fitting, default=1)


def _shares(figures: dict[str, float]) -> dict[int, float]:
    prefix = "chunk.share."
    return {int(name.removeprefix(prefix)): value for name, value in figures.items() if name.startswith(prefix)}


# ---- the summary ----


def summarise(output: Path, horizons: Sequence[int]) -> dict[str, Any]:
    """Write ``ablations.json`` of all variants that were scored, and return it.

    Returns:
        Per variant: ``what``; ``psnr.<h>`` and ``gripper_error_cm.<h>``, each also with ``ci.low.`` and ``ci.high.`` before it (95 %,
        episodes resampled); ``over_longscape.<figure>``: the mean over episodes of the method's figure subtracted from the variant's,
        with its interval; ``steps``; ``gmacs_per_frame``; ``equal_compute.steps``, ``equal_compute.<figure>`` and
        ``equal_compute.over_longscape.<figure>``: the same with as many sampling steps as the method's cost per frame allows;
        ``training.*``; ``expert.share.<e>``, ``chunk.share.<length>``.
    """
    documents = {name: json.loads((output / name / SCORES).read_text()) for name in VARIANTS if (output / name / SCORES).is_file()}
    if METHOD not in documents:
        raise InputError(f"Got no scores of {METHOD} in {output}, expected them first; name it among the variants.")
    method = documents[METHOD]
    summary: dict[str, Any] = {}
    for name, document in documents.items():
        entry: dict[str, Any] = {"what": VARIANTS[name].what}
        entry |= {f"training.{key}": value for key, value in document["training"].items() if key.startswith(("denoiser.", "seconds"))}
        if "figures" in document:
            entry |= _entry(document, method, horizons)
            same = document["equal_compute_steps"] == document["steps"]
            equal = _entry(document if same else document["equal_compute"], method, horizons)
            entry |= {f"equal_compute.{key}": value for key, value in equal.items() if not key.startswith(("expert.", "chunk."))}
        summary[name] = entry
    (output / RESULTS).write_text(json.dumps(summary, indent=1) + "\n")
    return summary


def _entry(document: dict[str, Any], method: dict[str, Any], horizons: Sequence[int]) -> dict[str, float]:
    figures, entry = document["figures"], {"steps": float(document["steps"]), "gmacs_per_frame": document["macs_per_frame"] / GIGA}
    for kind in COMPARED:
        for h in horizons:
            figure, short = f"{kind}.model.{h}", f"{kind}.{h}"
            if figure not in figures:
                continue
            entry[short] = figures[figure]
            entry |= {f"ci.{end}.{short}": figures[f"ci.{end}.{figure}"] for end in ("low", "high") if f"ci.{end}.{figure}" in figures}
            difference = paired_difference(document["episodes"][figure], method["episodes"][figure])
            entry[f"over_longscape.{short}"] = difference.mean
            entry |= {f"ci.low.over_longscape.{short}": difference.low, f"ci.high.over_longscape.{short}": difference.high}
    others = ("expert.share.", "chunk.share.", "drift_db_per_100_frames", "jump.ratio", "sharpness.model.")
    return entry | {key: value for key, value in figures.items() if key.startswith(others)}


def table(summary: dict[str, Any], horizons: Sequence[int] = TABLED) -> str:
    """Markdown: a row per variant, with what it has more than the method and the interval of that."""
    rows = [
        "| variant | " + " | ".join(f"PSNR {h}" for h in horizons) + " | gripper cm " + " | gripper cm ".join(map(str, horizons[1:]))
        + " | GMAC per frame | at equal compute: steps | " + " | ".join(f"PSNR {h}" for h in horizons) + " |",
    ]  # fmt: skip
    rows.append("|" + "---|" * (rows[0].count("|") - 1))
    for name, entry in summary.items():
        if "steps" not in entry:
            continue
        cells = [
            f"`{name}`",
            *(_cell(entry, f"psnr.{h}", "") for h in horizons),
            *(_cell(entry, f"gripper_error_cm.{h}", "") for h in horizons[1:]),
        ]
        cells += [f"{entry['gmacs_per_frame']:.3f}", f"{entry['equal_compute.steps']:.0f}"]
        cells += [_cell(entry, f"psnr.{h}", "equal_compute.") for h in horizons]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def _cell(entry: dict[str, Any], figure: str, prefix: str) -> str:
    if prefix + figure not in entry:
        return ""
    value = f"{entry[prefix + figure]:.2f}"
    difference = f"{prefix}over_longscape.{figure}"
    low, high = (entry[f"{prefix}ci.{end}.over_longscape.{figure}"] for end in ("low", "high"))
    return f"{value} ({entry[difference]:+.2f}: {low:+.2f} to {high:+.2f})" if low or high else f"**{value}**"
