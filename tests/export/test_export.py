# SPDX-License-Identifier: Apache-2.0
"""From a finished run to a bundle: what is in it, whether it computes the same, and what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from support.toy_runs import CONFIDENCE, MAPPING, RULE, SPACE, toy_config, toy_model, write_toy_run

from longscape_ros.bundle import (
    DECODER,
    ENCODER,
    ERROR_ESTIMATOR,
    LENGTH_PREDICTOR,
    ROUTER,
    Bundle,
    Experts,
    Routing,
    context_of,
    denoiser,
    load_bundle,
    step_of,
    write_bundle,
)
from longscape_ros.contract import Snapshot
from longscape_ros.errors import BundleError, InputError
from longscape_ros.examples import EXAMPLES, read_examples, write_examples
from longscape_ros.export import export_run
from longscape_ros.export.export import round_weights, write_verified
from longscape_ros.export.graphs import SMALLEST_STORED, WEIGHTS, example_inputs
from longscape_ros.export.structures import export_graphs
from longscape_ros.export.verify import TOLERANCE, verify_graphs, verify_rollout
from longscape_ros.model.moe import Route
from longscape_ros.model.run import AUTOENCODER, DENOISER, DISTIL, load_run, save_checkpoint, save_run
from longscape_ros.model.world import WorldConfig, WorldModel
from longscape_ros.runtime.backend import Backend
from longscape_ros.runtime.kinds import FP16_VERIFIED
from longscape_ros.runtime.onnxruntime_backend import OnnxRuntimeBackend
from longscape_ros.runtime.predictor import Predictor
from longscape_ros.runtime.quantized import VERIFIED as INT8_VERIFIED

EXPERTS = 4
EXAMPLE_STEPS = 40


@dataclass(frozen=True)
class Exported:
    """A toy run and its bundle.

    Args:
        model: The reference, with the weights as they are stored.
        bundle: The bundle.
        figures: What the export reported.
        told: Its progress.
    """

    model: WorldModel
    bundle: Bundle
    figures: dict[str, float]
    told: list[tuple[float, float, str]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("export")
    model = toy_model()
    told: list[tuple[float, float, str]] = []
    run = write_toy_run(folder / "run", model, heads=True)
    write_examples(run / EXAMPLES, [make_example()])
    figures = export_run(run, folder / "toy", progress=lambda *report: told.append(report))
    round_weights(model)
    return Exported(model, load_bundle(folder / "toy"), figures, told)


@pytest.fixture(scope="module")
def backend(exported: Exported) -> Backend:
    return OnnxRuntimeBackend(exported.bundle, threads=1)


def make_example() -> Snapshot:
    random = np.random.default_rng(0)
    shape = (toy_config().transformer.context, *toy_config().autoencoder.image_size, 3)
    motion = np.cumsum(random.normal(0, 0.01, (shape[0] + EXAMPLE_STEPS, len(SPACE))), axis=0)
    return Snapshot(0, random.integers(0, 256, shape, np.uint8), motion, assumed_from=EXAMPLE_STEPS)


def changed(model: WorldModel, parameter: str, by: float = 0.1) -> WorldModel:
    """A copy of a model of which one parameter differs."""
    copy = WorldModel(model.config)
    copy.load_state_dict(model.state_dict())
    with torch.no_grad():
        copy.get_parameter(parameter).add_(by)
    return copy.eval()


def test_the_bundle_says_what_the_run_says(exported: Exported) -> None:
    manifest = exported.bundle.manifest
    assert manifest.name == "toy"
    assert manifest.graphs() == (ENCODER, *(denoiser(e) for e in range(EXPERTS)), DECODER, ROUTER, LENGTH_PREDICTOR, ERROR_ESTIMATOR)
    assert manifest.experts == Experts(EXPERTS, Routing("learned", exported.model.config.lookahead))
    assert (manifest.confidence, manifest.length_predictor) == (CONFIDENCE, True)
    assert (manifest.action_space, manifest.segmentation, manifest.mapping) == (SPACE, RULE, MAPPING)
    assert (manifest.image_size, manifest.latent_shape) == ((32, 32), (4, 4, 4))
    assert (manifest.fps, manifest.context, manifest.sampler_steps) == (MAPPING.fps, 4, 2)
    assert manifest.training == {"recipe": "toy", "attention_heads": 2, "episodes": 3.0}


def test_every_graph_and_a_rollout_are_compared_with_torch_and_reported(exported: Exported) -> None:
    checked = [*exported.bundle.manifest.graphs(), "rollout"]
    differences = {name: exported.figures[f"parity.{name}"] for name in checked}
    assert exported.bundle.manifest.verification == differences | {
        name: exported.figures[f"parity.{name}"] for name in (INT8_VERIFIED, FP16_VERIFIED)
    }
    assert all(0 < value <= TOLERANCE for value in differences.values()), differences
    assert exported.figures["bytes"] == sum(record.bytes for record in exported.bundle.manifest.files.values())


def test_progress_names_each_graph_and_comes_to_its_end(exported: Exported) -> None:
    assert [what for _, _, what in exported.told] == [*exported.bundle.manifest.graphs(), "verify", "verified"]
    assert [done for done, _, _ in exported.told] == list(range(len(exported.told)))
    assert {total for _, total, _ in exported.told} == {exported.told[-1][0]}


def test_each_denoiser_is_its_own_expert_for_every_chunk_length(exported: Exported, backend: Backend) -> None:
    for length in RULE.lengths:
        inputs = example_inputs(denoiser(0), exported.model, 2, length, torch.Generator().manual_seed(length))
        found = [backend.denoise(e, *(tensor.numpy() for tensor in inputs.values())) for e in range(EXPERTS)]
        with torch.no_grad():
            expected = [exported.model.denoiser.sample(*inputs.values(), e).numpy() for e in range(EXPERTS)]
        for expert in range(EXPERTS):
            np.testing.assert_allclose(found[expert], expected[expert], atol=TOLERANCE)
            others = [np.abs(found[expert] - expected[other]).max() for other in range(EXPERTS) if other != expert]
            assert min(others) > 100 * TOLERANCE


def test_weights_are_stored_once_in_half_precision(exported: Exported) -> None:
    stored = exported.bundle.file(WEIGHTS).stat().st_size
    large = [parameter for parameter in exported.model.parameters() if parameter.numel() >= SMALLEST_STORED]
    numbers = sum(parameter.numel() for parameter in large)
    assert 2 * numbers <= stored <= 2 * numbers + 64 * (len(large) + 2)  # aligned, and little beside the parameters


def test_graphs_hold_no_large_constants_and_say_nothing_of_the_machine_they_were_made_on(exported: Exported) -> None:
    for name in exported.bundle.manifest.graphs():
        graph = onnx.load(exported.bundle.file(name), load_external_data=False).graph
        inside = [tensor for tensor in graph.initializer if tensor.data_location != TensorProto.EXTERNAL]
        assert all(np.prod(tensor.dims) < SMALLEST_STORED for tensor in inside)
        assert not any(node.op_type == "Constant" or node.metadata_props or node.doc_string for node in graph.node)
        assert b".py" not in exported.bundle.file(name).read_bytes()


@pytest.mark.parametrize("by", [0.1, math.nan])
def test_a_model_of_other_weights_is_told_apart_graph_by_graph(exported: Exported, by: float) -> None:
    other = changed(exported.model, "denoiser.transformer.blocks.1.feed_forward.experts.2.up.weight", by)
    with pytest.raises(BundleError, match=r"differences to PyTorch of \{'denoiser_2\.onnx': [^,]*\}, expected at most 0\.0001"):
        verify_graphs(exported.bundle, other)


@pytest.mark.parametrize(
    ("graph", "parameter"),
    [
        (ROUTER, "denoiser.router.scores.motion.weight"),
        (LENGTH_PREDICTOR, "length_predictor.picture.bias"),
        (ERROR_ESTIMATOR, "error_estimator.mix.weight"),
    ],
)
def test_each_small_graph_is_compared_with_its_network(exported: Exported, graph: str, parameter: str) -> None:
    verify_graphs(exported.bundle, exported.model)
    with pytest.raises(BundleError, match=rf"differences to PyTorch of \{{'{graph}': [^,]*\}}, expected at most 0\.0001"):
        verify_graphs(exported.bundle, changed(exported.model, parameter))


@torch.no_grad()
def test_the_bundles_router_and_heads_compute_what_the_model_does_whatever_the_batch(exported: Exported, backend: Backend) -> None:
    model = exported.model
    assert model.denoiser.router is not None
    for batch, length in ((1, 8), (5, 32)):
        generator = torch.Generator().manual_seed(batch)
        context, coming = example_inputs(ROUTER, model, batch, 1, generator).values()
        scores = model.denoiser.router(context, coming)
        np.testing.assert_allclose(backend.route(context.numpy(), coming.numpy()), scores, atol=TOLERANCE)
        route = model.denoiser.route(context, coming, 0, torch.zeros(batch, EXPERTS))
        assert isinstance(route, Route)
        assert backend.route(context.numpy(), coming.numpy()).argmax(axis=1).tolist() == route.experts[:, 0].tolist()
        lengths = model.length_predictor(context)
        np.testing.assert_allclose(backend.predict_length(context.numpy()), lengths, atol=TOLERANCE)
        inputs = example_inputs(ERROR_ESTIMATOR, model, batch, length, generator).values()
        estimate = model.error_estimator(*inputs)
        np.testing.assert_allclose(backend.estimate_error(*(tensor.numpy() for tensor in inputs)), estimate, atol=TOLERANCE)


def test_a_bundle_of_all_graphs_predicts_with_confidence_and_the_routers_experts(exported: Exported, backend: Backend) -> None:
    manifest = exported.bundle.manifest
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (manifest.context, *manifest.image_size, 3), np.uint8)
    motion = np.stack([np.linspace(0, 0.3, 44), np.zeros(44)], axis=1)
    prediction = Predictor(exported.bundle, backend).predict(Snapshot(1, images, motion, assumed_from=20), horizon=40)
    assert prediction.frames.shape == (40, *manifest.image_size, 3)
    assert ((prediction.confidence >= 0) & (prediction.confidence <= 1)).all()
    assert set(prediction.experts) <= set(range(EXPERTS))


def test_experts_that_changed_places_are_found(exported: Exported, tmp_path: Path) -> None:
    sources = {name: exported.bundle.file(name) for name in exported.bundle.manifest.files}
    mixed = sources | {denoiser(0): sources[denoiser(3)], denoiser(3): sources[denoiser(0)]}
    bundle = write_bundle(tmp_path / "mixed", exported.bundle.manifest, mixed)
    with pytest.raises(BundleError, match=r"denoiser_0\.onnx.*denoiser_3\.onnx"):
        verify_graphs(bundle, exported.model)


def test_a_rollout_with_other_weights_differs(exported: Exported, backend: Backend) -> None:
    assert verify_rollout(exported.bundle, exported.model, backend) <= TOLERANCE
    assert verify_rollout(exported.bundle, changed(exported.model, "denoiser.transformer.project.bias"), backend) > 100 * TOLERANCE


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no run\.json; expected the folder that longscape train wrote to"):
        export_run(tmp_path, tmp_path / "bundle")


def test_a_training_that_is_not_finished_is_refused(tmp_path: Path) -> None:
    run = write_toy_run(tmp_path / "run", toy_model(), finished=False)
    with pytest.raises(InputError, match=r"with an unfinished denoiser; run the same longscape train command again"):
        export_run(run, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_bundle_appears_only_if_it_computes_the_same(exported: Exported, tmp_path: Path) -> None:
    files = [exported.bundle.file(name) for name in exported.bundle.manifest.files]
    older = write_bundle(tmp_path / "bundle", exported.bundle.manifest, {path.name: path for path in files})
    newer = replace(exported.bundle.manifest, name="newer")
    with pytest.raises(BundleError, match=r"do not use this bundle"):
        write_verified(older.path, newer, files, changed(exported.model, "autoencoder.coarse_bias"))
    assert load_bundle(older.path) == older
    assert list(tmp_path.iterdir()) == [older.path]


def test_reports_are_numbers_that_json_can_hold(exported: Exported) -> None:
    assert json.loads(json.dumps(exported.figures, allow_nan=False)) == exported.figures


# ---- other models ----


def single(**changes: Any) -> WorldConfig:
    """One expert: one trace."""
    config = toy_config()
    transformer = replace(config.transformer, experts=1, depth=1)
    return replace(config, transformer=transformer, routing="chunk_length", **changes)


def test_the_per_step_form_takes_the_same_steps_as_the_whole_sampler(tmp_path: Path) -> None:
    model = toy_model()
    bundle_of_steps = tmp_path / "steps"
    export_run(write_toy_run(tmp_path / "run", model), bundle_of_steps, per_step=True)
    bundle = load_bundle(bundle_of_steps)
    assert {part(e) for part in (context_of, step_of) for e in range(EXPERTS)} <= set(bundle.manifest.files)
    for expert, batch, length in ((0, 1, 8), (2, 3, 16)):
        names = context_of(expert), step_of(expert), denoiser(expert)
        first, second, whole = (onnxruntime.InferenceSession(bundle.file(name)) for name in names)
        inputs = {name: value.numpy() for name, value in example_inputs(denoiser(0), model, batch, length, torch.Generator()).items()}
        known = {"context": inputs["context"], "actions": inputs["actions"]}
        keys, values = first.run(None, known)
        x, steps = inputs["noise"], bundle.manifest.sampler_steps
        for step in range(steps):
            time = np.full(batch, step / steps, np.float32)
            clean = second.run(None, known | {"keys": keys, "values": values, "noisy": x, "time": time})[0]
            x = x + (clean - x) / (steps - step)
        np.testing.assert_allclose(x, whole.run(["latents"], inputs)[0], atol=1e-4)


def test_a_run_that_kept_examples_gives_them_to_its_bundle_and_other_precisions_are_measured_on_them(
    exported: Exported, tmp_path: Path
) -> None:
    assert exported.bundle.manifest.verification[INT8_VERIFIED] > 20
    assert exported.bundle.manifest.verification[FP16_VERIFIED] > 40
    assert [example.steps for example in read_examples(exported.bundle)] == [EXAMPLE_STEPS]


def test_two_experts_per_chunk_are_refused(tmp_path: Path) -> None:
    run = write_toy_run(tmp_path / "run", toy_model(replace(toy_config(), top=2)))
    with pytest.raises(InputError, match="Got a model with 2 experts per chunk, expected one; a bundle's denoisers have one expert each"):
        export_run(run, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_the_number_of_steps_can_be_another_than_in_training(tmp_path: Path) -> None:
    model = toy_model(single(sampler_steps=4))
    run = write_toy_run(tmp_path / "run", model)
    export_run(run, tmp_path / "bundle", steps=1)
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.manifest.sampler_steps == 1
    assert bundle.manifest.graphs() == (ENCODER, denoiser(0), DECODER)  # no router, no heads
    assert (bundle.manifest.confidence, bundle.manifest.length_predictor) == (None, False)
    round_weights(model)
    inputs = example_inputs(denoiser(0), model, 1, 8, torch.Generator().manual_seed(0))
    found = OnnxRuntimeBackend(bundle, threads=1).denoise(0, *(tensor.numpy() for tensor in inputs.values()))
    with torch.no_grad():
        expected = {steps: model.denoiser.sample(*inputs.values(), 0, steps).numpy() for steps in (1, 4)}
    np.testing.assert_allclose(found, expected[1], atol=TOLERANCE)
    assert np.abs(found - expected[4]).max() > 100 * TOLERANCE


def test_the_denoiser_before_distillation_can_be_exported_to_compare_with(tmp_path: Path) -> None:
    model, student = toy_model(single()), toy_model(single(), seed=1)
    run = write_toy_run(tmp_path / "run", model)
    weights = {f"student.{name}": weight for name, weight in student.denoiser.state_dict().items()}
    save_checkpoint(run / f"{DISTIL}.pt", {"averaged": weights, "finished": True})
    save_run(run, replace(load_run(run), stages=(AUTOENCODER, DENOISER, DISTIL), sampler_steps=1))
    for teacher, like, steps in ((True, model, model.config.sampler_steps), (False, student, 1)):
        export_run(run, tmp_path / "bundle", teacher=teacher)
        bundle = load_bundle(tmp_path / "bundle")
        assert bundle.manifest.sampler_steps == steps
        round_weights(like)
        inputs = example_inputs(denoiser(0), like, 1, 8, torch.Generator().manual_seed(0))
        found = OnnxRuntimeBackend(bundle, threads=1).denoise(0, *(tensor.numpy() for tensor in inputs.values()))
        with torch.no_grad():
            np.testing.assert_allclose(found, like.denoiser.sample(*inputs.values(), 0, steps).numpy(), atol=TOLERANCE)


def test_a_router_of_the_context_alone_takes_the_coming_actions_too_and_ignores_them(tmp_path: Path) -> None:
    config = toy_config()
    model = toy_model(replace(config, routing="context", transformer=replace(config.transformer, experts=2, depth=1)))
    graph = export_graphs(model, [ROUTER], 1)[ROUTER]
    onnx.save(graph, tmp_path / ROUTER)
    session = onnxruntime.InferenceSession(tmp_path / ROUTER, providers=["CPUExecutionProvider"])
    assert [put.name for put in session.get_inputs()] == ["context", "coming"]
    inputs = {key: tensor.numpy() for key, tensor in example_inputs(ROUTER, model, 3, 1, torch.Generator().manual_seed(0)).items()}
    scores = session.run(["scores"], inputs)[0]
    np.testing.assert_array_equal(session.run(["scores"], inputs | {"coming": inputs["coming"] + 1})[0], scores)
    assert model.denoiser.router is not None
    with torch.no_grad():
        expected = model.denoiser.router(torch.from_numpy(inputs["context"]), torch.from_numpy(inputs["coming"]))
    np.testing.assert_allclose(scores, expected, atol=TOLERANCE)
