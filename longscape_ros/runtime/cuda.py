# SPDX-License-Identifier: Apache-2.0
"""What the GPU backends need of CUDA, through CuPy: memory, streams, events, graphs.

:class:`Device` is all they use, so that what they do with buffers and streams can be tested on memory of the host, where work is done as
late as its synchronisation allows. The machines this was written on have no GPU: :class:`CupyDevice` has been checked against CuPy's
signatures, and has not been run.

Work is queued on streams and done in their order; two streams are ordered by events alone. Pointers are unified addresses (CUDA's of
64-bit systems), so that one kind of copy serves all directions.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from longscape_ros.errors import BackendError

Array = Any
"""An array in the GPU's memory: NumPy's shape, dtype, length and indexing."""

Event = Any
"""A point in a stream's work."""

Graph = Any
"""Work that was recorded once and can be queued again at the price of a single launch."""

_GIB = 1 << 30
_PACKAGES = "cupy-cuda13x (driver 580 or newer) or cupy-cuda12x (driver 525 or newer, Jetson)"


class Stream(Protocol):
    """Work that is done in the order in which it was queued."""

    @property
    def ptr(self) -> int:
        """CUDA's handle, as TensorRT and ONNX Runtime take it."""


class Device(Protocol):
    """A GPU. What queues work returns at once; a fault may show at any later call."""

    @property
    def name(self) -> str:
        """For people, for example ``NVIDIA RTX 4090``."""

    @property
    def sm(self) -> str:
        """Architecture, for example ``SM89``."""

    def memory(self) -> tuple[int, int]:
        """Bytes that are free, and in all."""

    def stream(self, shared: bool) -> Stream:
        """A new stream.

        Args:
            shared: Whether the default stream waits for it and it for the default stream, as CuPy's own functions need it that work on
                arrays of this stream.
        """

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike, stream: Stream) -> Array:
        """A new array. Its memory goes to the next array of ``stream`` when it is dropped: another stream must be done with it by then."""

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """A new array of the host in page-locked memory, which copies do not have to wait for."""

    def holds(self, array: object) -> bool:
        """Whether ``array`` is in the GPU's memory."""

    def contiguous(self, array: Array, stream: Stream) -> Array:
        """The array, or a copy in C order made on ``stream``."""

    def pointer(self, array: Array | NDArray[Any]) -> int:
        """Address of the first element, on the GPU or in page-locked memory."""

    def copy(self, target: int, source: int, size: int, stream: Stream) -> None:
        """Queue a copy of ``size`` bytes, in any direction. Host memory must be page-locked, and left alone until it was done."""

    def record(self, stream: Stream, timed: bool = False) -> Event:
        """The point that the stream's work has reached when all that is queued now is done; ``timed``: remembers when that was."""

    def elapsed_ms(self, begin: Event, end: Event) -> float:
        """Milliseconds between two events that were timed; waits for the second."""

    def wait(self, stream: Stream, event: Event) -> None:
        """Let the stream's further work wait for an event."""

    def synchronize(self, waited_for: Event | Stream) -> None:
        """Wait for an event or for all of a stream's work; the thread sleeps."""

    def capture(self, work: Callable[[Stream], None]) -> Graph:
        """Record what ``work`` queues on the stream that it is given, a private one, without doing it."""

    def launch(self, graph: Graph, stream: Stream) -> None:
        """Queue recorded work."""

    def explain(self, error: BaseException) -> str:
        """A fault in words, with a remedy."""

    def works(self) -> bool:
        """Whether the GPU still answers; if not, no later call of this process can succeed."""

    def close(self) -> None:
        """Give memory back that is kept for reuse."""


def unavailable() -> str:
    """Why CUDA cannot be used here, with the remedy; empty: it can."""
    if importlib.util.find_spec("cupy") is None:
        return f"CuPy is not installed; install {_PACKAGES} with pip"
    try:
        runtime = importlib.import_module("cupy").cuda.runtime
    except Exception as error:  # a library that does not load raises what it likes
        return f"CuPy cannot be imported ({error}); install one package of it alone: {_PACKAGES}"
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        if "InsufficientDriver" in str(error):
            return f"there is no NVIDIA driver, or it is too old for CuPy's CUDA ({error}); install a newer driver, or {_PACKAGES}"
        if "NoDevice" in str(error):
            return _no_device()
        return f"CUDA does not start ({error}); see what nvidia-smi says"
    return "" if count else _no_device()


def open_device() -> CupyDevice:
    """The GPU of this process: CUDA's first, so CUDA_VISIBLE_DEVICES chooses it.

    Raises:
        BackendError: there is none that can be used.
    """
    reason = unavailable()
    if reason:
        raise BackendError(f"Found no GPU to run on: {reason}.")
    return CupyDevice()


