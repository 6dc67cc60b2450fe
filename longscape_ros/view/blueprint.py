# SPDX-License-Identifier: Apache-2.0
"""How the viewer's window is laid out."""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING

from longscape_ros.view import items
from longscape_ros.view.topics import Part

if TYPE_CHECKING:
    from rerun.blueprint import Blueprint, Vertical, View

SHOWN, RECEIVED = "shown", "received"
"""The timelines: the moment that something is about, and when it came."""


def blueprint(horizon: int, live: bool, parts: Container[Part]) -> Blueprint:
    """Pictures above, the filmstrip and what holds in the middle, curves below, and pages at the side if there are any.

    Args:
        horizon: The frame that is shown ahead; 0: the last one.
        live: Follow what comes, instead of standing at the beginning.
        parts: What there is to show.
    """
    import rerun.blueprint as rrb

    ahead = f"predicted {horizon} frames before" if horizon else "predicted as the last frame"
    pictures = rrb.Horizontal(
        rrb.Spatial2DView(origin=items.CAMERA, name="camera"),
        rrb.Spatial2DView(origin=items.PREDICTED_NOW, name="newest prediction"),
        rrb.Spatial2DView(origin=items.PREDICTED_AHEAD, name=ahead),
    )
    strip = rrb.Spatial2DView(origin=items.FILMSTRIP, name="filmstrip: the future, chunk by chunk")
    states = rrb.StateTimelineView(origin="states", name="chunks and status")
    errors = [rrb.TimeSeriesView(origin="error", name="error")]
    if Part.SURPRISE in parts:
        errors.insert(0, rrb.TimeSeriesView(origin=items.SURPRISE, name="surprise"))
    curves = rrb.Horizontal(
        rrb.TimeSeriesView(origin=items.COMMANDS, name="commands"),
        rrb.Tabs(*errors),
        rrb.TimeSeriesView(origin="confidence", name="confidence", axis_y=rrb.ScalarAxis(range=(0.0, 1.0))),
        rrb.TimeSeriesView(origin="inference", name="inference, ms"),
    )
    time_panel = rrb.TimePanel(timeline=SHOWN, state="collapsed", play_state="following" if live else "paused")
    middle = rrb.Vertical(pictures, strip, states, curves, row_shares=[4, 2.2, 2.6, 3])
    side = _side(parts)
    return rrb.Blueprint(rrb.Horizontal(middle, side, column_shares=[4, 1]) if side else middle, time_panel, collapse_panels=True)


def _side(parts: Container[Part]) -> Vertical | None:
    """Diagnostics, model and error images; None: there are none."""
    import rerun.blueprint as rrb

    pages: list[View] = []
    if Part.DIAGNOSTICS in parts:
        pages.append(rrb.TextDocumentView(origin=items.REPORT, name="diagnostics"))
    if Part.MODEL in parts:
        pages.append(rrb.TextDocumentView(origin=items.MODEL, name="model"))
    if Part.SURPRISE in parts:
        pages.append(rrb.Spatial2DView(origin=items.SURPRISE, name="error images"))
    if Part.DIAGNOSTICS in parts:
        return rrb.Vertical(rrb.StateTimelineView(origin=items.DIAGNOSTICS, name="diagnostics"), rrb.Tabs(*pages), row_shares=[1, 3])
    return rrb.Vertical(rrb.Tabs(*pages)) if pages else None
