# SPDX-License-Identifier: Apache-2.0
"""Recordings out and in again, and recordings of real robots."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from longscape_ros.bags.mapping import load_mapping
from longscape_ros.bags.measured import read_frames
from longscape_ros.bags.reader import find_bags, raw_messages, read_episode, stream, topics
from longscape_ros.bags.writer import BagWriter, bag_store, bag_types
from longscape_ros.contract import ActionDimension, ActionSource, ActionSpace, Frame, Plan, TopicMapping
from longscape_ros.errors import BagError
from longscape_ros.messages import compressed_message, image_message
from longscape_ros.timeline import episode_grid

TYPES = bag_types()
FLOAT, STRING = "std_msgs/msg/Float64", "std_msgs/msg/String"
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
MAPPING = TopicMapping(
    image_topic="/camera/image_raw",
    action_sources=(ActionSource("/gripper", FLOAT, {"gripper": "data"}, stamp="receive"),),
    dimensions=(ActionDimension("gripper", kind="state", is_gripper=True),),
    fps=10.0,
)
STEP_NS = 100_000_000


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (8, 12, 3), np.uint8)


def write_recording(path, compressed=False):
    """Five images and five gripper commands, each received 10 ms after its image."""
    with BagWriter(path) as bag:
        bag.write("/instruction", STRING, 1, TYPES(STRING)(data="pick it up"))
        for k in range(5):
            stamp = (k + 1) * STEP_NS
            if compressed:
                message = compressed_message(picture(k), stamp, "lens", TYPES)
                bag.write("/camera/image_raw/compressed", COMPRESSED, stamp, message)
            else:
                bag.write("/camera/image_raw", IMAGE, stamp, image_message(picture(k), stamp, "lens", TYPES))
            bag.write("/gripper", FLOAT, stamp + 10_000_000, TYPES(FLOAT)(data=float(k)))
    return path


@pytest.fixture(params=["bag", "bag.mcap"])
def recording(request, tmp_path):
    """The same as a rosbag2 folder and as a single file."""
    return write_recording(tmp_path / request.param)


def test_a_recording_is_read_in_the_order_it_was_received(recording):
    items = list(stream(recording, MAPPING))
    assert [type(item) for _, item in items] == [Frame, Plan] * 5
    assert [received for received, _ in items] == sorted(received for received, _ in items)
    np.testing.assert_array_equal(items[4][1].rgb, picture(2))
    assert [item.values.item() for _, item in items[1::2]] == [0, 1, 2, 3, 4]


def test_an_episode_has_all_frames_all_plans_and_the_instruction(recording):
    episode = read_episode(recording, MAPPING, image_size=(4, 4))
    assert (episode.name, len(episode.frames), len(episode.plans), episode.instruction) == ("bag", 5, 5, "pick it up")
    assert episode.frames[0].rgb.shape == (4, 4, 3)


@pytest.mark.parametrize("mapped", [True, False])
def test_the_camera_is_found_compressed_or_not(tmp_path, mapped):
    """A live mapping says Image where the recording holds CompressedImage, and the other way round."""
    path = write_recording(tmp_path / "bag.mcap", compressed=not mapped)
    mapping = TopicMapping(
        image_topic="/camera/image_raw/compressed" if mapped else "/camera/image_raw",
        image_type=COMPRESSED if mapped else IMAGE,
        action_sources=MAPPING.action_sources,
        dimensions=MAPPING.dimensions,
        fps=10.0,
    )
    np.testing.assert_array_equal(read_episode(path, mapping).frames[3].rgb, picture(3))


def test_images_dated_by_their_arrival_have_the_times_of_their_receipt(tmp_path):
    with BagWriter(tmp_path / "bag.mcap") as bag:
        for k in range(3):
            bag.write("/camera/image_raw", IMAGE, (k + 1) * STEP_NS, image_message(picture(k), 7_000 * STEP_NS - k, "lens", TYPES))
        bag.write("/gripper", FLOAT, STEP_NS, TYPES(FLOAT)(data=1.0))
    received = replace(MAPPING, image_stamp="receive")
    assert [frame.stamp_ns for frame in read_episode(tmp_path / "bag.mcap", received).frames] == [STEP_NS, 2 * STEP_NS, 3 * STEP_NS]
    stamps, _ = read_frames(tmp_path / "bag.mcap", replace(received, image_latency_ns=5), (4, 4))
    assert stamps.tolist() == [STEP_NS - 5, 2 * STEP_NS - 5, 3 * STEP_NS - 5]


def test_images_whose_clock_is_another_are_warned_about(tmp_path, caplog):
    with BagWriter(tmp_path / "bag.mcap") as bag:
        for k in range(3):
            bag.write("/camera/image_raw", IMAGE, (k + 1) * STEP_NS, image_message(picture(k), 7_000 * STEP_NS + k, "lens", TYPES))
        bag.write("/gripper", FLOAT, STEP_NS, TYPES(FLOAT)(data=1.0))
    read_episode(tmp_path / "bag.mcap", MAPPING)
    assert "3 of 3 images were received more than a second off their stamps" in caplog.text
    assert "set image_stamp to receive" in caplog.text


def test_raw_messages_are_what_was_written(recording):
    raw = list(raw_messages(recording, {"/gripper"}))
    assert len(raw) == 5
    assert bag_store().deserialize_cdr(raw[3].data, raw[3].type).data == 3.0
    assert topics(recording) == {"/instruction": STRING, "/camera/image_raw": IMAGE, "/gripper": FLOAT}


def test_a_missing_topic_is_named_with_what_there_is(recording):
    other = TopicMapping("/elsewhere", MAPPING.action_sources, MAPPING.dimensions, 10.0)
    with pytest.raises(BagError, match=r"found the topics .*/camera/image_raw.* expected .*/elsewhere"):
        list(stream(recording, other))


def test_a_topic_of_another_type_is_named(recording):
    sources = (ActionSource("/gripper", "std_msgs/msg/Float32", {"gripper": "data"}),)
    with pytest.raises(BagError, match="std_msgs/msg/Float32"):
        list(stream(recording, TopicMapping("/camera/image_raw", sources, MAPPING.dimensions, 10.0)))


def test_messages_that_cannot_be_used_are_told_and_left_out(tmp_path, caplog):
    path = tmp_path / "bag.mcap"
    with BagWriter(path) as bag:
        good = image_message(picture(0), 5, "lens", TYPES)
        bad = image_message(picture(0), 6, "lens", TYPES)
        bad.step = 3
        bag.write("/camera/image_raw", IMAGE, 5, good)
        bag.write("/camera/image_raw", IMAGE, 6, bad)
        bag.write("/gripper", FLOAT, 7, TYPES(FLOAT)(data=float("nan")))
        bag.write("/gripper", FLOAT, 8, TYPES(FLOAT)(data=1.0))
        bag.write_raw("/gripper", FLOAT, 9, b"\0\1\0\0\7")
    faults = []
    assert len(list(stream(path, MAPPING, faults.append))) == 2
    assert [text for fault in faults for text in ("per row", "NaN", "damaged") if text in str(fault)] == ["per row", "NaN", "damaged"]
    read_episode(path, MAPPING)
    assert "3 messages in all could not be used" in caplog.text


def test_sqlite_recordings_of_older_distributions_are_read(tmp_path):
    store = get_typestore(Stores.ROS2_HUMBLE)
    with Writer(tmp_path / "humble", version=8, storage_plugin=StoragePlugin.SQLITE3) as bag:
        connections = {
            topic: bag.add_connection(topic, kind, typestore=store) for topic, kind in (("/camera/image_raw", IMAGE), ("/gripper", FLOAT))
        }
        image = image_message(picture(1), STEP_NS, "lens", store.types.__getitem__)
        bag.write(connections["/camera/image_raw"], STEP_NS, store.serialize_cdr(image, IMAGE))
        bag.write(connections["/gripper"], STEP_NS, store.serialize_cdr(store.types[FLOAT](data=2.0), FLOAT))
    episode = read_episode(tmp_path / "humble", MAPPING)
    np.testing.assert_array_equal(episode.frames[0].rgb, picture(1))
    assert episode.plans[0].values.item() == 2.0


def test_bags_are_found_below_a_folder_in_counting_order(tmp_path):
    for name in ("run_10", "run_9", "deep/run_2", "single.mcap"):
        write_recording(tmp_path / name)
    found = [str(bag.relative_to(tmp_path)) for bag in find_bags(tmp_path)]
    assert found == ["deep/run_2", "run_9", "run_10", "single.mcap"]
    assert find_bags(tmp_path / "run_9") == [tmp_path / "run_9"]


def test_a_folder_without_bags_is_refused(tmp_path):
    with pytest.raises(BagError, match="expected a rosbag2 folder"):
        find_bags(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a bag at all, not a bag at all"])
def test_a_file_that_is_no_bag_is_refused(tmp_path, content):
    path = tmp_path / "bad.mcap"
    path.write_bytes(content)
    with pytest.raises(BagError, match=r"bad\.mcap"):
        list(raw_messages(path))


def test_a_cut_off_recording_is_refused_or_read_as_far_as_it_goes(tmp_path):
    path = write_recording(tmp_path / "bag.mcap")
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(BagError, match="expected a complete"):
        list(stream(path, MAPPING))


def test_a_recording_appears_only_when_it_is_complete(tmp_path):
    with BagWriter(tmp_path / "bag.mcap") as bag:
        bag.write("/gripper", FLOAT, 1, TYPES(FLOAT)(data=1.0))
        assert not (tmp_path / "bag.mcap").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["bag.mcap"]
    assert bag.counts == {"/gripper": 1}


def write_gripper_of_two_types(bag: BagWriter) -> None:
    bag.write("/gripper", FLOAT, 1, TYPES(FLOAT)(data=1.0))
    bag.write("/gripper", STRING, 2, TYPES(STRING)(data="open"))


@pytest.mark.parametrize("name", ["bag", "bag.mcap"])
def test_a_recording_that_ended_in_a_fault_leaves_nothing_and_an_older_one_alone(tmp_path, name):
    if name == "bag.mcap":
        (tmp_path / name).write_text("older")
    with pytest.raises(BagError, match="like its first"), BagWriter(tmp_path / name) as bag:
        write_gripper_of_two_types(bag)
    assert [path.read_text() for path in tmp_path.iterdir()] == (["older"] if name == "bag.mcap" else [])


def test_a_folder_is_never_overwritten_a_file_is(tmp_path):
    (tmp_path / "bag").mkdir()
    with pytest.raises(BagError, match="which exists"):
        BagWriter(tmp_path / "bag")
    for k in range(2):
        with BagWriter(tmp_path / "bag.mcap") as bag:
            bag.write("/gripper", FLOAT, 1, TYPES(FLOAT)(data=float(k)))
    assert bag_store().deserialize_cdr(next(raw_messages(tmp_path / "bag.mcap")).data, FLOAT).data == 1.0


def test_a_topic_keeps_its_type(tmp_path):
    with BagWriter(tmp_path / "bag.mcap") as bag:
        bag.write("/gripper", FLOAT, 1, TYPES(FLOAT)(data=1.0))
        with pytest.raises(BagError, match="expected std_msgs/msg/Float64 like its first"):
            bag.write("/gripper", STRING, 2, TYPES(STRING)(data="open"))


def test_types_of_ones_own_are_copied_with_their_definition(tmp_path):
    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(get_types_from_msg("float64 force\n", "mine_msgs/msg/Push"))
    with Writer(tmp_path / "mine", version=9, storage_plugin=StoragePlugin.MCAP) as bag:
        connection = bag.add_connection("/push", "mine_msgs/msg/Push", typestore=store)
        bag.write(connection, 5, store.serialize_cdr(store.types["mine_msgs/msg/Push"](force=2.5), "mine_msgs/msg/Push"))
    with BagWriter(tmp_path / "copy.mcap") as copy:
        for raw in raw_messages(tmp_path / "mine"):
            copy.write_raw(raw.topic, raw.type, raw.received_ns, raw.data, raw.definition, raw.digest)
        with pytest.raises(BagError, match="expected its definition"):
            copy.write_raw("/other", "mine_msgs/msg/Pull", 6, b"")
    (found,) = raw_messages(tmp_path / "copy.mcap")
    assert (found.type, found.data) == (raw.type, raw.data)
    assert "float64 force" in found.definition


@pytest.mark.parametrize(("robot", "bags", "dimensions"), [("franka_droid", 7, 8), ("widowx_bridge", 9, 7)])
def test_recordings_of_real_robots_are_read_and_aligned(shared, robot, bags, dimensions):
    mapping = load_mapping(robot)
    found = find_bags(shared / "data" / robot)
    assert len(found) == bags
    for bag in found:
        episode = read_episode(bag, mapping, image_size=(32, 32))
        grid = episode_grid(episode, ActionSpace(mapping.dimensions), mapping.fps, (32, 32))
        assert grid.motion.shape == (len(episode.frames), dimensions)
        assert grid.commanded[1:].all(), "only the first image may come before the first command"
        assert np.isfinite(grid.motion).all()
        assert np.ptp(grid.motion[:, :-1], axis=0).max() > 0.1
    assert any(read_episode(bag, mapping, (32, 32)).instruction for bag in found) == (robot == "franka_droid")


def test_the_other_camera_of_a_real_robot_is_a_matter_of_the_mapping(shared):
    exterior = load_mapping("franka_droid")
    wrist = TopicMapping("/camera/wrist/image_raw/compressed", exterior.action_sources, exterior.dimensions, 5.0, COMPRESSED)
    bag = find_bags(shared / "data" / "franka_droid")[0]
    frames = [read_episode(bag, mapping).frames[0].rgb for mapping in (exterior, wrist)]
    assert frames[0].shape == frames[1].shape == (192, 320, 3)
    assert np.abs(frames[0].astype(int) - frames[1]).mean() > 10
