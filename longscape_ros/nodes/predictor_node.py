# SPDX-License-Identifier: Apache-2.0
"""The predictor as a lifecycle node: a thin shell around :class:`longscape_ros.nodes.pipeline.Pipeline`.

On a host without ROS call :func:`longscape_ros.embedded.ensure_rclpy` before importing this module, as
:func:`longscape_ros.nodes.predictor.main` does.
"""

from __future__ import annotations

import gc
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSProfile

from longscape_ros.errors import LongscapeError
from longscape_ros.host import NodeLog, message_class
from longscape_ros.nodes import parameters
from longscape_ros.nodes.diagnostics import Monitor, Report, diagnostic_array
from longscape_ros.nodes.model import Model, build_model, load_model
from longscape_ros.nodes.session import Session

DIAGNOSTICS = "diagnostic_msgs/msg/DiagnosticArray"
STRING = "std_msgs/msg/String"


class PredictorNode(LifecycleNode):  # type: ignore[misc]  # rclpy has no type hints
    """Predicts what the camera will see from what the robot is commanded to do.

    Configuring loads and warms up the model; while inactive the node listens; while active it predicts. Without a lifecycle manager
    (parameter ``autostart``) it loads in the background and then takes itself to active; a fault there comes out of spinning. With the
    parameter ``build_only`` it only makes sure in the background that the model can be loaded quickly, and then ends spinning.

    Args:
        name: Of the node.
        options: See rclpy's Node.

    Raises:
        InputError: A parameter was given a value that does not fit.
    """

    def __init__(self, name: str = "predictor", **options: Any) -> None:
        super().__init__(name, **options)
        self._package_log = NodeLog(self.get_logger())
        self._values = parameters.declare(self)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._session: Session | None = None
        self._loaded: Model | Exception | str | None = None
        self._state_label = "unconfigured"
        self._fault = ""
        self._monitor = Monitor()
        kept = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._model_info = self.create_publisher(message_class(STRING), "~/model_info", kept)
        self._diagnostics = self.create_publisher(message_class(DIAGNOSTICS), "/diagnostics", QoSProfile(depth=10))
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # a simulation that stands still is to be diagnosed too
        self.create_timer(self._values.diagnostics_period, self._diagnose, clock=steady)
        back = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=True)
        self._jump_handle = self.get_clock().create_jump_callback(back, post_callback=self._on_clock_jump)
        self._when_loaded = self.create_guard_condition(self._on_loaded)
        if self._values.autostart or self._values.build_only:
            threading.Thread(target=self._load, name="longscape-loading", daemon=True).start()

    # ---- transitions ----

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Loads the model, unless that is done, and joins the topics."""
        try:
            self._configure()
        except LongscapeError as error:
            self._fault = str(error)
            self.get_logger().error(self._fault)
            return TransitionCallbackReturn.FAILURE
        except Exception:
            if not self.context.ok():  # a signal has ended it, and nothing can be published any more
                return TransitionCallbackReturn.FAILURE
            self.get_logger().error(traceback.format_exc())  # rclpy takes the node to on_error without a word
            raise
        return self._enter("inactive", super().on_configure(state))

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Predicts from the next image on."""
        result = super().on_activate(state)
        self._require_session().predict(True)
        self.get_logger().info("Active: predicting.")
        return self._enter("active", result)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Goes on listening, and predicts nothing."""
        self._require_session().predict(False)
        return self._enter("inactive", super().on_deactivate(state))

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Leaves the topics and frees the model."""
        self._release()
        return self._enter("unconfigured", super().on_cleanup(state))

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """The same for good."""
        self._release()
        return self._enter("finalized", super().on_shutdown(state))

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Releases everything; the node can be configured again."""
        self._fault = f"a transition from {state.label} failed, see the log"
        self.get_logger().error(f"A transition from {state.label} failed; the node is unconfigured.")
        self._release()
        return self._enter("unconfigured", TransitionCallbackReturn.SUCCESS)

    def close(self) -> None:
        """Leaves the topics and frees the model, whatever the state; the node is to be destroyed after that."""
        self._release()
        self._jump_handle.unregister()
        self._package_log.close()

    def _enter(self, state: str, result: TransitionCallbackReturn) -> TransitionCallbackReturn:
        self._state_label = state
        return result

    def _configure(self) -> None:
        self._values = parameters.read(self)
        loaded, self._loaded = self._loaded, None
        if isinstance(loaded, Model) and not parameters.same_model(loaded.parameters, self._values):
            loaded.close()
            loaded = None
        model = replace(loaded, parameters=self._values) if isinstance(loaded, Model) else load_model(self._values)
        self._session = Session(self, model, self._model_info)
        gc.collect()
        gc.freeze()  # a model's objects stay, and to look through them again and again takes the time of an image
        self._monitor = Monitor(_silence_s(self._values))
        self._fault = ""

    def _require_session(self) -> Session:
        assert self._session is not None, "a node that is configured has one"
        return self._session

    def _release(self) -> None:
        gc.unfreeze()
        session, self._session = self._session, None
        loaded, self._loaded = self._loaded, None
        for part in (session, loaded):
            if isinstance(part, Session | Model):
                part.close()

    # ---- start by itself ----

    def _load(self) -> None:
        """In the background: loads or builds, then wakes the executor."""
        try:
            self._loaded = build_model(self._values) if self._values.build_only else load_model(self._values)
        except Exception as error:
            self._loaded = error
        if self.context.ok():
            self._when_loaded.trigger()
        else:  # it came too late to be used
            self._release()

    def _on_loaded(self) -> None:
        if isinstance(self._loaded, Exception):
            raise self._loaded
        if isinstance(self._loaded, str):
            self.get_logger().info(self._loaded)
            self.context.try_shutdown()
        elif self._state_label == "unconfigured" and self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    # ---- diagnostics, clock, parameters ----

    def _diagnose(self) -> None:
        session, name = self._session, self.get_fully_qualified_name() if self._values.diagnostics_use_fqn else self.get_name()
        report = Report(self._state_label, fault=self._fault) if session is None else session.report(self._state_label)
        health = self._monitor.judge(report, time.monotonic())
        hardware_id = name if session is None else session.model_id
        stamp_ns = self.get_clock().now().nanoseconds
        self._diagnostics.publish(diagnostic_array(health, name, hardware_id, stamp_ns, message_class))

    def _on_clock_jump(self, _: Any) -> None:
        if self._session is not None:
            self._session.reset()

    def _on_set_parameters(self, changed: Sequence[Any]) -> Any:
        result: Any = message_class("rcl_interfaces/msg/SetParametersResult")()
        result.reason = parameters.refusal(changed, None if self._session is None else self._values)
        result.successful = not result.reason
        if result.successful:
            self._values = parameters.changed(self._values, changed)
            self._monitor.image_timeout_s = _silence_s(self._values)
            if self._session is not None:
                self._session.apply(self._values)
        return result


def _silence_s(values: parameters.PredictorParameters) -> float:
    """For so long the camera may be silent."""
    return values.image_timeout or 1.0
