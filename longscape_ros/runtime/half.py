# SPDX-License-Identifier: Apache-2.0
"""A bundle's graphs in half precision, for engines and runtimes that take their types from the graph.

Inputs and outputs stay what they are. Inside, a tensor is rounded where it passes to the part that computes in half precision, and only
there: normalisations, softmax and other sums or functions of a wide range stay in single precision, and so does all that an angle is
computed from. (Converters that wrap single operators round between two that are kept, which spoils a time embedding's angles.) Weights
that the bundle stores in half precision are used as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longscape_ros.bundle import DECODER, ENCODER, Bundle, denoiser
from longscape_ros.errors import BackendError
from longscape_ros.runtime.cache import ArtifactCache

ANGLES = frozenset({"Cos", "Sin"})
"""Operators whose argument needs its absolute precision, so that what leads to it stays in single precision too."""

SINGLE = ANGLES | {
    "BatchNormalization",
    "CumSum",
    "EyeLike",
    "Exp",
    "GlobalAveragePool",
    "GroupNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "Log",
    "LogSoftmax",
    "LpNormalization",
    "Pow",
    "RMSNormalization",
    "Range",
    "Reciprocal",
    "ReduceL2",
    "ReduceLogSumExp",
    "ReduceMean",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
    "Resize",
    "Softmax",
    "Sqrt",
}
"""Operators that stay in single precision: they sum many numbers, have a wide range, or have inputs that must be so."""

VERSION = "1"
"""Of what is done here; a change makes graphs in a cache useless."""

_HALF = np.finfo(np.float16)
_LOG = logging.getLogger(__name__)


def why_not() -> str:
    """Why graphs cannot be converted here; empty: they can."""
    try:
        import onnx  # noqa: F401
    except ImportError:
        return "graphs in half precision need the package onnx (pip install onnx)"
    return ""


def halved(bundle: Bundle) -> tuple[str, ...]:
    """The graphs that a backend in half precision runs so: the large ones. Those that decide or estimate are small, and decide the same
    in every precision."""
    return ENCODER, *(denoiser(expert) for expert in range(bundle.manifest.experts.count)), DECODER


def half(bundle: Bundle, graph: str, cache: ArtifactCache | None = None) -> bytes:
    """One of a bundle's graphs in half precision: an ONNX model with its weights inside; from the cache if it is there.

    Args:
        bundle: Whose graph.
        graph: Its file name.
        cache: Where it is kept; None: nowhere.

    Raises:
        BackendError: it cannot be converted, or not here.
    """
    files = {name: record.sha256 for name, record in bundle.manifest.files.items() if name == graph or not name.endswith(".onnx")}
    key = {"version": VERSION, "graph": graph, **files}
    found = cache.get("fp16", key) if cache is not None else None
    if found is not None:
        return found
    path = bundle.file(graph)
    if reason := why_not():
        raise BackendError(f"{path}: cannot be converted: {reason}; or use the precision fp32.")
    import onnx

    _LOG.info("Converting %s to half precision ...", graph)
    model = onnx.load(path)
    try:
        convert(model)
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BackendError(f"{path}: cannot be converted to half precision: {error}; use the precision fp32.") from error
    content: bytes = model.SerializeToString()
    if cache is not None:
        cache.put("fp16", key, content)
    return content


def convert(model: Any) -> None:
    """Change a model (``onnx.ModelProto``, weights inside) to half precision inside.

    Raises:
        BackendError: it has control flow, or a tensor whose type is not known.
    """
    import onnx

    _constants_to_weights(model.graph)
    kinds = _element_types(onnx.shape_inference.infer_shapes(model, data_prop=False).graph)
    _Conversion(model.graph, kinds).run()


class _Conversion:
    """Goes through a graph's nodes in their order.

    Args:
        graph: Changed in place.
        kinds: Tensor -> element type, before the change.
    """

    def __init__(self, graph: Any, kinds: dict[str, int]) -> None:
        from onnx import TensorProto

        self._graph = graph
        self._kinds = kinds
        self._full, self._half = TensorProto.FLOAT, TensorProto.FLOAT16
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._outputs = {output.name for output in graph.output}
        self._single = _single_nodes(graph)
        self._made: dict[tuple[str, int], str] = {}
        """A tensor of before and an element type -> what has its value in that type."""
        self._nodes: list[Any] = []

    def run(self) -> None:
        """Change the graph."""
        for value in self._graph.input:
            self._made[value.name, self._kinds[value.name]] = value.name
        for name, tensor in self._weights.items():
            self._made[name, tensor.data_type] = name
        for index, node in enumerate(list(self._graph.node)):
            if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
                raise BackendError(f"Got control flow ({node.op_type}) in a graph, expected none; use the precision fp32.")
            if node.op_type == "Cast" and node.input[0] in self._weights and self._kinds[node.output[0]] == self._full:
                self._made[node.output[0], self._weights[node.input[0]].data_type] = node.input[0]  # a stored weight: cast where needed
            else:
                self._convert(node, self._full if index in self._single else self._half)
        for name in sorted(self._outputs):
            if (name, self._full) not in self._made and self._kinds[name] == self._full:
                self._cast(name, self._half, self._full, name)
        used = {name for node in self._nodes for name in node.input}
        weights = [tensor for tensor in self._weights.values() if tensor.name in used]
        for field, values in ((self._graph.node, self._nodes), (self._graph.initializer, weights), (self._graph.value_info, [])):
            del field[:]
            field.extend(values)

    def _convert(self, node: Any, kind: int) -> None:
        """A node whose real numbers shall be of a type."""
        for index, name in enumerate(node.input):
            if name and self._kind(name) == self._full:
                node.input[index] = self._in(name, kind)
        for index, name in enumerate(node.output):
            if name and self._kind(name) == self._full:
                if kind == self._half and name in self._outputs:
                    node.output[index] = f"{name}.half"
                self._made[name, kind] = node.output[index]
                _set_type(node, kind)
            elif name:
                self._made[name, self._kind(name)] = name
        self._nodes.append(node)

    def _in(self, name: str, kind: int) -> str:
        """The tensor that has the value of another in a type."""
        if (name, kind) not in self._made:
            other = self._half if kind == self._full else self._full
            source = self._made[name, other]
            if kind == self._half and source in self._weights:
                self._made[name, kind] = self._rounded(source)
            else:
                self._cast(name, other, kind, f"{name}.half" if kind == self._half else f"{name}.single")
        return self._made[name, kind]

    def _rounded(self, name: str) -> str:
        from onnx import numpy_helper

        rounded = f"{name}.half"
        self._weights[rounded] = numpy_helper.from_array(numpy_helper.to_array(self._weights[name]).astype(np.float16), rounded)
        return rounded

    def _cast(self, name: str, source: int, kind: int, target: str) -> None:
        from onnx import helper

        self._nodes.append(helper.make_node("Cast", [self._made[name, source]], [target], name=f"cast_{target}", to=kind))
        self._made[name, kind] = target

    def _kind(self, name: str) -> int:
        if name not in self._kinds:
            raise BackendError(f"Found no element type for the tensor {name}, expected that ONNX can infer it; use the precision fp32.")
        return self._kinds[name]


def _constants_to_weights(graph: Any) -> None:
    """Constant nodes have their values where weights are."""
    constants = [node for node in graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"]
    for node in constants:
        tensor = node.attribute[0].t
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        graph.node.remove(node)


def _element_types(graph: Any) -> dict[str, int]:
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output, *graph.value_info)}
    return {name: kind for name, kind in kinds.items() if kind} | {tensor.name: tensor.data_type for tensor in graph.initializer}


def _single_nodes(graph: Any) -> set[int]:
    """Numbers of the nodes that stay in single precision."""
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output}
    single = {index for index, node in enumerate(graph.node) if node.op_type in SINGLE}
    exact = {tensor.name for tensor in _wide(graph.initializer)}
    single |= {index for index, node in enumerate(graph.node) if exact.intersection(node.input)}
    waiting = [index for index, node in enumerate(graph.node) if node.op_type in ANGLES]
    while waiting:
        for name in graph.node[waiting.pop()].input:
            if name in makers and makers[name] not in single:
                single.add(makers[name])
                waiting.append(makers[name])
    return single


def _wide(tensors: Iterable[Any]) -> Iterator[Any]:
    """Constants that half precision does not hold: numbers beyond its range, and single numbers (as in a division) below it."""
    from onnx import TensorProto, numpy_helper

    for tensor in tensors:
        if tensor.data_type == TensorProto.FLOAT:
            sizes: NDArray[Any] = np.abs(numpy_helper.to_array(tensor))
            finite = sizes[np.isfinite(sizes)]
            if (finite > _HALF.max).any() or (finite.size == 1 and 0 < finite.max() < _HALF.tiny):
                yield tensor


def _set_type(node: Any, kind: int) -> None:
    """Have a node that names the type of what it makes make another."""
    from onnx import numpy_helper

    for attribute in node.attribute:
        if (node.op_type, attribute.name) == ("Cast", "to"):
            attribute.i = kind
        elif (node.op_type, attribute.name) == ("ConstantOfShape", "value"):
            dtype = np.float32 if kind == attribute.t.FLOAT else np.float16
            attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(dtype), attribute.t.name))
