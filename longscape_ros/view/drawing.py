# SPDX-License-Identifier: Apache-2.0
"""Items into a Rerun recording."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from longscape_ros.view.blueprint import RECEIVED, SHOWN
from longscape_ros.view.items import Boxes, Item, Number, Picture, State

if TYPE_CHECKING:
    from rerun import RecordingStream

CURVE_COLOURS = (0x4FA3E0FF, 0xF2A541FF, 0x6CC070FF, 0xD87CC4FF, 0xE66A5EFF, 0x9B8CE8FF, 0x5CC8C2FF, 0xC9C04BFF)
"""Of the curves of a plot, in the order in which they begin."""


class Drawing:
    """Writes items into a recording, on both timelines.

    Args:
        stream: Rerun's recording.

    Attributes:
        counts: Items written, by their entity.
    """

    def __init__(self, stream: RecordingStream) -> None:
        self.counts: Counter[str] = Counter()
        self._stream = stream
        self._curves: set[str] = set()
        self._colours: dict[str, dict[str, int]] = {}  # entity -> state -> colour
        stream.set_log_time_enabled(False)  # when this program wrote it down is nobody's business
        stream.set_log_tick_enabled(False)

    def show(self, found: Iterable[Item]) -> None:
        """Writes items, in the order in which they became known."""
        import rerun as rr

        for item in found:
            self._stream.set_time(SHOWN, timestamp=np.datetime64(item.shown_ns, "ns"))
            self._stream.set_time(RECEIVED, timestamp=np.datetime64(item.received_ns, "ns"))
            self.counts[item.entity] += 1
            content = item.content
            if isinstance(content, Picture):
                self._stream.log(_path(item.entity), rr.EncodedImage(contents=content.data, media_type=content.media_type))
            elif isinstance(content, Number):
                self._show_number(item.entity, content)
            elif isinstance(content, State):
                self._show_state(item.entity, content)
            elif isinstance(content, Boxes):
                self._show_boxes(item.entity, content)
            else:
                self._stream.log(_path(item.entity), rr.TextDocument(content.markdown, media_type=rr.MediaType.MARKDOWN))

    def _show_number(self, entity: str, number: Number) -> None:
        import rerun as rr

        if entity not in self._curves:
            folder = entity.partition("/")[0]
            colour = CURVE_COLOURS[sum(curve.startswith(f"{folder}/") for curve in self._curves) % len(CURVE_COLOURS)]
            self._curves.add(entity)
            style = rr.SeriesLines(colors=_colours([colour]), names=[entity.removeprefix(f"{folder}/")])
            self._stream.log(_path(entity), style, static=True)
        self._stream.log(_path(entity), rr.Scalars(number.value))

    def _show_state(self, entity: str, state: State) -> None:
        import rerun as rr

        colours = self._colours.setdefault(entity, {})
        if state.text not in colours:
            colours[state.text] = state.colour
            configuration = rr.StateConfiguration(values=list(colours), labels=list(colours), colors=_colours(colours.values()))
            self._stream.log(_path(entity), configuration, static=True)
        self._stream.log(_path(entity), rr.StateChange(state=state.text))

    def _show_boxes(self, entity: str, content: Boxes) -> None:
        import rerun as rr

        boxes = rr.Boxes2D(
            array=np.array([[box.left, 0.0, box.width, box.height] for box in content.boxes]),
            array_format=rr.Box2DFormat.XYWH,
            labels=[box.label for box in content.boxes],
            colors=_colours(box.colour for box in content.boxes),
            show_labels=True,
        )
        self._stream.log(_path(entity), boxes)


def _path(entity: str) -> list[object]:
    """A place as Rerun takes it without reading signs into the names of joints."""
    return [part for part in entity.split("/") if part]


def _colours(values: Iterable[int]) -> NDArray[np.uint32]:
    """0xRRGGBBAA as Rerun takes them."""
    return np.fromiter(values, np.uint32)
