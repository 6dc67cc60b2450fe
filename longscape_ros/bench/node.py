# SPDX-License-Identifier: Apache-2.0
"""The predictor node as a process, and a camera with a subscriber as another (:mod:`.camera`).

Both are in a ROS domain of their own on this machine, and end with this process.
"""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO

from longscape_ros.bags.mapping import save_mapping
from longscape_ros.bench.camera import COMMAND_TOPIC, IMAGE_TOPIC, SETTLE_S, Seen
from longscape_ros.bench.stream import Stream
from longscape_ros.bundle import Bundle
from longscape_ros.contract import ActionSource, TopicMapping
from longscape_ros.demo.graph import graph_environment
from longscape_ros.demo.processes import Command, Processes
from longscape_ros.errors import HostError
from longscape_ros.messages import JOINT_TRAJECTORY

READY_TIMEOUT_S = 120.0
"""How long the model may take to load and the topics to be joined."""

CAMERA, PREDICTOR = "camera", "predictor"
_TICK_S = 0.2


def why_not() -> str:
    """Why the node cannot be run here; empty: it can."""
    if any(importlib.util.find_spec(name) is not None for name in ("rclpy", "cyclonedds")):
        return ""
    return "there is neither rclpy nor cyclonedds; source a ROS 2, or pip install 'longscape_ros[embedded]'"


def run_node(bundle: Bundle, stream: Stream, seconds: float, parameters: Mapping[str, str]) -> Seen:
    """What the camera saw.

    Args:
        bundle: What the node runs.
        stream: What the camera sends.
        seconds: For which it does.
        parameters: The node's, beside the bundle, its mapping and the images' type.

    Raises:
        HostError: A process ended early, or nothing came.
    """
    with tempfile.TemporaryDirectory(prefix="longscape_bench_") as folder:
        mapping = Path(folder) / "mapping.yaml"
        save_mapping(mapping, _mapping(bundle))
        with Processes(Path(folder), graph_environment(os.environ)) as processes:
            path = str(bundle.path.resolve())
            predictor = {"model.bundle": path, "mapping": str(mapping), "image_type": stream.type_name, **parameters}
            processes.start(Command(PREDICTOR, "longscape_ros.nodes.predictor", _arguments(predictor, {"~/input/image": IMAGE_TOPIC})))
            camera = _arguments({"bundle": path, "camera": str(stream), "seconds": f"{seconds:.3f}"}, {})
            child = processes.start(Command(CAMERA, "longscape_ros.bench.camera", camera, speaks=True))
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


def _arguments(parameters: Mapping[str, str], remappings: Mapping[str, str]) -> tuple[str, ...]:
    given = (word for name, value in parameters.items() for word in ("-p", f"{name}:={value}"))
    renamed = (word for old, new in remappings.items() for word in ("-r", f"{old}:={new}"))
    return "--ros-args", *given, *renamed


def _listen(output: IO[bytes], lines: SimpleQueue[bytes]) -> None:
    for line in output:
        lines.put(line)
