# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.failing import Failing, Machine, built_by, script
from support.tiny_bundle import MANIFEST, write_graphs, write_tiny_bundle

from longscape_ros.actions import feature_count
from longscape_ros.bundle import DECODER, ENCODER, Bundle, Experts, Manifest, Routing, load_bundle, update_reports, write_bundle
from longscape_ros.contract import ActionDimension, ActionSpace, Confidence
from longscape_ros.errors import BackendError, BundleError, InputError
from longscape_ros.runtime.backend import BACKENDS, Backend
from longscape_ros.runtime.backends import Ladder, available_backends, create_backend
from longscape_ros.runtime.cache import ArtifactCache
from longscape_ros.runtime.cpus import usable_cpus
from longscape_ros.runtime.kinds import Engines, Kind, Wanted, all_kinds
from longscape_ros.runtime.quantized import FAITHFUL_DB

FEATURES = feature_count(MANIFEST.action_space)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="module")
def backend(bundle: Bundle) -> Backend:
    return create_backend(bundle, "ort_cpu", threads=1)


def chunk(length: int) -> dict[str, Any]:
    random = np.random.default_rng(length)
    return {
        "context": random.standard_normal((1, MANIFEST.context, *MANIFEST.latent_shape), np.float32),
        "actions": random.standard_normal((1, MANIFEST.context + length, FEATURES), np.float32),
        "noise": random.standard_normal((1, length, *MANIFEST.latent_shape), np.float32),
    }


@pytest.mark.parametrize("length", [8, 32])
def test_each_graph_gives_the_shape_and_type_of_the_contract(backend: Backend, length: int) -> None:
    rgb = np.zeros((length, *MANIFEST.image_size, 3), np.uint8)
    latents = backend.encode(rgb)
    assert latents.shape == (length, *MANIFEST.latent_shape)
    assert latents.dtype == np.float32
    denoised = backend.denoise(0, **chunk(length))
    assert denoised.shape == (1, length, *MANIFEST.latent_shape)
    assert denoised.dtype == np.float32
    decoded = backend.start_decoding(latents)()
    assert decoded.shape == rgb.shape
    assert decoded.dtype == np.uint8


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Backend:
    """Of a bundle that has all graphs."""
    confidence = Confidence(25.0, -1.0, -6.0)
    experts = Experts(3, Routing("learned", 8))
    folder = tmp_path_factory.mktemp("bundles") / "everything"
    bundle = write_tiny_bundle(folder, experts=experts, confidence=confidence, length_predictor=True)
    return create_backend(bundle, "ort_cpu", threads=1)


def test_router_length_predictor_and_error_estimator_give_what_the_contract_says(everything: Backend) -> None:
    inputs = chunk(16)
    coming = np.ones((1, MANIFEST.context + 8, FEATURES), np.float32)
    latents, before = inputs["noise"], np.array([-8.0], np.float32)
    assert everything.route(inputs["context"], coming).shape == (1, 3)
    assert everything.predict_length(inputs["context"]).shape == (1, len(MANIFEST.segmentation.lengths))
    estimate = everything.estimate_error(inputs["context"], inputs["actions"], latents, before)
    assert estimate.shape == (1, 16)
    assert estimate.dtype == np.float32
    assert not np.array_equal(everything.route(inputs["context"], coming), everything.route(inputs["context"], 2 * coming))
    assert not np.array_equal(everything.route(inputs["context"], coming), everything.route(inputs["context"] + 1, coming))
    worse = everything.estimate_error(inputs["context"], inputs["actions"], latents, before + 1)
    np.testing.assert_allclose(worse, estimate + 1, rtol=1e-5)


def test_a_router_that_looks_less_far_ahead_than_the_manifest_says_is_refused(tmp_path: Path) -> None:
    near, far = (replace(MANIFEST, experts=Experts(3, Routing("learned", ahead))) for ahead in (8, 16))
    (tmp_path / "graphs").mkdir()
    write_graphs(tmp_path / "graphs", near)
    bundle = write_bundle(tmp_path / "mixed", far, {path.name: path for path in (tmp_path / "graphs").iterdir()})
    with pytest.raises(BundleError, match=rf"router\.onnx: found the inputs .*\[\?, 12, {FEATURES}\]; expected .*\[\?, 20, {FEATURES}\]"):
        create_backend(bundle, "ort_cpu")


def test_the_same_input_gives_the_same_bits(backend: Backend) -> None:
    assert np.array_equal(backend.denoise(2, **chunk(16)), backend.denoise(2, **chunk(16)))


