# SPDX-License-Identifier: Apache-2.0
"""Films of predictions beside what came: the best, the median and the worst episode of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

from longscape_ros.contract import Prediction
from longscape_ros.errors import InputError
from longscape_ros.evaluation.drawing import FAINT, INK, Canvas, Colour, enlarged
from longscape_ros.evaluation.metrics import Image, psnr_of, rmse
from longscape_ros.evaluation.plot import BLUE, GREEN, GREY, ORANGE, PURPLE
from longscape_ros.evaluation.scores import Scores
from longscape_ros.evaluation.sheet import ERROR_GAIN, error_image
from longscape_ros.evaluation.windows import Window
from longscape_ros.runtime.predictor import Predictor
from longscape_ros.video import write_mp4

RANKS = ("best", "median", "worst")
TILE = 320
"""Most pixels of a picture's longer side."""

_MARGIN, _GAP, _HEAD, _BAR = 20, 12, 84, 46
_EXPERTS: tuple[Colour, ...] = (BLUE, ORANGE, GREEN, PURPLE, GREY, (196, 78, 60))


def choose(scores: Scores, horizon: int) -> dict[str, int]:
    """Best, median and worst episode by mean PSNR at a horizon -> the window of it that is nearest to that mean.

    Raises:
        InputError: no window reaches the horizon.
    """
    means = scores.by_episode(f"psnr.model.{horizon}")
    if not means:
        raise InputError(f"Got no window that reaches {horizon} frames ahead, expected at least one.")
    order = sorted(means, key=means.__getitem__, reverse=True)
    chosen: dict[str, int] = {}
    places = {"best": 0, "worst": len(order) - 1, "median": len(order) // 2}  # of few episodes the median is left out first
    for rank, place in places.items():
        episode = order[place]
        reaching = [judged for judged in scores.windows if judged.episode == episode and len(judged.psnr) >= horizon]
        nearest = min(reaching, key=lambda judged: abs(judged.psnr[horizon - 1] - means[judged.episode]))
        if nearest.window not in chosen.values():
            chosen[rank] = nearest.window
    return {rank: chosen[rank] for rank in RANKS if rank in chosen}


def write_film(predictor: Predictor, window: Window, name: str, path: Path) -> Path:
    """Predict a window once more and write it as a film in real time: actual, predicted and error; returns its path.

    Args:
        predictor: The model.
        window: What to show.
        name: Of it, for the head line.
        path: An ``.mp4`` file.
    """
    manifest = predictor.bundle.manifest
    snapshot = window.snapshot(manifest.context, manifest.segmentation.lengths[-1])
    prediction = predictor.predict(snapshot, horizon=window.steps)
    film = Film(window.future, prediction, name)
    return write_mp4(path, film.pictures(), (film.width, film.height), Fraction(manifest.fps).limit_denominator(1000))


class Film:
    """Draws the pictures of one prediction.

    Args:
        actual: uint8 [N, H, W, 3].
        prediction: Of the same N frames.
        name: For the head line.
    """

    def __init__(self, actual: Image, prediction: Prediction, name: str) -> None:
        self._actual, self._prediction = actual, prediction
        self._psnr = psnr_of(rmse(actual, prediction.frames))
        height, width = actual.shape[1:3]
        self._factor = max(1, TILE // max(height, width))
        self._tile: tuple[int, int] = (self._factor * width, self._factor * height)
        self.width = _even(2 * _MARGIN + 3 * self._tile[0] + 2 * _GAP)
        self.height = _even(_HEAD + self._tile[1] + _BAR + _MARGIN)
        self._still = self._draw_still(name)

    def pictures(self) -> Iterator[Image]:
        """uint8 [height, width, 3] each, in order."""
        return (self.draw(index) for index in range(len(self._actual)))

    def draw(self, index: int) -> Image:
        """The picture of a frame, counted from zero."""
        canvas = self._still.copy()
        actual, predicted = self._actual[index], self._prediction.frames[index]
        for column, rgb in enumerate((actual, predicted, error_image(actual, predicted))):
            canvas.paste((self._left(column), _HEAD), enlarged(rgb, self._factor))
        seconds = (index + 1) / self._prediction.fps
        canvas.text((self.width - _MARGIN, 34), f"+{seconds:.2f} s, frame {index + 1}", 13, INK, "r")
        canvas.text((self._left(1) + self._tile[0], 72), f"{self._psnr[index]:.1f} dB", 11, INK, "r")
        x = self._x(index + 1)
        canvas.line([(x, self._bar - 5), (x, self._bar + 17)], INK, 2)
        return canvas.picture()

    @property
    def _bar(self) -> int:
        return _HEAD + self._tile[1] + 18

    def _left(self, column: int) -> int:
        return _MARGIN + column * (self._tile[0] + _GAP)

    def _x(self, step: float) -> float:
        return _MARGIN + (self.width - 2 * _MARGIN) * step / len(self._actual)

    def _draw_still(self, name: str) -> Canvas:
        canvas = Canvas(self.width, self.height)
        canvas.text((_MARGIN, 34), name, 13)
        for column, label in enumerate(("actual", "predicted", f"error x {ERROR_GAIN}")):
            canvas.text((self._left(column), 72), label, 11, FAINT)
        for chunk, expert in zip(self._prediction.chunks, self._prediction.experts, strict=True):
            left, right = self._x(chunk.start), self._x(chunk.start + chunk.valid) - 2
            canvas.box((left, self._bar), (right - left, 12), _EXPERTS[expert % len(_EXPERTS)])
        experts: Sequence[int] = sorted(set(self._prediction.experts))
        x = float(_MARGIN)
        for expert in experts:
            canvas.box((x, self._bar + 23), (9, 9), _EXPERTS[expert % len(_EXPERTS)])
            x += 30 + canvas.text((x + 14, self._bar + 32), f"expert {expert}", 9, FAINT)
        canvas.text((self.width - _MARGIN, self._bar + 32), "chunks, cut by the actions", 9, FAINT, "r")
        return canvas


def _even(size: int) -> int:
    return size + size % 2
