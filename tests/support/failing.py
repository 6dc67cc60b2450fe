# SPDX-License-Identifier: Apache-2.0
"""Kinds of backends that are ONNX Runtime on the CPU under another name, and fail when they are told to."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from longscape_ros.bundle import Bundle
from longscape_ros.errors import BackendError
from longscape_ros.runtime.backend import FP32
from longscape_ros.runtime.kinds import Engines, Kind, Wanted
from longscape_ros.runtime.onnxruntime_backend import OnnxRuntimeBackend

GRAPHS = ("encode", "denoise", "start_decoding", "route", "predict_length", "estimate_error")


class Failing:
    """A real backend that runs out of memory.

    Args:
        bundle: What it runs.
        name: What it calls itself.
        precision: What it says that it computes in.
        fails_at: Number of the call of a graph at which it fails, from 0 on, and ever after; None: never.
        lost: Whether the GPU is lost from then on.
        closes: Whether it can be closed.
    """

    device = "a GPU that is a CPU"
    threads = 1

    def __init__(
        self, bundle: Bundle, name: str, precision: str = FP32, fails_at: int | None = None, lost: bool = False, closes: bool = True
    ) -> None:
        self._backend = OnnxRuntimeBackend(bundle, threads=1)
        self._will_be_lost, self._closes = lost, closes
        self.name, self.precision = name, precision
        self.fails_at = fails_at
        self.lost = False
        self.calls = 0
        self.closed = 0

    def __getattr__(self, name: str) -> Any:
        run = getattr(self._backend, name)
        if name not in GRAPHS:
            return run

        def counted(*inputs: Any) -> Any:
            if self.closed:
                raise BackendError(f"{self.name} was closed")
            self.calls += 1
            if self.fails_at is not None and self.calls > self.fails_at:
                self.lost = self._will_be_lost
                raise BackendError(f"{self.name} is out of memory")
            return run(*inputs)

        return counted

    def close(self) -> None:
        """Counted; it may fail too."""
        self.closed += 1
        if not self._closes:
            raise RuntimeError("the driver is gone")


class Machine:
    """A machine with some kinds of backends; what was opened on it, in order, is in ``opened``.

    Args:
        bundle: What is opened.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self.kinds: list[Kind] = []
        self.opened: list[Failing] = []

    def add(
        self,
        name: str,
        why_not: str = "",
        opens: bool = True,
        precisions: tuple[str, ...] = (FP32,),
        on_gpu: bool = True,
        engines: Engines | None = None,
        lacks: str = "",
        **failing: Any,
    ) -> Machine:
        """Gives the machine a kind that is the next best; ``failing``: see :class:`Failing`."""

        def open_kind(bundle: Bundle, precision: str, wanted: Wanted) -> Any:
            if not opens:
                raise BackendError(f"{name} does not open")
            self.opened.append(Failing(bundle, name, precision, **failing))
            return self.opened[-1]

        self.kinds.append(Kind(name, precisions, lambda: why_not, open_kind, lambda *_: lacks, engines, on_gpu))
        return self

    @property
    def left_open(self) -> list[str]:
        """Names of the backends that were not closed."""
        return [backend.name for backend in self.opened if not backend.closed]


def script(*lines: Any, code: int = 0, then: str = "") -> list[str]:
    """Command line of a process that says lines (what is no text, as JSON), runs Python code and ends with an exit status."""
    said = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    return [sys.executable, "-c", "".join(f"print({line!r}, flush=True)\n" for line in said) + f"{then}\nraise SystemExit({code})"]


def progress(number: int, total: int, share: float = 0.0, name: str = "encoder.onnx") -> dict[str, Any]:
    """A line that tells how far a build is."""
    return {"progress": {"number": number, "total": total, "share": share, "name": name}}


def built_by(command: Sequence[str], is_built: Sequence[bool] = (False,)) -> Engines:
    """Engines that a process builds; ``is_built``: what the cache says, newest last."""
    return Engines(lambda *_: is_built[-1], lambda *_: list(command))