def test_every_input_and_the_expert_matter(backend: Backend) -> None:
    reference = backend.denoise(0, **chunk(8))
    assert not np.array_equal(reference, backend.denoise(1, **chunk(8)))
    for name, array in chunk(8).items():
        assert not np.array_equal(reference, backend.denoise(0, **chunk(8) | {name: array + 1})), name


def test_views_that_are_not_contiguous_are_accepted(backend: Backend) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (3, *MANIFEST.image_size, 3), np.uint8)
    assert np.array_equal(backend.encode(rgb[::-1]), backend.encode(rgb)[::-1])


def test_auto_uses_what_works_here(bundle: Bundle) -> None:
    usable = [name for name, reason in available_backends().items() if not reason]
    assert "ort_cpu" in usable
    assert create_backend(bundle, "auto").name in usable


def test_every_backend_is_known_in_the_order_in_which_auto_tries_them() -> None:
    assert tuple(available_backends()) == BACKENDS


@pytest.mark.parametrize("name", [name for name in BACKENDS if name != "ort_cpu"])
def test_a_backend_that_this_host_lacks_says_why_and_what_there_is(bundle: Bundle, name: str) -> None:
    if not available_backends()[name]:
        pytest.skip(f"this host has {name}")
    with pytest.raises(BackendError, match=rf"Got the backend '{name}': .+\. Use .*ort_cpu.* or auto\."):
        create_backend(bundle, name)


def test_an_unknown_backend_is_refused_with_the_known_ones(bundle: Bundle) -> None:
    with pytest.raises(BackendError, match=r"'quantum', expected auto or one of tensorrt, ort_tensorrt, ort_cuda, ort_cpu, torch"):
        create_backend(bundle, "quantum")


def test_a_precision_that_a_backend_has_not_is_refused_with_those_that_have_it(bundle: Bundle) -> None:
    with pytest.raises(InputError, match=r"'fp16' for the backend 'ort_cpu': it has int8, fp32 only; fp16 is for tensorrt, ort_tensorrt"):
        create_backend(bundle, "ort_cpu", precision="fp16")
    with pytest.raises(InputError, match=r"'fp64', expected auto or one of fp32, fp16, int8"):
        create_backend(bundle, "ort_cpu", precision="fp64")


def test_a_precision_that_no_backend_here_has_is_refused_with_what_each_has(bundle: Bundle) -> None:
    machine = Machine(bundle).add("ort_cuda", why_not="no GPU", precisions=("fp16", "fp32")).add("ort_cpu", precisions=("int8", "fp32"))
    with pytest.raises(BackendError, match=r"precision fp16, but no backend .*: ort_cuda: no GPU; ort_cpu: it has int8, fp32 only"):
        Ladder(bundle, Wanted(precision="fp16"), machine.kinds)


def verified(bundle: Bundle, folder: Path, **figures: float) -> Bundle:
    """The same bundle whose export measured this."""
    copy = Path(shutil.copytree(bundle.path, folder / "verified"))
    return update_reports(copy, verification={f"{name}.rollout_psnr_db": figure for name, figure in figures.items()})


@pytest.mark.parametrize(
    ("figures", "gpu", "cpu"),
    [
        ({}, "fp32", "fp32"),
        ({"int8": FAITHFUL_DB - 0.1, "fp16": FAITHFUL_DB - 0.1}, "fp32", "fp32"),
        ({"int8": FAITHFUL_DB}, "fp32", "int8"),
        ({"fp16": FAITHFUL_DB}, "fp16", "fp32"),
    ],
)
def test_the_automatic_precision_is_the_fastest_that_an_export_found_to_predict_the_same(bundle, tmp_path, figures, gpu, cpu):
    found = verified(bundle, tmp_path, **figures)
    for why_not, expected in (("", ("ort_cuda", gpu)), ("no GPU", ("ort_cpu", cpu))):
        machine = Machine(found).add("ort_cuda", why_not, precisions=("fp16", "fp32"))
        machine.add("ort_cpu", precisions=("int8", "fp32"), on_gpu=False)
        backend = Ladder(found, Wanted(), machine.kinds).open().backend
        assert (backend.name, backend.precision) == expected


def test_a_fast_precision_that_something_is_missing_for_is_passed_over_and_nothing_is_degraded(bundle: Bundle, tmp_path: Path) -> None:
    found = verified(bundle, tmp_path, int8=50.0)
    machine = Machine(found).add("ort_cpu", precisions=("int8", "fp32"), lacks="quantising needs onnx", on_gpu=False)
    opened = Ladder(found, Wanted(), machine.kinds).open()
    assert (opened.backend.precision, opened.cause) == ("fp32", "")
    assert opened.refused == {"ort_cpu in int8": "quantising needs onnx"}


