# SPDX-License-Identifier: Apache-2.0
"""The simulated robot's driver and its policy on a graph, by a clock that the test sets; and as processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.robot import WAIT_S, isolated_environment, message_class

from longscape_ros.contract import NANOSECONDS
from longscape_ros.embedded import ensure_rclpy
from longscape_ros.errors import HostError, InputError
from longscape_ros.messages import frame_from_image, nanoseconds, time_message
from longscape_ros.simulation import topics
from longscape_ros.simulation.arm import CAMERA_FRAME, COMMAND_NAMES, SimulatedArm
from longscape_ros.simulation.policy import LEAD_STEPS, START_STEPS, Rollout
from longscape_ros.simulation.skills import SKILLS
from longscape_ros.simulation.topics import PERIOD_NS, PLAN_EVERY, PLAN_STEPS

TASK, SEED, SIZE = "drawer-open", 9000, 32
T0 = 1000 * NANOSECONDS
CLOCK = "rosgraph_msgs/msg/Clock"


def stamp_ns(step: int) -> int:
    return T0 + step * PERIOD_NS


def stamps(messages: list[Any]) -> list[int]:
    return [nanoseconds(message.header.stamp) for message in messages]


class Graph:
    """Nodes that work in the test's thread and follow its clock; the first is the test's own."""

    def __init__(self) -> None:
        from rclpy.context import Context
        from rclpy.executors import SingleThreadedExecutor

        self.context = Context()
        self.context.init(args=[])
        self.executor = SingleThreadedExecutor(context=self.context)
        self.nodes: list[Any] = []
        self.parts: list[Any] = []
        self.messages = topics.RobotMessages(message_class, list)
        self.now_ns = T0
        self.node = self.add("tester")
        self._clock = self.node.create_publisher(message_class(CLOCK), "/clock", 10)

    def add(self, name: str, **parameters: Any) -> Any:
        """A node that knows the time."""
        from rclpy.node import Node
        from rclpy.parameter import Parameter

        overrides = [Parameter(name, value=value) for name, value in {"use_sim_time": True, **parameters}.items()]
        node = Node(name, context=self.context, parameter_overrides=overrides)
        self.executor.add_node(node)
        self.nodes.append(node)
        return node

    def part(self, kind: Callable[[Any], Any], name: str, **parameters: Any) -> Any:
        """A driver or a policy that begins now."""
        node = self.add(name, task=TASK, seed=SEED, **parameters)
        self.advance(0)
        self.parts.append(kind(node))
        return self.parts[-1]

    def driver(self, **parameters: Any) -> Any:
        from longscape_ros.simulation.driver import Driver

        return self.part(Driver, "simulated_arm", image_size=SIZE, **parameters)

    def policy(self) -> Any:
        from longscape_ros.simulation.policy import Policy

        return self.part(Policy, "scripted_policy")

    def listen(self, topic: str, kind: str, qos: Any = 100) -> list[Any]:
        """The list that the topic's messages go to."""
        heard: list[Any] = []
        self.node.create_subscription(message_class(kind), topic, heard.append, qos)
        return heard

    def publisher(self, topic: str, kind: str) -> Any:
        """A publisher that has found all who listen."""
        made = self.node.create_publisher(message_class(kind), topic, 10)
        self.until(lambda: made.get_subscription_count() == self.node.count_subscribers(topic) > 0)
        return made

    def until(self, condition: Callable[[], Any]) -> None:
        """Works until the condition holds."""
        end = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            self.executor.spin_once(timeout_sec=0.01)

    def advance(self, steps: int = 1) -> None:
        """Lets time go on, until every node knows."""
        self.now_ns += steps * PERIOD_NS

        def known() -> bool:
            self._clock.publish(message_class(CLOCK)(clock=time_message(self.now_ns, message_class)))
            return all(node.get_clock().now().nanoseconds == self.now_ns for node in self.nodes)

        self.until(known)

    def close(self) -> None:
        for part in self.parts:
            part.close()
        for node in self.nodes:
            node.destroy_node()
        self.executor.shutdown()
        self.context.try_shutdown()