def _no_device() -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "CUDA finds no GPU" + (f" in CUDA_VISIBLE_DEVICES={visible!r}; choose one that nvidia-smi lists" if visible is not None else "")


class CupyDevice:
    """A :class:`Device` on CUDA's first GPU.

    CuPy's kernels, compiled with NVRTC, are needed only for arrays that are not contiguous; all else is plain copies.
    """

    def __init__(self) -> None:
        self._cupy = importlib.import_module("cupy")
        cuda = self._cupy.cuda
        self._runtime = cuda.runtime
        self._arrays = cuda.MemoryPool()
        self._page_locked = cuda.PinnedMemoryPool()
        self.name: str = self._runtime.getDeviceProperties(0)["name"].decode()
        self.sm: str = f"SM{cuda.Device(0).compute_capability}"

    def memory(self) -> tuple[int, int]:
        """See :class:`Device`."""
        free, total = self._runtime.memGetInfo()
        return int(free), int(total)

    def stream(self, shared: bool) -> Stream:
        """See :class:`Device`."""
        stream: Stream = self._cupy.cuda.Stream(non_blocking=not shared)
        return stream

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike, stream: Stream) -> Array:
        """See :class:`Device`."""
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        current: Any = stream
        with current:  # the pool keeps what was freed apart by the stream that was current
            return self._cupy.ndarray(shape, dtype, self._arrays.malloc(max(size, 1)))

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """See :class:`Device`."""
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        array: NDArray[Any] = np.ndarray(shape, dtype, self._page_locked.malloc(max(size, 1)))
        return array

    def holds(self, array: object) -> bool:
        """See :class:`Device`."""
        return isinstance(array, self._cupy.ndarray)

    def contiguous(self, array: Array, stream: Stream) -> Array:
        """See :class:`Device`."""
        if array.flags.c_contiguous:
            return array
        current: Any = stream
        with current:
            return self._cupy.ascontiguousarray(array)

    def pointer(self, array: Array | NDArray[Any]) -> int:
        """See :class:`Device`."""
        return int(array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr)

    def copy(self, target: int, source: int, size: int, stream: Stream) -> None:
        """See :class:`Device`."""
        self._runtime.memcpyAsync(target, source, size, self._runtime.memcpyDefault, stream.ptr)

    def record(self, stream: Stream, timed: bool = False) -> Event:
        """See :class:`Device`."""
        event = self._cupy.cuda.Event(block=True, disable_timing=not timed)
        event.record(stream)
        return event

    def elapsed_ms(self, begin: Event, end: Event) -> float:
        """See :class:`Device`."""
        self.synchronize(end)
        return float(self._cupy.cuda.get_elapsed_time(begin, end))

    def wait(self, stream: Stream, event: Event) -> None:
        """See :class:`Device`."""
        queue: Any = stream
        queue.wait_event(event)

    def synchronize(self, waited_for: Event | Stream) -> None:
        """See :class:`Device`."""
        point: Any = waited_for
        point.synchronize()

    def capture(self, work: Callable[[Stream], None]) -> Graph:
        """See :class:`Device`.

        The stream does not wait for the default stream, whose use by others would break the capture (CUDA C++ Programming Guide,
        "Prohibited and Unhandled Operations"). The mode refuses what only this thread must not do meanwhile, such as allocating.
        """
        stream = self._cupy.cuda.Stream(non_blocking=True)
        stream.begin_capture(self._runtime.streamCaptureModeThreadLocal)
        try:
            work(stream)
        except BaseException:
            with contextlib.suppress(Exception):  # what broke the capture is raised, not that it is broken
                stream.end_capture()
            raise
        return stream.end_capture()

    def launch(self, graph: Graph, stream: Stream) -> None:
        """See :class:`Device`."""
        graph.launch(stream)

    def explain(self, error: BaseException) -> str:
        """See :class:`Device`."""
        text = str(error) or type(error).__name__
        if isinstance(error, MemoryError) or "MemoryAllocation" in text or "out of memory" in text.lower():
            try:
                free, total = self.memory()
            except Exception:  # the GPU may be gone
                return f"out of GPU memory ({text})"
            return (
                f"out of GPU memory, {free / _GIB:.1f} of {total / _GIB:.1f} GiB are free ({text}); "
                "end other programs on the GPU, or ask for fewer candidates"
            )
        return text

    def works(self) -> bool:
        """See :class:`Device`."""
        try:
            self._runtime.deviceSynchronize()
        except self._runtime.CUDARuntimeError:
            return False
        return True

    def close(self) -> None:
        """See :class:`Device`."""
        with contextlib.suppress(self._runtime.CUDARuntimeError):  # of a GPU that is lost
            self._arrays.free_all_blocks()
            self._page_locked.free_all_blocks()
