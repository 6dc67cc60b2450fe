# SPDX-License-Identifier: Apache-2.0
"""The parameters: one table declares, describes and checks them, and writes the documentation and the file in config/."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from longscape_ros.contract import ActionDimension, ActionSource, TopicMapping
from longscape_ros.errors import InputError
from longscape_ros.nodes.model import with_parameters, with_topics
from longscape_ros.nodes.parameter_texts import DOCUMENT, with_table, write
from longscape_ros.nodes.parameter_texts import FILE as PARAMETER_FILE
from longscape_ros.nodes.parameters import Change, PredictorParameters, Spec, changed, refusal, same_model, specs

ROOT = Path(__file__).parent.parent.parent
FILE = ROOT / "config" / "predictor.yaml"


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested names joined with dots, as ROS does."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        result |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return result


def parameter(name: str, value: Any) -> Any:
    return SimpleNamespace(name=name, value=value)


def test_the_parameter_file_has_every_parameter_with_its_default():
    document = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    assert flat(document["/**"]["ros__parameters"]) == {spec.name: spec.default for spec in specs()}


def test_the_documents_table_and_the_parameter_file_are_those_of_the_declarations(tmp_path):
    """To write them anew: python -m longscape_ros.nodes.parameter_texts."""
    for name in (DOCUMENT, PARAMETER_FILE):
        (tmp_path / name).parent.mkdir()
        shutil.copy(ROOT / name, tmp_path / name)
    assert write(tmp_path) == []
    text = (tmp_path / DOCUMENT).read_text(encoding="utf-8")
    (tmp_path / DOCUMENT).write_text(text.replace("| `horizon` | int |", "| `horizon` | double |"), encoding="utf-8")
    assert write(tmp_path) == [tmp_path / DOCUMENT]
    assert (tmp_path / DOCUMENT).read_text(encoding="utf-8") == text


def test_a_document_without_a_place_for_the_table_is_refused():
    with pytest.raises(InputError, match="without a table of parameters"):
        with_table("# Parameters", specs())


@pytest.mark.parametrize("spec", specs(), ids=lambda spec: spec.name)
def test_every_declaration_is_complete(spec):
    assert spec.description.endswith(".")
    number = isinstance(spec.default, int | float) and not isinstance(spec.default, bool)
    assert (spec.low is not None and spec.high is not None) == number
    assert not spec.choices or spec.default in spec.choices
    if number:
        assert spec.low <= spec.default <= spec.high


def test_a_loaded_model_stays_right_when_only_live_parameters_change():
    values = PredictorParameters()
    assert same_model(values, changed(values, [parameter("prediction_rate", 2.0), parameter("image_timeout", 3.0)]))
    assert not same_model(values, changed(values, [parameter("horizon", 16)]))


def another_value(spec: Spec, present: bool | int | float | str) -> bool | int | float | str:
    """One that the parameter may have, other than the present one."""
    if isinstance(present, bool):
        return not present
    if isinstance(present, str):
        return next((choice for choice in spec.choices if choice != present), "another")
    return present + 1


def test_a_live_parameter_can_be_set_at_any_time_and_others_only_before_configuring():
    for spec in specs():
        other = [parameter(spec.name, another_value(spec, spec.default))]
        assert bool(refusal(other, PredictorParameters())) == (spec.change is Change.CONFIGURED)
        assert refusal(other, None) == ""


def test_the_present_values_can_be_set_at_any_time_for_a_dump_to_be_loaded():
    assert refusal([parameter(spec.name, spec.default) for spec in specs()], PredictorParameters()) == ""


def test_a_text_that_is_no_choice_is_refused_with_the_choices():
    assert refusal([parameter("input_qos", "loud")], None) == "Got input_qos = 'loud', expected one of sensor_data, reliable."


def test_parameters_of_the_client_library_are_none_of_ours():
    assert refusal([parameter("use_sim_time", True)], PredictorParameters()) == ""
    assert changed(PredictorParameters(), [parameter("use_sim_time", True)]) == PredictorParameters()


def test_changed_values_take_their_place():
    values = changed(PredictorParameters(), [parameter("prediction_rate", 3.0), parameter("model.bundle", "b")])
    assert (values.prediction_rate, values.bundle, values.horizon) == (3.0, "b", 0)


# ---- the node declares and checks what the table says ----


def test_the_node_declares_every_parameter_as_the_table_says(graph, bundle):
    node = graph.predictor(bundle, autostart=False)
    for spec in specs():
        found = node.describe_parameter(spec.name)
        assert found.description == spec.text
        assert found.read_only == (spec.change is Change.FIXED)
        ranges = [(r.from_value, r.to_value) for r in (*found.integer_range, *found.floating_point_range)]
        assert ranges == ([] if spec.low is None else [(spec.low, spec.high)]), spec.name
        assert len(found.integer_range) == (isinstance(spec.default, int) and spec.low is not None)


def test_the_node_refuses_what_the_table_does_not_allow(graph, bundle):
    from rclpy.parameter import Parameter

    node = graph.predictor(bundle, autostart=False)
    for spec in specs():
        wrong: list[Any] = [["a list"]]
        if spec.low is not None and spec.high is not None:
            kind = type(spec.default)
            wrong += [kind(spec.low - 1), kind(spec.high + 1)]
        if spec.choices:
            wrong.append("none of these")
        if spec.change is Change.FIXED:
            wrong.append(spec.default)
        before = node.get_parameter(spec.name).value
        for value in wrong:
            (result,) = node.set_parameters([Parameter(spec.name, value=value)])
            assert not result.successful, (spec.name, value)
            assert result.reason
        assert node.get_parameter(spec.name).value == before


def test_every_live_parameter_changes_while_the_node_is_active_and_no_other(graph, bundle, state):
    from rclpy.parameter import Parameter

    node = graph.predictor(bundle)
    graph.robot().until(lambda: state(node) == "active")
    for spec in specs():
        value = another_value(spec, node.get_parameter(spec.name).value)
        (result,) = node.set_parameters([Parameter(spec.name, value=value)])
        assert result.successful == (spec.change is Change.LIVE), spec.name
        if result.successful:
            assert node.get_parameter(spec.name).value == value


# ---- topics of the commanded action ----


def two_sources() -> TopicMapping:
    dimensions = (ActionDimension("joint", kind="position"), ActionDimension("gripper", kind="state"))
    sources = (
        ActionSource("/arm/commands", "trajectory_msgs/msg/JointTrajectory", {"joint": "joint"}),
        ActionSource("/gripper/commands", "std_msgs/msg/Float64", {"gripper": "data"}),
    )
    return TopicMapping("/camera", sources, dimensions, fps=10.0)


@pytest.mark.parametrize(
    ("topics", "expected"),
    [
        ("", ["/arm/commands", "/gripper/commands"]),
        ("/a", ["/a", "/gripper/commands"]),
        (", /g", ["/arm/commands", "/g"]),
        ("a,~/g", ["a", "~/g"]),
    ],
)
def test_topics_of_the_action_replace_the_mappings_in_its_order(topics, expected):
    found = with_topics(two_sources(), topics)
    assert [source.topic for source in found.action_sources] == expected
    assert [source.fields for source in found.action_sources] == [source.fields for source in two_sources().action_sources]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, ("receive", 7)),
        ({"image_stamp": "header"}, ("header", 7)),
        ({"image_stamp": "receive", "image_latency": 0.5}, ("receive", 5 * 10**8)),
    ],
)
def test_what_dates_the_images_is_the_parameters_or_else_the_mappings(values, expected):
    mapping = replace(two_sources(), image_stamp="receive", image_latency_ns=7)
    found = with_parameters(mapping, PredictorParameters(**values))
    assert (found.image_stamp, found.image_latency_ns) == expected
    assert found.action_sources == mapping.action_sources


def test_more_topics_than_the_mapping_has_are_refused_with_those_it_has():
    with pytest.raises(
        InputError, match=r"Got 3 action topics \(a,b,c\), expected at most 2, in place of /arm/commands, /gripper/commands"
    ):
        with_topics(two_sources(), "a,b,c")
