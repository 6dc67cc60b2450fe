# SPDX-License-Identifier: Apache-2.0
"""How much work a graph is: multiply-accumulates, counted from the shapes that its operators see, and not measured.

Only products count (matrix products, convolutions, attention): they are nearly all of the arithmetic, and what a peak is stated in. What
is fused, quantised or computed once when a graph is opened counts as it stands in the bundle's graph, so all backends do the same work.

ONNX Runtime says the shapes when it runs a graph as it stands, with profiling; neither torch nor the package onnx is needed.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longscape_ros.actions import feature_count
from longscape_ros.bundle import DECODER, ENCODER, Bundle, denoiser

Shape = Sequence[int]


@dataclass(frozen=True, slots=True)
class Node:
    """An operator that ran: its kind, and the shapes that went in and came out."""

    operator: str
    inputs: tuple[Shape, ...]
    output: Shape

    @property
    def macs(self) -> int:
        """Multiply-accumulates; 0 for everything but products."""
        if self.operator not in _PRODUCTS:
            return 0
        first, second = self.inputs[:2]
        out = math.prod(self.output)
        if self.operator == "MatMul":
            return out * first[-1]
        if self.operator == "Gemm":  # whatever is transposed: the first has as many rows as the output
            return out * (math.prod(first) // self.output[0])
        if self.operator == "Conv":
            return out * math.prod(second[1:])
        if self.operator == "ConvTranspose":
            return math.prod(first) * math.prod(second[1:])
        seen = second[-2]  # Attention: queries with keys, and weights with values
        return (math.prod(first) + out) * seen


_PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose", "Attention")


def count_macs(graph: Path, inputs: dict[str, NDArray[Any]]) -> int:
    """Multiply-accumulates of one run of an ONNX graph on these inputs."""
    return sum(node.macs for node in run_nodes(graph, inputs))


def run_nodes(graph: Path, inputs: dict[str, NDArray[Any]]) -> list[Node]:
    """The operators of a graph, in the order in which they ran, with the shapes that they had."""
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="longscape_bench_") as folder:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.log_severity_level = 3
        options.add_session_config_entry("session.disable_prepacking", "1")  # weights that are packed are left out of the profile
        session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        session.run(None, inputs)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return [_node(event["args"]) for event in events if event.get("cat") == "Node" and "output_type_shape" in event.get("args", {})]


def _node(arguments: dict[str, Any]) -> Node:
    inputs, outputs = (
        tuple(tuple(shape) for typed in arguments[side] for shape in typed.values()) for side in ("input_type_shape", "output_type_shape")
    )
    return Node(arguments["op_name"], inputs, outputs[0] if outputs else ())


def denoiser_macs(bundle: Bundle, length: int, expert: int = 0) -> int:
    """Multiply-accumulates of a chunk of ``length`` frames at batch 1: its context, and all sampling steps. They grow with the batch."""
    return sum(node.macs for node in _denoiser_nodes(bundle, length, expert))


def fixed_macs(bundle: Bundle, expert: int = 0) -> int:
    """Of :func:`denoiser_macs`, what is the same for chunks of all lengths: the context's part, once per chunk, and the steps' times."""
    shorter, longer = bundle.manifest.segmentation.lengths[0], 2 * bundle.manifest.segmentation.lengths[0]
    pairs = zip(_denoiser_nodes(bundle, shorter, expert), _denoiser_nodes(bundle, longer, expert), strict=True)
    return sum(one.macs for one, other in pairs if one.macs == other.macs)


def _denoiser_nodes(bundle: Bundle, length: int, expert: int) -> list[Node]:
    manifest = bundle.manifest
    features = feature_count(manifest.action_space)
    inputs: dict[str, NDArray[Any]] = {
        "context": np.zeros((1, manifest.context, *manifest.latent_shape), np.float32),
        "actions": np.zeros((1, manifest.context + length, features), np.float32),
        "noise": np.zeros((1, length, *manifest.latent_shape), np.float32),
    }
    return run_nodes(bundle.file(denoiser(expert)), inputs)


def image_macs(bundle: Bundle) -> tuple[int, int]:
    """Multiply-accumulates of encoding one frame, and of decoding one."""
    manifest = bundle.manifest
    rgb = np.zeros((1, *manifest.image_size, 3), np.uint8)
    latents = np.zeros((1, *manifest.latent_shape), np.float32)
    return count_macs(bundle.file(ENCODER), {"rgb": rgb}), count_macs(bundle.file(DECODER), {"latents": latents})
