# SPDX-License-Identifier: Apache-2.0
"""What both sources, bags and the graph, do: messages into a scene, the scene into a drawing, and the figures of it."""

from __future__ import annotations

from typing import Any

from longscape_ros.contract import NANOSECONDS
from longscape_ros.view import items
from longscape_ros.view.drawing import Drawing
from longscape_ros.view.scene import Scene
from longscape_ros.view.topics import Channel, Part

COUNTED = {
    "images": Part.CAMERA,
    "predictions": Part.PREDICTION,
    "commands": Part.COMMANDS,
    "surprises": Part.SURPRISE,
    "chunks": Part.CHUNK,
    "diagnostics": Part.DIAGNOSTICS,
}
"""Figure -> the messages that it counts."""


class Feed:
    """Shows messages as they come.

    Args:
        scene: What they mean.
        drawing: Where that goes.

    Attributes:
        channels: Topics that messages came from.
        lost: Messages that are known to have got lost on the way.
    """

    def __init__(self, scene: Scene, drawing: Drawing) -> None:
        self.scene = scene
        self.channels: dict[str, Channel] = {}
        self.lost = 0
        self._drawing = drawing
        self._first_ns: int | None = None
        self._last_ns = 0

    def take(self, channel: Channel, message: Any, received_ns: int) -> None:
        """Shows a message."""
        if self._first_ns is None:
            self._first_ns = received_ns
        self._last_ns = received_ns
        self.channels[channel.topic] = channel
        self._drawing.show(self.scene.take(channel, message, received_ns))

    def finish(self) -> None:
        """Shows what is left."""
        self._drawing.show(self.scene.finish(self._last_ns))

    def figures(self) -> dict[str, float | str]:
        """What was shown; docs/commands.md explains it."""
        counts, shown = self.scene.counts, self._drawing.counts
        topics = {part: [topic for topic, channel in self.channels.items() if channel.part is part] for part in Part}
        return {
            **{name: float(counts[part.value]) for name, part in COUNTED.items()},
            "predicted_frames": float(counts["predicted_frames"]),
            "played_frames": float(shown[items.PREDICTED_NOW]),
            "commanded_values": float(sum(n for entity, n in shown.items() if entity.startswith(f"{items.COMMANDS}/"))),
            "items": float(shown.total()),
            "invalid_messages": float(counts["invalid"]),
            "lost_messages": float(self.lost),
            "seconds": 0.0 if self._first_ns is None else (self._last_ns - self._first_ns) / NANOSECONDS,
            "meta.camera": " ".join(topics[Part.CAMERA]),
            "meta.predictions": " ".join(topics[Part.PREDICTION]),
            "meta.commands": " ".join(topics[Part.COMMANDS]),
            "meta.model_id": self.scene.model_id,
        }
