# SPDX-License-Identifier: Apache-2.0
"""Graphs in half precision: what they compute, what stays in single precision, and that TensorRT and ONNX Runtime take them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from support.tiny_bundle import MANIFEST, write_tiny_bundle

from longscape_ros.bundle import DECODER, ENCODER, Bundle, Routing, default_bundle_path, denoiser, load_bundle
from longscape_ros.contract import Confidence
from longscape_ros.errors import BackendError
from longscape_ros.parity import LIMITS, Difference
from longscape_ros.runtime.backend import FP16, expected_tensors
from longscape_ros.runtime.cache import ArtifactCache
from longscape_ros.runtime.half import convert, half, halved

FULL, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="module")
def default() -> Bundle:
    return load_bundle(default_bundle_path())


def run(model: Path | bytes, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    source = model if isinstance(model, bytes) else str(model)
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def feeds_of(bundle: Bundle, graph: str, batch: int = 2, chunk: int = 16) -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(3)
    made: dict[str, NDArray[Any]] = {}
    for name, (kind, (_, *rest)) in expected_tensors(graph, bundle.manifest)[0].items():
        open_size = bundle.manifest.context + chunk if name == "actions" else chunk
        shape = (batch, *(open_size if size is None else size for size in rest))
        made[name] = random.integers(0, 256, shape, np.uint8) if kind == "uint8" else random.standard_normal(shape, np.float32)
    return made


def kinds_of(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output, *graph.value_info)}
    return kinds | {tensor.name: tensor.data_type for tensor in graph.initializer}


def converted(build: Callable[[], list[onnx.NodeProto]], weights: dict[str, NDArray[Any]]) -> onnx.ModelProto:
    """A graph from ``x`` [B, 4] to ``y``, converted."""
    tensors = [helper.make_tensor_value_info(name, FULL, ["B", 4]) for name in "xy"]
    stored = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(build(), "small", tensors[:1], tensors[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    convert(model)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.parametrize("name", ["encoder", "denoiser_0", "denoiser_1", "denoiser_2", "denoiser_3", "decoder"])
def test_every_graph_of_the_default_bundle_computes_nearly_the_same(default, name):
    graph = f"{name}.onnx"
    assert graph in halved(default)
    feeds = feeds_of(default, graph)
    output, *_ = expected_tensors(graph, default.manifest)[1]
    found, expected = (run(model, feeds)[output] for model in (half(default, graph), default.file(graph)))
    difference = Difference.of(found, expected)
    limit = LIMITS[FP16]
    assert difference.relative <= limit.relative / 5  # what a GPU rounds differently comes on top
    assert difference.cosine >= limit.cosine
    assert difference.largest > 0  # it is another graph


def test_graphs_that_decide_or_estimate_stay_as_they_are(tmp_path):
    bundle = write_tiny_bundle(
        tmp_path / "b", experts=replace(MANIFEST.experts, routing=Routing("learned", 8)), confidence=Confidence(25.0, -1.0, -6.0),
        length_predictor=True,
    )  # fmt: skip
    kept = set(bundle.manifest.graphs()) - set(halved(bundle))
    assert kept == {"router.onnx", "length_predictor.onnx", "error_estimator.onnx"}


@pytest.mark.parametrize("graph", [ENCODER, DECODER, denoiser(0)])
def test_what_goes_in_and_comes_out_keeps_its_type_and_most_products_are_halved(default, graph):
    before, after = onnx.load(default.file(graph)), onnx.load_from_string(half(default, graph))
    for side in ("input", "output"):
        one, other = ([(v.name, v.type.tensor_type.elem_type) for v in getattr(model.graph, side)] for model in (before, after))
        assert one == other
    kinds = kinds_of(after)
    products = [node for node in after.graph.node if node.op_type in ("MatMul", "Gemm", "Conv")]
    assert products
    assert all(kinds[name] == HALF for node in products for name in (*node.input, *node.output) if name)


def test_weights_stored_in_half_precision_are_used_as_they_are_and_not_cast_twice(default):
    graph = denoiser(0)
    before, after = onnx.load(default.file(graph)), onnx.load_from_string(half(default, graph))
    stored = {t.name: t.raw_data for t in before.graph.initializer if t.data_type == HALF}
    kept = {t.name: t.raw_data for t in after.graph.initializer if t.data_type == HALF}
    assert len(set(stored) & set(kept)) > 100
    assert all(kept[name] == stored[name] for name in set(stored) & set(kept))
    casts = {node.input[0] for node in after.graph.node if node.op_type == "Cast"}
    products = {name for node in after.graph.node if node.op_type in ("MatMul", "Gemm") for name in node.input}
    assert not casts & products & set(kept)


def test_normalisations_softmax_and_angles_stay_in_single_precision(default):
    model = onnx.load_from_string(half(default, denoiser(0)))
    kinds = kinds_of(model)
    seen = set()
    for node in model.graph.node:
        if node.op_type in ("LayerNormalization", "Softmax", "Sin", "Cos"):
            seen.add(node.op_type)
            assert kinds[node.input[0]] == FULL, node.name
    assert seen == {"LayerNormalization", "Softmax", "Sin", "Cos"}


def test_a_large_angle_keeps_its_digits():
    def build() -> list[onnx.NodeProto]:
        return [helper.make_node("Mul", ["x", "rate"], ["angle"]), helper.make_node("Sin", ["angle"], ["y"])]

    model = converted(build, {"rate": np.full(4, 1000.0, np.float32)})
    x = np.array([[0.1, 0.7, 1.3, 2.9]], np.float32)
    found = run(model.SerializeToString(), {"x": x})["y"]
    assert np.abs(found - np.sin(1000 * x)).max() < 1e-3  # in half precision the angle would be off by up to 1


def test_a_constant_beyond_half_precisions_range_keeps_its_operator_in_single_precision():
    def build() -> list[onnx.NodeProto]:
        return [helper.make_node("Mul", ["x", "large"], ["big"]), helper.make_node("Div", ["big", "large"], ["y"])]

    model = converted(build, {"large": np.full(1, 1e6, np.float32)})
    x = np.array([[1.0, -2.0, 3.0, 0.5]], np.float32)
    np.testing.assert_allclose(run(model.SerializeToString(), {"x": x})["y"], x, rtol=1e-3)


def test_a_tiny_divisor_does_not_become_zero():
    def build() -> list[onnx.NodeProto]:
        return [helper.make_node("Add", ["x", "epsilon"], ["safe"]), helper.make_node("Div", ["x", "safe"], ["y"])]

    model = converted(build, {"epsilon": np.full(1, 1e-12, np.float32)})
    found = run(model.SerializeToString(), {"x": np.array([[0.0, 1.0, 2.0, 3.0]], np.float32)})["y"]
    np.testing.assert_allclose(found, [[0, 1, 1, 1]], atol=1e-3)


def test_control_flow_is_refused():
    def build() -> list[onnx.NodeProto]:
        value = helper.make_tensor_value_info("inner", FULL, None)
        branch = helper.make_graph([helper.make_node("Identity", ["x"], ["inner"])], "branch", [], [value])
        return [helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)]

    with pytest.raises(BackendError, match=r"Got control flow \(If\) in a graph, expected none; use the precision fp32"):
        converted(build, {"yes": np.array(True)})


def test_a_graph_is_kept_and_taken_from_the_cache(bundle, tmp_path, monkeypatch):
    cache = ArtifactCache(tmp_path / "cache")
    made = half(bundle, ENCODER, cache)
    monkeypatch.setattr(onnx, "load", None)  # it cannot be made again
    assert half(bundle, ENCODER, cache) == made
    with pytest.raises(TypeError):
        half(bundle, DECODER, cache)


def test_without_onnx_the_reason_names_the_package(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(BackendError, match=r"need the package onnx \(pip install onnx\); or use the precision fp32"):
        half(bundle, ENCODER)
