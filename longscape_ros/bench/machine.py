# SPDX-License-Identifier: Apache-2.0
"""The machine: what is said of it beside the figures, and the memory that a process has used."""

from __future__ import annotations

import platform
import resource
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from longscape_ros.runtime import cuda
from longscape_ros.runtime.cpus import usable_cpus

PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "opencv-python-headless", "torch", "tensorrt", "cupy-cuda12x", "cupy-cuda13x")
"""Packages whose versions matter; those that are not installed are not mentioned."""

_MB = 2**20


def describe() -> dict[str, str]:
    """``meta.cpu``, ``meta.cpus``, ``meta.system``, ``meta.python``, and ``meta.<package>`` of each of :data:`PACKAGES` that is there."""
    texts = {
        "meta.cpu": cpu_name(),
        "meta.cpus": str(usable_cpus()),
        "meta.system": f"{platform.system()} {platform.machine()}",
        "meta.python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            texts[f"meta.{package}"] = version(package)
        except PackageNotFoundError:
            continue
    return texts


def cpu_name() -> str:
    """For people."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def peak_rss_mb() -> float:
    """The most memory that this process had so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (_MB if sys.platform == "darwin" else 2**10)  # macOS counts bytes, Linux kilobytes


def gpu_memory_mb() -> float:
    """Memory of the GPU that is in use, by whomever, in MiB; 0 without a GPU. It has not been run on one."""
    if cuda.unavailable():
        return 0.0
    free, total = cuda.open_device().memory()
    return (total - free) / _MB
