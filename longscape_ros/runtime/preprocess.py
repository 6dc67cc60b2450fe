# SPDX-License-Identifier: Apache-2.0
"""A camera's image to the model's, as a graph: centre cut, scaled by area, colours in order. What ``resize_rgb`` does, for a GPU.

Scaling by area is two products with constant matrices; the cut is zeros in them. It is meant for GPU backends, where the image would
otherwise wait for the CPU. On a CPU it is a loss: best of 40 on one core in ms, 640 x 480 to 64 x 64 in 2.0 where OpenCV takes 0.4,
1920 x 1080 to 128 x 128 in 51 where OpenCV takes 1.2.

The real parser of TensorRT-RTX takes the graph; it has not run on a GPU, for the machines this was written on have none.

Letters: H W the camera's image, C its channels, h w the model's image.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longscape_ros.errors import BackendError, InputError
from longscape_ros.images import halvings

ENCODINGS = {"rgb8": (0, 1, 2), "bgr8": (2, 1, 0), "rgba8": (0, 1, 2, None), "bgra8": (2, 1, 0, None), "mono8": (0, 0, 0)}
"""ROS's names of encodings, and which channel is red, green and blue; None: one more that is not needed."""

OPSET = 18
IR_VERSION = 9


def preprocessing(camera: tuple[int, int], encoding: str, image_size: tuple[int, int]) -> bytes:
    """An ONNX model: ``image`` uint8 [H, W, C] -> ``rgb`` uint8 [h, w, 3].

    Its pixels are those of :func:`~longscape_ros.images.resize_rgb`, or one level beside them where these round another way.

    Args:
        camera: H, W.
        encoding: One of :data:`ENCODINGS`.
        image_size: h, w.

    Raises:
        InputError: the encoding is unknown or a size is not positive.
        BackendError: the package ``onnx`` is not installed.
    """
    if encoding not in ENCODINGS:
        raise InputError(f"Got the encoding {encoding!r}, expected one of {', '.join(ENCODINGS)}; convert the image on the CPU.")
    if min(*camera, *image_size) < 1:
        raise InputError(f"Got images of {camera} and {image_size}, expected positive heights and widths.")
    try:
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as error:
        raise BackendError(f"Preprocessing on a GPU needs the package onnx ({error}); install it with pip.") from error

    order = ENCODINGS[encoding]
    channels = 1 if encoding == "mono8" else len(order)
    constants: dict[str, NDArray[Any]] = {}
    nodes: list[Any] = []

    def step(operator: str, *inputs: str, **attributes: Any) -> str:
        """The name of what an operator gives."""
        result = f"{operator.lower()}_{len(nodes)}"
        nodes.append(helper.make_node(operator, inputs, [result], **attributes))
        return result

    def constant(name: str, value: NDArray[Any]) -> str:
        constants[name] = value
        return name

    image = step("Cast", "image", to=TensorProto.FLOAT)  # TensorRT can do nothing else with uint8
    if tuple(camera) != tuple(image_size):
        rows, columns = _weights(camera, image_size)
        flat = step("Reshape", image, constant("flat", np.array([camera[0], camera[1] * channels])))
        rows_done = step("MatMul", constant("rows", rows), flat)  # [h, W C]
        image = step("Reshape", rows_done, constant("pixels", np.array([image_size[0], camera[1], channels])))
        image = step("MatMul", constant("columns", columns), image)  # [h, w, C]
    wanted = [channel for channel in order if channel is not None]
    if wanted != list(range(channels)):
        image = step("Gather", image, constant("order", np.array(wanted)), axis=2)
    nodes.append(helper.make_node("Cast", [step("Round", image)], ["rgb"], to=TensorProto.UINT8))
    graph = helper.make_graph(
        nodes,
        "preprocessing",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [*camera, channels])],
        [helper.make_tensor_value_info("rgb", TensorProto.UINT8, [*image_size, 3])],
        initializer=[numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    content: bytes = model.SerializeToString()
    return content


def _weights(camera: tuple[int, int], image_size: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """float32 [h, H] and [w, W]: each pixel's share in each of the scaled image's rows and columns."""
    scale = min(source / target for source, target in zip(camera, image_size, strict=True))
    cut = [max(1, round(target * scale)) for target in image_size]
    shrinks = all(source >= target for source, target in zip(cut, image_size, strict=True))
    shares = _areas if shrinks else _lines  # OpenCV averages areas only if both sides shrink
    block = 2 ** halvings((cut[0], cut[1]), image_size)
    rows, columns = (
        _placed(np.repeat(shares(size // block, target), block, axis=1) / block, source, (source - size) // 2)
        for size, target, source in zip(cut, image_size, camera, strict=True)
    )
    return rows, columns


def _placed(shares: NDArray[np.float64], size: int, start: int) -> NDArray[np.float32]:
    """Shares of pixels ``start`` ... of ``size``, the others have none."""
    placed = np.zeros((len(shares), size), np.float32)
    placed[:, start : start + shares.shape[1]] = shares
    return placed


def _areas(source: int, target: int) -> NDArray[np.float64]:
    """float64 [target, source], how much of each new pixel's area each old pixel has."""
    edges = np.arange(target + 1) * (source / target)
    pixels = np.arange(source)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    shares = np.maximum(overlap, 0)
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def _lines(source: int, target: int) -> NDArray[np.float64]:
    """float64 [target, source], the two pixels that OpenCV's INTER_AREA mixes in enlarging."""
    shares = np.zeros((target, source))
    for new in range(target):
        old = math.floor(new * source / target)
        part = (new + 1) - (old + 1) * target / source  # of the new pixel beyond the old one
        part = part - math.floor(part) if part > 0 and old + 1 < source else 0.0
        shares[new, old] = 1 - part
        if part:
            shares[new, old + 1] = part
    return shares
