# SPDX-License-Identifier: Apache-2.0
"""PyTorch modules with the signatures of a bundle's graphs, and how graphs are stored.

The sampler is unrolled inside the denoiser: one call gives a chunk, with the context's keys and values computed once. Each expert
is a graph of its own, chosen outside by the router's graph or by the chunk's length: an expert that is not active costs nothing. All
graphs share one file of weights, in half precision where that loses nothing; these are cast back when a graph is loaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from longscape_ros.bundle import DECODER, ENCODER, ERROR_ESTIMATOR, LENGTH_PREDICTOR, ROUTER, context_of, denoiser, step_of
from longscape_ros.model.world import WorldModel

WEIGHTS = "weights.bin"
SMALLEST_STORED = 64
"""Constants of fewer numbers stay inside the graph, as they are."""

_ALIGNMENT = 64


class EncoderGraph(nn.Module):
    """rgb uint8 [B, H, W, 3] -> latents [B, C, h, w]."""

    outputs = ("latents",)

    def __init__(self, model: WorldModel) -> None:
        super().__init__()
        self.autoencoder = model.autoencoder

    def forward(self, rgb: Tensor) -> Tensor:
        return self.autoencoder.encode(rgb)


class DecoderGraph(nn.Module):
    """latents [B, C, h, w] -> rgb uint8 [B, H, W, 3], and the same as float 0 to 1, for verification."""

    outputs = ("rgb", "rgb_float")

    def __init__(self, model: WorldModel) -> None:
        super().__init__()
        self.autoencoder = model.autoencoder

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        rgb_float = self.autoencoder.decode(latents).clamp(0, 1)
        return (rgb_float * 255).round().to(torch.uint8), rgb_float


class DenoiserGraph(nn.Module):
    """context [B, K, C, h, w], actions [B, K + T, F], noise [B, T, C, h, w] -> latents [B, T, C, h, w] through one expert."""

    outputs = ("latents",)

    def __init__(self, model: WorldModel, expert: int, steps: int) -> None:
        super().__init__()
        self.denoiser, self.expert, self.steps = model.denoiser, expert, steps

    def forward(self, context: Tensor, actions: Tensor, noise: Tensor) -> Tensor:
        return self.denoiser.sample(context, actions, noise, self.expert, self.steps)


class ContextGraph(nn.Module):
    """The sampler step by step, its first part: context [B, K, C, h, w], actions [B, K + T, F] -> keys and values of every block.

    Both are [blocks, B, heads, tokens, width / heads]. Together with :class:`StepGraph` it takes any number of steps at any times, for
    studies; whole chunks are faster through :class:`DenoiserGraph`.
    """

    outputs = ("keys", "values")

    def __init__(self, model: WorldModel, expert: int) -> None:
        super().__init__()
        self.denoiser, self.expert = model.denoiser, expert

    def forward(self, context: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        known = self.denoiser.config.transformer.context
        cache = self.denoiser.transformer.encode_context(context, actions[:, :known], self.expert)
        keys, values = zip(*cache, strict=True)
        return torch.stack(keys), torch.stack(values)


class StepGraph(nn.Module):
    """One evaluation: context, actions and keys and values as in :class:`ContextGraph`, noisy [B, T, C, h, w], time [B] -> clean."""

    outputs = ("clean",)

    def __init__(self, model: WorldModel, expert: int) -> None:
        super().__init__()
        self.denoiser, self.expert = model.denoiser, expert

    def forward(self, context: Tensor, actions: Tensor, keys: Tensor, values: Tensor, noisy: Tensor, time: Tensor) -> Tensor:
        known = self.denoiser.config.transformer.context
        cache = list(zip(keys.unbind(), values.unbind(), strict=True))
        clean: Tensor = self.denoiser.transformer(noisy, time, context[:, -1], actions[:, known:], self.expert, cache)
        return clean


class RouterGraph(nn.Module):
    """context [B, K, C, h, w], coming [B, K + L, F] -> scores [B, E]."""

    outputs = ("scores",)

    def __init__(self, model: WorldModel) -> None:
        super().__init__()
        self.router = model.denoiser.router

    def forward(self, context: Tensor, coming: Tensor) -> Tensor:
        assert self.router is not None, "a model without a router has no such graph"
        scores: Tensor = self.router(context, coming)
        return scores


class LengthPredictorGraph(nn.Module):
    """context [B, K, C, h, w] -> scores [B, chunk lengths]."""

    outputs = ("scores",)

    def __init__(self, model: WorldModel) -> None:
        super().__init__()
        self.length_predictor = model.length_predictor

    def forward(self, context: Tensor) -> Tensor:
        scores: Tensor = self.length_predictor(context)
        return scores


class ErrorEstimatorGraph(nn.Module):
    """context [B, K, C, h, w], actions [B, K + T, F], latents [B, T, C, h, w], before [B] -> log_error [B, T]."""

    outputs = ("log_error",)

    def __init__(self, model: WorldModel) -> None:
        super().__init__()
        self.error_estimator = model.error_estimator

    def forward(self, context: Tensor, actions: Tensor, latents: Tensor, before: Tensor) -> Tensor:
        log_error: Tensor = self.error_estimator(context, actions, latents, before)
        return log_error


Graph = EncoderGraph | DecoderGraph | DenoiserGraph | ContextGraph | StepGraph | RouterGraph | LengthPredictorGraph | ErrorEstimatorGraph
"""``outputs`` are the names of what it gives; the last one is what it is compared by."""


def per_step_graphs(experts: int) -> tuple[str, ...]:
    """Names of the denoisers' graphs in their per-step form."""
    return tuple(part(expert) for part in (context_of, step_of) for expert in range(experts))


