# SPDX-License-Identifier: Apache-2.0
"""Writes a probe without training or torch: the position is the mean red, green and blue, in tenths of a metre per 255 levels."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from longscape_ros.probe import INPUT, METADATA, OUTPUT, ProbeFacts


def write_tiny_probe(path: Path, image_size: tuple[int, int], topic: str = "/joint_states") -> ProbeFacts:
    """Write it; returns what it says of itself."""
    facts = ProbeFacts(("x", "y", "z"), topic, image_size, error_cm=0.5, error_cm_p95=1.5, frames=7)
    nodes = [
        helper.make_node("Cast", [INPUT], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "levels"], [OUTPUT]),
    ]
    constants = [
        numpy_helper.from_array(np.array([1, 2]), "axes"),
        numpy_helper.from_array(np.array(2550, np.float32), "levels"),
    ]
    inputs = [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["B", *image_size, 3])]
    outputs = [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["B", 3])]
    model = helper.make_model(
        helper.make_graph(nodes, "probe", inputs, outputs, constants), opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )
    model.metadata_props.add(key=METADATA, value=json.dumps(dataclasses.asdict(facts)))
    onnx.save(model, path)
    return facts
