# SPDX-License-Identifier: Apache-2.0
"""Whether the node keeps up with a camera: where its images went, and what CPU time the node took beside the model.

The node runs with one thread per graph. Then a graph runs on the thread that calls it and on no other, and the CPU time of that thread
from before each call until after it is all that inference takes. The process's CPU time, of all threads, DDS's and those that compress
predictions included, less that, is what the node takes outside inference. Both are read in the node, at the same moment, and reported in
its diagnostics. (``/proc/PID/task/*/stat`` agrees, but cannot tell what the worker's thread did in a graph from what it did to publish.)

Of the images, each is counted by the node in one of the places where an image can end, or DDS counts it as lost; what then is missing is
unexplained.
"""

from __future__ import annotations

from longscape_ros.bench.camera import Seen
from longscape_ros.bench.node import run_node, why_not
from longscape_ros.bench.stream import Stream
from longscape_ros.bundle import Bundle
from longscape_ros.demo.packages import client_library
from longscape_ros.errors import HostError

Figures = dict[str, float | str]

UNUSED = (
    "camera.images_invalid",
    "camera.frames_duplicate",
    "camera.frames_out_of_order",
    "camera.frames_ahead",
    "camera.images_not_ready",
    "camera.images_skipped",
)
"""Counters of images that nothing was asked from."""

ENDS = ("camera.images_lost", *UNUSED, "inference.requests_dropped", "inference.predictions", "inference.inference_errors")
"""Counters of all that can become of an image while the node is active, each image in one of them."""


def load(bundle: Bundle, stream: Stream, seconds: float, backend: str, precision: str) -> Figures:
    """Run the node with a camera, and say what became of its images and what CPU time that took.

    Args:
        bundle: What the node runs.
        stream: The camera.
        seconds: For which it sends images.
        backend: The node's parameter.
        precision: See there.

    Returns:
        See :func:`figures_of`, and ``meta.camera.<name>``: what was run. Where it cannot be run, ``meta.not_run.camera.<name>`` says why.
    """
    not_run = f"meta.not_run.camera.{stream.name}"
    if reason := why_not():
        return {not_run: reason}
    parameters = {"model.backend": backend, "model.precision": precision, "model.threads": "1"}
    try:
        seen = run_node(bundle, stream, seconds, parameters)
    except HostError as error:
        return {not_run: str(error)}
    text = f"{stream.title}, {seen.image_bytes} bytes each, for {seen.seconds:.0f} s, {client_library()}"
    return figures_of(seen, f"camera.{stream.name}") | {f"meta.camera.{stream.name}": text}


def figures_of(seen: Seen, at: str) -> Figures:
    """What a camera saw, as figures.

    Returns:
        Under names that begin with ``at``:

        - ``.cpu_outside``, ``.cpu_graphs``: CPU time outside the graphs and in them, over the time for which images went out: 1 is one
          core. What the node did until its last diagnostics, up to some seconds after the last image, counts too.
        - ``.images``, ``.images_per_s``: published.
        - ``.images_lost``: of these, lost on the way to the node, as DDS counts it; ``.images_unused``: received, and nothing was asked
          from them; ``.images_replaced``: by a newer one, because the model was busy; ``.images_predicted``: predicted from.
        - ``.images_unexplained``: none of these.
    """
    graphs_s, process_s = (seen.counted(f"inference.{name}_cpu_ms") / 1e3 for name in ("graphs", "process"))
    return {
        f"{at}.cpu_outside": (process_s - graphs_s) / seen.seconds,
        f"{at}.cpu_graphs": graphs_s / seen.seconds,
        f"{at}.images": float(seen.published),
        f"{at}.images_per_s": seen.published / seen.seconds,
        f"{at}.images_lost": float(seen.counted("camera.images_lost")),
        f"{at}.images_unused": float(sum(seen.counted(name) for name in UNUSED)),
        f"{at}.images_replaced": float(seen.counted("inference.requests_dropped")),
        f"{at}.images_predicted": float(seen.counted("inference.predictions")),
        f"{at}.images_unexplained": float(seen.published - sum(seen.counted(name) for name in ENDS)),
    }
