# SPDX-License-Identifier: Apache-2.0
"""Lifecycle nodes: where each transition leads, what is called on the way, and who may speak."""

from __future__ import annotations

import pytest
from lifecycle_msgs.msg import TransitionEvent
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.lifecycle import LifecycleNode, ManagedEntity, SimpleManagedEntity, TransitionCallbackReturn
from std_msgs.msg import String

SUCCESS, FAILURE, ERROR = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE, TransitionCallbackReturn.ERROR
WAY = {
    "unconfigured": [],
    "inactive": ["configure"],
    "active": ["configure", "activate"],
    "finalized": ["configure", "shutdown"],
}


class Robot(LifecycleNode):
    """Notes what is called; `answers` says how a callback goes: a result, or an exception to raise."""

    def __init__(self, name, *, answers=None, **options):
        self.called, self.answers = [], answers or {}
        super().__init__(name, **options)

    def _answer(self, callback, state, usual):
        self.called.append(f"{callback} from {state.label}")
        answer = self.answers.get(callback, usual)
        if isinstance(answer, Exception):
            raise answer
        return usual(state) if answer is usual else answer

    def on_configure(self, state):
        return self._answer("configure", state, super().on_configure)

    def on_activate(self, state):
        return self._answer("activate", state, super().on_activate)

    def on_deactivate(self, state):
        return self._answer("deactivate", state, super().on_deactivate)

    def on_cleanup(self, state):
        return self._answer("cleanup", state, super().on_cleanup)

    def on_shutdown(self, state):
        return self._answer("shutdown", state, super().on_shutdown)

    def on_error(self, state):
        return self._answer("error", state, super().on_error)


@pytest.fixture
def make_robot(ros):
    def make(state="unconfigured", **answers):
        robot = ros.node("robot", kind=Robot)
        go(robot, *WAY[state])
        robot.called.clear()
        robot.answers = answers
        return robot

    return make


def go(robot, *transitions):
    return [getattr(robot, f"trigger_{name}")() for name in transitions]


def state_of(robot):
    return robot._state_machine.current_state[1]


def test_a_node_goes_through_its_life(make_robot):
    robot = make_robot()
    states = [(*go(robot, name), state_of(robot)) for name in ("configure", "activate", "deactivate", "cleanup", "shutdown")]
    assert states == [(SUCCESS, state) for state in ("inactive", "active", "inactive", "unconfigured", "finalized")]
    assert robot.called == [
        "configure from unconfigured",
        "activate from inactive",
        "deactivate from active",
        "cleanup from inactive",
        "shutdown from unconfigured",
    ]


@pytest.mark.parametrize("start", ["unconfigured", "inactive", "active"])
def test_a_node_can_be_shut_down_from_every_state_and_only_once(make_robot, start):
    robot = make_robot(start)
    assert go(robot, "shutdown") == [SUCCESS]
    with pytest.raises(RuntimeError):
        go(robot, "shutdown")
    assert (state_of(robot), robot.called) == ("finalized", [f"shutdown from {start}"])


@pytest.mark.parametrize(
    ("transition", "start", "end"),
    [
        ("configure", "unconfigured", "unconfigured"),
        ("activate", "inactive", "inactive"),
        ("deactivate", "active", "active"),
        ("cleanup", "inactive", "inactive"),
        ("shutdown", "active", "finalized"),
    ],
)
def test_a_failure_leaves_the_node_where_it_was_unless_it_is_shut_down(make_robot, transition, start, end):
    robot = make_robot(start, **{transition: FAILURE})
    assert go(robot, transition) == [FAILURE]
    assert (state_of(robot), robot.called) == (end, [f"{transition} from {start}"])


@pytest.mark.parametrize("answer", [RuntimeError("broken"), ERROR])
def test_exceptions_and_errors_go_to_on_error(make_robot, answer):
    robot = make_robot("inactive", activate=answer)
    assert go(robot, "activate") == [ERROR]
    assert (state_of(robot), robot.called) == ("unconfigured", ["activate from inactive", "error from inactive"])
    assert go(robot, "configure") == [SUCCESS]


@pytest.mark.parametrize("answer", [None, "SUCCESS"])
def test_a_callback_that_gives_something_else_leaves_the_node_between_states(make_robot, answer):
    robot = make_robot("inactive", activate=answer)
    with pytest.raises(AttributeError):
        go(robot, "activate")
    assert (state_of(robot), robot.called) == ("activating", ["activate from inactive"])


@pytest.mark.parametrize("answer", [FAILURE, ERROR, RuntimeError("worse")])
def test_an_error_that_is_not_handled_finalizes_the_node(make_robot, answer):
    robot = make_robot("inactive", activate=RuntimeError("bad"), error=answer)
    assert go(robot, "activate") == [ERROR]
    assert state_of(robot) == "finalized"


@pytest.mark.parametrize(
    ("start", "transition"),
    [("unconfigured", "activate"), ("inactive", "configure"), ("active", "cleanup"), ("finalized", "configure")],
)
def test_a_transition_that_does_not_exist_is_refused_and_nothing_is_called(make_robot, start, transition):
    robot = make_robot(start)
    with pytest.raises(RuntimeError):
        go(robot, transition)
    assert (state_of(robot), robot.called) == (start, [])