def graphs_of(model: WorldModel, names: Sequence[str], steps: int) -> dict[str, Graph]:
    """File name -> module, of the named graphs of a bundle; ``steps``: network evaluations per chunk."""
    experts = range(model.config.transformer.experts)
    every: dict[str, Callable[[], Graph]] = {
        ENCODER: lambda: EncoderGraph(model),
        **{denoiser(e): partial(DenoiserGraph, model, e, steps) for e in experts},
        **{context_of(e): partial(ContextGraph, model, e) for e in experts},
        **{step_of(e): partial(StepGraph, model, e) for e in experts},
        DECODER: lambda: DecoderGraph(model),
        ROUTER: lambda: RouterGraph(model),
        LENGTH_PREDICTOR: lambda: LengthPredictorGraph(model),
        ERROR_ESTIMATOR: lambda: ErrorEstimatorGraph(model),
    }
    return {name: every[name]() for name in names}


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
    context = {"context": normal(batch, config.context, *shape)}
    if name == LENGTH_PREDICTOR:
        return context
    if name == ROUTER:
        return context | {"coming": normal(batch, config.context + model.config.lookahead, config.action_features)}
    chunk = context | {"actions": normal(batch, config.context + length, config.action_features)}
    kind = name.rpartition("_")[0]  # without the expert
    if kind == "context":
        return chunk
    if kind == "step":
        tokens = config.context // config.tubelet * config.patches
        keys, values = normal(2, config.depth, batch, config.heads, tokens, config.width // config.heads)
        return chunk | {
            "keys": keys,
            "values": values,
            "noisy": normal(batch, length, *shape),
            "time": torch.rand(batch, generator=generator),
        }
    if name == ERROR_ESTIMATOR:
        return chunk | {"latents": normal(batch, length, *shape), "before": normal(batch) - 6}
    return chunk | {"noise": normal(batch, length, *shape)}


def store_weights(protos: dict[str, onnx.ModelProto], folder: Path) -> list[Path]:
    """Write graphs whose constants lie, each once, in one shared file: in half precision where that is exact.

    Returns:
        The files written.
    """
    with (folder / WEIGHTS).open("wb") as file:
        shared = _SharedFile(file)
        for name, proto in protos.items():
            kept, casts = [], []
            for tensor in proto.graph.initializer:
                array = numpy_helper.to_array(tensor)
                if array.size < SMALLEST_STORED:
                    kept.append(tensor)
                elif _fits_half(array):
                    kept.append(shared.add(f"{tensor.name}.half", array.astype(np.float16)))
                    casts.append(helper.make_node("Cast", [f"{tensor.name}.half"], [tensor.name], to=TensorProto.FLOAT))
                else:
                    kept.append(shared.add(tensor.name, array))
            nodes = [*casts, *proto.graph.node]
            del proto.graph.initializer[:], proto.graph.node[:]
            proto.graph.initializer.extend(kept)
            proto.graph.node.extend(nodes)
            onnx.save(proto, folder / name)
    return [*(folder / name for name in protos), folder / WEIGHTS]


def _fits_half(array: NDArray[Any]) -> bool:
    if array.dtype != np.float32:
        return False
    with np.errstate(over="ignore"):
        return bool((array.astype(np.float16).astype(np.float32) == array).all())


class _SharedFile:
    """Arrays one after the other in a file, equal ones once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._offsets: dict[str, int] = {}  # content hash -> place in the file

    def add(self, name: str, array: NDArray[Any]) -> TensorProto:
        """Store ``array``; gives what stands for it in a graph."""
        content = array.tobytes()
        key = hashlib.sha256(content).hexdigest()
        if key not in self._offsets:
            self._file.write(b"\0" * (-self._file.tell() % _ALIGNMENT))
            self._offsets[key] = self._file.tell()
            self._file.write(content)
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor = TensorProto(name=name, data_type=kind, dims=array.shape, data_location=TensorProto.EXTERNAL)
        for entry, value in (("location", WEIGHTS), ("offset", self._offsets[key]), ("length", len(content))):
            tensor.external_data.add(key=entry, value=str(value))
        return tensor
