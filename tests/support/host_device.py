# SPDX-License-Identifier: Apache-2.0
"""A :class:`~longscape_ros.runtime.cuda.Device` made of the host's memory, for tests of what is done with buffers and streams.

It is as unkind as a GPU may be. Queued work waits until an event or a stream is waited for, and then only what must come before is done;
or, with a seed, work of any stream is done at any time. New memory is full of rubbish. Memory of an array that was dropped is again at
that point of its stream's work, whatever other streams have still to do; page-locked memory at once. Arrays do not turn into NumPy's by
accident, and CuPy's functions (NumPy's, here) wait for streams that share with the default stream, and for no others.
"""

from __future__ import annotations

import ctypes
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

RUBBISH = 0xFB
"""Every byte of new and of freed memory: as float32 it is -2.6e36, as float16 -60,000 or so."""


class HostArray:
    """An array of the device; its views share the memory, which is freed with the last of them."""

    def __init__(self, device: HostDevice, array: np.ndarray[Any, Any], memory: object) -> None:
        self.device, self.array, self.memory = device, array, memory
        self.shape, self.dtype, self.ndim, self.nbytes = array.shape, array.dtype, array.ndim, array.nbytes

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: Any) -> HostArray:
        return HostArray(self.device, self.array[index], self.memory)

    def __array__(self, *_: Any, **__: Any) -> np.ndarray[Any, Any]:
        raise TypeError("Implicit conversion to a NumPy array is not allowed; use the backend's fetch().")

    def __array_function__(self, function: Any, _: Any, args: Any, kwargs: Any) -> HostArray:
        self.device.run_shared()
        return self.device.on_device(function(*_unwrap(args), **kwargs))


def _unwrap(value: Any) -> Any:
    if isinstance(value, HostArray):
        return value.array
    return type(value)(_unwrap(v) for v in value) if isinstance(value, (list, tuple)) else value


class _Memory:
    """What an array's views have in common."""


class HostStream:
    """Work in its order."""

    def __init__(self, ptr: int, shared: bool) -> None:
        self.ptr = ptr
        self.shared = shared
        self.queued: deque[Callable[[], None]] = deque()
        self.done = 0
        self.capturing = False

    @property
    def end(self) -> int:
        return self.done + len(self.queued)

    def run(self, until: int) -> None:
        while self.done < until:
            self.done += 1
            self.queued.popleft()()


@dataclass(frozen=True)
class HostEvent:
    """A point in a stream's work."""

    stream: HostStream
    at: int


@dataclass
class HostGraph:
    """Recorded work."""

    work: list[Callable[[], None]]


