# SPDX-License-Identifier: Apache-2.0
"""The command line as a process, and what the host must have for all of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.hosts import skip_unless_installed, skip_unless_rendered
from support.robot import write_robot_bundle

import longscape_ros
from longscape_ros.bundle import Bundle

ROOT = Path(longscape_ros.__file__).parent.parent


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_robot_bundle(tmp_path_factory.mktemp("bundles") / "robot")


@pytest.fixture(scope="session")
def start() -> Callable[..., subprocess.Popen[str]]:
    """Starts ``longscape ...`` as a process."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}  # models this small are slower on several

    def begin(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "longscape_ros", *map(str, arguments)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return begin


@pytest.fixture(scope="session")
def toolchain() -> None:
    """All that the way from the simulation to a prediction needs is installed, and the simulation can be rendered."""
    skip_unless_installed("metaworld", "mujoco", "torch", "einops", "onnx", "onnxscript", extra="sim,train")
    skip_unless_rendered()


@pytest.fixture
def one_thread(toolchain: None) -> Iterator[None]:
    """The same for PyTorch in this process."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
