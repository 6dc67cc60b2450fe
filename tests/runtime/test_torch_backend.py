# SPDX-License-Identifier: Apache-2.0
"""The reference computes what ONNX Runtime does, from the same files."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.hosts import skip_unless_installed
from support.tiny_bundle import write_tiny_bundle

from longscape_ros.actions import feature_count
from longscape_ros.bundle import Bundle, load_bundle, update_reports
from longscape_ros.contract import NO_ERROR
from longscape_ros.errors import BackendError, BundleError, InputError
from longscape_ros.runtime.backend import Backend
from longscape_ros.runtime.backends import available_backends, create_backend
from longscape_ros.runtime.torch_backend import MODULES, TorchBackend

skip_unless_installed(*MODULES, "onnxscript", extra="train")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Of a toy model that has all graphs."""
    from support.toy_runs import toy_model, write_toy_run

    from longscape_ros.export import export_run

    folder = tmp_path_factory.mktemp("torch")
    export_run(write_toy_run(folder / "run", toy_model(), heads=True), folder / "toy")
    return load_bundle(folder / "toy")


@pytest.fixture(scope="module")
def reference(bundle: Bundle) -> Iterator[Backend]:
    backend = create_backend(bundle, "torch", threads=1)
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def graphs(bundle: Bundle) -> Iterator[Backend]:
    backend = create_backend(bundle, "ort_cpu", threads=1, precision="fp32")
    yield backend
    backend.close()


def normal(*shape: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


def test_every_graph_gives_what_its_onnx_graph_gives(bundle: Bundle, reference: Backend, graphs: Backend) -> None:
    manifest = bundle.manifest
    known, features = manifest.context, feature_count(manifest.action_space)
    rgb = np.random.default_rng(0).integers(0, 256, (known, *manifest.image_size, 3), np.uint8)
    context = graphs.encode(rgb)[None]
    np.testing.assert_allclose(reference.encode(rgb)[None], context, atol=1e-4)
    coming = normal(1, known + manifest.experts.routing.lookahead, features)
    np.testing.assert_allclose(reference.route(context, coming), graphs.route(context, coming), atol=1e-4)
    np.testing.assert_allclose(reference.predict_length(context), graphs.predict_length(context), atol=1e-4)
    for length in manifest.segmentation.lengths:
        actions, noise = normal(1, known + length, features), normal(1, length, *manifest.latent_shape)
        for expert in range(manifest.experts.count):
            latents = graphs.denoise(expert, context, actions, noise)
            np.testing.assert_allclose(reference.denoise(expert, context, actions, noise), latents, atol=1e-4)
        before = np.array([NO_ERROR], np.float32)
        expected = graphs.estimate_error(context, actions, latents, before)
        np.testing.assert_allclose(reference.estimate_error(context, actions, latents, before), expected, atol=1e-4)
        pictures, others = reference.start_decoding(latents[0])(), graphs.start_decoding(latents[0])()
        assert pictures.dtype == np.uint8
        assert np.abs(pictures.astype(int) - others.astype(int)).max() <= 1  # rounded to either side


def test_what_it_gives_stays_when_it_is_called_again(bundle: Bundle, reference: Backend) -> None:
    random = np.random.default_rng(1)
    one, other = (random.integers(0, 256, (1, *bundle.manifest.image_size, 3), np.uint8) for _ in range(2))
    first = reference.encode(one)
    kept = first.copy()
    assert not np.array_equal(reference.encode(other), kept)
    assert np.array_equal(first, kept)


def test_it_is_never_chosen_unless_it_is_named(bundle: Bundle) -> None:
    assert available_backends()["torch"] == ""
    assert create_backend(bundle, "auto").name != "torch"


def test_a_bundle_that_does_not_tell_its_attention_heads_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    older = Path(shutil.copytree(bundle.path, tmp_path / "older"))
    update_reports(older, training={"recipe": "toy"})
    with pytest.raises(BundleError, match=r"no number 'attention_heads' .*Export the model again"):
        create_backend(load_bundle(older), "torch")


def test_another_number_of_attention_heads_computes_something_else(bundle: Bundle, graphs: Backend, tmp_path: Path) -> None:
    """So the number matters, and is not one that any would do for."""
    other = Path(shutil.copytree(bundle.path, tmp_path / "other"))
    update_reports(other, training={"attention_heads": 4})
    manifest, features = bundle.manifest, feature_count(bundle.manifest.action_space)
    inputs = normal(1, 4, *manifest.latent_shape), normal(1, 12, features), normal(1, 8, *manifest.latent_shape)
    found = create_backend(load_bundle(other), "torch", threads=1).denoise(0, *inputs)
    assert np.abs(found - graphs.denoise(0, *inputs)).max() > 1e-3


def test_graphs_of_another_kind_of_model_are_refused(tmp_path: Path) -> None:
    tiny = write_tiny_bundle(tmp_path / "tiny", training={"attention_heads": 2})
    with pytest.raises(BundleError, match=r"not those of this package's model .*use ort_cpu"):
        create_backend(tiny, "torch")


def test_a_model_whose_weights_are_not_all_there_is_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from longscape_ros.model import stored

    complete = stored.stored_weights(bundle)
    incomplete = {name: weight for name, weight in complete.items() if name != "denoiser.transformer.place"}
    monkeypatch.setattr(stored, "stored_weights", lambda _: incomplete)
    with pytest.raises(BundleError, match=r"no weights of the right shape for denoiser\.transformer\.place"):
        TorchBackend(bundle)


def test_a_host_without_torch_names_the_extra(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BackendError, match=r"'torch': no torch; pip install 'longscape_ros\[train\]'"):
        create_backend(bundle, "torch")


def test_arguments_out_of_range_are_refused(bundle: Bundle) -> None:
    with pytest.raises(InputError, match="device 'tpu'"):
        TorchBackend(bundle, device="tpu")
    with pytest.raises(InputError, match="0 threads"):
        TorchBackend(bundle, threads=0)


def test_a_gpu_that_is_not_there_is_refused(bundle: Bundle) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this host has one")
    with pytest.raises(BackendError, match="finds no GPU; use the device cpu"):
        TorchBackend(bundle, device="cuda")


def test_each_backend_computes_with_its_own_number_of_threads(bundle: Bundle) -> None:
    import torch

    rgb = np.zeros((1, *bundle.manifest.image_size, 3), np.uint8)
    one, two = TorchBackend(bundle, threads=1), TorchBackend(bundle, threads=2)
    for backend in (one, two, one):
        backend.encode(rgb)
        assert torch.get_num_threads() == backend.threads
    torch.set_num_threads(1)


def test_what_does_not_fit_is_named_with_its_shapes_and_a_closed_backend_says_so(bundle: Bundle) -> None:
    backend = TorchBackend(bundle, threads=1)
    with pytest.raises(BackendError, match=r"torch failed to run encode on uint8 \[1, 3, 5, 3\]"):
        backend.encode(np.zeros((1, 3, 5, 3), np.uint8))
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.encode(np.zeros((1, *bundle.manifest.image_size, 3), np.uint8))


def test_compiled_graphs_give_the_same(bundle: Bundle, reference: Backend) -> None:
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler, which TorchInductor needs")
    compiled = TorchBackend(bundle, threads=1, compiled=True)
    context = normal(1, bundle.manifest.context, *bundle.manifest.latent_shape)
    np.testing.assert_allclose(compiled.predict_length(context), reference.predict_length(context), atol=1e-4)
    compiled.close()
