# SPDX-License-Identifier: Apache-2.0
"""What the doctor finds on this machine, and on machines that are worse off."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest
from support.tiny_bundle import write_tiny_bundle

from longscape_ros import doctor
from longscape_ros.bundle import ENCODER, Bundle
from longscape_ros.doctor import Check, examine

WITHOUT_REMEDY = {"gpu", "tensorrt"}
"""Notes on what one may well do without."""

HAS_GRAPH = importlib.util.find_spec("cyclonedds") is not None or "ROS_DISTRO" in os.environ

DDS = ("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_LOCALHOST_ONLY", "ROS_STATIC_PEERS")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in DDS:
        monkeypatch.delenv(name, raising=False)


def found(bundle: Bundle | Path) -> dict[str, Check]:
    checks = examine(bundle.path if isinstance(bundle, Bundle) else bundle)
    assert len({check.name for check in checks}) == len(checks)
    return {check.name: check for check in checks}


def dds() -> dict[str, Check]:
    return {check.name: check for check in doctor._dds()}


def test_this_machine_lacks_nothing_that_predicting_needs(bundle):
    before = dict(os.environ)
    checks = found(bundle)
    assert {check.name for check in checks.values() if check.status == "missing"} == (set() if HAS_GRAPH else {"client_library"})
    assert os.environ == before
    assert sys.executable in checks["python"].found
    assert checks["backend_ort_cpu"].found.startswith("onnxruntime ")
    assert bundle.model_id in checks["bundle"].found
    assert "24x16 at 20 Hz" in checks["bundle"].found
    assert "all hashes right" in checks["bundle"].found
    assert checks["bundle_runs"].found.startswith("on ort_")


def test_whatever_can_be_remedied_comes_with_a_remedy(bundle, monkeypatch):
    for module in ("mujoco", "metaworld", "av", "rerun", "torch"):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    checks = found(bundle)
    assert {check.name for check in checks.values() if check.status != "ok"} >= {"simulator", "graphics", "video", "viewer", "training"}
    assert checks["graphics"].found == "not looked at: there is no MuJoCo to render with"
    for check in checks.values():
        if check.status == "ok":
            assert not check.remedy
        elif check.name not in WITHOUT_REMEDY | {"graphics"}:  # the simulator's remedy brings the graphics' too
            assert check.remedy, check
    assert checks["simulator"].remedy == "pip install 'longscape_ros[sim]'"
    assert checks["video"].found.startswith("no av")
    assert checks["viewer"] == Check("viewer", "note", "no rerun; only longscape view needs it", "pip install 'longscape_ros[view]'")
    assert checks["training"].remedy == "pip install 'longscape_ros[train]'"


def test_a_damaged_bundle_is_missing_with_the_file_that_is_damaged(tmp_path):
    damaged = write_tiny_bundle(tmp_path / "tiny")
    graph = damaged.file(ENCODER)
    graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
    checks = found(damaged)
    assert checks["bundle"].status == "missing"
    assert "encoder.onnx: found the hash" in checks["bundle"].found
    assert "--bundle" in checks["bundle"].remedy
    assert "bundle_runs" not in checks


def test_a_bundle_that_is_none_is_missing(tmp_path):
    check = found(tmp_path)["bundle"]
    assert (check.status, "found no bundle.json" in check.found) == ("missing", True)


def test_a_bundle_that_does_not_run_is_missing(tmp_path):
    odd = write_tiny_bundle(tmp_path / "odd", latent_shape=(2, 3, 2))  # its graphs make latents of 2 x 3
    check = found(odd)["bundle_runs"]
    assert check.status == "missing"
    assert "encoder.onnx" in check.found
    assert check.remedy


def test_a_client_library_that_cannot_be_loaded_is_missing(bundle, monkeypatch, tmp_path):
    (tmp_path / "rclpy").mkdir()
    (tmp_path / "rclpy" / "__init__.py").write_text("raise ImportError('librcl.so: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    check = doctor._client_library()
    assert check.status == "missing"
    assert "librcl.so" in check.found
    assert check.remedy == "repair ROS 2 jazzy, or use a shell without it"


@pytest.mark.parametrize("domain", ["0", "", "101", "215", "232"])
def test_domains_with_ports_of_their_own_are_good(monkeypatch, domain):
    monkeypatch.setenv("ROS_DOMAIN_ID", domain)
    assert dds()["dds_domain"] == Check("dds_domain", "ok", domain or "0 (ROS_DOMAIN_ID is not set)")


@pytest.mark.parametrize("domain", ["102", "214"])
def test_domains_with_ports_that_others_may_have_are_noted(monkeypatch, domain):
    monkeypatch.setenv("ROS_DOMAIN_ID", domain)
    check = dds()["dds_domain"]
    assert check.status == "note"
    assert check.remedy == "set it to a number from 0 to 101, or unset it"


@pytest.mark.parametrize("domain", ["233", "-1", "mine", "1.5", "²"])
def test_what_is_no_domain_is_missing(monkeypatch, domain):
    monkeypatch.setenv("ROS_DOMAIN_ID", domain)
    expected = Check("dds_domain", "missing", f"ROS_DOMAIN_ID={domain}", "set it to a number from 0 to 101, or unset it")
    assert dds()["dds_domain"] == expected


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({}, "SUBNET (ROS_AUTOMATIC_DISCOVERY_RANGE is not set)"),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "localhost"}, "LOCALHOST"),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET", "ROS_LOCALHOST_ONLY": "1"}, "LOCALHOST (ROS_LOCALHOST_ONLY=1)"),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF", "ROS_STATIC_PEERS": "10.0.0.2"}, "OFF, peers 10.0.0.2"),
    ],
)
def test_the_reach_of_discovery_is_told(monkeypatch, environment, text):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert dds()["dds_discovery"] == Check("dds_discovery", "ok", text)


def test_an_unknown_reach_of_discovery_is_missing(monkeypatch):
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "PLANET")
    check = dds()["dds_discovery"]
    assert (check.status, check.found) == ("missing", "ROS_AUTOMATIC_DISCOVERY_RANGE=PLANET")
    assert check.remedy == "set it to one of SUBNET, LOCALHOST, OFF, SYSTEM_DEFAULT, or unset it"


@pytest.mark.parametrize(
    ("script", "status", "text"),
    [
        ("echo 'NVIDIA Thor, 580.0, 120000 MiB'", "ok", "NVIDIA Thor, 580.0, 120000 MiB"),
        ("echo 'no driver is loaded' >&2; exit 9", "note", "nvidia-smi fails: no driver is loaded"),
        ("exit 9", "note", "nvidia-smi fails: exit status 9, no reason given"),
    ],
)
def test_the_gpu_is_what_nvidias_tool_says(tmp_path, monkeypatch, script, status, text):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path), os.environ["PATH"]]))
    check = doctor._gpu()
    assert (check.status, check.found) == (status, text)
    assert bool(check.remedy) == (status != "ok")


def test_a_machine_without_nvidias_tool_has_no_gpu_and_uses_the_cpu(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor._gpu() == Check("gpu", "note", "no nvidia-smi, so no NVIDIA GPU; the CPU is used")
