# SPDX-License-Identifier: Apache-2.0
"""A backend on a GPU: which memory, which stream, in which order. TensorRT and ONNX Runtime only run the graphs between its buffers.

Latents stay on the GPU from the encoder to the decoder. Everything is queued on two streams: one encodes, routes and denoises, the
other decodes, so that a chunk is decoded while the next is denoised. A graph runs between buffers that belong to it and to one set of
sizes, for good: that is what a CUDA graph needs. What goes in is copied there from page-locked memory or from the GPU's, what comes out
is copied to where nothing will overwrite it.

The machines this was written on have no GPU: it was tested on a device of the host's memory that does work as late as it may.

Batches are padded to a few sizes (:func:`padded`), and cut into parts where they are larger than an engine takes. A sample's result does
not depend on the others of its batch.

Letters: B batch, H W image, C h w latent, K context frames, T chunk frames, F action features.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from longscape_ros.bundle import DECODER, ENCODER, ERROR_ESTIMATOR, LENGTH_PREDICTOR, ROUTER, Bundle, Manifest, denoiser
from longscape_ros.errors import BackendError
from longscape_ros.runtime.backend import Float32, Latents, Rgb, expected_tensors
from longscape_ros.runtime.cuda import Array, Device, Stream
from longscape_ros.runtime.transfers import Buffer, Download, Downloads, Shape, Upload

MOST_PREPARED = 96
"""Sets of sizes, over all graphs, that are kept ready to run; beyond that the one that was not used for longest is given up."""

MOST_DECODING = 8
"""Chunks that are decoded and not fetched yet; the oldest is fetched when there is one more."""

T = TypeVar("T")
_LOG = logging.getLogger(__name__)

Tensors = dict[str, tuple[Shape, str]]
"""Name -> shape and NumPy's element type."""


Buffers = dict[str, Buffer]


class Program(Protocol):
    """A graph between fixed buffers. It is not running any more when it is dropped."""

    def enqueue(self) -> None:
        """Queue one run on the stream that it was prepared for."""


class Programs(Protocol):
    """The graphs of a bundle, resident on a GPU. None is running any more when they are dropped."""

    @property
    def use_cuda_graph(self) -> bool:
        """Whether runs are replayed as CUDA graphs; false after a capture failed."""

    def most(self, graph: str, sizes: Mapping[str, Shape]) -> int:
        """The largest batch that one run of a graph takes, where its inputs have ``sizes`` but for the batch.

        Raises:
            BackendError: it cannot take such sizes.
        """

    def prepare(self, graph: str, inputs: Buffers, outputs: Buffers) -> Program:
        """Make a graph ready to run between buffers, on the stream that was given for it.

        Raises:
            BackendError: it cannot take such sizes.
        """


OpenPrograms = Callable[[Mapping[str, Stream]], Programs]
"""Loads every graph, given the stream that each will run on."""


