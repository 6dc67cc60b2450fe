# SPDX-License-Identifier: Apache-2.0
"""rclpy's LoggingService: the levels of a process's loggers read and set by others."""

from __future__ import annotations

from typing import Any

from longscape_ros.embedded.logging import get_logger_level, set_logger_level
from longscape_ros.embedded.messages import message_class, service_class


class LoggingService:
    """The two services of logger levels.

    Args:
        node: In whose name they are offered.
    """

    def __init__(self, node: Any) -> None:
        for name, kind, callback in (
            ("get_logger_levels", "GetLoggerLevels", self._get),
            ("set_logger_levels", "SetLoggerLevels", self._set),
        ):
            node.create_service(service_class(f"rcl_interfaces/srv/{kind}"), f"{node.get_name()}/{name}", callback)

    def _get(self, request: Any, response: Any) -> Any:
        level = message_class("rcl_interfaces/msg/LoggerLevel")
        response.levels = [level(name=name, level=int(get_logger_level(name))) for name in request.names]
        return response

    def _set(self, request: Any, response: Any) -> Any:
        response.results = [self._result(level) for level in request.levels]
        return response

    @staticmethod
    def _result(level: Any) -> Any:
        result = message_class("rcl_interfaces/msg/SetLoggerLevelsResult")(successful=True)
        try:
            set_logger_level(level.name, level.level)
        except ValueError as fault:
            result.successful, result.reason = False, f"Failed reason: Invalid logger level: {fault}."
        return result
