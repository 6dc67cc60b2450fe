# SPDX-License-Identifier: Apache-2.0
"""How fast a bundle runs on this machine: graphs, chunks, whole predictions, and what the package adds around the graphs."""

from __future__ import annotations

import platform
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longscape_ros.actions import feature_count
from longscape_ros.bags.writer import bag_types
from longscape_ros.bundle import ROUTER, Bundle, Manifest, denoiser
from longscape_ros.contract import NANOSECONDS, NO_ERROR, Plan, PlanExtension, Prediction, Snapshot
from longscape_ros.errors import InputError
from longscape_ros.messages import frame_from_image, prediction_to_message, time_message
from longscape_ros.runtime.backend import AUTO, Backend
from longscape_ros.runtime.backends import create_backend
from longscape_ros.runtime.cpus import usable_cpus
from longscape_ros.runtime.predictor import Predictor
from longscape_ros.runtime.worker import InferenceWorker, Request
from longscape_ros.timeline import Timeline, TimelineConfig

CAMERA = (480, 640)
"""Height and width of the camera's images in the measured path."""

FUTURE = 32
"""Steps of a whole prediction."""

LEAST_RUNS = 5


def bench(bundle: Bundle, backend: str = AUTO, threads: int | None = None, seconds: float = 30.0) -> dict[str, float | str]:
    """Measure.

    Args:
        bundle: The model.
        backend: See :func:`create_backend`.
        threads: CPU threads; None: the backend's choice.
        seconds: Time for all measurements, roughly; each is made at least :data:`LEAST_RUNS` times.

    Returns:
        Milliseconds, medians and 95th percentiles:

        - ``graph.<name>[.<T>]_ms_p50``: one run of a graph; T is the chunk length, or the decoder's batch.
        - ``chunk<T>_ms_p50``, ``_p95``: encode the context, denoise T frames, decode them.
        - ``horizon32_ms_p50``, ``_p95``: a whole prediction of 32 frames along a plan of typical speed.
        - ``message_ms_p50``: from a camera message to the prediction's message, through timeline and worker.
        - ``overhead_ms_p50``, ``overhead_fraction``: of that, the time neither in a graph nor waiting for the worker.
        - ``peak_rss_mb``: of this process. ``meta.*``: texts that say what was measured.
    """
    if not seconds > 0:
        raise InputError(f"Got {seconds} seconds, expected a positive time.")
    opened = create_backend(bundle, backend, threads)
    predictor = Predictor(bundle, opened)
    predictor.warm_up()
    manifest = bundle.manifest
    lengths = manifest.segmentation.lengths
    budget = seconds / (4 * len(lengths) + 8)
    figures: dict[str, float | str] = {}
    context = np.random.default_rng(0).integers(0, 256, (manifest.context, *manifest.image_size, 3), np.uint8)
    graphs = _graphs(opened, manifest, context)
    for name, run in graphs.items():
        figures[f"graph.{name}_ms_p50"] = _percentiles(_repeat(run, budget))[0]
    for length in lengths:
        runs = (graphs["encoder"], graphs[_denoiser(manifest, length)], graphs[f"decoder.{length}"])
        _record(figures, f"chunk{length}_ms", _repeat(partial(_all, runs), budget))
    figures |= _mixture(opened, manifest, graphs, 2 * budget)
    snapshot = Snapshot(anchor_ns=NANOSECONDS, context=context, motion=_motion(manifest, manifest.context + FUTURE), assumed_from=FUTURE)
    _record(figures, f"horizon{FUTURE}_ms", _repeat(lambda: predictor.predict(snapshot, horizon=FUTURE), budget))
    figures |= _path(predictor, 2 * budget)
    figures["peak_rss_mb"] = _peak_rss_mb()
    chunks = predictor.predict(snapshot, horizon=FUTURE).chunks
    figures |= _meta(bundle, opened, "+".join(str(chunk.length) for chunk in chunks))
    opened.close()
    return figures


