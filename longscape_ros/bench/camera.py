# SPDX-License-Identifier: Apache-2.0
"""A camera, a commander and a subscriber in one node, to measure the predictor in another process.

``python -m longscape_ros.bench.camera``, with the parameters of :class:`Camera`.

When the predictor says that it is active and has joined the topics, images go out at the camera's rate, and a trajectory now and then.
When enough time has passed the camera stops, what is under way is waited for, and a line of JSON on the standard output says what
happened (:class:`Seen`). It is the one part of the benchmark that is a ROS node.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Any, NoReturn

from longscape_ros.bench import inputs
from longscape_ros.bench.stream import Stream
from longscape_ros.bundle import load_bundle
from longscape_ros.demo.recording import flat_diagnostics
from longscape_ros.host import declare, message_class, run_part
from longscape_ros.messages import JOINT_TRAJECTORY, PREDICTED_VIDEO, duration_message, nanoseconds, time_message

NODE, IMAGE_TOPIC, COMMAND_TOPIC = "bench_camera", "/bench/image", "/bench/joint_trajectory"
PREDICTION_TOPIC, DIAGNOSTICS_TOPIC = "/predictor/prediction", "/diagnostics"

PLAN_STEPS, PLAN_EVERY = 96, 32
"""Steps of a trajectory, and images between two."""

SETTLE_S = 1.0
"""How long is waited after the last image for what is under way; the next diagnostics after that are the last."""

WARM_UP = 10
"""First images whose predictions are not timed."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of the images.

    Args:
        latencies_ms: From the moment an image is published to the arrival of its prediction, of those that are timed.
        published: Images.
        image_bytes: Of one.
        received: Predictions.
        frames: Of the last prediction.
        seconds: For which images went out.
        before: The predictor's diagnostics before the first image, ``part.figure`` -> value.
        after: After the last one.
    """

    latencies_ms: list[float] = field(default_factory=list)
    published: int = 0
    image_bytes: int = 0
    received: int = 0
    frames: int = 0
    seconds: float = 0.0
    before: dict[str, str] = field(default_factory=dict)
    after: dict[str, str] = field(default_factory=dict)

    def counted(self, name: str) -> int:
        """What the predictor counted from before the first image until after the last."""
        return int(self.after.get(name, 0)) - int(self.before.get(name, 0))


class Camera:
    """Works as a node.

    Args:
        node: An rclpy node; its parameters ``bundle``, ``camera`` and ``seconds`` are declared here.
        output: Where the result goes.
    """

    def __init__(self, node: Any, output: IO[str] = sys.stdout) -> None:
        from rclpy.qos import QoSProfile, qos_profile_sensor_data

        bundle = load_bundle(str(declare(node, "bundle", "", "Folder of the bundle that the predictor runs.")), verify=False)
        camera = Stream.of(str(declare(node, "camera", "", "What it sends, see longscape_ros.bench.stream.")))
        self._seconds = float(declare(node, "seconds", 5.0, "For how long images go out."))
        self._node = node
        self._output = output
        self._manifest = bundle.manifest
        self._message = camera.message(inputs.camera_image(bundle), message_class)
        self._images = node.create_publisher(message_class(camera.type_name), IMAGE_TOPIC, qos_profile_sensor_data)
        self._commands = node.create_publisher(message_class(JOINT_TRAJECTORY), COMMAND_TOPIC, QoSProfile(depth=10))
        node.create_subscription(message_class(PREDICTED_VIDEO), PREDICTION_TOPIC, self._on_prediction, QoSProfile(depth=10))
        diagnostics = message_class("diagnostic_msgs/msg/DiagnosticArray")
        node.create_subscription(diagnostics, DIAGNOSTICS_TOPIC, self._on_diagnostics, QoSProfile(depth=10))
        node.create_timer(1 / camera.rate, self._tick)
        self._sent_s: dict[int, float] = {}
        self._timed: list[float] = []
        self._seen = Seen(image_bytes=len(self._message.data))
        self._diagnostics: dict[str, str] = {}
        self._begin_s: float | None = None
        self._end_s: float | None = None
        self._told = False

    def close(self) -> None:
        """Nothing is left to do."""

    def _tick(self) -> None:
        now_s = time.perf_counter()
        if self._end_s is not None:
            return
        if self._begin_s is None:
            if self._is_joined():
                self._begin_s = now_s
                self._change(before=self._diagnostics)
        elif now_s > self._begin_s + self._seconds:
            self._end_s = now_s
            self._change(seconds=now_s - self._begin_s)
        else:
            self._publish()

    def _is_joined(self) -> bool:
        """Whether everything that is published reaches somebody."""
        active = self._diagnostics.get("model.state") == "active"
        return active and bool(self._images.get_subscription_count()) and bool(self._commands.get_subscription_count())

    def _publish(self) -> None:
        stamp_ns = int(self._node.get_clock().now().nanoseconds)
        if self._seen.published % PLAN_EVERY == 0:
            self._commands.publish(self._trajectory(stamp_ns))
        self._message.header.stamp = time_message(stamp_ns, message_class)
        self._change(published=self._seen.published + 1)
        if self._seen.published > WARM_UP:
            self._sent_s[stamp_ns] = time.perf_counter()
        self._images.publish(self._message)

    def _trajectory(self, start_ns: int) -> Any:
        plan = inputs.plan(self._manifest, start_ns, PLAN_STEPS)
        point = message_class("trajectory_msgs/msg/JointTrajectoryPoint")
        points = [
            point(positions=row.tolist(), time_from_start=duration_message(int(time_ns), message_class))
            for row, time_ns in zip(plan.values, plan.times_ns, strict=True)
        ]
        header = message_class("std_msgs/msg/Header")(stamp=time_message(start_ns, message_class), frame_id="")
        return message_class(JOINT_TRAJECTORY)(header=header, joint_names=list(plan.names), points=points)

    def _on_prediction(self, message: Any) -> None:
        arrived_s = time.perf_counter()
        sent_s = self._sent_s.pop(nanoseconds(message.header.stamp), None)
        if sent_s is not None:
            self._timed.append(1e3 * (arrived_s - sent_s))
        self._change(received=self._seen.received + 1, frames=len(message.frames))

    def _on_diagnostics(self, message: Any) -> None:
        self._diagnostics = flat_diagnostics(message)
        if self._end_s is not None and not self._told and time.perf_counter() > self._end_s + SETTLE_S:
            self._tell()

    def _tell(self) -> None:
        self._change(latencies_ms=self._timed, after=self._diagnostics)
        self._told = True
        self._output.write(json.dumps(dataclasses.asdict(self._seen)) + "\n")
        self._output.flush()

    def _change(self, **changes: Any) -> None:
        self._seen = dataclasses.replace(self._seen, **changes)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Runs the node until SIGINT, SIGTERM or a fault, and ends the process."""
    run_part(NODE, Camera, args)


if __name__ == "__main__":
    main()
