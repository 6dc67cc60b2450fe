# SPDX-License-Identifier: Apache-2.0
"""A bundle's engines: for which sizes and GPUs they are built, and when one that is kept is used. TensorRT-RTX is the real one."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.tiny_bundle import MANIFEST, write_tiny_bundle

from longscape_ros.bundle import (
    DECODER,
    ENCODER,
    ERROR_ESTIMATOR,
    LENGTH_PREDICTOR,
    ROUTER,
    Bundle,
    Experts,
    Routing,
    default_bundle_path,
    denoiser,
    load_bundle,
    update_reports,
)
from longscape_ros.contract import ChunkRule, Confidence
from longscape_ros.errors import BackendError, BundleError, InputError
from longscape_ros.runtime import cuda
from longscape_ros.runtime.backend import expected_tensors
from longscape_ros.runtime.build_engines import command
from longscape_ros.runtime.building import EngineBuild, Progress
from longscape_ros.runtime.cache import ArtifactCache
from longscape_ros.runtime.engines import LIST_NAME, build_engines, export_engines, load_engines, missing_engines, profiles_of
from longscape_ros.runtime.half import half
from longscape_ros.runtime.tensorrt import RTX, BuildOptions, EngineBuilder

SOME = (ENCODER, DECODER)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture
def cache(tmp_path: Path) -> ArtifactCache:
    return ArtifactCache(tmp_path / "cache")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """This machine's GPU, as the driver would describe it."""
    device = SimpleNamespace(name="NVIDIA Orin", sm="SM87")
    monkeypatch.setattr(cuda, "open_device", lambda: device)
    return device


def files_of(cache: ArtifactCache, kind: str = "engine") -> list[Path]:
    return sorted(cache.folder.glob(f"{kind}-*.bin"))


# Sizes


def test_an_engine_takes_batches_of_1_to_64_and_every_chunk_length():
    manifest = replace(MANIFEST, experts=Experts(1), segmentation=ChunkRule(base=4, lengths=(4, 12, 20), threshold=0.5))
    (profile,) = profiles_of(denoiser(0), manifest, two=False)
    assert {name: (least, most) for name, (least, _, most) in profile.items()} == {
        "context": ((1, 4, 2, 2, 3), (64, 4, 2, 2, 3)),
        "actions": ((1, 8, 5), (64, 24, 5)),
        "noise": ((1, 4, 2, 2, 3), (64, 20, 2, 2, 3)),
    }
    assert {best[0] for _, best, _ in profile.values()} == {1}
    (profile,) = profiles_of(ENCODER, manifest, two=False)
    assert profile == {"rgb": ((1, 16, 24, 3), (1, 16, 24, 3), (64, 16, 24, 3))}


def test_where_kernels_are_chosen_at_build_time_a_single_sample_has_a_profile_of_its_own():
    one, many = profiles_of(denoiser(0), MANIFEST, two=True)
    assert [shape[0] for shape in one["noise"]] == [1, 1, 1]
    assert [shape[0] for shape in many["noise"]] == [1, 16, 64]
    assert [shape[1] for shape in one["noise"]] == [8, 16, 32]


# Real engines, with TensorRT-RTX


def test_every_kind_of_graph_becomes_an_engine_in_both_precisions(rtx, cache, tmp_path):
    bundle = write_tiny_bundle(
        tmp_path / "all",
        experts=replace(MANIFEST.experts, routing=Routing("learned", 8)),
        confidence=Confidence(25.0, -1.0, -6.0),
        length_predictor=True,
    )
    assert {ROUTER, LENGTH_PREDICTOR, ERROR_ESTIMATOR} <= set(bundle.manifest.graphs())
    half, full = (build_engines(bundle, precision, "sm89", cache, trt=rtx) for precision in ("fp16", "fp32"))
    assert set(half.plans) == set(full.plans) == set(bundle.manifest.graphs())
    same = {graph for graph in half.plans if half.facts[graph].reused or full.facts[graph].reused}
    assert same == {ROUTER, LENGTH_PREDICTOR, ERROR_ESTIMATOR}  # these are in single precision in both
    for graph, fact in half.facts.items():
        assert fact.bytes == len(half.plans[graph]) > 1000
        assert fact.layers > 0
    assert half.place == "SM89"


