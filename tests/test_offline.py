# SPDX-License-Identifier: Apache-2.0
"""Predictions from recordings: what is known when, what is written, and what is refused."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from support.robot import IMAGE_TOPIC, MAPPING, NAMES, STEP_NS, TRAJECTORY_TOPIC, another_robot, write_robot_bundle
from support.tiny_bundle import MANIFEST, write_tiny_bundle

from longscape_ros.bags.mapping import load_mapping
from longscape_ros.bags.reader import find_bags, raw_messages, topics
from longscape_ros.bags.writer import BagWriter, bag_store, bag_types
from longscape_ros.bundle import Bundle
from longscape_ros.contract import NANOSECONDS, ActionSpace, Snapshot
from longscape_ros.errors import BagError, BundleError, InputError
from longscape_ros.messages import (
    COMPRESSED_IMAGE,
    IMAGE,
    JOINT_TRAJECTORY,
    PREDICTED_VIDEO,
    duration_message,
    filmstrip,
    frame_from_message,
    image_message,
    prediction_from_message,
    time_message,
)
from longscape_ros.offline import FILMSTRIP_TOPIC, PLAYBACK_TOPIC, PREDICTION_TOPIC, Replay, ReplayConfig, predict_bag, replay

TYPES = bag_types()
T0 = 1000 * NANOSECONDS
DELAY_NS = 5_000_000
FRAMES = 60
LEARNT, TURNED = 20, 24
"""The second plan comes after image 20, and begins at step 24."""

CAMERA_INFO_TOPIC, CAMERA_INFO = "/camera/camera_info", "sensor_msgs/msg/CameraInfo"
STRING = "std_msgs/msg/String"
K, HORIZON, LONGEST = MANIFEST.context, MANIFEST.horizon, MANIFEST.segmentation.lengths[-1]
CENTIMETRE = 0.01

Message = tuple[int, str, str, Any]
"""Receive time, topic, type and message."""


def stamp_ns(step: int) -> int:
    return T0 + step * STEP_NS


def path_of(steps: Any, turned: bool) -> np.ndarray:
    """Commanded x: a centimetre per step, and back once the second plan has begun."""
    steps = np.asarray(steps)
    return CENTIMETRE * np.where(turned & (steps > TURNED), 2 * TURNED - steps, steps)


def trajectory(start: int, steps: int, turned: bool) -> Any:
    """A plan of x for the steps after ``start``."""
    point, none = TYPES("trajectory_msgs/msg/JointTrajectoryPoint"), np.empty(0)
    header = TYPES("std_msgs/msg/Header")(stamp=time_message(stamp_ns(start), TYPES), frame_id="")
    points = [
        point(positions=np.array([x, 0.0, 0.0]), velocities=none, accelerations=none, effort=none, time_from_start=after)
        for x, after in (
            (path_of(start + k, turned), duration_message(k * STEP_NS, TYPES)) for k in (range(1, steps + 1) if steps else [0])
        )
    ]
    return TYPES(JOINT_TRAJECTORY)(header=header, joint_names=list(NAMES), points=points)


def picture(step: int) -> np.ndarray:
    return np.random.default_rng(step).integers(0, 256, (30, 45, 3), np.uint8)


def camera(frames: int = FRAMES) -> Iterator[Message]:
    """Images and their camera_info at 20 Hz."""
    roi = TYPES("sensor_msgs/msg/RegionOfInterest")(x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    for step in range(frames):
        image = image_message(picture(step), stamp_ns(step), "lens", TYPES)
        info = TYPES(CAMERA_INFO)(
            header=image.header, height=30, width=45, distortion_model="", d=np.empty(0), k=np.zeros(9), r=np.zeros(9), p=np.zeros(12),
            binning_x=0, binning_y=0, roi=roi,
        )  # fmt: skip
        yield stamp_ns(step) + DELAY_NS, IMAGE_TOPIC, IMAGE, image
        yield stamp_ns(step) + DELAY_NS, CAMERA_INFO_TOPIC, CAMERA_INFO, info


def two_plans() -> Iterator[Message]:
    """One plan before the first image, another on the way, and a word that is nobody's business."""
    yield T0 - 2 * STEP_NS, "/instruction", STRING, TYPES(STRING)(data="go")
    yield T0 - 2 * STEP_NS, TRAJECTORY_TOPIC, JOINT_TRAJECTORY, trajectory(-1, FRAMES + 1, turned=False)
    yield stamp_ns(LEARNT) + 2 * DELAY_NS, TRAJECTORY_TOPIC, JOINT_TRAJECTORY, trajectory(TURNED, FRAMES, turned=True)


