# SPDX-License-Identifier: Apache-2.0
"""Writes a real bundle with tiny graphs of fixed random weights: a prediction takes a millisecond.

Its graphs keep the contract of :mod:`longscape_ros.bundle` in full: dynamic batch and chunk length, weights in half precision in
one external file that all denoisers share, an output that depends on every input and on the expert. As its manifest says, it has a
router, a length predictor and an error estimator.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from longscape_ros.actions import feature_count
from longscape_ros.bundle import (
    DECODER,
    ENCODER,
    ERROR_ESTIMATOR,
    LENGTH_PREDICTOR,
    ROUTER,
    Bundle,
    Experts,
    Manifest,
    denoiser,
    write_bundle,
)
from longscape_ros.contract import ActionDimension, ActionSpace, ChunkRule

WEIGHTS = "weights.bin"
PATCH = 8

MANIFEST = Manifest(
    name="tiny",
    fps=20.0,
    image_size=(16, 24),
    latent_shape=(2, 2, 3),
    context=4,
    sampler_steps=1,
    action_space=ActionSpace(
        (
            ActionDimension("x", "m", "position", motion_range=0.3, scale=0.1),
            ActionDimension("y", "m", "position", motion_range=0.2, scale=0.1),
            ActionDimension("gripper", "1", "state", scale=0.5, midpoint=0.5, hysteresis=0.1, is_gripper=True),
        )
    ),
    segmentation=ChunkRule(base=8, lengths=(8, 16, 24, 32), threshold=0.5),
    experts=Experts(4),
    training={"summary": "random weights"},
)


def write_tiny_bundle(folder: Path, **changes: Any) -> Bundle:
    """Write the bundle into ``folder``; ``changes`` are fields of the manifest that differ from :data:`MANIFEST`."""
    manifest = replace(MANIFEST, **changes)
    with TemporaryDirectory() as temporary:
        write_graphs(Path(temporary), manifest)
        return write_bundle(folder, manifest, {path.name: path for path in Path(temporary).iterdir()})


def write_graphs(folder: Path, manifest: Manifest) -> None:
    """Write the graphs that ``manifest`` describes, and their weights."""
    random = np.random.default_rng(0)
    channels, height, width = manifest.latent_shape
    features = feature_count(manifest.action_space)
    weights = {
        "encode": random.standard_normal((channels, 3, PATCH, PATCH)) / PATCH,
        "decode": random.standard_normal((channels, 3, PATCH, PATCH)) / 2,
        "drive": random.standard_normal((features, channels * height * width)) / features,
    }
    weights |= {f"expert_{e}": random.standard_normal((channels, height, width)) / 4 for e in range(manifest.experts.count)}
    known = manifest.context * channels * height * width
    if ROUTER in manifest.graphs():
        seen = (manifest.context + manifest.experts.routing.lookahead) * features
        weights["route_context"] = random.standard_normal((known, manifest.experts.count)) / known**0.5
        weights["route_coming"] = random.standard_normal((seen, manifest.experts.count)) / seen**0.5
    if manifest.length_predictor:
        weights["predict_length"] = random.standard_normal((known, len(manifest.segmentation.lengths))) / known**0.5
    stored, at = {}, 0
    for name, array in weights.items():
        stored[name] = (array.astype(np.float16), at)
        at += 2 * array.size
    (folder / WEIGHTS).write_bytes(b"".join(array.tobytes() for array, _ in stored.values()))

    rgb = ["B", *manifest.image_size, 3]
    latents = ["B", channels, height, width]
    chunk = ["B", "T", channels, height, width]
    context = ["B", manifest.context, channels, height, width]
    encode = [
        *_cast(stored, "encode"),
        helper.make_node("Cast", ["rgb"], ["float"], to=TensorProto.FLOAT),
        _constant("half", np.float32(127.5)),
        helper.make_node("Div", ["float", "half"], ["unit"]),
        helper.make_node("Transpose", ["unit"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "encode"], ["latents"], strides=[PATCH, PATCH]),
    ]
    _save(folder / ENCODER, encode, {"rgb": (TensorProto.UINT8, rgb)}, {"latents": (TensorProto.FLOAT, latents)}, stored)
    decode = [
        *_cast(stored, "decode"),
        helper.make_node("ConvTranspose", ["latents", "decode"], ["planes"], strides=[PATCH, PATCH]),
        helper.make_node("Sigmoid", ["planes"], ["unit"]),
        helper.make_node("Transpose", ["unit"], ["rgb_float"], perm=[0, 2, 3, 1]),
        _constant("full", np.float32(255)),
        helper.make_node("Mul", ["rgb_float", "full"], ["scaled"]),
        helper.make_node("Round", ["scaled"], ["rounded"]),
        helper.make_node("Cast", ["rounded"], ["rgb"], to=TensorProto.UINT8),
    ]
    pixels = {"rgb": (TensorProto.UINT8, rgb), "rgb_float": (TensorProto.FLOAT, rgb)}
    _save(folder / DECODER, decode, {"latents": (TensorProto.FLOAT, latents)}, pixels, stored)
    for expert in range(manifest.experts.count):
        inputs = {
            "context": (TensorProto.FLOAT, context),
            "actions": (TensorProto.FLOAT, ["B", "KT", features]),
            "noise": (TensorProto.FLOAT, chunk),
        }
        nodes = _denoise(stored, manifest, f"expert_{expert}")
        _save(folder / denoiser(expert), nodes, inputs, {"latents": (TensorProto.FLOAT, chunk)}, stored)
    seen_context = {"context": (TensorProto.FLOAT, context)}
    if ROUTER in manifest.graphs():
        coming = ["B", manifest.context + manifest.experts.routing.lookahead, features]
        inputs = {**seen_context, "coming": (TensorProto.FLOAT, coming)}
        scores = {"scores": (TensorProto.FLOAT, ["B", manifest.experts.count])}
        _save(folder / ROUTER, _route(stored), inputs, scores, stored)
    if manifest.length_predictor:
        nodes = [
            *_cast(stored, "predict_length"),
            helper.make_node("Flatten", ["context"], ["flat"]),
            helper.make_node("MatMul", ["flat", "predict_length"], ["scores"]),
        ]
        scores = {"scores": (TensorProto.FLOAT, ["B", len(manifest.segmentation.lengths)])}
        _save(folder / LENGTH_PREDICTOR, nodes, seen_context, scores, stored)
    if manifest.confidence is not None:
        inputs = {
            **seen_context,
            "actions": (TensorProto.FLOAT, ["B", "KT", features]),
            "latents": (TensorProto.FLOAT, chunk),
            "before": (TensorProto.FLOAT, ["B"]),
        }
        _save(folder / ERROR_ESTIMATOR, _estimate_error(manifest), inputs, {"log_error": (TensorProto.FLOAT, ["B", "T"])}, stored)


def _route(stored: dict[str, Any]) -> list[onnx.NodeProto]:
    """context @ weights + coming @ weights."""
    return [
        *_cast(stored, "route_context"),
        *_cast(stored, "route_coming"),
        helper.make_node("Flatten", ["context"], ["flat_context"]),
        helper.make_node("Flatten", ["coming"], ["flat_coming"]),
        helper.make_node("MatMul", ["flat_context", "route_context"], ["by_context"]),
        helper.make_node("MatMul", ["flat_coming", "route_coming"], ["by_coming"]),
        helper.make_node("Add", ["by_context", "by_coming"], ["scores"]),
    ]


def _estimate_error(manifest: Manifest) -> list[onnx.NodeProto]:
    """before + mean |latents| + mean |actions of the chunk| + mean |context| / 10, per frame."""
    return [
        _constant("known", np.array([manifest.context])),
        _constant("end", np.array([2**31])),
        _constant("one", np.array([1])),
        _constant("tenth", np.float32(0.1)),
        _constant("within", np.array([2, 3, 4])),
        _constant("column", np.array([2])),
        _constant("all", np.array([1, 2, 3, 4])),
        helper.make_node("Abs", ["latents"], ["sizes"]),
        helper.make_node("ReduceMean", ["sizes", "within"], ["size"], keepdims=0),
        helper.make_node("Slice", ["actions", "known", "end", "one"], ["future"]),
        helper.make_node("Abs", ["future"], ["speeds"]),
        helper.make_node("ReduceMean", ["speeds", "column"], ["speed"], keepdims=0),
        helper.make_node("Abs", ["context"], ["contrasts"]),
        helper.make_node("ReduceMean", ["contrasts", "all"], ["contrast"], keepdims=0),
        helper.make_node("Mul", ["contrast", "tenth"], ["contrast_tenth"]),
        helper.make_node("Add", ["before", "contrast_tenth"], ["base"]),
        helper.make_node("Unsqueeze", ["base", "one"], ["bases"]),
        helper.make_node("Sum", ["bases", "size", "speed"], ["log_error"]),
    ]


def _denoise(stored: dict[str, Any], manifest: Manifest, expert: str) -> list[onnx.NodeProto]:
    """mean(context) + drive(actions of the chunk) + sum(actions of the context) / 10 + noise / 10 + expert."""
    return [
        *_cast(stored, "drive"),
        *_cast(stored, expert),
        _constant("frames", np.array([1])),
        _constant("known", np.array([manifest.context])),
        _constant("zero", np.array([0])),
        _constant("end", np.array([2**31])),
        _constant("tenth", np.float32(0.1)),
        _constant("grid", np.array([0, -1, *manifest.latent_shape])),
        helper.make_node("ReduceMean", ["context", "frames"], ["mean"], keepdims=1),
        helper.make_node("Slice", ["actions", "zero", "known", "frames"], ["past"]),
        helper.make_node("Slice", ["actions", "known", "end", "frames"], ["future"]),
        helper.make_node("ReduceSum", ["past", "frames"], ["history"], keepdims=1),
        helper.make_node("Mul", ["history", "tenth"], ["history_tenth"]),
        helper.make_node("Add", ["future", "history_tenth"], ["moved"]),
        helper.make_node("MatMul", ["moved", "drive"], ["driven"]),
        helper.make_node("Reshape", ["driven", "grid"], ["offset"]),
        helper.make_node("Mul", ["noise", "tenth"], ["noise_tenth"]),
        helper.make_node("Sum", ["mean", "offset", "noise_tenth", expert], ["latents"]),
    ]


def _constant(name: str, value: Any) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(value)))


def _cast(stored: dict[str, Any], name: str) -> list[onnx.NodeProto]:
    return [helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT)]


def _save(path: Path, nodes: list[onnx.NodeProto], inputs: dict[str, Any], outputs: dict[str, Any], stored: dict[str, Any]) -> None:
    used = {name for node in nodes for name in node.input}
    initializers = [_external(f"{name}.half", *where) for name, where in stored.items() if f"{name}.half" in used]
    infos = [[helper.make_tensor_value_info(name, *info) for name, info in side.items()] for side in (inputs, outputs)]
    graph = helper.make_graph(nodes, path.stem, *infos, initializer=initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


def _external(name: str, array: np.ndarray[Any, Any], offset: int) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT16, dims=array.shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", WEIGHTS), ("offset", offset), ("length", 2 * array.size)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor
