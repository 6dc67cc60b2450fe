# SPDX-License-Identifier: Apache-2.0
"""TensorRT's building side: which flavour is loaded, what it builds for, what it refuses. TensorRT-RTX is real, the classic a stand-in."""

from __future__ import annotations

import _thread
import importlib.util
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from support.classic_tensorrt import module as classic_module
from support.tiny_bundle import write_tiny_bundle

from longscape_ros.bundle import DECODER, Bundle, denoiser
from longscape_ros.errors import BackendError, InputError
from longscape_ros.runtime import tensorrt
from longscape_ros.runtime.engines import profiles_of
from longscape_ros.runtime.tensorrt import CLASSIC, CURRENT, RTX, BuildOptions, EngineBuilder, TensorRt, Timings, load_tensorrt, unavailable

GRAPH = denoiser(0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


def one_profile(bundle: Bundle, graph: str = GRAPH) -> list[tensorrt.Profile]:
    return profiles_of(graph, bundle.manifest, two=False)


def build(trt: TensorRt, bundle: Bundle, graph: str = GRAPH, target: str = "", outputs: Any = None, **rest: Any) -> bytes:
    builder = EngineBuilder(trt)
    network = builder.parse(graph, bundle.file(graph), outputs)
    return builder.build(network, one_profile(bundle, graph), target or ("sm89" if trt.is_rtx else CURRENT), **rest)


# Loading


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No TensorRT is installed."""
    for name in ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings", "onnxruntime_ep_nv_tensorrt_rtx"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "tensorrt" in name else real(name))
    return monkeypatch


def test_without_any_tensorrt_the_reason_names_what_to_install(absent):
    reason = unavailable()
    assert "tensorrt cannot be imported" in reason
    assert "JetPack" in reason
    assert "Found no Python package tensorrt_rtx_bindings and no onnxruntime_ep_nv_tensorrt_rtx" in reason
    assert "pip install onnxruntime-ep-nv-tensorrt-rtx-cu13==0.5.0 tensorrt-rtx-cu13-bindings==1.7.1.116" in reason
    with pytest.raises(BackendError, match="Found no Python package"):
        load_tensorrt(RTX)


def test_the_classic_flavour_comes_first_unless_the_other_is_asked_for(absent):
    absent.setitem(sys.modules, "tensorrt", classic_module("10.13.0.35"))
    absent.setitem(sys.modules, "tensorrt_rtx", classic_module("1.7.1"))
    assert (load_tensorrt().flavour, load_tensorrt().version) == (CLASSIC, "10.13.0.35")
    assert (load_tensorrt(RTX).flavour, load_tensorrt(RTX).version) == (RTX, "1.7.1")


def test_a_tensorrt_too_old_for_typed_networks_is_refused(absent):
    absent.setitem(sys.modules, "tensorrt", classic_module("8.5.2"))
    assert unavailable(CLASSIC).startswith("Found tensorrt 8.5.2, expected 10.1 or newer; update it: pip install tensorrt")


def test_a_tensorrt_whose_libraries_do_not_load_gives_its_reason_and_the_next_is_tried(absent, tmp_path):
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so.10: cannot open shared object file')")
    absent.syspath_prepend(str(tmp_path))
    assert "tensorrt cannot be imported (libnvinfer.so.10: cannot open" in unavailable()
    absent.setitem(sys.modules, "tensorrt_rtx", classic_module("1.7.1"))
    assert load_tensorrt().flavour == RTX


def test_a_package_of_that_name_that_is_no_tensorrt_is_refused(absent):
    absent.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="10.1"))
    assert "tensorrt has no Builder" in unavailable(CLASSIC)


def test_libraries_of_another_version_than_the_bindings_are_refused(rtx, monkeypatch):
    monkeypatch.setattr(tensorrt, "_load_libraries", lambda: "9.8.7.6")
    reason = unavailable(RTX)
    assert f"Found tensorrt_rtx_bindings {rtx.version} and libraries 9.8.7.6" in reason
    assert "pip install tensorrt-rtx-cu13-bindings==9.8.7.6" in reason


def test_the_version_of_the_libraries_is_asked_of_themselves(rtx):
    assert tensorrt._load_libraries() == rtx.version


def test_loading_does_not_import_the_package_of_the_libraries(rtx):
    code = "import sys; from longscape_ros.runtime.tensorrt import load_tensorrt, RTX; load_tensorrt(RTX); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "tensorrt_rtx_bindings" in loaded
    assert "onnxruntime_ep_nv_tensorrt_rtx" not in loaded


def test_a_flavour_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match="Got the TensorRT flavour 'fast', expected one of tensorrt, tensorrt_rtx"):
        load_tensorrt("fast")


# Targets


def test_tensorrt_rtx_knows_its_targets_and_names_them_when_it_refuses_another(rtx):
    assert {"sm75", "sm86", "sm89", "sm120"} <= set(rtx.ahead())
    with pytest.raises(InputError, match=r"Got the target sm87, but TensorRT-RTX .* builds for sm75, .*sm120, .* and current"):
        rtx.require_target("sm87")
    with pytest.raises(InputError, match="Got the target 'sm999', expected one of sm75"):
        rtx.require_target("sm999")


def test_the_classic_tensorrt_builds_for_this_machines_gpu_only(classic, bundle):
    assert classic.ahead() == ()
    classic.require_target(CURRENT)
    with pytest.raises(InputError, match=r"Got the target sm86, but TensorRT 10\.13\.0\.35, the classic one, times kernels on the GPU"):
        build(classic, bundle, target="sm86")


# Building


def test_a_real_engine_is_built_without_a_gpu_and_progress_only_grows_to_the_end(rtx, bundle):
    told: list[tuple[str, float]] = []
    plan = build(rtx, bundle, report=lambda phase, share: told.append((phase, share)))
    assert len(plan) > 10_000
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert shares[-1] > 0.8
    assert sum(0.05 < share < 0.95 for share in shares) > 5
    assert len({phase for phase, _ in told}) > 2


def test_engines_for_two_gpus_differ(rtx, bundle):
    assert build(rtx, bundle, target="sm86") != build(rtx, bundle, target="sm120")


def test_weights_beside_the_graph_are_found_and_decide_the_engine(rtx, bundle):
    assert build(rtx, bundle, denoiser(0)) != build(rtx, bundle, denoiser(1))


def test_a_graph_may_be_given_with_its_weights_inside(rtx, bundle):
    builder = EngineBuilder(rtx)
    content = onnx.load(bundle.file(GRAPH)).SerializeToString()
    network = builder.parse(GRAPH, content)
    assert network.layers == builder.parse(GRAPH, bundle.file(GRAPH)).layers > 5
    assert len(builder.build(network, one_profile(bundle), "sm89")) > 10_000


def write_graph(path: Path, kind: int, node: Any) -> Path:
    """A graph of one node from ``x`` to ``y``, both [B, 4]."""
    tensors = [helper.make_tensor_value_info(name, kind, ["B", 4]) for name in "xy"]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("example", 1)]
    graph = helper.make_graph([node], "odd", tensors[:1], tensors[1:])
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def test_an_operator_that_does_not_exist_is_named_with_its_graph_and_node(rtx, tmp_path):
    path = write_graph(
        tmp_path / "odd.onnx", TensorProto.FLOAT, helper.make_node("Frobnicate", ["x"], ["y"], name="frob", domain="example")
    )
    with pytest.raises(BackendError, match=r"TensorRT-RTX .* does not take odd\.onnx: node frob \(Frobnicate\): .*[Pp]lugin"):
        EngineBuilder(rtx).parse("odd.onnx", path)


def test_a_type_that_tensorrt_does_not_compute_in_is_refused(rtx, tmp_path):
    path = write_graph(tmp_path / "odd.onnx", TensorProto.UINT8, helper.make_node("Add", ["x", "x"], ["y"], name="twice"))
    builder = EngineBuilder(rtx)
    with pytest.raises(BackendError, match=r"TensorRT-RTX .* does not .* odd\.onnx.*: .*(?i:uint8)"):
        builder.build(builder.parse("odd.onnx", path), [{"x": ((1, 4), (1, 4), (8, 4))}], "sm89")


def test_a_file_that_is_no_graph_is_refused(rtx, tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(BackendError, match=r"TensorRT-RTX .* does not take broken\.onnx: ."):
        EngineBuilder(rtx).parse("broken.onnx", path)


def test_bytes_that_happen_to_be_an_empty_graph_are_refused(rtx, tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"damaged since it was checked")
    with pytest.raises(BackendError, match=r"finds the outputs \(none\) in broken\.onnx, expected rgb|does not take broken\.onnx"):
        EngineBuilder(rtx).parse("broken.onnx", path, ["rgb"])


def test_a_graph_that_lacks_an_output_is_refused(rtx, bundle):
    with pytest.raises(BackendError, match=r"finds the outputs rgb, rgb_float in decoder\.onnx, expected depth"):
        EngineBuilder(rtx).parse(DECODER, bundle.file(DECODER), ["rgb", "depth"])


def test_what_the_builder_refuses_is_told_in_tensorrts_words(rtx, bundle):
    profile = dict(one_profile(bundle)[0])
    profile["noise"] = ((1, 8, 9, 9, 9), (1, 16, 9, 9, 9), (64, 32, 9, 9, 9))
    builder = EngineBuilder(rtx)
    with pytest.raises(BackendError, match=r"TensorRT-RTX .* does not .*denoiser_0\.onnx.*: .*[Dd]imension"):
        builder.build(builder.parse(GRAPH, bundle.file(GRAPH)), [profile], "sm89")


def test_sizes_that_shrink_are_refused(rtx, bundle):
    profile = {name: tuple(reversed(sizes)) for name, sizes in one_profile(bundle)[0].items()}
    builder = EngineBuilder(rtx)
    with pytest.raises(BackendError, match=r"TensorRT-RTX .* does not take the sizes .* for denoiser_0\.onnx"):
        builder.build(builder.parse(GRAPH, bundle.file(GRAPH)), [profile], "sm89")  # type: ignore[list-item]


def test_a_profile_of_other_inputs_is_refused(rtx, bundle):
    builder = EngineBuilder(rtx)
    with pytest.raises(BackendError, match=r"Found the input \w+ in denoiser_0\.onnx, expected one of latents"):
        builder.build(builder.parse(GRAPH, bundle.file(GRAPH)), one_profile(bundle, DECODER), "sm89")


@pytest.mark.parametrize("after", [0, 40])
def test_a_build_is_stopped_when_asked_to(rtx, bundle, after):
    asked = threading.Semaphore(after)
    with pytest.raises(BackendError, match=r"Building the engine of denoiser_0\.onnx was called off"):
        build(rtx, bundle, should_stop=lambda: not asked.acquire(blocking=False))


def test_a_build_whose_progress_cannot_be_told_ends_and_does_not_crash(rtx, bundle, caplog):
    def report(phase: str, share: float) -> None:
        raise OSError("broken pipe")

    with pytest.raises(BackendError, match="was called off"):
        build(rtx, bundle, report=report)
    assert "broken pipe" in caplog.text


def test_an_interruption_ends_the_build_and_is_passed_on(rtx, bundle):
    """Ctrl-C in the middle of a build: TensorRT would swallow it if it arrived while it calls Python back."""
    at: list[float] = []

    def report(phase: str, share: float) -> None:
        at.append(share)
        if len(at) == 10:
            _thread.interrupt_main()
            time.sleep(0.05)

    with pytest.raises(KeyboardInterrupt):
        build(rtx, bundle, report=report)
    assert at[-1] < 0.9


def test_a_second_builder_has_its_errors_told_too(rtx, bundle):
    first = EngineBuilder(rtx)  # TensorRT has one logger in a process
    with pytest.raises(BackendError, match=r"builds? .*denoiser_0\.onnx.*: .*[Pp]rofile"):
        EngineBuilder(rtx).build(EngineBuilder(rtx).parse(GRAPH, bundle.file(GRAPH)), [], "sm89")
    del first


def test_outputs_that_nobody_reads_are_given_up(classic, bundle):
    assert json.loads(build(classic, bundle, DECODER, outputs=["rgb"]))["outputs"] == ["rgb"]
    assert json.loads(build(classic, bundle, DECODER))["outputs"] == ["rgb", "rgb_float"]


def test_a_real_engine_is_built_without_the_outputs_that_nobody_reads(rtx, bundle):
    builder = EngineBuilder(rtx)
    network = builder.parse(DECODER, bundle.file(DECODER), ["rgb"])
    assert [network.definition.get_output(i).name for i in range(network.definition.num_outputs)] == ["rgb"]
    assert builder.build(network, one_profile(bundle, DECODER), "sm89")


def test_single_precision_stays_so_and_limits_are_passed_on(classic, bundle):
    said = json.loads(build(classic, bundle, options=BuildOptions(workspace_mb=1024, optimization_level=5)))
    assert said["flags"] == []  # TF32 is on in TensorRT's default
    assert (said["workspace"], said["level"]) == (1 << 30, 5)


def test_times_of_kernels_are_kept_for_the_next_build(classic, bundle):
    timings = Timings()
    assert json.loads(build(classic, bundle, timings=timings))["timed"]
    assert timings.content
    assert json.loads(build(classic, bundle, timings=timings))["timed"] == []


def test_times_of_another_gpu_are_made_again(classic, bundle):
    timings = Timings(b"another GPU's")
    assert json.loads(build(classic, bundle, timings=timings))["timed"]
    assert b"Conv" not in timings.content
    assert b"MatMul" in timings.content


def test_tensorrt_rtx_times_nothing(rtx, bundle):
    timings = Timings()
    build(rtx, bundle, timings=timings)
    assert timings.content == b""


@pytest.mark.parametrize("options", [{"workspace_mb": 0}, {"optimization_level": 6}, {"optimization_level": -1}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(InputError, match="expected"):
        BuildOptions(**options)


def test_tensorrts_log_is_ours_and_errors_are_kept(rtx, caplog):
    logger, words = tensorrt.voice_of(rtx.module)
    words.clear()
    severity = rtx.module.ILogger.Severity
    with caplog.at_level("DEBUG", "longscape_ros.runtime.tensorrt"):
        logger.log(severity.WARNING, "slow")
        logger.log(severity.ERROR, "bad\n  thing")
    assert words.text() == "bad thing"
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "TensorRT: slow"),
        ("DEBUG", "TensorRT: bad\n  thing"),
    ]
    words.clear()
    assert words.text() == "TensorRT does not say why"
