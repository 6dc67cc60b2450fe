# SPDX-License-Identifier: Apache-2.0
"""The embedded graph beside recordings of real ROS 2 Jazzy: its bytes, its type hashes, and its answers to the same questions."""

from __future__ import annotations

import base64
import json

import pytest

from longscape_ros.embedded.context import Context
from longscape_ros.embedded.executors import SingleThreadedExecutor
from longscape_ros.embedded.lifecycle import LifecycleNode, TransitionCallbackReturn
from longscape_ros.embedded.logging import LoggingSeverity
from longscape_ros.embedded.messages import Message, deserialize_message, library, message_class, serialize_message
from longscape_ros.embedded.node import Node
from longscape_ros.embedded.parameters import Parameter
from longscape_ros.embedded.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSProfile,
    ReliabilityPolicy,
    qos_profile_sensor_data,
    qos_profile_system_default,
)
from longscape_ros.embedded.time import ClockType, Duration, Time

ROS_TIME = ClockType.ROS_TIME
RELIABLE, BEST_EFFORT = QoSProfile(depth=5), QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=2, durability=DurabilityPolicy.TRANSIENT_LOCAL)
Float64, Header, Image, JointState, String = (
    message_class(name)
    for name in (
        "std_msgs/msg/Float64",
        "std_msgs/msg/Header",
        "sensor_msgs/msg/Image",
        "sensor_msgs/msg/JointState",
        "std_msgs/msg/String",
    )
)
Descriptor, IntegerRange, FloatRange, Result = (
    message_class(f"rcl_interfaces/msg/{name}")
    for name in ("ParameterDescriptor", "IntegerRange", "FloatingPointRange", "SetParametersResult")
)


@pytest.fixture
def golden(shared):
    """What was recorded of each message: its case's name, a message with those values, its bytes, its type's hash."""
    cases = json.loads((shared / "ros2_truth" / "jazzy_messages.json").read_text(encoding="utf-8"))
    return [
        (case["case"], filled(message_class(case["type"])(), case["fields"]), base64.b64decode(case["cdr_base64"]), case["type_hash"])
        for case in cases
    ]


@pytest.fixture
def agrees(shared):
    """agrees(question=answer, ...) compares answers with those that were recorded."""
    recorded = json.loads((shared / "ros2_truth" / "jazzy_behaviour.json").read_text(encoding="utf-8"))

    def compare(**answers):
        assert json.loads(json.dumps(answers)) == {question: recorded[question] for question in answers}

    return compare


def filled(message, fields):
    """Sets fields from plain lists and dictionaries."""
    for name, value in fields.items():
        kind = message.get_fields_and_field_types()[name]
        if isinstance(getattr(message, name), Message):
            filled(getattr(message, name), value)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            item = message_class(kind.removeprefix("sequence<").removesuffix(">").replace("/", "/msg/"))
            setattr(message, name, [filled(item(), entry) for entry in value])
        else:
            setattr(message, name, bytes([value]) if kind == "octet" else value)
    return message


def answer(call, *arguments, **options):
    """What a call gives, or how it is refused in the words of the recording."""
    try:
        return call(*arguments, **options)
    except Exception as fault:
        return f"raises {type(fault).__name__}"


def test_messages_become_the_bytes_that_ros_wrote_and_come_back(golden):
    faults = []
    for case, message, data, _ in golden:
        if serialize_message(message) != data:
            faults.append(f"{case}: {serialize_message(message)!r}, expected {data!r}")
        if deserialize_message(data, type(message)) != message:
            faults.append(f"{case}: {deserialize_message(data, type(message))}, expected {message}")
    assert (len(golden), faults) == (16, [])


def test_type_hashes_are_those_of_ros(golden):
    assert {case: library().type_hash(message._TYPE_NAME) for case, message, *_ in golden} == {case: known for case, *_, known in golden}


def test_messages_cross_the_graph_unchanged(golden, make_node, spin):
    node = make_node()
    heard = {}
    for case, message, *_ in golden:
        publisher = node.create_publisher(type(message), f"golden/{case}", LATCHED)
        node.create_subscription(type(message), publisher.topic, lambda data, case=case: heard.update({case: data}), LATCHED, raw=True)
        publisher.publish(message)
    assert spin([node], lambda: len(heard) == len(golden))
    assert heard == {case: data + bytes(-len(data) % 4) for case, _, data, _ in golden}


def test_messages_behave_as_those_of_ros(agrees):
    image, text = Image(), String()
    text.data = 3
    image.height = -1
    sequences = [Image(data=values).data for values in (bytes([1, 2]), [1, 2], bytearray([1, 2]))]
    joints = JointState(position=[1.0, 2.0]).position
    fresh = Image()
    agrees(
        message_defaults=[
            fresh.height,
            fresh.encoding,
            type(fresh.data).__name__,
            len(fresh.data),
            fresh.header.frame_id,
            fresh.header.stamp.sec,
        ],
        message_keyword_arguments=String(data="x").data,
        message_unknown_keyword=type(String(unheard_of=1)).__name__,
        message_wrong_type_is_refused=text.data,
        message_out_of_range_integer=image.height,
        message_uint8_sequence_types=[type(values).__name__ for values in sequences],
        message_float64_sequence_type=[type(joints).__name__, list(joints)],
        message_equality=[String(data="a") == String(data="a"), String(data="a") == String(data="b"), String() == 3],
        message_repr=repr(String(data="a")),
        message_fields_and_types=Header.get_fields_and_field_types(),
    )


