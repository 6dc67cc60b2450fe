# SPDX-License-Identifier: Apache-2.0
"""The parameters' declarations, and that the file in config/ says the same."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from longscape_ros.nodes.parameters import Change, PredictorParameters, changed, refusal, same_model, specs

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


def test_the_parameter_file_says_what_each_parameter_means_its_range_and_when_it_may_change():
    comments = re.sub(r"\s*\n\s*#", "", FILE.read_text(encoding="utf-8"))
    for spec in specs():
        limits = f" From {spec.low:g} to {spec.high:g}." if spec.low is not None else ""
        assert f"{spec.text}{limits} ({spec.change.value})" in comments, spec.name


def test_the_documentation_names_every_parameter():
    text = (ROOT / "docs" / "ros.md").read_text(encoding="utf-8")
    assert [spec.name for spec in specs() if f"`{spec.name}`" not in text] == []


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


def test_a_live_parameter_can_be_set_at_any_time_and_others_only_before_configuring():
    for spec in specs():
        reason = refusal([parameter(spec.name, spec.default)], configured=True)
        assert bool(reason) == (spec.change is Change.CONFIGURED)
        assert refusal([parameter(spec.name, spec.default)], configured=False) == ""


def test_a_text_that_is_no_choice_is_refused_with_the_choices():
    assert refusal([parameter("input_qos", "loud")], configured=False) == "Got input_qos = 'loud', expected one of sensor_data, reliable."


def test_parameters_of_the_client_library_are_none_of_ours():
    assert refusal([parameter("use_sim_time", True)], configured=True) == ""
    assert changed(PredictorParameters(), [parameter("use_sim_time", True)]) == PredictorParameters()


def test_changed_values_take_their_place():
    values = changed(PredictorParameters(), [parameter("prediction_rate", 3.0), parameter("model.bundle", "b")])
    assert (values.prediction_rate, values.bundle, values.horizon) == (3.0, "b", 0)
