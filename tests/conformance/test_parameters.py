# SPDX-License-Identifier: Apache-2.0
"""Parameters of nodes: declared, overridden, checked, set, told to others."""

from __future__ import annotations

import pytest
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterEvent, SetParametersResult
from rcl_interfaces.msg import ParameterDescriptor as Descriptor
from rclpy.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
    ParameterAlreadyDeclaredException,
    ParameterImmutableException,
    ParameterNotDeclaredException,
    ParameterUninitializedException,
)
from rclpy.parameter import Parameter


def set_value(node, name, value):
    return node.set_parameters([Parameter(name, value=value)])[0]


@pytest.mark.parametrize("value", [True, 1, 1.5, "x", [True], [1, 2], [1.0], ["a", "b"]])
def test_a_declared_parameter_has_its_default(ros, value):
    node = ros.node()
    assert node.declare_parameter("a", value).value == value
    assert node.get_parameter("a").get_parameter_value().type == node.get_parameter("a").type_.value


def test_an_undeclared_parameter_is_refused(ros):
    node = ros.node()
    with pytest.raises(ParameterNotDeclaredException, match=r"undeclared parameter\(s\): a"):
        node.get_parameter("a")
    with pytest.raises(ParameterNotDeclaredException):
        set_value(node, "a", 1)


def test_a_parameter_is_declared_once(ros):
    node = ros.node()
    node.declare_parameter("a", 1)
    with pytest.raises(ParameterAlreadyDeclaredException):
        node.declare_parameter("a", 2)


def test_arguments_override_defaults(ros):
    node = ros.node("n", "-p a:=2 -p n:b:=x -p other:c:=9")
    assert [node.declare_parameter(name, default).value for name, default in (("a", 1), ("b", "y"), ("c", 3))] == [2, "x", 3]


def test_constructor_overrides_go_before_arguments(ros):
    node = ros.node("n", "-p a:=2", parameter_overrides=[Parameter("a", value=3)])
    assert node.declare_parameter("a", 1).value == 3


def test_a_parameter_file_reaches_nested_names(ros, tmp_path):
    file = tmp_path / "parameters.yaml"
    file.write_text("/**: {ros__parameters: {model: {backend: ort_cpu}}}\n")
    node = ros.node("n", f"--params-file {file}")
    assert node.declare_parameter("model.backend", "auto").value == "ort_cpu"
    assert {name: parameter.value for name, parameter in node.get_parameters_by_prefix("model").items()} == {"backend": "ort_cpu"}


def test_an_override_of_another_type_is_refused(ros):
    with pytest.raises(InvalidParameterTypeException, match="expecting type 'DOUBLE'"):
        ros.node("n", "-p a:=text").declare_parameter("a", 1.0)


def test_overrides_can_declare_themselves(ros):
    node = ros.node("n", "-p a:=2", automatically_declare_parameters_from_overrides=True)
    assert node.get_parameter("a").value == 2


def test_the_type_is_fixed_unless_dynamic(ros):
    node = ros.node()
    node.declare_parameter("fixed", 1)
    node.declare_parameter("free", 1, Descriptor(dynamic_typing=True))
    assert not set_value(node, "fixed", "x").successful
    assert set_value(node, "free", "x").successful
    assert (node.get_parameter("fixed").value, node.get_parameter("free").value) == (1, "x")


def test_a_type_without_a_value_is_unset_until_set(ros):
    node = ros.node()
    node.declare_parameter("a", Parameter.Type.DOUBLE)
    with pytest.raises(ParameterUninitializedException):
        node.get_parameter("a")
    assert set_value(node, "a", 0.5).successful
    assert node.get_parameter("a").value == 0.5


def test_ranges_hold_for_defaults_and_for_sets(ros):
    node = ros.node()
    node.declare_parameter("a", 4, Descriptor(integer_range=[IntegerRange(from_value=0, to_value=10, step=2)]))
    assert [set_value(node, "a", value).successful for value in (0, 6, 10, 5, 11)] == [True, True, True, False, False]
    with pytest.raises(InvalidParameterValueException, match="out of range"):
        node.declare_parameter("b", 2.0, Descriptor(floating_point_range=[FloatingPointRange(from_value=0.0, to_value=1.0)]))


def test_read_only_parameters_stay(ros):
    node = ros.node()
    node.declare_parameter("a", 1, Descriptor(read_only=True))
    assert "read-only" in set_value(node, "a", 2).reason
    with pytest.raises(ParameterImmutableException):
        node.undeclare_parameter("a")


def test_a_callback_can_refuse(ros):
    node = ros.node()
    node.declare_parameter("a", 1)
    seen = []
    node.add_on_set_parameters_callback(lambda parameters: SetParametersResult(successful=parameters[0].value < 3, reason="too big"))
    node.add_post_set_parameters_callback(lambda parameters: seen.append(parameters[0].value))
    assert [set_value(node, "a", value).successful for value in (2, 5)] == [True, False]
    assert (node.get_parameter("a").value, seen) == (2, [2])


def test_a_callback_before_the_set_can_add_parameters(ros):
    node = ros.node()
    node.declare_parameters("", [("a", 1), ("b", 1)])
    node.add_pre_set_parameters_callback(lambda parameters: [*parameters, Parameter("b", value=7)])
    set_value(node, "a", 2)
    assert [parameter.value for parameter in node.get_parameters(["a", "b"])] == [2, 7]


def test_an_atomic_set_is_all_or_nothing(ros):
    node = ros.node()
    node.declare_parameters("", [("a", 1), ("b", 1)])
    assert not node.set_parameters_atomically([Parameter("a", value=2), Parameter("b", value="x")]).successful
    assert node.get_parameter("a").value == 1


def test_parameters_are_listed_by_prefix_and_depth(ros):
    node = ros.node()
    node.declare_parameters("", [("a", 1), ("m.b", 1), ("m.n.c", 1)])
    assert set(node.list_parameters(["m"], 0).names) == {"m.b", "m.n.c"}
    assert set(node.list_parameters(["m"], 1).names) == {"m.b"}
    assert {"a", "use_sim_time"} <= set(node.list_parameters([], 1).names)


def test_changes_are_published_as_parameter_events(ros):
    node, listener = ros.node("changing"), ros.node("listening")
    events = []
    listener.create_subscription(ParameterEvent, "/parameter_events", events.append, 10)
    assert ros.until(lambda: node.count_subscribers("/parameter_events") == 1)
    assert ros.until(lambda: all(p.get_subscription_count() for p in node.publishers if p.topic == "/parameter_events"))
    node.declare_parameter("a", 1)
    set_value(node, "a", 2)
    assert ros.until(lambda: len(events) == 2)
    assert [event.node for event in events] == ["/changing"] * 2
    assert (events[0].new_parameters[0].name, events[1].changed_parameters[0].value.integer_value) == ("a", 2)
