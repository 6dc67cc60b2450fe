# SPDX-License-Identifier: Apache-2.0
"""``longscape export --tensorrt``: real engines of a small bundle, their figures, and calls that make no sense."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest

from longscape_ros.bundle import Bundle, load_bundle
from longscape_ros.cli import FAULT, main
from longscape_ros.parity import LIMITS, Limit
from longscape_ros.runtime import cuda
from longscape_ros.runtime.cache import FOLDER_VARIABLE
from longscape_ros.runtime.tensorrt import RTX, load_tensorrt, unavailable


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache is left alone."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def rtx() -> str:
    if reason := unavailable(RTX):
        pytest.skip(reason)
    return str(load_tensorrt(RTX))


def export(*arguments: object) -> int:
    return main(["export", *map(str, arguments)])


def test_engines_for_three_gpus_are_built_with_their_list_and_their_figures(rtx, bundle: Bundle, tmp_path, capsys):
    output, figures_file = tmp_path / "engines", tmp_path / "figures.json"
    targets = ("sm86", "sm89", "sm120")
    call = ("--tensorrt", "--bundle", bundle.path, "--targets", ",".join(targets), "--output", output, "--json", figures_file)
    assert export(*call) == 0
    figures = json.loads(figures_file.read_text())
    listed = json.loads((output / "engines.json").read_text())
    names = [graph.removesuffix(".onnx") for graph in bundle.manifest.graphs()]
    assert [engine["file"] for engine in listed["engines"]] == [f"{target}/{name}.plan" for target in targets for name in names]
    assert figures["meta.tensorrt"] == rtx
    assert (listed["bundle"], listed["precision"]) == (load_bundle(bundle.path).model_id, "fp16") == (figures["meta.bundle"], "fp16")
    for engine in listed["engines"]:
        content = (output / engine["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == engine["sha256"]
        at = f"engine.{engine['target']}.{engine['graph'].removesuffix('.onnx')}"
        assert figures[f"{at}.bytes"] == len(content) == engine["bytes"]
        assert figures[f"{at}.layers"] == engine["layers"] > 0
        assert figures[f"{at}.seconds"] == engine["build_seconds"] > 0
        assert figures[f"{at}.reused"] == 0
    assert sorted(path.name for path in output.iterdir()) == sorted([*targets, "engines.json"])  # and nothing unfinished
    assert "engines: 100%" in capsys.readouterr().err
    assert export(*call) == 0
    figures = json.loads(figures_file.read_text())
    assert all(value == 1 for name, value in figures.items() if name.endswith(".reused"))


def test_without_torch_engines_are_built_all_the_same(rtx, bundle: Bundle, tmp_path, monkeypatch):
    for name in ("torch", "einops", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None)  # as on a robot
    assert export("--tensorrt", "--bundle", bundle.path, "--targets", "sm89", "--precision", "fp32", "--output", tmp_path / "out") == 0
    assert (tmp_path / "out" / "sm89" / "encoder.plan").stat().st_size > 1000


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("--output out", "Got no RUN, expected RUN --output DIR to export a training, --tensorrt --output DIR, or --verify"),
        ("run --output out --targets sm86", "Got --targets with RUN, expected with that nothing but --name, --output, --per-step"),
        ("run --output out --steps 0", "Got 0 sampling steps, expected one or more"),
        ("run --output out --bundle b --precision fp16", "Got --bundle, --precision with RUN"),
        (
            "run --tensorrt --output out",
            "Got RUN with --tensorrt, expected with that nothing but --bundle, --output, --precision, --targets",
        ),
        ("--tensorrt --name mine --output out", "Got --name with --tensorrt"),
        ("--tensorrt --verify --output out", "Got --tensorrt and --verify, expected one of them"),
        ("--verify --output out", "Got --output with --verify"),
        ("--verify --backend abacus", "(no such backend or precision); name others"),
        ("--tensorrt --bundle nowhere --output out", "nowhere: found no such folder"),
        ("--tensorrt --targets sm86,sm86 --output out", "Got the targets sm86, sm86, expected at least one, and each once"),
        ("--tensorrt --targets , --output out", "Got the targets (none), expected at least one, and each once"),
        ("--tensorrt --targets sm86,sm999 --output out", "Got the target 'sm999', expected one of sm75"),
        ("--tensorrt --targets sm86,sm87 --output out", "Got the target sm87, but TensorRT-RTX"),
        ("--tensorrt --targets sm86 --precision int8 --output out", "Got the precision 'int8' for engines, expected one of fp16, fp32"),
    ],
)
def test_a_call_that_makes_no_sense_is_one_line_and_writes_nothing(rtx, tmp_path, capsys, monkeypatch, call, text):
    monkeypatch.chdir(tmp_path)
    for name in ("torch", "einops", "onnx", "onnxscript"):
        pytest.importorskip(name)
    assert export(*call.split()) == FAULT
    shown = capsys.readouterr()
    assert shown.out == ""
    assert text in shown.err
    assert list(tmp_path.iterdir()) == []


def test_without_a_gpu_engines_for_this_machine_are_refused_with_the_reason(rtx, tmp_path, capsys):
    if not cuda.unavailable():
        pytest.skip("this machine has a GPU")
    assert export("--tensorrt", "--output", tmp_path / "out") == FAULT
    assert cuda.unavailable()[:20] in capsys.readouterr().err


def test_without_tensorrt_the_packages_are_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("longscape_ros.runtime.tensorrt._is_installed", lambda name: False)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert export("--tensorrt", "--targets", "sm89", "--output", tmp_path / "out") == FAULT
    assert "pip install onnxruntime-ep-nv-tensorrt-rtx-cu13==0.5.0 tensorrt-rtx-cu13-bindings==1.7.1.116" in capsys.readouterr().err


def test_backends_are_verified_with_figures_of_every_graph(bundle: Bundle, tmp_path, capsys):
    figures_file = tmp_path / "figures.json"
    call = ("--verify", "--bundle", bundle.path, "--backend", "ort_cpu", "--precision", "int8", "--reference", "ort_cpu")
    assert export(*call, "--json", figures_file) == 0
    figures = json.loads(figures_file.read_text())
    assert figures["ort_cpu.int8.denoiser_3.onnx.relative"] < 0.1
    assert figures["ort_cpu.int8.rollout_psnr_db"] > 42


def test_a_backend_that_is_too_far_off_is_an_error_beside_the_figures(bundle: Bundle, capsys, monkeypatch):
    monkeypatch.setitem(LIMITS, "int8", Limit(relative=0.0, cosine=1.0, rollout_psnr_db=99.0))
    call = ("--verify", "--bundle", bundle.path, "--backend", "ort_cpu", "--precision", "int8", "--reference", "ort_cpu")
    assert export(*call) == FAULT
    shown = capsys.readouterr()
    assert "ort_cpu.int8.rollout_psnr_db" in shown.out
    assert "denoiser_0.onnx: relative difference" in shown.err
    assert "Use another precision or another backend" in shown.err
