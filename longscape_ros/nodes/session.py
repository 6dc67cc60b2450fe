# SPDX-License-Identifier: Apache-2.0
"""What a predictor node has from configuring to cleaning up: model, pipeline, subscriptions and publishers."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data

from longscape_ros.contract import NANOSECONDS, ActionSource, Prediction
from longscape_ros.errors import InputError
from longscape_ros.host import Throttle, loss_events, message_class
from longscape_ros.messages import frame_from_message, plan_from_message
from longscape_ros.nodes.diagnostics import WAITING_FOR_CLOCK, ClockReading, Report
from longscape_ros.nodes.model import Model
from longscape_ros.nodes.outputs import CAMERA_INFO, STRING, Outputs
from longscape_ros.nodes.parameters import PredictorParameters
from longscape_ros.nodes.pipeline import Limits, Pipeline, Trouble
from longscape_ros.runtime.statistics import Rolling

CLOCK_TOPIC = "/clock"
_MODEL_FIGURES = ("model_id", "bundle", "horizon", "fps")
MOST_EARLY = 1000
"""Commands that wait for the clock to run; the oldest make room."""

T = TypeVar("T")


class Session:
    """Takes a node's messages to the pipeline, and what comes out of it to the node's topics.

    Args:
        node: The lifecycle node.
        model: Freed when the session is closed.
        model_info: Publisher of ``~/model_info``.
    """

    def __init__(self, node: Any, model: Model, model_info: Any) -> None:
        self._node = node
        self._model = model
        self._parameters = model.parameters
        self._image_size = model.bundle.manifest.image_size
        self._throttle = Throttle()
        self._counters = {"images_lost": 0, "images_invalid": 0, "commands_invalid": 0, "messages_before_clock": 0}
        self._early: deque[tuple[ActionSource, Any]] = deque(maxlen=MOST_EARLY)  # commands from before the clock runs
        self._remaining_horizon_ms = Rolling()
        self._outputs = Outputs(node, model.parameters)
        callbacks = (self._on_prediction, self._on_inference_error, self._outputs.publish_surprise)
        self._pipeline = Pipeline(model.predictor, model.pipeline_config, *callbacks)
        self.apply(model.parameters)
        self._pipeline.start()
        self._subscriptions = self._subscribe()
        self._model_info = model_info
        self._told: dict[str, Any] = {}
        info = self._tell()
        node.get_logger().info(f"Configured: {info['model_id']} on {info['backend']}, {info['horizon']} frames at {info['fps']:g} Hz.")

    @property
    def model_id(self) -> str:
        """Name and hash of the bundle."""
        return self._model.bundle.model_id

    def predict(self, active: bool) -> None:
        """Whether to predict, or only to listen."""
        self._pipeline.active = active

    def apply(self, parameters: PredictorParameters) -> None:
        """Takes over the live parameters."""
        self._parameters = self._outputs.parameters = parameters
        self._pipeline.limits = Limits(
            prediction_rate=parameters.prediction_rate,
            command_timeout_ns=round(parameters.incoming_command_timeout * NANOSECONDS),
            image_timeout_ns=round(parameters.image_timeout * NANOSECONDS),
            surprise_threshold=parameters.surprise_threshold,
        )

    def reset(self) -> None:
        """Forgets all that was received: the clock was set back or to another source."""
        text = "Got an earlier time on the node's clock, or another source of time; all images and commands are forgotten."
        if self._clock().publishers > 1:
            text += " Several nodes publish on /clock, expected one: end the others."
        self._warn(Trouble("clock_jumps", text))
        self._early.clear()
        self._pipeline.reset()

    def report(self, state: str) -> Report:
        """What there is to diagnose."""
        newest_ns = self._pipeline.newest_image_ns
        newest = self._pipeline.newest_comparison
        info, condition = self._tell(), self._model.condition
        return Report(
            state=state,
            counters=self._pipeline.counters | self._counters | self._cpu_ms(),
            timings_ms={
                "latency": self._pipeline.latency_ms,
                "inference": self._pipeline.inference_ms,
                "queue": self._pipeline.queue_ms,
                "remaining_horizon": self._remaining_horizon_ms,
            },
            image_age_s=None if newest_ns is None else (self._now_ns() - newest_ns) / NANOSECONDS,
            image_age_ms=self._pipeline.image_age_ms,
            clock=self._clock(),
            trouble=condition.engines or condition.cause,
            surprise=None if newest is None else newest.error,
            surprise_threshold=self._parameters.surprise_threshold,
            model={key: str(info[key]) for key in _MODEL_FIGURES} | condition.figures(),
        )

    def close(self) -> None:
        """Leaves the topics, ends the worker after the chunk in work, and frees the model."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._pipeline.stop()
        self._outputs.destroy()
        self._model.close()

    # ---- in, on the executor's thread ----

    def _subscribe(self) -> list[Any]:
        parameters = self._parameters
        reliable = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
        image_qos = reliable if parameters.input_qos == "reliable" else qos_profile_sensor_data
        reliability = ReliabilityPolicy.RELIABLE if parameters.command_qos == "reliable" else ReliabilityPolicy.BEST_EFFORT
        command_qos = QoSProfile(depth=10, reliability=reliability)
        return [
            self._join(parameters.image_type, "~/input/image", self._on_image, image_qos, self._on_images_lost),
            self._join(CAMERA_INFO, "~/input/camera_info", self._on_camera_info, qos_profile_sensor_data),
            *(self._join(s.type, s.topic, partial(self._on_command, s), command_qos) for s in self._model.mapping.action_sources),
        ]

    def _join(
        self, type_name: str, topic: str, callback: Callable[[Any], None], qos: QoSProfile, on_lost: Callable[[Any], None] | None = None
    ) -> Any:
        return self._node.create_subscription(message_class(type_name), topic, callback, qos, event_callbacks=loss_events(on_lost))

    def _on_image(self, message: Any) -> None:
        if not self._clock_runs():
            return
        received_ns = self._pipeline.receive(self._now_ns())
        kind, stamp = self._parameters.image_type, self._model.mapping.image_stamp
        frame = self._read("images_invalid", lambda: frame_from_message(message, kind, received_ns, stamp, self._image_size))
        if frame is None:
            return
        outcome = self._pipeline.add_frame(frame, received_ns)
        self._warn(outcome.trouble)
        for ended in outcome.ended:
            self._outputs.publish_chunk(ended)

    def _on_images_lost(self, event: Any) -> None:
        self._counters["images_lost"] += int(event.total_count_change)

    def _on_command(self, source: ActionSource, message: Any) -> None:
        if self._clock_runs():
            self._take_command(source, message)
        else:
            self._early.append((source, message))

    def _clock_runs(self) -> bool:
        """Whether there is a time to date a message by; commands that came before are taken as received when there is one."""
        if self._now_ns() == 0:
            self._counters["messages_before_clock"] += 1
            self._warn(Trouble("messages_before_clock", f"Got a message and no time yet: {WAITING_FOR_CLOCK}"))
            return False
        while self._early:
            self._take_command(*self._early.popleft())
        return True

    def _take_command(self, source: ActionSource, message: Any) -> None:
        received_ns = self._pipeline.receive(self._now_ns())
        plan = self._read("commands_invalid", lambda: plan_from_message(message, source, received_ns))
        if plan is not None:
            self._warn(self._pipeline.add_plan(plan))

    def _on_camera_info(self, message: Any) -> None:
        self._outputs.camera_info = message

    def _read(self, counter: str, convert: Callable[[], T]) -> T | None:
        """A message as what it means; None: it was counted as invalid. Whatever it holds, it does not end the node."""
        try:
            return convert()
        except InputError as error:
            text = str(error)
        except Exception as error:  # what a stranger publishes may be anything
            text = f"Got a message that cannot be read ({error!r}); it is ignored."
        self._counters[counter] += 1
        self._warn(Trouble(counter, f"{text} ({self._counters[counter]} so far.)"))
        return None

    # ---- out, on the worker's thread ----

    def _on_prediction(self, prediction: Prediction) -> None:
        if not self._node.context.ok():
            return
        self._outputs.publish_prediction(prediction)
        self._remaining_horizon_ms.add((int(prediction.stamps_ns()[-1]) - self._now_ns()) / 1e6)

    def _on_inference_error(self, error: Exception) -> None:
        if self._node.context.ok():
            self._warn(Trouble("inference_errors", f"A prediction failed: {error!r}"))

    # ---- both ----

    def _tell(self) -> dict[str, Any]:
        """Publishes what there is to know of the model, if it is new; and gives it."""
        info = self._model.info()
        if info != self._told:
            self._model_info.publish(message_class(STRING)(data=json.dumps(info)))
            self._told = info
        return info

    def _cpu_ms(self) -> dict[str, int]:
        return {"process_cpu_ms": round(1e3 * time.process_time()), "graphs_cpu_ms": round(self._pipeline.graphs_cpu_ms)}

    def _clock(self) -> ClockReading:
        clock = self._node.get_clock()
        simulated = bool(clock.ros_time_is_active)
        publishers = self._node.count_publishers(CLOCK_TOPIC) if simulated else 0
        return ClockReading(int(clock.now().nanoseconds), simulated, publishers)

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)

    def _warn(self, trouble: Trouble | None) -> None:
        if trouble is not None and self._throttle.passes(trouble.kind, time.monotonic()):
            self._node.get_logger().warning(trouble.text)
