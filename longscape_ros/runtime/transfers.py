# SPDX-License-Identifier: Apache-2.0
"""Between the host's memory and the GPU's, through page-locked memory, so that nobody has to wait for a copy before it is needed."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longscape_ros.runtime.cuda import Device, Event, Stream

STAGES = 2
"""Page-locked buffers per input: the next is filled while the last is copied."""

MOST_FREE = 8
"""Page-locked buffers for results that are kept for the next."""

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Buffer:
    """Memory of the GPU that one input or output of a graph lives in, for one set of sizes: address, shape, and NumPy's element type."""

    pointer: int
    shape: Shape
    dtype: str

    @property
    def size(self) -> int:
        """In bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


class Upload:
    """Brings arrays into an input's buffer, through page-locked memory if they are the host's."""

    def __init__(self, device: Device, buffer: Buffer, stream: Stream) -> None:
        self._device = device
        self._buffer = buffer
        self._stream = stream
        self._stages: list[NDArray[Any]] = []
        self._copied: deque[Event] = deque()

    def fill(self, array: Any, start: int, rows: int) -> None:
        """Queue a copy of the samples ``start`` ... ``start + rows`` to the buffer's beginning."""
        size = self._buffer.size // self._buffer.shape[0]
        if self._device.holds(array):
            self._device.copy(self._buffer.pointer, self._device.pointer(array) + start * size, rows * size, self._stream)
            return
        stage = self._stage()
        stage[:rows] = array[start : start + rows]
        self._device.copy(self._buffer.pointer, self._device.pointer(stage), rows * size, self._stream)
        self._stages.append(stage)
        self._copied.append(self._device.record(self._stream))

    def _stage(self) -> NDArray[Any]:
        """Page-locked memory that no copy reads any more."""
        if len(self._stages) < STAGES:
            return self._device.pinned(self._buffer.shape, self._buffer.dtype)
        self._device.synchronize(self._copied.popleft())
        return self._stages.pop(0)


class Downloads:
    """Page-locked memory for results, used again and again."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._free: list[NDArray[Any]] = []

    def take(self, shape: Shape, dtype: Any) -> Download:
        """Room for a result."""
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        fitting = [memory for memory in self._free if memory.size >= size]
        memory = min(fitting, key=len, default=None)
        if memory is None:
            memory = self.device.pinned((max(size, 1),), np.uint8)
        else:
            self._free = [other for other in self._free if other is not memory]
        return Download(self, memory, shape, np.dtype(dtype))

    def give_back(self, memory: NDArray[Any]) -> None:
        """Memory that nothing is copied to any more; the smallest goes if there is a lot."""
        self._free = sorted([*self._free, memory], key=len)[-MOST_FREE:]

    def clear(self) -> None:
        """Keep none."""
        self._free.clear()


class Download:
    """A result on its way to the host."""

    def __init__(self, pool: Downloads, memory: NDArray[Any], shape: Shape, dtype: np.dtype[Any]) -> None:
        self._pool = pool
        self._memory = memory
        self._shape = shape
        self._dtype = dtype
        self._event: Event = None
        self.size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        self.pointer = pool.device.pointer(memory)

    def when(self, stream: Stream) -> Download:
        """Mark it complete when what is queued now is done."""
        self._event = self._pool.device.record(stream)
        return self

    def fetch(self) -> NDArray[Any]:
        """Wait for it; once."""
        self._pool.device.synchronize(self._event)
        result: NDArray[Any] = self._memory[: self.size].view(self._dtype).reshape(self._shape).copy()
        self._pool.give_back(self._memory)
        return result
