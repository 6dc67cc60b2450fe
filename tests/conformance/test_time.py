# SPDX-License-Identifier: Apache-2.0
"""Time: stamps, durations, clocks, simulated time, timers and rates."""

from __future__ import annotations

import threading

import pytest
from builtin_interfaces.msg import Time as Stamp
from rclpy.clock import Clock, ClockChange, JumpThreshold, ROSClock
from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from rclpy.exceptions import ROSInterruptException
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.time import Time
from rosgraph_msgs.msg import Clock as ClockMessage
from support.ros import PATIENCE_S

SECOND = 10**9
NOW = 10**18
"""A time of today's clocks is beyond it, in nanoseconds; one of the simulations here is not."""
SECONDS = JumpThreshold(min_forward=Duration(seconds=1), min_backward=Duration(seconds=-1))


def ros_time(seconds):
    return Time(seconds=seconds, clock_type=ClockType.ROS_TIME)


def stamp(seconds):
    return Stamp(sec=int(seconds), nanosec=round(seconds % 1 * SECOND))


def use_sim_time(node, value=True):
    return node.set_parameters([Parameter("use_sim_time", value=value)])[0].successful


def jumps_of(clock, threshold=SECONDS):
    """What is called before and after jumps of a clock: "before", or what changed and by how many seconds."""
    told = []

    def after(jump):
        told.append((jump.clock_change, jump.delta.nanoseconds / SECOND))

    return told, clock.create_jump_callback(threshold, pre_callback=lambda: told.append("before"), post_callback=after)


class Simulation:
    """A node in simulated time, and the node that says what time it is."""

    def __init__(self, ros):
        self._ros = ros
        self.node = ros.node("simulated", parameter_overrides=[Parameter("use_sim_time", value=True)])
        self.clock = self.node.get_clock()
        self._publisher = ros.node("simulator").create_publisher(ClockMessage, "/clock", 1)
        assert ros.until(lambda: self._publisher.get_subscription_count() == 1)

    def at(self, seconds):
        """Lets it be this time."""
        self._publisher.publish(ClockMessage(clock=stamp(seconds)))
        assert self._ros.until(lambda: self.clock.now() == ros_time(seconds))
        self.rest()

    def rest(self):
        """Has everything that is due done: all of it is before a timer of wall time has fired a few times."""
        fired = []
        timer = self.node.create_timer(0.01, lambda: fired.append(1), clock=Clock(clock_type=ClockType.STEADY_TIME))
        assert self._ros.until(lambda: len(fired) == 3)
        assert self.node.destroy_timer(timer)

    def timer(self, period_s, **options):
        """A timer, and the times at which it called back."""
        fired = []
        return self.node.create_timer(period_s, lambda: fired.append(self.clock.now().nanoseconds / SECOND), **options), fired


@pytest.fixture
def simulation(ros):
    return Simulation(ros)


# Times and durations


def test_times_and_durations_add_and_subtract():
    start = ros_time(10)
    end = start + Duration(seconds=0.5)
    assert (end.nanoseconds, (end - start).nanoseconds, end > start) == (10_500_000_000, 500_000_000, True)
    assert (end - Duration(seconds=0.5)) == start
    assert end.seconds_nanoseconds() == (10, 500_000_000)


def test_times_of_different_clocks_do_not_mix():
    with pytest.raises(TypeError, match="different clock types"):
        _ = ros_time(1) < Time(seconds=2, clock_type=ClockType.STEADY_TIME)
    with pytest.raises(TypeError, match="different clock types"):
        _ = ros_time(1) - Time(seconds=1)


def test_times_and_durations_cross_to_messages_and_back():
    assert Time.from_msg(Time(nanoseconds=1_000_000_005, clock_type=ClockType.ROS_TIME).to_msg()).nanoseconds == 1_000_000_005
    message = Duration(nanoseconds=-1).to_msg()
    assert (message.sec, message.nanosec) == (-1, 999_999_999)
    assert Duration.from_msg(message) == Duration(nanoseconds=-1)


