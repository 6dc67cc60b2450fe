# SPDX-License-Identifier: Apache-2.0
"""Reads back what was written for the Rerun viewer, with Rerun's own reader."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """What was written of one entity at a time.

    Args:
        shown_ns: On the timeline ``shown``; None: for all times.
        received_ns: On the timeline ``received``.
        values: Component, such as ``Scalars:scalars`` -> its instances.
    """

    shown_ns: int | None
    received_ns: int | None
    values: dict[str, list[Any]]

    def only(self, component: str) -> Any:
        """The one instance of a component."""
        (value,) = self.values[component]
        return value


@dataclass(frozen=True)
class Rrd:
    """A file of Rerun's."""

    path: Path

    @cached_property
    def rows(self) -> dict[str, list[Row]]:
        """Entity -> what was written over time, in the order of the moments shown."""
        found: dict[str, list[Row]] = {}
        for entity, row in self._rows(None):
            if row.shown_ns is not None:
                found.setdefault(entity, []).append(row)
        return {entity: sorted(rows, key=lambda row: (row.shown_ns, row.received_ns)) for entity, rows in found.items()}

    @cached_property
    def static(self) -> dict[str, dict[str, list[Any]]]:
        """Entity -> component -> instances that hold for all times."""
        found: dict[str, dict[str, list[Any]]] = {}
        for entity, row in self._rows(None):
            if row.shown_ns is None:
                found.setdefault(entity, {}).update(row.values)
        return found

    @cached_property
    def timelines(self) -> set[str]:
        from rerun.chunk import RrdReader

        return {name for chunk in RrdReader(self.path).stream() for name in chunk.timeline_names}

    @cached_property
    def views(self) -> dict[str, tuple[str, str]]:
        """Name -> kind and origin of every view of the layout."""
        from rerun.chunk import RrdReader

        (layout,) = RrdReader(self.path).blueprints()
        parts: dict[str, dict[str, Any]] = {}
        for entity, row in self._rows(layout):
            parts.setdefault(entity, {}).update({component: values for component, values in row.values.items() if values})
        views = [part for part in parts.values() if "ViewBlueprint:class_identifier" in part]
        keys = ("display_name", "class_identifier", "space_origin")
        rows = [tuple(str(view[f"ViewBlueprint:{key}"][0]) for key in keys) for view in views]
        return {name: (kind, origin) for name, kind, origin in rows}

    def _rows(self, store: Any) -> Iterator[tuple[str, Row]]:
        from rerun.chunk import RrdReader

        for chunk in RrdReader(self.path).stream(store=store):
            table = chunk.to_record_batch()
            named = dict(zip(table.schema.names, table.columns, strict=True))
            moments = {name: named[name].cast("int64").to_pylist() for name in ("shown", "received") if name in named}
            data = {name: column.to_pylist() for name, column in named.items() if ":" in name}
            for index in range(table.num_rows):
                values = {name: column[index] for name, column in data.items() if column[index] is not None}
                times = [moments[name][index] if name in moments else None for name in ("shown", "received")]
                yield chunk.entity_path, Row(times[0], times[1], values)
