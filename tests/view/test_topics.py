# SPDX-License-Identifier: Apache-2.0
"""Which topics are shown as what."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.robot import MAPPING, TRAJECTORY_TOPIC

from longscape_ros.contract import ActionDimension, ActionSource
from longscape_ros.errors import InputError
from longscape_ros.messages import COMPRESSED_IMAGE, IMAGE, JOINT_TRAJECTORY, PREDICTED_VIDEO
from longscape_ros.view.topics import (
    DIAGNOSTIC_ARRAY,
    FLOAT32,
    STRING,
    TWIST_STAMPED,
    Part,
    Wanted,
    cameras,
    choose,
    doubts,
    predictors,
)

GRAPH = {
    "/camera/image_raw": IMAGE,
    "/camera/camera_info": "sensor_msgs/msg/CameraInfo",
    TRAJECTORY_TOPIC: JOINT_TRAJECTORY,
    "/joint_states": "sensor_msgs/msg/JointState",
    "/predictor/prediction": PREDICTED_VIDEO,
    "/predictor/prediction/filmstrip": IMAGE,
    "/predictor/prediction/playback/compressed": COMPRESSED_IMAGE,
    "/predictor/surprise": FLOAT32,
    "/predictor/surprise/image": IMAGE,
    "/predictor/debug/chunk": STRING,
    "/predictor/model_info": STRING,
    "/diagnostics": DIAGNOSTIC_ARRAY,
    "/rosout": "rcl_interfaces/msg/Log",
}


def parts(published: dict[str, str], wanted: Wanted, **more: object) -> dict[str, Part]:
    return {topic: channel.part for topic, channel in choose(published, wanted, **more).items()}  # type: ignore[arg-type]


def test_everything_that_a_predictor_says_and_hears_is_found_without_a_word():
    assert parts(GRAPH, Wanted()) == {
        "/camera/image_raw": Part.CAMERA,
        TRAJECTORY_TOPIC: Part.COMMANDS,
        "/predictor/prediction": Part.PREDICTION,
        "/predictor/surprise": Part.SURPRISE,
        "/predictor/surprise/image": Part.SURPRISE,
        "/predictor/debug/chunk": Part.CHUNK,
        "/predictor/model_info": Part.MODEL,
        "/diagnostics": Part.DIAGNOSTICS,
    }
    assert choose(GRAPH, Wanted())["/predictor/surprise/image"].name == "image"
    assert doubts(GRAPH, Wanted()) == []


def test_a_camera_that_also_comes_compressed_is_taken_so():
    assert cameras({**GRAPH, "/camera/image_raw/compressed": COMPRESSED_IMAGE}, Wanted()) == ["/camera/image_raw/compressed"]


def test_of_several_cameras_one_is_shown_and_the_doubt_is_said():
    graph = {**GRAPH, "/a_depth/image": IMAGE, "/wrist/image": IMAGE}
    assert cameras(graph, Wanted()) == ["/camera/image_raw", "/wrist/image", "/a_depth/image"]
    assert doubts(graph, Wanted()) == [
        "Found the cameras /camera/image_raw, /wrist/image, /a_depth/image; /camera/image_raw is shown, --image takes another."
    ]
    assert cameras(graph, Wanted(image="/wrist/image")) == ["/wrist/image"]
    assert doubts(graph, Wanted(image="/wrist/image")) == []


def test_a_camera_that_is_named_is_found_compressed_too_and_no_other_is_taken_for_it():
    graph = {**GRAPH, "/wrist/image/compressed": COMPRESSED_IMAGE}
    assert cameras(graph, Wanted(image="/wrist/image")) == ["/wrist/image/compressed"]
    assert cameras(graph, Wanted(image="/head/image")) == []
    assert cameras(graph, Wanted(mapping=replace(MAPPING, image_topic="/camera/image_raw/compressed"))) == ["/camera/image_raw"]


def test_the_namespace_chooses_among_robots():
    second = {f"/robot_2{topic}": kind for topic, kind in GRAPH.items() if not topic.startswith(("/diagnostics", "/rosout"))}
    both = {**GRAPH, **second}
    assert predictors(both, Wanted()) == ["/predictor", "/robot_2/predictor"]
    assert "--namespace takes another" in " ".join(doubts(both, Wanted()))
    found = parts(both, Wanted(namespace="/robot_2"))
    assert found == {topic if topic == "/diagnostics" else f"/robot_2{topic}": part for topic, part in parts(GRAPH, Wanted()).items()}
    assert predictors(both, Wanted(predictor="/robot_2/predictor")) == ["/robot_2/predictor"]


def test_a_camera_outside_the_namespace_will_do_if_there_is_none_inside():
    graph = {"/robot_2/predictor/prediction": PREDICTED_VIDEO, "/camera/image_raw": IMAGE}
    assert parts(graph, Wanted(namespace="/robot_2")) == {
        "/robot_2/predictor/prediction": Part.PREDICTION,
        "/camera/image_raw": Part.CAMERA,
    }


def test_a_mapping_says_which_commands_and_the_predictors_own_leaves_the_camera_alone():
    graph = {**GRAPH, "/servo/delta_twist_cmds": TWIST_STAMPED}
    assert {t for t, part in parts(graph, Wanted()).items() if part is Part.COMMANDS} == {TRAJECTORY_TOPIC, "/servo/delta_twist_cmds"}
    source = ActionSource("/servo/delta_twist_cmds", TWIST_STAMPED, {"vx": "twist.linear.x"})
    other = replace(MAPPING, image_topic="/elsewhere", action_sources=(source,), dimensions=(ActionDimension("vx", kind="velocity"),))
    told = choose(graph, Wanted(), other)
    assert [(c.topic, c.source) for c in told.values() if c.part is Part.COMMANDS] == [("/servo/delta_twist_cmds", source)]
    assert told["/camera/image_raw"].part is Part.CAMERA
    wanted = choose(graph, Wanted(mapping=MAPPING), other)
    assert [c.topic for c in wanted.values() if c.part is Part.COMMANDS] == [TRAJECTORY_TOPIC]


def test_a_topic_of_another_type_than_its_name_promises_is_left_alone():
    graph = {**GRAPH, "/predictor/model_info": FLOAT32, "/diagnostics": STRING, "/predictor/surprise": STRING}
    assert not {"/predictor/model_info", "/diagnostics", "/predictor/surprise"} & set(choose(graph, Wanted()))


@pytest.mark.parametrize("changes", [{"namespace": "robot"}, {"namespace": "/robot/"}, {"image": "camera"}])
def test_names_that_are_no_full_names_are_refused(changes):
    with pytest.raises(InputError, match="expected one that begins with /"):
        Wanted(**changes)