class Robot:
    """A driver, and all that it publishes."""

    def __init__(self, graph: Graph) -> None:
        from rclpy.qos import qos_profile_sensor_data

        self.graph = graph
        self.driver = graph.driver()
        self.images = graph.listen(topics.IMAGE_TOPIC, topics.IMAGE, qos_profile_sensor_data)
        self.infos = graph.listen(topics.CAMERA_INFO_TOPIC, topics.CAMERA_INFO, qos_profile_sensor_data)
        self.joints = graph.listen(topics.JOINT_STATES_TOPIC, topics.JOINT_STATE)
        outputs = (self.driver._image, self.driver._info, self.driver._joints)
        graph.until(lambda: all(output.get_subscription_count() for output in outputs))

    def play(self, steps: int = 1) -> None:
        """Lets time go on at once, and waits for what is published then."""
        self.graph.advance(steps)
        self.graph.until(lambda: all(stamps(heard)[-1:] == [self.graph.now_ns] for heard in (self.images, self.infos, self.joints)))

    def pictures(self) -> list[np.ndarray]:
        return [frame_from_image(message, 0).rgb for message in self.images]

    def measured(self) -> np.ndarray:
        """float64 [n, 4], at each image."""
        return np.array([list(message.position) for message in self.joints])


@pytest.fixture
def graph(simulator: None, domain: int) -> Iterator[Graph]:
    try:
        ensure_rclpy()
    except HostError as error:
        pytest.skip(str(error))
    made = Graph()
    yield made
    made.close()


@pytest.fixture
def robot(graphics: None, graph: Graph) -> Robot:
    return Robot(graph)


# The driver


def test_images_camera_infos_and_joints_carry_the_stamps_of_a_20_hz_grid(robot):
    for _ in range(5):
        robot.play()
    for heard in (robot.images, robot.infos, robot.joints):
        assert stamps(heard) == [stamp_ns(k) for k in range(1, 6)]
    assert {image.shape for image in robot.pictures()} == {(SIZE, SIZE, 3)}
    assert {message.header.frame_id for message in (*robot.images, *robot.infos)} == {CAMERA_FRAME}
    info = robot.infos[0]
    assert (info.width, info.height, info.k[2], info.k[5]) == (SIZE, SIZE, (SIZE - 1) / 2, (SIZE - 1) / 2)
    assert info.k[0] == info.k[4] == info.p[0] > SIZE / 2
    assert list(robot.joints[0].name) == list(COMMAND_NAMES)
    assert robot.driver.counters == {"images": 5, "images_left_out": 0, "trajectories": 0, "trajectories_refused": 0}


def test_until_the_first_trajectory_begins_the_simulation_stands_still(robot):
    commands = robot.graph.publisher(topics.TRAJECTORY_TOPIC, topics.TRAJECTORY)
    robot.play()
    commands.publish(robot.graph.messages.trajectory(stamp_ns(5), Rollout(TASK, SEED).commands(0, 8)))
    robot.graph.until(lambda: robot.driver.counters["trajectories"])
    for _ in range(2, 9):
        robot.play()
    assert [np.array_equal(picture, robot.pictures()[0]) for picture in robot.pictures()[:6]] == [True] * 5 + [False]
    measured = robot.measured()
    np.testing.assert_array_equal(measured[:5], np.tile(SimulatedArm(TASK, SEED).measured, (5, 1)))
    assert (measured[5:] != measured[0]).any(axis=1).all()


