# SPDX-License-Identifier: Apache-2.0
"""One thing that is timed on a backend, and timing it once.

Letters: B batch, K context frames, T chunk frames, N frames ahead.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from longscape_ros.bench import inputs
from longscape_ros.bench.product import INPUT, OUTPUT, product_graph, product_input
from longscape_ros.bench.timing import Run, Timed, timed
from longscape_ros.bundle import Bundle
from longscape_ros.errors import BackendError, InputError
from longscape_ros.runtime.backend import Backend
from longscape_ros.runtime.predictor import Predictor

MOST_READY = 8
"""Cells that are kept ready; those that are timed in turns are fewer."""

WARM_MS = 200.0
"""What takes less is run once more before it is timed."""

CellKind = Literal["denoise", "decode", "chunk", "horizon", "product"]


@dataclass(frozen=True, slots=True)
class Cell:
    """What is timed.

    Args:
        kind: ``denoise``: a batch of chunks, all sampling steps; ``decode``: as many frames; ``chunk``: the context's images encoded, one
            chunk denoised and decoded; ``horizon``: a whole prediction; ``product``: a matrix product of N x N in the backend's precision.
        size: T, N, or the product's N.
        batch: B, of ``denoise`` and ``decode``.
    """

    kind: CellKind
    size: int
    batch: int = 1

    def __post_init__(self) -> None:
        if self.size < 1 or self.batch < 1:
            raise InputError(f"Got size {self.size} and batch {self.batch}, expected at least 1.")

    def __str__(self) -> str:
        return f"{self.kind}{self.size}" + (f".b{self.batch}" if self.kind in ("denoise", "decode") else "")

    def as_dict(self) -> dict[str, Any]:
        """For a line of JSON."""
        return asdict(self)


class Bench:
    """A backend, and what it is given; what a cell needs is made when the cell is timed first.

    On a GPU whose backend can tell, times are those of CUDA events around what was queued; predictions, and everything on a CPU, are
    timed by the machine's clock until the result is there.

    Args:
        bundle: The model.
        backend: Runs it.
    """

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.backend = backend
        self.bundle = bundle
        self._predictor = Predictor(bundle, backend)
        self._events = getattr(backend, "timed", None)
        self._cells: dict[Cell, Timed] = {}
        self._took_ms: dict[Cell, float] = {}

    def milliseconds(self, cell: Cell) -> float:
        """Time a cell once; if it is short, right after it was run before.

        Raises:
            BackendError: it failed, or this backend cannot do it.
        """
        if cell not in self._cells:
            if len(self._cells) >= MOST_READY:
                self._cells.clear()  # large batches need their memory
            self._cells[cell] = self._make(cell)
        run = self._cells[cell]
        if self._took_ms.get(cell, 0.0) < WARM_MS:
            run()  # since the last one other processes had the caches, and threads fell asleep
        self._took_ms[cell] = run()
        return self._took_ms[cell]

    def _make(self, cell: Cell) -> Timed:
        if cell.kind == "product":
            return self._product(cell.size) if self.backend.name == "ort_cpu" else self._product_on_gpu(cell.size)
        if cell.kind == "horizon":
            snapshot = inputs.snapshot(self.bundle, cell.size)
            return timed(lambda: self._predictor.predict(snapshot, horizon=cell.size))
        if cell.kind == "denoise":
            return self._timed(self._denoise(cell.size, cell.batch))
        if cell.kind == "decode":
            latents = inputs.noise(self.bundle.manifest, cell.size * cell.batch)[0]
            return self._timed(lambda: self.backend.start_decoding(latents)())
        denoise, rgb = self._denoise(cell.size, 1), inputs.context_images(self.bundle)

        def chunk() -> None:
            self.backend.encode(rgb)
            self.backend.start_decoding(denoise()[0])()

        return timed(chunk)

    def _timed(self, run: Run) -> Timed:
        """By CUDA events, where there are such."""
        events = self._events
        return timed(run) if events is None else lambda: float(events(run)[1])

    def _denoise(self, length: int, batch: int) -> Callable[[], Any]:
        manifest = self.bundle.manifest
        context = self.backend.fetch(self.backend.encode(inputs.context_images(self.bundle)))[None].repeat(batch, axis=0)
        actions, noise = inputs.features(manifest, length, batch), inputs.noise(manifest, length, batch)
        expert = inputs.expert_of(manifest, length)
        return lambda: self.backend.denoise(expert, context, actions, noise)

    def _product(self, size: int) -> Timed:
        from longscape_ros.runtime.onnxruntime_backend import open_session

        model = product_graph(size, self.backend.precision)
        session = open_session(Path("product.onnx"), model, self.backend.threads)
        given = {INPUT: product_input(size, self.backend.precision)}
        return timed(lambda: session.run([OUTPUT], given))

    def _product_on_gpu(self, size: int) -> Timed:
        """By cuBLAS, between CUDA events. Written for machines with a GPU; it has not been run on one."""
        if self._events is None:
            raise BackendError(f"Got a matrix product to time on {self.backend.name}, expected ort_cpu or a backend on a GPU.")
        cupy = importlib.import_module("cupy")  # only where a backend has found it
        first, second = (cupy.asarray(product_input(size, self.backend.precision)) for _ in range(2))
        result = cupy.empty_like(first)
        begin, end = cupy.cuda.Event(), cupy.cuda.Event()

        def product() -> float:
            begin.record()
            cupy.matmul(first, second, out=result)
            end.record()
            end.synchronize()
            return float(cupy.cuda.get_elapsed_time(begin, end))

        return product
