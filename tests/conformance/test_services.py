# SPDX-License-Identifier: Apache-2.0
"""Services and clients: asking, answering, coming and going."""

from __future__ import annotations

import signal
import threading
import time

import pytest
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
from rcl_interfaces.msg import ParameterDescriptor
from rcl_interfaces.srv import DescribeParameters, ListParameters
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.exceptions import InvalidHandle, InvalidServiceNameException
from rclpy.executors import MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.node import NodeNameNonExistentError
from support.ros import DOOR, PATIENCE_S

PROGRAM = f"""{DOOR}
import contextlib
import sys
import rclpy
from rcl_interfaces.msg import ParameterDescriptor
from rcl_interfaces.srv import DescribeParameters
from rclpy.executors import ExternalShutdownException
rclpy.init(args=[])
"""
ECHO_SERVER = f"""{PROGRAM}
def echo(request, response):
    response.descriptors = [ParameterDescriptor(name=name, description="echoed") for name in request.names]
    return response

node = rclpy.create_node("echo", namespace="/robot")
service = node.create_service(DescribeParameters, "say", echo)
print("ready", flush=True)
with contextlib.suppress(ExternalShutdownException):
    rclpy.spin(node)
"""
ASKING_CLIENT = f"""{PROGRAM}
node = rclpy.create_node("asking")
client = node.create_client(DescribeParameters, "/robot/say")
assert client.wait_for_service(timeout_sec=60.0)
right = 0
for number in range(20):
    names = [f"{{sys.argv[1]}} {{number}}"]
    future = client.call_async(DescribeParameters.Request(names=names))
    rclpy.spin_until_future_complete(node, future, timeout_sec=60.0)
    right += [descriptor.name for descriptor in future.result().descriptors] == names
print(right)
"""


@pytest.fixture
def start_echo(start):
    """Starts the service /robot/say in a process of its own, and has it leave at the end."""
    started = []

    def run():
        started.append(start(ECHO_SERVER))
        assert started[-1].stdout.readline() == "ready\n"
        return started[-1]

    yield run
    for process in started:
        process.terminate()
    for process in started:
        process.communicate(timeout=PATIENCE_S)


@pytest.fixture
def echo(ros):
    """Makes the service `say` of a node, which gives back the names it is told; says which it was told."""

    def make(node, name="say", **options):
        told = []

        def answer(request, response):
            told.append(list(request.names))
            response.descriptors = [ParameterDescriptor(name=text) for text in request.names]
            return response

        node.create_service(DescribeParameters, name, answer, **options)
        return told

    return make


@pytest.fixture
def spinning(ros):
    """Spins other nodes in a thread of its own: spinning(executor class, nodes...) gives the executor."""
    started = []

    def start(kind, *nodes):
        executor = kind(context=ros.context)
        for node in nodes:
            ros.executor.remove_node(node)
            executor.add_node(node)
        thread = threading.Thread(target=executor.spin, daemon=True)
        thread.start()
        started.append((executor, thread))
        return executor

    yield start
    for executor, thread in started:
        executor.shutdown()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def said(response):
    return [descriptor.name for descriptor in response.descriptors]


# Asking and answering


def test_a_service_of_another_process_answers(ros, start_echo):
    start_echo()
    client = ros.node().create_client(DescribeParameters, "/robot/say")
    response = ros.answer(client, DescribeParameters.Request(names=["left", "right"]))
    assert [(descriptor.name, descriptor.description) for descriptor in response.descriptors] == [("left", "echoed"), ("right", "echoed")]


def test_a_client_of_another_process_is_answered(ros, echo, start):
    told = echo(ros.node("node", namespace="/robot"))
    process = start(ASKING_CLIENT, "it")
    assert ros.until(lambda: process.poll() is not None)
    assert process.communicate() == ("20\n", "")
    assert told == [[f"it {number}"] for number in range(20)]


def test_clients_in_one_process_and_in_others_get_their_own_responses_alone(ros, start_echo, start):
    start_echo()
    others = [start(ASKING_CLIENT, name) for name in ("one", "two")]
    node = ros.node()
    clients = [node.create_client(DescribeParameters, "/robot/say") for _ in range(4)]
    assert ros.until(lambda: all(client.service_is_ready() for client in clients))
    for turn in range(10):
        asked = {f"{index} {turn}": client for index, client in enumerate(clients)}
        futures = {tag: client.call_async(DescribeParameters.Request(names=[tag])) for tag, client in asked.items()}
        assert all(ros.until(future.done) for future in futures.values())
        assert {tag: said(future.result()) for tag, future in futures.items()} == {tag: [tag] for tag in futures}
    assert [process.communicate(timeout=PATIENCE_S) for process in others] == [("20\n", "")] * 2