def test_parameters_behave_as_those_of_ros(agrees, make_node, tmp_path):
    file = tmp_path / "parameters.yaml"
    file.write_text("/**: {ros__parameters: {a: 2, model: {backend: ort}}}\nfiled: {ros__parameters: {a: 3, list: [1.0, 2.0]}}\n")
    node, free = make_node(), make_node("free", allow_undeclared_parameters=True)
    told = make_node("told", "-p rate:=20.5 -p names:=[a,b] -p on:=true -p n:=3 -p told:s:=hi -p word:=abc -p other:elsewhere:=9")
    filed = make_node("filed", f"--params-file {file}")

    def put(name, *values):
        return [node.set_parameters([Parameter(name, value=value)])[0].successful for value in values]

    node.declare_parameters("model", [("a", 1), ("b", "x")])
    first = node.declare_parameter("double", 1.5)
    node.declare_parameter("fixed", 1)
    node.declare_parameter("free", 1, Descriptor(dynamic_typing=True))
    node.declare_parameter("ranged", 5, Descriptor(integer_range=[IntegerRange(from_value=0, to_value=10, step=1)]))
    node.declare_parameter("constant", 5, Descriptor(read_only=True))
    unit = Descriptor(floating_point_range=[FloatRange(from_value=0.0, to_value=1.0)])
    agrees(
        parameter_declare_and_get=[first.value, node.get_parameter("double").value, str(node.get_parameter("double").type_)],
        parameter_dynamic_typing=put("free", "x")[0],
        parameter_file=[filed.declare_parameter(*declared).value for declared in (("a", 1), ("model.backend", "x"), ("list", [0.0]))],
        parameter_float_range_initial_value_outside=answer(node.declare_parameter, "outside", 5.0, unit),
        parameter_get_or=free.get_parameter_or("z", Parameter("z", Parameter.Type.INTEGER, 4)).value,
        parameter_has=[node.has_parameter("fixed"), node.has_parameter("unheard_of")],
        parameter_no_default_no_override=node.declare_parameter("empty", Parameter.Type.DOUBLE).value,
        parameter_override_from_arguments=[
            told.declare_parameter(*declared).value for declared in (("rate", 1.0), ("names", ["x"]), ("on", False), ("n", 1), ("s", ""))
        ],
        parameter_override_other_node_ignored=told.declare_parameter("elsewhere", 1).value,
        parameter_override_wrong_type=answer(told.declare_parameter, "word", 1.0),
        parameter_prefix={name: parameter.value for name, parameter in node.get_parameters_by_prefix("model").items()},
        parameter_range=put("ranged", 0, 10, 11, -1),
        parameter_read_only=[*put("constant", 6), node.get_parameter("constant").value],
        parameter_set_undeclared=answer(put, "unheard_of", 1),
        parameter_twice=answer(node.declare_parameter, "fixed", 1),
        parameter_type_change_refused=[*put("fixed", "x"), node.get_parameter("fixed").value],
        parameter_undeclared=answer(node.get_parameter, "unheard_of"),
        parameter_use_sim_time_exists=node.get_parameter("use_sim_time").value,
    )


def test_a_callback_refuses_parameters_as_in_ros(agrees, make_node):
    node = make_node()
    node.declare_parameter("a", 1)
    node.add_on_set_parameters_callback(lambda parameters: Result(successful=parameters[0].value < 3, reason="too big"))
    small, big = (node.set_parameters([Parameter("a", value=value)])[0] for value in (2, 5))
    agrees(parameter_callback_can_refuse=[small.successful, big.successful, big.reason, node.get_parameter("a").value])


def test_names_and_profiles_are_those_of_ros(agrees, make_node):
    robot, remapped = make_node("probe", namespace="/robot"), make_node("probe", "-r a:=/x/y -r ~/b:=z -r __ns:=/n -r __node:=other")

    def topics(node, *names):
        return [node.create_publisher(String, name, 1).topic_name for name in names]

    def shown(profile):
        return [profile.depth, profile.reliability.name, profile.durability.name, profile.history.name]

    agrees(
        name_resolution=[robot.get_fully_qualified_name(), *topics(robot, "a", "~/b", "/c")],
        name_remap=[remapped.get_name(), remapped.get_namespace(), *topics(remapped, "a", "~/b"), remapped.resolve_topic_name("a")],
        name_invalid_topic=answer(topics, robot, "1 bad"),
        name_invalid_node=answer(make_node, "bad name"),
        qos_integer_means_keep_last=shown(robot.create_publisher(String, "t", 7).qos_profile),
        qos_profile_values=[shown(profile) for profile in (qos_profile_sensor_data, qos_profile_system_default, QoSProfile(depth=3))],
        qos_profile_without_depth=answer(QoSProfile, history=HistoryPolicy.KEEP_LAST),
        qos_equality=QoSProfile(depth=1) == QoSProfile(depth=1),
    )


