# SPDX-License-Identifier: Apache-2.0
"""From the camera to a subscriber: the predictor node is a process, camera and subscriber are another (:mod:`.camera`).

Transport, conversion and waiting for the model are part of it. Both processes are in a ROS domain of their own on this machine, and end
with this one.
"""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
import threading
import time
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO

import numpy as np

from longscape_ros.bags.mapping import save_mapping
from longscape_ros.bench.camera import COMMAND_TOPIC, IMAGE_TOPIC, SETTLE_S, Seen
from longscape_ros.bundle import Bundle
from longscape_ros.contract import ActionSource, TopicMapping
from longscape_ros.demo.graph import graph_environment
from longscape_ros.demo.packages import client_library
from longscape_ros.demo.processes import Command, Processes
from longscape_ros.errors import HostError
from longscape_ros.messages import JOINT_TRAJECTORY

READY_TIMEOUT_S = 120.0
"""How long the model may take to load and the topics to be joined."""

DIAGNOSTICS_S = 0.2
CAMERA, PREDICTOR = "camera", "predictor"
_TICK_S = 0.2

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
    try:
        seen = _run(bundle, seconds, backend, precision, threads)
    except HostError as error:
        return {"meta.not_run.latency": str(error)}
    if not seen.latencies_ms:
        return {"meta.not_run.latency": f"{seen.published} images were published, and no prediction came back in time"}
    return figures_of(seen) | {"meta.latency": f"{client_library()}, {bundle.manifest.fps:g} images per second, {seen.frames} frames each"}


def why_not() -> str:
    """Why the node cannot be run here; empty: it can."""
    if any(importlib.util.find_spec(name) is not None for name in ("rclpy", "cyclonedds")):
        return ""
    return "there is neither rclpy nor cyclonedds; source a ROS 2, or pip install 'longscape_ros[embedded]'"


def figures_of(seen: Seen) -> Figures:
    """See :func:`end_to_end`; of at least one latency."""
    middle, high, highest = np.percentile(seen.latencies_ms, (50, 95, 99))
    return {
        "latency_ms_p50": float(middle),
        "latency_ms_p95": float(high),
        "latency_ms_p99": float(highest),
        "latency_ms_n": float(len(seen.latencies_ms)),
        "latency.images": float(seen.published),
        "latency.images_lost": float(seen.published - seen.arrived),
        "latency.images_replaced": float(seen.replaced),
        "latency.predictions": float(seen.received),
        "latency.predictions_lost": float(seen.predicted - seen.received),
        "latency.predictions_per_s": seen.received / seen.seconds,
    }


def _run(bundle: Bundle, seconds: float, backend: str, precision: str, threads: int | None) -> Seen:
    """What the camera saw.

    Raises:
        HostError: a process ended early, or nothing came.
    """
    with tempfile.TemporaryDirectory(prefix="longscape_bench_") as folder:
        mapping = Path(folder) / "mapping.yaml"
        save_mapping(mapping, _mapping(bundle))
        with Processes(Path(folder), graph_environment(os.environ)) as processes:
            predictor = {
                "model.bundle": str(bundle.path.resolve()),
                "model.backend": backend,
                "model.precision": precision,
                "model.threads": str(threads or 0),
                "mapping": str(mapping),
                "diagnostic_updater.period": str(DIAGNOSTICS_S),
            }
            processes.start(Command(PREDICTOR, "longscape_ros.nodes.predictor", _arguments(predictor, {"~/input/image": IMAGE_TOPIC})))
            camera = {"bundle": str(bundle.path.resolve()), "seconds": f"{seconds:.3f}"}
            child = processes.start(Command(CAMERA, "longscape_ros.bench.camera", _arguments(camera, {}), speaks=True))
            lines: SimpleQueue[bytes] = SimpleQueue()
            threading.Thread(target=_listen, args=(child.output, lines), name="longscape-bench", daemon=True).start()
            until_s = time.monotonic() + READY_TIMEOUT_S + seconds + SETTLE_S
            while time.monotonic() < until_s:
                processes.check()
                try:
                    return Seen(**json.loads(lines.get(timeout=_TICK_S)))
                except Empty:
                    continue
            said = "; ".join(f"{name}: {own.last_words()}" for name, own in processes.children.items())
            raise HostError(f"Got nothing from the node for {READY_TIMEOUT_S:.0f} s, expected predictions. The processes said last: {said}")


def _mapping(bundle: Bundle) -> TopicMapping:
    """All dimensions, whatever their kind, as a trajectory's positions."""
    space = bundle.manifest.action_space
    source = ActionSource(COMMAND_TOPIC, JOINT_TRAJECTORY, {name: name for name in space.names})
    return TopicMapping(IMAGE_TOPIC, (source,), space.dimensions, bundle.manifest.fps)


def _arguments(parameters: dict[str, str], remappings: dict[str, str]) -> tuple[str, ...]:
    given = (word for name, value in parameters.items() for word in ("-p", f"{name}:={value}"))
    renamed = (word for old, new in remappings.items() for word in ("-r", f"{old}:={new}"))
    return "--ros-args", *given, *renamed


def _listen(output: IO[bytes], lines: SimpleQueue[bytes]) -> None:
    for line in output:
        lines.put(line)