def test_a_late_client_gets_the_response_to_its_own_request_and_no_earlier_one(ros, echo):
    node = ros.node()
    echo(node)
    first = node.create_client(DescribeParameters, "say")
    assert said(ros.answer(first, DescribeParameters.Request(names=["early"]))) == ["early"]
    late = ros.node("late").create_client(DescribeParameters, "say")
    assert said(ros.answer(late, DescribeParameters.Request(names=["late"]))) == ["late"]


def test_several_requests_of_one_client_are_told_apart(ros, echo):
    node = ros.node()
    told = echo(node)
    client = node.create_client(DescribeParameters, "say")
    assert ros.until(client.service_is_ready)
    futures = [client.call_async(DescribeParameters.Request(names=[str(number)])) for number in range(8)]
    assert ros.until(lambda: all(future.done() for future in futures))
    assert [said(future.result()) for future in futures] == [[str(number)] for number in range(8)]
    assert told == [[str(number)] for number in range(8)]


def test_a_message_without_fields_makes_a_service_too(ros):
    node, asked = ros.node(), []

    def answer(request, response):
        asked.append(request)
        response.current_state = State(id=3, label="active")
        return response

    node.create_service(GetState, "state", answer)
    response = ros.answer(node.create_client(GetState, "state"), GetState.Request())
    assert (response.current_state, asked) == (State(id=3, label="active"), [GetState.Request()])


def test_two_services_of_one_name_answer_once(ros, echo):
    told = [echo(ros.node(name)) for name in ("one", "two")]
    node = ros.node("asking")
    client = node.create_client(DescribeParameters, "say")
    assert ros.until(lambda: node.count_services("say") == 2)
    done = []
    assert ros.until(client.service_is_ready)
    assert ros.until(lambda: all(ros.answer(client, DescribeParameters.Request(names=["x"])) and told_one for told_one in told))
    client.call_async(DescribeParameters.Request(names=["y"])).add_done_callback(lambda future: done.append(said(future.result())))
    assert ros.until(lambda: done and all(["y"] in told_one for told_one in told))
    assert said(ros.answer(client, DescribeParameters.Request(names=["z"]))) == ["z"]
    assert done == [["y"]]


# A service that comes and goes


def test_a_service_that_is_not_there_is_waited_for_in_vain(ros):
    client = ros.node().create_client(DescribeParameters, "nobody")
    assert not client.service_is_ready()
    assert not client.wait_for_service(timeout_sec=0.3)


def test_a_service_that_leaves_is_missed_and_one_that_comes_is_found(ros, start_echo):
    client = ros.node().create_client(DescribeParameters, "/robot/say")
    first = start_echo()
    assert said(ros.answer(client, DescribeParameters.Request(names=["a"]))) == ["a"]
    first.send_signal(signal.SIGTERM)
    assert ros.until(lambda: not client.service_is_ready())
    lost = client.call_async(DescribeParameters.Request(names=["lost"]))
    assert not ros.until(lost.done, patience_s=0.5)
    start_echo()
    assert said(ros.answer(client, DescribeParameters.Request(names=["b"]))) == ["b"]
    assert not lost.done()


def test_a_destroyed_service_answers_no_more(ros, echo):
    node = ros.node()
    echo(node)
    (service,) = (service for service in node.services if service.srv_name == "say")
    client = node.create_client(DescribeParameters, "say")
    assert said(ros.answer(client, DescribeParameters.Request(names=["a"]))) == ["a"]
    assert node.destroy_service(service)
    assert not node.destroy_service(service)
    assert ros.until(lambda: not client.service_is_ready())
    assert service not in node.services


def test_a_destroyed_client_cannot_be_used(ros):
    node = ros.node()
    client = node.create_client(DescribeParameters, "say")
    assert client in node.clients
    assert node.destroy_client(client)
    assert not node.destroy_client(client)
    with pytest.raises(InvalidHandle):
        client.service_is_ready()
    with pytest.raises(InvalidHandle):
        client.call_async(DescribeParameters.Request())


def test_a_destroyed_node_takes_its_services_along(ros, echo):
    owner, other = ros.node("owner"), ros.node("other")
    echo(owner)
    client = other.create_client(DescribeParameters, "say")
    assert ros.until(client.service_is_ready)
    owner.destroy_node()
    assert ros.until(lambda: not client.service_is_ready())


# Futures


def test_a_request_that_is_given_up_is_never_answered(ros, echo):
    node = ros.node()
    told = echo(node)
    client = node.create_client(DescribeParameters, "say")
    assert ros.until(client.service_is_ready)
    given_up = client.call_async(DescribeParameters.Request(names=["given up"]))
    client.remove_pending_request(given_up)
    assert said(ros.answer(client, DescribeParameters.Request(names=["kept"]))) == ["kept"]
    assert told == [["given up"], ["kept"]]
    assert not given_up.done()


