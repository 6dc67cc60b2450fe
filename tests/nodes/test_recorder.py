# SPDX-License-Identifier: Apache-2.0
"""The recorder: what came in is in the file, byte for byte, and what is not is said."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.player import SimulatedClock
from support.robot import IMAGE_TOPIC, TRAJECTORY_TOPIC, message_class

from longscape_ros.bags.reader import raw_messages, topics
from longscape_ros.bags.writer import BagWriter, bag_store
from longscape_ros.contract import NANOSECONDS
from longscape_ros.errors import BagError, HostError, InputError
from longscape_ros.messages import COMPRESSED_IMAGE, IMAGE, JOINT_TRAJECTORY, frame_from_compressed, image_message

STRING = "std_msgs/msg/String"


def recorder(graph: Any, output: Path, *names: str, **parameters: Any) -> Any:
    """A recorder on a node of its own; closing it twice does nothing more."""
    from rclpy.node import Node
    from rclpy.parameter import Parameter

    from longscape_ros.nodes.recorder import Recorder

    values = {"output": str(output), "topics": list(names), **parameters}
    node = Node("recorder", context=graph.context, parameter_overrides=[Parameter(k, value=v) for k, v in values.items()])
    graph.add(node)
    return Recorder(node)


def join(robot: Any, *names: str) -> None:
    """Waits until the recorder listens."""
    robot.until(lambda: all(robot.node.count_subscribers(name) for name in names))


def hear_images(robot: Any) -> list[Any]:
    """What the camera publishes, best effort, is heard beside the recorder."""
    from rclpy.qos import ReliabilityPolicy

    heard: list[Any] = robot.listen(IMAGE_TOPIC, IMAGE, reliability=ReliabilityPolicy.BEST_EFFORT)
    robot.until(lambda: robot._images.get_subscription_count() == 2)
    return heard


def hear_bytes(robot: Any, topic: str, type_name: str) -> list[bytes]:
    """The serialized messages of a topic as they come; some middlewares leave what they like in the gaps of alignment."""
    from rclpy.qos import QoSProfile, ReliabilityPolicy

    heard: list[bytes] = []
    qos = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
    robot.node.create_subscription(message_class(type_name), topic, lambda data: heard.append(bytes(data)), qos, raw=True)
    return heard


def test_messages_are_kept_as_the_bytes_that_came_with_the_nodes_time(graph, tmp_path):
    robot = graph.robot()
    recording = recorder(graph, tmp_path / "run.mcap", IMAGE_TOPIC, TRAJECTORY_TOPIC)
    join(robot, IMAGE_TOPIC, TRAJECTORY_TOPIC)
    heard = {topic: hear_bytes(robot, topic, kind) for topic, kind in ((IMAGE_TOPIC, IMAGE), (TRAJECTORY_TOPIC, JOINT_TRAJECTORY))}
    robot.until(lambda: robot._trajectories.get_subscription_count() == robot._images.get_subscription_count() == 2)
    before_ns = robot.now_ns()
    robot.live(12, plan_every=4)
    robot.until(lambda: len(heard[IMAGE_TOPIC]) == 12 and len(heard[TRAJECTORY_TOPIC]) == 3)
    robot.until(lambda: sum(recording._writer.counts.values()) == 15)
    recording.close()
    kept = list(raw_messages(tmp_path / "run.mcap"))
    assert Counter(message.topic for message in kept) == {IMAGE_TOPIC: 12, TRAJECTORY_TOPIC: 3}
    assert all(before_ns <= message.received_ns <= robot.now_ns() for message in kept)
    for topic, messages in heard.items():
        assert [m.data for m in kept if m.topic == topic] == messages


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8"])
def test_images_compressed_as_png_lose_nothing(graph, tmp_path, encoding):
    robot = graph.robot()
    recording = recorder(graph, tmp_path / "run.mcap", IMAGE_TOPIC, images="png")
    join(robot, IMAGE_TOPIC)
    hear_images(robot)
    rgb = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    message = image_message(rgb if encoding == "rgb8" else rgb[..., ::-1], 5, "camera", message_class)
    message.encoding = encoding
    robot.publish_image(message)
    robot.until(lambda: recording._writer.counts)
    recording.close()
    assert topics(tmp_path / "run.mcap") == {f"{IMAGE_TOPIC}/compressed": COMPRESSED_IMAGE}
    (kept,) = raw_messages(tmp_path / "run.mcap")
    frame = frame_from_compressed(bag_store().deserialize_cdr(kept.data, kept.type), 0)
    assert np.array_equal(frame.rgb, rgb)
    assert (frame.stamp_ns, frame.frame_id) == (5, "camera")


# Clocks


def heard_at(robot: Any, clock: SimulatedClock, recording: Any, now_ns: int) -> None:
    """Sets the recorder's clock, and publishes a plan that it then takes."""
    node = recording._node
    robot.until(lambda: (clock.show(now_ns), node.get_clock().now().nanoseconds == now_ns)[1])
    before = recording._newest_ns
    robot.plan(start_ns=now_ns)
    robot.until(lambda: recording._newest_ns != before)


