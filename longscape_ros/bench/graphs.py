# SPDX-License-Identifier: Apache-2.0
"""Each graph of a bundle by itself, chunks, and what choosing among experts costs: on one backend in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longscape_ros.bench import inputs
from longscape_ros.bench.timing import LEAST_RUNS, Ratio, Spread, repeat
from longscape_ros.bundle import ROUTER, Bundle, Manifest, denoiser
from longscape_ros.contract import NO_ERROR
from longscape_ros.runtime.backend import Backend
from longscape_ros.runtime.predictor import Predictor

Runs = dict[str, Callable[[], Any]]


def time_graphs(predictor: Predictor, seconds: float) -> dict[str, float]:
    """Time every graph, and every chunk length.

    Returns:
        - ``graph.<name>[.<T>]_ms_p50``: one run of a graph until its result is there; T is the chunk length, or the decoder's batch;
        - ``chunk<T>_ms_p50``, ``_p95``, ``_n``: encode the context, denoise T frames, decode them;
        - ``mixture_over_dense``: time of chunks that are routed and go to any expert, over that of chunks that all go to one.
    """
    bundle, backend = predictor.bundle, predictor.backend
    manifest = bundle.manifest
    lengths = manifest.segmentation.lengths
    graphs = graph_runs(bundle, backend)
    budget = seconds / (len(graphs) + 2 * len(lengths) + 2)
    figures = {f"graph.{name}_ms_p50": Spread.of(repeat(run, budget)).p50 for name, run in graphs.items()}
    for length in lengths:
        runs = (graphs["encoder"], graphs[_denoiser(manifest, length)], graphs[f"decoder.{length}"])
        figures |= Spread.of(repeat(partial(_all, runs), 2 * budget)).figures(f"chunk{length}_ms")
    return figures | _mixture(bundle, backend, graphs, 2 * budget)


def time_horizons(predictor: Predictor, horizons: Sequence[int], seconds: float) -> dict[str, float]:
    """Whole predictions: ``horizon<N>_ms_p50``, ``_p95``, ``_n``, and ``horizon<N>_fps``, frames predicted per second."""
    figures: dict[str, float] = {}
    for horizon in horizons:
        snapshot = inputs.snapshot(predictor.bundle, horizon)
        spread = Spread.of(repeat(partial(predictor.predict, snapshot, horizon=horizon), seconds / len(horizons), least=3))
        figures |= spread.figures(f"horizon{horizon}_ms") | {f"horizon{horizon}_fps": 1e3 * horizon / spread.p50}
    return figures


def graph_runs(bundle: Bundle, backend: Backend) -> Runs:
    """A run of each graph, by name."""
    manifest = bundle.manifest
    rgb = inputs.context_images(bundle)
    context = backend.encode(rgb)
    runs: Runs = {"encoder": lambda: backend.fetch(backend.encode(rgb))}
    for length in manifest.segmentation.lengths:
        noise, actions = inputs.noise(manifest, length), inputs.features(manifest, length)
        denoise = partial(backend.denoise, inputs.expert_of(manifest, length), context[None], actions, noise)
        runs[_denoiser(manifest, length)] = partial(_fetched, backend, denoise)
        latents = backend.fetch(denoise())
        runs[f"decoder.{length}"] = partial(_decode, backend, latents[0])
        if manifest.confidence is not None:
            before = np.array([NO_ERROR], np.float32)
            runs[f"error_estimator.{length}"] = partial(backend.estimate_error, context[None], actions, latents, before)
    if ROUTER in manifest.graphs():
        coming = inputs.features(manifest, manifest.experts.routing.lookahead)
        runs["router"] = partial(backend.route, context[None], coming)
    if manifest.length_predictor:
        runs["length_predictor"] = partial(backend.predict_length, context[None])
    return runs


def _fetched(backend: Backend, run: Callable[[], Any]) -> NDArray[Any]:
    return backend.fetch(run())


def _decode(backend: Backend, latents: NDArray[np.float32]) -> NDArray[np.uint8]:
    return backend.start_decoding(latents)()


def _mixture(bundle: Bundle, backend: Backend, graphs: Runs, seconds: float) -> dict[str, float]:
    """What a choice among experts costs: chunks that are routed and go to any expert, beside chunks that all go to one.

    The one expert's graph is the dense model of equal active size: it has the same operators and no router. Both run in turns.
    """
    manifest = bundle.manifest
    random = np.random.default_rng(1)
    length = manifest.segmentation.lengths[len(manifest.segmentation.lengths) // 2 - 1]
    context = backend.encode(inputs.context_images(bundle))[None]
    actions, noise = inputs.features(manifest, length), inputs.noise(manifest, length)
    router = graphs.get("router", lambda: None)
    dense: list[float] = []
    mixture: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(dense) < LEAST_RUNS:
        begin = time.perf_counter()
        backend.fetch(backend.denoise(0, context, actions, noise))
        middle = time.perf_counter()
        router()
        backend.fetch(backend.denoise(int(random.integers(manifest.experts.count)), context, actions, noise))
        dense.append(middle - begin)
        mixture.append(time.perf_counter() - middle)
    return Ratio.of(mixture, dense).figures("mixture_over_dense")


def _denoiser(manifest: Manifest, length: int) -> str:
    return f"{Path(denoiser(inputs.expert_of(manifest, length))).stem}.{length}"


def _all(runs: tuple[Callable[[], Any], ...]) -> None:
    for run in runs:
        run()