def test_what_is_heard_is_what_is_heard_in_ros(agrees, make_node, spin):
    node = make_node()

    def heard(topic, offered, requested, count, late=False):
        got, done = [], []
        publisher, last = node.create_publisher(Float64, topic, offered), node.create_publisher(String, f"{topic}/end", 1)
        if late:
            publish(publisher)
        node.create_subscription(Float64, topic, lambda message: got.append(message.data), requested)
        node.create_subscription(String, f"{topic}/end", done.append, 1)
        assert spin([node], lambda: last.get_subscription_count() == 1 and publisher.get_subscription_count() == bool(count or late))
        if not late:
            publish(publisher)
        last.publish(String())
        assert spin([node], lambda: done and len(got) >= count)
        return got

    def publish(publisher):
        for number in range(3):
            publisher.publish(Float64(data=float(number)))

    agrees(
        pubsub_best_effort_publisher_reliable_subscription=heard("a", BEST_EFFORT, RELIABLE, 0),
        pubsub_reliable_publisher_best_effort_subscription=heard("b", RELIABLE, BEST_EFFORT, 3),
        pubsub_transient_local_late_joiner_gets_depth=heard("c", LATCHED, LATCHED, 2, late=True),
        pubsub_volatile_late_joiner=heard("d", RELIABLE, RELIABLE, 0, late=True),
    )


def test_refusals_of_publishers_and_destroyed_nodes_are_those_of_ros(agrees, make_node):
    node = make_node()
    publisher = node.create_publisher(String, "text", 1)
    wrong = answer(publisher.publish, Float64())
    node.destroy_node()
    agrees(pubsub_wrong_message_type=wrong, guard_destroyed_node=answer(node.create_publisher, String, "text", 1))


def test_time_is_reckoned_as_in_ros(agrees):
    start = Time(seconds=10, clock_type=ROS_TIME)
    later = start + Duration(seconds=0.5)
    span = Duration(seconds=1, nanoseconds=5)
    stamp = message_class("builtin_interfaces/msg/Time")(sec=1, nanosec=5)
    agrees(
        time_arithmetic=[
            later.nanoseconds,
            (later - start).nanoseconds,
            later > start,
            later.to_msg().nanosec,
            Time.from_msg(stamp).nanoseconds,
            later.seconds_nanoseconds(),
        ],
        time_of_different_clocks_cannot_be_compared=answer(lambda: start < Time(seconds=20, clock_type=ClockType.STEADY_TIME)),
        time_negative=answer(Time, seconds=-1),
        duration_values=[span.nanoseconds, span.to_msg().sec, span.to_msg().nanosec, Duration(seconds=-1).nanoseconds],
    )


def test_lifecycle_nodes_go_the_ways_of_ros(agrees, make_node):
    def walk(*transitions, **answers):
        node, called = make_node("walker", kind=LifecycleNode), []
        for name in ("configure", "activate", "deactivate", "cleanup", "shutdown", "error"):

            def callback(state, name=name):
                called.append(f"{name} from {state.label}")
                return answers.get(name, lambda: TransitionCallbackReturn.SUCCESS)()

            setattr(node, f"on_{name}", callback)

        def trigger(name):
            return getattr(node, f"trigger_{name}")().name

        return [[answer(trigger, name) for name in transitions], called, node._state_machine.current_state[1]]

    agrees(
        lifecycle_happy_path=walk("configure", "activate", "deactivate", "cleanup", "shutdown"),
        lifecycle_failure_stays=walk("configure", configure=lambda: TransitionCallbackReturn.FAILURE),
        lifecycle_exception_goes_to_on_error=walk("configure", "activate", activate=lambda: 1 / 0),
        lifecycle_wrong_transition=walk("activate"),
    )


def test_executors_loggers_and_contexts_answer_as_in_ros(agrees, make_node, context):
    executor, node = SingleThreadedExecutor(context=context), make_node()
    logger, other = make_node("ln", namespace="/a").get_logger(), make_node("lt").get_logger()
    logger.set_level(LoggingSeverity.WARN)
    ended = Context()
    ended.init([])
    again = answer(ended.init, [])
    ended.shutdown()
    agrees(
        executor_refuses_twice=[executor.add_node(node), executor.add_node(node)],
        logger_names_and_levels=[
            logger.name,
            logger.get_effective_level().name,
            logger.get_child("c").name,
            logger.is_enabled_for(LoggingSeverity.INFO),
        ],
        logger_throttle_and_once=[other.info("x", once=True), [other.info("y", throttle_duration_sec=100.0) for _ in range(2)]],
        ok_and_double_init=again,
        node_after_shutdown=answer(Node, "late", context=ended),
    )
    executor.shutdown()