def test_what_arrives_is_executed_exactly_though_images_are_left_out(robot):
    plan = Rollout(TASK, SEED).commands(0, 24)
    commands = robot.graph.publisher(topics.TRAJECTORY_TOPIC, topics.TRAJECTORY)
    commands.publish(robot.graph.messages.trajectory(stamp_ns(2), plan[:20]))
    robot.graph.until(lambda: robot.driver.counters["trajectories"] == 1)
    for steps in (1, 2, 1, 1, 7, 1):
        robot.play(steps)
    commands.publish(robot.graph.messages.trajectory(stamp_ns(18), plan[16:]))  # replaces the first
    robot.graph.until(lambda: robot.driver.counters["trajectories"] == 2)
    for steps in (8, 5, 4):
        robot.play(steps)
    seen = [1, 3, 4, 5, 12, 13, 21, 26, 30]
    assert stamps(robot.images) == [stamp_ns(k) for k in seen]
    assert robot.driver.counters == {"images": 9, "images_left_out": 30 - 9, "trajectories": 2, "trajectories_refused": 0}
    twin = SimulatedArm(TASK, SEED, SIZE)
    for step in range(31):
        if step > 2:
            twin.step(plan[min(step - 3, 23)])  # the last command is held
        if step in seen:
            np.testing.assert_array_equal(robot.measured()[seen.index(step)], twin.measured)
    np.testing.assert_array_equal(robot.pictures()[-1], twin.render())
    twin.close()


def test_trajectories_of_other_names_or_of_the_past_are_refused_counted_and_said(robot, capfd):
    robot.play(2)  # the warning of an image left out does not keep the other from being said
    commands = robot.graph.publisher(topics.TRAJECTORY_TOPIC, topics.TRAJECTORY)
    plan = Rollout(TASK, SEED).commands(0, 8)
    other = robot.graph.messages.trajectory(stamp_ns(3), plan)
    other.joint_names = ["a", "b", "c", "d"]
    commands.publish(other)
    robot.graph.until(lambda: robot.driver.counters["trajectories_refused"] == 1)
    assert "expected ['hand_x', 'hand_y', 'hand_z', 'gripper'] among them" in capfd.readouterr().err
    commands.publish(robot.graph.messages.trajectory(stamp_ns(-20), plan))
    robot.graph.until(lambda: robot.driver.counters["trajectories_refused"] == 2)
    for _ in range(4):
        robot.play()
    assert (robot.measured() == robot.measured()[0]).all()
    commands.publish(robot.graph.messages.trajectory(stamp_ns(6), plan))
    robot.graph.until(lambda: robot.driver.counters["trajectories"] == 1)
    robot.play(8)
    assert (robot.measured()[-1] != robot.measured()[0]).any()
    robot.driver.close()
    assert "Played: 6 images, 8 images_left_out, 1 trajectories, 2 trajectories_refused." in capfd.readouterr().err


def test_a_disturbed_driver_tells_when_it_is_disturbed_and_moves_on_undisturbed_until_then(graphics, graph):
    driver = graph.driver(disturbance="block:0.2", disturbance_after=0.25)
    told = graph.listen(topics.DISTURBANCE_TOPIC, topics.STRING)
    joints = graph.listen(topics.JOINT_STATES_TOPIC, topics.JOINT_STATE)
    commands = graph.publisher(topics.TRAJECTORY_TOPIC, topics.TRAJECTORY)
    plan = np.tile(SimulatedArm(TASK, SEED).target, (16, 1)) + np.outer(np.arange(1, 17), (0.02, 0, 0))
    plan = np.hstack([plan, np.zeros((16, 1))])
    commands.publish(graph.messages.trajectory(stamp_ns(1), plan))
    graph.until(lambda: driver.counters["trajectories"] == 1)
    for step in range(1, 12):
        graph.advance()
        graph.until(lambda at=step: stamps(joints)[-1:] == [stamp_ns(at)])
    graph.until(lambda: told)
    (message,) = told
    report = json.loads(message.data)
    assert (report["kind"], report["begin_ns"], report["end_ns"]) == ("block", stamp_ns(6), stamp_ns(10))
    twin = SimulatedArm(TASK, SEED)
    for step in range(5):
        twin.step(plan[step])
    hands = {nanoseconds(joint.header.stamp): list(joint.position) for joint in joints}
    assert hands[stamp_ns(6)] == twin.measured.tolist()
    twin.step(plan[5])
    assert hands[stamp_ns(7)] != twin.measured.tolist()