def test_a_lifecycle_publisher_is_silent_unless_active(make_robot, ros):
    robot, listener = make_robot(), ros.node("listener")
    heard = []
    listener.create_subscription(String, "text", lambda message: heard.append(message.data), 10)
    guarded, free = robot.create_lifecycle_publisher(String, "text", 10), robot.create_publisher(String, "text", 10)
    assert ros.until(lambda: guarded.get_subscription_count() == free.get_subscription_count() == 1)
    for transition in ("configure", "activate", "deactivate", "activate"):
        guarded.publish(String(data=f"before {transition}"))
        go(robot, transition)
    guarded.publish(String(data="active"))
    free.publish(String(data="end"))
    assert ros.until(lambda: "end" in heard)
    assert heard == ["before deactivate", "active", "end"]
    assert guarded.is_activated


def test_a_destroyed_lifecycle_publisher_follows_no_more(make_robot):
    robot = make_robot("inactive")
    publisher = robot.create_lifecycle_publisher(String, "text", 10)
    assert robot.destroy_lifecycle_publisher(publisher)
    assert go(robot, "activate") == [SUCCESS]
    assert not publisher.is_activated
    assert not robot.destroy_lifecycle_publisher(publisher)


def test_the_class_of_a_lifecycle_publisher_is_fixed(make_robot):
    with pytest.raises(TypeError, match="unexpected keyword argument 'publisher_class'"):
        make_robot().create_lifecycle_publisher(String, "text", 10, publisher_class=object)


def test_every_step_is_told_on_transition_event(make_robot, ros):
    robot, listener, events, met = make_robot(), ros.node("listener"), [], []
    matched = SubscriptionEventCallbacks(matched=met.append)
    listener.create_subscription(TransitionEvent, "/robot/transition_event", events.append, 10, event_callbacks=matched)
    assert ros.until(lambda: met)
    while not events:  # the robot may learn of the listener a little later
        go(robot, "configure", "cleanup")
        ros.until(lambda: events, 0.5)
    assert ros.until(lambda: events[-1].goal_state.label == "unconfigured")
    events.clear()
    go(robot, "configure")
    assert ros.until(lambda: len(events) == 2)
    assert [(event.start_state.label, event.goal_state.label) for event in events] == [
        ("unconfigured", "configuring"),
        ("configuring", "inactive"),
    ]
    assert (events[1].start_state.id, events[1].goal_state.id) == (10, 2)


def test_a_node_without_services_tells_its_transitions_too(ros):
    robot = ros.node("robot", kind=Robot, enable_communication_interface=False)
    assert go(robot, "configure") == [SUCCESS]
    assert ros.until(lambda: "/robot/transition_event" in dict(robot.get_publisher_names_and_types_by_node("robot", "/")))


def test_there_are_no_transitions_after_shutdown_of_the_context(make_robot, ros):
    robot = make_robot("active")
    ros.context.shutdown()
    with pytest.raises(RuntimeError, match="publisher's context is invalid"):
        go(robot, "deactivate")
    assert robot.called == []


def test_managed_entities_follow_and_one_that_does_not_succeed_stops_the_node(make_robot):
    robot = make_robot("inactive")
    asked, answers = [], {"first": SUCCESS, "second": SUCCESS}

    class Part(ManagedEntity):
        def __init__(self, name):
            self.name = name

        def on_activate(self, state):
            asked.append(f"{self.name} from {state.label}")
            return answers[self.name]

        def on_deactivate(self, state):
            raise ArithmeticError(self.name)

    for part in (Part("first"), Part("second")):
        robot.add_managed_entity(part)
        robot.add_managed_entity(part)
    answers["second"] = FAILURE
    assert (go(robot, "activate"), state_of(robot)) == ([FAILURE], "inactive")
    assert asked.count("second from inactive") == 1
    answers["second"] = SUCCESS
    asked.clear()
    assert (go(robot, "activate"), state_of(robot)) == ([SUCCESS], "active")
    assert sorted(asked) == ["first from inactive", "second from inactive"]
    assert (go(robot, "deactivate"), state_of(robot)) == ([ERROR], "unconfigured")


def test_an_entity_that_gives_something_else_is_an_error(make_robot):
    robot = make_robot("inactive")

    class Part(ManagedEntity):
        def on_activate(self, state):
            return None

    robot.add_managed_entity(Part())
    assert (go(robot, "activate"), state_of(robot)) == ([ERROR], "unconfigured")


def test_only_managed_entities_are_managed(make_robot):
    with pytest.raises(TypeError, match="ManagedEntity"):
        make_robot().add_managed_entity(object())


def test_methods_of_a_managed_entity_can_rest_while_it_is_disabled(make_robot):
    seen = []

    class Lamp(SimpleManagedEntity):
        @SimpleManagedEntity.when_enabled
        def shine(self, colour):
            seen.append(colour)

        @SimpleManagedEntity.when_enabled(when_not_enabled=lambda: seen.append("off"))
        def blink(self):
            seen.append("on")

    robot, lamp = make_robot("inactive"), Lamp()
    robot.add_managed_entity(lamp)
    for transition in ("activate", "deactivate"):
        go(robot, transition)
        lamp.shine("red")
        lamp.blink()
    assert seen == ["red", "on", "off"]
