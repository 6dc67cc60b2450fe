# SPDX-License-Identifier: Apache-2.0
"""PyTorch modules with the signatures of a bundle's graphs, and their way into ONNX.

The sampler is unrolled inside the denoiser: one call gives a chunk, with the context's keys and values computed once. Each expert
is a graph of its own; all graphs share one file of half-precision weights, which are cast back when a graph is loaded.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from longscape_ros.bundle import DECODER, ENCODER, denoiser
from longscape_ros.model.world import WorldModel

WEIGHTS = "weights.bin"
OPSET = 18
SMALLEST_STORED = 64
"""Weights of fewer numbers stay inside the graph, in single precision."""


class EncoderGraph(nn.Module):
    """rgb uint8 [B, H, W, 3] -> latents [B, C, h, w]."""

    def __init__(self, model: WorldModel) -> None:
        super().__init__()
        self.autoencoder = model.autoencoder

    def forward(self, rgb: Tensor) -> Tensor:
        return self.autoencoder.encode(rgb)


class DecoderGraph(nn.Module):
    """latents [B, C, h, w] -> rgb uint8 [B, H, W, 3], and the same as float 0 to 1, for verification."""

    def __init__(self, model: WorldModel) -> None:
        super().__init__()
        self.autoencoder = model.autoencoder

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        rgb_float = self.autoencoder.decode(latents).clamp(0, 1)
        return (rgb_float * 255).round().to(torch.uint8), rgb_float


class DenoiserGraph(nn.Module):
    """context [B, K, C, h, w], actions [B, K + T, F], noise [B, T, C, h, w] -> latents [B, T, C, h, w] through one expert."""

    def __init__(self, model: WorldModel, expert: int) -> None:
        super().__init__()
        self.model, self.expert = model, expert

    def forward(self, context: Tensor, actions: Tensor, noise: Tensor) -> Tensor:
        return self.model.sample(context, actions, noise, self.expert)


def graphs_of(model: WorldModel) -> dict[str, nn.Module]:
    """File name -> module, of all graphs of a bundle."""
    experts = {denoiser(e): DenoiserGraph(model, e) for e in range(model.config.transformer.experts)}
    return {ENCODER: EncoderGraph(model), **experts, DECODER: DecoderGraph(model)}


def example_inputs(name: str, model: WorldModel, batch: int, length: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Random inputs of a graph: B = ``batch`` and T = ``length``."""
    config = model.config.transformer
    shape = config.latent_shape

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    if name == ENCODER:
        return {"rgb": torch.randint(0, 256, (batch, *model.config.autoencoder.image_size, 3), dtype=torch.uint8, generator=generator)}
    if name == DECODER:
        return {"latents": normal(batch, *shape)}
    return {
        "context": normal(batch, config.context, *shape),
        "actions": normal(batch, config.context + length, config.action_features),
        "noise": normal(batch, length, *shape),
    }


def export_graph(name: str, module: nn.Module, model: WorldModel) -> onnx.ModelProto:
    """Trace a graph with open sizes for B and T; its weights are inside."""
    tubelet = model.config.transformer.tubelet
    inputs = example_inputs(name, model, batch=2, length=model.config.transformer.max_length // 2, generator=torch.Generator().manual_seed(0))
    batch = torch.export.Dim("batch", min=1, max=1024)
    groups = torch.export.Dim("groups", min=1, max=model.config.transformer.max_length // tubelet)
    if name in (ENCODER, DECODER):
        sizes: dict[str, dict[int, object]] = {key: {0: batch} for key in inputs}
    else:
        length = tubelet * groups
        sizes = {"context": {0: batch}, "actions": {0: batch, 1: length + model.config.transformer.context}, "noise": {0: batch, 1: length}}
    outputs = ["rgb", "rgb_float"] if name == DECODER else ["latents"]
    with torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=tuple(sizes.values()),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    proto: onnx.ModelProto = program.model_proto
    return proto


def store_weights(protos: dict[str, onnx.ModelProto], folder: Path) -> list[Path]:
    """Write graphs whose weights lie, each once and in half precision, in one shared file.

    Returns:
        The files written.
    """
    places: dict[str, tuple[int, int]] = {}  # content hash -> offset and size in the file
    paths = []
    with (folder / WEIGHTS).open("wb") as weights:
        for name, proto in protos.items():
            kept, casts = [], []
            for tensor in proto.graph.initializer:
                array = numpy_helper.to_array(tensor)
                if array.dtype != np.float32 or array.size < SMALLEST_STORED:
                    kept.append(tensor)
                    continue
                content = array.astype(np.float16).tobytes()
                key = hashlib.sha256(content).hexdigest()
                if key not in places:
                    places[key] = (weights.tell(), len(content))
                    weights.write(content)
                kept.append(_external(f"{tensor.name}.half", array.shape, *places[key]))
                casts.append(helper.make_node("Cast", [f"{tensor.name}.half"], [tensor.name], to=TensorProto.FLOAT))
            nodes = [*casts, *proto.graph.node]
            del proto.graph.initializer[:], proto.graph.node[:], proto.graph.value_info[:]
            proto.graph.initializer.extend(kept)
            proto.graph.node.extend(nodes)
            onnx.save(proto, folder / name)
            paths.append(folder / name)
    return [*paths, folder / WEIGHTS]


def _external(name: str, shape: tuple[int, ...], offset: int, length: int) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT16, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", WEIGHTS), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor
