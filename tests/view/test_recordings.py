# SPDX-License-Identifier: Apache-2.0
"""``longscape view BAG --save FILE.rrd``: the file is read back with Rerun's reader and compared with the recording."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from support.robot import IMAGE_TOPIC, NAMES, STEP_NS, TRAJECTORY_TOPIC, sway
from support.rrd import Row, Rrd
from support.view_messages import DELAY_NS, IMAGES, T0, TYPES, camera_image, diagnostics, stamp_ns, text, trajectory, video

from longscape_ros.bags.mapping import mapping_to_dict
from longscape_ros.bags.reader import raw_messages
from longscape_ros.bags.writer import BagWriter, bag_store
from longscape_ros.cli import FAULT, main
from longscape_ros.contract import ActionDimension, ActionSource, TopicMapping
from longscape_ros.messages import COMPRESSED_IMAGE, JOINT_TRAJECTORY, PREDICTED_VIDEO, nanoseconds
from longscape_ros.offline import PREDICTION_TOPIC
from longscape_ros.view.topics import DIAGNOSTIC_ARRAY, FLOAT32, STRING

HORIZON = 4


def messages(bag: Path, topic: str) -> list[tuple[int, Any]]:
    """Receive times and messages of a topic."""
    return [(raw.received_ns, bag_store().deserialize_cdr(raw.data, raw.type)) for raw in raw_messages(bag, {topic})]


def view(bag: Path, output: Path, *options: str) -> tuple[Rrd, dict[str, Any]]:
    """What the command leaves, and its figures."""
    figures = output.with_suffix(".json")
    assert main(["view", str(bag), "--save", str(output), "--json", str(figures), *options]) == 0
    return Rrd(output), json.loads(figures.read_text(encoding="utf-8"))


def blob(row: Row) -> bytes:
    return bytes(row.only("EncodedImage:blob"))


def curve(rrd: Rrd, entity: str) -> dict[int, float]:
    """Moment -> value."""
    return {row.shown_ns or 0: row.only("Scalars:scalars") for row in rrd.rows[entity]}


@pytest.fixture(scope="module")
def shown(predicted: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Rrd, dict[str, Any]]:
    return view(predicted, tmp_path_factory.mktemp("view") / "run.rrd", "--horizon", str(HORIZON))


def test_every_camera_image_is_there_as_recorded_at_the_moment_it_was_seen(shown, predicted):
    rrd, figures = shown
    recorded = messages(predicted, f"{IMAGE_TOPIC}/compressed")
    assert len(recorded) == figures["images"] == IMAGES
    assert [(row.shown_ns, row.received_ns, blob(row)) for row in rrd.rows["/camera"]] == [
        (nanoseconds(message.header.stamp), received_ns, bytes(message.data)) for received_ns, message in recorded
    ]
    assert {row.only("EncodedImage:media_type") for row in rrd.rows["/camera"]} == {"image/png"}
    assert rrd.timelines == {"shown", "received"}


def test_the_frame_at_the_horizon_is_there_when_it_was_predicted_for(shown, predicted):
    rrd, figures = shown
    recorded = messages(predicted, PREDICTION_TOPIC)
    assert len(recorded) == figures["predictions"] == 6
    assert figures["predicted_frames"] == sum(len(message.frames) for _, message in recorded)
    expected = [(message.frames[HORIZON - 1], received_ns) for received_ns, message in recorded]
    assert [(row.shown_ns, row.received_ns, blob(row)) for row in rrd.rows["/prediction/ahead"]] == [
        (nanoseconds(frame.header.stamp), received_ns, bytes(frame.data)) for frame, received_ns in expected
    ]
    first = recorded[0][1]
    assert rrd.rows["/prediction/ahead"][0].shown_ns == nanoseconds(first.header.stamp) + HORIZON * STEP_NS


def test_each_moment_shows_the_newest_prediction_made_before_it(shown, predicted):
    rrd, figures = shown
    rows = rrd.rows["/prediction/now"]
    newest: dict[int, bytes] = {}
    for _, message in messages(predicted, PREDICTION_TOPIC):
        newest |= {nanoseconds(frame.header.stamp): bytes(frame.data) for frame in message.frames}
    assert [(row.shown_ns, blob(row)) for row in rows] == sorted(newest.items())
    assert len(rows) == figures["played_frames"]
    moments = [round(((row.shown_ns or 0) - T0) / STEP_NS) for row in rows]
    assert moments == list(range(moments[0], moments[-1] + 1))
    assert moments[-1] > IMAGES


def test_commands_are_there_as_they_took_effect(shown):
    rrd, figures = shown
    steps = range(3, IMAGES)  # the first plan begins at 2; the last image is of step 59
    expected = sway(2, len(steps))
    for column, name in enumerate(NAMES):
        assert curve(rrd, f"/commands/{name}") == pytest.approx(
            {stamp_ns(step): value for step, value in zip(steps, expected[:, column].tolist(), strict=True)}
        )
    assert figures["commands"] == 4
    assert figures["commanded_values"] == len(steps) * len(NAMES)


def test_confidence_chunks_and_times_are_those_of_the_messages(shown, predicted):
    rrd, _ = shown
    recorded = messages(predicted, PREDICTION_TOPIC)
    anchors = [nanoseconds(message.header.stamp) for _, message in recorded]
    ahead = [anchor + HORIZON * STEP_NS for anchor in anchors]
    assert curve(rrd, "/confidence/ahead") == pytest.approx(
        {moment: float(message.confidence[HORIZON - 1]) for moment, (_, message) in zip(ahead, recorded, strict=True)}
    )
    assert curve(rrd, "/inference/compute_ms") == pytest.approx(
        {anchor: nanoseconds(message.compute_time) / 1e6 for anchor, (_, message) in zip(anchors, recorded, strict=True)}
    )
    assert set(curve(rrd, "/inference/delay_ms").values()) == {DELAY_NS / 1e6}
    boxes = rrd.rows["/prediction/filmstrip/chunks"]
    assert [row.shown_ns for row in boxes] == anchors
    for row, (_, message) in zip(boxes, recorded, strict=True):
        begun = [label.split(",")[:2] for label in row.values["Boxes2D:labels"] if "frames" in label]
        pairs = zip(message.chunk_lengths, message.chunk_experts, strict=True)
        assert begun == [[f"{length} frames", f" expert {expert}"] for length, expert in pairs]
    lengths = rrd.rows["/states/predicted_length"]
    assert lengths[0].only("StateChange:state") == str(recorded[0][1].chunk_lengths[0])
    states = {row.only("StateChange:state") for row in lengths}
    assert set(rrd.static["/states/predicted_length"]["StateConfiguration:values"]) == states


def test_the_error_is_that_of_the_prediction_shown(shown):
    rrd, _ = shown
    errors = curve(rrd, "/error/now")
    moments = [row.shown_ns for row in rrd.rows["/prediction/now"]]
    assert set(errors) <= set(moments)
    assert len(errors) >= 50
    assert all(0 < value < 1 for value in errors.values())


def test_the_window_is_laid_out_with_a_pane_for_everything_that_there_is(shown):
    rrd, _ = shown
    assert rrd.views == {
        "camera": ("2D", "camera"),
        "newest prediction": ("2D", "prediction/now"),
        f"predicted {HORIZON} frames before": ("2D", "prediction/ahead"),
        "filmstrip: the future, chunk by chunk": ("2D", "prediction/filmstrip"),
        "chunks and status": ("StateTimeline", "states"),
        "commands": ("TimeSeries", "commands"),
        "error": ("TimeSeries", "error"),
        "confidence": ("TimeSeries", "confidence"),
        "inference, ms": ("TimeSeries", "inference"),
    }
    origins = {origin for _, origin in rrd.views.values()}
    assert {entity for entity in rrd.rows if not any(entity.startswith(f"/{origin}") for origin in origins)} == set()


def test_the_figures_say_what_was_shown_and_where_from(shown, predicted):
    rrd, figures = shown
    assert figures["items"] == sum(map(len, rrd.rows.values()))
    assert {name: value for name, value in figures.items() if name.startswith("meta.") and name != "meta.version"} == {
        "meta.command": "view",
        "meta.source": str(predicted),
        "meta.output": str(rrd.path),
        "meta.camera": f"{IMAGE_TOPIC}/compressed",
        "meta.predictions": PREDICTION_TOPIC,
        "meta.commands": TRAJECTORY_TOPIC,
        "meta.model_id": figures["meta.model_id"],
    }
    assert figures["meta.model_id"].startswith("tiny@")
    assert figures["invalid_messages"] == figures["lost_messages"] == 0
    assert figures["seconds"] == pytest.approx((IMAGES - 1) * STEP_NS / 1e9, abs=1e-3)


# Recordings with more in them


def record(path: Path, *entries: tuple[int, str, str, Any]) -> Path:
    """A recording of messages with the step that they came at."""
    with BagWriter(path) as writer:
        for step, topic, kind, message in entries:
            writer.write(topic, kind, stamp_ns(step) + DELAY_NS, message)
    return path


def test_what_a_node_says_of_itself_is_shown_and_says_which_commands_are_meant(tmp_path):
    source = ActionSource("/arm", JOINT_TRAJECTORY, {"bend": "elbow"})
    mapping = TopicMapping("/elsewhere", (source,), (ActionDimension("bend"),), fps=20.0)
    chunk = {"begin_ns": stamp_ns(2), "end_ns": stamp_ns(10), "length": 8, "reason": "GRIPPER"}
    bag = record(
        tmp_path / "run.mcap",
        (0, "/camera/compressed", COMPRESSED_IMAGE, camera_image(0)),
        (0, "/arm", JOINT_TRAJECTORY, trajectory(0, [[1.0, 2.0], [3.0, 4.0]], names=("shoulder", "elbow"))),
        (0, "/other_arm", JOINT_TRAJECTORY, trajectory(0, [[9.0]], names=("wrist",))),
        (1, "/robot/watcher/prediction", PREDICTED_VIDEO, video(0)),
        (5, "/camera/compressed", COMPRESSED_IMAGE, camera_image(5)),
        (5, "/robot/watcher/surprise", FLOAT32, TYPES(FLOAT32)(data=0.5)),
        (6, "/robot/watcher/debug/chunk", STRING, text(chunk)),
        (7, "/diagnostics", DIAGNOSTIC_ARRAY, diagnostics(7, camera=1)),
        (8, "/robot/watcher/model_info", STRING, text({"model_id": "mine@1", "mapping": mapping_to_dict(mapping)})),
    )
    rrd, figures = view(bag, tmp_path / "run.rrd")
    assert {entity for entity in rrd.rows if entity.startswith("/commands")} == {"/commands/bend"}
    assert curve(rrd, "/commands/bend") == {stamp_ns(1): 2.0, stamp_ns(2): 4.0}
    assert curve(rrd, "/surprise/surprise") == {stamp_ns(5): 0.5}
    assert [(row.shown_ns, row.only("StateChange:state")) for row in rrd.rows["/states/executed_chunk"]] == [(stamp_ns(2), "8 gripper")]
    assert [row.only("StateChange:state") for row in rrd.rows["/diagnostics/predictor/camera"]] == ["WARN"]
    assert "predictor: camera: WARN" in rrd.rows["/texts/diagnostics"][0].only("TextDocument:text")
    assert "mine@1" in rrd.rows["/texts/model"][0].only("TextDocument:text")
    assert {"surprise", "error", "diagnostics", "model", "error images"} <= set(rrd.views)
    assert figures["meta.model_id"] == "mine@1"
    assert (figures["surprises"], figures["chunks"], figures["diagnostics"]) == (1, 1, 1)


def test_names_of_joints_are_taken_as_they_are(tmp_path):
    bag = record(
        tmp_path / "run.mcap",
        (0, "/arm", JOINT_TRAJECTORY, trajectory(0, [[1.0, 2.0]], names=("left arm[0]", "arm:wrist"))),
        (1, "/camera/compressed", COMPRESSED_IMAGE, camera_image(1)),
    )
    rrd, _ = view(bag, tmp_path / "run.rrd")
    assert {entity for entity in rrd.rows if entity.startswith("/commands")} == {
        r"/commands/left\ arm\[0\]",
        r"/commands/arm\:wrist",
    }


def test_a_damaged_message_is_left_out_counted_and_said(tmp_path, caplog):
    with BagWriter(tmp_path / "run.mcap") as writer:
        writer.write("/camera/compressed", COMPRESSED_IMAGE, stamp_ns(0), camera_image(0))
        writer.write_raw("/camera/compressed", COMPRESSED_IMAGE, stamp_ns(1), b"\x00\x01\x00\x00\x07")
        writer.write("/camera/compressed", COMPRESSED_IMAGE, stamp_ns(2), camera_image(2))
    rrd, figures = view(tmp_path / "run.mcap", tmp_path / "run.rrd")
    assert [row.shown_ns for row in rrd.rows["/camera"]] == [stamp_ns(0), stamp_ns(2)]
    assert (figures["images"], figures["invalid_messages"]) == (2, 1)
    assert "Got a damaged message of sensor_msgs/msg/CompressedImage" in caplog.text


def test_commands_of_a_type_that_only_the_recording_knows_are_read(tmp_path):
    definition = "float64 angle\n"
    with BagWriter(tmp_path / "run.mcap") as writer:
        writer.write("/camera/compressed", COMPRESSED_IMAGE, stamp_ns(0), camera_image(0))
        data = b"\x00\x01\x00\x00" + struct.pack("<d", 0.5)
        writer.write_raw("/joint", "my_msgs/msg/Angle", stamp_ns(0), data, definition, "RIHS01_" + "0" * 64)
        writer.write("/camera/compressed", COMPRESSED_IMAGE, stamp_ns(1), camera_image(1))
    (tmp_path / "mapping.yaml").write_text(
        "image_topic: /camera\nfps: 20.0\naction_sources:\n- {topic: /joint, type: my_msgs/msg/Angle, fields: {bend: angle}}\n"
        "dimensions:\n- {name: bend, kind: position}\n"
    )
    rrd, _ = view(tmp_path / "run.mcap", tmp_path / "run.rrd", "--mapping", str(tmp_path / "mapping.yaml"))
    assert curve(rrd, "/commands/bend") == {stamp_ns(0): 0.5}


# Faults


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The line that the command ends with."""
    assert main(["view", *map(str, arguments)]) == FAULT
    return capsys.readouterr().err.splitlines()[-1]


