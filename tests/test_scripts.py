# SPDX-License-Identifier: Apache-2.0
"""The script that makes a bundle from nothing, at toy size: the one that the recipes for GPUs run in; and the one that checks a GPU."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.hosts import skip_unless_installed, skip_unless_rendered
from support.tiny_bundle import write_tiny_bundle

from longscape_ros.bundle import load_bundle
from longscape_ros.runtime import cuda

SCRIPTS = Path(__file__).parent.parent / "scripts"
SCRIPT = SCRIPTS / "train_bundle.sh"
AGAIN = 75
TOY = {
    "RECIPE": "toy",
    "TRAIN": "--tasks reach --episodes 2 --frames 72 --image-size 32 --workers 1",
    "HELDOUT": "--tasks reach --episodes 2 --seed 9000 --frames 72 --image-size 32 --workers 1",
    "TRANSFER": "--tasks lever-pull --episodes 1 --seed 9000 --frames 72 --image-size 32 --workers 1",
    "DEVICE": "cpu",
    "WINDOWS": "2",
    "FEWER": "2",
    "STEPS": "teacher_1",
    "PROBE": "0.03",
    "OMP_NUM_THREADS": "1",
}


def call(folder: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    beside = str(Path(sys.executable).parent)
    environment = {**os.environ, **TOY, **changes, "PATH": f"{beside}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(["bash", str(SCRIPT), str(folder)], env=environment, capture_output=True, text=True, check=False, timeout=600)


def test_a_bundle_is_made_in_legs_on_two_machines(tmp_path: Path) -> None:
    skip_unless_installed("torch", "onnxscript", "tensorboard", extra="train")
    skip_unless_installed("metaworld", "mujoco", extra="sim")
    skip_unless_rendered()
    first, second = tmp_path / "first", tmp_path / "second"
    leg = call(first, LEG="0.0001")
    assert leg.returncode == AGAIN, leg.stderr
    assert "call again" in leg.stderr
    assert not (first / "bundle").exists()
    # bags are made again on another machine; here they are copied, to save time
    for kept in ("train", "heldout", "transfer", "run/weights"):
        shutil.copytree(first / kept, second / kept)
    shutil.copy(first / "run" / "run.json", second / "run" / "run.json")
    finished = call(second)
    assert finished.returncode == 0, finished.stderr
    manifest = load_bundle(second / "bundle").manifest
    assert (manifest.experts.routing.kind, manifest.sampler_steps, manifest.length_predictor) == ("learned", 2, True)
    assert manifest.confidence is not None
    report = second / "report"
    figures = json.loads((report / "heldout" / "eval.json").read_text())
    assert manifest.evaluation["psnr.model.8"] == pytest.approx(figures["psnr.model.8"])
    for part in ("heldout", "transfer"):
        assert {"eval.md", "eval.png", "experts.md", "experts.png"} <= {path.name for path in (report / part).iterdir()}
    assert json.loads((report / "steps" / "teacher_1.json").read_text())["psnr.model.8"] != figures["psnr.model.8"]
    assert "fixed_8" in json.loads((report / "compare.json").read_text())
    assert {"compare.md", "compare.png", "curve.png", "curve.json"} <= {path.name for path in report.iterdir()}


def test_the_check_of_a_gpu_runs_to_its_end_without_one_and_says_what_it_left_out(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny")
    environment = {**os.environ, "PYTHON": sys.executable, "BUNDLE": str(bundle.path), "OMP_NUM_THREADS": "1"}
    options = ("--seconds", "1", "--no-node", "--no-compare")
    call = ["bash", str(SCRIPTS / "gpu_check.sh"), str(tmp_path / "out"), *options]
    result = subprocess.run(call, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    verified = json.loads((tmp_path / "out" / "verify.json").read_text())
    assert verified["ort_cpu.int8.same_experts"] == 1
    assert (tmp_path / "out" / "bench" / "bench.md").is_file()
    if not cuda.unavailable():
        return
    assert "left out, this machine has no NVIDIA GPU" in result.stdout
    assert verified["meta.tensorrt.fp16"].startswith("not run: ")
    assert "SKIPPED" in (tmp_path / "out" / "tests.txt").read_text()
