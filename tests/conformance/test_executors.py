# SPDX-License-Identifier: Apache-2.0
"""Executors: what they run, in which thread, what may run at once, and what ends spinning."""

from __future__ import annotations

import threading
import time

import pytest
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.exceptions import InvalidHandle
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.task import Future
from std_msgs.msg import String
from support.ros import DOOR, PATIENCE_S

both_kinds = pytest.mark.parametrize("kind", [SingleThreadedExecutor, MultiThreadedExecutor])


@pytest.fixture
def executor_of(ros):
    """Makes executors with nodes, which are shut down at the end."""
    made = []

    def make(kind, *nodes):
        made.append(kind(context=ros.context, **({"num_threads": 4} if kind is MultiThreadedExecutor else {})))
        for node in nodes:
            made[-1].add_node(node)
        return made[-1]

    yield make
    for executor in made:
        executor.shutdown(timeout_sec=PATIENCE_S)


class Spinning(threading.Thread):
    """Spins an executor until it ends; outcome() waits for that."""

    def __init__(self, executor):
        super().__init__(daemon=True)
        self.executor, self.ended = executor, "still spinning"
        self.start()

    def run(self):
        try:
            self.executor.spin()
            self.ended = "returned"
        except Exception as fault:
            self.ended = type(fault)

    def outcome(self):
        self.join(PATIENCE_S)
        return self.ended


def wait_until(condition):
    end = time.monotonic() + PATIENCE_S
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return bool(condition())


def spin_until(executor, condition):
    end = time.monotonic() + PATIENCE_S
    while not condition() and time.monotonic() < end:
        executor.spin_once(timeout_sec=0.05)
    return bool(condition())


def test_a_single_threaded_executor_runs_callbacks_where_it_spins(ros, executor_of):
    node = ros.node()
    threads = []
    node.create_guard_condition(lambda: threads.append(threading.current_thread())).trigger()
    executor_of(SingleThreadedExecutor, node).spin_once(timeout_sec=PATIENCE_S)
    assert threads == [threading.current_thread()]


def test_a_multi_threaded_executor_runs_callbacks_in_its_own_threads(ros, executor_of):
    node = ros.node()
    threads = []
    node.create_guard_condition(lambda: threads.append(threading.current_thread())).trigger()
    assert spin_until(executor_of(MultiThreadedExecutor, node), lambda: threads)
    assert threads[0] is not threading.current_thread()


@both_kinds
def test_messages_timers_and_conditions_are_served(ros, executor_of, kind):
    node = ros.node()
    served = []
    node.create_subscription(String, "text", lambda message: served.append(message.data), 10)
    publisher = node.create_publisher(String, "text", 10)
    guard = node.create_guard_condition(lambda: served.append("condition"))
    timer = node.create_timer(0.01, lambda: served.append("timer") or timer.cancel())
    executor = executor_of(kind, node)
    assert spin_until(executor, lambda: publisher.get_subscription_count() == 1)
    publisher.publish(String(data="message"))
    guard.trigger()
    assert spin_until(executor, lambda: len(served) == 3)
    assert set(served) == {"message", "timer", "condition"}


def test_spinning_once_without_work_lasts_until_the_timeout(ros, executor_of):
    executor = executor_of(SingleThreadedExecutor, ros.node())
    start = time.monotonic()
    executor.spin_once(timeout_sec=0.1)
    assert time.monotonic() - start > 0.05


def test_spinning_once_runs_one_callback(ros, executor_of):
    node = ros.node()
    ran = []
    for name in "ab":
        node.create_guard_condition(lambda name=name: ran.append(name)).trigger()
    executor = executor_of(SingleThreadedExecutor, node)
    executor.spin_once(timeout_sec=0)
    assert ran == ["a"]
    executor.spin_once(timeout_sec=0)
    assert ran == ["a", "b"]


def test_a_timer_that_is_always_due_lets_others_have_their_turn(ros, executor_of):
    node = ros.node()
    order = []
    node.create_timer(0.0, lambda: order.append("timer"))
    for _ in range(2):
        node.create_guard_condition(lambda: order.append("condition")).trigger()
    executor = executor_of(SingleThreadedExecutor, node)
    for _ in range(3):
        executor.spin_once(timeout_sec=PATIENCE_S)
    assert sorted(order) == ["condition", "condition", "timer"]


def test_a_destroyed_timer_never_fires_again(ros, executor_of):
    node = ros.node()
    fired = []
    timer, other = node.create_timer(0.01, lambda: fired.append("destroyed")), node.create_timer(0.01, lambda: fired.append("other"))
    executor = executor_of(SingleThreadedExecutor, node)
    assert node.destroy_timer(timer)
    assert spin_until(executor, lambda: len(fired) == 3)
    assert fired == ["other"] * 3
    assert not node.destroy_timer(timer)
    assert not other.is_canceled()


