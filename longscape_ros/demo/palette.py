# SPDX-License-Identifier: Apache-2.0
"""The demo's colours, in its pictures and in the terminal."""

from __future__ import annotations

Colour = tuple[int, int, int]

BACKGROUND: Colour = (17, 19, 24)
PANEL: Colour = (29, 32, 40)
FUTURE: Colour = (38, 42, 53)
LINE: Colour = (74, 80, 95)
FAINT: Colour = (142, 149, 166)
TEXT: Colour = (232, 235, 241)
DARK: Colour = (12, 13, 16)
ALARM: Colour = (240, 72, 72)
EXECUTED: Colour = (176, 182, 196)
"""Motion that was executed: no expert's colour."""

_EXPERTS: tuple[Colour, ...] = ((86, 180, 233), (240, 180, 60), (60, 190, 140), (222, 130, 185), (240, 228, 100), (225, 110, 70))
"""Told apart with any kind of colour vision (after Okabe and Ito)."""


def expert_colour(expert: int) -> Colour:
    """The colour that stands for an expert everywhere."""
    return _EXPERTS[expert % len(_EXPERTS)]


def mix(colour: Colour, other: Colour, share: float) -> Colour:
    """``share`` of ``colour``, the rest ``other``."""
    red, green, blue = (round(share * a + (1 - share) * b) for a, b in zip(colour, other, strict=True))
    return red, green, blue
