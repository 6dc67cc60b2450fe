# SPDX-License-Identifier: Apache-2.0
"""What a bundle decides while it predicts, tested: the bundle beside itself with its cut and its choice of experts replaced.

Nothing is trained, so this is about the choice at use alone. The one network was trained on chunks of all lengths by all its experts;
what it would have become by another method is what :mod:`longscape_ros.ablations` is for.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longscape_ros.bundle import Manifest
from longscape_ros.comparison import METHOD, document_of, entry_of, shares_of
from longscape_ros.contract import Chunk, EndReason
from longscape_ros.errors import InputError
from longscape_ros.evaluation import Setting
from longscape_ros.runtime.predictor import Choice, Cut, Predictor
from longscape_ros.segmentation import expert_for

LEAST_EPISODES = 2
"""That are scored: differences have intervals over episodes."""

Shares = Mapping[int, float]
"""Chunk length -> its share of the chunks."""


@dataclass(frozen=True)
class Alternative:
    """A bundle with a part replaced.

    Args:
        what: In words.
        cut: What it cuts by, made of the shares that the bundle's own rule gives; None: the bundle's rule.
        choose: What it chooses experts by; None: as the bundle says.
    """

    what: str
    cut: Callable[[Shares], Cut] | None = None
    choose: Choice | None = None


class Dealt:
    """Cuts motion into chunks whose lengths are dealt out by chance.

    Args:
        shares: Of each length among the chunks; a single length is given to all of them.
    """

    def __init__(self, shares: Shares) -> None:
        self._lengths = np.array(list(shares))
        self._shares = np.array(list(shares.values())) / sum(shares.values())

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


def by_chance(experts: int) -> Choice:
    """Chooses evenly among so many experts: the same for the same noise, of which nothing is used up."""

    def choose(length: int, noise: np.random.Generator) -> int:
        return int(copy.deepcopy(noise).integers(experts))  # so chunks begin with the noise that they have without it

    return choose


def alternatives(manifest: Manifest) -> dict[str, Alternative]:
    """Name -> what a bundle can be compared with: :data:`METHOD`, the bundle as it is, and all that differs from it.

    - ``fixed_<n>`` for every length of its rule, and ``shuffled_lengths``, where the rule has more than one;
    - ``random_routing`` and ``expert_<e>``, where there are several experts; ``length_routing`` where there are as many as lengths, and
      that is not what the bundle does already.
    """
    lengths, experts = manifest.segmentation.lengths, manifest.experts.count
    found = {METHOD: Alternative("the bundle as it is")}
    if len(lengths) > 1:
        found |= {f"fixed_{length}": Alternative(f"every chunk has {length} frames", _fixed(length)) for length in lengths}
        found["shuffled_lengths"] = Alternative("as many chunks of each length, dealt out by chance", Dealt)
    if experts > 1:
        found["random_routing"] = Alternative("experts by chance", choose=by_chance(experts))
        if experts == len(lengths) and manifest.experts.routing.kind != "chunk_length":
            what = "an expert for each chunk length"
            found["length_routing"] = Alternative(what, choose=lambda length, noise: expert_for(length, manifest.segmentation))
        found |= {f"expert_{e}": Alternative(f"every chunk by expert {e}", choose=_always(e)) for e in range(experts)}
    return found


def compare(
    setting: Setting, names: Sequence[str] | None = None, progress: Callable[[float, float, str], None] | None = None
) -> dict[str, Any]:
    """Score a bundle, and itself with its parts replaced, on the same windows with the same backend and the same seeds.

    Args:
        setting: The bundle and what it is scored on.
        names: Of :func:`alternatives`; :data:`METHOD` is always scored, and first. None: all.
        progress: Told (windows done, of how many, what).

    Returns:
        Per alternative: ``what``, ``windows``, ``episodes``, and the figures of :func:`longscape_ros.comparison.entry_of`.

    Raises:
        InputError: a name is unknown, there is nothing to compare with, or the windows are of a single episode.
    """
    bundle = setting.predictor.bundle
    known = alternatives(bundle.manifest)
    chosen = list(dict.fromkeys((METHOD, *(known if names is None else names))))
    if len(chosen) == 1 or not set(chosen) <= set(known):
        raise InputError(f"Got the alternatives {chosen}, expected one or more of {', '.join(known)}, and not {METHOD} alone.")
    episodes = len({id(window.episode) for window in setting.windows})
    if episodes < LEAST_EPISODES:
        raise InputError(
            f"Got windows of {episodes} episode, expected those of {LEAST_EPISODES} or more, over which differences have intervals; "
            "give more bags, or allow more windows."
        )
    summary: dict[str, Any] = {}
    documents: dict[str, dict[str, Any]] = {}
    for number, name in enumerate(chosen):
        alternative, before = known[name], number * len(setting.windows)

        def told(done: int, total: int, name: str = name, before: int = before) -> None:
            if progress is not None:
                progress(before + done, len(chosen) * total, name)

        shares = shares_of(documents[METHOD]["figures"]) if documents else {}
        cut = None if alternative.cut is None else alternative.cut(shares)
        predictor = Predictor(bundle, setting.predictor.backend, cut, alternative.choose)
        scores = replace(setting, predictor=predictor).score(progress=told, misled=False)
        documents[name] = document_of(scores, setting.horizons)
        counts = {count: documents[name]["figures"][count] for count in ("windows", "episodes")}
        summary[name] = {"what": alternative.what, **counts, **entry_of(documents[name], documents[METHOD], setting.horizons)}
    return summary


def _fixed(length: int) -> Callable[[Shares], Cut]:
    return lambda shares: Dealt({length: 1.0})


def _always(expert: int) -> Choice:
    return lambda length, noise: expert
