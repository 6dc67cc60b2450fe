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

import torch
from torch import Tensor

from longscape_ros.alternatives import Dealt, by_chance
from longscape_ros.bundle import Bundle, load_bundle
from longscape_ros.comparison import METHOD, document_of, entry_of, shares_of
from longscape_ros.errors import InputError
from longscape_ros.evaluation import HORIZONS, Setting, prepare
from longscape_ros.export.export import export_run
from longscape_ros.model.cost import denoiser_macs
from longscape_ros.model.processes import Processes
from longscape_ros.model.recipes import Recipe
from longscape_ros.model.run import LATENTS, load_run
from longscape_ros.model.train import Data, train_on
from longscape_ros.model.transformer import TransformerConfig
from longscape_ros.runtime.backend import FP32
from longscape_ros.runtime.predictor import Predictor

SHARED = "shared"
SCORES = "scores.json"
RESULTS = "ablations.json"

WHOLE = 200
"""Frames that ``whole_horizon`` denoises at once."""

MOST_STEPS = 16
APART = 0.02
"""Noise between equal hidden units, in standard deviations of their weights."""

_EXPERT = re.compile(r"\.experts\.\d+\.")
_MOMENT = "denoiser.transformer.moment"
_BEGUN = ("autoencoder.", "denoiser.transformer.")
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
    longer, the places behind the last one begin like that one. The bundle's router is left out, for equal experts leave it nothing to
    choose from, and so are the heads, which no variant has.
    """
    weights = {name: weight for name, weight in initial.items() if name.startswith(_BEGUN) and _EXPERT.search(name) is None}
    stacks: dict[str, list[Tensor]] = {}
    for name in sorted(filter(_EXPERT.search, initial)):
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
        rule = {} if name == METHOD else shares_of(json.loads(method.read_text())["figures"])
        document |= _evaluate(name, run, steps, evaluation, rule)
        shares = shares_of(document["figures"])
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
        document = document_of(setting.score(), evaluation.horizons)
    return {"steps": steps, **document, "macs_per_frame": macs_per_frame(run, steps, shares_of(document["figures"]))}


def _predictor(name: str, bundle: Bundle, setting: Setting, rule_shares: dict[int, float]) -> Predictor:
    """The bundle's predictor, but for the two variants in which chance decides."""
    cut = Dealt(rule_shares) if name == "shuffled_lengths" else None
    choose = by_chance(bundle.manifest.experts.count) if name == "random_routing" else None
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


# ---- the summary ----


def summarise(output: Path, horizons: Sequence[int]) -> dict[str, Any]:
    """Write ``ablations.json`` of all variants that were scored, and return it.

    Returns:
        Per variant: ``what``; the figures of :func:`longscape_ros.comparison.entry_of`; ``steps``; ``gmacs_per_frame``;
        ``equal_compute.steps``, ``equal_compute.<figure>`` and ``equal_compute.over_longscape.<figure>``: the same with as many sampling
        steps as the method's cost per frame allows; ``training.*``.
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
            entry |= _costed(document, method, horizons)
            same = document["equal_compute_steps"] == document["steps"]
            equal = _costed(document if same else document["equal_compute"], method, horizons)
            entry |= {f"equal_compute.{key}": value for key, value in equal.items() if not key.startswith(("expert.", "chunk."))}
        summary[name] = entry
    (output / RESULTS).write_text(json.dumps(summary, indent=1) + "\n")
    return summary


def _costed(document: dict[str, Any], method: dict[str, Any], horizons: Sequence[int]) -> dict[str, float]:
    """A variant's figures, and what they cost."""
    cost = {"steps": float(document["steps"]), "gmacs_per_frame": document["macs_per_frame"] / GIGA}
    return cost | entry_of(document, method, horizons)
