# SPDX-License-Identifier: Apache-2.0
"""ONNX graphs whose weights are stored in half precision: what only depends on stored weights is computed once, ahead of time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def fold_weights(model: Any) -> dict[str, str]:
    """Compute what only depends on stored weights: casts and transpositions. Weights in half precision become single precision.

    Args:
        model: An ONNX model with its weights loaded; it is changed.

    Returns:
        Names of the nodes that multiply with a weight -> the weight's name as it was stored.
    """
    from onnx import numpy_helper

    weights: dict[str, NDArray[Any]] = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    origin = {name: name for name in weights}
    nodes = []
    for node in model.graph.node:
        source = node.input[0] if node.input else ""
        if source in weights and node.op_type in ("Cast", "Transpose"):
            array = weights[source]
            attributes = {attribute.name: attribute for attribute in node.attribute}
            if node.op_type == "Transpose":
                array = np.ascontiguousarray(array.transpose(tuple(attributes["perm"].ints)))
            else:
                array = array.astype(np.float32)
            weights[node.output[0]], origin[node.output[0]] = array, origin[source]
        else:
            nodes.append(node)
    used = {name for node in nodes for name in node.input}
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items() if name in used)
    multiply = [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]
    for number, node in enumerate(multiply):
        node.name = node.name or f"multiply_{number}"
    return {node.name: origin[node.input[1]] for node in multiply if node.input[1] in weights}
