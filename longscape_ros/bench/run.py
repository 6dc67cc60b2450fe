# SPDX-License-Identifier: Apache-2.0
"""A bench run: every measurement, one after the other, as one flat set of figures."""

from __future__ import annotations

from longscape_ros.bench import inputs
from longscape_ros.bench.candidates import COUNT, time_candidates
from longscape_ros.bench.compare import ORT, Figures, Say, compare
from longscape_ros.bench.config import BATCHES, BenchConfig
from longscape_ros.bench.graphs import time_graphs, time_horizons
from longscape_ros.bench.latency import end_to_end
from longscape_ros.bench.load import load
from longscape_ros.bench.longscape import arithmetic
from longscape_ros.bench.machine import describe, gpu_memory_mb, peak_rss_mb
from longscape_ros.bench.path import FUTURE, message_path
from longscape_ros.bundle import Bundle
from longscape_ros.runtime.backends import open_backend
from longscape_ros.runtime.predictor import Predictor

SHARES = {"graphs": 0.15, "horizons": 0.1, "path": 0.1, "candidates": 0.05, "compare": 0.3, "end_to_end": 0.1, "cameras": 0.2}
"""Of the time of a run."""


def bench(bundle: Bundle, config: BenchConfig, say: Say = lambda text: None) -> Figures:
    """Measure a bundle on this machine.

    Args:
        bundle: The model.
        config: What is measured.
        say: Told what is being done.

    Returns:
        Figures, see docs/benchmarks.md; texts under names that begin with ``meta.``.

    Raises:
        BackendError: the backend does not work here.
    """
    if config.only_cameras:
        return _cameras(bundle, config, config.seconds, say) | {"meta.model_id": bundle.model_id} | describe()
    seconds = {name: share * config.seconds for name, share in SHARES.items()}
    figures: Figures = {}
    gpu_before_mb = gpu_memory_mb()
    opened = open_backend(bundle, config.backend, config.threads, config.precision)
    backend = opened.backend
    try:
        say(f"Warming up {bundle.model_id} on {backend.name} ...")
        predictor = Predictor(bundle, backend)
        predictor.warm_up()
        say("Timing graphs and chunks ...")
        figures |= time_graphs(predictor, seconds["graphs"])
        say("Timing predictions ...")
        figures |= time_horizons(predictor, config.horizons, seconds["horizons"])
        say("Timing the way of a camera message to a prediction's message ...")
        figures |= message_path(predictor, seconds["path"])
        say("Timing candidates ...")
        figures |= time_candidates(predictor, seconds["candidates"], BATCHES[3:] if config.full else (COUNT,))
        figures["peak_rss_mb"] = peak_rss_mb()
        if used := gpu_memory_mb() - gpu_before_mb:
            figures["gpu_memory_mb"] = used
        chunks = predictor.predict(inputs.snapshot(bundle, FUTURE), horizon=FUTURE).chunks
        figures |= {
            "meta.model_id": bundle.model_id,
            "meta.backend": backend.name,
            "meta.precision": backend.precision,
            "meta.device": backend.device,
            "meta.threads": str(backend.threads),
            "meta.refused": "; ".join(f"{name}: {why}" for name, why in opened.refused.items()),
            "meta.camera": f"{inputs.CAMERA[1]}x{inputs.CAMERA[0]} rgb8",
            f"meta.horizon{FUTURE}_chunks": "+".join(str(chunk.length) for chunk in chunks),
        }
    finally:
        backend.close()
    if config.compare:
        figures |= compare(bundle, config, seconds["compare"], say)
    if config.end_to_end:
        say("Running the node, a camera and a subscriber ...")
        figures |= end_to_end(bundle, seconds["end_to_end"], config.backend, config.precision, config.threads)
        figures |= _cameras(bundle, config, seconds["cameras"], say)
    say("Counting multiply-accumulates ...")
    peak = figures.get(f"peak_gmacs.{ORT}")
    figures |= arithmetic(bundle, peak if isinstance(peak, float) else None)
    return figures | describe()


def _cameras(bundle: Bundle, config: BenchConfig, seconds: float, say: Say) -> Figures:
    figures: Figures = {}
    for camera in config.cameras:
        say(f"Running the node with a camera of {camera.title} ...")
        figures |= load(bundle, camera, seconds / len(config.cameras), config.backend, config.precision)
    return figures