def test_an_episode_that_cannot_be_simulated_is_refused(graphics, graph):
    from longscape_ros.simulation.driver import Driver

    with pytest.raises(InputError, match="Got task 'juggle', expected one of"):
        Driver(graph.add("one", task="juggle"))
    with pytest.raises(InputError, match="Got image size 8, expected 16 to 480 pixels"):
        Driver(graph.add("two", image_size=8))
    with pytest.raises(InputError, match="Got the disturbance 'kick', expected one of bump, move, block, grip"):
        Driver(graph.add("three", disturbance="kick"))


# The policy


def look(graph: Graph, camera: Any, seen: list[Any], step: int) -> None:
    """Publishes the camera_info of an image, and waits until it is seen."""
    camera.publish(graph.messages.camera_info(stamp_ns(step), np.eye(3), SIZE))
    graph.until(lambda: stamps(seen)[-1:] == [stamp_ns(step)])


def test_every_16_images_there_is_a_plan_of_96_steps_on_their_grid(graph):
    policy = graph.policy()
    seen = graph.listen(topics.CAMERA_INFO_TOPIC, topics.CAMERA_INFO)
    plans = graph.listen(topics.TRAJECTORY_TOPIC, topics.TRAJECTORY)
    camera = graph.publisher(topics.CAMERA_INFO_TOPIC, topics.CAMERA_INFO)
    graph.until(policy._trajectory.get_subscription_count)
    due = range(START_STEPS - LEAD_STEPS, 64, PLAN_EVERY)
    for step in range(64):
        look(graph, camera, seen, step)
        if step in due:
            graph.until(lambda: policy.counters["trajectories"] == len(plans) > due.index(step))  # noqa: B023
        assert len(plans) == sum(other <= step for other in due)
    assert stamps(plans) == [stamp_ns(START_STEPS + n * PLAN_EVERY) for n in range(len(due))]
    expected = Rollout(TASK, SEED)
    for n, plan in enumerate(plans):
        assert list(plan.joint_names) == list(COMMAND_NAMES)
        times = [nanoseconds(point.time_from_start) for point in plan.points]
        assert times == [PERIOD_NS * (k + 1) for k in range(PLAN_STEPS)]
        np.testing.assert_array_equal([list(p.positions) for p in plan.points], expected.commands(n * PLAN_EVERY, PLAN_STEPS))


def test_who_joins_late_hears_what_the_robot_is_told(graph):
    from rclpy.qos import DurabilityPolicy, QoSProfile

    graph.policy()
    kept = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    heard = graph.listen(topics.INSTRUCTION_TOPIC, topics.STRING, kept)
    graph.until(lambda: heard)
    assert heard[0].data == SKILLS[TASK].instruction


def test_a_hand_that_is_not_where_it_was_planned_is_warned_about(graph, capfd):
    policy = graph.policy()
    seen = graph.listen(topics.CAMERA_INFO_TOPIC, topics.CAMERA_INFO)
    heard = graph.listen(topics.JOINT_STATES_TOPIC, topics.JOINT_STATE)
    camera = graph.publisher(topics.CAMERA_INFO_TOPIC, topics.CAMERA_INFO)
    joints = graph.publisher(topics.JOINT_STATES_TOPIC, topics.JOINT_STATE)
    for step in range(6):
        look(graph, camera, seen, step)
    rollout = Rollout(TASK, SEED)
    rollout.extend(4)
    for step in range(4):
        joints.publish(graph.messages.joint_state(stamp_ns(START_STEPS + step), np.append(rollout.hand(step), 0.0)))
    graph.until(lambda: len(heard) == 4)
    assert policy.counters["apart"] == 0
    joints.publish(graph.messages.joint_state(stamp_ns(START_STEPS + 4), np.add([*rollout.hand(4), 0.0], [0.0, 0.05, 0.0, 0.0])))
    graph.until(lambda: policy.counters["apart"] == 1)
    assert "The robot's hand is 0.050 m from where the plan has it" in capfd.readouterr().err