def test_what_was_built_is_reused_and_told_with_its_facts(rtx, bundle, cache):
    first = build_engines(bundle, "fp16", "sm89", cache, trt=rtx, graphs=SOME)
    told: list[Any] = []
    second = build_engines(bundle, "fp16", "sm89", cache, lambda *progress: told.append(progress), trt=rtx, graphs=SOME)
    assert told == []
    assert second.plans == first.plans
    for graph in SOME:
        assert not first.facts[graph].reused
        assert second.facts[graph] == replace(first.facts[graph], reused=True)


def test_only_what_is_missing_is_built_and_the_progress_counts_that(rtx, bundle, cache):
    build_engines(bundle, "fp16", "sm89", cache, trt=rtx, graphs=[ENCODER, denoiser(0), denoiser(1), denoiser(2)])
    assert missing_engines(bundle, "fp16", "sm89", cache, rtx) == [denoiser(3), DECODER]
    with pytest.raises(BackendError, match=r"Found no engine of tiny@\w+ for denoiser_3\.onnx, decoder\.onnx in .*cache"):
        load_engines(bundle, "fp16", "sm89", cache, rtx)
    told: list[tuple[int, int, float, str]] = []
    built = build_engines(bundle, "fp16", "sm89", cache, lambda *progress: told.append(progress), trt=rtx)
    assert {(number, total, graph) for number, total, _, graph in told} == {(1, 2, denoiser(3)), (2, 2, DECODER)}
    assert (told[0][2], told[-1][2]) == (0.0, 1.0)
    assert missing_engines(bundle, "fp16", "sm89", cache, rtx) == []
    assert load_engines(bundle, "fp16", "sm89", cache, rtx).plans == built.plans


@pytest.mark.parametrize("damage", ["a flipped bit", "cut off", "emptied", "something else"])
def test_a_damaged_engine_is_built_again_and_never_used(rtx, bundle, cache, damage):
    first = build_engines(bundle, "fp16", "sm89", cache, trt=rtx, graphs=[ENCODER])
    (file,) = files_of(cache)
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes({"a flipped bit": bytes(content), "cut off": bytes(content[:-1]), "emptied": b""}.get(damage, b"x" * 5000))
    assert ENCODER in missing_engines(bundle, "fp16", "sm89", cache, rtx)
    second = build_engines(bundle, "fp16", "sm89", cache, trt=rtx, graphs=[ENCODER])
    assert not second.facts[ENCODER].reused
    assert len(second.plans[ENCODER]) == len(first.plans[ENCODER])
    assert ENCODER not in missing_engines(bundle, "fp16", "sm89", cache, rtx)


def test_an_engine_of_another_gpu_put_in_its_place_is_not_used(rtx, bundle, cache):
    other = build_engines(bundle, "fp16", "sm86", cache, trt=rtx, graphs=[ENCODER])
    (foreign,) = files_of(cache)
    content = foreign.read_bytes()
    build_engines(bundle, "fp16", "sm89", cache, trt=rtx, graphs=[ENCODER])
    (file,) = set(files_of(cache)) - {foreign}
    file.write_bytes(content)
    again = build_engines(bundle, "fp16", "sm89", cache, trt=rtx, graphs=[ENCODER])
    assert not again.facts[ENCODER].reused
    assert again.plans[ENCODER] != other.plans[ENCODER]


def changed_weights(bundle: Bundle) -> Bundle:
    content = bytearray(bundle.file("weights.bin").read_bytes())
    content[1] ^= 1
    bundle.file("weights.bin").write_bytes(bytes(content))
    document = json.loads(bundle.file("bundle.json").read_text())
    document["files"]["weights.bin"]["sha256"] = hashlib.sha256(bytes(content)).hexdigest()
    bundle.file("bundle.json").write_text(json.dumps(document))
    return load_bundle(bundle.path)


def test_other_weights_other_versions_and_other_options_need_other_engines_and_reports_do_not(classic, cache, tmp_path, gpu):
    bundle = write_tiny_bundle(tmp_path / "changing")
    build_engines(bundle, cache=cache, trt=classic)
    assert missing_engines(bundle, cache=cache, trt=classic) == []
    every = list(bundle.manifest.graphs())
    assert missing_engines(bundle, "fp32", cache=cache, trt=classic) == every
    assert missing_engines(bundle, cache=cache, trt=replace(classic, version="10.13.0.36")) == every
    assert missing_engines(bundle, cache=cache, trt=classic, options=BuildOptions(optimization_level=5)) == every
    assert missing_engines(update_reports(bundle.path, evaluation={"psnr": 30.0}), cache=cache, trt=classic) == []
    assert missing_engines(changed_weights(bundle), cache=cache, trt=classic) == every


