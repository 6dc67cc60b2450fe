# SPDX-License-Identifier: Apache-2.0
"""Time: stamps, durations, clocks, simulated time, timers and rates."""

from __future__ import annotations

import threading

import pytest

from longscape_ros.embedded.clock import Clock, ClockChange, JumpThreshold, ROSClock
from longscape_ros.embedded.executors import SingleThreadedExecutor
from longscape_ros.embedded.messages import message_class
from longscape_ros.embedded.parameters import Parameter
from longscape_ros.embedded.time import ClockType, Duration, Time

Stamp, ClockMessage = message_class("builtin_interfaces/msg/Time"), message_class("rosgraph_msgs/msg/Clock")


def test_times_and_durations_add_and_subtract():
    start = Time(seconds=10, clock_type=ClockType.ROS_TIME)
    end = start + Duration(seconds=0.5)
    assert (end.nanoseconds, (end - start).nanoseconds, end > start) == (10_500_000_000, 500_000_000, True)
    assert (end - Duration(seconds=0.5)) == start


def test_times_of_different_clocks_do_not_mix():
    with pytest.raises(TypeError, match="different clock types"):
        _ = Time(seconds=1, clock_type=ClockType.ROS_TIME) < Time(seconds=2, clock_type=ClockType.STEADY_TIME)
    with pytest.raises(TypeError, match="different clock types"):
        _ = Time(seconds=1, clock_type=ClockType.ROS_TIME) - Time(seconds=1)


def test_times_and_durations_cross_to_messages_and_back():
    assert Time.from_msg(Time(nanoseconds=1_000_000_005, clock_type=ClockType.ROS_TIME).to_msg()).nanoseconds == 1_000_000_005
    message = Duration(nanoseconds=-1).to_msg()
    assert (message.sec, message.nanosec) == (-1, 999_999_999)
    assert Duration.from_msg(message) == Duration(nanoseconds=-1)


def test_a_time_is_never_negative():
    with pytest.raises(ValueError, match="must not be negative"):
        Time(seconds=-1)


def test_clocks_run():
    for kind in ClockType.SYSTEM_TIME, ClockType.STEADY_TIME, ClockType.ROS_TIME:
        clock = Clock(clock_type=kind)
        first = clock.now()
        assert clock.now() >= first
        assert first.clock_type is kind


def test_a_jump_back_is_reported_and_a_small_step_is_not():
    clock = ROSClock()
    clock._set_ros_time_is_active(True)
    jumps = []

    def note(jump):
        jumps.append((jump.clock_change, jump.delta.nanoseconds // 10**9))

    threshold = JumpThreshold(min_forward=Duration(seconds=1), min_backward=Duration(seconds=-1), on_clock_change=True)
    with clock.create_jump_callback(threshold, post_callback=note):
        for seconds in (10.0, 10.5, 5.0):
            clock.set_ros_time_override(Time(seconds=seconds, clock_type=ClockType.ROS_TIME))
    clock.set_ros_time_override(Time(seconds=100, clock_type=ClockType.ROS_TIME))
    assert jumps == [(ClockChange.ROS_TIME_NO_CHANGE, 10), (ClockChange.ROS_TIME_NO_CHANGE, -6)]


def test_simulated_time_follows_the_clock_topic_and_drives_timers(make_node, spin):
    node = make_node("sim", parameter_overrides=[Parameter("use_sim_time", value=True)])
    server = make_node("server")
    publisher = server.create_publisher(ClockMessage, "/clock", 1)
    fired = []
    node.create_timer(1.0, lambda: fired.append(node.get_clock().now().nanoseconds))
    assert spin([node], lambda: publisher.get_subscription_count() == 1)
    assert node.get_clock().now().nanoseconds == 0
    for seconds in (1, 2, 3):
        publisher.publish(ClockMessage(clock=Stamp(sec=seconds)))
        assert spin([node], lambda: len(fired) == seconds)  # noqa: B023 - called before the next turn
    assert fired == [10**9, 2 * 10**9, 3 * 10**9]


def test_simulated_time_can_be_switched_while_running(make_node):
    node = make_node()
    assert node.get_clock().now().nanoseconds > 10**18
    node.set_parameters([Parameter("use_sim_time", value=True)])
    assert node.get_clock().now().nanoseconds == 0
    node.set_parameters([Parameter("use_sim_time", value=False)])
    assert node.get_clock().now().nanoseconds > 10**18


def test_a_timer_fires_until_it_is_canceled(make_node, spin):
    node = make_node()
    count = []
    timer = node.create_timer(0.01, lambda: count.append(1))
    assert spin([node], lambda: len(count) >= 3)
    timer.cancel()
    fired = len(count)
    spin([node], lambda: False, patience_s=0.1)
    assert (len(count), timer.is_canceled()) == (fired, True)
    timer.reset()
    assert spin([node], lambda: len(count) > fired)


def test_a_late_timer_skips_the_periods_it_missed(make_node):
    node = make_node(parameter_overrides=[Parameter("use_sim_time", value=True)])
    timer = node.create_timer(1.0, lambda: None)
    node.get_clock().set_ros_time_override(Time(seconds=5.5, clock_type=ClockType.ROS_TIME))
    assert timer.take() is not None
    assert timer.take() is None
    assert timer.time_until_next_call() == 500_000_000


def test_a_rate_sleeps_to_the_end_of_each_period_while_another_thread_spins(make_node, context):
    node = make_node()
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    rate = node.create_rate(100.0)
    done = threading.Event()
    spinning = threading.Thread(target=lambda: [executor.spin_once(timeout_sec=0.1) for _ in iter(done.is_set, True)])
    spinning.start()
    start = node.get_clock().now()
    for _ in range(3):
        rate.sleep()
    done.set()
    spinning.join()
    assert node.get_clock().now() - start >= Duration(seconds=0.015)
    assert node.destroy_rate(rate)
    executor.shutdown()


def test_sleeping_ends_with_the_context(context):
    clock = Clock(clock_type=ClockType.STEADY_TIME)
    assert clock.sleep_for(Duration(seconds=0.01), context)
    threading.Timer(0.05, context.try_shutdown).start()
    assert not clock.sleep_for(Duration(seconds=60), context)
