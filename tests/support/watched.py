# SPDX-License-Identifier: Apache-2.0
"""A backend that remembers what it was asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Watched:
    """Another backend, and every call of it in ``calls``: (graph, inputs, outputs)."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.calls: list[tuple[str, Sequence[Any], Any]] = []

    def __getattr__(self, name: str) -> Any:
        run = getattr(self._backend, name)
        if not callable(run):
            return run

        def watched(*inputs: Any) -> Any:
            result = run(*inputs)
            self.calls.append((name, inputs, result))
            return result

        return watched

    def of(self, name: str) -> list[tuple[Sequence[Any], Any]]:
        """(inputs, outputs) of one graph."""
        return [(inputs, result) for found, inputs, result in self.calls if found == name]