@pytest.mark.parametrize("name", ["run.mcap", "run"])
def test_when_simulated_time_goes_back_another_recording_goes_on(graph, tmp_path, capfd, name):
    robot = graph.robot()
    recording = recorder(graph, tmp_path / name, TRAJECTORY_TOPIC, use_sim_time=True)
    join(robot, TRAJECTORY_TOPIC)
    robot.until(robot._trajectories.get_subscription_count)
    clock = SimulatedClock(robot)
    for second in (100, 101, 101, 50, 51, 3):
        heard_at(robot, clock, recording, second * NANOSECONDS)
    recording.close()
    parts = [tmp_path / name.replace("run", part) for part in ("run", "run_2", "run_3")]
    times = [[message.received_ns for message in raw_messages(part)] for part in parts]
    assert times == [[100 * NANOSECONDS, 101 * NANOSECONDS, 101 * NANOSECONDS + 1], [50 * NANOSECONDS, 51 * NANOSECONDS], [3 * NANOSECONDS]]
    said = capfd.readouterr().err
    assert f"The clock went back by 51.000 s; what comes from now on is in {parts[1]}." in said
    assert f"Recorded 2 messages to {parts[1]}" in said


def test_a_part_of_an_earlier_recording_is_named(graph, tmp_path, capfd):
    (tmp_path / "run_2.mcap").touch()
    recorder(graph, tmp_path / "run.mcap", "/a").close()
    assert f"Found {tmp_path / 'run_2.mcap'}, which an earlier recording went on in" in capfd.readouterr().err


def test_what_comes_before_the_clock_runs_is_received_when_it_does(graph, tmp_path, capfd):
    robot = graph.robot()
    recording = recorder(graph, tmp_path / "run.mcap", TRAJECTORY_TOPIC, use_sim_time=True)
    join(robot, TRAJECTORY_TOPIC)
    robot.until(robot._trajectories.get_subscription_count)
    robot.plan(start_ns=1)
    robot.until(lambda: recording._early)
    heard_at(robot, SimulatedClock(robot), recording, 100 * NANOSECONDS)
    recording.close()
    assert [message.received_ns for message in raw_messages(tmp_path / "run.mcap")] == [100 * NANOSECONDS, 100 * NANOSECONDS + 1]
    assert "use_sim_time is true and nothing has come on /clock" in capfd.readouterr().err


def test_messages_that_no_clock_dated_are_lost_and_that_is_said(graph, tmp_path, capfd):
    recording = recorder(graph, tmp_path / "run.mcap", "/a", use_sim_time=True)
    recording._receive("/a", STRING, b"")
    recording.close()
    assert "1 messages of /a are not in the recording: 1 lost, 0 refused." in capfd.readouterr().err