@dataclass
class HostDevice:
    """See the module.

    Args:
        seed: None: work is done as late as possible; else at times drawn with this seed.
        total: Bytes of memory.
        capturable: Whether work can be recorded.
    """

    seed: int | None = None
    total: int = 1 << 40
    capturable: bool = True
    name: str = "Host GPU"
    sm: str = "SM89"
    used: int = 0
    page_locked: int = 0
    captured: int = 0
    launched: int = 0
    downloaded: int = 0
    dead: bool = False
    streams: dict[int, HostStream] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._blocks: dict[int, np.ndarray[Any, Any]] = {}  # never given back, so that stray writes hurt nobody else
        self._free: dict[tuple[int, int], list[int]] = {}
        self._pinned: set[int] = set()
        self._random = None if self.seed is None else np.random.default_rng(self.seed)

    def memory(self) -> tuple[int, int]:
        return self.total - self.used, self.total

    def stream(self, shared: bool) -> HostStream:
        stream = HostStream(1000 + len(self.streams), shared)
        self.streams[stream.ptr] = stream
        return stream

    def empty(self, shape: tuple[int, ...], dtype: Any, stream: HostStream) -> HostArray:
        size = max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize)
        if self.used + size > self.total:
            raise MemoryError(f"out of memory allocating {size} bytes")
        free = self._free.setdefault((stream.ptr, size), [])
        address = free.pop() if free else self._allocate(size)
        self.used += size
        memory = _Memory()
        weakref.finalize(memory, self._drop, stream.ptr, address, size)
        raw = self._blocks[address][: int(np.prod(shape)) * np.dtype(dtype).itemsize]
        return HostArray(self, raw.view(dtype).reshape(shape), memory)

    def on_device(self, array: np.ndarray[Any, Any]) -> HostArray:
        """A new array with this content, made by the default stream."""
        result = self.empty(array.shape, array.dtype, HostStream(0, True))
        result.array[...] = array
        return result

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        block = self._blocks[address := self._allocate(max(size, 1))]
        self._pinned.add(address)
        self.page_locked += size
        array = block[:size].view(dtype).reshape(shape)
        weakref.finalize(array, self._drop_pinned, address, size)
        return array

    def holds(self, array: object) -> bool:
        return isinstance(array, HostArray)

    def contiguous(self, array: HostArray, stream: HostStream) -> HostArray:
        if array.array.flags.c_contiguous:
            return array
        result = self.empty(array.shape, array.dtype, stream)
        self.queue(stream, lambda target=result.array, source=array.array: np.copyto(target, source))
        return result

    def pointer(self, array: Any) -> int:
        return int(array.ctypes.data if isinstance(array, np.ndarray) else array.array.ctypes.data)

    def copy(self, target: int, source: int, size: int, stream: HostStream) -> None:
        self.downloaded += size * self._is_pinned(target)
        self.queue(stream, lambda: ctypes.memmove(target, source, size))

    def record(self, stream: HostStream, timed: bool = False) -> HostEvent:
        return HostEvent(stream, stream.end)

    def elapsed_ms(self, begin: HostEvent, end: HostEvent) -> float:
        """As many as there were pieces of work between them."""
        self.synchronize(end)
        return float(end.at - begin.at)

    def wait(self, stream: HostStream, event: HostEvent) -> None:
        self.queue(stream, lambda: event.stream.run(event.at))

    def synchronize(self, waited_for: HostEvent | HostStream) -> None:
        self._check()
        event = self.record(waited_for) if isinstance(waited_for, HostStream) else waited_for
        event.stream.run(event.at)

    def capture(self, work: Callable[[HostStream], None]) -> HostGraph:
        if not self.capturable:
            raise RuntimeError("cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing")
        stream = self.stream(shared=False)
        stream.capturing = True
        work(stream)
        self.captured += 1
        return HostGraph(list(stream.queued))

    def launch(self, graph: HostGraph, stream: HostStream) -> None:
        self.launched += 1
        for work in graph.work:
            self.queue(stream, work)

    def explain(self, error: BaseException) -> str:
        return str(error)

    def works(self) -> bool:
        return not self.dead

    def close(self) -> None:
        self._free.clear()

    def queue(self, stream: HostStream, work: Callable[[], Any]) -> None:
        """Add work to a stream, and perhaps do some."""
        self._check()
        stream.queued.append(work)
        if self._random is not None and not stream.capturing:
            for other in self.streams.values():
                if not other.capturing and self._random.random() < 0.3:
                    other.run(other.done + int(self._random.integers(0, len(other.queued) + 1)))

    def run_shared(self) -> None:
        """What the default stream waits for."""
        for stream in self.streams.values():
            if stream.shared and not stream.capturing:
                stream.run(stream.end)

    def _check(self) -> None:
        if self.dead:
            raise RuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")

    def _allocate(self, size: int) -> int:
        block = np.full(-(-size // 256) * 256, RUBBISH, np.uint8)
        self._blocks[block.ctypes.data] = block
        return int(block.ctypes.data)

    def _drop(self, stream: int, address: int, size: int) -> None:
        self.used -= size
        self._free.setdefault((stream, size), []).append(address)
        block = self._blocks[address]
        if stream in self.streams:  # the stream's next work may write there, and other streams may not read any more
            self.streams[stream].queued.append(lambda: block.fill(RUBBISH))

    def _drop_pinned(self, address: int, size: int) -> None:
        self.page_locked -= size
        self._blocks[address].fill(RUBBISH)  # the host's memory is anyone's at once

    def _is_pinned(self, address: int) -> bool:
        return address in self._pinned
