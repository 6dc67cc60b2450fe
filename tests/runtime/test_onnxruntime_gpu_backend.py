# SPDX-License-Identifier: Apache-2.0
"""What is ONNX Runtime's own: providers, their options and faults, availability. What it computes: see test_gpu_backend."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from support.host_device import HostDevice
from support.host_onnxruntime import HostSessions
from support.plain_graphs import PlainGraphs
from support.tiny_bundle import MANIFEST, write_tiny_bundle

from longscape_ros.bundle import DECODER, ENCODER, Bundle, denoiser
from longscape_ros.errors import BackendError, BundleError, InputError
from longscape_ros.runtime import cuda, onnxruntime_gpu_backend
from longscape_ros.runtime.gpu_backend import GpuBackend
from longscape_ros.runtime.onnxruntime_gpu_backend import CUDA, TENSORRT, TENSORRT_RTX, open_onnxruntime_gpu, unavailable

PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture
def sessions() -> HostSessions:
    return HostSessions(HostDevice())


@pytest.fixture
def with_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    provided = [TENSORRT.name, CUDA.name, "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: provided)


def opened(bundle: Bundle, sessions: HostSessions, name: str = "ort_cuda", **options: Any) -> GpuBackend:
    return open_onnxruntime_gpu(bundle, name, sessions.device, open_session=sessions, **options)


def images(batch: int) -> Any:
    return np.random.default_rng(batch).integers(0, 256, (batch, *MANIFEST.image_size, 3), np.uint8)


def options_of(sessions: HostSessions, graph: str) -> dict[str, str]:
    return next(options for model, _, options in sessions.opened if isinstance(model, Path) and model.name == graph)


# ---- providers and their options ----


def test_cuda_runs_on_the_backends_streams_in_true_single_precision(bundle: Bundle, sessions: HostSessions) -> None:
    backend = opened(bundle, sessions)
    assert backend.name == "ort_cuda"
    assert {provider for _, provider, _ in sessions.opened} == {CUDA}
    main, decode = list(sessions.device.streams)
    options = options_of(sessions, denoiser(0))
    assert options == {"device_id": "0", "user_compute_stream": str(main), "use_tf32": "0", "enable_cuda_graph": "1"}
    assert options_of(sessions, ENCODER)["user_compute_stream"] == str(main)
    assert options_of(sessions, DECODER)["user_compute_stream"] == str(decode)


@pytest.mark.usefixtures("with_tensorrt")
def test_tensorrt_gets_the_profile_of_all_sizes_and_a_cache_of_this_model(bundle: Bundle, sessions: HostSessions, tmp_path: Path) -> None:
    opened(bundle, sessions, "ort_tensorrt", cache=tmp_path / "cache", most_batch=32)
    assert {provider for _, provider, _ in sessions.opened} == {TENSORRT}
    folder = tmp_path / "cache" / bundle.model_id / f"SM89-fp32-32-{onnxruntime.__version__}"
    assert (folder / "denoiser_1").is_dir()
    assert options_of(sessions, denoiser(1)) == {
        "device_id": "0",
        "user_compute_stream": str(next(iter(sessions.device.streams))),
        "trt_profile_min_shapes": "context:1x4x2x2x3,actions:1x12x5,noise:1x8x2x2x3",
        "trt_profile_opt_shapes": "context:1x4x2x2x3,actions:1x20x5,noise:1x16x2x2x3",
        "trt_profile_max_shapes": "context:32x4x2x2x3,actions:32x36x5,noise:32x32x2x2x3",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder / "denoiser_1"),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
    }
    assert options_of(sessions, DECODER)["trt_profile_opt_shapes"] == "latents:16x2x2x3"


def test_tensorrt_rtx_is_what_ort_tensorrt_means_where_onnxruntime_has_no_tensorrt(
    bundle: Bundle, sessions: HostSessions, tmp_path: Path
) -> None:
    opened(bundle, sessions, "ort_tensorrt", cache=tmp_path)
    assert {provider for _, provider, _ in sessions.opened} == {TENSORRT_RTX}
    options = options_of(sessions, ENCODER)
    assert options["has_user_compute_stream"] == "1"
    assert options["nv_profile_max_shapes"] == "rgb:64x16x24x3"
    folder = Path(options["nv_runtime_cache_path"])
    assert folder.is_dir()
    assert folder.relative_to(tmp_path).parts == (bundle.model_id, f"SM89-fp32-64-{onnxruntime.__version__}", "encoder")
    assert not [key for key in options if key.startswith("trt_")]


def test_options_of_tensorrt_rtx_are_those_of_its_header(tmp_path: Path) -> None:
    header = onnxruntime_gpu_backend.importlib.util.find_spec(PLUGIN)
    if header is None:
        pytest.skip(f"{PLUGIN} is not installed")
    text = (Path(str(header.origin)).parent / "tensorrt_rtx_provider_options.h").read_text()
    options = onnxruntime_gpu_backend._provider_options(TENSORRT_RTX, ENCODER, MANIFEST, HostDevice().stream(True), tmp_path, 64)
    for key in {*options, TENSORRT_RTX.graph_option, TENSORRT_RTX.graph_id} - {"device_id"}:
        assert f'"{key}"' in text, key


def test_no_run_waits_for_the_gpu(bundle: Bundle, sessions: HostSessions) -> None:
    backend = opened(bundle, sessions)
    backend.encode(images(4))
    assert sessions.ran == [{"disable_synchronize_execution_providers": "1", "gpu_graph_id": "1"}]
    assert all(stream.done == 0 for stream in sessions.device.streams.values())


# ---- precision ----


def halved(bundle: Bundle) -> dict[str, bytes]:
    """Denoisers that can be told from the bundle's own: what they give is doubled."""
    models = {}
    for expert in range(bundle.manifest.experts.count):
        model = onnx.load(bundle.file(denoiser(expert)))
        for node in model.graph.node:
            node.output[:] = ["single" if name == "latents" else name for name in node.output]
        model.graph.node.append(onnx.helper.make_node("Sum", ["single", "single"], ["latents"]))
        models[denoiser(expert)] = model.SerializeToString()
    return models