def test_a_cancelled_future_stays_cancelled(ros, echo):
    node = ros.node()
    echo(node)
    client = node.create_client(DescribeParameters, "say")
    assert ros.until(client.service_is_ready)
    cancelled = client.call_async(DescribeParameters.Request(names=["cancelled"]))
    cancelled.cancel()
    assert said(ros.answer(client, DescribeParameters.Request(names=["kept"]))) == ["kept"]
    assert cancelled.cancelled()
    assert cancelled.result() is None


def test_callbacks_of_a_future_run_where_the_node_is_spun(ros, echo):
    node = ros.node()
    echo(node)
    client = node.create_client(DescribeParameters, "say")
    assert ros.until(client.service_is_ready)
    ran = []
    future = client.call_async(DescribeParameters.Request(names=["x"]))
    future.add_done_callback(lambda done: ran.append((said(done.result()), threading.current_thread())))
    assert ros.until(lambda: ran)
    assert ran == [(["x"], threading.current_thread())]


def test_a_call_waits_while_another_thread_spins(ros, echo, spinning):
    serving, asking = ros.node("serving"), ros.node("asking")
    echo(serving)
    client = asking.create_client(DescribeParameters, "say")
    spinning(SingleThreadedExecutor, serving, asking)
    assert client.wait_for_service(timeout_sec=PATIENCE_S)
    assert said(client.call(DescribeParameters.Request(names=["x"]))) == ["x"]
    assert said(client.call(DescribeParameters.Request(names=["y"]), timeout_sec=PATIENCE_S)) == ["y"]


def test_a_call_that_nobody_answers_ends_with_none_after_its_timeout(ros):
    client = ros.node().create_client(DescribeParameters, "nobody")
    begin = time.monotonic()
    assert client.call(DescribeParameters.Request(), timeout_sec=0.2) is None
    assert time.monotonic() - begin >= 0.2


# Callbacks


def test_an_exception_in_a_callback_comes_out_of_spinning_and_the_next_request_is_answered(ros):
    node = ros.node()

    def switch(request, response):
        if request.depth:
            raise ArithmeticError("broken")
        response.result.names = ["off"]
        return response

    node.create_service(ListParameters, "lamp", switch)
    client = node.create_client(ListParameters, "lamp")
    assert ros.until(client.service_is_ready)
    unanswered = client.call_async(ListParameters.Request(depth=1))
    with pytest.raises(ArithmeticError, match="broken"):
        ros.until(unanswered.done)
    assert ros.answer(client, ListParameters.Request()).result.names == ["off"]
    assert not unanswered.done()


def test_a_callback_must_give_a_response(ros):
    node = ros.node()
    node.create_service(GetState, "go", lambda request, response: None)
    client = node.create_client(GetState, "go")
    assert ros.until(client.service_is_ready)
    future = client.call_async(GetState.Request())
    with pytest.raises(TypeError):
        ros.until(future.done)


def test_a_coroutine_answers_when_it_ends_and_may_ask_others(ros, echo):
    node = ros.node()
    echo(node)
    inner = node.create_client(DescribeParameters, "say")

    async def relay(request, response):
        heard = await inner.call_async(DescribeParameters.Request(names=["through"]))
        response.current_state.label = said(heard)[0]
        return response

    node.create_service(GetState, "relay", relay, callback_group=ReentrantCallbackGroup())
    assert ros.until(inner.service_is_ready)
    response = ros.answer(node.create_client(GetState, "relay"), GetState.Request())
    assert response.current_state.label == "through"


def test_a_callback_may_wait_for_another_service_of_another_group(ros, echo, spinning):

    node = ros.node()
    echo(node, callback_group=MutuallyExclusiveCallbackGroup())
    inner = node.create_client(DescribeParameters, "say", callback_group=MutuallyExclusiveCallbackGroup())

    def relay(request, response):
        response.current_state.label = said(inner.call(DescribeParameters.Request(names=["waited"]), timeout_sec=PATIENCE_S))[0]
        return response

    node.create_service(GetState, "relay", relay, callback_group=MutuallyExclusiveCallbackGroup())
    asking = node.create_client(GetState, "relay", callback_group=MutuallyExclusiveCallbackGroup())
    spinning(lambda context: MultiThreadedExecutor(num_threads=4, context=context), node)
    assert inner.wait_for_service(timeout_sec=PATIENCE_S)
    assert asking.wait_for_service(timeout_sec=PATIENCE_S)
    assert asking.call(GetState.Request(), timeout_sec=PATIENCE_S).current_state.label == "waited"


