# SPDX-License-Identifier: Apache-2.0
"""The parameter use_sim_time: whether a node's clock follows /clock."""

from __future__ import annotations

from typing import Any

from longscape_ros.embedded.callback_groups import MutuallyExclusiveCallbackGroup
from longscape_ros.embedded.clock import ROSClock
from longscape_ros.embedded.messages import message_class
from longscape_ros.embedded.parameters import Parameter
from longscape_ros.embedded.qos import QoSProfile, ReliabilityPolicy
from longscape_ros.embedded.time import ClockType, Time

USE_SIM_TIME_NAME = "use_sim_time"
CLOCK_TOPIC = "/clock"


class TimeSource:
    """Declares use_sim_time at a node, and subscribes to /clock while it is true."""

    def __init__(self, node: Any, clock: ROSClock) -> None:
        self._node, self._clock = node, clock
        self._subscription: Any = None
        self._group = MutuallyExclusiveCallbackGroup()
        if not node.has_parameter(USE_SIM_TIME_NAME):
            node.declare_parameter(USE_SIM_TIME_NAME, False)
        self._follow(node.get_parameter(USE_SIM_TIME_NAME).value)
        node.add_on_set_parameters_callback(self._on_set)

    def _on_set(self, parameters: list[Parameter]) -> Any:
        result = message_class("rcl_interfaces/msg/SetParametersResult")(successful=True)
        for parameter in parameters:
            if parameter.name != USE_SIM_TIME_NAME:
                continue
            if parameter.type_ is not Parameter.Type.BOOL:
                result.successful, result.reason = False, f"{USE_SIM_TIME_NAME} parameter set to something besides a bool"
                break
            self._follow(parameter.value)
        return result

    def _follow(self, enabled: bool) -> None:
        if enabled and self._subscription is None:
            profile = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
            kind = message_class("rosgraph_msgs/msg/Clock")
            self._subscription = self._node.create_subscription(kind, CLOCK_TOPIC, self._on_clock, profile, callback_group=self._group)
        elif not enabled and self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None
        self._clock._set_ros_time_is_active(enabled)

    def _on_clock(self, message: Any) -> None:
        self._clock.set_ros_time_override(Time.from_msg(message.clock, clock_type=ClockType.ROS_TIME))