def test_an_engine_depends_on_its_own_graph_and_no_other(classic, cache, tmp_path, gpu):
    bundle = write_tiny_bundle(tmp_path / "b")
    build_engines(bundle, cache=cache, trt=classic)
    files = {name: replace(record, sha256="0" * 64) if name == ENCODER else record for name, record in bundle.manifest.files.items()}
    other = Bundle(bundle.path, replace(bundle.manifest, files=files))
    assert missing_engines(other, cache=cache, trt=classic) == [ENCODER]


def test_a_build_that_is_stopped_keeps_what_it_has(rtx, bundle, cache):
    told: list[str] = []
    with pytest.raises(BackendError, match="was called off"):
        build_engines(
            bundle, "fp16", "sm89", cache, lambda n, t, share, graph: told.append(graph), lambda: denoiser(1) in told, trt=rtx
        )  # fmt: skip
    assert missing_engines(bundle, "fp16", "sm89", cache, rtx) == [denoiser(1), denoiser(2), denoiser(3), DECODER]


@pytest.mark.parametrize("name", [DECODER, "weights.bin"])
def test_a_file_that_was_changed_since_the_bundle_was_loaded_becomes_no_engine(rtx, cache, tmp_path, name):
    bundle = write_tiny_bundle(tmp_path / "changing")
    bundle.file(name).write_bytes(bundle.file(name).read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match=rf"{name}: found the hash \w+, expected {bundle.manifest.files[name].sha256}"):
        build_engines(bundle, "fp32", "sm89", cache, trt=rtx, graphs=[DECODER])
    assert files_of(cache) == []


# Targets


def test_without_a_gpu_there_is_no_engine_for_this_machines(rtx, bundle, cache):
    if not cuda.unavailable():
        pytest.skip("this machine has a GPU")
    with pytest.raises(BackendError, match=r"CuPy|driver|GPU"):
        build_engines(bundle, cache=cache, trt=rtx)


def test_the_engine_for_this_machines_gpu_is_the_one_for_its_architecture(rtx, bundle, cache, gpu):
    gpu.sm = "SM89"
    named = build_engines(bundle, "fp16", "sm89", cache, trt=rtx, graphs=[ENCODER])
    current = build_engines(bundle, "fp16", "current", cache, trt=rtx, graphs=[ENCODER])
    assert current.facts[ENCODER].reused
    assert current.plans == named.plans
    assert current.place == "SM89"
    gpu.sm = "SM86"
    assert ENCODER in missing_engines(bundle, "fp16", "current", cache, rtx)


def test_the_classic_tensorrts_engines_are_for_one_kind_of_gpu(classic, bundle, cache, gpu):
    made = build_engines(bundle, cache=cache, trt=classic)
    assert made.place == "NVIDIA Orin (SM87)"
    assert all(len(json.loads(plan)["profiles"]) == 2 for plan in made.plans.values())
    gpu.name = "NVIDIA Orin Nano"
    assert missing_engines(bundle, cache=cache, trt=classic) == list(bundle.manifest.graphs())


def test_the_classic_tensorrts_times_are_kept_between_engines_and_processes(classic, bundle, cache, gpu):
    made = build_engines(bundle, cache=cache, trt=classic)
    timed = [json.loads(made.plans[denoiser(expert)])["timed"] for expert in range(4)]
    assert timed[0]
    assert timed[1:] == [[], [], []]  # the same kernels
    assert len(files_of(cache, "timings")) == 1
    for file in files_of(cache):
        file.unlink()
    again = build_engines(bundle, cache=ArtifactCache(cache.folder), trt=classic)
    assert not any(json.loads(plan)["timed"] for plan in again.plans.values())


def test_the_decoders_engine_gives_nothing_but_images(classic, bundle, cache, gpu):
    assert json.loads(build_engines(bundle, cache=cache, trt=classic).plans[DECODER])["outputs"] == ["rgb"]


def test_a_precision_and_a_target_that_do_not_exist_are_refused(rtx, bundle, cache):
    with pytest.raises(InputError, match="Got the precision 'int8' for engines, expected one of fp16, fp32"):
        build_engines(bundle, "int8", "sm89", cache, trt=rtx)
    with pytest.raises(InputError, match="Got the target 'sm999'"):
        build_engines(bundle, "fp16", "sm999", cache, trt=rtx)


