# SPDX-License-Identifier: Apache-2.0
"""Executors from inside: what was ready before a change, what ends a wait that begins, and signals while a message is taken."""

from __future__ import annotations

import contextlib
import threading

import pytest
from support.ros import NODE_WITH_ALARMS, PATIENCE_S

from longscape_ros.embedded import api
from longscape_ros.embedded.executors import ExternalShutdownException, MultiThreadedExecutor, SingleThreadedExecutor
from longscape_ros.embedded.task import Future


def test_callbacks_of_a_removed_node_rest_even_if_they_were_ready_before(make_node):
    node, other = make_node("removed"), make_node("other")
    ran = []
    for name in "ab":
        node.create_guard_condition(lambda name=name: ran.append(name)).trigger()
    other.create_guard_condition(lambda: ran.append("other")).trigger()
    api.spin_once(node, timeout_sec=0)
    api.spin_once(other, timeout_sec=0)
    assert ran == ["a", "other"]
    api.spin_once(node, timeout_sec=0)
    assert ran == ["a", "other", "b"]


def test_a_destroyed_node_leaves_its_executor(make_node, context):
    node, executor = make_node(), SingleThreadedExecutor(context=context)
    executor.add_node(node)
    node.destroy_node()
    assert (executor.get_nodes(), node.executor) == ([], None)


def test_an_executor_that_is_shut_down_by_a_callback_lets_go_of_its_nodes(make_node, context):
    node, executor = make_node(), SingleThreadedExecutor(context=context)
    executor.add_node(node)
    node.create_guard_condition(executor.shutdown).trigger()
    executor.spin()
    assert (executor.get_nodes(), node.executor) == ([], None)


@pytest.mark.parametrize("what", ["future", "executor", "context"])
def test_what_ends_spinning_is_noticed_while_work_is_looked_for(make_node, context, monkeypatch, what):
    executor, future = SingleThreadedExecutor(context=context), Future()
    executor.add_node(make_node())
    executor.spin_once(timeout_sec=0)
    end = {"future": lambda: future.set_result(1), "executor": executor.shutdown, "context": context.try_shutdown}[what]
    look_for_work = executor._take_work

    def look_for_work_after_the_end():
        end()
        return look_for_work()

    monkeypatch.setattr(executor, "_take_work", look_for_work_after_the_end)
    ended = []

    def spin():
        with contextlib.suppress(ExternalShutdownException):
            executor.spin_until_future_complete(future)
        ended.append(True)

    spinning = threading.Thread(target=spin, daemon=True)
    spinning.start()
    spinning.join(PATIENCE_S)
    assert ended


def test_shutting_down_waits_for_what_runs(make_node, context):
    node = make_node()
    started, release = threading.Event(), threading.Event()
    node.create_guard_condition(lambda: started.set() or release.wait(PATIENCE_S)).trigger()
    with MultiThreadedExecutor(2, context=context) as executor:
        executor.add_node(node)
        spinning = threading.Thread(target=executor.spin, daemon=True)
        spinning.start()
        assert started.wait(PATIENCE_S)
        assert not executor.shutdown(timeout_sec=0.01)
        release.set()
        assert executor.shutdown(timeout_sec=PATIENCE_S)
        spinning.join(PATIENCE_S)
        assert not spinning.is_alive()


TAKEN_WHILE_SIGNALS_COME = f"""{NODE_WITH_ALARMS}
import array
from sensor_msgs.msg import Image
publisher, subscription = node.create_publisher(Image, "image", 1), node.create_subscription(Image, "image", print, 1)
image, interrupts = Image(data=array.array("B", bytes(300_000))), 0
while interrupts < 1000:
    publisher.publish(image)
    try:
        arm(4e-4)
        for _ in range(4):
            subscription.take_sample()
        armed = False
    except KeyboardInterrupt:
        interrupts += 1
print("alive")
"""


def test_a_signal_while_a_message_is_taken_is_an_interrupt_and_no_crash(survive):
    survive(TAKEN_WHILE_SIGNALS_COME)