def test_a_recording_with_nothing_to_show_is_refused_and_leaves_nothing(tmp_path, capsys):
    bag = record(tmp_path / "run.mcap", (0, "/word", STRING, text("go")))
    assert "expected a camera or predictions among them" in refused(capsys, bag, "--save", tmp_path / "run.rrd")
    assert "expected a rosbag2 folder" in refused(capsys, tmp_path / "nowhere", "--save", tmp_path / "run.rrd")
    assert [path.name for path in tmp_path.iterdir()] == ["run.mcap"]


def test_several_recordings_are_too_many(tmp_path, capsys):
    for name in ("a", "b"):
        record(tmp_path / f"{name}.mcap", (0, "/camera/compressed", COMPRESSED_IMAGE, camera_image(0)))
    assert "with 2 recordings (a.mcap, b.mcap ...), expected one" in refused(capsys, tmp_path, "--save", tmp_path / "run.rrd")


def test_a_recording_that_is_cut_off_leaves_what_was_there_before(predicted, tmp_path, capsys):
    whole = predicted.read_bytes()
    (tmp_path / "run.mcap").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "run.rrd").write_bytes(b"older")
    assert "run.mcap: found a" in refused(capsys, tmp_path / "run.mcap", "--save", tmp_path / "run.rrd")
    assert (tmp_path / "run.rrd").read_bytes() == b"older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.mcap", "run.rrd"]


def test_an_older_file_is_replaced(tmp_path):
    bag = record(tmp_path / "run.mcap", (0, "/camera/compressed", COMPRESSED_IMAGE, camera_image(0)))
    (tmp_path / "run.rrd").write_bytes(b"older")
    rrd, _ = view(bag, tmp_path / "run.rrd")
    assert len(rrd.rows["/camera"]) == 1
