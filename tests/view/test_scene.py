# SPDX-License-Identifier: Apache-2.0
"""What is shown of each message, and at which moment."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from support.robot import MAPPING, STEP_NS
from support.view_messages import SIZE, T0, TYPES, camera_image, diagnostics, stamp_ns, text, trajectory, video

from longscape_ros.bags.mapping import mapping_to_dict
from longscape_ros.errors import InputError
from longscape_ros.messages import COMPRESSED_IMAGE, IMAGE, JOINT_TRAJECTORY, PREDICTED_VIDEO
from longscape_ros.view import items
from longscape_ros.view.items import Boxes, Item, Number, Picture, Text
from longscape_ros.view.scene import FILMSTRIP_COLUMNS, Scene, SceneConfig
from longscape_ros.view.topics import DIAGNOSTIC_ARRAY, FLOAT32, STRING, Channel, Part

CAMERA = Channel(Part.CAMERA, "/camera/image/compressed", COMPRESSED_IMAGE)
RAW = Channel(Part.CAMERA, "/camera/image", IMAGE)
PREDICTION = Channel(Part.PREDICTION, "/predictor/prediction", PREDICTED_VIDEO)
COMMANDS = Channel(Part.COMMANDS, "/arm/joint_trajectory", JOINT_TRAJECTORY)
SURPRISE = Channel(Part.SURPRISE, "/predictor/surprise", FLOAT32)
ERROR_IMAGE = Channel(Part.SURPRISE, "/predictor/surprise/image", IMAGE, name="image")
CHUNK = Channel(Part.CHUNK, "/predictor/debug/chunk", STRING)
DIAGNOSTICS = Channel(Part.DIAGNOSTICS, "/diagnostics", DIAGNOSTIC_ARRAY)
MODEL = Channel(Part.MODEL, "/predictor/model_info", STRING)
DELAY_NS = 5_000_000


class Play:
    """A scene that is told of images and predictions by their numbers."""

    def __init__(self, **config: Any) -> None:
        self.scene = Scene(SceneConfig(**config))
        self.shown: list[Item] = []

    def take(self, channel: Channel, message: Any, step: int, late: int = 0) -> None:
        self.shown += self.scene.take(channel, message, stamp_ns(step + late) + DELAY_NS)

    def images(self, first: int, last: int) -> None:
        for step in range(first, last + 1):
            self.take(CAMERA, camera_image(step), step)

    def at(self, entity: str) -> list[tuple[int, Any]]:
        """Steps that are shown, and what."""
        return [(round((item.shown_ns - T0) / STEP_NS), item.content) for item in self.shown if item.entity == entity]

    def greys(self, entity: str) -> dict[int, int]:
        """Step -> the picture's grey."""
        return {step: int(rgb_of(content).mean().round()) for step, content in self.at(entity)}