def write(path: Path, *parts: Iterator[Message], storage: StoragePlugin | None = None) -> Path:
    """A recording of all the messages, by receive time; with a storage named, a rosbag2 folder of that."""
    messages = sorted((message for part in parts for message in part), key=lambda message: message[0])
    if storage is None:
        with BagWriter(path) as writer:
            for received_ns, topic, kind, message in messages:
                writer.write(topic, kind, received_ns, message)
        return path
    with Writer(path, version=9, storage_plugin=storage) as bag:
        kinds = {topic: kind for _, topic, kind, _ in messages}
        connections = {topic: bag.add_connection(topic, kind, typestore=bag_store()) for topic, kind in kinds.items()}
        for received_ns, topic, kind, message in messages:
            bag.write(connections[topic], received_ns, bag_store().serialize_cdr(message, kind))
    return path


def snapshots(bundle: Bundle, bag: Path, plan: str) -> dict[int, Snapshot]:
    """Step of the anchor -> what is known there."""
    source = Replay(bundle, bag, None, ReplayConfig(plan=plan, every_s=0.0))  # type: ignore[arg-type]
    return {round((snapshot.anchor_ns - T0) / STEP_NS): snapshot for _, snapshot in source}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_robot_bundle(tmp_path_factory.mktemp("bundles") / "robot")


