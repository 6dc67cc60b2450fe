# SPDX-License-Identifier: Apache-2.0
"""What is TensorRT's own: plans, profiles, execution contexts, CUDA graphs, compiled kernels. What it computes: see test_gpu_backend."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.host_device import HostDevice
from support.host_tensorrt import SCRATCH, DynamicShapesKernelSpecializationStrategy, host_tensorrt, plan_of, plans_of
from support.plain_graphs import PlainGraphs
from support.tiny_bundle import MANIFEST, write_tiny_bundle

from longscape_ros.actions import feature_count
from longscape_ros.bundle import DECODER, ENCODER, Bundle, denoiser
from longscape_ros.errors import BackendError, BundleError
from longscape_ros.runtime.gpu_backend import GpuBackend
from longscape_ros.runtime.tensorrt import RTX, load_tensorrt
from longscape_ros.runtime.tensorrt_backend import open_tensorrt

LATENT = MANIFEST.latent_shape
FEATURES = feature_count(MANIFEST.action_space)


class Kernels(dict[str, bytes]):
    """A store of compiled kernels that remembers how often it was written to."""

    def __init__(self, content: dict[str, bytes] | None = None) -> None:
        super().__init__(content or {})
        self.saved: list[str] = []

    def load(self, graph: str) -> bytes | None:
        return self.get(graph)

    def save(self, graph: str, content: bytes) -> None:
        self[graph] = content
        self.saved.append(graph)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="module")
def plain(bundle: Bundle) -> PlainGraphs:
    return PlainGraphs(bundle)


def chunk(batch: int, length: int, seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {
        "context": random.standard_normal((batch, MANIFEST.context, *LATENT), np.float32),
        "actions": random.standard_normal((batch, MANIFEST.context + length, FEATURES), np.float32),
        "noise": random.standard_normal((batch, length, *LATENT), np.float32),
    }


def images(batch: int) -> Any:
    return np.random.default_rng(batch).integers(0, 256, (batch, *MANIFEST.image_size, 3), np.uint8)


def denoised(backend: GpuBackend, batch: int, length: int, expert: int = 0, seed: int = 0) -> Any:
    return backend.fetch(backend.denoise(expert, **chunk(batch, length, seed)))


# ---- plans ----


def test_a_missing_plan_is_named(bundle: Bundle) -> None:
    device = HostDevice()
    plans = plans_of(bundle)
    del plans["denoiser_2.onnx"]
    with pytest.raises(BackendError, match=r"Got no engine for denoiser_2\.onnx, expected one for each of encoder\.onnx, denoiser_0"):
        open_tensorrt(bundle, plans, host_tensorrt(device), device)


@pytest.mark.parametrize(("rtx", "reason"), [(False, "Error Code 1: Serialization"), (True, "MALFORMED_ENGINE")])
@pytest.mark.parametrize("plan", [b"", b"not a plan", b"PLAN{"])
def test_a_plan_that_is_none_is_refused_with_tensorrts_reason(bundle: Bundle, rtx: bool, reason: str, plan: bytes) -> None:
    device = HostDevice()
    if rtx and plan.startswith(b"PLAN"):
        reason = "Serialization"
    with pytest.raises(BackendError, match=rf"engine of decoder\.onnx .* on Host GPU \(SM89\): .*{reason}.* built on this machine"):
        open_tensorrt(bundle, plans_of(bundle) | {DECODER: plan}, host_tensorrt(device, rtx), device)


@pytest.mark.parametrize(("rtx", "reason"), [(False, "not compatible with engine SM SM120"), (True, "UNSUPPORTED_CC")])
def test_a_plan_of_another_gpu_is_refused(bundle: Bundle, rtx: bool, reason: str) -> None:
    device = HostDevice()
    with pytest.raises(BackendError, match=rf"engine of encoder\.onnx .* on Host GPU \(SM89\): .*{reason}"):
        open_tensorrt(bundle, plans_of(bundle, sm="SM120"), host_tensorrt(device, rtx), device)


def test_a_plan_of_another_bundle_is_refused_with_found_and_expected(bundle: Bundle, tmp_path: Path) -> None:
    other = write_tiny_bundle(tmp_path / "other", image_size=(24, 16), latent_shape=(2, 3, 2))
    device = HostDevice()
    with pytest.raises(BundleError, match=r"engine of encoder\.onnx: found the inputs rgb uint8 \[\?, 24, 16, 3\]; expected rgb uint8"):
        open_tensorrt(bundle, plans_of(other), host_tensorrt(device), device)


def test_plans_that_changed_places_are_refused(bundle: Bundle) -> None:
    device = HostDevice()
    plans = plans_of(bundle)
    with pytest.raises(BundleError, match=r"engine of encoder\.onnx: found the inputs latents"):
        open_tensorrt(bundle, plans | {ENCODER: plans[DECODER]}, host_tensorrt(device), device)


@pytest.mark.parametrize(
    ("operator", "attributes", "kind", "shape", "found"),
    [
        ("Cast", {"to": onnx.TensorProto.FLOAT16}, onnx.TensorProto.FLOAT16, ["B", 2, 2, 3], r"float16 \[\?, 2, 2, 3\]"),
        ("Cast", {"to": onnx.TensorProto.BFLOAT16}, onnx.TensorProto.BFLOAT16, ["B", 2, 2, 3], r"16 \[\?, 2, 2, 3\]"),
        ("Concat", {"axis": 1}, onnx.TensorProto.FLOAT, ["B", 4, 2, 3], r"float32 \[\?, 4, 2, 3\]"),
    ],
)
def test_a_plan_that_gives_something_else_is_refused(
    bundle: Bundle, tmp_path: Path, operator: str, attributes: dict[str, int], kind: int, shape: list[Any], found: str
) -> None:
    model = onnx.load(bundle.file(ENCODER))
    for node in model.graph.node:
        node.output[:] = ["single" if name == "latents" else name for name in node.output]
    inputs = ["single"] * (2 if operator == "Concat" else 1)
    model.graph.node.append(onnx.helper.make_node(operator, inputs, ["latents"], **attributes))
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("latents", kind, shape))
    onnx.save(model, tmp_path / "other.onnx")
    device = HostDevice()
    plans = plans_of(bundle) | {ENCODER: plan_of(tmp_path / "other.onnx")}
    with pytest.raises(BundleError, match=rf"encoder\.onnx: found the outputs latents {found}; expected latents float32 \[\?, 2, 2, 3\]"):
        open_tensorrt(bundle, plans, host_tensorrt(device), device)


def test_engines_that_do_not_fit_the_gpus_memory_are_refused_when_they_are_loaded(bundle: Bundle) -> None:
    device = HostDevice(total=64 * SCRATCH)
    with pytest.raises(BackendError, match=r"tensorrt failed to load the graphs on Host GPU \(SM89\): out of memory"):
        open_tensorrt(bundle, plans_of(bundle), host_tensorrt(device), device)
    assert device.used == 0


# ---- profiles ----


def test_sizes_that_no_profile_takes_are_refused_with_those_it_was_built_for(bundle: Bundle) -> None:
    device = HostDevice()
    backend = open_tensorrt(bundle, plans_of(bundle), host_tensorrt(device), device)
    with pytest.raises(BackendError, match=r"got .*noise \[1, 40, 2, 2, 3\]; expected .*noise \[1, 8, 2, 2, 3\] to \[64, 32, 2, 2, 3\]"):
        backend.denoise(0, **chunk(1, 40))
    assert denoised(backend, 1, 32).shape == (1, 32, *LATENT)


def test_the_tightest_profile_is_used_and_larger_batches_go_to_the_wider(bundle: Bundle, plain: PlainGraphs) -> None:
    device = HostDevice()
    trt = host_tensorrt(device)
    profiles = ({"B": (1, 8, 16), "T": (8, 16, 32), "KT": (12, 20, 36)}, {"B": (1, 1, 1), "T": (8, 16, 32), "KT": (12, 20, 36)})
    backend = open_tensorrt(bundle, plans_of(bundle, profiles), trt, device)
    for batch in (1, 3, 16, 40):
        np.testing.assert_allclose(denoised(backend, batch, 8), plain.denoise(0, **chunk(batch, 8)), atol=1e-6)
    used = {context.shapes["noise"][0]: context.profile for context in trt.contexts}
    assert used == {1: 1, 3: 0, 16: 0, 8: 0}  # 40 is 16, 16 and 8


def test_a_profile_for_some_lengths_only_limits_the_batch_of_those(bundle: Bundle, plain: PlainGraphs) -> None:
    device = HostDevice()
    trt = host_tensorrt(device)
    profiles = ({"B": (1, 8, 16), "T": (8, 8, 8), "KT": (12, 12, 12)}, {"B": (1, 1, 2), "T": (16, 16, 32), "KT": (20, 20, 36)})
    backend = open_tensorrt(bundle, plans_of(bundle, profiles), trt, device)
    for length in (8, 16):
        np.testing.assert_allclose(denoised(backend, 5, length), plain.denoise(0, **chunk(5, length)), atol=1e-6)
    assert {context.shapes["noise"][:2] for context in trt.contexts} == {(5, 8), (2, 16), (1, 16)}


def test_an_engine_without_outputs_that_nobody_reads_is_as_good(bundle: Bundle, plain: PlainGraphs, tmp_path: Path) -> None:
    model = onnx.load(bundle.file(DECODER))
    assert len(model.graph.output) == 2, "the exported decoder has an output that the backends do not read"
    del model.graph.output[1]
    onnx.save(model, tmp_path / DECODER)
    latents = chunk(1, 8)["noise"][0]
    used = []
    for plan in (plan_of(tmp_path / DECODER), plan_of(bundle.file(DECODER))):
        device = HostDevice()
        backend = open_tensorrt(bundle, plans_of(bundle) | {DECODER: plan}, host_tensorrt(device), device)
        assert np.array_equal(backend.start_decoding(latents)(), plain.start_decoding(latents)())
        used.append(device.used)
    assert used[1] - used[0] == 8 * 16 * 24 * 3 * 4, "what nobody reads needs room all the same"


# ---- contexts and CUDA graphs ----


def test_every_set_of_sizes_has_a_context_of_its_own_and_all_of_a_stream_share_scratch_memory(bundle: Bundle) -> None:
    device = HostDevice()
    trt = host_tensorrt(device)
    backend = open_tensorrt(bundle, plans_of(bundle), trt, device)
    for expert in range(4):
        for length in (8, 16):
            denoised(backend, 1, length, expert)
            denoised(backend, 1, length, expert)
    backend.start_decoding(backend.encode(images(4)))()
    assert len(trt.contexts) == 4 * 2 + 2
    scratch = {context.scratch for context in trt.contexts}
    assert len(scratch) == 2, "one block for each stream"
    assert {size for _, size in scratch} == {64 * SCRATCH}


def test_after_its_first_run_a_graph_is_replayed(bundle: Bundle, plain: PlainGraphs) -> None:
    device = HostDevice()
    trt = host_tensorrt(device)
    backend = open_tensorrt(bundle, plans_of(bundle), trt, device)
    for seed in range(5):
        np.testing.assert_allclose(denoised(backend, 1, 8, seed=seed), plain.denoise(0, **chunk(1, 8, seed)), atol=1e-6)
    denoised(backend, 2, 8)
    assert backend.use_cuda_graph
    assert (device.captured, device.launched) == (2, 4)
    assert [context.runs for context in trt.contexts] == [5, 1], "what is captured must not run"


def test_without_cuda_graphs_none_is_captured(bundle: Bundle) -> None:
    device = HostDevice()
    backend = open_tensorrt(bundle, plans_of(bundle), host_tensorrt(device), device, use_cuda_graph=False)
    denoised(backend, 1, 8)
    denoised(backend, 1, 8)
    assert not backend.use_cuda_graph
    assert device.captured == 0


@pytest.mark.parametrize("rtx", [False, True])
def test_a_capture_that_fails_is_warned_about_once_and_predictions_go_on(
    bundle: Bundle, plain: PlainGraphs, rtx: bool, caplog: pytest.LogCaptureFixture
) -> None:
    device = HostDevice(capturable=False)
    backend = open_tensorrt(bundle, plans_of(bundle), host_tensorrt(device, rtx), device)
    assert backend.use_cuda_graph
    with caplog.at_level(logging.WARNING):
        for length in (8, 16, 8):
            np.testing.assert_allclose(denoised(backend, 1, length), plain.denoise(0, **chunk(1, length)), atol=1e-6)
    assert not backend.use_cuda_graph
    assert device.launched == 0
    assert [record.getMessage()[:40] for record in caplog.records] == ["No CUDA graph of denoiser_0.onnx could b"]


def test_a_gpu_that_dies_in_a_capture_is_no_mere_warning(bundle: Bundle) -> None:
    device = HostDevice(capturable=False)
    backend = open_tensorrt(bundle, plans_of(bundle), host_tensorrt(device), device)
    device.works = lambda: False  # type: ignore[method-assign]
    with pytest.raises(BackendError, match="lost to this process"):
        backend.denoise(0, **chunk(1, 8))
    assert backend.lost


def test_a_context_that_tensorrt_does_not_make_is_an_error_with_its_words(bundle: Bundle) -> None:
    device = HostDevice()
    trt = host_tensorrt(device)
    backend = open_tensorrt(bundle, plans_of(bundle), trt, device)
    trt.refuses = "IExecutionContext: Error Code 2: OutOfMemory"
    with pytest.raises(
        BackendError, match=r"run denoiser_0\.onnx on Host GPU .*does not make an execution context.*Error Code 2: OutOfMemory"
    ):
        backend.denoise(0, **chunk(1, 8))
    trt.refuses = ""
    assert denoised(backend, 1, 8).shape == (1, 8, *LATENT)


# ---- TensorRT-RTX ----


def test_kernels_are_compiled_at_once_and_kept(bundle: Bundle) -> None:
    device, kernels = HostDevice(), Kernels()
    trt = host_tensorrt(device, rtx=True)
    backend = open_tensorrt(bundle, plans_of(bundle), trt, device, kernels=kernels)
    denoised(backend, 1, 8)
    denoised(backend, 1, 16)
    denoised(backend, 1, 8)
    assert trt.contexts[0].config.dynamic_shapes_kernel_specialization_strategy is DynamicShapesKernelSpecializationStrategy.EAGER
    assert kernels.saved == [denoiser(0)] * 2
    again = open_tensorrt(bundle, plans_of(bundle), host_tensorrt(device, rtx=True), device, kernels=kernels)
    denoised(again, 1, 8)
    assert kernels.saved == [denoiser(0)] * 2, "what was kept is not compiled and saved again"


def test_kernels_of_another_gpu_are_compiled_again(bundle: Bundle) -> None:
    device, kernels = HostDevice(), Kernels({denoiser(0): b"of another GPU"})
    backend = open_tensorrt(bundle, plans_of(bundle), host_tensorrt(device, rtx=True), device, kernels=kernels)
    denoised(backend, 1, 8)
    assert kernels[denoiser(0)].startswith(b"KERNELS")


def test_kernels_that_cannot_be_kept_are_no_fault(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    class Full(Kernels):
        def save(self, graph: str, content: bytes) -> None:
            raise OSError("No space left on device")

    device = HostDevice()
    backend = open_tensorrt(bundle, plans_of(bundle), host_tensorrt(device, rtx=True), device, kernels=Full())
    with caplog.at_level(logging.WARNING):
        denoised(backend, 1, 8)
    assert "kernels compiled for denoiser_0.onnx could not be kept: No space left" in caplog.text


def test_what_tensorrt_warns_about_is_logged_and_its_errors_are_raised(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    device = HostDevice()
    with caplog.at_level(logging.DEBUG), pytest.raises(BackendError, match="Serialization"):
        open_tensorrt(bundle, plans_of(bundle) | {DECODER: b"?"}, host_tensorrt(device), device)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# ---- the real one ----


@pytest.fixture(scope="module")
def tensorrt_rtx() -> Any:
    try:
        return load_tensorrt(RTX).module
    except BackendError as error:
        pytest.skip(str(error))


def test_the_stand_in_has_nothing_that_the_real_tensorrt_rtx_lacks(tensorrt_rtx: Any) -> None:
    from support import host_tensorrt as stand_in

    for name in ("TensorIOMode", "TensorLocation", "ExecutionContextAllocationStrategy", "DynamicShapesKernelSpecializationStrategy"):
        assert set(getattr(stand_in, name).__members__) <= set(getattr(tensorrt_rtx, name).__members__), name
    for name in ("EngineValidity", "EngineInvalidityDiagnostics"):
        for member, value in getattr(stand_in, name).__members__.items():
            assert int(getattr(tensorrt_rtx, name).__members__[member]) == value.value, name
    assert set(stand_in.Severity.__members__) <= set(tensorrt_rtx.ILogger.Severity.__members__)
    pairs = {
        "Runtime": stand_in._RtxRuntime,
        "ICudaEngine": stand_in._RtxEngine,
        "IExecutionContext": stand_in._RtxContext,
        "IRuntimeConfig": stand_in._RuntimeConfig,
        "IRuntimeCache": stand_in._RuntimeCache,
    }
    for name, own in pairs.items():
        methods = {method for kind in own.__mro__[:-1] for method in vars(kind) if not method.startswith("_")}
        assert methods <= set(dir(getattr(tensorrt_rtx, name))), name


def test_the_real_tensorrt_rtx_refuses_what_is_no_plan(bundle: Bundle, tensorrt_rtx: Any) -> None:
    device = HostDevice()
    plans = dict.fromkeys(bundle.manifest.graphs(), b"x" * 4096)
    with pytest.raises(BackendError, match=r"engine of encoder\.onnx does not run on Host GPU \(SM89\): .*MALFORMED_ENGINE"):
        open_tensorrt(bundle, plans, tensorrt_rtx, device)
