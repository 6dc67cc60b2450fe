# SPDX-License-Identifier: Apache-2.0
"""Live and from a recording: the same predictions.

With the same receive times they are equal bit for bit. A recorder in another process has receive times of its own; there they are
equal wherever predictor and recorder knew the same plan, which the prediction's plan stamp tells, as long as plans carry a stamp
and arrive before they start.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, get_args

import numpy as np
import pytest
from support.robot import IMAGE_TOPIC, MAPPING, NAMES, STEP_NS, TRAJECTORY_TOPIC, WAIT_S, isolated_environment, sway

from longscape_ros.bags.reader import raw_messages
from longscape_ros.bags.writer import BagWriter, bag_store, bag_types
from longscape_ros.contract import NANOSECONDS, PlanExtension, Prediction, StampSource
from longscape_ros.messages import (
    COMPRESSED_IMAGE,
    IMAGE,
    JOINT_TRAJECTORY,
    PREDICTED_VIDEO,
    compressed_message,
    duration_message,
    frame_from_message,
    image_message,
    plan_from_message,
    prediction_from_message,
    time_message,
)
from longscape_ros.nodes.pipeline import Pipeline, PipelineConfig
from longscape_ros.offline import replay
from longscape_ros.runtime.backends import create_backend
from longscape_ros.runtime.predictor import Predictor

T0 = 1000 * NANOSECONDS
PREDICTION_TOPIC = "/predictor/prediction"


def same(one: Prediction, other: Prediction) -> bool:
    return (
        np.array_equal(one.frames, other.frames)
        and [c.valid for c in one.chunks] == [c.valid for c in other.chunks]
        and [c.reason for c in one.chunks] == [c.reason for c in other.chunks]
        and (one.experts, one.seed, one.assumed_from, one.plan_stamp_ns, one.model_id, one.frame_id)
        == (other.experts, other.seed, other.assumed_from, other.plan_stamp_ns, other.model_id, other.frame_id)
    )


# The same receive times


def session(steps: int, stamped: bool, off_ns: int, jpeg: bool) -> Iterator[tuple[int, str, str, Any]]:
    """Receive time, topic, type and message of a run with jitter, lost images, plans that are late, and a camera's clock that is off.

    JPEGs are large.
    """
    classes, random = bag_types(), np.random.default_rng(0)
    empty = np.empty(0)
    for step in range(steps):
        at_ns = T0 + step * STEP_NS
        if step % 9 == 0:
            start_ns = at_ns + int(random.integers(-2, 6)) * STEP_NS
            points = [
                classes("trajectory_msgs/msg/JointTrajectoryPoint")(
                    positions=row, velocities=empty, accelerations=empty, effort=empty,
                    time_from_start=duration_message((k + 1) * STEP_NS, classes),
                )
                for k, row in enumerate(sway(step, int(random.integers(1, 70))))
            ]  # fmt: skip
            stamp = time_message(start_ns if stamped else 0, classes)
            header = classes("std_msgs/msg/Header")(stamp=stamp, frame_id="")
            message = classes(JOINT_TRAJECTORY)(header=header, joint_names=list(NAMES), points=points)
            yield at_ns - int(random.integers(1_000_000, 30_000_000)), TRAJECTORY_TOPIC, JOINT_TRAJECTORY, message
        if step % 13 != 5:
            rgb = random.integers(0, 256, (240, 320, 3) if jpeg else (30, 45, 3), np.uint8)
            stamp_ns = at_ns + int(random.integers(-5_000_000, 5_000_000))
            received_ns = at_ns + int(random.integers(6_000_000, 15_000_000))
            if jpeg:
                image = compressed_message(rgb, stamp_ns + off_ns, "camera", classes, "jpeg")
                yield received_ns, f"{IMAGE_TOPIC}/compressed", COMPRESSED_IMAGE, image
            else:
                yield received_ns, IMAGE_TOPIC, IMAGE, image_message(rgb, stamp_ns + off_ns, "camera", classes)


@pytest.mark.parametrize("extension", list(PlanExtension))
@pytest.mark.parametrize(("stamped", "jpeg"), [(True, False), (False, False), (True, True)])
@pytest.mark.parametrize("image_stamp", get_args(StampSource))
def test_a_recording_with_the_same_receive_times_gives_the_same_predictions_bit_for_bit(
    bundle, tmp_path, extension, stamped, jpeg, image_stamp
):
    mapping = replace(MAPPING, image_stamp=image_stamp, image_latency_ns=STEP_NS // 4)
    predictor = Predictor(bundle, create_backend(bundle, "ort_cpu", threads=1))
    results: SimpleQueue[Prediction] = SimpleQueue()
    config = PipelineConfig(plan_extension=extension, image_latency_ns=mapping.image_latency_ns)
    pipeline = Pipeline(predictor, config, results.put, results.put)  # type: ignore[arg-type]
    pipeline.active = True
    pipeline.start()
    live: list[Prediction] = []
    with BagWriter(tmp_path / "run.mcap") as writer:
        for now_ns, topic, kind, message in session(60, stamped, 0 if image_stamp == "header" else NANOSECONDS * 3600, jpeg):
            received_ns = pipeline.receive(now_ns)
            writer.write(topic, kind, received_ns, message)
            if kind == JOINT_TRAJECTORY:
                pipeline.add_plan(plan_from_message(message, MAPPING.action_sources[0], received_ns))
            else:
                frame = frame_from_message(message, kind, received_ns, image_stamp, bundle.manifest.image_size)
                if pipeline.add_frame(frame, received_ns).request is not None:
                    live.append(results.get(timeout=WAIT_S))
    pipeline.stop()
    replayed = list(replay(bundle, tmp_path / "run.mcap", mapping, every=0.0, backend="ort_cpu", plan_extension=extension))
    assert len(live) >= 45
    assert all(prediction.anchor_ns + STEP_NS >= T0 for prediction in live)
    assert live[-1].anchor_ns < T0 + 60 * STEP_NS, "dated by the node's clock, whatever the camera's says"
    assert all(same(one, other) for one, other in zip(live, replayed, strict=True))


# A recorder in another process


def started(module: str, domain: int, log: Path, *parameters: str) -> subprocess.Popen[bytes]:
    arguments = [word for parameter in parameters for word in ("-p", parameter)]
    remapping = ("-r", "~/input/image:=/camera/image_raw")
    with log.open("wb") as file:
        command = [sys.executable, "-m", f"longscape_ros.nodes.{module}", "--ros-args", *arguments, *remapping]
        return subprocess.Popen(command, env=isolated_environment(domain), stdout=file, stderr=file)


def images_seen(robot: Any, diagnostics: list[Any]) -> int:
    """How many images the predictor has counted, when no more of them come."""

    def counts() -> list[int]:
        values = [v for message in diagnostics for status in message.status if status.name == "predictor: camera" for v in status.values]
        return [int(value.value) for value in values if value.key == "images"]

    before = len(counts())
    robot.until(lambda: len(counts()) >= before + 3 and len(set(counts()[-3:])) == 1)
    return counts()[-1]


def test_what_another_process_recorded_replays_to_what_was_predicted_live(graph, bundle, domain, tmp_path):
    robot = graph.robot()
    bag = tmp_path / "run.mcap"
    topics = f"topics:=[{IMAGE_TOPIC}, {TRAJECTORY_TOPIC}, {PREDICTION_TOPIC}]"
    processes = {
        "recorder": started("recorder", domain, tmp_path / "recorder.log", f"output:={bag}", topics, "images:=png"),
        "predictor": started(
            "predictor",
            domain,
            tmp_path / "predictor.log",
            f"model.bundle:={bundle.path}",
            "model.threads:=1",
            "prediction_format:=png",
            "diagnostic_updater.period:=0.1",
        ),
    }
    try:
        heard = robot.listen(PREDICTION_TOPIC, PREDICTED_VIDEO)
        diagnostics = robot.listen("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")
        robot.until(lambda: robot._images.get_subscription_count() == robot._trajectories.get_subscription_count() == 2)
        robot.until(lambda: robot.node.count_subscribers(PREDICTION_TOPIC) == 2)
        published = robot.live(400, done=lambda: len(heard) >= 60)
        seen = images_seen(robot, diagnostics)
        processes["predictor"].send_signal(signal.SIGTERM)
        assert processes["predictor"].wait(WAIT_S) == 0, (tmp_path / "predictor.log").read_text()
        processes["recorder"].send_signal(signal.SIGINT)
        assert processes["recorder"].wait(WAIT_S) == 0, (tmp_path / "recorder.log").read_text()
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    recorded = [
        prediction_from_message(bag_store().deserialize_cdr(message.data, message.type))
        for message in raw_messages(bag, [PREDICTION_TOPIC])
    ]
    live = {prediction.anchor_ns: prediction for prediction in recorded}
    assert len(live) >= 50
    replayed = list(replay(bundle, bag, every=0.0, backend="ort_cpu", plan_extension=PlanExtension.HOLD, anchors_ns=set(live)))
    comparable = [(p, live[p.anchor_ns]) for p in replayed if p.plan_stamp_ns == live[p.anchor_ns].plan_stamp_ns]
    assert len(comparable) >= len(live) // 2  # on a busy machine a plan may reach one of the two before an image, the other after it
    recorded_images = sum(1 for _ in raw_messages(bag, [f"{IMAGE_TOPIC}/compressed"]))
    lost = (published - seen) + (published - recorded_images)  # best effort; one that only one of the two has may differ in K contexts
    different = [one.anchor_ns for one, other in comparable if not same(one, other)]
    assert len(different) <= bundle.manifest.context * lost