def test_a_condition_triggered_twice_calls_back_once(ros, executor_of):
    node = ros.node()
    ran = []
    guard = node.create_guard_condition(lambda: ran.append(1))
    guard.trigger()
    guard.trigger()
    executor = executor_of(SingleThreadedExecutor, node)
    for _ in range(2):
        executor.spin_once(timeout_sec=0)
    assert ran == [1]
    assert node.destroy_guard_condition(guard)
    with pytest.raises(InvalidHandle, match="destr"):
        guard.trigger()


def test_a_condition_wakes_who_waits_in_another_thread(ros, executor_of):
    node = ros.node()
    ran = threading.Event()
    guard = node.create_guard_condition(ran.set)
    executor = executor_of(SingleThreadedExecutor, node)
    spinning = Spinning(executor)
    guard.trigger()
    assert ran.wait(PATIENCE_S)
    executor.shutdown()
    assert spinning.outcome() == "returned"


@both_kinds
def test_what_is_created_while_spinning_is_served(ros, executor_of, kind):
    node = ros.node("early")
    heard = threading.Event()
    executor = executor_of(kind, node)
    spinning = Spinning(executor)
    node.create_subscription(String, "text", lambda message: heard.set(), 10)
    publisher = node.create_publisher(String, "text", 10)
    assert wait_until(lambda: publisher.get_subscription_count() == 1)
    publisher.publish(String())
    assert heard.wait(PATIENCE_S)
    late = ros.node("late")
    fired = threading.Event()
    late.create_timer(0.01, fired.set)
    executor.add_node(late)
    assert fired.wait(PATIENCE_S)
    executor.shutdown()
    assert spinning.outcome() == "returned"


def test_a_node_is_added_once_and_belongs_to_one_executor(ros, executor_of):
    node = ros.node()
    first, second = executor_of(SingleThreadedExecutor), executor_of(SingleThreadedExecutor)
    assert [first.add_node(node), first.add_node(node)] == [True, False]
    assert second.add_node(node)
    assert (first.get_nodes(), second.get_nodes(), node.executor) == ([], [node], second)


def test_callbacks_of_a_removed_node_rest(ros, executor_of):
    node, other, executor = ros.node("removed"), ros.node("other"), executor_of(SingleThreadedExecutor)
    ran = []
    executor.add_node(node)
    executor.add_node(other)
    executor.remove_node(node)
    node.create_guard_condition(lambda: ran.append("removed")).trigger()
    other.create_guard_condition(lambda: ran.append("other")).trigger()
    for _ in range(3):
        executor.spin_once(timeout_sec=0)
    executor.add_node(node)
    assert ran == ["other"]
    assert spin_until(executor, lambda: len(ran) == 2)


def test_reentrant_callbacks_run_at_once(ros, executor_of):
    node = ros.node()
    meeting = threading.Barrier(2, timeout=PATIENCE_S)
    met = []
    group = ReentrantCallbackGroup()
    for _ in range(2):
        node.create_guard_condition(lambda: met.append(meeting.wait()), group).trigger()
    assert spin_until(executor_of(MultiThreadedExecutor, node), lambda: len(met) == 2)


@pytest.mark.parametrize("group", [MutuallyExclusiveCallbackGroup(), None])
def test_callbacks_of_an_exclusive_group_wait_for_each_other_and_hold_up_no_one_else(ros, executor_of, group):
    node = ros.node()
    release, order = threading.Event(), []

    def first():
        order.append("first starts")
        release.wait(PATIENCE_S)
        order.append("first ends")

    guards = [node.create_guard_condition(call, group) for call in (first, lambda: order.append("second"))]
    free = node.create_guard_condition(lambda: order.append("free"), MutuallyExclusiveCallbackGroup())
    executor = executor_of(MultiThreadedExecutor, node)
    for guard in guards:
        guard.trigger()
    assert spin_until(executor, lambda: order)
    free.trigger()
    assert spin_until(executor, lambda: "free" in order)
    release.set()
    assert spin_until(executor, lambda: "second" in order)
    assert order == ["first starts", "free", "first ends", "second"]


