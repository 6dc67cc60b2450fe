# SPDX-License-Identifier: Apache-2.0
"""How graphs are traced once, kept, and filled with weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from support.toy_runs import toy_config, toy_model

from longscape_ros.bundle import DECODER, ENCODER, denoiser
from longscape_ros.errors import BundleError
from longscape_ros.export.graphs import DenoiserGraph, EncoderGraph, example_inputs
from longscape_ros.export.structures import empty, export_graphs, filled, structure
from longscape_ros.model.recipes import toy
from longscape_ros.model.world import WorldModel
from longscape_ros.runtime.cache import ArtifactCache


@pytest.fixture
def cache(tmp_path: Path) -> ArtifactCache:
    return ArtifactCache(tmp_path / "cache")


@pytest.fixture
def model() -> WorldModel:
    return toy_model()


def expert_weights(model: WorldModel, expert: int) -> dict[str, torch.Tensor]:
    """Those of one expert alone, by their names in its graph."""
    return {name: value for name, value in DenoiserGraph(model, expert, 1).state_dict().items() if f".experts.{expert}." in name}


def traced(weights: dict[str, torch.Tensor]) -> onnx.ModelProto:
    """What stands for a trace here: weights, and one node that reads them."""
    initializers = [numpy_helper.from_array(value.numpy(), name) for name, value in weights.items()]
    return helper.make_model(helper.make_graph([helper.make_node("Sum", list(weights), ["y"])], "traced", [], [], initializers))


def emptied(model: WorldModel) -> onnx.ModelProto:
    """The structure of the first expert."""
    weights = expert_weights(model, 0)
    proto = traced(weights)
    empty(proto, DenoiserGraph(model, 0, 1), set(weights))
    return proto


def run(proto: onnx.ModelProto, inputs: dict[str, torch.Tensor]) -> Any:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {name: value.numpy() for name, value in inputs.items()})[0]


def test_a_structure_holds_no_weights_and_every_expert_has_it_filled_with_its_own(model: WorldModel) -> None:
    source = emptied(model)
    assert not any(tensor.raw_data for tensor in source.graph.initializer)
    before = source.SerializeToString()
    for expert in range(4):
        assert filled(source, DenoiserGraph(model, expert, 1)) == traced(expert_weights(model, expert))
    assert source.SerializeToString() == before


def test_a_trace_that_lost_a_weight_is_refused(model: WorldModel) -> None:
    weights = expert_weights(model, 0)
    used = set(weights)
    lost = sorted(weights)[-1]
    del weights[lost]
    with pytest.raises(BundleError, match=rf"weights {lost} differ from the model's"):
        empty(traced(weights), DenoiserGraph(model, 0, 1), used)


def test_a_trace_that_changed_a_weight_is_refused(model: WorldModel) -> None:
    weights = expert_weights(model, 0)
    changed = next(name for name, value in weights.items() if value.ndim == 2)
    weights[changed] = weights[changed].T.contiguous()
    with pytest.raises(BundleError, match=rf"weights {changed} differ"):
        empty(traced(weights), DenoiserGraph(model, 0, 1), set(weights))


def test_what_was_traced_is_used_for_other_weights_and_not_for_another_shape(
    cache: ArtifactCache, model: WorldModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_graphs(model, [ENCODER, DECODER], 2, cache=cache)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("traced")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    other = toy_model(seed=1)
    graph = export_graphs(other, [ENCODER, DECODER], 4, cache=cache)[ENCODER]
    inputs = example_inputs(ENCODER, other, 3, 1, torch.Generator().manual_seed(0))
    with torch.no_grad():
        np.testing.assert_allclose(run(graph, inputs), EncoderGraph(other)(**inputs), atol=1e-4)
    config = toy_config()
    a, b, c = config.autoencoder.widths
    wider = toy_model(replace(config, autoencoder=replace(config.autoencoder, widths=(2 * a, b, c))))
    with pytest.raises(AssertionError, match="traced"):
        export_graphs(wider, [ENCODER], 2, cache=cache)


def test_weights_that_are_equal_when_it_is_traced_may_differ_later(cache: ArtifactCache, model: WorldModel) -> None:
    """Equal constants are kept once; weights must not be taken for such."""
    alike = toy_model()
    for weights in alike.autoencoder.state_dict().values():
        weights.fill_(1.0)
    export_graphs(alike, [ENCODER], 2, cache=cache)
    inputs = example_inputs(ENCODER, model, 2, 1, torch.Generator().manual_seed(0))
    with torch.no_grad():
        np.testing.assert_allclose(
            run(export_graphs(model, [ENCODER], 2, cache=cache)[ENCODER], inputs), EncoderGraph(model)(**inputs), atol=1e-4
        )


def test_a_structure_that_was_damaged_is_traced_again(cache: ArtifactCache, model: WorldModel, caplog: pytest.LogCaptureFixture) -> None:
    first = structure(ENCODER, model, 2, cache)
    (file,) = cache.folder.iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    assert structure(ENCODER, model, 2, cache) == first
    assert "will be made again" in caplog.text


def test_chunks_of_one_and_two_groups_can_be_traced(cache: ArtifactCache) -> None:
    """A size of one in the trace would be taken for a constant."""
    for lengths in ((4,), (8,)):
        recipe = replace(toy(), base=4, lengths=lengths, experts=1, depth=1)
        proto = structure(denoiser(0), WorldModel(recipe.world(3)), 1, cache)
        sizes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in proto.graph.input}
        assert sizes["noise"][:2] == [0, 0]  # both are open
