# SPDX-License-Identifier: Apache-2.0
"""A lifecycle node driven by its services."""

from __future__ import annotations

import pytest

STATES = [
    (0, "unknown"), (1, "unconfigured"), (2, "inactive"), (3, "active"), (4, "finalized"), (10, "configuring"), (11, "cleaningup"),
    (12, "shuttingdown"), (13, "activating"), (14, "deactivating"), (15, "errorprocessing"),
]  # fmt: skip
GRAPH = {
    (1, "configure", "unconfigured", "configuring"), (10, "transition_success", "configuring", "inactive"),
    (11, "transition_failure", "configuring", "unconfigured"), (12, "transition_error", "configuring", "errorprocessing"),
    (2, "cleanup", "inactive", "cleaningup"), (20, "transition_success", "cleaningup", "unconfigured"),
    (21, "transition_failure", "cleaningup", "inactive"), (22, "transition_error", "cleaningup", "errorprocessing"),
    (3, "activate", "inactive", "activating"), (30, "transition_success", "activating", "active"),
    (31, "transition_failure", "activating", "inactive"), (32, "transition_error", "activating", "errorprocessing"),
    (4, "deactivate", "active", "deactivating"), (40, "transition_success", "deactivating", "inactive"),
    (41, "transition_failure", "deactivating", "active"), (42, "transition_error", "deactivating", "errorprocessing"),
    (5, "shutdown", "unconfigured", "shuttingdown"), (6, "shutdown", "inactive", "shuttingdown"),
    (7, "shutdown", "active", "shuttingdown"), (50, "transition_success", "shuttingdown", "finalized"),
    (51, "transition_failure", "shuttingdown", "finalized"), (52, "transition_error", "shuttingdown", "errorprocessing"),
    (60, "transition_success", "errorprocessing", "unconfigured"), (61, "transition_failure", "errorprocessing", "finalized"),
    (62, "transition_error", "errorprocessing", "finalized"),
}  # fmt: skip
KINDS = {
    "change_state": "ChangeState",
    "get_state": "GetState",
    "get_available_states": "GetAvailableStates",
    "get_available_transitions": "GetAvailableTransitions",
    "get_transition_graph": "GetAvailableTransitions",
}


@pytest.fixture
def make_robot(ros):
    """Makes the lifecycle node /arm/robot; `answers` says what its callbacks give, or which exception they raise."""
    from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn

    class Robot(LifecycleNode):
        def __init__(self, name, *, answers, **options):
            self.called, self.answers = [], answers
            super().__init__(name, **options)

        def _go(self, name, state):
            self.called.append(f"{name} from {state.label}")
            answer = self.answers.get(name, "SUCCESS")
            if isinstance(answer, Exception):
                raise answer
            return getattr(TransitionCallbackReturn, answer)

        def on_configure(self, state):
            return self._go("configure", state)

        def on_activate(self, state):
            return self._go("activate", state)

        def on_deactivate(self, state):
            return self._go("deactivate", state)

        def on_cleanup(self, state):
            return self._go("cleanup", state)

        def on_shutdown(self, state):
            return self._go("shutdown", state)

        def on_error(self, state):
            return self._go("error", state)

    def make(answers=None, **options):
        return ros.node("robot", kind=Robot, namespace="/arm", answers=answers or {}, **options)

    return make


@pytest.fixture
def ask(ros):
    """ask(service, request's fields) gives the response of one of the robot's services."""
    return ros.asker("lifecycle_msgs", KINDS, "/arm/robot")


@pytest.fixture
def change(ask):
    """change(label or id) asks for a transition; whether it succeeded."""
    from lifecycle_msgs.msg import Transition

    def call(wanted):
        transition = Transition(label=wanted) if isinstance(wanted, str) else Transition(id=wanted)
        return ask("change_state", transition=transition).success

    return call


@pytest.fixture
def state(ask):
    """Id and label of the robot's state."""

    def call():
        current = ask("get_state").current_state
        return current.id, current.label

    return call


def shown(transitions):
    return [(each.transition.id, each.transition.label, each.start_state.label, each.goal_state.label) for each in transitions]


def test_a_lifecycle_node_has_its_services(make_robot):
    robot = make_robot()
    offered = dict(robot.get_service_names_and_types_by_node("robot", "/arm"))
    assert {name: offered[f"/arm/robot/{name}"] for name in KINDS} == {name: [f"lifecycle_msgs/srv/{kind}"] for name, kind in KINDS.items()}


def test_a_lifecycle_node_can_do_without_them(make_robot):
    robot = make_robot(enable_communication_interface=False)
    assert not {service.service_name for service in robot.services} & {f"/arm/robot/{name}" for name in KINDS}


