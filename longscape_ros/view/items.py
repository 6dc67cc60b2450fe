# SPDX-License-Identifier: Apache-2.0
"""What is shown: pictures, numbers, states and texts, each with a place and two times; free of ROS and of Rerun."""

from __future__ import annotations

from dataclasses import dataclass

CAMERA = "camera"
PREDICTED_NOW = "prediction/now"
PREDICTED_AHEAD = "prediction/ahead"
FILMSTRIP = "prediction/filmstrip"
FILMSTRIP_CHUNKS = "prediction/filmstrip/chunks"
PREDICTED_LENGTH = "states/predicted_length"
PREDICTED_EXPERT = "states/predicted_expert"
EXECUTED_CHUNK = "states/executed_chunk"
STATUS = "states/status"
SURPRISED = "states/surprise"
DIAGNOSTICS = "diagnostics"
REPORT = "texts/diagnostics"
MODEL = "texts/model"
COMMANDS = "commands"
SURPRISE = "surprise"
ERROR_NOW = "error/now"
CONFIDENCE_NOW = "confidence/now"
CONFIDENCE_AHEAD = "confidence/ahead"
COMPUTE_MS = "inference/compute_ms"
DELAY_MS = "inference/delay_ms"
"""Where it stands; what is below ``commands``, ``surprise`` and ``diagnostics`` is named by the messages."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image as bytes.

    Args:
        data: A complete PNG or JPEG.
        media_type: ``image/png`` or ``image/jpeg``.
    """

    data: bytes
    media_type: str


@dataclass(frozen=True, slots=True)
class Box:
    """A part of a picture.

    Args:
        left: First column, in pixels.
        width: Columns.
        height: Rows, from the top.
        label: What it says.
        colour: 0xRRGGBBAA.
    """

    left: float
    width: float
    height: float
    label: str
    colour: int


@dataclass(frozen=True, slots=True)
class Boxes:
    """Parts of a picture, which replace those before."""

    boxes: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class Number:
    """A point of a curve; NaN interrupts it."""

    value: float


@dataclass(frozen=True, slots=True)
class State:
    """What holds from now on, in a lane of its own.

    Args:
        text: In a word or two.
        colour: 0xRRGGBBAA.
    """

    text: str
    colour: int


@dataclass(frozen=True, slots=True)
class Text:
    """A page in Markdown, which replaces the one before."""

    markdown: str


Content = Picture | Boxes | Number | State | Text


@dataclass(frozen=True, slots=True)
class Item:
    """Something to show.

    Args:
        entity: Where it stands, names with slashes between.
        shown_ns: The moment that it is about: when an image was seen, when a predicted frame will be, when a command takes effect.
        received_ns: When it came.
        content: What it is.
    """

    entity: str
    shown_ns: int
    received_ns: int
    content: Content