def test_single_precision_is_the_last_resort_of_the_automatic_one_only(bundle: Bundle, tmp_path: Path) -> None:
    found = verified(bundle, tmp_path, int8=50.0)

    def open_kind(_: Bundle, precision: str, __: Wanted) -> Any:
        if precision == "int8":
            raise BackendError("it cannot be quantised")
        return Failing(found, "ort_cpu", precision)

    kinds = [Kind("ort_cpu", ("int8", "fp32"), lambda: "", open_kind)]
    opened = Ladder(found, Wanted(), kinds).open()
    assert (opened.backend.precision, opened.cause) == ("fp32", "ort_cpu in int8: it cannot be quantised")
    with pytest.raises(BackendError, match="cannot be quantised"):
        Ladder(found, Wanted(precision="int8"), kinds).open()


def test_a_backend_below_one_that_was_named_takes_the_precision_that_it_has(bundle: Bundle) -> None:
    machine = Machine(bundle).add("ort_cuda", precisions=("fp16", "fp32")).add("ort_cpu", precisions=("int8", "fp32"), on_gpu=False)
    ladder = Ladder(bundle, Wanted("ort_cuda", "fp16"), machine.kinds)
    opened = ladder.open()
    below = ladder.below(opened, BackendError("out of memory"))
    assert below is not None
    assert [(backend.name, backend.precision) for backend in machine.opened] == [("ort_cuda", "fp16"), ("ort_cpu", "fp32")]


def test_no_other_backend_takes_the_references_place(bundle: Bundle) -> None:
    machine = Machine(bundle).add("ort_cuda").add("torch", on_gpu=False).add("ort_cpu", on_gpu=False)
    ladder = Ladder(bundle, Wanted("torch"), machine.kinds)
    assert ladder.below(ladder.open(), BackendError("out of memory")) is None
    assert machine.left_open == ["torch"]


def test_a_backend_that_is_named_builds_the_engines_that_it_lacks_and_auto_goes_without(bundle: Bundle, tmp_path: Path) -> None:
    built = tmp_path / "built"
    engines = Engines(lambda *_: built.exists(), lambda *_: script({"finished": True}, then=f"open({str(built)!r}, 'w')"))
    machine = Machine(bundle).add("tensorrt", engines=engines).add("ort_cpu", on_gpu=False)
    opened = Ladder(bundle, Wanted(), machine.kinds).open()
    assert (opened.backend.name, opened.cause) == ("ort_cpu", "tensorrt in fp32: its engines are not built yet")
    ladder = Ladder(bundle, Wanted("tensorrt"), machine.kinds)
    assert ladder.lacks_engines
    ladder.build()
    assert not ladder.lacks_engines
    assert ladder.open().backend.name == "tensorrt"


def test_engines_that_cannot_be_built_are_an_error_with_the_reason(bundle: Bundle) -> None:
    machine = Machine(bundle).add("tensorrt", engines=built_by(script({"fault": "unsupported operator"}, code=1)))
    with pytest.raises(BackendError, match="engines of tensorrt in fp32 cannot be built: unsupported operator"):
        Ladder(bundle, Wanted("tensorrt"), machine.kinds).build()


def test_a_gpu_that_does_not_answer_is_found_out_when_its_engines_are_opened_and_the_next_backend_serves(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from longscape_ros.runtime import cuda, tensorrt

    if reason := tensorrt.unavailable():
        pytest.skip(reason)
    real = all_kinds()[0]

    def lost() -> Any:
        raise BackendError("the GPU does not answer")

    monkeypatch.setattr(cuda, "open_device", lost)
    assert real.name == "tensorrt"
    machine = Machine(bundle).add("ort_cpu", on_gpu=False)
    kinds = [replace(real, why_not=lambda: ""), *machine.kinds]
    opened = Ladder(bundle, Wanted(cache=ArtifactCache(tmp_path)), kinds).open()
    assert (opened.backend.name, opened.cause) == ("ort_cpu", "tensorrt in fp32: the GPU does not answer")


def test_engines_are_built_by_a_process_that_is_told_bundle_precision_and_cache(bundle: Bundle, tmp_path: Path) -> None:
    engines = all_kinds()[0].engines
    assert engines is not None
    words = engines.command(bundle, "fp16", Wanted(cache=ArtifactCache(tmp_path)))
    assert words[:3] == [sys.executable, "-m", "longscape_ros.runtime.build_engines"]
    given = dict(zip(words[3::2], words[4::2], strict=True))
    assert given == {"--bundle": str(bundle.path), "--precision": "fp16", "--target": "current", "--cache": str(tmp_path)}


def test_what_was_chosen_and_what_was_not_is_logged(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine(bundle).add("tensorrt", why_not="no GPU").add("ort_cuda", opens=False).add("ort_cpu", on_gpu=False)
    with caplog.at_level(logging.INFO):
        Ladder(bundle, Wanted(), machine.kinds).open()
    expected = "runs on ort_cpu in fp32 (a GPU that is a CPU); not tensorrt: no GPU; not ort_cuda in fp32: ort_cuda does not open."
    assert caplog.messages[-1].endswith(expected)


def test_no_threads_are_refused(bundle: Bundle) -> None:
    with pytest.raises(InputError, match="0 threads"):
        create_backend(bundle, "ort_cpu", threads=0)


def test_threads_are_as_many_as_the_process_may_use(bundle: Bundle) -> None:
    assert 1 <= usable_cpus() <= len(os.sched_getaffinity(0))
    assert create_backend(bundle, "ort_cpu").threads == min(usable_cpus(), 8)
    assert create_backend(bundle, "ort_cpu", threads=3).threads == 3


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "max 100000"}, 10**6),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 10**6),
    ],
)
def test_the_quota_of_a_container_limits_the_threads(tmp_path: Path, files: dict[str, str], cpus: int) -> None:
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert usable_cpus(tmp_path) == min(cpus, len(os.sched_getaffinity(0)))