def test_depth_images_are_kept_as_they_are(graph, tmp_path):
    robot = graph.robot()
    recording = recorder(graph, tmp_path / "run.mcap", IMAGE_TOPIC, images="png")
    join(robot, IMAGE_TOPIC)
    hear_images(robot)
    kind: Any = message_class(IMAGE)
    robot.publish_image(kind(height=2, width=2, encoding="16UC1", step=4, data=bytes(range(8))))
    robot.until(lambda: recording._writer.counts)
    recording.close()
    assert topics(tmp_path / "run.mcap") == {IMAGE_TOPIC: IMAGE}


def test_what_was_published_before_and_is_kept_for_late_joiners_is_recorded(graph, tmp_path):
    from rclpy.qos import DurabilityPolicy, QoSProfile

    robot = graph.robot()
    kept = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    publisher = robot.node.create_publisher(message_class(STRING), "/instruction", kept)
    publisher.publish(message_class(STRING)(data="open the drawer"))
    recording = recorder(graph, tmp_path / "run.mcap", "/instruction")
    robot.until(lambda: recording._writer.counts)
    recording.close()
    (message,) = raw_messages(tmp_path / "run.mcap")
    assert bag_store().deserialize_cdr(message.data, message.type).data == "open the drawer"


def test_a_topic_that_nobody_publishes_is_no_fault_and_the_file_is_complete(graph, tmp_path, capfd):
    recording = recorder(graph, tmp_path / "run.mcap", "/nobody")
    recording.close()
    assert topics(tmp_path / "run.mcap") == {}
    assert "nothing was published" in capfd.readouterr().err


def test_a_queue_that_is_full_loses_messages_and_says_so(graph, tmp_path, capfd, monkeypatch):
    from longscape_ros.nodes import recorder as module

    monkeypatch.setattr(module, "MOST_WAITING", 1)
    monkeypatch.setattr(module.Recorder, "_write_all", lambda _: None)
    recording = recorder(graph, tmp_path / "run.mcap", "/a")
    for _ in range(3):
        recording._receive("/a", STRING, b"")
    recording._queue.get()
    recording.close()
    assert "2 messages of /a are not in the recording: 2 lost, 0 refused." in capfd.readouterr().err


def test_a_type_that_the_bag_cannot_describe_is_refused_and_said_once(graph, tmp_path, capfd):
    recording = recorder(graph, tmp_path / "run.mcap", "/a")
    for _ in range(2):
        recording._receive("/a", "my_msgs/msg/Mine", b"\x00\x01\x00\x00")
    recording.close()
    said = capfd.readouterr().err
    assert said.count("my_msgs/msg/Mine on /a, which is not a type of ROS 2 Jazzy") == 1
    assert "2 messages of /a are not in the recording: 0 lost, 2 refused." in said


def test_a_disk_that_is_full_ends_the_node_and_what_was_written_stays(graph, tmp_path, monkeypatch):
    robot = graph.robot()
    recording = recorder(graph, tmp_path / "run.mcap", IMAGE_TOPIC)
    join(robot, IMAGE_TOPIC)
    robot.image()
    robot.until(lambda: recording._writer.counts)

    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(BagWriter, "write_raw", full)
    robot.image()
    with pytest.raises(HostError, match="No space left on device"):
        robot.until(lambda: False)
    recording.close()
    assert len(list(raw_messages(tmp_path / "run.mcap"))) == 1


@pytest.mark.parametrize(
    ("names", "parameters", "text"),
    [((), {}, "no topics to record"), (("/a",), {"images": "gif"}, "expected one of as_sent, png, jpeg")],
)
def test_a_recorder_without_topics_or_with_an_unknown_format_is_refused(graph, tmp_path, names, parameters, text):
    with pytest.raises(InputError, match=text):
        recorder(graph, tmp_path / "run.mcap", *(names or ("",)), **parameters)


def test_a_bag_folder_that_exists_is_not_written_over(graph, tmp_path):
    with pytest.raises(BagError, match="which exists"):
        recorder(graph, tmp_path, "/a")