def test_a_task_that_there_is_not_is_refused(graph):
    from longscape_ros.simulation.policy import Policy

    with pytest.raises(InputError, match="Got task 'juggle', expected one of"):
        Policy(graph.add("one", task="juggle"))


# Both


def test_the_driver_does_exactly_what_the_policy_planned(robot):
    policy = robot.graph.policy()
    robot.graph.until(policy._trajectory.get_subscription_count)
    robot.graph.until(lambda: robot.driver._info.get_subscription_count() == robot.driver._joints.get_subscription_count() == 2)
    first = 1  # the step of the first image
    for step in range(first, first + START_STEPS + 2 * PLAN_EVERY):
        robot.play()
        planned = max(0, (step - first - START_STEPS + LEAD_STEPS) // PLAN_EVERY + 1)
        robot.graph.until(lambda: policy.counters["trajectories"] == robot.driver.counters["trajectories"] == planned)  # noqa: B023
    assert planned == 3
    assert policy.counters["apart"] == robot.driver.counters["images_left_out"] == 0
    executed = robot.measured()[START_STEPS:, :3]
    np.testing.assert_array_equal(executed, [policy._rollout.hand(step) for step in range(len(executed))])
    assert np.ptp(executed, axis=0).max() > 0.05


def start(module: str, domain: int, log: Path, *parameters: str) -> subprocess.Popen[bytes]:
    arguments = [word for parameter in parameters for word in ("-p", parameter)]
    command = [sys.executable, "-m", f"longscape_ros.simulation.{module}", "--ros-args", *arguments]
    with log.open("wb") as file:
        return subprocess.Popen(command, env=isolated_environment(domain), stdout=file, stderr=file)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_nodes_end_cleanly_as_processes(graphics, graph, domain, tmp_path, number):
    from rclpy.qos import qos_profile_sensor_data

    infos = graph.listen(topics.CAMERA_INFO_TOPIC, topics.CAMERA_INFO, qos_profile_sensor_data)
    plans = graph.listen(topics.TRAJECTORY_TOPIC, topics.TRAJECTORY)
    episode = (f"task:={TASK}", f"seed:={SEED}")
    policy = start("policy", domain, tmp_path / "policy", *episode)
    driver = start("driver", domain, tmp_path / "driver", *episode, f"image_size:={SIZE}")
    try:
        graph.until(lambda: plans and stamps(infos)[-1] > stamps(plans)[0])  # until the first plan is executed
        for process in (policy, driver):
            process.send_signal(number)
        assert [process.wait(WAIT_S) for process in (policy, driver)] == [0, 0]
    finally:
        for process in (policy, driver):
            process.kill()
            process.wait()
    assert {(later - sooner) % PERIOD_NS for sooner, later in zip(stamps(infos), stamps(infos)[1:], strict=False)} == {0}
    assert (stamps(plans)[0] - stamps(infos)[0]) % PERIOD_NS == 0
    assert len(plans[0].points) == PLAN_STEPS
    said = [(tmp_path / name).read_text() for name in ("policy", "driver")]
    assert "Published " in said[0]
    assert "Played: " in said[1]
    assert not any("Traceback" in text for text in said)


@pytest.mark.parametrize("module", ["driver", "policy"])
def test_a_node_that_cannot_begin_ends_with_one_line_that_says_why(graphics, domain, tmp_path, module):
    process = start(module, domain, tmp_path / "log", "task:=juggle")
    assert process.wait(WAIT_S) == 1
    fatal = [line for line in (tmp_path / "log").read_text().splitlines() if "FATAL" in line]
    assert len(fatal) == 1
    assert "Got task 'juggle', expected one of" in fatal[0]
    assert "Traceback" not in (tmp_path / "log").read_text()