def test_a_closed_backend_says_that_it_is_closed(bundle: Bundle) -> None:
    backend = create_backend(bundle, "ort_cpu", threads=1)
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.start_decoding(np.zeros((1, *MANIFEST.latent_shape), np.float32))


def test_a_graph_that_fails_is_named_with_its_inputs(backend: Backend) -> None:
    with pytest.raises(BackendError, match=r"failed to run encoder\.onnx on rgb uint8 \[1, 3, 3, 3\]"):
        backend.encode(np.zeros((1, 3, 3, 3), np.uint8))


def with_graphs_of(folder: Path, graphs: Manifest) -> Bundle:
    """A bundle whose manifest says one thing and whose graphs are made for another."""
    source = folder / "graphs"
    source.mkdir()
    write_graphs(source, graphs)
    return write_bundle(folder / "mixed", MANIFEST, {path.name: path for path in source.iterdir()})


def test_a_graph_for_other_images_is_refused_with_found_and_expected(tmp_path: Path) -> None:
    bundle = with_graphs_of(tmp_path, replace(MANIFEST, image_size=(24, 16), latent_shape=(2, 3, 2)))
    with pytest.raises(BundleError, match=r"encoder\.onnx: found the inputs rgb .*\[\?, 24, 16, 3\]; expected rgb .*\[\?, 16, 24, 3\]"):
        create_backend(bundle, "ort_cpu")


def test_a_graph_for_other_actions_is_refused(tmp_path: Path) -> None:
    bundle = with_graphs_of(tmp_path, replace(MANIFEST, action_space=ActionSpace((ActionDimension("x"),))))
    with pytest.raises(BundleError, match=rf"denoiser_0\.onnx: found the inputs .*\[\?, \?, 2\].*expected .*\[\?, \?, {FEATURES}\]"):
        create_backend(bundle, "ort_cpu")


def test_a_graph_for_another_context_is_refused(tmp_path: Path) -> None:
    bundle = with_graphs_of(tmp_path, replace(MANIFEST, context=2))
    with pytest.raises(BundleError, match=r"denoiser_0\.onnx: found the inputs context"):
        create_backend(bundle, "ort_cpu")


def test_graphs_that_changed_places_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    sources = {name: bundle.file(name) for name in bundle.manifest.files}
    mixed = write_bundle(tmp_path / "mixed", MANIFEST, sources | {ENCODER: sources[DECODER]})
    with pytest.raises(BundleError, match=r"encoder\.onnx: found the inputs latents"):
        create_backend(mixed, "ort_cpu")


def test_a_file_that_is_no_graph_is_named(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a graph")
    sources = {name: bundle.file(name) for name in bundle.manifest.files}
    mixed = write_bundle(tmp_path / "mixed", MANIFEST, sources | {DECODER: tmp_path / "text"})
    with pytest.raises(BackendError, match=r"decoder\.onnx: ONNX Runtime .* cannot open the graph"):
        create_backend(mixed, "ort_cpu")


def test_a_bundle_works_after_it_was_moved(bundle: Bundle, tmp_path: Path) -> None:
    moved = load_bundle(shutil.copytree(bundle.path, tmp_path / "elsewhere"))
    image = np.full((1, *MANIFEST.image_size, 3), 77, np.uint8)
    assert np.array_equal(create_backend(moved, "ort_cpu").encode(image), create_backend(bundle, "ort_cpu").encode(image))
