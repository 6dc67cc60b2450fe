# SPDX-License-Identifier: Apache-2.0
"""The demo's film: the camera beside what was predicted for the same moment, and the futures as they were published.

Below the pictures every prediction is a bar from its newest image to the last moment it shows, cut where its chunks end and
coloured by expert; the part that had passed when it was published is dim. Below that, the commands, and a strip of the chunks that the
executed motion turned out to have. Below the camera's picture stands whether it is as predicted.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from longscape_ros.contract import NANOSECONDS
from longscape_ros.demo.canvas import enlarge, write
from longscape_ros.demo.palette import ALARM, BACKGROUND, DARK, EXECUTED, FAINT, FUTURE, LINE, PANEL, TEXT, Colour, expert_colour, mix
from longscape_ros.demo.recording import Published, Recording
from longscape_ros.evaluation import psnr
from longscape_ros.runtime.surprise import State
from longscape_ros.video import write_mp4

HORIZONS_S = (0.4, 0.8, 1.6)
"""How long before a moment the predictions shown for it began, as nearly as there are any."""

WIDTH, HEIGHT = 1376, 768
_MARGIN, _GAP, _TILE = 24, 16, 320
_TITLE_Y, _CAPTION_Y, _TILES_Y = 46, 88, 100
_LANES_Y, _LANE, _LANES = 508, 17, 8
_COMMANDS_Y, _COMMANDS_HEIGHT = 668, 76
_PAST_S, _AHEAD_S = 3.2, 1.7
"""What the bars show of the time before and after now."""

_SURPRISE_SHOWN_S = 0.5
"""For how long what was thought of an image is shown."""

_PLACE = 20
"""Half the size of the frame around the worst patch."""

_LEAST_LABEL = 62
"""Pixels that a chunk must be wide to carry its name."""


class Film:
    """Draws any moment of a recording.

    Args:
        recording: What happened.
        title: For the head of every picture.
    """

    def __init__(self, recording: Recording, title: str = "") -> None:
        self._recording = recording
        self._title = title
        self._start_ns = int(recording.stamps_ns[0]) if recording.frames else 0
        self._anchors = [p.prediction.anchor_ns for p in recording.predictions]
        self._commands = recording.commands()
        self._compared_ns = [compared.stamp_ns for compared in recording.compared]
        shapes = [p.prediction.frames.shape[1:3] for p in recording.predictions]
        self._size = shapes[0] if shapes else recording.frames[0].rgb.shape[:2] if recording.frames else (1, 1)
        self._experts = sorted({expert for p in recording.predictions for expert in p.prediction.experts})
        self._still = self._draw_still()

    def draw(self, now_ns: int) -> NDArray[np.uint8]:
        """uint8 [HEIGHT, WIDTH, 3], the picture for a moment."""
        picture = self._still.copy()
        draw = ImageDraw.Draw(picture)
        write(draw, (WIDTH - _MARGIN, _TITLE_Y), f"{(now_ns - self._start_ns) / NANOSECONDS:.2f} s", 26, TEXT, "rs")
        actual = self._recording.actual(now_ns, self._size)
        self._draw_tile(picture, draw, 0, actual)
        self._draw_surprise(draw, now_ns)
        marks = []
        for column, horizon_s in enumerate(HORIZONS_S, start=1):
            published = self._published_for(now_ns, horizon_s)
            self._draw_prediction(picture, draw, column, published, now_ns, actual)
            marks.append(published)
        self._draw_futures(draw, now_ns, marks)
        self._draw_executed(draw, now_ns)
        self._draw_commands(draw, now_ns)
        self._draw_disturbance(draw, now_ns)
        x = self._x(now_ns, now_ns)
        draw.line((x, _LANES_Y - 4, x, _COMMANDS_Y + _COMMANDS_HEIGHT), fill=TEXT, width=2)
        return np.asarray(picture)

    def _published_for(self, moment_ns: int, horizon_s: float) -> Published | None:
        """The prediction that shows the moment and whose anchor is nearest to so long before it."""
        end = bisect_right(self._anchors, moment_ns)
        showing = [p for p in self._recording.predictions[max(0, end - 32) : end] if p.index(moment_ns) is not None]
        return min(showing, key=lambda p: abs(moment_ns - p.prediction.anchor_ns - horizon_s * NANOSECONDS), default=None)

    # ---- pictures ----

    def _draw_still(self) -> Image.Image:
        """What never changes."""
        picture = Image.new("RGB", (WIDTH, HEIGHT), BACKGROUND)
        draw = ImageDraw.Draw(picture)
        write(draw, (_MARGIN, _TITLE_Y), self._title, 26)
        write(draw, (_MARGIN, _CAPTION_Y), "camera, now", 19)
        for column in range(1 + len(HORIZONS_S)):
            x = _MARGIN + column * (_TILE + _GAP)
            draw.rectangle((x, _TILES_Y, x + _TILE - 1, _TILES_Y + _TILE - 1), fill=PANEL)
        edge, now = WIDTH - _MARGIN, self._x(0, 0)
        draw.rectangle((_MARGIN, _LANES_Y, now, _LANES_Y + _LANES * _LANE), fill=PANEL)
        draw.rectangle((now, _LANES_Y, edge, _LANES_Y + _LANES * _LANE), fill=FUTURE)
        draw.rectangle((_MARGIN, _COMMANDS_Y, now, _COMMANDS_Y + _COMMANDS_HEIGHT), fill=PANEL)
        draw.rectangle((now, _COMMANDS_Y, edge, _COMMANDS_Y + _COMMANDS_HEIGHT), fill=FUTURE)
        width = write(draw, (_MARGIN, _LANES_Y - 12), "predictions, cut into chunks", 17)
        left = _MARGIN + width + 24
        for expert in self._experts:
            draw.rectangle((left, _LANES_Y - 25, left + 14, _LANES_Y - 11), fill=expert_colour(expert))
            left += 42 + write(draw, (left + 20, _LANES_Y - 12), f"expert {expert}", 17, FAINT)
        write(draw, (now, _LANES_Y - 12), "now", 17, TEXT, "ms")
        write(draw, (edge, _LANES_Y - 12), "future", 17, FAINT, "rs")
        return picture

    def _draw_tile(self, picture: Image.Image, draw: ImageDraw.ImageDraw, column: int, rgb: NDArray[np.uint8] | None) -> None:
        x = _MARGIN + column * (_TILE + _GAP)
        if rgb is None:
            write(draw, (x + _TILE // 2, _TILES_Y + _TILE // 2), "no image" if column == 0 else "none yet", 19, FAINT, "mm")
            return
        tile = enlarge(rgb, _TILE)
        picture.paste(tile, (x + (_TILE - tile.width) // 2, _TILES_Y + (_TILE - tile.height) // 2))

    def _draw_prediction(
        self,
        picture: Image.Image,
        draw: ImageDraw.ImageDraw,
        column: int,
        published: Published | None,
        now_ns: int,
        actual: NDArray[np.uint8] | None,
    ) -> None:
        """A tile with its captions: how long ago it was predicted, from which chunk, how good it is."""
        x, below = _MARGIN + column * (_TILE + _GAP), _TILES_Y + _TILE
        index = None if published is None else published.index(now_ns)
        if published is None or index is None:
            write(draw, (x, _CAPTION_Y), "predicted", 19, FAINT)
            self._draw_tile(picture, draw, column, None)
            return
        prediction = published.prediction
        number = published.chunk(index)
        chunk, colour = prediction.chunks[number], expert_colour(prediction.experts[number])
        write(draw, (x, _CAPTION_Y), f"predicted {(now_ns - prediction.anchor_ns) / NANOSECONDS:.2f} s before", 19)
        self._draw_tile(picture, draw, column, prediction.frames[index])
        draw.rectangle((x - 3, _TILES_Y - 3, x + _TILE + 2, below + 2), outline=colour, width=3)
        write(draw, (x, below + 24), f"chunk {number + 1}, frame {index - chunk.start + 1} of {chunk.valid}", 16, colour)
        last = self._recording.actual(prediction.anchor_ns, prediction.frames.shape[1:3])
        if actual is not None and last is not None:
            write(draw, (x, below + 46), f"PSNR {psnr(actual, prediction.frames[index]):.1f} dB", 16)
            write(draw, (x + _TILE, below + 46), f"if nothing moved: {psnr(actual, last):.1f} dB", 16, FAINT, "rs")

    def _draw_surprise(self, draw: ImageDraw.ImageDraw, now_ns: int) -> None:
        """Below the camera's picture: whether it is as predicted, and a frame around what is not."""
        x, below = _MARGIN, _TILES_Y + _TILE
        number = bisect_right(self._compared_ns, now_ns) - 1
        if number < 0 or now_ns - self._compared_ns[number] > _SURPRISE_SHOWN_S * NANOSECONDS:
            return
        compared = self._recording.compared[number]
        if compared.state is State.NOT_COMPARABLE:
            write(draw, (x, below + 24), "not comparable: commanded anew", 16, FAINT)
            return
        surprised = compared.state is State.SURPRISED
        text = f"{'not as predicted' if surprised else 'as predicted'}: error {compared.error:.1f} times expected"
        write(draw, (x, below + 24), text, 16, ALARM if surprised else FAINT)
        if surprised:
            scale = _TILE / max(self._size)
            left = x + (_TILE - scale * self._size[1]) / 2 + scale * compared.place[0]
            top = _TILES_Y + (_TILE - scale * self._size[0]) / 2 + scale * compared.place[1]
            draw.rectangle((x - 3, _TILES_Y - 3, x + _TILE + 2, below + 2), outline=ALARM, width=3)
            draw.rectangle((left - _PLACE, top - _PLACE, left + _PLACE, top + _PLACE), outline=ALARM, width=2)

    # ---- time ----

    def _draw_disturbance(self, draw: ImageDraw.ImageDraw, now_ns: int) -> None:
        """A line where something disturbed the arm."""
        disturbed = self._recording.disturbed
        if disturbed is None or not disturbed.begin_ns <= now_ns <= disturbed.begin_ns + _PAST_S * NANOSECONDS:
            return
        x = self._x(disturbed.begin_ns, now_ns)
        draw.line((x, _LANES_Y, x, _COMMANDS_Y + _COMMANDS_HEIGHT), fill=ALARM, width=2)
        write(draw, (x + 6, _COMMANDS_Y + _COMMANDS_HEIGHT - 6), disturbed.name, 14, ALARM)

    def _x(self, moment_ns: float, now_ns: int) -> float:
        """Where a moment is on the bars."""
        scale = (WIDTH - 2 * _MARGIN) / (_PAST_S + _AHEAD_S)
        return _MARGIN + scale * ((moment_ns - now_ns) / NANOSECONDS + _PAST_S)

    def _inside(self, moment_ns: float, now_ns: int) -> float:
        return min(max(self._x(moment_ns, now_ns), _MARGIN), WIDTH - _MARGIN)

    def _draw_futures(self, draw: ImageDraw.ImageDraw, now_ns: int, marks: list[Published | None]) -> None:
        """The bars of all predictions that had been published, and outlines of what was in work."""
        first_ns = now_ns - _PAST_S * NANOSECONDS
        for number, published in enumerate(self._recording.predictions):
            if published.end_ns < first_ns or published.prediction.anchor_ns > now_ns:
                continue
            top = _LANES_Y + 2 + (number % _LANES) * _LANE
            box = (top, top + _LANE - 3)
            left = self._inside(published.prediction.anchor_ns, now_ns)
            if published.received_ns > now_ns:
                draw.rectangle((left, box[0], self._x(now_ns, now_ns), box[1]), outline=LINE)
                continue
            self._draw_bar(draw, published, now_ns, box)
            if any(mark is published for mark in marks):
                draw.rectangle((left, box[0], self._inside(published.end_ns, now_ns), box[1]), outline=TEXT)

    def _draw_bar(self, draw: ImageDraw.ImageDraw, published: Published, now_ns: int, box: tuple[int, int]) -> None:
        prediction = published.prediction
        arrived = self._inside(published.received_ns, now_ns)
        for chunk, expert in zip(prediction.chunks, prediction.experts, strict=True):
            begin_ns = prediction.anchor_ns + chunk.start * published.period_ns
            end_ns = begin_ns + chunk.valid * published.period_ns
            left, right = self._inside(begin_ns, now_ns), self._inside(end_ns, now_ns) - 2
            if right <= left:
                continue
            colour = expert_colour(expert)
            draw.rectangle((left, box[0], right, box[1]), fill=colour)
            if left < arrived:
                draw.rectangle((left, box[0], min(arrived, right), box[1]), fill=mix(colour, PANEL, 0.45))
            if self._x(end_ns, now_ns) <= WIDTH - _MARGIN and right - left > _LEAST_LABEL:
                name = chunk.reason.name.lower().replace("_", " ")
                name = f"{chunk.valid} {name}" if right - left > 2 * _LEAST_LABEL else name
                write(draw, (right - 5, (box[0] + box[1]) / 2 + 1), name, 12, DARK, "rm")

    def _draw_executed(self, draw: ImageDraw.ImageDraw, now_ns: int) -> None:
        """What had ended of the executed motion's chunks: a strip below the commands, a line where one ended."""
        bottom = _COMMANDS_Y + _COMMANDS_HEIGHT
        for chunk in self._recording.executed:
            left, right = self._inside(chunk.begin_ns, now_ns), self._inside(min(chunk.end_ns, now_ns), now_ns)
            if chunk.end_ns > now_ns or right - left < 1:
                continue
            draw.rectangle((left, bottom, right - 2, bottom + 6), fill=EXECUTED)
            if self._x(chunk.end_ns, now_ns) > _MARGIN:
                draw.line((right - 1, _COMMANDS_Y, right - 1, bottom + 6), fill=LINE)

    def _draw_commands(self, draw: ImageDraw.ImageDraw, now_ns: int) -> None:
        """A line per number that was commanded, each over its own range in the recording; what lies ahead is dim."""
        times, values = self._commands.times_ns, self._commands.values
        if not len(times):
            write(draw, (_MARGIN + 8, _COMMANDS_Y + _COMMANDS_HEIGHT // 2), "no commands", 16, FAINT, "lm")
            return
        moments = now_ns + np.linspace(-_PAST_S, _AHEAD_S, 246) * NANOSECONDS
        shown = (moments >= times[0]) & (moments <= times[-1])
        top, height = _COMMANDS_Y + 8, _COMMANDS_HEIGHT - 16
        names_x = float(_MARGIN + 8)
        for number, name in enumerate(self._commands.names):
            column = values[:, number]
            low, span = float(column.min()), float(np.ptp(column)) or 1.0
            y = top + height * (1 - (np.interp(moments, times, column) - low) / span)
            colour = _LINE_COLOURS[number % len(_LINE_COLOURS)]
            for part, shade in ((shown & (moments <= now_ns), colour), (shown & (moments >= now_ns), mix(colour, FUTURE, 0.55))):
                points = [(self._x(moment, now_ns), height_) for moment, height_ in zip(moments[part], y[part], strict=True)]
                if len(points) > 1:
                    draw.line(points, fill=shade, width=2)
            names_x += write(draw, (names_x, _COMMANDS_Y - 5), name.replace("_", " "), 14, colour) + 18


_LINE_COLOURS: tuple[Colour, ...] = ((255, 138, 128), (129, 212, 150), (130, 177, 255), (232, 235, 241), (255, 204, 128), (206, 147, 216))


def write_video(recording: Recording, path: Path, title: str = "", progress: Callable[[int, int, str], None] | None = None) -> Path | None:
    """Writes the film in real time as H.264 in MP4, which plays everywhere.

    Args:
        recording: What happened.
        path: Where to; appears when it is complete.
        title: See :class:`Film`.
        progress: Called with (pictures done, of how many, a text).

    Returns:
        ``path``; None: the recording has no image.
    """
    if not recording.frames:
        return None
    film = Film(recording, title)
    moments = range(int(recording.stamps_ns[0]), int(recording.stamps_ns[-1]) + 1, recording.period_ns)

    def pictures() -> Iterator[NDArray[np.uint8]]:
        for number, moment_ns in enumerate(moments):
            yield film.draw(moment_ns)
            if progress is not None:
                progress(number + 1, len(moments), path.name)

    rate = Fraction(NANOSECONDS, recording.period_ns).limit_denominator(1000)
    return write_mp4(path, pictures(), (WIDTH, HEIGHT), rate)