def test_graphs_in_half_precision_are_run_instead_of_the_bundles(bundle: Bundle, sessions: HostSessions) -> None:
    backend = opened(bundle, sessions, precision="fp16", graphs=halved(bundle))
    assert backend.precision == "fp16"
    random = np.random.default_rng(0)
    context = random.standard_normal((1, 4, *MANIFEST.latent_shape), np.float32)
    actions = random.standard_normal((1, 12, 5), np.float32)
    noise = random.standard_normal((1, 8, *MANIFEST.latent_shape), np.float32)
    found = backend.fetch(backend.denoise(2, context, actions, noise))
    np.testing.assert_allclose(found, 2 * PlainGraphs(bundle).denoise(2, context, actions, noise), atol=1e-6)


@pytest.mark.parametrize(("name", "precision"), [("ort_cuda", "fp16"), ("ort_tensorrt", "fp16"), ("ort_cuda", "int8")])
def test_a_precision_that_nothing_gives_is_refused(bundle: Bundle, sessions: HostSessions, name: str, precision: str) -> None:
    with pytest.raises(InputError, match=rf"precision '{precision}' for {name}, expected fp32, or fp16 with graphs in half precision"):
        opened(bundle, sessions, name, precision=precision)


@pytest.mark.usefixtures("with_tensorrt")
def test_tensorrt_itself_can_go_over_to_half_precision(bundle: Bundle, sessions: HostSessions) -> None:
    assert opened(bundle, sessions, "ort_tensorrt", precision="fp16").precision == "fp16"
    assert options_of(sessions, denoiser(0))["trt_fp16_enable"] == "1"


# ---- CUDA graphs ----


def test_each_set_of_sizes_has_a_cuda_graph_of_its_own(bundle: Bundle, sessions: HostSessions) -> None:
    backend = opened(bundle, sessions)
    for batch in (1, 2, 1, 2):
        backend.encode(images(batch))
    assert [run["gpu_graph_id"] for run in sessions.ran] == ["1", "2", "1", "2"]


def test_tensorrts_own_provider_is_not_asked_for_cuda_graphs(bundle: Bundle, sessions: HostSessions, with_tensorrt: None) -> None:
    backend = opened(bundle, sessions, "ort_tensorrt")
    backend.encode(images(1))
    assert not backend.use_cuda_graph
    assert not [key for _, _, options in sessions.opened for key in options if "graph" in key]
    assert sessions.ran == [{"disable_synchronize_execution_providers": "1"}]


def test_cuda_graphs_can_be_switched_off(bundle: Bundle, sessions: HostSessions) -> None:
    backend = opened(bundle, sessions, use_cuda_graph=False)
    assert not backend.use_cuda_graph
    assert "enable_cuda_graph" not in options_of(sessions, ENCODER)


