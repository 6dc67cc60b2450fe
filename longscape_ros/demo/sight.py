# SPDX-License-Identifier: Apache-2.0
"""What the monitor sees, as one line of JSON from its process to the terminal's."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import threading
from dataclasses import dataclass
from typing import IO

import numpy as np
from numpy.typing import NDArray

from longscape_ros.images import resize_rgb

PICTURE = 32
"""Height and width of a picture in the terminal, in pixels."""


@dataclass(frozen=True, slots=True)
class ChunkSight:
    """A chunk, of a prediction or executed.

    Args:
        frames: Its frames.
        expert: Which denoised it; None: none did, it was executed.
        reason: Why it ended.
    """

    frames: int
    expert: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Sight:
    """What is seen at a moment; a number that is not known yet is None.

    Args:
        nodes: Names of the nodes in the graph.
        frames: Images received.
        missing_frames: Images that the stamps leave out.
        frame_rate: Images per second.
        plans: Trajectories received.
        predictions: Predictions received.
        prediction_rate: Per second.
        latency_ms_p50: Image stamp to arrival of the prediction.
        latency_ms_p95: The same.
        remaining_ms: How much of the newest prediction still lay ahead when it arrived.
        remaining_ms_p5: Of the last predictions.
        age_s: How long ago the newest prediction's newest image was taken.
        horizon_s: How far ahead of that image its last frame is.
        chunks: Of the newest prediction.
        executed: Chunks of the executed motion that ended last, oldest first.
        diagnostics: What the predictor says of itself, see :func:`flat_diagnostics`.
        camera: The newest image, uint8 [PICTURE, PICTURE, 3] as base64; empty: none.
        future: The newest prediction's last frame, likewise.
    """

    nodes: tuple[str, ...] = ()
    frames: int = 0
    missing_frames: int = 0
    frame_rate: float | None = None
    plans: int = 0
    predictions: int = 0
    prediction_rate: float | None = None
    latency_ms_p50: float | None = None
    latency_ms_p95: float | None = None
    remaining_ms: float | None = None
    remaining_ms_p5: float | None = None
    age_s: float | None = None
    horizon_s: float | None = None
    chunks: tuple[ChunkSight, ...] = ()
    executed: tuple[ChunkSight, ...] = ()
    diagnostics: dict[str, str] = dataclasses.field(default_factory=dict)
    camera: str = ""
    future: str = ""

    def to_json(self) -> str:
        """One line."""
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_json(text: str | bytes) -> Sight:
        """The opposite of :meth:`to_json`."""
        document = json.loads(text)
        chunks = {name: tuple(ChunkSight(**chunk) for chunk in document[name]) for name in ("chunks", "executed")}
        return Sight(**document | chunks | {"nodes": tuple(document["nodes"])})


def picture(encoded: str) -> NDArray[np.uint8]:
    """A picture of a :class:`Sight`: uint8 [PICTURE, PICTURE, 3]."""
    return np.frombuffer(base64.b64decode(encoded), np.uint8).reshape(PICTURE, PICTURE, 3)


def encode_picture(rgb: NDArray[np.uint8]) -> str:
    """An image as a picture of a :class:`Sight`."""
    return base64.b64encode(resize_rgb(rgb, (PICTURE, PICTURE)).tobytes()).decode()


class Listener:
    """Reads the monitor's lines on a thread of its own.

    Args:
        stream: The monitor's standard output.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self.newest = Sight()
        self._thread = threading.Thread(target=self._listen, args=(stream,), name="demo-monitor", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Waits until the monitor has ended."""
        self._thread.join()

    def _listen(self, stream: IO[bytes]) -> None:
        with contextlib.suppress(ValueError, OSError):  # closed meanwhile
            for line in stream:
                with contextlib.suppress(json.JSONDecodeError):
                    self.newest = Sight.from_json(line)
