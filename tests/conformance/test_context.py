# SPDX-License-Identifier: Apache-2.0
"""Contexts and processes: how they begin, and how signals and shutdown end them."""

from __future__ import annotations

import signal

import pytest
from rclpy.context import Context
from rclpy.exceptions import NotInitializedException
from rclpy.node import Node
from rclpy.signals import (
    SignalHandlerOptions,
    get_current_signal_handlers_options,
    install_signal_handlers,
    uninstall_signal_handlers,
)
from support.ros import DOOR, PATIENCE_S

SPIN = f"""{DOOR}
import os
import sys
import time
import rclpy
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor, SingleThreadedExecutor

rclpy.init()
node = rclpy.create_node("spinner")
executor = SingleThreadedExecutor() if sys.argv[1] == "single" else MultiThreadedExecutor(num_threads=2)
ready = node.create_timer(0.01, lambda: print("ready", flush=True) or ready.cancel())
end = "returned"
try:
    rclpy.spin(node, executor)
except (KeyboardInterrupt, ExternalShutdownException, RuntimeError) as fault:  # the last if a wait begins just then
    end = type(fault).__name__
try:
    time.sleep(0.2)
except KeyboardInterrupt as fault:  # it comes after the shutdown that it is the reason of, on a busy machine
    end = type(fault).__name__
executor.shutdown()
node.destroy_node()
rclpy.try_shutdown()
print(end, rclpy.ok(), flush=True)
os._exit(0)  # a pool's thread that was just begun when the interrupt struck may be waited for without end
"""


def test_a_context_is_initialized_once_and_shut_down_once():
    context = Context()
    with pytest.raises(RuntimeError, match="must be initialized before"):
        context.shutdown()
    with pytest.raises(NotInitializedException, match="cannot create node"):
        Node("early", context=context)
    context.init([])
    with pytest.raises(RuntimeError, match="only be called once"):
        context.init([])
    told = []
    context.on_shutdown(lambda: told.append(1))
    context.shutdown()
    assert (context.ok(), told) == (False, [1])
    with pytest.raises(RuntimeError, match="already called"):
        context.shutdown()
    context.try_shutdown()
    with pytest.raises(NotInitializedException, match="cannot create node"):
        Node("late", context=context)


def test_what_is_to_be_done_on_shutdown_is_done_at_once_after_it(ros):
    told = []
    ros.context.on_shutdown(lambda: told.append("at shutdown"))
    ros.context.shutdown()
    assert told == ["at shutdown"]
    ros.context.on_shutdown(lambda: told.append("after"))
    assert told == ["at shutdown", "after"]
    with pytest.raises(TypeError):
        ros.context.on_shutdown(3)


def test_the_domain_of_the_environment_can_be_overruled(own_domain):
    contexts = Context(), Context()
    contexts[0].init([])
    contexts[1].init([], domain_id=own_domain + 1)
    assert [context.get_domain_id() for context in contexts] == [own_domain, own_domain + 1]
    for context in contexts:
        context.shutdown()


def test_a_domain_that_is_no_number_is_refused(monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", "seven")
    with pytest.raises(RuntimeError):
        Context().init([])


@pytest.mark.parametrize(
    ("number", "ends"),
    [
        (signal.SIGINT, {"KeyboardInterrupt"}),
        (signal.SIGTERM, {"ExternalShutdownException", "RCLError", "returned"}),
    ],
)
@pytest.mark.parametrize("kind", ["single", "multi"])
def test_signals_end_spinning_cleanly(start, kind, number, ends):
    process = start(SPIN, kind)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (0, "")
    assert out in {f"{end} False\n" for end in ends}


AFTER_ANOTHER = f"""{DOOR}
import signal
import time
import rclpy
from rclpy.context import Context

def interrupted():
    try:
        signal.raise_signal(signal.SIGINT)
        time.sleep({PATIENCE_S})
    except KeyboardInterrupt:
        return True

rclpy.init(args=[])
print(interrupted())
later = Context()
rclpy.init(args=[], context=later)
print(interrupted(), interrupted())
for _ in range(100):
    if later.ok():
        time.sleep(0.1)  # rclpy shuts down in a thread of its own
print(rclpy.ok(), later.ok())
"""


def test_every_interrupt_is_one_and_shuts_down_what_came_after_the_last(start):
    out, err = start(AFTER_ANOTHER).communicate(timeout=PATIENCE_S)
    assert (out, err) == ("True\nTrue True\nFalse False\n", "")


def test_the_former_signal_handlers_come_back():
    former = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    install_signal_handlers(SignalHandlerOptions.SIGTERM)
    try:
        assert get_current_signal_handlers_options() == SignalHandlerOptions.SIGTERM
        assert signal.getsignal(signal.SIGINT) is former[0]
    finally:
        uninstall_signal_handlers()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == former
    assert get_current_signal_handlers_options() == SignalHandlerOptions.NO
