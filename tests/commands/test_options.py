# SPDX-License-Identifier: Apache-2.0
"""Options that stand for a topic mapping."""

from __future__ import annotations

from argparse import ArgumentParser

import pytest

from longscape_ros.bags.mapping import load_mapping
from longscape_ros.commands.options import add_mapping, mapping_of, parse_action, whole_numbers, words
from longscape_ros.contract import ActionDimension, ActionSource, TopicMapping
from longscape_ros.errors import InputError

FRANKA = "--image-topic /camera/exterior_1/image_raw/compressed --fps 5 --action {arm} --action {gripper}".format(
    arm="/panda_arm_controller/joint_trajectory:trajectory_msgs/msg/JointTrajectory:"
    + ",".join(f"panda_joint{i}::rad" for i in range(1, 8)),
    gripper="/gripper/command@receive:std_msgs/msg/Float64:gripper=data:gripper",
)
WIDOWX = "--image-topic /camera/over_shoulder/image_raw/compressed --fps 5.0 --action {arm} --action {gripper}".format(
    arm="/servo_node/delta_twist_cmds@receive:geometry_msgs/msg/TwistStamped:x=twist.linear.x:delta,y=twist.linear.y:delta,"
    "z=twist.linear.z:delta,roll=twist.angular.x:delta,pitch=twist.angular.y:delta,yaw=twist.angular.z:delta",
    gripper="/gripper/command@receive:std_msgs/msg/Float64:gripper=data:gripper:1",
)
SIMULATED = (
    "--image-topic /camera/image_raw/compressed:sensor_msgs/msg/CompressedImage --fps 20 --action "
    "/arm_controller/joint_trajectory:trajectory_msgs/msg/JointTrajectory:"
    "hand_x=hand_x:position:m,hand_y::m,hand_z:position:m,gripper:gripper"
)


def mapping(arguments: str) -> TopicMapping | None:
    parser = ArgumentParser()
    add_mapping(parser, default="none")
    return mapping_of(parser.parse_args(arguments.split()))


@pytest.mark.parametrize(("name", "options"), [("franka_droid", FRANKA), ("widowx_bridge", WIDOWX), ("simulated_arm", SIMULATED)])
def test_options_say_the_same_as_a_file(name, options):
    assert mapping(options) == mapping(f"--mapping {name}") == load_mapping(name)


def test_the_image_is_compressed_if_its_topic_says_so_or_its_type_is_given():
    action = "--fps 10 --action /g:std_msgs/msg/Float64:g=data"
    kinds = {
        topic: mapping(f"--image-topic {topic} {action}").image_type.rpartition("/")[2]
        for topic in ("/a", "/a/compressed", "/a:sensor_msgs/msg/CompressedImage", "/a/compressed:sensor_msgs/msg/Image")
    }
    assert list(kinds.values()) == ["Image", "CompressedImage", "CompressedImage", "Image"]
    assert {mapping(f"--image-topic {topic} {action}").image_topic for topic in kinds} == {"/a", "/a/compressed"}


def test_the_latency_is_given_in_milliseconds():
    found = mapping("--image-topic /a --fps 10 --image-latency-ms 12.5 --action /g:std_msgs/msg/Float64:g=data")
    assert found is not None
    assert found.image_latency_ns == 12_500_000


def test_images_can_be_dated_by_their_arrival():
    action = "--image-topic /a --fps 10 --action /g:std_msgs/msg/Float64:g=data"
    found = [mapping(f"{action}{option}") for option in ("", " --image-stamp receive")]
    assert [m.image_stamp for m in found if m is not None] == ["header", "receive"]


def test_without_options_there_is_no_mapping():
    assert mapping("") is None


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (f"--mapping franka_droid {FRANKA}", "Got --mapping and --image-topic, --fps, --action, expected one or the other"),
        ("--fps 10", "Got --fps, expected all of --image-topic, --fps, --action, or --mapping"),
        ("--mapping /nowhere.yaml", r"Got the topic mapping /nowhere\.yaml, expected a YAML file or one of franka_droid"),
        ("--image-topic /a --fps -1 --action /g:std_msgs/msg/Float64:g=data", "expected a positive rate"),
    ],
)
def test_what_makes_no_mapping_is_refused(arguments, text):
    with pytest.raises(InputError, match=text):
        mapping(arguments)


def test_an_action_is_a_topic_its_type_and_its_dimensions():
    source, dimensions = parse_action("/twist@receive:geometry_msgs/msg/TwistStamped:vx=twist.linear.x:velocity:m/s,open=data[2]:gripper")
    fields = {"vx": "twist.linear.x", "open": "data[2]"}
    assert source == ActionSource("/twist", "geometry_msgs/msg/TwistStamped", fields, stamp="receive")
    assert dimensions == (ActionDimension("vx", "m/s", "velocity"), ActionDimension("open", kind="state", is_gripper=True))


def test_an_action_is_named_by_its_joints_is_a_position_and_has_stamps_unless_said_otherwise():
    source, dimensions = parse_action("/arm:trajectory_msgs/msg/JointTrajectory:a,b")
    assert source == ActionSource("/arm", "trajectory_msgs/msg/JointTrajectory", {"a": "a", "b": "b"}, stamp="header")
    assert dimensions == (ActionDimension("a"), ActionDimension("b"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/arm",
        "/arm:trajectory_msgs/msg/JointTrajectory",
        "/arm:trajectory_msgs/msg/JointTrajectory:",
        "/arm:JointTrajectory:a",
        "arm:trajectory_msgs/msg/JointTrajectory:a",
        "/arm@arrival:trajectory_msgs/msg/JointTrajectory:a",
    ],
)
def test_an_action_of_another_form_is_refused_with_the_form_and_an_example(text):
    with pytest.raises(InputError, match=r"expected TOPIC\[@receive\]:TYPE:NAME.* for example /gripper/command:std_msgs"):
        parse_action(text)


@pytest.mark.parametrize("field", ["=data", "a=data:angle", "a,", "a::rad,,b"])
def test_a_dimension_of_another_form_is_refused_with_the_kinds(field):
    with pytest.raises(InputError, match="KIND one of position, velocity, delta, state, gripper"):
        parse_action(f"/arm:std_msgs/msg/Float64:{field}")


def test_lists_are_separated_by_commas():
    assert whole_numbers("1,8,16") == (1, 8, 16)
    assert words("reach, push,") == ("reach", "push")
    with pytest.raises(ValueError, match="invalid literal"):
        whole_numbers("1,,8")
