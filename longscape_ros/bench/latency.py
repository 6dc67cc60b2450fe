# SPDX-License-Identifier: Apache-2.0
"""From the camera to a subscriber: the predictor node is a process, camera and subscriber are another (:mod:`.node`).

Transport, conversion and waiting for the model are part of it.
"""

from __future__ import annotations

import numpy as np

from longscape_ros.bench.camera import Seen
from longscape_ros.bench.inputs import CAMERA
from longscape_ros.bench.node import run_node, why_not
from longscape_ros.bench.stream import Stream
from longscape_ros.bundle import Bundle
from longscape_ros.demo.packages import client_library
from longscape_ros.errors import HostError

DIAGNOSTICS_S = 0.2

Figures = dict[str, float | str]


def end_to_end(bundle: Bundle, seconds: float, backend: str, precision: str, threads: int | None) -> Figures:
    """Run both processes, and say how long predictions took to come back.

    Args:
        bundle: What the node runs.
        seconds: For which images are published, at the bundle's rate.
        backend: The node's parameter; likewise the others.
        precision: See there.
        threads: None: the node's choice.

    Returns:
        ``latency_ms_p50``, ``_p95``, ``_p99``, ``_n``; counts ``latency.images``, ``.images_lost`` (on the way to the node),
        ``.images_replaced`` (by a newer one while the model was busy), ``.predictions``, ``.predictions_lost`` (on the way back);
        ``latency.predictions_per_s``; ``meta.latency``: what was run. Where it cannot be run, ``meta.not_run.latency`` says why.
    """
    reason = why_not()
    if reason:
        return {"meta.not_run.latency": reason}
    height, width = CAMERA
    parameters = {
        "model.backend": backend,
        "model.precision": precision,
        "model.threads": str(threads or 0),
        "diagnostic_updater.period": str(DIAGNOSTICS_S),
    }
    try:
        seen = run_node(bundle, Stream("rgb8", width, height, bundle.manifest.fps), seconds, parameters)
    except HostError as error:
        return {"meta.not_run.latency": str(error)}
    if not seen.latencies_ms:
        return {"meta.not_run.latency": f"{seen.published} images were published, and no prediction came back in time"}
    return figures_of(seen) | {"meta.latency": f"{client_library()}, {bundle.manifest.fps:g} images per second, {seen.frames} frames each"}


def figures_of(seen: Seen) -> Figures:
    """See :func:`end_to_end`; of at least one latency."""
    middle, high, highest = np.percentile(seen.latencies_ms, (50, 95, 99))
    return {
        "latency_ms_p50": float(middle),
        "latency_ms_p95": float(high),
        "latency_ms_p99": float(highest),
        "latency_ms_n": float(len(seen.latencies_ms)),
        "latency.images": float(seen.published),
        "latency.images_lost": float(seen.published - seen.counted("camera.images")),
        "latency.images_replaced": float(seen.counted("inference.requests_dropped")),
        "latency.predictions": float(seen.received),
        "latency.predictions_lost": float(seen.counted("inference.predictions") - seen.received),
        "latency.predictions_per_s": seen.received / seen.seconds,
    }