class GpuBackend:
    """A :class:`~longscape_ros.runtime.backend.Backend` on a GPU.

    Args:
        bundle: What to run.
        name: The backend's.
        precision: Of the denoisers.
        device: The GPU.
        open_programs: Loads the graphs.

    Raises:
        BackendError: the graphs cannot be loaded.
        BundleError: a graph does not take or give what the manifest says.
    """

    def __init__(self, bundle: Bundle, name: str, precision: str, device: Device, open_programs: OpenPrograms) -> None:
        self.name = name
        self.precision = precision
        self.device = f"{device.name} ({device.sm})"
        self.threads = 1
        self.lost = False
        """Whether the GPU failed for good; nothing in this process can use it any more."""
        self._manifest = bundle.manifest
        self._graphs = frozenset(bundle.manifest.graphs())
        self._gpu = device
        self._wanted: dict[tuple[str, int, int], tuple[Tensors, Tensors]] = {}
        self._prepared: OrderedDict[tuple[str, int, int], _Prepared] = OrderedDict()
        self._decoding: list[_Decoding] = []
        self._downloads = Downloads(device)
        self._programs: Programs | None = None
        with self._failing("load the graphs"):
            self._main = device.stream(shared=True)  # users work on the latents with CuPy's functions
            self._decode = device.stream(shared=False)
            self._programs = open_programs({graph: self._stream(graph) for graph in self._graphs})
        _LOG.info("Opened %s on %s, %s.", bundle.model_id, name, self.device)

    @property
    def use_cuda_graph(self) -> bool:
        """Whether runs are replayed as CUDA graphs; false after a capture failed."""
        return self._programs is not None and self._programs.use_cuda_graph

    def encode(self, rgb: Rgb) -> Latents:
        """See :class:`Backend`."""
        return self._on_gpu(ENCODER, "latents", {"rgb": rgb})

    def denoise(self, expert: int, context: Latents, actions: Float32, noise: Float32) -> Latents:
        """See :class:`Backend`."""
        return self._on_gpu(denoiser(expert), "latents", {"context": context, "actions": actions, "noise": noise})

    def route(self, context: Latents, coming: Float32) -> Float32:
        """See :class:`Backend`."""
        return self._on_host(ROUTER, "scores", {"context": context, "coming": coming})

    def predict_length(self, context: Latents) -> Float32:
        """See :class:`Backend`."""
        return self._on_host(LENGTH_PREDICTOR, "scores", {"context": context})

    def estimate_error(self, context: Latents, actions: Float32, latents: Latents, before: Float32) -> Float32:
        """See :class:`Backend`."""
        inputs = {"context": context, "actions": actions, "latents": latents, "before": before}
        return self._on_host(ERROR_ESTIMATOR, "log_error", inputs)

    def start_decoding(self, latents: Latents) -> Callable[[], Rgb]:
        """See :class:`Backend`."""
        with self._failing(f"run {DECODER}"):
            latents = self._settled(latents)
            if self._gpu.holds(latents):
                self._gpu.wait(self._decode, self._gpu.record(self._main))
            while len(self._decoding) >= MOST_DECODING:
                self._decoding.pop(0).finish()
            decoding = _Decoding(self._host_result(DECODER, "rgb", {"latents": latents}), latents)
            self._decoding.append(decoding)

        def finish() -> Rgb:
            with self._failing(f"run {DECODER}"):
                rgb = decoding.finish()
            if decoding in self._decoding:
                self._decoding.remove(decoding)
            return rgb

        return finish

    def fetch(self, latents: Latents) -> Float32:
        """See :class:`Backend`."""
        if isinstance(latents, np.ndarray):
            return latents
        with self._failing("copy latents to the host"):
            array = self._settled(latents)
            result = self._downloads.take(array.shape, array.dtype)
            self._gpu.copy(result.pointer, self._gpu.pointer(array), result.size, self._main)
            return result.when(self._main).fetch()

    def timed(self, work: Callable[[], T]) -> tuple[T, float]:
        """What ``work`` gives, and the milliseconds that the GPU needs for what it queues, between CUDA events."""
        begin = self._gpu.record(self._main, timed=True)
        self._gpu.wait(self._decode, begin)
        result = work()
        self._gpu.wait(self._main, self._gpu.record(self._decode))
        return result, self._gpu.elapsed_ms(begin, self._gpu.record(self._main, timed=True))

    def close(self) -> None:
        """See :class:`Backend`."""
        if self._programs is None:
            return
        try:
            for stream in (self._main, self._decode):
                self._gpu.synchronize(stream)  # nothing may be freed while it is used
        except RuntimeError as error:
            _LOG.warning("%s did not finish its work before it was closed: %s", self.name, error)
        self._decoding.clear()
        self._prepared.clear()
        self._downloads.clear()
        self._programs = None
        self._gpu.close()

    # ---- running ----

    def _stream(self, graph: str) -> Stream:
        return self._decode if graph == DECODER else self._main

    def _on_gpu(self, graph: str, output: str, inputs: dict[str, Any]) -> Array:
        """Run a graph; a new array of the GPU."""
        with self._failing(f"run {graph}"):
            shape, dtype = self._fitting(graph, inputs)[output]
            result = self._gpu.empty(shape, dtype, self._stream(graph))
            self._run(graph, output, inputs, self._gpu.pointer(result))
            return result

    def _on_host(self, graph: str, output: str, inputs: dict[str, Any]) -> NDArray[Any]:
        """Run a graph and wait for it."""
        with self._failing(f"run {graph}"):
            return self._host_result(graph, output, inputs).fetch()

    def _host_result(self, graph: str, output: str, inputs: dict[str, Any]) -> Download:
        """Run a graph, and have the result copied to the host."""
        shape, dtype = self._fitting(graph, inputs)[output]
        result = self._downloads.take(shape, dtype)
        self._run(graph, output, inputs, result.pointer)
        return result.when(self._stream(graph))

    def _run(self, graph: str, output: str, inputs: dict[str, Any], target: int) -> None:
        """Queue runs for all parts of a batch, and copies of what they give to ``target``."""
        assert self._programs is not None
        given = {name: self._settled(array) for name, array in inputs.items()}
        batch, length = _sizes(given)
        stream = self._stream(graph)
        most = self._programs.most(graph, {name: shape for name, (shape, _) in self._tensors(graph, 1, length)[0].items()})
        for start in range(0, batch, most):
            rows = min(most, batch - start)
            prepared = self._ready(graph, padded(rows, most), length)
            for name, array in given.items():
                prepared.inputs[name].fill(array, start, rows)
            prepared.program.enqueue()
            source = prepared.outputs[output]
            size = source.size // source.shape[0]
            self._gpu.copy(target + start * size, source.pointer, rows * size, stream)

    def _ready(self, graph: str, rows: int, length: int) -> _Prepared:
        """The graph between its buffers for ``rows`` samples of ``length`` frames."""
        key = (graph, rows, length)
        found = self._prepared.get(key)
        if found is not None:
            self._prepared.move_to_end(key)
            return found
        assert self._programs is not None
        while len(self._prepared) >= MOST_PREPARED:
            oldest = next(iter(self._prepared))
            self._gpu.synchronize(self._stream(oldest[0]))  # it may be running
            del self._prepared[oldest]
        stream = self._stream(graph)
        arrays: list[Array] = []

        def allocate(side: Tensors) -> Buffers:
            buffers = {}
            for name, (shape, dtype) in side.items():
                arrays.append(self._gpu.empty(shape, dtype, stream))
                buffers[name] = Buffer(self._gpu.pointer(arrays[-1]), shape, dtype)
            return buffers

        inputs, outputs = (allocate(side) for side in self._tensors(graph, rows, length))
        program = self._programs.prepare(graph, inputs, outputs)
        uploads = {name: Upload(self._gpu, buffer, stream) for name, buffer in inputs.items()}
        self._prepared[key] = _Prepared(program, uploads, outputs, arrays)
        return self._prepared[key]

    def _fitting(self, graph: str, inputs: Mapping[str, Any]) -> Tensors:
        """What the graph gives for these inputs; refuses those that do not fit together or the manifest."""
        if self._programs is None or graph not in self._graphs:
            raise BackendError(f"Got a request for {graph}, which is not open: the backend was closed, or the bundle has no such graph.")
        wanted, outputs = self._tensors(graph, *_sizes(inputs))
        for name, (shape, dtype) in wanted.items():
            array = inputs[name]
            if tuple(array.shape) != shape or str(array.dtype) != dtype:
                found = ", ".join(f"{other} {given.dtype} {list(given.shape)}" for other, given in inputs.items())
                raise BackendError(f"{self.name} failed to run {graph} on {found}: expected {name} {dtype} {list(shape)}.")
        return outputs

    def _tensors(self, graph: str, batch: int, length: int) -> tuple[Tensors, Tensors]:
        """:func:`tensors`, remembered, for it is asked for at every call."""
        key = (graph, batch, length)
        if key not in self._wanted:
            self._wanted[key] = tensors(graph, self._manifest, batch, length)
        return self._wanted[key]

    def _settled(self, array: Any) -> Any:
        """The array in C order."""
        return self._gpu.contiguous(array, self._main) if self._gpu.holds(array) else np.ascontiguousarray(array)

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        """Turn the GPU's faults into errors that say where and what to do. A fault may come of work that was queued before."""
        try:
            yield
        except BackendError:
            self._gpu.works()  # waits: what was queued before must not outlive its memory
            raise
        except (RuntimeError, MemoryError, OSError) as error:
            self.lost = not self._gpu.works()
            remedy = "The GPU is lost to this process: use ort_cpu, or start again." if self.lost else "If it goes on, use another backend."
            raise BackendError(f"{self.name} failed to {what} on {self.device}: {self._gpu.explain(error)}. {remedy}") from error


