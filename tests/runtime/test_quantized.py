# SPDX-License-Identifier: Apache-2.0
"""Denoisers in 8-bit integers: which layers, how near, and what is kept of them."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.tiny_bundle import write_tiny_bundle

from longscape_ros.actions import feature_count
from longscape_ros.bundle import DECODER, Bundle, default_bundle_path, denoiser, load_bundle
from longscape_ros.errors import BackendError, InputError
from longscape_ros.evaluation.metrics import psnr
from longscape_ros.examples import read_examples
from longscape_ros.runtime.backend import INT8
from longscape_ros.runtime.cache import ArtifactCache
from longscape_ros.runtime.onnxruntime_backend import OnnxRuntimeBackend
from longscape_ros.runtime.quantized import FAITHFUL_DB, KEPT, quantizable, quantized, why_not


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("quantized") / "tiny")


@pytest.fixture
def cache(tmp_path: Path) -> ArtifactCache:
    return ArtifactCache(tmp_path / "cache")


def chunk(bundle: Bundle, length: int = 8, batch: int = 2) -> tuple[Any, ...]:
    random = np.random.default_rng(0)
    manifest = bundle.manifest
    shapes = [
        (batch, manifest.context, *manifest.latent_shape),
        (batch, manifest.context + length, feature_count(manifest.action_space)),
        (batch, length, *manifest.latent_shape),
    ]
    return tuple(random.standard_normal(shape, np.float32) for shape in shapes)


@pytest.fixture(scope="module")
def default_graph(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    shipped = load_bundle(default_bundle_path())
    return onnx.load_from_string(quantized(shipped, denoiser(1), ArtifactCache(tmp_path_factory.mktemp("cache"))))


def test_weights_have_seven_bits_for_on_some_cpus_sums_of_two_products_have_sixteen(default_graph: onnx.ModelProto) -> None:
    weights = [onnx.numpy_helper.to_array(t) for t in default_graph.graph.initializer if t.data_type == onnx.TensorProto.INT8 and t.dims]
    largest = max(int(np.abs(weight.astype(np.int16)).max()) for weight in weights)
    assert 2 * 255 * largest <= np.iinfo(np.int16).max
    assert largest >= 60


def test_attention_and_experts_are_integers_and_the_rest_stays(default_graph: onnx.ModelProto) -> None:
    kinds = {tensor.name: tensor.data_type for tensor in default_graph.graph.initializer}
    products = [node for node in default_graph.graph.node if node.op_type == "MatMulInteger"]
    steps = load_bundle(default_bundle_path()).manifest.sampler_steps
    depth, layers = 6, 4  # queries, keys and values; out; up; down
    assert len(products) == depth * layers * (steps + 1) - 3  # the context's too, but for what is left of its last block
    assert all(kinds[node.input[1]] == onnx.TensorProto.INT8 for node in products)
    assert not [name for name, kind in kinds.items() if kind == onnx.TensorProto.INT8 and any(part in name for part in KEPT)]
    kept = [node for node in default_graph.graph.node if node.op_type in ("MatMul", "Gemm") and node.input[1] in kinds]
    assert all(kinds[node.input[1]] == onnx.TensorProto.FLOAT for node in kept)
    assert len(kept) >= depth + 2  # every block's modulation, and the embeddings


def test_the_graph_computes_nearly_the_same_as_in_single_precision(bundle: Bundle, cache: ArtifactCache) -> None:
    exact, rounded = OnnxRuntimeBackend(bundle, 1), OnnxRuntimeBackend(bundle, 1, INT8, cache)
    assert (exact.precision, rounded.precision) == ("fp32", "int8")
    inputs = chunk(bundle)
    expected, found = exact.denoise(2, *inputs), rounded.denoise(2, *inputs)
    difference = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert 0 < difference < 0.02


def test_the_decoders_convolutions_are_integers_but_for_the_one_that_makes_the_pixels(cache: ArtifactCache) -> None:
    shipped = load_bundle(default_bundle_path())
    convolutions = [node for node in onnx.load(shipped.file(DECODER)).graph.node if node.op_type == "Conv"]
    found = [node for node in onnx.load_from_string(quantized(shipped, DECODER, cache)).graph.node if "Conv" in node.op_type]
    assert [node.op_type for node in found] == ["QLinearConv"] * (len(convolutions) - 1) + ["Conv"]


def test_pictures_from_integers_are_nearly_the_same(cache: ArtifactCache) -> None:
    shipped = load_bundle(default_bundle_path())
    exact, rounded = OnnxRuntimeBackend(shipped), OnnxRuntimeBackend(shipped, precision=INT8, cache=cache)
    latents = exact.encode(read_examples(shipped)[0].context)
    expected, found = exact.start_decoding(latents)(), rounded.start_decoding(latents)()
    assert not np.array_equal(expected, found)
    assert psnr(expected, found) > FAITHFUL_DB


def test_without_examples_there_is_nothing_to_calibrate_a_decoder_on(bundle: Bundle) -> None:
    assert quantizable(bundle.manifest) == {denoiser(expert) for expert in range(4)}
    assert quantizable(load_bundle(default_bundle_path()).manifest) == {*quantizable(bundle.manifest), DECODER}


def test_what_was_quantised_once_is_not_quantised_again(bundle: Bundle, cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch) -> None:
    first = quantized(bundle, denoiser(0), cache)
    monkeypatch.setattr("longscape_ros.runtime.quantized._quantize_denoiser", None)
    assert quantized(bundle, denoiser(0), cache) == first
    with pytest.raises(TypeError):
        quantized(bundle, denoiser(1), cache)


def test_other_weights_are_another_graph(tmp_path: Path, bundle: Bundle, cache: ArtifactCache) -> None:
    other = write_tiny_bundle(tmp_path / "other", latent_shape=(4, 2, 3))
    assert quantized(other, denoiser(0), cache) != quantized(bundle, denoiser(0), cache)


def test_without_onnx_the_reason_names_the_package(bundle: Bundle, cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without_onnx(name: str, *args: Any, **options: Any) -> Any:
        if name == "onnx":
            raise ImportError(name)
        return imported(name, *args, **options)

    assert why_not() == ""
    monkeypatch.delitem(sys.modules, "onnx", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_onnx)
    assert "pip install onnx" in why_not()
    with pytest.raises(BackendError, match=r"denoiser_0\.onnx: cannot be quantised: .* or use the precision fp32"):
        OnnxRuntimeBackend(bundle, 1, INT8, cache)


def test_a_graph_without_such_weights_is_refused(bundle: Bundle, cache: ArtifactCache) -> None:
    with pytest.raises(BackendError, match=r"encoder\.onnx: found no weights to quantise"):
        quantized(bundle, "encoder.onnx", cache)


def test_a_precision_that_a_cpu_has_not_is_refused(bundle: Bundle) -> None:
    with pytest.raises(InputError, match="'fp16', expected fp32 or int8"):
        OnnxRuntimeBackend(bundle, 1, "fp16")