def test_a_time_is_never_negative():
    with pytest.raises(ValueError):
        Time(seconds=-1)


# Clocks and their jumps


@pytest.mark.parametrize("kind", [ClockType.SYSTEM_TIME, ClockType.STEADY_TIME, ClockType.ROS_TIME])
def test_clocks_run(kind):
    clock = Clock(clock_type=kind)
    first = clock.now()
    assert clock.now() >= first
    assert (first.clock_type, clock.clock_type) == (kind, kind)


def test_a_jump_is_told_before_and_after_if_it_is_as_far_as_was_asked():
    clock = ROSClock()
    clock._set_ros_time_is_active(True)
    told, handle = jumps_of(clock)
    with handle:
        for seconds in (10, 10.5, 11.5, 11, 5):
            clock.set_ros_time_override(ros_time(seconds))
    clock.set_ros_time_override(ros_time(100))
    same = ClockChange.ROS_TIME_NO_CHANGE
    assert told == ["before", (same, 10.0), "before", (same, 1.0), "before", (same, -6.0)]


def test_a_jump_in_one_direction_alone_can_be_asked_for():
    clock = ROSClock()
    clock._set_ros_time_is_active(True)
    back, one = jumps_of(clock, JumpThreshold(min_forward=None, min_backward=Duration(seconds=-2), on_clock_change=False))
    forward, other = jumps_of(clock, JumpThreshold(min_forward=Duration(seconds=2), min_backward=None, on_clock_change=False))
    with one, other:
        for seconds in (10, 9, 5):
            clock.set_ros_time_override(ros_time(seconds))
        clock._set_ros_time_is_active(False)
    assert [back, forward] == [["before", (ClockChange.ROS_TIME_NO_CHANGE, -4.0)], ["before", (ClockChange.ROS_TIME_NO_CHANGE, 10.0)]]


def test_a_change_of_the_source_of_time_is_told_as_a_jump_by_nothing():
    clock = ROSClock()
    clock.set_ros_time_override(ros_time(3))
    told, handle = jumps_of(clock)
    with handle:
        for active in (True, True, False):
            clock._set_ros_time_is_active(active)
            assert (clock.ros_time_is_active, clock.now().nanoseconds < NOW) == (active, active)
    assert told == ["before", (ClockChange.ROS_TIME_ACTIVATED, 0.0), "before", (ClockChange.ROS_TIME_DEACTIVATED, 0.0)]


@pytest.mark.parametrize(
    "arguments",
    [
        {"min_forward": Duration(seconds=-1), "min_backward": None},
        {"min_forward": None, "min_backward": Duration(seconds=1)},
        {"min_forward": None, "min_backward": None, "on_clock_change": False},
    ],
)
def test_thresholds_that_make_no_sense_are_refused(arguments):
    with pytest.raises(ValueError):
        JumpThreshold(**arguments)


def test_a_jump_callback_needs_something_to_call():
    with pytest.raises(ValueError, match="must be callable"):
        ROSClock().create_jump_callback(SECONDS)


# Simulated time


def test_simulated_time_begins_at_zero_and_follows_the_clock_topic(simulation):
    assert simulation.clock.now().nanoseconds == 0
    for seconds in (1000, 1000.5, 3):
        simulation.at(seconds)
        assert simulation.clock.now() == ros_time(seconds)


def test_jumps_of_the_clock_topic_are_told(simulation):
    told, handle = jumps_of(simulation.clock)
    with handle:
        for seconds in (1000, 1000.5, 3):
            simulation.at(seconds)
        assert use_sim_time(simulation.node, False)
    same = ClockChange.ROS_TIME_NO_CHANGE
    assert [jump for jump in told if jump != "before"] == [(same, 1000.0), (same, -997.5), (ClockChange.ROS_TIME_DEACTIVATED, 0.0)]