def _graphs(backend: Backend, manifest: Manifest, context: NDArray[np.uint8]) -> dict[str, Callable[[], Any]]:
    """A run of each graph, by name."""
    random = np.random.default_rng(0)
    latents = backend.encode(context)
    runs: dict[str, Callable[[], Any]] = {"encoder": partial(backend.encode, context)}
    for length in manifest.segmentation.lengths:
        noise = random.standard_normal((1, length, *manifest.latent_shape), np.float32)
        actions = random.standard_normal((1, manifest.context + length, feature_count(manifest.action_space)), np.float32)
        expert = _expert(manifest, length)
        runs[_denoiser(manifest, length)] = partial(backend.denoise, expert, latents[None], actions, noise)
        runs[f"decoder.{length}"] = partial(_decode, backend, noise[0])
        if manifest.confidence is not None:
            before = np.array([NO_ERROR], np.float32)
            runs[f"error_estimator.{length}"] = partial(backend.estimate_error, latents[None], actions, noise, before)
    if ROUTER in manifest.graphs():
        shape = (1, manifest.context + manifest.experts.routing.lookahead, feature_count(manifest.action_space))
        runs["router"] = partial(backend.route, latents[None], random.standard_normal(shape, np.float32))
    if manifest.length_predictor:
        runs["length_predictor"] = partial(backend.predict_length, latents[None])
    return runs


def _decode(backend: Backend, latents: NDArray[np.float32]) -> NDArray[np.uint8]:
    return backend.start_decoding(latents)()


