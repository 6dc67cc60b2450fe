# SPDX-License-Identifier: Apache-2.0
"""A node's parameters read and set by others."""

from __future__ import annotations

import pytest

SERVICES = (
    "describe_parameters DescribeParameters",
    "get_parameters GetParameters",
    "get_parameter_types GetParameterTypes",
    "list_parameters ListParameters",
    "set_parameters SetParameters",
    "set_parameters_atomically SetParametersAtomically",
)
KINDS = dict(line.split() for line in SERVICES)


@pytest.fixture
def lamp(ros):
    """A node with parameters of every sort."""
    from rcl_interfaces.msg import IntegerRange, ParameterDescriptor
    from rclpy.parameter import Parameter

    node = ros.node("lamp", namespace="/hall")
    node.declare_parameter("on", True)
    node.declare_parameter(
        "power", 40, ParameterDescriptor(description="In watts.", integer_range=[IntegerRange(from_value=0, to_value=60)])
    )
    node.declare_parameter("colour.name", "white")
    node.declare_parameter("colour.rgb", [1.0, 0.5, 0.25])
    node.declare_parameter("serial", "x1", ParameterDescriptor(read_only=True))
    node.declare_parameter("free", 1, ParameterDescriptor(dynamic_typing=True))
    node.declare_parameter("unset", Parameter.Type.DOUBLE)
    return node


@pytest.fixture
def ask(ros, lamp):
    """ask(service, request's fields) gives the response of one of the lamp's services."""
    return ros.asker("rcl_interfaces", KINDS, "/hall/lamp")


@pytest.fixture
def put(ask):
    """put(name=value, ...) sets parameters by the service; [(successful, reason), ...]."""
    from rclpy.parameter import Parameter

    def call(**values):
        messages = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        return [(result.successful, result.reason) for result in ask("set_parameters", parameters=messages).results]

    return call


def test_every_node_has_the_services_of_its_parameters(ros, lamp):
    offered = dict(lamp.get_service_names_and_types_by_node("lamp", "/hall"))
    assert {name.removeprefix("/hall/lamp/"): kinds for name, kinds in offered.items()} == {
        **{name: [f"rcl_interfaces/srv/{kind}"] for name, kind in KINDS.items()},
        "get_type_description": ["type_description_interfaces/srv/GetTypeDescription"],
    }


def test_a_node_can_keep_its_parameters_to_itself(ros):
    node = ros.node("quiet", start_parameter_services=False)
    assert {service.service_name for service in node.services} == {"/quiet/get_type_description"}


def test_parameters_are_listed(ask):
    every = ask("list_parameters").result
    assert {"on", "power", "colour.name", "colour.rgb", "serial", "free", "unset", "use_sim_time"} <= set(every.names)
    assert every.prefixes == ["colour"]
    assert ask("list_parameters", prefixes=["colour"]).result.names == ["colour.name", "colour.rgb"]
    assert "colour.name" not in ask("list_parameters", depth=1).result.names


def test_values_are_got_by_name(ask):
    values = ask("get_parameters", names=["on", "power", "colour.name", "colour.rgb"]).values
    assert [value.type for value in values] == [1, 2, 4, 8]
    assert (values[0].bool_value, values[1].integer_value, values[2].string_value) == (True, 40, "white")
    assert list(values[3].double_array_value) == [1.0, 0.5, 0.25]


@pytest.mark.parametrize("names", [["on", "unheard_of"], ["on", "unset"]])
def test_one_name_without_a_value_leaves_no_values_at_all(ask, names):
    assert list(ask("get_parameters", names=names).values) == []


def test_types_are_got_by_name(ask):
    assert list(ask("get_parameter_types", names=["on", "free", "unset"]).types) == [1, 2, 0]
    assert list(ask("get_parameter_types", names=["on", "unheard_of"]).types) == []


def test_descriptors_are_got_by_name(ask):
    power, serial = ask("describe_parameters", names=["power", "serial"]).descriptors
    assert (power.name, power.type, power.description, power.read_only) == ("power", 2, "In watts.", False)
    assert [(allowed.from_value, allowed.to_value) for allowed in power.integer_range] == [(0, 60)]
    assert (serial.name, serial.read_only) == ("serial", True)
    assert list(ask("describe_parameters", names=["power", "unheard_of"]).descriptors) == []