def rgb_of(picture: Picture) -> np.ndarray[Any, Any]:
    bgr = cv2.imdecode(np.frombuffer(picture.data, np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None
    return bgr[..., ::-1]


# The camera


@pytest.mark.parametrize("format", ["png", "jpeg"])
def test_a_compressed_image_is_shown_as_the_bytes_that_came_when_it_was_seen(format):
    play = Play()
    message = camera_image(3, format=format)
    play.take(CAMERA, message, 3, late=2)
    (item,) = play.shown
    assert (item.entity, item.shown_ns, item.received_ns) == (items.CAMERA, stamp_ns(3), stamp_ns(5) + DELAY_NS)
    assert item.content == Picture(bytes(message.data), f"image/{format}")


def test_a_raw_image_is_shown_as_jpeg():
    play = Play()
    play.take(RAW, camera_image(0, value=77, format="raw"), 0)
    ((_, picture),) = play.at(items.CAMERA)
    assert picture.media_type == "image/jpeg"
    assert np.abs(rgb_of(picture).astype(int) - 77).max() <= 2


def test_a_camera_that_is_late_is_shown_when_it_was_seen():
    play = Play(image_latency_ns=2 * STEP_NS)
    play.images(5, 5)
    assert [step for step, _ in play.at(items.CAMERA)] == [3]


def test_a_camera_that_is_dated_by_its_arrival_is_shown_when_its_images_came():
    play = Play(image_stamp="receive")
    play.take(CAMERA, camera_image(90), 5)
    assert [step for step, _ in play.at(items.CAMERA)] == [5]


# Predictions


def test_each_predicted_frame_is_shown_at_the_moment_that_it_shows_and_not_before():
    play = Play()
    play.images(0, 0)
    play.take(PREDICTION, video(0), 0, late=1)
    assert play.greys(items.PREDICTED_NOW) == {}
    play.images(1, 5)
    assert play.greys(items.PREDICTED_NOW) == {1: 1, 2: 2, 3: 3, 4: 4, 5: 5}
    assert play.at(items.CONFIDENCE_NOW) == [(k, Number(float(np.float32(k) / 100))) for k in range(1, 6)]


def test_a_newer_prediction_takes_over_from_the_moment_it_comes():
    play = Play()
    play.images(0, 0)
    play.take(PREDICTION, video(0), 0)
    play.images(1, 4)
    play.take(PREDICTION, video(2, base=100), 2, late=2)
    play.images(5, 7)
    assert play.greys(items.PREDICTED_NOW) == {1: 1, 2: 2, 3: 3, 4: 4, 5: 103, 6: 104, 7: 105}


def test_no_moment_is_left_out_where_images_come_later_than_predictions():
    play = Play()
    play.images(0, 0)
    play.take(PREDICTION, video(0), 0)
    play.take(PREDICTION, video(6, base=100), 6)
    play.images(1, 8)
    assert play.greys(items.PREDICTED_NOW) == {**{k: k for k in range(1, 7)}, 7: 101, 8: 102}
    assert [step for step, _ in play.at(items.ERROR_NOW)] == list(range(1, 9))


def test_what_no_image_came_for_is_shown_at_the_end():
    play = Play()
    play.images(0, 0)
    play.take(PREDICTION, video(0), 0)
    play.images(1, 2)
    play.shown += play.scene.finish(stamp_ns(3))
    assert play.greys(items.PREDICTED_NOW) == {k: k for k in range(1, 25)}


def test_without_a_camera_predictions_are_shown_as_time_goes_by():
    play = Play(has_camera=False)
    play.take(PREDICTION, video(0), 0)
    play.take(SURPRISE, TYPES(FLOAT32)(data=0.5), 3)
    assert play.greys(items.PREDICTED_NOW) == {1: 1, 2: 2, 3: 3}
    assert play.at(items.SURPRISE + "/surprise") == [(3, Number(0.5))]


@pytest.mark.parametrize(("horizon", "frame"), [(0, 24), (1, 1), (16, 16), (1000, 24)])
def test_the_frame_at_the_horizon_is_shown_when_its_moment_is_with_its_confidence(horizon, frame):
    play = Play(horizon=horizon)
    play.take(PREDICTION, video(2), 2)
    assert play.greys(items.PREDICTED_AHEAD) == {2 + frame: frame}
    assert play.at(items.CONFIDENCE_AHEAD) == [(2 + frame, Number(float(np.float32(frame) / 100)))]


def test_confidence_that_is_not_known_is_not_shown():
    play = Play()
    play.images(0, 0)
    play.take(PREDICTION, video(0, confident=False), 0)
    play.images(1, 3)
    assert play.at(items.CONFIDENCE_AHEAD) == play.at(items.CONFIDENCE_NOW) == []
    assert len(play.at(items.PREDICTED_NOW)) == 3


def test_a_prediction_says_how_long_it_took_and_how_late_it_came():
    play = Play()
    play.take(PREDICTION, video(2), 2, late=1)
    assert play.at(items.COMPUTE_MS) == [(2, Number(12.5))]
    assert play.at(items.DELAY_MS) == [(2, Number(55.0))]
    ((_, status),) = play.at(items.STATUS)
    assert status.text == "OK"


def test_the_filmstrip_has_the_frames_and_says_where_the_chunks_are():
    play = Play()
    play.take(PREDICTION, video(0, lengths=(8, 16), assumed_from=18), 0)
    ((step, picture),) = play.at(items.FILMSTRIP)
    strip = rgb_of(picture)
    height, width = SIZE
    assert step == 0
    assert strip.shape[1] == FILMSTRIP_COLUMNS * width
    middles = strip[height // 2, width // 2 :: width, 0].astype(int)
    assert np.abs(middles - np.arange(3, 25, 3)).max() <= 2  # 24 frames: each third one
    assert strip[height + 2 :].max() <= 2  # room for what the viewer writes there
    ((_, boxes),) = play.at(items.FILMSTRIP_CHUNKS)
    assert isinstance(boxes, Boxes)
    pixels_per_frame = FILMSTRIP_COLUMNS * width / 24
    assert [(box.left, box.width, box.label) for box in boxes.boxes] == [
        (0.0, 8 * pixels_per_frame, "8 frames, expert 0, motion"),
        (8 * pixels_per_frame, 16 * pixels_per_frame, "16 frames, expert 1, motion"),
        (18 * pixels_per_frame, 6 * pixels_per_frame, "not commanded: assumed"),
    ]
    assert {box.height for box in boxes.boxes} == {float(height)}


def test_chunks_fit_a_filmstrip_that_is_not_full():
    play = Play()
    play.take(PREDICTION, video(0, lengths=(4,)), 0)
    ((_, boxes),) = play.at(items.FILMSTRIP_CHUNKS)
    assert [(box.left, box.width) for box in boxes.boxes] == [(0.0, 4.0 * SIZE[1])]


def test_length_and_expert_are_shown_where_they_change():
    play = Play()
    play.images(0, 0)
    play.take(PREDICTION, video(0, lengths=(8, 16)), 0)
    play.images(1, 20)
    assert [(step, state.text) for step, state in play.at(items.PREDICTED_LENGTH)] == [(1, "8"), (9, "16")]
    assert [(step, state.text) for step, state in play.at(items.PREDICTED_EXPERT)] == [(1, "0"), (9, "1")]
    colours = {state.colour for _, state in play.at(items.PREDICTED_EXPERT)}
    assert len(colours) == 2


def test_an_image_is_compared_with_what_was_predicted_for_it():
    play = Play()
    play.take(PREDICTION, video(0), 0)
    play.take(CAMERA, camera_image(4, value=55), 4)  # frame 4 is of grey 4
    play.take(CAMERA, camera_image(30, value=55), 30)  # nothing was predicted for this one
    assert play.at(items.ERROR_NOW) == [(4, Number(pytest.approx(51 / 255)))]


def test_an_image_of_another_size_is_compared_as_the_model_sees_it():
    play = Play()
    play.take(PREDICTION, video(0), 0)
    large = np.full((100, 100, 3), 54, np.uint8)
    large[:15] = 255  # cut away: the model's images are 3 : 2
    message = camera_image(4)
    message.data = cv2.imencode(".png", large)[1].reshape(-1)
    play.take(CAMERA, message, 4)
    assert play.at(items.ERROR_NOW) == [(4, Number(pytest.approx(50 / 255)))]


def test_a_camera_whose_time_goes_back_begins_anew(caplog):
    play = Play()
    play.images(100, 100)
    play.take(PREDICTION, video(100, base=100), 100)
    play.images(101, 102)
    play.images(0, 0)
    play.take(PREDICTION, video(0), 0)
    play.images(1, 2)
    assert play.greys(items.PREDICTED_NOW) == {101: 101, 102: 102, 1: 1, 2: 2}
    assert "time went back by 5.1 s" in caplog.text


# Commands and what the node says


def test_commands_are_shown_when_the_cameras_moment_has_come():
    play = Play()
    play.take(COMMANDS, trajectory(0, [[k, -k, 0.0] for k in range(1, 9)]), 0)
    assert play.shown == []
    play.images(3, 3)
    play.take(COMMANDS, trajectory(4, [[50.0, 50.0, 1.0]] * 3), 4)
    play.images(5, 6)
    assert play.at(f"{items.COMMANDS}/x") == [(k, Number(float(v))) for k, v in ((1, 1), (2, 2), (3, 3), (4, 4), (5, 50), (6, 50))]
    assert [number.value for _, number in play.at(f"{items.COMMANDS}/gripper")] == [0, 0, 0, 0, 1, 1]


def test_a_surprise_is_about_the_newest_image_and_nan_passes():
    play = Play()
    play.images(0, 7)
    for value in (0.25, math.nan):
        play.take(SURPRISE, TYPES(FLOAT32)(data=value), 7, late=1)
    (first, second) = play.at(f"{items.SURPRISE}/surprise")
    assert first == (7, Number(0.25))
    assert math.isnan(second[1].value)


SURPRISE_DEFINITION = """
std_msgs/Header header
uint8 state
float32 error
float32 threshold
"""


def test_a_surprise_with_a_state_is_shown_at_its_stamp_with_its_threshold():
    play = Play()
    kind = "longscape_msgs/msg/Surprise"
    store = get_typestore(Stores.ROS2_JAZZY)
    store.register({name: fields for name, fields in get_types_from_msg(SURPRISE_DEFINITION, kind).items() if name == kind})
    for step, state, error in ((3, 0, 0.5), (4, 1, 3.0), (5, 1, 4.0), (6, 2, math.nan)):
        message = store.types[kind](header=camera_image(step).header, state=state, error=error, threshold=2.0)
        play.take(Channel(Part.SURPRISE, "/predictor/surprise", kind), message, step, late=1)
    curve = play.at(f"{items.SURPRISE}/surprise")
    assert [(step, number.value) for step, number in curve[:3]] == [(3, 0.5), (4, 3.0), (5, 4.0)]
    assert math.isnan(curve[3][1].value)
    assert {number.value for _, number in play.at(f"{items.SURPRISE}/surprise_threshold")} == {2.0}
    states = [(step, state.text) for step, state in play.at(items.SURPRISED)]
    assert states == [(3, "as expected"), (4, "surprised"), (6, "not comparable")]


def test_an_error_image_is_shown_beside_the_surprise_when_its_scene_was_seen():
    play = Play(image_latency_ns=2 * STEP_NS)
    play.take(ERROR_IMAGE, camera_image(2, value=9, format="raw"), 2)
    assert play.greys(f"{items.SURPRISE}/image") == {2: 9}


def test_an_executed_chunk_is_shown_from_its_begin_on():
    play = Play()
    play.take(CHUNK, text({"begin_ns": stamp_ns(4), "end_ns": stamp_ns(20), "length": 16, "reason": "END_OF_PLAN"}), 20)
    ((step, state),) = play.at(items.EXECUTED_CHUNK)
    assert (step, state.text) == (4, "16 end of plan")


def test_diagnostics_are_a_page_and_a_state_where_they_change():
    play = Play()
    play.take(DIAGNOSTICS, diagnostics(0, camera=0, model=3), 0)
    play.take(DIAGNOSTICS, diagnostics(20, camera=0, model=3), 20)
    play.take(DIAGNOSTICS, diagnostics(40, camera=1, model=0), 40)
    assert [(step, state.text) for step, state in play.at("diagnostics/predictor/camera")] == [(0, "OK"), (40, "WARN")]
    assert [(step, state.text) for step, state in play.at("diagnostics/predictor/model")] == [(0, "STALE"), (40, "OK")]
    pages = [page for _, page in play.at(items.REPORT)]
    assert len(pages) == 3
    assert isinstance(pages[0], Text)
    assert "### predictor: camera: WARN\n\ncamera is at 1\n" in pages[2].markdown
    assert "| a\\|b | 3 |" in pages[2].markdown


def test_robots_whose_nodes_have_one_name_are_told_apart_by_their_namespaces():
    play, one = Play(), Play(namespace="/robot_1")
    for scene in (play, one):
        for step, node, level in ((0, "/robot_1/predictor", 1), (1, "/robot_2/predictor", 2), (2, "driver", 0)):
            scene.take(DIAGNOSTICS, diagnostics(step, node, camera=level), step)
    entities = {"robot_1/predictor": "WARN", "robot_2/predictor": "ERROR", "driver": "OK"}
    for node, level_name in entities.items():
        assert [state.text for _, state in play.at(f"diagnostics/{node}/camera")] == [level_name]
    assert [bool(one.at(f"diagnostics/{node}/camera")) for node in entities] == [True, False, True]
    assert "robot_2" not in one.at(items.REPORT)[-1][1].markdown


def test_a_status_that_names_no_part_is_shown_as_it_is_named():
    play = Play()
    message = diagnostics(0, camera=1)
    message.status[0].name = "battery"
    play.take(DIAGNOSTICS, message, 0)
    assert [state.text for _, state in play.at("diagnostics/battery")] == ["WARN"]


def test_levels_are_understood_as_rclpy_has_them_too():
    play = Play()
    message = diagnostics(0, camera=2)
    message.status[0].level = b"\x02"
    play.take(DIAGNOSTICS, message, 0)
    assert [state.text for _, state in play.at("diagnostics/predictor/camera")] == ["ERROR"]


def test_the_model_says_what_it_is_and_how_late_its_camera_is():
    play = Play()
    mapping = replace(MAPPING, image_latency_ns=STEP_NS)
    play.take(MODEL, text({"model_id": "tiny@2", "backend": "ort_cpu", "cause": "", "mapping": mapping_to_dict(mapping)}), 0)
    ((_, page),) = play.at(items.MODEL)
    assert "| model_id | tiny@2 |\n| backend | ort_cpu |\n" in page.markdown
    assert "cause" not in page.markdown
    assert play.scene.model_id == "tiny@2"
    assert play.scene.mapping is not None
    assert play.scene.mapping.action_sources == mapping.action_sources
    play.images(5, 5)
    assert [step for step, _ in play.at(items.CAMERA)] == [4]


# Bad input


def broken_video() -> Any:
    message = video(0)
    message.chunk_lengths = np.array([3], np.uint32)
    return message


def unknown_status() -> Any:
    message = video(0)
    message.status = 77
    return message


def broken_image() -> Any:
    message = camera_image(0)
    message.data = np.frombuffer(b"\x89PNG and nothing more", np.uint8)
    return message


@pytest.mark.parametrize(
    ("channel", "message"),
    [
        (CAMERA, broken_image()),
        (PREDICTION, broken_video()),
        (PREDICTION, unknown_status()),
        (COMMANDS, trajectory(0, [])),
        (COMMANDS, trajectory(0, [[math.nan, 0.0, 0.0]])),
        (CHUNK, text("no JSON")),
        (CHUNK, text({"begin_ns": 1, "length": 8, "reason": "WHIM"})),
        (MODEL, text([1, 2])),
        (MODEL, text({"model_id": "tiny"})),
    ],
)
def test_a_message_that_cannot_be_used_is_counted_said_once_and_survived(channel, message, caplog):
    play = Play()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            play.take(channel, message, 0)
    assert play.shown == []
    assert play.scene.counts["invalid"] == 3
    assert play.scene.counts[channel.part.value] == 0
    assert caplog.text.count(f"A message on {channel.topic} is not shown") == 1
    play.images(1, 1)
    assert len(play.at(items.CAMERA)) == 1


def test_a_video_without_confidence_is_shown():
    play = Play()
    message = video(0)
    message.confidence = np.empty(0, np.float32)
    play.take(PREDICTION, message, 0)
    assert play.at(items.CONFIDENCE_AHEAD) == []
    assert play.greys(items.PREDICTED_AHEAD) == {24: 24}


def test_a_horizon_in_the_past_is_refused():
    with pytest.raises(InputError, match="Got the horizon -1"):
        SceneConfig(horizon=-1)
