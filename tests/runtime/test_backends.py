# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_bundle import MANIFEST, write_graphs, write_tiny_bundle

from longscape_ros.actions import feature_count
from longscape_ros.bundle import DECODER, ENCODER, Bundle, Experts, Manifest, Routing, load_bundle, write_bundle
from longscape_ros.contract import ActionDimension, ActionSpace, Confidence
from longscape_ros.errors import BackendError, BundleError, InputError
from longscape_ros.runtime.backend import Backend
from longscape_ros.runtime.backends import available_backends, create_backend
from longscape_ros.runtime.cpus import usable_cpus

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


@pytest.mark.parametrize("name", ["tensorrt", "ort_tensorrt", "torch"])
def test_a_backend_of_a_later_version_says_that_it_is_not_available_and_what_is(bundle: Bundle, name: str) -> None:
    with pytest.raises(BackendError, match=rf"'{name}': not available in this version .* Use one of .*ort_cpu"):
        create_backend(bundle, name)


def test_an_unknown_backend_is_refused_with_the_known_ones(bundle: Bundle) -> None:
    with pytest.raises(BackendError, match=r"'quantum', expected auto or one of ort_cuda, ort_cpu"):
        create_backend(bundle, "quantum")


def test_cuda_on_a_host_without_it_names_the_package(bundle: Bundle) -> None:
    if not available_backends()["ort_cuda"]:
        pytest.skip("this host has ONNX Runtime for CUDA")
    with pytest.raises(BackendError, match="install onnxruntime-gpu"):
        create_backend(bundle, "ort_cuda")


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