@pytest.fixture(scope="module", params=[StoragePlugin.SQLITE3, StoragePlugin.MCAP, None], ids=["sqlite3", "mcap folder", "mcap file"])
def bag(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same recording in every storage."""
    folder = tmp_path_factory.mktemp("bags")
    return write(folder / ("run" if request.param else "run.mcap"), camera(), two_plans(), storage=request.param)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("bags") / "run.mcap", camera(), two_plans())


# What is known


def test_causal_knows_only_the_plans_received_by_then(bundle, bag):
    known = snapshots(bundle, bag, "causal")
    assert sorted(known) == list(range(FRAMES))
    for step, snapshot in known.items():
        end = TURNED + FRAMES if step > LEARNT else FRAMES  # where the newest known plan ends
        steps = np.arange(step, min(end, step + HORIZON + LONGEST) + 1)
        np.testing.assert_allclose(snapshot.motion[K - 1 :, 0][: len(steps)], path_of(steps, turned=step > LEARNT), atol=1e-9)
        assert snapshot.assumed_from == len(steps) - 1


def test_recorded_knows_all_plans(bundle, bag):
    known = snapshots(bundle, bag, "recorded")
    assert sorted(known) == list(range(FRAMES))
    for step, snapshot in known.items():
        steps = np.arange(step, min(TURNED + FRAMES, step + HORIZON + LONGEST) + 1)
        np.testing.assert_allclose(snapshot.motion[K - 1 :, 0], path_of(steps, turned=True), atol=1e-9)
        assert snapshot.assumed_from == snapshot.steps == len(steps) - 1


def test_of_a_stream_that_comes_late_causal_knows_the_past_and_recorded_the_future_too(bundle, tmp_path):
    late = 6
    samples = ((stamp_ns(k + late) + 1, TRAJECTORY_TOPIC, JOINT_TRAJECTORY, trajectory(k, 0, turned=False)) for k in range(2 * FRAMES))
    stream = write(tmp_path / "run.mcap", camera(), samples)
    causal, recorded = (snapshots(bundle, stream, plan) for plan in ("causal", "recorded"))
    for step in range(late, FRAMES - 5):
        np.testing.assert_allclose(causal[step].motion[K - 1 :, 0], path_of(step - late, turned=False), atol=1e-9)
        assert causal[step].assumed_from == 0
        ahead = path_of(np.arange(step, step + HORIZON + LONGEST + 1), turned=False)
        np.testing.assert_allclose(recorded[step].motion[K - 1 :, 0], ahead, atol=1e-9)
    assert min(causal) == late  # before there is no command
    assert min(recorded) == 0


def test_predictions_are_made_at_the_asked_distance_or_anchors_only(bundle, run):
    steps = lambda **arguments: [(p.anchor_ns - T0) // STEP_NS for p in replay(bundle, run, horizon=1, **arguments)]  # noqa: E731
    assert steps() == [0, 20, 40]
    assert steps(every=0.5) == [0, 10, 20, 30, 40, 50]
    assert steps(every=0.0) == list(range(FRAMES))
    assert steps(anchors_ns={stamp_ns(7), stamp_ns(9), 5}) == [7, 9]


def test_a_prediction_is_as_long_as_it_is_asked_to_be_and_recorded_commands_last(bundle, run):
    assert {len(p.frames) for p in replay(bundle, run, horizon=8)} == {8}
    causal, recorded = (list(replay(bundle, run, plan=plan, horizon=60)) for plan in ("causal", "recorded"))
    assert [(len(p.frames), p.assumed_from) for p in causal] == [(60, 60), (60, 40), (60, 44)]
    assert [(len(p.frames), p.assumed_from) for p in recorded] == [(60, 60), (60, 60), (44, 44)]


# What is written


def test_camera_and_commands_are_copied_as_they_are_and_predictions_stand_beside_them(bundle, bag, tmp_path):
    output = tmp_path / "predicted" / "run.mcap"
    predict_bag(bag, output, bundle)
    assert topics(output) == {
        IMAGE_TOPIC: IMAGE,
        CAMERA_INFO_TOPIC: CAMERA_INFO,
        TRAJECTORY_TOPIC: JOINT_TRAJECTORY,
        PREDICTION_TOPIC: PREDICTED_VIDEO,
        FILMSTRIP_TOPIC: IMAGE,
        PLAYBACK_TOPIC: COMPRESSED_IMAGE,
    }
    copied = (IMAGE_TOPIC, CAMERA_INFO_TOPIC, TRAJECTORY_TOPIC)
    bytes_of = lambda path: [(m.topic, m.received_ns, m.data) for m in raw_messages(path, copied)]  # noqa: E731
    assert bytes_of(output) == bytes_of(bag)
    received = [message.received_ns for message in raw_messages(output)]
    assert received == sorted(received)
    assert [path.name for path in output.parent.iterdir()] == ["run.mcap"]


@pytest.mark.parametrize("plan", ["causal", "recorded"])
def test_what_is_written_is_what_was_predicted(bundle, run, tmp_path, plan):
    output = tmp_path / "predicted.mcap"
    predict_bag(run, output, bundle, plan=plan)
    written: dict[str, list[tuple[int, Any]]] = {}
    for message in raw_messages(output, {PREDICTION_TOPIC, FILMSTRIP_TOPIC, PLAYBACK_TOPIC}):
        written.setdefault(message.topic, []).append((message.received_ns, bag_store().deserialize_cdr(message.data, message.type)))
    predictions = list(replay(bundle, run, plan=plan))
    assert [received for received, _ in written[PREDICTION_TOPIC]] == [p.anchor_ns + DELAY_NS for p in predictions]
    for prediction, (_, video), (_, strip) in zip(predictions, written[PREDICTION_TOPIC], written[FILMSTRIP_TOPIC], strict=True):
        found = prediction_from_message(video)
        assert (found.anchor_ns, found.seed, found.model_id) == (prediction.anchor_ns, prediction.seed, bundle.model_id)
        assert (found.experts, found.assumed_from, found.frame_id) == (prediction.experts, prediction.assumed_from, "lens")
        assert np.abs(found.frames.astype(int) - prediction.frames).mean() < 8  # JPEG
        np.testing.assert_array_equal(frame_from_message(strip, IMAGE, 0).rgb, filmstrip(prediction))

    played = [(received, frame_from_message(message, COMPRESSED_IMAGE, 0)) for received, message in written[PLAYBACK_TOPIC]]
    assert [frame.stamp_ns for _, frame in played] == [stamp_ns(k) for k in range(1, 40 + HORIZON + 1) if k not in (20, 40)]
    assert all(received == frame.stamp_ns + DELAY_NS for received, frame in played)  # as the camera's image of that moment
    np.testing.assert_array_equal([frame.rgb for _, frame in played[-HORIZON:]], predictions[-1].frames)


def test_every_figure_that_is_promised_is_reported_with_nothing_else(bundle, run, tmp_path):
    figures = predict_bag(run, tmp_path / "predicted.mcap", bundle)
    promise = (inspect.getdoc(predict_bag) or "").partition("Returns:")[2].partition("Raises:")[0]
    promised = set(re.findall(r"``([a-z_0-9.]+)``", promise))
    assert len(promised) == 16
    others = {name for name in figures if not name.startswith(("timeline.", "messages."))}
    assert others == promised
    assert {name: figures[name] for name in ("predictions", "predicted_frames", "images", "skipped", "invalid_messages")} == {
        "predictions": 3,
        "predicted_frames": 3 * HORIZON,
        "images": FRAMES,
        "skipped": 0,
        "invalid_messages": 0,
    }
    assert figures["recording_s"] == pytest.approx((FRAMES + 1) / 20 + DELAY_NS / 1e9, abs=1e-6)
    assert figures["realtime_factor"] == pytest.approx(float(figures["recording_s"]) / float(figures["compute_s"]))
    assert {name: count for name, count in figures.items() if name.startswith("messages.")} == {
        f"messages.{topic}": len(list(raw_messages(tmp_path / "predicted.mcap", {topic}))) for topic in topics(tmp_path / "predicted.mcap")
    }
    assert (figures["timeline.frames_missing"], figures["timeline.plans_past"]) == (K - 1, 0)
    assert figures["meta.model_id"] == bundle.model_id
    assert (figures["meta.bag"], figures["meta.output"]) == (str(run), str(tmp_path / "predicted.mcap"))


def test_progress_goes_through_the_recording_to_its_end(bundle, run, tmp_path):
    told: list[tuple[float, float, str]] = []
    figures = predict_bag(run, tmp_path / "predicted.mcap", bundle, progress=lambda *report: told.append(report))
    assert {total for _, total, _ in told} == {figures["recording_s"]}
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    assert told[0][2] == "1 predictions"
    assert told[-1] == (figures["recording_s"], figures["recording_s"], "3 predictions")


def test_messages_that_cannot_be_used_are_counted_and_the_rest_is_predicted_from(bundle, tmp_path, caplog):
    torn = image_message(picture(0), stamp_ns(1), "lens", TYPES)
    torn.step = 3
    nowhere = trajectory(0, 2, turned=False)
    nowhere.points[1].positions = np.full(3, np.nan)
    damaged = [
        (stamp_ns(1) + 1, IMAGE_TOPIC, IMAGE, torn),
        (stamp_ns(2) + 1, TRAJECTORY_TOPIC, JOINT_TRAJECTORY, nowhere),
    ]
    recording = write(tmp_path / "run.mcap", camera(), two_plans(), iter(damaged))
    figures = predict_bag(recording, tmp_path / "predicted.mcap", bundle)
    assert (figures["invalid_messages"], figures["images"], figures["predictions"]) == (2, FRAMES, 3)
    assert "bytes per row" in caplog.text


def test_a_camera_with_a_clock_of_its_own_is_warned_about_and_can_be_dated_by_arrival(bundle, tmp_path, caplog):
    def shifted() -> Iterator[Message]:
        for received_ns, topic, kind, message in camera():
            if kind == IMAGE:
                message = image_message(picture((received_ns - T0) // STEP_NS), received_ns + 3600 * NANOSECONDS, "lens", TYPES)
            yield received_ns, topic, kind, message

    recording = write(tmp_path / "run.mcap", shifted(), two_plans())
    with pytest.raises(InputError, match="no prediction"):
        predict_bag(recording, tmp_path / "predicted.mcap", bundle)
    assert "set image_stamp to receive in the topic mapping" in caplog.text
    mapping = replace(bundle.mapping_or(None), image_stamp="receive")
    figures = predict_bag(recording, tmp_path / "predicted.mcap", bundle, mapping)
    assert (figures["images"], figures["predictions"], figures["timeline.frames_ahead"]) == (FRAMES, 3, 0)


def test_images_before_the_first_command_are_skipped_and_the_reason_is_told(bundle, tmp_path):
    plans = [(stamp_ns(30), TRAJECTORY_TOPIC, JOINT_TRAJECTORY, trajectory(30, FRAMES, turned=False))]
    figures = predict_bag(write(tmp_path / "run.mcap", camera(), iter(plans)), tmp_path / "predicted.mcap", bundle)
    assert (figures["skipped"], figures["predictions"]) == (2, 1)
    assert str(figures["meta.skipped"]).startswith("2 x: Got no command yet for ['x', 'y', 'gripper']")


# What is refused, and leaves nothing behind


def test_an_action_of_other_names_is_refused_with_both(bundle, run, tmp_path):
    with pytest.raises(BundleError, match=r"expected the action names \['x', 'y', 'gripper'\], found \['joint_x', 'joint_y', 'joint_"):
        predict_bag(run, tmp_path / "predicted.mcap", bundle, another_robot())
    assert list(tmp_path.iterdir()) == []


def test_topics_must_be_named_by_somebody(run, tmp_path):
    nobodys = write_tiny_bundle(tmp_path / "tiny")
    with pytest.raises(InputError, match=r"bundle tiny@\w+ has none; name one with --mapping"):
        predict_bag(run, tmp_path / "predicted.mcap", nobodys)
    assert predict_bag(run, tmp_path / "predicted.mcap", nobodys, MAPPING)["predictions"] == 3


def test_a_recording_without_the_camera_is_refused(bundle, tmp_path):
    blind = write(tmp_path / "run.mcap", two_plans())
    with pytest.raises(BagError, match=f"expected .*{IMAGE_TOPIC}"):
        predict_bag(blind, tmp_path / "predicted.mcap", bundle)
    assert list(tmp_path.iterdir()) == [blind]


def test_a_recording_that_nothing_can_be_predicted_from_is_refused_with_the_reason(bundle, tmp_path):
    over = [(stamp_ns(FRAMES), TRAJECTORY_TOPIC, JOINT_TRAJECTORY, trajectory(FRAMES, 10, turned=False))]
    recording = write(tmp_path / "run.mcap", camera(), iter(over))
    with pytest.raises(InputError, match=rf"Got no prediction from {FRAMES} images of .*run\.mcap: 3 x: Got no command yet for"):
        predict_bag(recording, tmp_path / "predicted.mcap", bundle)
    assert list(tmp_path.iterdir()) == [recording]


def test_an_interrupted_prediction_leaves_what_was_there_before(bundle, run, tmp_path):
    def interrupt(done: float, total: float, text: str) -> None:
        if done > 1:
            raise KeyboardInterrupt

    older = tmp_path / "predicted.mcap"
    older.write_text("older")
    with pytest.raises(KeyboardInterrupt):
        predict_bag(run, older, bundle, progress=interrupt)
    assert list(tmp_path.iterdir()) == [older]
    assert older.read_text() == "older"
    predict_bag(run, older, bundle)
    assert PREDICTION_TOPIC in topics(older)


def test_a_recording_is_never_written_over(bundle, bag):
    before = list(raw_messages(bag))
    for output in (bag,) if bag.is_file() else (bag / f"{bag.stem}.mcap", bag / "deep" / "other.mcap"):
        with pytest.raises(InputError, match="which belongs to the recording"):
            predict_bag(bag, output, bundle)
    assert list(raw_messages(bag)) == before


def test_only_mcap_is_written(bundle, run, tmp_path):
    with pytest.raises(InputError, match=r"expected a name that ends in \.mcap"):
        predict_bag(run, tmp_path / "predicted", bundle)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"plan": "psychic"}, "Got plan 'psychic', expected one of causal, recorded"),
        ({"every": -1.0}, "every -1.0 seconds, expected zero or more"),
        ({"every": float("nan")}, "expected zero or more"),
        ({"horizon": 0}, "Got horizon 0"),
    ],
)
def test_arguments_out_of_range_are_refused(bundle, run, tmp_path, arguments, text):
    with pytest.raises(InputError, match=text):
        predict_bag(run, tmp_path / "predicted.mcap", bundle, **arguments)
    assert list(tmp_path.iterdir()) == []


# Real robots


def other_camera(robot: str, name: str) -> Any:
    """The robot's mapping with another of its cameras."""
    mapping = load_mapping(robot)
    return replace(mapping, image_topic=f"/camera/{name}/image_raw/compressed")


@pytest.mark.parametrize(("robot", "name"), [("widowx_bridge", "over_shoulder"), ("franka_droid", "exterior_1"), ("franka_droid", "wrist")])
def test_real_robots_are_predicted_from_with_every_camera(shared, tmp_path, robot, name):
    mapping = other_camera(robot, name)
    trained = write_tiny_bundle(tmp_path / "tiny", fps=5.0, action_space=ActionSpace(mapping.dimensions), mapping=mapping)
    recording = find_bags(shared / "data" / robot)[0]
    for plan in ("causal", "recorded"):
        output = tmp_path / f"{plan}.mcap"
        figures = predict_bag(recording, output, trained, plan=plan)
        assert (figures["invalid_messages"], figures["timeline.plans_unknown"]) == (0, 0)
        assert float(figures["predictions"]) >= 6
        assert set(topics(output)) == {
            f"/camera/{name}/image_raw/compressed",
            *(source.topic for source in mapping.action_sources),
            *(PREDICTION_TOPIC, FILMSTRIP_TOPIC, PLAYBACK_TOPIC),
        }
    assert figures["images"] == len(list(raw_messages(recording, {mapping.image_topic})))
    assert float(figures["skipped"]) <= 1  # the last image has nothing after it


@pytest.mark.parametrize("robot", ["widowx_bridge", "franka_droid"])
def test_a_real_robot_of_another_action_is_refused_with_both(shared, bundle, tmp_path, robot):
    mapping = load_mapping(robot)
    found = re.escape(str([dimension.name for dimension in mapping.dimensions]))
    with pytest.raises(BundleError, match=rf"expected the action names \['x', 'y', 'gripper'\], found {found}"):
        predict_bag(find_bags(shared / "data" / robot)[0], tmp_path / "predicted.mcap", bundle, mapping)
    with pytest.raises(BagError, match=rf"found the topics .* expected .*{TRAJECTORY_TOPIC}"):
        predict_bag(find_bags(shared / "data" / robot)[0], tmp_path / "predicted.mcap", bundle)
    assert list(tmp_path.iterdir()) == []
