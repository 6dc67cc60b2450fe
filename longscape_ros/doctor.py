# SPDX-License-Identifier: Apache-2.0
"""What this machine has of all that the package can use, and what to do about what is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from longscape_ros.bundle import Bundle, find_bundle, load_bundle
from longscape_ros.errors import HostError, LongscapeError
from longscape_ros.runtime.backends import Ladder
from longscape_ros.runtime.cpus import usable_cpus
from longscape_ros.runtime.kinds import Wanted, all_kinds
from longscape_ros.runtime.predictor import Predictor
from longscape_ros.runtime.tensorrt import load_tensorrt

Status = Literal["ok", "note", "missing"]
"""``note``: something that only some uses need is absent or unusual."""

PATIENCE_S = 60.0
"""How long another program may take to answer."""

DISCOVERY_RANGES = ("SUBNET", "LOCALHOST", "OFF", "SYSTEM_DEFAULT")
HIGHEST_DOMAIN = 232
SHARED_DOMAINS = range(102, 215)
"""Domains whose ports Linux hands out by itself."""

_CLIENT_LIBRARY = """
from longscape_ros.embedded import ensure_rclpy
library = ensure_rclpy()
import rclpy
print(library, getattr(rclpy, "__file__", ""))
"""

BUILD = "to build engines: longscape_predictor --ros-args -p build_only:=true"
"""What to do where a better backend should run a bundle."""

_BACKEND_REMEDIES = {
    "tensorrt": "only with an NVIDIA GPU: pip install 'longscape_ros[tensorrt-rtx]', or 'longscape_ros[tensorrt]' for data-centre GPUs",
    "ort_tensorrt": "only with an NVIDIA GPU: pip install 'longscape_ros[tensorrt-rtx]'",
    "ort_cuda": "only with an NVIDIA GPU: pip uninstall onnxruntime; pip install 'longscape_ros[gpu]'",
    "ort_cpu": "pip install --force-reinstall onnxruntime",
    "torch": "only to compare with: pip install 'longscape_ros[train]'",
}
"""Backend -> what to do where it cannot be used."""


@dataclass(frozen=True, slots=True)
class Check:
    """One finding.

    Args:
        name: What was looked at.
        status: How it is.
        found: What is there.
        remedy: What to do; empty: nothing.
    """

    name: str
    status: Status
    found: str
    remedy: str = ""


def examine(bundle: Path | None = None) -> list[Check]:
    """Look at everything.

    Args:
        bundle: The model to look at; None: the one that ships with the package.
    """
    return [
        _python(),
        _client_library(),
        *_dds(),
        *_backends(),
        _gpu(),
        _tensorrt(),
        *_bundle(bundle),
        _simulator(),
        _graphics(),
        _package("video", ("av", "PIL"), "video", "the demo's video"),
        _package("viewer", ("rerun",), "view", "longscape view"),
        _package("training", ("torch", "onnx", "onnxscript"), "train", "longscape train and export"),
    ]


def _python() -> Check:
    return Check("python", "ok", f"{sys.version.split()[0]} at {sys.executable}, {usable_cpus()} CPUs")


# ---- the graph ----


def _client_library() -> Check:
    """Asked of a process of its own: the answer settles which rclpy a process has."""
    answer = _ask([sys.executable, "-c", _CLIENT_LIBRARY])
    distribution = os.environ.get("ROS_DISTRO", "")
    if answer.fault:
        remedy = f"repair ROS 2 {distribution}, or use a shell without it" if distribution else "pip install 'longscape_ros[embedded]'"
        return Check("client_library", "missing", answer.fault, remedy)
    library, _, file = answer.text.splitlines()[-1].partition(" ")
    if library == "rclpy":
        middleware = os.environ.get("RMW_IMPLEMENTATION") or "its default middleware"
        return Check("client_library", "ok", f"rclpy of ROS 2 {distribution or 'unknown'} at {Path(file).parent}, on {middleware}")
    why = "no rclpy is installed, no ROS is sourced"
    return Check("client_library", "ok", f"embedded graph on Cyclone DDS {_version('cyclonedds')} ({why})")


def _dds() -> Iterator[Check]:
    domain = os.environ.get("ROS_DOMAIN_ID", "") or "0"
    remedy = f"set it to a number from 0 to {SHARED_DOMAINS.start - 1}, or unset it"
    if not domain.isdecimal() or int(domain) > HIGHEST_DOMAIN:
        yield Check("dds_domain", "missing", f"ROS_DOMAIN_ID={domain}", remedy)
    elif int(domain) in SHARED_DOMAINS:
        yield Check("dds_domain", "note", f"ROS_DOMAIN_ID={domain}; its ports may be in use by other programs", remedy)
    else:
        yield Check("dds_domain", "ok", f"{domain}{'' if os.environ.get('ROS_DOMAIN_ID') else ' (ROS_DOMAIN_ID is not set)'}")
    reach = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "").upper()
    local = os.environ.get("ROS_LOCALHOST_ONLY") == "1"
    if reach and reach not in DISCOVERY_RANGES:
        remedy = f"set it to one of {', '.join(DISCOVERY_RANGES)}, or unset it"
        yield Check("dds_discovery", "missing", f"ROS_AUTOMATIC_DISCOVERY_RANGE={reach}", remedy)
        return
    peers = os.environ.get("ROS_STATIC_PEERS", "")
    chosen = "LOCALHOST (ROS_LOCALHOST_ONLY=1)" if local else reach or "SUBNET (ROS_AUTOMATIC_DISCOVERY_RANGE is not set)"
    yield Check("dds_discovery", "ok", chosen + (f", peers {peers}" if peers else ""))


# ---- inference ----


def _backends() -> Iterator[Check]:
    """In the order in which they are tried."""
    for kind in all_kinds():
        name, reason = f"backend_{kind.name}", kind.why_not()
        if reason:
            yield Check(name, "missing" if kind.name == "ort_cpu" else "note", reason, _BACKEND_REMEDIES[kind.name])
        else:
            yield Check(name, "ok", f"{_engine_of(kind.name)}, in {' and '.join(kind.precisions)}")


def _engine_of(backend: str) -> str:
    if backend == "tensorrt":
        return str(load_tensorrt())
    module = "torch" if backend == "torch" else "onnxruntime"
    return f"{module} {_version(module)}"


def _gpu() -> Check:
    if shutil.which("nvidia-smi") is None:
        return Check("gpu", "note", "no nvidia-smi, so no NVIDIA GPU; the CPU is used")
    answer = _ask(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"])
    if answer.fault:
        return Check("gpu", "note", f"nvidia-smi fails: {answer.fault}", "repair NVIDIA's driver, or use the CPU")
    return Check("gpu", "ok", "; ".join(answer.text.splitlines()))


def _tensorrt() -> Check:
    """The builder, which needs no GPU (of TensorRT-RTX); what runs its engines is a backend."""
    try:
        found = load_tensorrt()
    except LongscapeError as error:
        return Check("tensorrt", "note", str(error), "only to build engines: pip install 'longscape_ros[tensorrt-rtx]'")
    others = ", ".join(found.ahead())
    return Check("tensorrt", "ok", f"{found}, builds for this machine's GPU{f' and ahead of time for {others}' if others else ''}")


def _bundle(path: Path | None) -> Iterator[Check]:
    """Found, undamaged, and whether it runs."""
    try:
        bundle = load_bundle(find_bundle(path))
    except LongscapeError as error:
        yield Check("bundle", "missing", str(error), "name another with --bundle, or make one: longscape train, longscape export")
        return
    manifest = bundle.manifest
    size_mb = sum(record.bytes for record in manifest.files.values()) / 1e6
    height, width = manifest.image_size
    what = f"{bundle.model_id}, {width}x{height} at {manifest.fps:g} Hz, {size_mb:.1f} MB, all hashes right; {bundle.path}"
    yield Check("bundle", "ok", what)
    yield _run(bundle)


def _run(bundle: Bundle) -> Check:
    try:
        opened = Ladder(bundle, Wanted()).open(lambda backend: Predictor(bundle, backend).warm_up())
    except LongscapeError as error:
        return Check("bundle_runs", "missing", str(error), "pip install --upgrade onnxruntime, or export the bundle again")
    backend = opened.backend
    found = f"on {backend.name} in {backend.precision} with {backend.threads} threads ({backend.device})"
    backend.close()
    if opened.cause:
        return Check("bundle_runs", "note", f"{found}, and not on a better backend: {opened.cause}", BUILD)
    return Check("bundle_runs", "ok", found)


# ---- the simulated robot and the rest ----


def _simulator() -> Check:
    return _package("simulator", ("mujoco", "metaworld"), "sim", "longscape demo and generate")


def _graphics() -> Check:
    if importlib.util.find_spec("mujoco") is None:
        return Check("graphics", "note", "not looked at: there is no MuJoCo to render with")
    from longscape_ros.simulation.arm import choose_graphics

    given = os.environ.get("MUJOCO_GL")
    try:
        chosen = choose_graphics()
    except HostError as error:
        text, _, remedy = str(error).partition(" Install them, ")
        return Check("graphics", "note", text, remedy or "install EGL or OSMesa")
    if given is None:
        os.environ.pop("MUJOCO_GL", None)
    return Check("graphics", "ok", f"{chosen}, without a screen" if given is None else f"{chosen}, as MUJOCO_GL says")


def _package(name: str, modules: Sequence[str], extra: str, user: str) -> Check:
    absent = [module for module in modules if importlib.util.find_spec(module) is None]
    if absent:
        return Check(name, "note", f"no {', '.join(absent)}; only {user} needs it", f"pip install 'longscape_ros[{extra}]'")
    return Check(name, "ok", ", ".join(f"{module} {_version(module)}" for module in modules))


# ---- asking ----


@dataclass(frozen=True, slots=True)
class _Answer:
    text: str = ""
    fault: str = ""


def _ask(command: Sequence[str]) -> _Answer:
    """What a program prints; its last line of complaint if it fails."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return _Answer(fault=str(error))
    if result.returncode or not result.stdout.strip():
        lines = result.stderr.strip().splitlines() or [f"exit status {result.returncode}, no reason given"]
        return _Answer(fault=lines[-1])
    return _Answer(text=result.stdout.strip())


def _version(module: str) -> str:
    names = importlib.metadata.packages_distributions().get(module, [module])
    try:
        return importlib.metadata.version(names[0])
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"
