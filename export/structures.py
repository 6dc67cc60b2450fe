# SPDX-License-Identifier: Apache-2.0
"""Graphs in ONNX: the structure is traced once and kept on this machine, the weights are filled in.

PyTorch takes up to minutes to trace a graph, and what it finds depends on the shape of the model, not on its weights. So it traces
one with random weights, of which no two are equal by chance, and one structure serves all experts, and all models of this shape.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
import onnxscript
import torch
from onnx import numpy_helper
from onnxscript import optimizer

from longscape_ros.bundle import ERROR_ESTIMATOR, context_of, denoiser, step_of
from longscape_ros.errors import BundleError
from longscape_ros.export.graphs import ContextGraph, DecoderGraph, DenoiserGraph, EncoderGraph, Graph, StepGraph, example_inputs, graphs_of
from longscape_ros.model.world import WorldModel
from longscape_ros.runtime.cache import ArtifactCache

OPSET = 20
STRUCTURE = "structure"
"""What a cache calls them."""

_LARGEST_SHAPE = 8
"""Numbers in the longest list of sizes or axes."""
_OF_EXPERTS: dict[type, Callable[[int], str]] = {DenoiserGraph: denoiser, ContextGraph: context_of, StepGraph: step_of}
"""Graphs that there are of every expert; the first one's structure serves all."""


def export_graphs(
    model: WorldModel,
    names: Sequence[str],
    steps: int,
    progress: Callable[[int, str], None] | None = None,
    cache: ArtifactCache | None = None,
) -> dict[str, onnx.ModelProto]:
    """File name -> graph with its weights inside, of the named graphs of a bundle.

    Args:
        model: The model.
        names: See :meth:`longscape_ros.bundle.Manifest.graphs`.
        steps: Network evaluations per chunk.
        progress: Told (graphs done, the next one's file name).
        cache: Where structures are kept; None: the user's.

    Raises:
        BundleError: a traced graph does not hold the weights as they are in the model.
    """
    cache = ArtifactCache() if cache is None else cache
    structures: dict[str, onnx.ModelProto] = {}
    protos: dict[str, onnx.ModelProto] = {}
    for index, (name, module) in enumerate(graphs_of(model, names, steps).items()):
        if progress:
            progress(index, name)
        first = _OF_EXPERTS[type(module)](0) if type(module) in _OF_EXPERTS else name
        if first not in structures:
            structures[first] = structure(first, model, steps, cache)
        protos[name] = filled(structures[first], module)
    return protos


def structure(name: str, model: WorldModel, steps: int, cache: ArtifactCache) -> onnx.ModelProto:
    """A graph with open sizes for B and T, whose weights are named as in its module and empty; from the cache, or traced and kept there.

    Args:
        name: File name, of the first expert where there are several.
        model: Any of this shape.
        steps: Network evaluations per chunk.
        cache: Where structures are kept.

    Raises:
        BundleError: a traced graph does not hold the weights as they are in the model.
    """
    key = {
        "graph": name,
        "shape": _shape(name, model, steps),
        "source": _source(),
        **{package.__name__: str(package.__version__) for package in (torch, onnx, onnxscript, ir)},
    }
    content = cache.get(STRUCTURE, key)
    if content is None:
        content = _traced(name, model, steps).SerializeToString()
        cache.put(STRUCTURE, key, content)
    return onnx.load_from_string(content)


def filled(structure: onnx.ModelProto, module: Graph) -> onnx.ModelProto:
    """A structure with a module's weights; where it is an expert's, with that expert's."""
    weights = module.state_dict()
    own = f".experts.{getattr(module, 'expert', 0)}."
    renamed = {tensor.name: tensor.name.replace(".experts.0.", own) for tensor in structure.graph.initializer if tensor.name in weights}
    result = onnx.ModelProto()
    result.CopyFrom(structure)
    for tensor in result.graph.initializer:
        if tensor.name in renamed:
            name = renamed[tensor.name]
            tensor.CopyFrom(numpy_helper.from_array(weights[name].numpy(), name))
    for node in result.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    return result


