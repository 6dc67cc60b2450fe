# SPDX-License-Identifier: Apache-2.0
"""What can be said of CUDA where there is none, and that CuPy has what is used of it."""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.host_device import HostDevice

from longscape_ros.errors import BackendError
from longscape_ros.runtime import cuda
from longscape_ros.runtime.cuda import CupyDevice, Device


class CUDARuntimeError(RuntimeError):
    """CuPy's."""


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A CuPy whose ``answer`` is what it finds: a number of GPUs, or a fault."""
    module = SimpleNamespace(answer=1)

    def count() -> int:
        if isinstance(module.answer, Exception):
            raise module.answer
        return int(module.answer)

    module.cuda = SimpleNamespace(runtime=SimpleNamespace(getDeviceCount=count, CUDARuntimeError=CUDARuntimeError))
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr(cuda.importlib.util, "find_spec", lambda name: name)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return module


def test_without_cupy_the_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda.importlib.util, "find_spec", lambda name: None)
    assert cuda.unavailable().startswith("CuPy is not installed; install cupy-cuda13x")
    with pytest.raises(BackendError, match=r"Found no GPU to run on: CuPy is not installed; install cupy-cuda13x .* or cupy-cuda12x"):
        cuda.open_device()


def test_a_cupy_that_cannot_be_imported_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert "CuPy cannot be imported" in cuda.unavailable()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (1, ""),
        (0, "CUDA finds no GPU"),
        (CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected"), "CUDA finds no GPU"),
        (
            CUDARuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient"),
            "there is no NVIDIA driver, or it is too old",
        ),
        (CUDARuntimeError("cudaErrorSystemNotReady: system not yet initialized"), "CUDA does not start (cudaErrorSystemNotReady"),
    ],
)
def test_every_fault_of_cuda_has_its_own_text(cupy: Any, answer: Any, text: str) -> None:
    cupy.answer = answer
    assert cuda.unavailable().startswith(text)
    assert bool(cuda.unavailable()) == bool(text)


def test_a_gpu_that_the_environment_hides_is_explained(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cupy.answer = 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert "in CUDA_VISIBLE_DEVICES='7'; choose one that nvidia-smi lists" in cuda.unavailable()


def test_the_stand_in_has_the_methods_of_a_device() -> None:
    wanted = {name for name in vars(Device) if not name.startswith("_")} - {"name", "sm"}
    for kind in (HostDevice, CupyDevice):
        assert wanted <= set(vars(kind)), kind


# ---- the real CuPy, without a GPU ----


@pytest.fixture(scope="module")
def real_cupy() -> Any:
    if importlib.util.find_spec("cupy") is None:
        pytest.skip("CuPy is not installed")
    return importlib.import_module("cupy")


def test_cupy_has_all_that_is_used_of_it(real_cupy: Any) -> None:
    used = {
        real_cupy: ["ndarray", "ascontiguousarray"],
        real_cupy.cuda: ["MemoryPool", "PinnedMemoryPool", "Stream", "Event", "Device"],
        real_cupy.cuda.runtime: [
            *("getDeviceCount", "getDeviceProperties", "memGetInfo", "memcpyAsync", "memcpyDefault", "deviceSynchronize"),
            *("streamCaptureModeThreadLocal", "CUDARuntimeError"),
        ],
        real_cupy.cuda.Stream: ["begin_capture", "end_capture", "wait_event", "synchronize", "__enter__", "__exit__"],
        real_cupy.cuda.Event: ["record", "synchronize"],
        real_cupy.cuda.Graph: ["launch"],
        real_cupy.cuda.MemoryPool: ["malloc", "free_all_blocks"],
        real_cupy.cuda.PinnedMemoryPool: ["malloc", "free_all_blocks"],
        real_cupy.cuda.Device: ["compute_capability"],
    }
    missing = [(owner, name) for owner, names in used.items() for name in names if not hasattr(owner, name)]
    assert not missing


def test_the_real_cupy_without_a_gpu_is_explained(real_cupy: Any) -> None:
    if real_cupy.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert cuda.unavailable().startswith(("there is no NVIDIA driver", "CUDA finds no GPU", "CUDA does not start"))


# ---- a real GPU ----


def test_a_real_gpu_copies_orders_and_replays_work() -> None:
    reason = cuda.unavailable()
    if reason:
        pytest.skip(reason)
    device = cuda.open_device()
    main, other = device.stream(shared=True), device.stream(shared=False)
    given = device.pinned((1000,), np.float32)
    given[:] = np.arange(1000)
    arrays = [device.empty((1000,), np.float32, main) for _ in range(2)]
    first, second = (device.pointer(array) for array in arrays)
    back = device.pinned((1000,), np.float32)
    device.copy(first, device.pointer(given), given.nbytes, main)
    graph = device.capture(lambda stream: device.copy(second, first, given.nbytes, stream))
    device.launch(graph, main)
    device.wait(other, device.record(main))
    device.copy(device.pointer(back), second, given.nbytes, other)
    device.synchronize(device.record(other))
    assert np.array_equal(back, given)
    assert device.holds(arrays[0][10:20])
    assert not device.holds(back)
    assert device.pointer(arrays[0][10:]) == first + 40
    assert device.works()
    assert device.memory()[0] > 0
    device.close()
