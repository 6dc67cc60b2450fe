# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tiny_bundle import MANIFEST, WEIGHTS, write_tiny_bundle

from longscape_ros.bundle import (
    DECODER,
    ENCODER,
    ERROR_ESTIMATOR,
    LENGTH_PREDICTOR,
    MANIFEST_NAME,
    ROUTER,
    Bundle,
    Experts,
    Routing,
    default_bundle_path,
    denoiser,
    find_bundle,
    load_bundle,
    update_reports,
    write_bundle,
)
from longscape_ros.contract import ActionSource, ChunkRule, Confidence, TopicMapping
from longscape_ros.errors import BundleError, InputError

MAPPING = TopicMapping(
    image_topic="/camera/image_raw",
    action_sources=(ActionSource("/plan", "trajectory_msgs/msg/JointTrajectory", {"x": "x", "y": "y", "gripper": "gripper"}),),
    dimensions=MANIFEST.action_space.dimensions,
    fps=20.0,
)


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle to damage."""
    return write_tiny_bundle(tmp_path / "tiny").path


def edit(folder: Path, **changes: Any) -> None:
    path = folder / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def sources(bundle: Bundle) -> dict[str, Path]:
    return {name: bundle.file(name) for name in bundle.manifest.files}


def test_a_bundle_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = write_tiny_bundle(tmp_path / "tiny", mapping=MAPPING, training={"bags": ["a", "b"], "steps": 10})
    loaded = load_bundle(tmp_path / "tiny")
    assert loaded == written
    assert replace(loaded.manifest, files={}) == replace(MANIFEST, mapping=MAPPING, training={"bags": ["a", "b"], "steps": 10})
    assert set(loaded.manifest.files) == {ENCODER, DECODER, *(denoiser(e) for e in range(4)), WEIGHTS}


def test_the_model_id_names_what_decides_predictions_and_ignores_reports(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "a")
    assert bundle.model_id.startswith("tiny@")
    assert update_reports(bundle.path, evaluation={"psnr.model.8": 25.0}, verification={"encoder": 1e-6}).model_id == bundle.model_id
    assert write_tiny_bundle(tmp_path / "b").model_id == bundle.model_id
    assert write_tiny_bundle(tmp_path / "c", fps=10.0).model_id != bundle.model_id


def test_what_dates_the_images_is_kept_and_bundles_from_before_it_could_be_said_are_the_same(tmp_path: Path) -> None:
    plain = write_tiny_bundle(tmp_path / "plain", mapping=MAPPING)
    assert "image_stamp" not in json.loads((plain.path / MANIFEST_NAME).read_text())["mapping"]
    assert load_bundle(plain.path).manifest.mapping == MAPPING
    received = write_tiny_bundle(tmp_path / "received", mapping=replace(MAPPING, image_stamp="receive"))
    assert load_bundle(received.path) == received
    assert received.model_id != plain.model_id


def test_updating_a_report_keeps_the_others(folder: Path) -> None:
    update_reports(folder, evaluation={"psnr.model.8": 25.0})
    manifest = update_reports(folder, verification={"encoder": 1e-6}).manifest
    assert manifest.evaluation == {"psnr.model.8": 25.0}
    assert manifest.verification == {"encoder": 1e-6}
    assert manifest.training == MANIFEST.training


def test_a_report_that_json_cannot_hold_is_refused_and_the_old_one_stays(folder: Path) -> None:
    with pytest.raises(BundleError, match="cannot hold"):
        update_reports(folder, evaluation={"psnr.model.8": float("nan")})
    assert load_bundle(folder).manifest.evaluation == {}


def test_writing_over_a_bundle_replaces_all_of_it(folder: Path) -> None:
    write_tiny_bundle(folder, experts=Experts(1))
    assert not (folder / denoiser(1)).exists()
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_writing_refuses_a_folder_with_something_else(ready: Bundle, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(BundleError, match="not a bundle"):
        write_bundle(tmp_path, MANIFEST, sources(ready))
    assert (tmp_path / "thesis.txt").exists()


def test_a_bundle_that_would_not_load_is_not_written(ready: Bundle, tmp_path: Path) -> None:
    incomplete = {name: path for name, path in sources(ready).items() if name != DECODER}
    with pytest.raises(BundleError, match=r"no entry for decoder\.onnx"):
        write_bundle(tmp_path / "new", MANIFEST, incomplete)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../weights.bin", "/etc/passwd", "", ".hidden", "a/b", MANIFEST_NAME])
def test_a_file_name_that_is_a_path_is_refused(ready: Bundle, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="Got the name"):
        write_bundle(tmp_path / "new", MANIFEST, sources(ready) | {name: ready.file(WEIGHTS)})


def test_loading_names_a_changed_file(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[7] ^= 1
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(BundleError, match=r"weights\.bin: found the hash [0-9a-f]{64}, expected"):
        load_bundle(folder)
    load_bundle(folder, verify=False)


def test_loading_names_a_shortened_file_even_without_hashes(folder: Path) -> None:
    (folder / ENCODER).write_bytes((folder / ENCODER).read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"encoder\.onnx: found \d+ bytes, expected \d+"):
        load_bundle(folder, verify=False)


def test_loading_names_a_missing_file(folder: Path) -> None:
    (folder / DECODER).unlink()
    with pytest.raises(BundleError, match=r"decoder\.onnx: found no such file"):
        load_bundle(folder)


def test_loading_a_folder_without_a_manifest_says_so(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"found no bundle\.json"):
        load_bundle(tmp_path)


def test_bundles_are_found_by_their_folder_or_the_name_of_one_that_ships(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_bundle(folder) == folder
    assert find_bundle("") == find_bundle(None) == find_bundle(Path("")) == default_bundle_path() == find_bundle("default")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "default").mkdir()
    assert find_bundle("default") == Path("default")  # one's own folder goes before
    assert find_bundle(None).is_absolute()
    with pytest.raises(BundleError, match=r"other: found no such folder, expected a bundle's, or the name .*\(default"):
        find_bundle("other")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 1}, "found format_version 1, expected 2"),
        ({"fps": "20"}, "found \"20\" for 'fps', expected a number"),
        ({"fps": True}, "found true for 'fps', expected a number"),
        ({"fps": 0}, "Got fps = 0.0, expected a positive number"),
        ({"context": 4.0}, "found 4.0 for 'context', expected a whole number"),
        ({"image_size": [16]}, "expected a list of 2"),
        ({"image_size": [0, 24]}, "Got image_size = 0"),
        ({"mood": "good"}, "found the unknown field 'mood'"),
        ({"segmentation": {"base": 8, "lengths": [8]}}, "found no field 'segmentation.threshold'"),
        ({"segmentation": {"base": 8, "lengths": [8, 12], "threshold": 0.5}}, r"chunk lengths \[8, 12\]"),
        (
            {"experts": {"count": 4, "routing": {"kind": "coin", "lookahead": 8}}},
            "found \"coin\" for 'experts.routing.kind', expected one of",
        ),
        ({"experts": {"count": 4, "routing": {"kind": "learned"}}}, "found no field 'experts.routing.lookahead'"),
        ({"experts": {"count": 4, "routing": {"kind": "learned", "lookahead": 0}}}, "Got experts.routing.lookahead = 0"),
        ({"experts": {"count": 3, "routing": {"kind": "chunk_length", "lookahead": 8}}}, "Got 3 experts"),
        ({"confidence": {"psnr_db": 25.0, "slope": -1.0}}, "found no field 'confidence.offset'"),
        ({"confidence": {"psnr_db": 25, "slope": -1, "offset": 0}}, r"no entry for error_estimator\.onnx"),
        ({"length_predictor": 1}, "found 1 for 'length_predictor', expected true or false"),
        ({"length_predictor": True}, r"no entry for length_predictor\.onnx"),
        ({"action_space": {"dimensions": []}}, "without dimensions"),
        ({"name": "../tiny"}, "Got the name"),
        ({"files": {"../weights.bin": {"sha256": "", "bytes": 1}}}, "Got the name"),
    ],
)
def test_a_manifest_that_is_wrong_is_refused_with_the_place_of_the_fault(folder: Path, changes: dict[str, Any], message: str) -> None:
    edit(folder, **changes)
    with pytest.raises(BundleError, match=message) as caught:
        load_bundle(folder)
    assert MANIFEST_NAME in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format_version": NaN}', "\ud7ff{"])
def test_text_that_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST_NAME).write_text(text, encoding="utf-8")
    with pytest.raises(BundleError, match="expected"):
        load_bundle(tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


KEYS = (
    "name",
    "fps",
    "image_size",
    "action_space",
    "segmentation",
    "experts",
    "confidence",
    "length_predictor",
    "mapping",
    "files",
)


@given(key=st.sampled_from(KEYS), value=json_values)
def test_no_json_value_makes_loading_fail_in_another_way_than_a_bundle_error(ready: Bundle, key: str, value: Any) -> None:
    original = (ready.path / MANIFEST_NAME).read_text()
    try:
        edit(ready.path, **{key: value})
        load_bundle(ready.path, verify=False)
    except BundleError:
        pass
    finally:
        (ready.path / MANIFEST_NAME).write_text(original)


def test_a_robot_with_other_action_names_is_refused_and_another_order_is_not(ready: Bundle) -> None:
    ready.require_actions(["gripper", "y", "x"])
    with pytest.raises(BundleError, match=r"expected the action names \['x', 'y', 'gripper'\], found \['x', 'y', 'z'\]"):
        ready.require_actions(["x", "y", "z"])


def test_router_length_predictor_and_error_estimator_are_part_of_a_bundle_that_has_them(tmp_path: Path) -> None:
    confidence = Confidence(25.0, -1.0, -6.0)
    experts = Experts(3, Routing("learned", 8))
    written = write_tiny_bundle(tmp_path / "tiny", experts=experts, confidence=confidence, length_predictor=True)
    loaded = load_bundle(tmp_path / "tiny")
    assert loaded == written
    assert (loaded.manifest.experts, loaded.manifest.confidence, loaded.manifest.length_predictor) == (experts, confidence, True)
    assert loaded.manifest.graphs()[-3:] == (ROUTER, LENGTH_PREDICTOR, ERROR_ESTIMATOR)
    assert {ROUTER, LENGTH_PREDICTOR, ERROR_ESTIMATOR} < set(loaded.manifest.files)
    (tmp_path / "tiny" / ROUTER).unlink()
    with pytest.raises(BundleError, match=r"router\.onnx: found no such file"):
        load_bundle(tmp_path / "tiny")


def test_a_router_needs_something_to_choose_from() -> None:
    assert ROUTER not in replace(MANIFEST, experts=Experts(1, Routing("learned", 8))).graphs()
    assert ROUTER in replace(MANIFEST, experts=Experts(2, Routing("learned", 8))).graphs()
    assert ROUTER not in MANIFEST.graphs()


def test_the_model_id_names_confidence_and_routing_too(tmp_path: Path) -> None:
    plain = write_tiny_bundle(tmp_path / "a", confidence=Confidence(25.0, -1.0, -6.0))
    others: list[dict[str, Any]] = [{"confidence": Confidence(25.0, -1.0, -5.0)}, {"length_predictor": True}]
    for index, changes in enumerate(others):
        other = write_tiny_bundle(tmp_path / f"b{index}", **{"confidence": Confidence(25.0, -1.0, -6.0), **changes})
        assert other.model_id != plain.model_id


def test_a_manifest_needs_one_expert_or_one_per_chunk_length() -> None:
    assert replace(MANIFEST, experts=Experts(1)).graphs() == (ENCODER, "denoiser_0.onnx", DECODER)
    assert replace(MANIFEST, segmentation=ChunkRule(8, (8, 16)), experts=Experts(2)).graphs()[-2] == "denoiser_1.onnx"
    with pytest.raises(InputError, match="Got 2 experts"):
        replace(MANIFEST, experts=Experts(2))