@pytest.mark.parametrize("wanted", [("configure", "activate", "deactivate", "cleanup", "shutdown"), (1, 3, 4, 2, 5)])
def test_a_node_is_taken_through_its_life(make_robot, change, state, wanted):
    robot = make_robot()
    states = [state()]
    for transition in wanted:
        assert change(transition)
        states.append(state())
    assert states == [(1, "unconfigured"), (2, "inactive"), (3, "active"), (2, "inactive"), (1, "unconfigured"), (4, "finalized")]
    called = ["configure from unconfigured", "activate from inactive", "deactivate from active", "cleanup from inactive"]
    assert robot.called == [*called, "shutdown from unconfigured"]


def test_a_label_goes_before_an_id(make_robot, ask, state):
    from lifecycle_msgs.msg import Transition

    make_robot()
    assert ask("change_state", transition=Transition(id=5, label="configure")).success
    assert state() == (2, "inactive")


def test_a_label_that_leads_nowhere_from_here_is_refused(make_robot, change, state):
    robot = make_robot()
    assert not change("activate")
    assert not change("fly")
    assert (state(), robot.called) == ((1, "unconfigured"), [])
    assert change("configure")


@pytest.mark.parametrize(
    ("answer", "end"), [("FAILURE", (1, "unconfigured")), ("ERROR", (1, "unconfigured")), (RuntimeError("broken"), (1, "unconfigured"))]
)
def test_a_transition_that_does_not_succeed_is_told_so(make_robot, change, state, answer, end):
    robot = make_robot({"configure": answer})
    assert not change("configure")
    assert state() == end
    assert robot.called == ["configure from unconfigured"] + ([] if answer == "FAILURE" else ["error from unconfigured"])


def test_a_finalized_node_stays_so(make_robot, change, state):
    robot = make_robot()
    assert change("shutdown")
    assert not change("shutdown")
    with pytest.raises(RuntimeError):
        robot.trigger_shutdown()
    assert (state(), robot.called) == ((4, "finalized"), ["shutdown from unconfigured"])


def test_states_are_listed(make_robot, ask):
    make_robot()
    assert [(each.id, each.label) for each in ask("get_available_states").available_states] == STATES


def test_the_ways_out_of_the_state_are_listed(make_robot, ask, change):
    make_robot()
    ways = shown(ask("get_available_transitions").available_transitions)
    assert ways == [(1, "configure", "unconfigured", "configuring"), (5, "shutdown", "unconfigured", "shuttingdown")]
    assert change("configure")
    assert [way[:2] for way in shown(ask("get_available_transitions").available_transitions)] == [
        (2, "cleanup"),
        (3, "activate"),
        (6, "shutdown"),
    ]


def test_all_ways_are_listed(make_robot, ask):
    make_robot()
    transitions = ask("get_transition_graph").available_transitions
    assert (len(transitions), set(shown(transitions))) == (25, GRAPH)
    numbers = {label: number for number, label in STATES}
    assert all(numbers[end.label] == end.id for each in transitions for end in (each.start_state, each.goal_state))


def test_every_step_is_told_and_kept_for_nobody(ros, make_robot, change):
    from lifecycle_msgs.msg import TransitionEvent
    from rclpy.qos import DurabilityPolicy, QoSProfile

    make_robot()
    listening, events = ros.node("listening"), []
    topic = "/arm/robot/transition_event"
    listening.create_subscription(TransitionEvent, topic, events.append, 10)
    assert ros.until(lambda: listening.count_publishers(topic) == 1)
    while not events:  # the robot may learn of the listener a little later
        assert change("configure")
        assert change("cleanup")
        ros.until(lambda: events, 0.5)
    assert ros.until(lambda: events[-1].goal_state.label == "unconfigured")
    events.clear()
    assert change("configure")
    assert ros.until(lambda: len(events) == 2)
    assert [(event.start_state.label, event.goal_state.label) for event in events] == [
        ("unconfigured", "configuring"),
        ("configuring", "inactive"),
    ]
    (offered,) = listening.get_publishers_info_by_topic(topic)
    assert offered.qos_profile.durability == DurabilityPolicy.VOLATILE
    late = []
    listening.create_subscription(TransitionEvent, topic, late.append, QoSProfile(depth=10))
    assert not ros.until(lambda: late, patience_s=0.3)


def test_a_lifecycle_publisher_follows_the_services(ros, change):
    from rclpy.lifecycle import LifecycleNode
    from std_msgs.msg import String

    robot, listening, heard = ros.node("robot", kind=LifecycleNode, namespace="/arm"), ros.node("listening"), []
    publisher = robot.create_lifecycle_publisher(String, "text", 10)
    listening.create_subscription(String, "/arm/text", lambda message: heard.append(message.data), 10)
    assert ros.until(lambda: publisher.get_subscription_count() == 1)
    for transition in ("configure", "activate", "deactivate", "activate"):
        publisher.publish(String(data=f"before {transition}"))
        assert change(transition)
    publisher.publish(String(data="end"))
    assert ros.until(lambda: "end" in heard)
    assert heard == ["before deactivate", "end"]