def test_callbacks_of_one_exclusive_group_run_one_at_a_time(ros, spinning):

    node = ros.node()
    running, most = [], []

    def work(request, response):
        running.append(1)
        most.append(len(running))
        time.sleep(0.02)
        running.pop()
        return response

    group = MutuallyExclusiveCallbackGroup()
    for name in ("a", "b"):
        node.create_service(ListParameters, name, work, callback_group=group)
    clients = [node.create_client(ListParameters, name, callback_group=MutuallyExclusiveCallbackGroup()) for name in ("a", "b")]
    spinning(lambda context: MultiThreadedExecutor(num_threads=4, context=context), node)
    assert all(client.wait_for_service(timeout_sec=PATIENCE_S) for client in clients)
    futures = [client.call_async(ListParameters.Request()) for _ in range(3) for client in clients]
    end = time.monotonic() + PATIENCE_S
    while not all(future.done() for future in futures) and time.monotonic() < end:
        time.sleep(0.01)
    assert most == [1] * 6


# Types and names


def test_what_is_no_request_or_no_service_type_is_refused(ros):
    node = ros.node()
    client = node.create_client(DescribeParameters, "say")
    for wrong in (DescribeParameters.Response(), GetState.Request(), None):
        with pytest.raises(TypeError):
            client.call_async(wrong)
        with pytest.raises(TypeError):
            client.call(wrong)
    for wrong in (DescribeParameters.Request, str):
        with pytest.raises((AttributeError, RuntimeError)):
            node.create_client(wrong, "say")


def test_a_service_class_holds_its_messages_and_has_no_instances():
    assert ListParameters.Request(depth=1).depth == 1
    assert GetState.Response(current_state=State(id=3)) == GetState.Response(current_state=State(id=3))
    assert ListParameters.Request.get_fields_and_field_types() == {"prefixes": "sequence<string>", "depth": "uint64"}
    assert GetState.Response.get_fields_and_field_types() == {"current_state": "lifecycle_msgs/State"}
    assert repr(ListParameters.Request(depth=1)) == "rcl_interfaces.srv.ListParameters_Request(prefixes=[], depth=1)"
    with pytest.raises(NotImplementedError):
        GetState()


def test_names_are_expanded_and_remapped(ros):
    node = ros.node("n", "-r lamp:=/hall/lamp -r rosservice://door:=gate -r rostopic://bell:=gong -r __ns:=/house")
    names = {name: node.create_service(ListParameters, name, print).service_name for name in ("lamp", "door", "bell", "~/own", "/top")}
    assert names == {"lamp": "/hall/lamp", "door": "/house/gate", "bell": "/house/bell", "~/own": "/house/n/own", "/top": "/top"}
    assert node.resolve_service_name("lamp") == "/hall/lamp"
    assert node.resolve_service_name("lamp", only_expand=True) == "/house/lamp"
    assert node.create_client(ListParameters, "door").service_name == "/house/gate"


@pytest.mark.parametrize("name", ["1 bad", "a//b", "a/", "", "{nobody}/a"])
def test_names_that_are_none_are_refused(ros, name):
    node = ros.node()
    for create in (lambda: node.create_client(ListParameters, name), lambda: node.create_service(ListParameters, name, print)):
        with pytest.raises((InvalidServiceNameException, ValueError)):
            create()


def test_services_and_clients_are_seen_in_the_graph(ros, start_echo):
    start_echo()
    node = ros.node("seeing", namespace="/eye")
    node.create_client(DescribeParameters, "/robot/say")
    node.create_client(GetState, "nobody")
    echo_type = ["rcl_interfaces/srv/DescribeParameters"]
    assert ros.until(lambda: dict(node.get_service_names_and_types()).get("/robot/say") == echo_type)
    assert dict(node.get_service_names_and_types())["/eye/nobody"] == ["lifecycle_msgs/srv/GetState"]  # ROS lists what only clients know
    assert ros.until(lambda: "echo" in node.get_node_names())
    assert ros.until(lambda: dict(node.get_service_names_and_types_by_node("echo", "/robot")).get("/robot/say") == echo_type)
    assert ros.until(lambda: len(node.get_client_names_and_types_by_node("seeing", "/eye")) == 2)
    assert dict(node.get_client_names_and_types_by_node("seeing", "/eye")) == {
        "/robot/say": echo_type,
        "/eye/nobody": ["lifecycle_msgs/srv/GetState"],
    }
    assert "/robot/say" not in dict(node.get_service_names_and_types_by_node("seeing", "/eye"))
    assert "/robot/say" not in dict(node.get_topic_names_and_types())
    assert (node.count_services("/robot/say"), node.count_clients("/robot/say")) == (1, 1)
    assert (node.count_services("nobody"), node.count_clients("nobody")) == (0, 1)
    with pytest.raises(NodeNameNonExistentError):
        node.get_service_names_and_types_by_node("nobody", "/")
    with pytest.raises(NodeNameNonExistentError):
        node.get_client_names_and_types_by_node("nobody", "/")