def test_compiled_kernels_are_kept_per_engine(classic, bundle, cache, gpu):
    engines = build_engines(bundle, cache=cache, trt=classic)
    kernels = engines.kernels(cache)
    assert kernels.load(ENCODER) is None
    kernels.save(ENCODER, b"one")
    kernels.save(ENCODER, b"two")
    assert kernels.load(ENCODER) == b"two"
    assert kernels.load(DECODER) is None
    other = replace(engines, plans={**engines.plans, ENCODER: b"another engine"})
    assert other.kernels(cache).load(ENCODER) is None


# The process that builds


def process(bundle: Bundle, cache: ArtifactCache) -> list[str]:
    return command(bundle.path, "fp16", "sm89", cache)


def test_a_process_builds_into_the_cache_and_tells_how_far_it_is(rtx, bundle, cache):
    told: list[Progress] = []
    build = EngineBuild(process(bundle, cache), told.append)
    try:
        assert build.run() == ""
    finally:
        build.close()
    assert missing_engines(bundle, "fp16", "sm89", cache, rtx) == []
    graphs = bundle.manifest.graphs()
    assert [progress.name for progress in told if progress.share == 1.0] == list(graphs)
    assert {progress.total for progress in told} == {len(graphs)}
    assert all(progress.number == graphs.index(progress.name) + 1 for progress in told)


def test_a_process_that_cannot_build_says_why(rtx, bundle, cache):
    words = process(bundle, cache)
    words[words.index("sm89")] = "sm87"
    build = EngineBuild(words)
    try:
        fault = build.run()
    finally:
        build.close()
    assert fault.startswith("Got the target sm87, but TensorRT-RTX")
    assert not cache.folder.exists()


def test_a_process_that_is_killed_leaves_no_half_engine(rtx, cache, default):
    child = subprocess.Popen(command(default.path, "fp16", "sm89", cache), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        for line in child.stdout:
            if b"denoiser_0" in line:
                break
        time.sleep(0.5)
        os.kill(child.pid, signal.SIGKILL)
    finally:
        child.kill()
        child.communicate()
    assert missing_engines(default, "fp16", "sm89", cache, rtx) == [g for g in default.manifest.graphs() if g != ENCODER]


# The default bundle


@pytest.fixture(scope="module")
def default() -> Bundle:
    return load_bundle(default_bundle_path())


def test_tensorrt_takes_every_graph_of_the_default_bundle_in_both_precisions(rtx, default):
    builder = EngineBuilder(rtx)
    for graph in default.manifest.graphs():
        for model in (default.file(graph), half(default, graph)):
            assert builder.parse(graph, model, tuple(expected_tensors(graph, default.manifest)[1])).layers > 10


def test_engines_for_three_generations_of_gpus_are_built_of_the_default_bundle(rtx, default, cache, tmp_path):
    """One of each kind of graph: the denoisers are one graph with different weights, and take most of the time."""
    graphs, targets = (ENCODER, denoiser(0), DECODER), ("sm86", "sm89", "sm120")
    made = export_engines(default, tmp_path / "engines", targets, "fp16", cache, trt=rtx, graphs=graphs)
    plans = [plan for engines in made for plan in engines.plans.values()]
    assert len(set(plans)) == len(graphs) * len(targets)  # each its own
    assert all(len(engines.plans[denoiser(0)]) > 12_000_000 for engines in made)  # its weights are inside
    document = json.loads((tmp_path / "engines" / LIST_NAME).read_text())
    assert (document["flavour"], document["version"], document["bundle"]) == (RTX, rtx.version, default.model_id)
    assert [(engine["target"], engine["graph"]) for engine in document["engines"]] == [(t, g) for t in targets for g in graphs]
    for engine, plan in zip(document["engines"], plans, strict=True):
        assert (tmp_path / "engines" / engine["file"]).read_bytes() == plan
        assert (engine["bytes"], engine["sha256"]) == (len(plan), hashlib.sha256(plan).hexdigest())
        assert engine["built_from"][engine["graph"]] == default.manifest.files[engine["graph"]].sha256
    for target in targets:
        assert not set(graphs) & set(missing_engines(default, "fp16", target, cache, rtx))
