# SPDX-License-Identifier: Apache-2.0
"""The predictor node on a graph: what it publishes, what it survives, its lifecycle, its parameters, its clock."""

from __future__ import annotations

import gc
import json
from typing import Any

import numpy as np
import pytest
from support.failing import Failing, Machine, built_by, progress, script
from support.robot import NAMES, STEP_NS, TRAJECTORY_TOPIC, another_robot, message_class, sway, trajectory, write_robot_bundle
from support.tiny_bundle import MANIFEST
from support.waiting import until

from longscape_ros.bags.mapping import save_mapping
from longscape_ros.contract import EndReason, Status
from longscape_ros.errors import BackendError, BundleError
from longscape_ros.messages import IMAGE, PREDICTED_VIDEO, frame_from_image, nanoseconds, prediction_from_message, time_message
from longscape_ros.runtime.kinds import Engines
from longscape_ros.runtime.predictor import Predictor

CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
DIAGNOSTICS = "diagnostic_msgs/msg/DiagnosticArray"
STRING = "std_msgs/msg/String"
SURPRISE = "longscape_msgs/msg/Surprise"


def running(graph: Any, bundle: Any, state: Any, **parameters: Any) -> tuple[Any, Any]:
    """A robot, and a predictor that is active and listens to it."""
    robot, node = graph.robot(), graph.predictor(bundle, **{"diagnostic_updater__period": 0.1, **parameters})
    robot.until(lambda: state(node) == "active")
    robot.connect()
    return robot, node


def figures(diagnostics: list[Any], part: str) -> dict[str, Any]:
    """The newest values of a part of the predictor, with its level and message."""
    for message in reversed(diagnostics):
        for status in message.status:
            if status.name == f"predictor: {part}":
                return {pair.key: pair.value for pair in status.values} | {"level": status.level[0], "message": status.message}
    return {}


def counted(robot: Any, diagnostics: list[Any], part: str, counter: str, least: int = 1) -> bool:
    return bool(robot.until(lambda: int(figures(diagnostics, part).get(counter, 0)) >= least))


def set_parameter(node: Any, name: str, value: Any) -> Any:
    from rclpy.parameter import Parameter

    return node.set_parameters([Parameter(name, value=value)])[0]


# Output


def test_images_and_plans_become_predictions_that_show_the_future(graph, bundle, state):
    robot, _ = running(graph, bundle, state)
    videos = robot.listen("/predictor/prediction", PREDICTED_VIDEO)
    robot.live(200, done=lambda: len(videos) >= 5)
    prediction = prediction_from_message(videos[-1])
    assert prediction.model_id == bundle.model_id
    assert prediction.frames.shape == (MANIFEST.horizon, *MANIFEST.image_size, 3)
    assert prediction.status == Status.OK
    assert (prediction.stamps_ns() - prediction.anchor_ns).tolist() == [STEP_NS * (k + 1) for k in range(MANIFEST.horizon)]
    assert prediction.frame_id == "camera_optical_frame"
    assert prediction.plan_stamp_ns > 0
    assert sum(chunk.valid for chunk in prediction.chunks) == MANIFEST.horizon


def test_what_nobody_listens_to_is_not_made(graph, bundle, state, monkeypatch):
    from longscape_ros.nodes import outputs

    made: list[str] = []
    for name in ("prediction_to_message", "filmstrip", "image_message", "scaled_camera_info"):
        real = getattr(outputs, name)
        monkeypatch.setattr(outputs, name, lambda *a, real=real, name=name: made.append(name) or real(*a))
    robot, _ = running(graph, bundle, state)
    times = robot.listen("/predictor/debug/inference_time_ms", "std_msgs/msg/Float64")
    robot.live(200, done=lambda: len(times) >= 3)
    assert times[-1].data > 0
    assert made == []
    strips = robot.listen("/predictor/prediction/filmstrip", IMAGE)
    robot.live(200, done=lambda: strips)
    assert set(made) == {"filmstrip", "image_message"}