def _shape(name: str, model: WorldModel, steps: int) -> str:
    """All of a model that a graph's structure depends on."""
    config = model.config
    module = graphs_of(model, [name], steps)[name]
    if isinstance(module, EncoderGraph | DecoderGraph):
        return repr(config.autoencoder)
    if isinstance(module, DenoiserGraph):
        return repr((config.transformer, config.tells_noise, steps))
    if isinstance(module, ContextGraph | StepGraph):
        return repr((config.transformer, config.tells_noise))
    return repr(config)


@functools.cache
def _source() -> str:
    """Hash of the code that a structure is made by."""
    here = Path(__file__).parent
    files = [*sorted((here.parent / "model").glob("*.py")), here / "graphs.py", here / "structures.py"]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def _traced(name: str, model: WorldModel, steps: int) -> onnx.ModelProto:
    model = _with_random_weights(model)
    module = graphs_of(model, [name], steps)[name]
    tubelet = model.config.transformer.tubelet
    longest = model.config.transformer.max_length // tubelet
    # a traced size of one would be taken for a constant
    inputs = example_inputs(name, model, 2, tubelet * max(2, longest // 2), torch.Generator().manual_seed(0))
    batch = torch.export.Dim("batch", min=1, max=1024)
    groups = torch.export.Dim("groups", min=1, max=longest)
    sizes: dict[str, dict[int, object]] = {key: {1 if key in ("keys", "values") else 0: batch} for key in inputs}
    chunk = {"actions": tubelet * groups + model.config.transformer.context, "noise": tubelet * groups, "noisy": tubelet * groups}
    for key, size in chunk.items():
        if key in inputs:
            sizes[key][1] = size
    if name == ERROR_ESTIMATOR:
        sizes["latents"][1] = tubelet * groups
    with torch.no_grad(), quiet():
        program = torch.onnx.export(
            module,
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=list(module.outputs),
            dynamic_shapes=tuple(sizes.values()),
            opset_version=OPSET,
            dynamo=True,
            optimize=False,
            verbose=False,
        )
    assert program is not None
    simplify(program.model)
    proto: onnx.ModelProto = program.model_proto
    del proto.graph.value_info[:]
    empty(proto, module, _used(program.exported_program))
    return proto


def _with_random_weights(model: WorldModel) -> WorldModel:
    result = copy.deepcopy(model).cpu().eval()
    chance = torch.Generator().manual_seed(0)
    for weights in result.state_dict().values():
        weights.copy_(torch.rand(weights.shape, generator=chance) + 0.5)
    return result


def _used(program: Any) -> set[str]:
    """Names of the weights that a traced program reads."""
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    return {names[node.name] for node in program.graph.nodes if node.name in names and node.users}


def empty(proto: onnx.ModelProto, module: Graph, used: set[str]) -> None:
    """Takes the weights out of a traced graph.

    Raises:
        BundleError: it does not hold them exactly as they are in the module, each under its name: others could not be put in.
    """
    weights = {name: value.numpy() for name, value in module.state_dict().items()}
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer if tensor.name in weights}
    nothing = np.empty(0)
    expected = found.keys() | used & weights.keys()
    wrong = [name for name in sorted(expected) if not np.array_equal(found.get(name, nothing), weights[name])]
    if wrong or not expected:
        raise BundleError(
            f"Found a traced graph whose weights {', '.join(wrong)} differ from the model's, expected the model's parameters unchanged, "
            f"each under its name; torch {torch.__version__} traces in another way, use a version that is known to work."
        )
    for tensor in proto.graph.initializer:
        if tensor.name in found:
            tensor.ClearField("raw_data")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what the exporter says about its own code and about packages that are not needed here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def simplify(model: ir.Model) -> None:
    """Compute what is constant, and keep once what is computed twice; weights stay as they are.

    The exporter's own optimiser gives graphs of the same speed but takes longer than the trace, looking for patterns that are not
    here; it also folds weights into unnamed constants, and leaves the source text of every operation in the graph.
    """
    weights = set(model.graph.initializers)

    def is_foldable(node: ir.Node) -> bool | None:
        return False if any(value is not None and value.name in weights for value in node.inputs) else None

    optimizer.fold_constants(model, onnx_shape_inference=True, should_fold=is_foldable)
    for step in (
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(size_limit=_LARGEST_SHAPE),
        passes.CommonSubexpressionEliminationPass(),
        passes.ClearMetadataAndDocStringPass(),
    ):
        step(model)
