# SPDX-License-Identifier: Apache-2.0
"""Reading a demo's recording back."""

from __future__ import annotations

import numpy as np
import pytest
from rosbags.highlevel import AnyReader

from longscape_ros.contract import EndReason
from longscape_ros.demo.recording import Executed, Recording, read_recording
from longscape_ros.errors import BagError, InputError

START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 50_000_000


def test_a_recording_has_all_that_was_on_the_topics(recording, written):
    assert (len(recording.frames), len(recording.plans), len(recording.predictions)) == (99, 2, 5)
    assert np.array_equal(recording.frames[3].rgb, written.frames[3])
    assert recording.executed == (Executed(START_NS + 10 * PERIOD_NS, START_NS + 26 * PERIOD_NS, 16, EndReason.MOTION),)
    assert recording.diagnostics["inference.requests_dropped"] == "7"
    assert recording.diagnostics["inference"] == "predicting"


def test_what_was_thought_of_the_images_and_what_disturbed_the_robot_is_read_too(recording, written):
    assert [(c.stamp_ns, c.state) for c in recording.compared] == [(START_NS + k * PERIOD_NS, state) for k, state, _ in written.compared]
    assert recording.compared[1].error == 3.0
    assert recording.compared[1].place == (3, 5)
    assert recording.disturbed is not None
    assert (recording.disturbed.name, recording.disturbed.begin_ns) == ("bump 1", START_NS + 60 * PERIOD_NS)


def test_a_lost_image_is_missed_and_not_replaced(recording):
    assert recording.missing_frames == 1
    assert recording.span_s == pytest.approx(5.0)
    assert recording.frame_at(START_NS + 80 * PERIOD_NS) is None
    assert recording.frame_at(START_NS + 79 * PERIOD_NS + PERIOD_NS // 3) is recording.frames[79]


def test_there_is_no_image_outside_of_a_recording(recording):
    assert recording.frame_at(START_NS - PERIOD_NS) is None
    assert recording.frame_at(START_NS + 100 * PERIOD_NS) is None
    assert Recording((), (), ()).frame_at(START_NS) is None


def test_a_later_plan_replaces_the_earlier_one_from_its_start_on(recording):
    commands = recording.commands()
    assert commands.names == ("hand_x", "hand_y", "hand_z", "gripper")
    assert len(commands.times_ns) == 16 + 96
    assert (np.diff(commands.times_ns) > 0).all()
    assert np.array_equal(commands.values[16:], recording.plans[1].values)


def test_a_prediction_knows_which_of_its_frames_shows_a_moment(recording):
    published = recording.predictions[0]
    anchor_ns = published.prediction.anchor_ns
    assert published.index(anchor_ns) is None
    assert published.index(anchor_ns + PERIOD_NS) == 0
    assert published.index(anchor_ns + 32 * PERIOD_NS) == 31
    assert published.index(anchor_ns + 33 * PERIOD_NS) is None
    assert [published.chunk(index) for index in (0, 7, 8, 31)] == [0, 0, 1, 1]


def test_a_recording_opens_without_this_package(written):
    with AnyReader([written.path]) as reader:
        kinds = {connection.topic: connection.msgtype for connection in reader.connections}
        assert kinds["/predictor/prediction"] == "longscape_msgs/msg/PredictedVideo"
        assert all(connection.msgdef.data for connection in reader.connections)


def test_what_is_no_recording_is_refused_by_name(tmp_path):
    path = tmp_path / "demo.mcap"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(BagError, match=r"demo\.mcap"):
        read_recording(path)


@pytest.mark.parametrize("text", ["", "[]", '{"begin_ns": 1}', '{"begin_ns": 1, "end_ns": 2, "length": 8, "reason": "WHIM"}'])
def test_a_report_of_a_chunk_that_is_none_is_refused(text):
    with pytest.raises(InputError, match="expected a chunk's report"):
        Executed.from_json(text)
