# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.hosts import skip_unless_installed
from support.tiny_bundle import MANIFEST, PATCH

from longscape_ros.actions import feature_count
from longscape_ros.bench import work
from longscape_ros.bench.product import INPUT, OUTPUT, product_graph, product_input
from longscape_ros.bench.work import Node
from longscape_ros.bundle import Bundle, default_bundle_path, load_bundle
from longscape_ros.errors import InputError

FEATURES = feature_count(MANIFEST.action_space)
CHANNELS, HEIGHT, WIDTH = MANIFEST.latent_shape


@pytest.mark.parametrize(
    ("node", "macs"),
    [
        (Node("MatMul", ((3, 4), (4, 5)), (3, 5)), 3 * 4 * 5),
        (Node("MatMul", ((2, 6, 3, 4), (4, 5)), (2, 6, 3, 5)), 12 * 3 * 4 * 5),
        (Node("MatMul", ((1, 3, 4), (7, 4, 5)), (7, 3, 5)), 7 * 3 * 4 * 5),  # broadcast: every product is computed
        (Node("Gemm", ((3, 4), (4, 5), (5,)), (3, 5)), 3 * 4 * 5),
        (Node("Gemm", ((4, 3), (5, 4)), (3, 5)), 3 * 4 * 5),  # both transposed
        (Node("Conv", ((1, 8, 10, 10), (16, 8, 3, 3)), (1, 16, 10, 10)), 16 * 100 * 8 * 9),
        (Node("Conv", ((1, 8, 10, 10), (8, 1, 3, 3)), (1, 8, 10, 10)), 8 * 100 * 9),  # a group per channel
        (Node("ConvTranspose", ((1, 8, 5, 5), (8, 4, 2, 2)), (1, 4, 10, 10)), 8 * 25 * 4 * 4),
        (Node("Attention", ((2, 4, 10, 16), (2, 4, 30, 16), (2, 4, 30, 8)), (2, 4, 10, 8)), 2 * 4 * 10 * 30 * (16 + 8)),
        (Node("Add", ((3, 4), (3, 4)), (3, 4)), 0),
        (Node("Constant", (), ()), 0),
    ],
)
def test_products_are_counted_by_their_shapes(node: Node, macs: int) -> None:
    assert node.macs == macs


def test_a_graph_is_counted_as_it_stands_with_the_sizes_it_is_given(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("Relu", ["y"], ["r"]),
        helper.make_node("Gemm", ["r", "w"], ["z"], transB=1),
    ]
    weight = onnx.numpy_helper.from_array(np.ones((6, 7), np.float32), "w")
    sides = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 6])] for name in ("x", "z")]
    graph = helper.make_graph(nodes, "graph", *sides, initializer=[weight])
    path = tmp_path / "graph.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    for rows in (1, 5):
        assert work.count_macs(path, {"x": np.ones((rows, 6), np.float32)}) == 2 * rows * 6 * 7


def test_a_denoiser_is_counted_with_its_context_and_its_chunk(bundle: Bundle) -> None:
    # the tiny denoiser multiplies every step's actions with one matrix
    for length in MANIFEST.segmentation.lengths:
        assert work.denoiser_macs(bundle, length) == length * FEATURES * CHANNELS * HEIGHT * WIDTH
    assert work.fixed_macs(bundle) == 0


def test_frames_are_counted_through_the_autoencoder(bundle: Bundle) -> None:
    once = CHANNELS * HEIGHT * WIDTH * 3 * PATCH**2
    assert work.image_macs(bundle) == (once, once)


def test_the_default_bundle_is_counted_as_the_training_counts_its_model() -> None:
    skip_unless_installed("torch", "einops", extra="train")
    from longscape_ros.model.cost import denoiser_macs
    from longscape_ros.model.transformer import TransformerConfig

    bundle = load_bundle(default_bundle_path(), verify=False)
    manifest = bundle.manifest
    config = TransformerConfig(manifest.latent_shape, feature_count(manifest.action_space), context=manifest.context)
    for length in (8, 16, 32):
        counted = work.denoiser_macs(bundle, length)
        assert counted == pytest.approx(denoiser_macs(config, length, manifest.sampler_steps), rel=0.02)
    assert 0 < work.fixed_macs(bundle) < work.denoiser_macs(bundle, 8) / 4


@pytest.mark.parametrize("precision", ["fp32", "int8", "fp16"])
def test_the_product_is_a_valid_graph_that_multiplies(precision: str) -> None:
    import onnxruntime

    model = product_graph(16, precision)
    onnx.checker.check_model(onnx.load_from_string(model))
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    given = product_input(16, precision)
    weight = onnx.numpy_helper.to_array(onnx.load_from_string(model).graph.initializer[0])
    (result,) = session.run([OUTPUT], {INPUT: given})
    assert result.shape == (16, 16)
    np.testing.assert_allclose(result, given.astype(np.float64) @ weight.astype(np.float64), rtol=1e-2, atol=1e-2)
    assert np.ptp(given.astype(np.float32)) > 0


def test_the_product_counts_as_many_multiply_accumulates_as_it_is_taken_for(tmp_path: Path) -> None:
    path = tmp_path / "product.onnx"
    path.write_bytes(product_graph(24, "fp32"))
    assert work.count_macs(path, {INPUT: product_input(24, "fp32")}) == 24**3


def test_a_product_of_another_precision_is_refused() -> None:
    for make in (product_graph, product_input):
        with pytest.raises(InputError, match="Got the precision 'fp8'"):
            make(8, "fp8")
