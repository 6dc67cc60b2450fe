# SPDX-License-Identifier: Apache-2.0
"""The predictor in a process of its own, configured and driven from outside as `ros2 param` and `ros2 lifecycle` do it."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from support.robot import isolated_environment, write_robot_bundle

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_robot_bundle(tmp_path_factory.mktemp("bundles") / "robot")


@pytest.fixture
def predictor(ros, bundle, own_domain, tmp_path):
    """A predictor that waits for a lifecycle manager: its process; its log is beside it."""
    parameters = (f"model.bundle:={bundle.path}", "model.threads:=1", "model.backend:=ort_cpu", "autostart:=false")
    arguments = ["--ros-args", *(word for parameter in parameters for word in ("-p", parameter))]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "longscape_ros.nodes.predictor", *arguments],
            env=isolated_environment(own_domain),
            stdout=log,
            stderr=log,
        )
    yield process
    process.terminate()
    try:
        assert process.wait(PATIENCE_S) == 0, (tmp_path / "log").read_text()
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.fixture
def ask(ros, predictor):
    """ask(service type, name, request's fields) gives the response of one of the predictor's services."""
    import lifecycle_msgs.srv
    import rcl_interfaces.srv

    node, clients = ros.node("manager"), {}

    def call(kind, name, **fields):
        service = getattr(rcl_interfaces.srv, kind, None) or getattr(lifecycle_msgs.srv, kind)
        if name not in clients:
            clients[name] = node.create_client(service, f"/predictor/{name}")
            assert ros.until(clients[name].service_is_ready, PATIENCE_S)
        return ros.answer(clients[name], service.Request(**fields))

    return call


@pytest.fixture
def put(ask):
    """put(name, value) sets a parameter; (successful, reason)."""
    from rclpy.parameter import Parameter

    def call(name, value):
        parameter = Parameter(name, value=value).to_parameter_msg()
        (result,) = ask("SetParameters", "set_parameters", parameters=[parameter]).results
        return result.successful, result.reason

    return call


@pytest.fixture
def change(ask):
    """change(label) asks for a transition: whether it succeeded, and the state after that."""
    from lifecycle_msgs.msg import Transition

    def call(label):
        success = ask("ChangeState", "change_state", transition=Transition(label=label)).success
        return success, ask("GetState", "get_state").current_state.label

    return call


def test_a_lifecycle_manager_takes_the_predictor_through_its_life(ros, ask, change, bundle):
    from lifecycle_msgs.msg import TransitionEvent
    from rclpy.qos import DurabilityPolicy, QoSProfile
    from std_msgs.msg import String

    watching, infos, events = ros.node("watching"), [], []
    kept = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    watching.create_subscription(String, "/predictor/model_info", infos.append, kept)
    watching.create_subscription(TransitionEvent, "/predictor/transition_event", events.append, 100)
    assert ask("GetState", "get_state").current_state.label == "unconfigured"
    assert ros.until(lambda: watching.count_publishers("/predictor/transition_event") == 1)
    assert change("activate") == (False, "unconfigured")
    assert change("configure") == (True, "inactive")
    assert ros.until(lambda: infos)
    assert bundle.model_id in infos[0].data
    assert change("activate") == (True, "active")
    assert ros.until(lambda: watching.count_subscribers("/predictor/input/image") == 1)
    assert change("deactivate") == (True, "inactive")
    assert change("cleanup") == (True, "unconfigured")
    assert ros.until(lambda: watching.count_subscribers("/predictor/input/image") == 0)
    assert change("shutdown") == (True, "finalized")
    assert ros.until(lambda: any(event.goal_state.label == "finalized" for event in events))
    ways = ask("GetAvailableTransitions", "get_available_transitions").available_transitions
    assert list(ways) == []


def test_parameters_of_the_predictor_are_read_and_set_from_another_process(ros, ask, put, change, bundle):
    names = ask("ListParameters", "list_parameters").result.names
    assert {"model.bundle", "image_step", "autostart", "use_sim_time"} <= set(names)
    values = ask("GetParameters", "get_parameters", names=["model.bundle", "autostart"]).values
    assert (values[0].string_value, values[1].bool_value) == (str(bundle.path), False)
    described = ask("DescribeParameters", "describe_parameters", names=["autostart", "image_step"]).descriptors
    assert [(each.read_only, bool(each.description)) for each in described] == [(True, True), (False, True)]
    assert put("image_step", 2) == (True, "")
    (value,) = ask("GetParameters", "get_parameters", names=["image_step"]).values
    assert value.integer_value == 2
    for name, wrong in (("image_step", "two"), ("image_step", -5), ("autostart", True), ("unheard_of", 1), ("output_qos", "loud")):
        successful, reason = put(name, wrong)
        assert not successful, name
        assert reason, name
    assert change("configure") == (True, "inactive")
    successful, reason = put("model.bundle", "/elsewhere")
    assert not successful
    assert reason
    assert put("image_step", 1) == (True, "")
    assert change("cleanup") == (True, "unconfigured")
    assert put("model.bundle", "/elsewhere") == (True, "")
    assert change("configure") == (False, "unconfigured")
    assert put("model.bundle", str(bundle.path)) == (True, "")
    assert change("configure") == (True, "inactive")


def test_a_signal_ends_the_predictor_while_others_ask_it(ros, ask, predictor):
    import rcl_interfaces.srv

    assert ask("GetState", "get_state").current_state.label == "unconfigured"
    client = ros.node("busy").create_client(rcl_interfaces.srv.ListParameters, "/predictor/list_parameters")
    assert ros.until(client.service_is_ready)
    futures = [client.call_async(rcl_interfaces.srv.ListParameters.Request()) for _ in range(8)]
    predictor.send_signal(signal.SIGINT)
    assert ros.until(lambda: predictor.poll() is not None)
    assert predictor.returncode == 0
    assert ros.until(lambda: not client.service_is_ready())
    assert all(future.done() or future.result() is None for future in futures)