def test_the_filmstrip_and_the_image_carry_the_anchors_stamp(graph, bundle, state):
    robot, node = running(graph, bundle, state, filmstrip_columns=4, image_step=3, prediction_format="png")
    videos = robot.listen("/predictor/prediction", PREDICTED_VIDEO)
    strips = robot.listen("/predictor/prediction/filmstrip", IMAGE)
    images = robot.listen("/predictor/prediction/image", IMAGE)

    def complete() -> dict[int, list[Any]]:
        by_stamp: dict[int, list[Any]] = {}
        for message in (*videos, *strips, *images):
            by_stamp.setdefault(nanoseconds(message.header.stamp), []).append(message)
        return {stamp: messages for stamp, messages in by_stamp.items() if len(messages) == 3}

    robot.live(200, done=complete)
    video, strip, image = next(iter(complete().values()))
    frames = prediction_from_message(video).frames
    height, width = MANIFEST.image_size
    assert (strip.height, strip.width) == (height, 4 * width)
    assert np.array_equal(frame_from_image(image, 0).rgb, frames[2])
    assert np.array_equal(frame_from_image(strip, 0).rgb[:, -width:], frames[-1])
    assert set_parameter(node, "image_step", 0).successful
    images.clear()
    robot.live(
        200, done=lambda: any(np.array_equal(frame_from_image(i, 0).rgb, prediction_from_message(videos[-1]).frames[-1]) for i in images)
    )


def test_the_camera_info_is_scaled_to_the_predicted_image(graph, bundle, state):
    robot, _ = running(graph, bundle, state)
    camera = robot.node.create_publisher(message_class(CAMERA_INFO), "/camera/camera_info", 10)
    scaled = robot.listen("/predictor/prediction/camera_info", CAMERA_INFO)
    robot.until(camera.get_subscription_count)
    info: Any = message_class(CAMERA_INFO)(height=48, width=72, k=np.array([60.0, 0, 36, 0, 60, 24, 0, 0, 1]))
    info.header.frame_id = "camera_optical_frame"
    camera.publish(info)
    robot.live(200, done=lambda: scaled)
    assert (scaled[0].height, scaled[0].width) == MANIFEST.image_size
    assert scaled[0].k[0] == pytest.approx(20.0)


