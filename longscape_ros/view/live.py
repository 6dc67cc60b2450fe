# SPDX-License-Identifier: Apache-2.0
"""The graph, shown while it works: a node that joins what the predictor says and hears."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from longscape_ros.embedded import ensure_rclpy
from longscape_ros.errors import InputError
from longscape_ros.host import loss_events, matching_qos, message_class
from longscape_ros.interrupts import deferred_interrupts
from longscape_ros.view.drawing import Drawing
from longscape_ros.view.feed import Feed
from longscape_ros.view.scene import Scene, SceneConfig
from longscape_ros.view.topics import Channel, Part, Wanted, choose, doubts

NAME = "longscape_view"
"""Of the node."""

SPIN_S = 0.1

LOOK_PERIOD_S = 0.2
"""Seconds between two looks for topics."""

DEPTH = 10
"""Messages that wait where this process is too slow; older ones are left out, for a live view that lags is none."""

COMMANDS_AFTER_S = 3.0
"""For so long commands wait for the predictor to say which they are; then those that are found are taken."""

QUIET_S = 5.0
"""After so long without a prediction it is said once what there is."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LiveConfig:
    """How the graph is shown.

    Args:
        seconds: For how long; None: until it is interrupted.
        use_sim_time: Whether receive times are those of ``/clock``.
    """

    seconds: float | None = None
    use_sim_time: bool = False

    def __post_init__(self) -> None:
        if self.seconds is not None and not (0 < self.seconds < math.inf):
            raise InputError(f"Got {self.seconds} seconds, expected a positive time.")


class Listener:
    """Joins topics as somebody publishes on them, each with the strongest quality of service that is offered there.

    Args:
        node: An rclpy node.
        wanted: Which topics.
        scene: How they are shown.
        drawing: Where.
    """

    def __init__(self, node: Any, wanted: Wanted, scene: SceneConfig, drawing: Drawing) -> None:
        from rclpy.clock import Clock, ClockType

        self.feed = Feed(Scene(replace(scene, has_camera=False)), drawing)
        self._node = node
        self._wanted = wanted
        self._joined: set[str] = set()
        self._began_s = time.monotonic()
        self._told: set[str] = set()
        self._timer = node.create_timer(LOOK_PERIOD_S, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def close(self) -> None:
        """Shows what is left."""
        self.feed.finish()

    def _look(self) -> None:
        """Joins topics that somebody publishes on by now.

        Raises:
            InputError: A type is not installed.
        """
        published = {topic: kinds[0] for topic, kinds in self._node.get_topic_names_and_types() if kinds}
        published = {topic: kind for topic, kind in published.items() if self._node.count_publishers(topic)}
        for doubt in doubts(published, self._wanted):
            self._tell(doubt)
        for topic, channel in choose(published, self._wanted, self.feed.scene.mapping).items():
            if topic not in self._joined and self._may_join(channel, published):
                self._join(channel, self._node.get_publishers_info_by_topic(topic))
        if self._age_s() > QUIET_S and not self.feed.scene.counts[Part.PREDICTION.value]:
            self._tell(f"No prediction has come yet. What is published here: {', '.join(sorted(published))}.")

    def _age_s(self) -> float:
        return time.monotonic() - self._began_s

    def _may_join(self, channel: Channel, published: Mapping[str, str]) -> bool:
        """Commands wait for the predictor to say which they are, if it is about to."""
        settled = self._wanted.mapping is not None or self.feed.scene.mapping is not None or self._age_s() > COMMANDS_AFTER_S
        return channel.part is not Part.COMMANDS or settled

    def _join(self, channel: Channel, publishers: Sequence[Any]) -> None:
        if not publishers:
            return  # it has just gone
        try:
            kind = message_class(channel.type)
        except (ImportError, AttributeError) as error:
            text = f"Got the type {channel.type} on {channel.topic}, which is not installed here ({error}); install its package."
            raise InputError(text) from error
        self._joined.add(channel.topic)
        if channel.part is Part.CAMERA:
            self._wanted = replace(self._wanted, image=channel.topic)
            self.feed.scene.config = replace(self.feed.scene.config, has_camera=True)
        elif channel.part is Part.PREDICTION:
            self._wanted = replace(self._wanted, predictor=channel.topic.removesuffix("/prediction"))
        self._node.create_subscription(
            kind,
            channel.topic,
            partial(self._receive, channel),
            matching_qos([publisher.qos_profile for publisher in publishers], DEPTH),
            event_callbacks=loss_events(self._on_lost),
        )
        _log.info("Showing %s as %s.", channel.topic, channel.part.value)

    def _receive(self, channel: Channel, message: Any) -> None:
        self.feed.take(channel, message, int(self._node.get_clock().now().nanoseconds))

    def _on_lost(self, event: Any) -> None:
        self.feed.lost += int(event.total_count_change)

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            _log.warning("%s", text)


def show_graph(
    wanted: Wanted, scene: SceneConfig, config: LiveConfig, drawing: Drawing, say: Callable[[str], None]
) -> dict[str, float | str]:
    """Shows the graph until the time is over, or it is interrupted.

    Args:
        wanted: Which topics.
        scene: How they are shown.
        config: For how long.
        drawing: Where.
        say: Told how it ends.

    Returns:
        See docs/commands.md.

    Raises:
        InputError: A type is not installed here.
    """
    ensure_rclpy()
    import rclpy
    from rclpy.context import Context
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.node import Node
    from rclpy.signals import SignalHandlerOptions

    context = Context()
    arguments = ["--ros-args", "-p", f"use_sim_time:={str(config.use_sim_time).lower()}"]
    rclpy.init(args=[], context=context, signal_handler_options=SignalHandlerOptions.NO)
    executor = SingleThreadedExecutor(context=context)
    node = Node(NAME, context=context, cli_args=arguments, namespace=wanted.namespace or None)
    try:
        executor.add_node(node)
        listener = Listener(node, wanted, scene, drawing)
        until_s = math.inf if config.seconds is None else time.monotonic() + config.seconds
        with deferred_interrupts() as interrupted:
            if config.seconds is None:
                say("Showing the graph; Ctrl-C ends it.")
            while not interrupted() and time.monotonic() < until_s:
                executor.spin_once(timeout_sec=SPIN_S)
        listener.close()
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown(context=context)
    return listener.feed.figures() | {"meta.source": "graph"}