def test_a_coroutine_holds_its_group_until_it_ends(ros, executor_of):
    node = ros.node()
    answer, order = Future(), []

    async def ask():
        order.append("asked")
        order.append(await answer)

    node.create_guard_condition(ask).trigger()
    node.create_guard_condition(lambda: order.append("after")).trigger()
    node.create_guard_condition(lambda: order.append("aside"), ReentrantCallbackGroup()).trigger()
    executor = executor_of(SingleThreadedExecutor, node)
    assert spin_until(executor, lambda: "aside" in order)
    answer.set_result("answered")
    assert spin_until(executor, lambda: "after" in order)
    assert order == ["asked", "aside", "answered", "after"]


@both_kinds
def test_tasks_run_with_the_callbacks_and_give_results(ros, executor_of, kind):
    executor = executor_of(kind, ros.node())

    async def double(number):
        return 2 * await executor.create_task(lambda: number)

    task = executor.create_task(double, 21)
    executor.spin_until_future_complete(task, timeout_sec=PATIENCE_S)
    assert (task.done(), task.result()) == (True, 42)


@both_kinds
def test_an_exception_comes_out_of_spinning(ros, executor_of, kind):
    node = ros.node()

    def stumble():
        raise KeyError("stumbled")

    executor = executor_of(kind, node)
    node.create_timer(0.01, lambda: None)  # a pool of threads tells of an exception with the next callback
    node.create_guard_condition(stumble).trigger()
    with pytest.raises(KeyError, match="stumbled"):
        executor.spin()
    task = executor.create_task(stumble)
    with pytest.raises(KeyError, match="stumbled"):
        executor.spin()
    assert isinstance(task.exception(), KeyError)


def test_a_future_done_in_another_thread_ends_the_wait_for_it(ros, executor_of):
    future = Future()
    executor = executor_of(SingleThreadedExecutor, ros.node())
    executor.spin_until_future_complete(future, timeout_sec=0.01)
    assert not future.done()
    threading.Timer(0.05, future.set_result, ["done"]).start()
    executor.spin_until_future_complete(future)
    assert future.result() == "done"


def test_a_future_tells_its_callbacks_once(ros, executor_of):
    executor = executor_of(SingleThreadedExecutor, ros.node())
    seen = []
    future = Future(executor=executor)
    future.add_done_callback(lambda done: seen.append(done.result()))
    future.set_result(1)
    assert seen == []
    assert spin_until(executor, lambda: seen)
    plain = Future()
    plain.cancel()
    plain.add_done_callback(lambda done: seen.append(done.cancelled()))
    assert seen == [1, True]


def test_functions_of_rclpy_spin_a_single_node(start):
    script = f"""{DOOR}
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.task import Future
rclpy.init(args=[])
node, future = rclpy.create_node("node"), Future()
node.create_guard_condition(lambda: print("once")).trigger()
rclpy.spin_once(node, timeout_sec=60)
node.create_timer(0.01, lambda: future.done() or future.set_result("fired"))
rclpy.spin_until_future_complete(node, future, timeout_sec=60)
print(future.result(), node in rclpy.get_global_executor().get_nodes())
node.create_guard_condition(rclpy.try_shutdown).trigger()
try:
    rclpy.spin(node)
except ExternalShutdownException:
    pass
print(rclpy.ok())
"""
    assert start(script).communicate(timeout=PATIENCE_S) == ("once\nfired False\nFalse\n", "")


@both_kinds
@pytest.mark.parametrize("what", ["executor", "context"])
def test_shutting_down_ends_spinning(ros, executor_of, kind, what):
    node = ros.node()
    running = threading.Event()
    node.create_timer(0.01, running.set)
    executor = executor_of(kind, node)
    spinning = Spinning(executor)
    assert running.wait(PATIENCE_S)
    {"executor": executor, "context": ros.context}[what].shutdown()
    assert spinning.outcome() in ("returned", ExternalShutdownException)


@both_kinds
def test_a_callback_may_shut_its_executor_down(ros, executor_of, kind):
    node = ros.node()
    executor = executor_of(kind, node)
    node.create_guard_condition(executor.shutdown).trigger()
    assert Spinning(executor).outcome() == "returned"
    assert wait_until(lambda: executor.get_nodes() == [])


def test_spinning_after_shutdown_is_refused(ros, executor_of):
    executor = executor_of(SingleThreadedExecutor, ros.node())
    ros.context.shutdown()
    with pytest.raises((ExternalShutdownException, RuntimeError)):
        executor.spin_once(timeout_sec=0)


def test_shutting_down_does_not_wait_for_a_coroutine_that_waits(ros, executor_of):
    node = ros.node()
    reached, never = [], Future()

    async def wait():
        reached.append(1)
        await never

    node.create_guard_condition(wait).trigger()
    executor = executor_of(SingleThreadedExecutor, node)
    assert spin_until(executor, lambda: reached)
    assert executor.shutdown(timeout_sec=PATIENCE_S)