def test_model_info_waits_for_whoever_comes_late(graph, bundle, state):
    from rclpy.qos import DurabilityPolicy

    robot, _ = running(graph, bundle, state)
    infos = robot.listen("/predictor/model_info", STRING, depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    robot.until(lambda: infos)
    info = json.loads(infos[0].data)
    assert (info["model_id"], info["backend"], info["horizon"], info["fps"]) == (bundle.model_id, "ort_cpu", 32, 20.0)
    assert [action["name"] for action in info["actions"]] == list(NAMES)
    assert (info["precision"], info["device"], info["threads"], info["cuda_graphs"]) == ("fp32", "CPU", 1, False)
    assert (info["degraded"], info["cause"]) == (False, "")


def test_executed_chunks_and_surprise_are_reported(graph, bundle, state):
    robot, _ = running(graph, bundle, state)
    chunks = robot.listen("/predictor/debug/chunk", STRING)
    surprises = robot.listen("/predictor/surprise", SURPRISE)
    images = robot.listen("/predictor/surprise/image", IMAGE)
    robot.live(300, done=lambda: chunks and len(surprises) >= 3 and images)
    report = json.loads(chunks[0].data)
    assert report["reason"] in EndReason.__members__
    assert report["end_ns"] - report["begin_ns"] == report["length"] * STEP_NS
    assert report["length"] in MANIFEST.segmentation.lengths
    assert "expert" not in report  # nobody denoised what was executed
    assert all(message.header.stamp != message.predicted_at and message.model_id == bundle.model_id for message in surprises)
    compared = [message for message in surprises if message.state != message.STATE_NOT_COMPARABLE]
    assert all(message.error > message.threshold for message in compared if message.state == message.STATE_SURPRISED)
    assert compared[0].threshold == pytest.approx(3.2)
    assert (images[0].height, images[0].width, images[0].encoding) == (*MANIFEST.image_size, "rgb8")


def test_the_threshold_changes_while_the_node_runs_and_the_diagnostics_warn_of_surprises(graph, bundle, state):
    from rclpy.parameter import Parameter

    robot, node = running(graph, bundle, state, surprise__threshold=1000.0)
    diagnostics = robot.listen("/diagnostics", DIAGNOSTICS)
    robot.live(300, done=lambda: figures(diagnostics, "surprise").get("message") == "images are as predicted")
    node.set_parameters([Parameter("surprise.threshold", value=1e-6)])
    robot.live(300, done=lambda: "not as predicted" in figures(diagnostics, "surprise").get("message", ""))
    said = figures(diagnostics, "surprise")
    assert (said["level"], said["threshold"]) == (1, "1e-06")
    assert int(said["images_surprising"]) > 0
    node.set_parameters([Parameter("surprise.threshold", value=0.0)])
    robot.live(300, done=lambda: figures(diagnostics, "surprise").get("message") == "off")


def test_diagnostics_say_how_camera_commands_inference_and_model_are(graph, bundle, state):
    robot, _ = running(graph, bundle, state)
    diagnostics = robot.listen("/diagnostics", DIAGNOSTICS)
    robot.until(lambda: figures(diagnostics, "camera").get("message") == "no image yet")
    robot.until(lambda: figures(diagnostics, "commands").get("message") == "no command yet")
    robot.live(
        200, done=lambda: figures(diagnostics, "inference").get("message") == "predicting" and figures(diagnostics, "camera")["level"] == 0
    )
    inference, model = figures(diagnostics, "inference"), figures(diagnostics, "model")
    assert float(inference["latency_ms_p95"]) >= float(inference["latency_ms_p50"]) > 0
    assert float(inference["remaining_horizon_ms_p5"]) > 0
    assert (model["state"], model["model_id"], model["backend"]) == ("active", bundle.model_id, "ort_cpu")
    assert diagnostics[-1].status[0].hardware_id == bundle.model_id
    robot.until(lambda: figures(diagnostics, "camera")["level"] == 3, seconds=60)


# Input that cannot be used


def bad_images() -> list[Any]:
    kind: Any = message_class(IMAGE)
    return [
        kind(),
        kind(height=4, width=4, encoding="rgb8", step=12, data=b"\x00" * 5),
        kind(height=4, width=4, encoding="no such thing", step=12, data=b"\x00" * 48),
        kind(height=2**32 - 1, width=2**32 - 1, encoding="rgb8", step=2**32 - 1, data=b""),
    ]


def bad_commands(now_ns: int) -> list[Any]:
    nan, short, foreign, backward, over = (trajectory(now_ns, sway(0, 40)) for _ in range(5))
    nan.points[3].positions = [float("nan")] * 3
    short.points[3].positions = [0.0]
    foreign.joint_names = ["elbow", "wrist", "thumb"]
    backward.points[3].time_from_start.sec = -7
    over.header.stamp = time_message(now_ns - 10**11, message_class)
    return [nan, short, foreign, backward, over, message_class("trajectory_msgs/msg/JointTrajectory")()]


@pytest.mark.parametrize("use_fqn", [True, False])
def test_predictors_of_two_robots_say_which_they_are_if_they_are_asked_to(graph, bundle, use_fqn):
    robot = graph.robot()
    diagnostics = robot.listen("/diagnostics", DIAGNOSTICS)
    for namespace in ("/robot_1", "/robot_2"):
        values = {"autostart": False, "diagnostic_updater__period": 0.1, "diagnostic_updater__use_fqn": use_fqn}
        graph.predictor(bundle, namespace=namespace, **values)
    names = {"/robot_1/predictor: model", "/robot_2/predictor: model"} if use_fqn else {"predictor: model"}
    robot.until(lambda: names == {status.name for message in diagnostics for status in message.status})


def test_cpu_time_is_reported_of_the_process_and_of_the_graphs(graph, bundle, state):
    robot, _ = running(graph, bundle, state)
    diagnostics = robot.listen("/diagnostics", DIAGNOSTICS)
    robot.live(400, done=lambda: int(figures(diagnostics, "inference").get("graphs_cpu_ms", 0)) > 0)
    found = figures(diagnostics, "inference")
    assert 0 < int(found["graphs_cpu_ms"]) < int(found["process_cpu_ms"])


def test_bad_input_is_counted_and_the_next_good_one_is_predicted_from(graph, bundle, state):
    robot, _ = running(graph, bundle, state)
    diagnostics = robot.listen("/diagnostics", DIAGNOSTICS)
    videos = robot.listen("/predictor/prediction", PREDICTED_VIDEO)
    for message in bad_images():
        robot.publish_image(message)
    for message in bad_commands(robot.now_ns()):
        robot.command(message)
    counted(robot, diagnostics, "camera", "images_invalid", 4)
    counted(robot, diagnostics, "commands", "commands_invalid", 5)
    counted(robot, diagnostics, "commands", "plans_past", 1)
    stamp_ns = robot.image()
    robot.image(stamp_ns)
    counted(robot, diagnostics, "camera", "frames_duplicate")
    robot.live(200, done=lambda: videos)


def test_a_prediction_that_fails_is_an_error_in_the_diagnostics_and_not_the_end(graph, bundle, state, monkeypatch):
    robot, node = running(graph, bundle, state)
    diagnostics = robot.listen("/diagnostics", DIAGNOSTICS)
    videos = robot.listen("/predictor/prediction", PREDICTED_VIDEO)
    backend = node._session._model.predictor.backend
    monkeypatch.setattr(backend, "denoise", lambda *_: 1 / 0)
    robot.live(200, done=lambda: int(figures(diagnostics, "inference").get("inference_errors", 0)))
    assert figures(diagnostics, "inference")["level"] == 2
    monkeypatch.undo()
    robot.live(200, done=lambda: videos)


# Backends


@pytest.fixture
def machine(bundle, monkeypatch):
    """The kinds of backends that the node finds; every one that it opened must be closed in the end."""
    found = Machine(bundle)
    monkeypatch.setattr("longscape_ros.runtime.backends.all_kinds", lambda: found.kinds)
    return found


@pytest.fixture
def warm_calls(bundle):
    backend = Failing(bundle, "ort_cpu")
    Predictor(bundle, backend).warm_up()
    return backend.calls


def test_a_backend_that_fails_is_replaced_and_diagnostics_and_model_info_say_why(graph, bundle, state, machine, warm_calls):
    machine.add("tensorrt", why_not="no TensorRT").add("ort_cuda", fails_at=warm_calls + 40).add("ort_cpu", on_gpu=False)
    robot, node = running(graph, bundle, state)
    diagnostics, infos = robot.listen("/diagnostics", DIAGNOSTICS), robot.listen("/predictor/model_info", STRING)
    videos = robot.listen("/predictor/prediction", PREDICTED_VIDEO)
    robot.live(400, done=lambda: len(videos) >= 2 and videos[-1].status == Status.DEGRADED)
    assert videos[0].status == Status.OK
    robot.live(200, done=lambda: figures(diagnostics, "model").get("backend") == "ort_cpu" and infos)
    model, info = figures(diagnostics, "model"), json.loads(infos[-1].data)
    cause = "ort_cuda in fp32 failed while it ran: ort_cuda is out of memory"
    assert (model["level"], model["message"], model["cause"]) == (1, cause, cause)
    assert (model["precision"], model["device"], model["cuda_graphs"]) == ("fp32", "a GPU that is a CPU", "off")
    assert model["not_used"] == "tensorrt: no TensorRT; ort_cuda in fp32: failed while it ran: ort_cuda is out of memory"
    assert (info["backend"], info["degraded"], info["cause"]) == ("ort_cpu", True, cause)
    assert list(info["not_used"]) == ["tensorrt", "ort_cuda in fp32"]
    assert figures(diagnostics, "inference")["inference_errors"] == "0"
    node.close()
    assert machine.left_open == []


def test_engines_are_built_while_it_predicts_and_then_they_take_over(graph, bundle, state, machine, tmp_path):
    go = tmp_path / "go"
    wait = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\nprint('{{\"finished\": true}}', flush=True)"
    machine.add("tensorrt", engines=built_by(script(progress(3, 6, 0.52), then=wait))).add("ort_cpu", on_gpu=False)
    robot, node = running(graph, bundle, state)
    diagnostics = robot.listen("/diagnostics", DIAGNOSTICS)
    videos = robot.listen("/predictor/prediction", PREDICTED_VIDEO)
    robot.live(200, done=lambda: videos and figures(diagnostics, "model").get("message") == "building engines: 3 of 6, 42 %")
    assert videos[-1].status == Status.DEGRADED
    assert (figures(diagnostics, "model")["level"], figures(diagnostics, "model")["backend"]) == (1, "ort_cpu")
    go.touch()
    robot.live(400, done=lambda: videos[-1].status == Status.OK)
    robot.live(200, done=lambda: figures(diagnostics, "model")["level"] == 0)
    assert figures(diagnostics, "model")["backend"] == "tensorrt"
    node.close()
    assert machine.left_open == []


def test_a_precision_that_the_backend_has_not_fails_the_transition_and_says_which_has(graph, bundle):
    node = graph.predictor(bundle, autostart=False, model__backend="ort_cpu", model__precision="fp16")
    assert transitions(node, "configure") == ["FAILURE"]
    assert "fp16 is for tensorrt" in node._fault


def test_a_model_that_was_loaded_for_nothing_is_closed(graph, bundle, state, machine):
    """It was loaded in the background, and other parameters came before it was used."""
    machine.add("ort_cpu", on_gpu=False)
    node = graph.predictor(bundle, autostart=False)
    node._load()
    assert machine.left_open == ["ort_cpu"]
    assert set_parameter(node, "horizon", 8).successful
    assert transitions(node, "configure") == ["SUCCESS"]
    assert [backend.closed for backend in machine.opened] == [1, 0]
    node._load()
    node.close()
    assert machine.left_open == []


# Building only


def test_build_only_builds_what_is_missing_and_ends_spinning(graph, bundle, state, machine, tmp_path):
    built = tmp_path / "built"
    engines = Engines(lambda *_: built.exists(), lambda *_: script({"finished": True}, then=f"open({str(built)!r}, 'w')"))
    machine.add("tensorrt", engines=engines).add("ort_cpu", on_gpu=False)
    node = graph.predictor(bundle, build_only=True)
    assert until(lambda: (graph.executor.spin_once(timeout_sec=0.01), not graph.context.ok())[1])
    assert (state(node), built.exists()) == ("unconfigured", True)
    assert [backend.name for backend in machine.opened] == ["tensorrt"]
    assert machine.left_open == []


def test_build_only_fails_where_a_better_backend_should_work(graph, bundle, machine):
    machine.add("tensorrt", engines=built_by(script({"fault": "unsupported operator"}, code=1))).add("ort_cpu", on_gpu=False)
    graph.predictor(bundle, build_only=True)
    with pytest.raises(BackendError, match="engines of tensorrt in fp32 cannot be built: unsupported operator"):
        until(lambda: graph.executor.spin_once(timeout_sec=0.01))


def test_build_only_fails_where_what_was_built_does_not_run(graph, bundle, machine):
    machine.add("tensorrt", opens=False).add("ort_cpu", on_gpu=False)
    graph.predictor(bundle, build_only=True)
    with pytest.raises(BackendError, match=r"runs on ort_cpu only, .*: tensorrt in fp32: tensorrt does not open"):
        until(lambda: graph.executor.spin_once(timeout_sec=0.01))


# Refusals


def test_a_robot_with_other_action_names_is_refused_before_anything_is_published(graph, bundle, tmp_path):
    mapping = tmp_path / "mapping.yaml"
    save_mapping(mapping, another_robot())
    robot = graph.robot()
    graph.predictor(bundle, mapping=str(mapping))
    with pytest.raises(BundleError, match=r"expected the action names \['x', 'y', 'gripper'\], found \['joint_x'"):
        robot.until(lambda: False)
    assert not robot.node.get_publishers_info_by_topic("/predictor/prediction")


def test_a_bundle_without_a_mapping_asks_for_one(graph, tmp_path):
    robot = graph.robot()
    graph.predictor(write_robot_bundle(tmp_path / "bundle", mapping=None))
    with pytest.raises(BundleError, match="name one in the parameter 'mapping'"):
        robot.until(lambda: False)


def test_a_mapping_file_takes_the_place_of_the_bundles(graph, bundle, state, tmp_path):
    renamed = another_robot()
    own = write_robot_bundle(tmp_path / "bundle", action_space=type(MANIFEST.action_space)(renamed.dimensions))
    save_mapping(tmp_path / "mapping.yaml", renamed)
    _, node = running(graph, own, state, mapping=str(tmp_path / "mapping.yaml"))
    assert node.count_subscribers(TRAJECTORY_TOPIC) == 1


# Lifecycle


def transitions(node: Any, *names: str) -> list[str]:
    return [getattr(node, f"trigger_{name}")().name for name in names]


def test_without_autostart_a_manager_takes_the_node_through_its_states(graph, bundle, state):
    node = graph.predictor(bundle, autostart=False)
    assert state(node) == "unconfigured"
    assert transitions(node, "configure", "activate", "deactivate", "cleanup", "configure", "activate", "deactivate") == ["SUCCESS"] * 7
    assert state(node) == "inactive"
    assert transitions(node, "shutdown") == ["SUCCESS"]


def test_a_signal_while_it_configures_is_no_fault_of_its_own(graph, bundle, capfd):
    from rclpy.lifecycle import LifecycleState

    node = graph.predictor(bundle, autostart=False)
    graph.context.try_shutdown()
    assert node.on_configure(LifecycleState("unconfigured", 1)).name == "FAILURE"
    assert "Traceback" not in capfd.readouterr().err


def test_while_it_is_configured_collections_of_garbage_pass_its_objects_by(graph, bundle, state):
    _, node = running(graph, bundle, state)
    assert gc.get_freeze_count() > 10_000
    assert transitions(node, "deactivate", "cleanup") == ["SUCCESS", "SUCCESS"]
    assert gc.get_freeze_count() == 0


def test_while_inactive_it_listens_and_publishes_no_prediction(graph, bundle, state):
    robot, node = running(graph, bundle, state)
    diagnostics = robot.listen("/diagnostics", DIAGNOSTICS)
    videos = robot.listen("/predictor/prediction", PREDICTED_VIDEO)
    robot.live(200, done=lambda: videos)
    transitions(node, "deactivate")
    robot.until(lambda: figures(diagnostics, "model").get("state") == "inactive")
    videos.clear()
    before = int(figures(diagnostics, "camera")["images"])
    robot.live(200, done=lambda: int(figures(diagnostics, "camera")["images"]) >= before + 5)
    assert videos == []
    transitions(node, "activate")
    robot.live(200, done=lambda: videos)


def test_cleaning_up_leaves_every_topic(graph, bundle, state):
    robot, node = running(graph, bundle, state)
    assert transitions(node, "deactivate", "cleanup") == ["SUCCESS", "SUCCESS"]
    robot.until(lambda: not robot.node.get_publishers_info_by_topic("/predictor/prediction"))
    robot.until(lambda: not robot.node.count_subscribers(TRAJECTORY_TOPIC))
    assert state(node) == "unconfigured"


def test_a_bundle_that_cannot_be_loaded_fails_the_transition_and_says_why(graph, tmp_path, state):
    node = graph.predictor(tmp_path / "nowhere", autostart=False, diagnostic_updater__period=0.1)
    robot = graph.robot()
    diagnostics = robot.listen("/diagnostics", DIAGNOSTICS)
    assert transitions(node, "configure") == ["FAILURE"]
    assert state(node) == "unconfigured"
    robot.until(lambda: "found no such folder" in figures(diagnostics, "model").get("message", ""))
    assert figures(diagnostics, "model")["level"] == 2


def test_after_a_failure_the_right_bundle_can_be_set_and_configured(graph, bundle, tmp_path, state):
    node = graph.predictor(tmp_path / "nowhere", autostart=False)
    transitions(node, "configure")
    assert set_parameter(node, "model.bundle", str(bundle.path)).successful
    assert transitions(node, "configure", "activate") == ["SUCCESS", "SUCCESS"]


def test_a_fault_nobody_thought_of_leaves_the_node_unconfigured(graph, bundle, state, monkeypatch):
    from longscape_ros.nodes import predictor_node

    node = graph.predictor(bundle, autostart=False)
    monkeypatch.setattr(predictor_node, "load_model", lambda _: 1 / 0)
    assert transitions(node, "configure") == ["ERROR"]
    assert state(node) == "unconfigured"
    monkeypatch.undo()
    assert transitions(node, "configure") == ["SUCCESS"]


# Parameters


def test_what_takes_effect_at_configuring_cannot_be_set_later(graph, bundle, state):
    _, node = running(graph, bundle, state)
    refused = set_parameter(node, "horizon", 8)
    assert not refused.successful
    assert "clean it up first" in refused.reason
    assert node.get_parameter("horizon").value == 0


def test_values_out_of_range_or_choice_are_refused(graph, bundle, state):
    node = graph.predictor(bundle, autostart=False)
    assert not set_parameter(node, "horizon", -1).successful
    refused = set_parameter(node, "plan_extension", "guess")
    assert (refused.successful, refused.reason) == (False, "Got plan_extension = 'guess', expected one of none, hold.")
    assert not set_parameter(node, "autostart", True).successful


def test_the_rate_of_predictions_can_be_changed_while_it_runs(graph, bundle, state):
    robot, node = running(graph, bundle, state)
    assert set_parameter(node, "prediction_rate", 2.0).successful
    videos = robot.listen("/predictor/prediction", PREDICTED_VIDEO)
    robot.live(30)
    stamps = np.array([nanoseconds(message.header.stamp) for message in videos])
    assert len(stamps) <= 5
    assert (np.diff(stamps) > 8 * STEP_NS).all()


def test_horizon_and_extension_are_the_configured_ones(graph, bundle, state):
    robot, _ = running(graph, bundle, state, horizon=20, plan_extension="none")
    videos = robot.listen("/predictor/prediction", PREDICTED_VIDEO)
    robot.live(200, done=lambda: videos, plan_every=8, plan_steps=12)
    prediction = prediction_from_message(videos[0])
    assert 0 < len(prediction.frames) <= 16
    assert prediction.status == Status.DEGRADED


# Clock


def test_a_simulated_clock_that_goes_back_flushes_and_predictions_go_on(graph, bundle, state):
    robot, _ = running(graph, bundle, state, use_sim_time=True)
    diagnostics = robot.listen("/diagnostics", DIAGNOSTICS)
    videos = robot.listen("/predictor/prediction", PREDICTED_VIDEO)
    clock_type: Any = message_class("rosgraph_msgs/msg/Clock")
    clock = robot.node.create_publisher(clock_type, "/clock", 10)
    robot.until(clock.get_subscription_count)

    def play(begin_ns: int, steps: int, plan: bool = True) -> None:
        """The robot's messages over some steps of simulated time, each heard before the next."""
        for step in range(steps):
            now_ns = begin_ns + step * STEP_NS
            clock.publish(clock_type(clock=time_message(now_ns, message_class)))
            if step == 0 and plan:
                robot.plan(start_ns=now_ns, steps=200)
            seen = int(figures(diagnostics, "camera").get("images", 0))
            robot.image(now_ns, shade=step)
            robot.until(lambda seen=seen: int(figures(diagnostics, "camera").get("images", 0)) > seen)

    play(100 * 10**9, 6)
    robot.until(lambda: videos)
    assert 99e9 < nanoseconds(videos[-1].header.stamp) < 101e9
    videos.clear()
    play(50 * 10**9, 6)
    robot.until(lambda: videos)
    assert nanoseconds(videos[-1].header.stamp) < 51e9
    assert int(figures(diagnostics, "clock")["clock_jumps"]) >= 1
