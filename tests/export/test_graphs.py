# SPDX-License-Identifier: Apache-2.0
"""How constants are stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from support.toy_runs import toy_model

from longscape_ros.export.export import round_weights
from longscape_ros.export.graphs import WEIGHTS, store_weights
from longscape_ros.export.structures import OPSET
from longscape_ros.model.world import WorldModel


@pytest.fixture
def model() -> WorldModel:
    return toy_model()


def adding(*constants: NDArray[Any]) -> onnx.ModelProto:
    """x + the constants."""
    count = len(constants)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    nodes = [helper.make_node("Sum", ["x", *(f"c{i}" for i in range(count))], ["y"])]
    graph = helper.make_graph(nodes, "adding", [x], [y], [numpy_helper.from_array(c, f"c{i}") for i, c in enumerate(constants)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)


def run(path: Path, x: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    result: NDArray[np.float32] = session.run(["y"], {"x": x})[0]
    return result


def stored_types(path: Path) -> list[int]:
    initializers = onnx.load(path, load_external_data=False).graph.initializer
    return [tensor.data_type for tensor in initializers if tensor.data_location == TensorProto.EXTERNAL]


def halves(*shape: int) -> NDArray[np.float32]:
    """Numbers that half precision holds."""
    return np.random.default_rng(0).standard_normal(shape).astype(np.float16).astype(np.float32)


def test_constants_are_stored_in_half_precision_only_where_that_is_exact(tmp_path: Path) -> None:
    exact, inexact = halves(80), np.linspace(0, 1, 80, dtype=np.float32)
    store_weights({"graph.onnx": adding(exact, inexact)}, tmp_path)
    assert stored_types(tmp_path / "graph.onnx") == [TensorProto.FLOAT16, TensorProto.FLOAT]
    np.testing.assert_array_equal(run(tmp_path / "graph.onnx", np.zeros(80, np.float32)), exact + inexact)


@pytest.mark.parametrize("value", [1e6, float("inf"), float("nan"), 1e-30])
def test_what_half_precision_cannot_hold_stays_as_it_is(tmp_path: Path, value: float) -> None:
    store_weights({"graph.onnx": adding(np.full(64, value, np.float32))}, tmp_path)
    np.testing.assert_array_equal(run(tmp_path / "graph.onnx", np.zeros(64, np.float32)), np.full(64, value, np.float32))


def test_small_constants_stay_in_the_graph(tmp_path: Path) -> None:
    small = np.linspace(0, 1, 63, dtype=np.float32)
    store_weights({"graph.onnx": adding(small)}, tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes() == b""
    np.testing.assert_array_equal(run(tmp_path / "graph.onnx", np.zeros(63, np.float32)), small)


def test_equal_constants_of_several_graphs_lie_once_in_the_file(tmp_path: Path) -> None:
    shared, own = halves(8, 32), halves(16, 32)
    files = store_weights({"a.onnx": adding(shared, shared), "b.onnx": adding(shared), "c.onnx": adding(own)}, tmp_path)
    assert [path.name for path in files] == ["a.onnx", "b.onnx", "c.onnx", WEIGHTS]
    assert files[-1].stat().st_size == 2 * (shared.size + own.size)
    zero = np.zeros(1, np.float32)
    np.testing.assert_array_equal(run(files[0], zero), 2 * shared)
    np.testing.assert_array_equal(run(files[1], zero), shared)
    np.testing.assert_array_equal(run(files[2], zero), own)


def test_constants_begin_at_multiples_of_64_bytes(tmp_path: Path) -> None:
    odd, inexact = halves(65), np.linspace(0, 1, 80, dtype=np.float32)
    store_weights({"graph.onnx": adding(odd, inexact)}, tmp_path)
    external = [t.external_data for t in onnx.load(tmp_path / "graph.onnx", load_external_data=False).graph.initializer]
    offsets = [int(entry.value) for data in external for entry in data if entry.key == "offset"]
    assert offsets == [0, 192]


def test_rounding_changes_trained_weights_only(model: WorldModel) -> None:
    before = {name: tensor.detach().clone() for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    round_weights(model)
    for name, parameter in model.named_parameters():
        expected = before[name].half().float() if parameter.numel() >= 64 else before[name]
        np.testing.assert_array_equal(parameter.detach(), expected)
    for name, buffer in model.named_buffers():
        np.testing.assert_array_equal(buffer, before[name])
