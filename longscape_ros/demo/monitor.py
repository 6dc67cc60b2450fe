# SPDX-License-Identifier: Apache-2.0
"""What is going on, for the terminal: a node that listens and writes a line of JSON four times per second to standard output.

``python -m longscape_ros.demo.monitor``; parameter ``pictures``: whether camera and prediction are shown too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections import deque
from collections.abc import Sequence
from typing import IO, Any, NoReturn

import numpy as np

from longscape_ros.contract import NANOSECONDS, EndReason
from longscape_ros.demo.recording import CHUNK_TOPIC, DIAGNOSTICS_TOPIC, PREDICTION_TOPIC, Executed, flat_diagnostics
from longscape_ros.demo.sight import ChunkSight, Sight, encode_picture
from longscape_ros.errors import InputError
from longscape_ros.host import declare, message_class, run_part
from longscape_ros.messages import PREDICTED_VIDEO, frame_from_compressed, frame_from_image, nanoseconds
from longscape_ros.simulation import topics

PERIOD_S = 0.25

_RECENT = 100
"""Events that rates and percentiles are taken over."""

_EXECUTED = 4
"""Executed chunks that are remembered."""


class Monitor:
    """Listens as a node.

    Args:
        node: An rclpy node; its parameter ``pictures`` is declared here.
        output: Where the lines go.
    """

    def __init__(self, node: Any, output: IO[str] = sys.stdout) -> None:
        from rclpy.qos import QoSProfile, qos_profile_sensor_data

        self._node = node
        self._output = output
        self._pictures = bool(declare(node, "pictures", True, "Whether camera and prediction are shown too."))
        self._sight = Sight()
        self._image: Any = None
        self._last_stamp_ns = 0
        self._anchor_ns: int | None = None
        self._frame_times: deque[int] = deque(maxlen=_RECENT)
        self._prediction_times: deque[int] = deque(maxlen=_RECENT)
        self._latencies_ms: deque[float] = deque(maxlen=_RECENT)
        self._remaining_ms: deque[float] = deque(maxlen=_RECENT)
        subscriptions = (
            (topics.IMAGE, topics.IMAGE_TOPIC, self._on_image, qos_profile_sensor_data),
            (topics.TRAJECTORY, topics.TRAJECTORY_TOPIC, self._on_plan, QoSProfile(depth=10)),
            (PREDICTED_VIDEO, PREDICTION_TOPIC, self._on_prediction, QoSProfile(depth=10)),
            (topics.STRING, CHUNK_TOPIC, self._on_chunk, QoSProfile(depth=10)),
            ("diagnostic_msgs/msg/DiagnosticArray", DIAGNOSTICS_TOPIC, self._on_diagnostics, QoSProfile(depth=10)),
        )
        for kind, topic, callback, qos in subscriptions:
            node.create_subscription(message_class(kind), topic, callback, qos)
        node.create_timer(PERIOD_S, self._tell)

    def close(self) -> None:
        """Nothing is left to do."""

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)

    def _on_image(self, message: Any) -> None:
        stamp_ns = nanoseconds(message.header.stamp)
        left_out = max(0, round((stamp_ns - self._last_stamp_ns) / topics.PERIOD_NS) - 1) if self._last_stamp_ns else 0
        self._last_stamp_ns = stamp_ns
        self._frame_times.append(self._now_ns())
        self._image = message
        self._change(frames=self._sight.frames + 1, missing_frames=self._sight.missing_frames + left_out)

    def _on_plan(self, _: Any) -> None:
        self._change(plans=self._sight.plans + 1)

    def _on_prediction(self, message: Any) -> None:
        now_ns = self._now_ns()
        if not message.frames:
            return
        self._anchor_ns = nanoseconds(message.header.stamp)
        end_ns = nanoseconds(message.frames[-1].header.stamp)
        self._prediction_times.append(now_ns)
        self._latencies_ms.append((now_ns - self._anchor_ns) / 1e6)
        self._remaining_ms.append((end_ns - now_ns) / 1e6)
        parts = zip(message.chunk_lengths, message.chunk_experts, message.chunk_end_reasons, strict=True)
        self._change(
            predictions=self._sight.predictions + 1,
            latency_ms_p50=float(np.percentile(self._latencies_ms, 50)),
            latency_ms_p95=float(np.percentile(self._latencies_ms, 95)),
            remaining_ms=self._remaining_ms[-1],
            remaining_ms_p5=float(np.percentile(self._remaining_ms, 5)),
            horizon_s=(end_ns - self._anchor_ns) / NANOSECONDS,
            chunks=tuple(ChunkSight(int(n), int(expert), EndReason(int(reason)).name.lower()) for n, expert, reason in parts),
        )
        if self._pictures:
            with contextlib.suppress(InputError):
                self._change(future=encode_picture(frame_from_compressed(message.frames[-1], now_ns).rgb))

    def _on_chunk(self, message: Any) -> None:
        with contextlib.suppress(InputError):
            ended = Executed.from_json(message.data)
            sight = ChunkSight(ended.length, None, ended.reason.name.lower())
            self._change(executed=(*self._sight.executed, sight)[-_EXECUTED:])

    def _on_diagnostics(self, message: Any) -> None:
        self._change(diagnostics=self._sight.diagnostics | flat_diagnostics(message))

    def _tell(self) -> None:
        if self._pictures and self._image is not None:
            with contextlib.suppress(InputError):
                self._change(camera=encode_picture(frame_from_image(self._image, 0).rgb))
        now_ns = self._now_ns()
        self._change(
            nodes=tuple(sorted(set(self._node.get_node_names()))),
            frame_rate=_rate(self._frame_times, now_ns),
            prediction_rate=_rate(self._prediction_times, now_ns),
            age_s=None if self._anchor_ns is None else (now_ns - self._anchor_ns) / NANOSECONDS,
        )
        with contextlib.suppress(BrokenPipeError):  # nobody listens any more
            self._output.write(self._sight.to_json() + "\n")
            self._output.flush()

    def _change(self, **changes: Any) -> None:
        self._sight = dataclasses.replace(self._sight, **changes)


def _rate(times_ns: Sequence[int], now_ns: int) -> float | None:
    """Events per second, from the oldest that is remembered until now."""
    return (len(times_ns) - 1) * NANOSECONDS / (now_ns - times_ns[0]) if len(times_ns) > 1 and now_ns > times_ns[0] else None


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Runs the node until SIGINT, SIGTERM or a fault, and ends the process."""
    run_part("demo_monitor", Monitor, args)


if __name__ == "__main__":
    main()