def padded(rows: int, most: int) -> int:
    """A batch's size on the GPU: the next of 1 ... 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, ... but no more than ``most``.

    So there are few sizes to prepare, and at most a quarter of the work is wasted.
    """
    step = 1
    while rows > 8 * step:
        step *= 2
    return min(-(-rows // step) * step, most)


def tensors(graph: str, manifest: Manifest, batch: int, length: int) -> tuple[Tensors, Tensors]:
    """Inputs and outputs of a graph for ``batch`` samples of ``length`` chunk frames."""

    def size(name: str, axis: int, given: int | None) -> int:
        if given is not None:
            return given
        if axis == 0:
            return batch
        return length + manifest.context if name == "actions" else length

    inputs, outputs = (
        {name: (tuple(size(name, axis, given) for axis, given in enumerate(shape)), dtype) for name, (dtype, shape) in side.items()}
        for side in expected_tensors(graph, manifest)
    )
    return inputs, outputs


def _sizes(inputs: Mapping[str, Any]) -> tuple[int, int]:
    """B, and T where there is a chunk, or 0."""
    batch = next(iter(inputs.values())).shape[0]
    chunk = inputs.get("noise", inputs.get("latents"))
    return batch, chunk.shape[1] if chunk is not None and chunk.ndim == 5 else 0


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A graph between its buffers; ``arrays`` keeps their memory."""

    program: Program
    inputs: dict[str, Upload]
    outputs: Buffers
    arrays: list[Array]


class _Decoding:
    """A chunk that is being decoded; keeps its latents until they have been read, for their memory would go to another array."""

    def __init__(self, result: Download, latents: Any) -> None:
        self._result = result
        self._latents = latents
        self._rgb: Rgb | None = None

    def finish(self) -> Rgb:
        """Wait for the images."""
        if self._rgb is None:
            self._rgb = self._result.fetch()
            self._latents = None
        return self._rgb
