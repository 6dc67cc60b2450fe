# SPDX-License-Identifier: Apache-2.0
"""A large matrix product as an ONNX graph: what a machine can do at best, through the same runtime that runs the model.

The graph is written byte by byte, as Protocol Buffers have it (field numbers: onnx.proto3), because the package onnx is not needed to
run a bundle and need not be there. Shapes: [N, N] times [N, N].
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from longscape_ros.errors import InputError
from longscape_ros.runtime.backend import FP16, FP32, INT8

INPUT, OUTPUT = "a", "c"
_WEIGHT = "b"
_KINDS: dict[str, tuple[str, tuple[str, str, str]]] = {
    FP32: ("MatMul", ("float32", "float32", "float32")),
    FP16: ("MatMul", ("float16", "float16", "float16")),
    INT8: ("MatMulInteger", ("uint8", "int8", "int32")),
}
"""Precision -> operator, and types of what is multiplied, of the constant, and of the product."""

_ELEMENTS = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "float16": 10}
"""ONNX's numbers of types."""

_IR_VERSION, _OPSET = 8, 17


def product_graph(size: int, precision: str) -> bytes:
    """A graph that multiplies a matrix with a constant one, as a model's layers do.

    Args:
        size: N.
        precision: ``fp32``, ``fp16`` or ``int8`` (unsigned times signed, as quantised models have it).

    Raises:
        InputError: there is no such precision.
    """
    operator, (first, second, result) = _kind(precision)
    weight = _numbers(second, size)
    node = _text(1, INPUT) + _text(1, _WEIGHT) + _text(2, OUTPUT) + _text(4, operator)
    tensor = _number(1, size) + _number(1, size) + _number(2, _ELEMENTS[second]) + _text(8, _WEIGHT) + _bytes(9, weight.tobytes())
    graph = _bytes(1, node) + _text(2, "product") + _bytes(5, tensor)
    graph += _bytes(11, _value(INPUT, first, size)) + _bytes(12, _value(OUTPUT, result, size))
    return _number(1, _IR_VERSION) + _bytes(7, graph) + _bytes(8, _text(1, "") + _number(2, _OPSET))


def product_input(size: int, precision: str) -> NDArray[Any]:
    """[N, N], what the graph multiplies."""
    return _numbers(_kind(precision)[1][0], size)


def _kind(precision: str) -> tuple[str, tuple[str, str, str]]:
    if precision not in _KINDS:
        raise InputError(f"Got the precision {precision!r}, expected one of {', '.join(_KINDS)}.")
    return _KINDS[precision]


def _numbers(dtype: str, size: int) -> NDArray[Any]:
    random = np.random.default_rng(0)
    if dtype.startswith("float"):
        return (random.random((size, size), np.float32) - 0.5).astype(dtype)
    return random.integers(0, 100, (size, size)).astype(dtype)


def _value(name: str, dtype: str, size: int) -> bytes:
    """ValueInfoProto of a matrix."""
    shape = 2 * _bytes(1, _number(1, size))
    return _text(1, name) + _bytes(2, _bytes(1, _number(1, _ELEMENTS[dtype]) + _bytes(2, shape)))


# ---- Protocol Buffers ----


def _varint(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _text(field: int, content: str) -> bytes:
    return _bytes(field, content.encode())
