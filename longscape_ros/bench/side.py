# SPDX-License-Identifier: Apache-2.0
"""A backend in a process of its own: its memory is its own, its threads and libraries disturb no other, and a crash ends it alone."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any

from longscape_ros.bench.cells import Cell
from longscape_ros.bundle import Bundle
from longscape_ros.errors import BackendError

OPEN_TIMEOUT_S = 1800.0
"""How long a backend may take to open: TensorRT's builds its engines then."""

RUN_TIMEOUT_S = 600.0
"""How long a run may take: the first one of a compiled graph compiles it."""

GRACE_S = 5.0
LAST_LINES = 3
_MODULE = "longscape_ros.bench.child"


@dataclass(frozen=True, slots=True)
class SideSpec:
    """What is compared.

    Args:
        name: A backend's.
        precision: What its denoisers compute in.
        threads: CPU threads; None: the backend's choice.
        device: ``cpu`` or ``cuda``; of torch only.
        compiled: Whether torch compiles its graphs.
    """

    name: str
    precision: str
    threads: int | None = None
    device: str = "cpu"
    compiled: bool = False

    @property
    def label(self) -> str:
        """Names the side in figures, for example ``ort_cpu.int8`` or ``torch_cuda_compiled.fp32``."""
        return f"{self.name}{'_cuda' * (self.device == 'cuda')}{'_compiled' * self.compiled}.{self.precision}"

    @property
    def on_cpu(self) -> bool:
        """Whether CPU threads do its work."""
        return self.name == "ort_cpu" or (self.name == "torch" and self.device == "cpu")


class Side:
    """The process of a side; a context manager. It is started at once, and opens its backend while the caller goes on.

    Args:
        bundle: What it runs.
        spec: On what.
    """

    def __init__(self, bundle: Bundle, spec: SideSpec) -> None:
        self.spec = spec
        self.opened: dict[str, Any] = {}
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", _MODULE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, start_new_session=True
        )
        self._answers: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        threading.Thread(target=self._listen, name="longscape-bench", daemon=True).start()
        self._order({"open": asdict(spec), "bundle": str(bundle.path.resolve())})

    def __enter__(self) -> Side:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def wait(self) -> None:
        """Until the backend is open; ``opened`` has its ``device``, ``threads`` and ``open_s`` then.

        Raises:
            BackendError: it does not open.
        """
        self.opened = self._answer("opened", OPEN_TIMEOUT_S)

    def milliseconds(self, cell: Cell) -> float:
        """Time a cell once.

        Raises:
            BackendError: it failed, or the process ended.
        """
        self._order({"time": cell.as_dict()})
        return float(self._answer("ms", RUN_TIMEOUT_S))

    def memory(self) -> dict[str, float]:
        """``peak_rss_mb``: the most memory that the process had; ``gpu_memory_mb``: what it uses of the GPU's now."""
        self._order({"memory": True})
        found: dict[str, float] = self._answer("memory", RUN_TIMEOUT_S)
        return found

    def close(self) -> None:
        """End the process."""
        process = self._process
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        for end in (process.terminate, process.kill):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
                break
            end()
        process.wait()
        self._said.close()

    def _order(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # that it has ended is told when the answer is waited for
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def _answer(self, key: str, timeout_s: float) -> Any:
        try:
            message = self._answers.get(timeout=timeout_s)
        except Empty:
            raise BackendError(f"Got no answer from {self.spec.label} for {timeout_s:g} s, expected its times.") from None
        if message is None:
            self._answers.put(None)
            raise BackendError(f"The process of {self.spec.label} ended; it said last: {self._last_words()}")
        if "fault" in message:
            raise BackendError(message["fault"])
        return message[key]

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._answers.put(json.loads(line))
        self._answers.put(None)

    def _last_words(self) -> str:
        self._process.wait(GRACE_S)
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").splitlines()
        return " | ".join([line.strip() for line in lines if line.strip()][-LAST_LINES:]) or "(nothing)"