def test_parameters_are_set_and_the_node_is_told(lamp, put):
    from rcl_interfaces.msg import SetParametersResult

    told = []
    lamp.add_on_set_parameters_callback(
        lambda parameters: told.extend((each.name, each.value) for each in parameters) or SetParametersResult(successful=True)
    )
    assert put(on=False, power=60, free="text", unset=0.5) == [(True, "")] * 4
    assert told == [("on", False), ("power", 60), ("free", "text"), ("unset", 0.5)]
    assert [lamp.get_parameter(name).value for name in ("on", "power", "free", "unset")] == [False, 60, "text", 0.5]


def test_each_parameter_is_set_or_refused_by_itself(lamp, put):
    results = put(power=61, on="yes", serial="x2", unheard_of=1, free=2)
    assert [successful for successful, _ in results] == [False, False, False, False, True]
    assert all(reason for successful, reason in results if not successful)
    assert [lamp.get_parameter(name).value for name in ("power", "on", "serial", "free")] == [40, True, "x1", 2]
    assert not lamp.has_parameter("unheard_of")


def test_the_nodes_reason_comes_back(lamp, put):
    from rcl_interfaces.msg import SetParametersResult

    lamp.add_on_set_parameters_callback(lambda parameters: SetParametersResult(successful=False, reason="not now"))
    assert put(power=1) == [(False, "not now")]
    assert lamp.get_parameter("power").value == 40


def test_parameters_are_set_all_or_none(lamp, ask):
    from rclpy.parameter import Parameter

    def put(**values):
        messages = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        return ask("set_parameters_atomically", parameters=messages).result

    refused = put(power=1, serial="x2")
    assert (refused.successful, bool(refused.reason), lamp.get_parameter("power").value) == (False, True, 40)
    assert not put(power=1, unheard_of=2).successful
    assert put(power=1, on=False).successful
    assert (lamp.get_parameter("power").value, lamp.get_parameter("on").value) == (1, False)


def test_a_parameter_set_from_outside_is_told_as_an_event(ros, lamp, put):
    from rcl_interfaces.msg import ParameterEvent

    events = []
    listening = ros.node("listening")
    listening.create_subscription(ParameterEvent, "/parameter_events", events.append, 100)
    assert ros.until(lambda: all(p.get_subscription_count() == 1 for p in lamp.publishers if p.topic_name == "/parameter_events"))
    assert [successful for successful, _ in put(power=7, serial="x2")] == [True, False]
    assert ros.until(lambda: events)
    (event,) = (event for event in events if event.node == "/hall/lamp")
    assert [(parameter.name, parameter.value.integer_value) for parameter in event.changed_parameters] == [("power", 7)]


def test_levels_of_loggers_are_read_and_set_where_a_node_lets_them(ros):
    from rcl_interfaces.msg import LoggerLevel
    from rcl_interfaces.srv import GetLoggerLevels, SetLoggerLevels
    from rclpy.logging import LoggingSeverity, get_logger

    node = ros.node("loud", enable_logger_service=True)
    get, put = node.create_client(GetLoggerLevels, "~/get_logger_levels"), node.create_client(SetLoggerLevels, "~/set_logger_levels")
    wanted = [LoggerLevel(name="a.logger.of.this.test", level=40), LoggerLevel(name="another.of.this.test", level=41)]
    results = ros.answer(put, SetLoggerLevels.Request(levels=wanted)).results
    assert [result.successful for result in results] == [True, False]
    assert results[1].reason
    assert get_logger("a.logger.of.this.test").get_effective_level() == LoggingSeverity.ERROR
    levels = ros.answer(get, GetLoggerLevels.Request(names=["a.logger.of.this.test", "unset.of.this.test"])).levels
    assert [(level.name, level.level) for level in levels] == [("a.logger.of.this.test", 40), ("unset.of.this.test", 0)]