def test_graphs_that_cannot_be_opened_for_cuda_graphs_are_opened_without(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    sessions = HostSessions(HostDevice(), opens_graphs=False)
    with caplog.at_level(logging.WARNING):
        backend = opened(bundle, sessions)
    assert not backend.use_cuda_graph
    assert [record.getMessage()[:60] for record in caplog.records] == ["CUDAExecutionProvider does not open the graphs for CUDA grap"]
    backend.encode(images(1))
    assert "gpu_graph_id" not in sessions.ran[0]


def test_a_capture_that_fails_is_warned_about_once_and_runs_go_on(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    sessions = HostSessions(HostDevice(), captures=False)
    backend = opened(bundle, sessions)
    with caplog.at_level(logging.WARNING):
        for batch in (1, 2):
            found = backend.fetch(backend.encode(images(batch)))
            np.testing.assert_allclose(found, PlainGraphs(bundle).encode(images(batch)), atol=1e-6)
    assert not backend.use_cuda_graph
    assert len(caplog.records) == 1
    assert "No CUDA graph of encoder.onnx could be captured" in caplog.text
    assert [run["gpu_graph_id"] for run in sessions.ran] == ["-1", "-1"]


# ---- faults ----


def test_falling_back_to_the_cpu_is_refused(bundle: Bundle) -> None:
    sessions = HostSessions(HostDevice(), providers=["CPUExecutionProvider"])
    with pytest.raises(BackendError, match=r"fell back from CUDAExecutionProvider to CPUExecutionProvider: .* libraries do not load"):
        opened(bundle, sessions)


def test_a_file_that_is_no_graph_is_named(bundle: Bundle, sessions: HostSessions) -> None:
    with pytest.raises(BackendError, match=r"decoder\.onnx: ONNX Runtime cannot open the graph with CUDAExecutionProvider"):
        opened(bundle, sessions, graphs={DECODER: b"text"})


def test_graphs_that_changed_places_are_refused(bundle: Bundle, sessions: HostSessions) -> None:
    with pytest.raises(BundleError, match=r"decoder\.onnx: found the inputs latents .*; expected rgb"):
        opened(bundle, sessions, graphs={ENCODER: bundle.file(DECODER)})


def test_a_folder_that_cannot_be_made_is_an_error(bundle: Bundle, sessions: HostSessions, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BackendError, match=r"ort_tensorrt failed to load the graphs .*Not a directory"):
        opened(bundle, sessions, "ort_tensorrt", cache=tmp_path / "file")


def test_an_unknown_name_is_refused(bundle: Bundle, sessions: HostSessions) -> None:
    with pytest.raises(BackendError, match="'ort_rocm', expected ort_cuda or ort_tensorrt"):
        opened(bundle, sessions, "ort_rocm")


def test_the_real_onnxruntime_without_the_provider_is_refused(bundle: Bundle) -> None:
    if CUDA.name in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.warns(UserWarning, match="not in available provider names"), pytest.raises(BackendError, match="fell back from CUDA"):
        open_onnxruntime_gpu(bundle, "ort_cuda", HostDevice())


# ---- availability ----


def test_an_onnxruntime_without_cuda_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert unavailable("ort_cuda") == "this onnxruntime has no CUDAExecutionProvider; install onnxruntime-gpu instead of onnxruntime"


def test_an_onnxruntime_with_neither_tensorrt_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(onnxruntime_gpu_backend.importlib.util, "find_spec", lambda name: None)
    assert "install onnxruntime-ep-nv-tensorrt-rtx-cu13, or onnxruntime-gpu (and TensorRT)" in unavailable("ort_tensorrt")


@pytest.mark.parametrize("name", ["ort_cuda", "ort_tensorrt"])
def test_providers_without_a_gpu_say_what_cuda_lacks(monkeypatch: pytest.MonkeyPatch, with_tensorrt: None, name: str) -> None:
    monkeypatch.setattr(cuda, "unavailable", lambda: "there is no NVIDIA driver")
    assert unavailable(name) == "there is no NVIDIA driver"
    monkeypatch.setattr(cuda, "unavailable", lambda: "")
    assert unavailable(name) == ""


def test_the_plugin_without_a_driver_or_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    if onnxruntime_gpu_backend.importlib.util.find_spec(PLUGIN) is None:
        pytest.skip(f"{PLUGIN} is not installed")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(cuda, "unavailable", lambda: "")
    if onnxruntime_gpu_backend._plugin_devices():
        pytest.skip("this machine has a GPU that TensorRT-RTX supports")
    assert any(words in unavailable("ort_tensorrt") for words in ("cannot be loaded", "finds no GPU that it supports"))