def _mixture(backend: Backend, manifest: Manifest, graphs: dict[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    """What a choice among experts costs: chunks that are routed and go to any expert, beside chunks that all go to one.

    The one expert's graph is the dense model of equal active size: it has the same operators and no router. Both run in turns.
    """
    random = np.random.default_rng(1)
    length = manifest.segmentation.lengths[len(manifest.segmentation.lengths) // 2 - 1]
    context = random.standard_normal((1, manifest.context, *manifest.latent_shape), np.float32)
    actions = random.standard_normal((1, manifest.context + length, feature_count(manifest.action_space)), np.float32)
    noise = random.standard_normal((1, length, *manifest.latent_shape), np.float32)
    router = graphs.get("router", lambda: None)
    times: dict[str, list[float]] = {"dense": [], "mixture": []}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["dense"]) < LEAST_RUNS:
        begin = time.perf_counter()
        backend.denoise(0, context, actions, noise)
        middle = time.perf_counter()
        router()
        backend.denoise(int(random.integers(manifest.experts.count)), context, actions, noise)
        times["dense"].append(middle - begin)
        times["mixture"].append(time.perf_counter() - middle)
    return {"mixture_over_dense": float(np.median(times["mixture"]) / np.median(times["dense"]))}


def _path(predictor: Predictor, seconds: float) -> dict[str, float | str]:
    """The way of a camera message to a prediction's message, once per image, as the node goes it."""
    manifest, classes = predictor.bundle.manifest, bag_types()
    results: SimpleQueue[tuple[float, Prediction] | Exception] = SimpleQueue()

    def publish(prediction: Prediction) -> None:
        prediction_to_message(prediction, classes)
        results.put((time.perf_counter(), prediction))

    worker = InferenceWorker(predictor, publish, results.put)
    worker.start()
    timeline = Timeline(
        TimelineConfig(
            fps=manifest.fps,
            context=manifest.context,
            horizon=FUTURE,
            image_size=manifest.image_size,
            space=manifest.action_space,
            plan_extension=PlanExtension.HOLD,
        )
    )
    rgb = np.random.default_rng(0).integers(0, 256, (*CAMERA, 3), np.uint8)
    totals: list[float] = []
    overheads: list[float] = []
    end, index = time.perf_counter() + seconds, 0
    while time.perf_counter() < end or len(totals) < LEAST_RUNS:
        stamp_ns = NANOSECONDS + round(index * NANOSECONDS / manifest.fps)
        message = _camera_message(rgb, stamp_ns, classes)
        if index % FUTURE == 0:
            timeline.add_plan(_plan(manifest, stamp_ns))
        begin = time.perf_counter()
        timeline.add_frame(frame_from_image(message, stamp_ns))
        index += 1
        if index < manifest.context:
            continue
        worker.submit(Request(timeline.snapshot(), horizon=FUTURE))
        result = results.get()
        if isinstance(result, Exception):
            raise result
        ready, prediction = result
        totals.append(1e3 * (ready - begin))
        overheads.append(totals[-1] - prediction.timings_ms["graphs"] - prediction.timings_ms["queue"])
    worker.stop()
    figures: dict[str, float | str] = {}
    _record(figures, "message_ms", totals)
    figures["overhead_ms_p50"] = _percentiles(overheads)[0]
    figures["overhead_fraction"] = float(np.median(np.array(overheads) / totals))
    return figures


def _camera_message(rgb: NDArray[np.uint8], stamp_ns: int, classes: Callable[[str], type]) -> Any:
    height, width = rgb.shape[:2]
    header = classes("std_msgs/msg/Header")(stamp=time_message(stamp_ns, classes), frame_id="camera_optical_frame")
    return classes("sensor_msgs/msg/Image")(
        header=header, height=height, width=width, encoding="rgb8", is_bigendian=0, step=3 * width, data=rgb.reshape(-1)
    )


def _motion(manifest: Manifest, rows: int) -> NDArray[np.float64]:
    """[rows, A]: every moving dimension travels its scale per longest chunk; states rest at one end."""
    progress = np.arange(rows) / manifest.segmentation.lengths[-1]
    columns = [progress * d.scale if d.moves else np.full(rows, d.midpoint - d.scale) for d in manifest.action_space.dimensions]
    return np.stack(columns, axis=1)


def _plan(manifest: Manifest, start_ns: int) -> Plan:
    """The same as commands, for three predictions' time. Speeds where the dimension is one, travel per step where it is that."""
    rows = 3 * FUTURE
    period_ns = NANOSECONDS / manifest.fps
    values = _motion(manifest, rows)
    for column, dimension in enumerate(manifest.action_space.dimensions):
        if dimension.kind in ("velocity", "delta"):
            travel = dimension.scale / manifest.segmentation.lengths[-1]
            values[:, column] = travel * manifest.fps if dimension.kind == "velocity" else travel
    times_ns = np.round(np.arange(1, rows + 1) * period_ns).astype(np.int64)
    return Plan(received_ns=start_ns, start_ns=start_ns, names=manifest.action_space.names, times_ns=times_ns, values=values)


def _denoiser(manifest: Manifest, length: int) -> str:
    return f"{Path(denoiser(_expert(manifest, length))).stem}.{length}"


def _expert(manifest: Manifest, length: int) -> int:
    """An expert for each length; they are equally large."""
    return manifest.segmentation.lengths.index(length) % manifest.experts.count


def _all(runs: tuple[Callable[[], Any], ...]) -> None:
    for run in runs:
        run()


def _repeat(run: Callable[[], Any], seconds: float) -> list[float]:
    """Milliseconds of each run, after one that does not count."""
    run()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < LEAST_RUNS:
        begin = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - begin))
    return times


def _percentiles(times: list[float]) -> tuple[float, float]:
    middle, high = np.percentile(times, (50, 95))
    return float(middle), float(high)


def _record(figures: dict[str, float | str], name: str, times: list[float]) -> None:
    figures[f"{name}_p50"], figures[f"{name}_p95"] = _percentiles(times)


def _peak_rss_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # macOS counts bytes, Linux kilobytes


def _meta(bundle: Bundle, backend: Backend, chunks: str) -> dict[str, str]:
    import onnxruntime

    return {
        "meta.model_id": bundle.model_id,
        "meta.backend": backend.name,
        "meta.threads": str(backend.threads),
        "meta.onnxruntime": onnxruntime.__version__,
        "meta.cpu": _cpu_name(),
        "meta.cpus": str(usable_cpus()),
        "meta.python": platform.python_version(),
        "meta.camera": f"{CAMERA[1]}x{CAMERA[0]} rgb8",
        f"meta.horizon{FUTURE}_chunks": chunks,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