def test_simulated_time_can_be_switched_while_running(ros):
    node = ros.node()
    assert node.get_clock().now().nanoseconds > NOW
    assert "/clock" not in [subscription.topic_name for subscription in node.subscriptions]
    assert use_sim_time(node)
    assert node.get_clock().now().nanoseconds == 0
    assert "/clock" in [subscription.topic_name for subscription in node.subscriptions]
    assert use_sim_time(node, False)
    assert node.get_clock().now().nanoseconds > NOW
    assert "/clock" not in [subscription.topic_name for subscription in node.subscriptions]


def test_simulated_time_is_either_on_or_off(ros):
    node = ros.node()
    assert not use_sim_time(node, 1)
    assert node.get_clock().now().nanoseconds > NOW


def test_a_timer_stands_still_with_the_clock_and_goes_on_with_it(simulation):
    timer, fired = simulation.timer(1.0)
    for seconds in (1, 2, 2.5, 3):
        simulation.at(seconds)
    assert fired == [1.0, 2.0, 3.0]
    simulation.rest()
    assert (fired, timer.time_since_last_call(), timer.time_until_next_call()) == ([1.0, 2.0, 3.0], 0, SECOND)


def test_a_timer_calls_back_once_for_all_the_periods_that_it_missed(simulation):
    timer, fired = simulation.timer(1.0)
    simulation.at(1)
    for seconds, left in ((5.5, SECOND // 2), (8, SECOND)):  # in the middle of a period, and at its end
        simulation.at(seconds)
        assert timer.time_until_next_call() == left
    assert fired == [1.0, 5.5, 8.0]


def test_a_timer_begins_a_period_where_the_clock_jumps_back_behind_its_last_call(simulation):
    timer, fired = simulation.timer(1.0)
    simulation.at(100)
    simulation.at(50)
    assert (fired, timer.time_since_last_call(), timer.time_until_next_call()) == ([100.0], 0, SECOND)
    for seconds in (50.9, 51, 51.5):
        simulation.at(seconds)
    assert fired == [100.0, 51.0]


def test_a_timer_waits_longer_by_a_jump_back_within_its_period(simulation):
    timer, fired = simulation.timer(10.0)
    for seconds in (10, 18, 12):
        simulation.at(seconds)
    assert (fired, timer.time_since_last_call(), timer.time_until_next_call()) == ([10.0], 2 * SECOND, 8 * SECOND)


def test_a_timer_of_steady_time_runs_while_the_clock_stands_still(ros, simulation):
    _, steady = simulation.timer(0.01, clock=Clock(clock_type=ClockType.STEADY_TIME))
    _, simulated = simulation.timer(0.01)
    assert ros.until(lambda: len(steady) == 5)
    assert simulated == []
    simulation.at(1)
    simulation.at(0.5)
    count = len(steady)
    assert ros.until(lambda: len(steady) > count + 5)
    assert simulated == [1.0]


def test_a_running_timer_starts_over_with_the_first_time_of_the_simulation(ros):
    node, publisher = ros.node("late"), ros.node("simulator").create_publisher(ClockMessage, "/clock", 1)
    timer = node.create_timer(10.0, print)
    assert use_sim_time(node)
    assert ros.until(lambda: publisher.get_subscription_count() == 1)
    publisher.publish(ClockMessage(clock=stamp(1000)))
    assert ros.until(lambda: node.get_clock().now() == ros_time(1000))
    assert (timer.time_since_last_call(), timer.time_until_next_call()) == (0, 10 * SECOND)


def test_a_timer_keeps_within_its_period_when_the_source_of_time_changes(simulation):
    timer, fired = simulation.timer(1000.0)
    simulation.at(400)
    for simulated in (False, True):
        assert use_sim_time(simulation.node, simulated)
        assert 0 < timer.time_until_next_call() < 1000 * SECOND
        simulation.rest()
    assert fired == []


def test_sleeping_lasts_until_the_simulation_is_there(ros, simulation):
    simulation.at(1)
    slept = []
    sleeper = threading.Thread(target=lambda: slept.append(simulation.clock.sleep_until(ros_time(5), ros.context)), daemon=True)
    sleeper.start()
    simulation.at(3)
    assert slept == []
    simulation.at(6)
    sleeper.join(PATIENCE_S)
    assert slept == [True]


def test_sleeping_ends_with_the_simulation(ros, simulation):
    begun, slept = threading.Event(), []

    def sleep():
        begun.set()
        slept.append(simulation.clock.sleep_until(Time(seconds=2**31, clock_type=ClockType.ROS_TIME), ros.context))

    sleeper = threading.Thread(target=sleep, daemon=True)
    sleeper.start()
    assert begun.wait(PATIENCE_S)
    active = [False, True]
    while not slept and sleeper.is_alive():  # it may not have begun to listen to the clock at once
        assert use_sim_time(simulation.node, active[0])
        active.reverse()
        sleeper.join(0.05)
    assert slept == [False]


# Timers, rates and sleep


def test_a_timer_fires_until_it_is_canceled_and_again_once_it_is_reset(ros, simulation):
    timer, fired = simulation.timer(0.01, clock=Clock(clock_type=ClockType.STEADY_TIME))
    assert ros.until(lambda: len(fired) >= 3)
    assert timer.time_until_next_call() <= SECOND // 100
    timer.cancel()
    count = len(fired)
    simulation.rest()
    assert (len(fired), timer.is_canceled(), timer.is_ready(), timer.time_until_next_call()) == (count, True, False, None)
    timer.reset()
    assert not timer.is_canceled()
    assert ros.until(lambda: len(fired) > count)


def test_a_timer_can_be_made_to_wait_for_its_start(ros, simulation):
    timer, fired = simulation.timer(0.01, clock=Clock(clock_type=ClockType.STEADY_TIME), autostart=False)
    simulation.rest()
    assert (timer.is_canceled(), fired) == (True, [])
    timer.reset()
    assert ros.until(lambda: fired)


def test_the_period_of_a_timer_can_be_changed(simulation):
    timer, fired = simulation.timer(1.0)
    assert timer.timer_period_ns == SECOND
    timer.timer_period_ns = 2 * SECOND
    assert timer.timer_period_ns == 2 * SECOND
    for seconds in (1, 2, 3):
        simulation.at(seconds)
    assert fired == [1.0, 3.0]


def test_a_timer_without_a_period_is_always_due(simulation):
    timer, fired = simulation.timer(0.0)
    simulation.rest()
    assert len(fired) > 1
    assert timer.time_until_next_call() <= 0


def test_a_period_below_zero_is_refused(ros):
    with pytest.raises(RuntimeError):
        ros.node().create_timer(-1.0, print)


def test_a_rate_sleeps_to_the_end_of_each_period_while_another_thread_spins(ros):
    node = ros.node()
    executor = SingleThreadedExecutor(context=ros.context)
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
    node.destroy_rate(rate)
    executor.shutdown()


def test_a_rate_is_interrupted_by_shutdown(ros):
    rate = ros.node().create_rate(0.001)
    begun, ended = threading.Event(), []

    def sleep():
        begun.set()
        try:
            rate.sleep()
        except ROSInterruptException as fault:
            ended.append(type(fault))

    sleeper = threading.Thread(target=sleep, daemon=True)
    sleeper.start()
    assert begun.wait(PATIENCE_S)
    ros.context.shutdown()
    sleeper.join(PATIENCE_S)
    assert ended == [ROSInterruptException]


def test_sleeping_ends_with_the_context(ros):
    clock = Clock(clock_type=ClockType.STEADY_TIME)
    assert clock.sleep_for(Duration(seconds=0.01), ros.context)
    threading.Timer(0.05, ros.context.try_shutdown).start()
    assert not clock.sleep_for(Duration(seconds=60), ros.context)


def test_only_a_time_of_the_clock_can_be_slept_until(ros):
    with pytest.raises(ValueError, match="clock type does not match"):
        Clock(clock_type=ClockType.STEADY_TIME).sleep_until(ros_time(1), ros.context)
