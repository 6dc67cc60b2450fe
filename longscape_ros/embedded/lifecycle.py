# SPDX-License-Identifier: Apache-2.0
"""rclpy's managed nodes: the state machine, its callbacks, and publishers that speak only while active.

A lifecycle node is driven by its trigger_* methods, and from outside by its services.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple

from longscape_ros.embedded.endpoints import Publisher
from longscape_ros.embedded.exceptions import RCLError
from longscape_ros.embedded.lifecycle_service import LifecycleService, TransitionDescription
from longscape_ros.embedded.messages import message_class
from longscape_ros.embedded.node import Node


class TransitionCallbackReturn(Enum):
    """How a transition's callback went."""

    SUCCESS = 97
    FAILURE = 98
    ERROR = 99

    def to_label(self) -> str:
        """The label of the transition that follows."""
        return f"transition_{self.name.lower()}"


class LifecycleState(NamedTuple):
    """A state by label and id."""

    label: str
    state_id: int


class _Transition(NamedTuple):
    """One edge of the state machine."""

    id: int
    label: str
    start: str
    goal: str


_STATES = {
    "unknown": 0, "unconfigured": 1, "inactive": 2, "active": 3, "finalized": 4, "configuring": 10, "cleaningup": 11,
    "shuttingdown": 12, "activating": 13, "deactivating": 14, "errorprocessing": 15,
}  # fmt: skip
_CALLBACKS = {
    "configuring": "on_configure", "cleaningup": "on_cleanup", "shuttingdown": "on_shutdown",
    "activating": "on_activate", "deactivating": "on_deactivate", "errorprocessing": "on_error",
}  # fmt: skip


def _step(first_id: int, state: str, success: str, failure: str, error: str = "errorprocessing") -> tuple[_Transition, ...]:
    """The three ways out of a transition state."""
    goals = (("success", success), ("failure", failure), ("error", error))
    return tuple(_Transition(first_id + index, f"transition_{label}", state, goal) for index, (label, goal) in enumerate(goals))


_TRANSITIONS = (
    _Transition(1, "configure", "unconfigured", "configuring"),
    *_step(10, "configuring", success="inactive", failure="unconfigured"),
    _Transition(2, "cleanup", "inactive", "cleaningup"),
    *_step(20, "cleaningup", success="unconfigured", failure="inactive"),
    _Transition(3, "activate", "inactive", "activating"),
    *_step(30, "activating", success="active", failure="inactive"),
    _Transition(4, "deactivate", "active", "deactivating"),
    *_step(40, "deactivating", success="inactive", failure="active"),
    _Transition(5, "shutdown", "unconfigured", "shuttingdown"),
    _Transition(6, "shutdown", "inactive", "shuttingdown"),
    _Transition(7, "shutdown", "active", "shuttingdown"),
    *_step(50, "shuttingdown", success="finalized", failure="finalized"),
    *_step(60, "errorprocessing", success="unconfigured", failure="finalized", error="finalized"),
)
"""All edges, in the order in which ROS lists them."""


class _StateMachine:
    """Where the node is, and which way it may go. `on_transition` is told of every step."""

    def __init__(self, on_transition: Callable[[_Transition], None]) -> None:
        self._state = "unconfigured"
        self._on_transition = on_transition

    @property
    def current_state(self) -> tuple[int, str]:
        """Id and label."""
        return _STATES[self._state], self._state

    @property
    def available_states(self) -> list[tuple[int, str]]:
        """Ids and labels of all states."""
        return [(number, label) for label, number in _STATES.items()]

    @property
    def available_transitions(self) -> list[TransitionDescription]:
        """The ways out of the current state."""
        return [_described(edge) for edge in _TRANSITIONS if edge.start == self._state]

    @property
    def transition_graph(self) -> list[TransitionDescription]:
        """Every edge."""
        return [_described(edge) for edge in _TRANSITIONS]

    def trigger(self, transition: str | int) -> None:
        """Takes the transition with this label or this id.

        Raises:
            RCLError: There is none from the current state.
        """
        for edge in _TRANSITIONS:
            if edge.start == self._state and transition in (edge.label, edge.id):
                self._state = edge.goal
                self._on_transition(edge)
                return
        known = ", ".join(edge.label for edge in self.available_transitions) or "none"
        raise RCLError(f"Got the transition {transition!r} in the state {self._state!r}, expected one of: {known}.")


def _described(edge: _Transition) -> TransitionDescription:
    return TransitionDescription(edge.id, edge.label, _STATES[edge.start], edge.start, _STATES[edge.goal], edge.goal)


class ManagedEntity:
    """What follows a lifecycle node's transitions; every callback succeeds by doing nothing."""

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """The node is being configured."""
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """The node is being cleaned up."""
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """The node is being shut down."""
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """The node is being activated."""
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """The node is being deactivated."""
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """A transition of the node failed with an error."""
        return TransitionCallbackReturn.SUCCESS


class SimpleManagedEntity(ManagedEntity):
    """An entity that is enabled while its node is active."""

    def __init__(self) -> None:
        self._enabled = False

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Enables it."""
        self._enabled = True
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Disables it."""
        self._enabled = False
        return TransitionCallbackReturn.SUCCESS

    @property
    def is_activated(self) -> bool:
        """Whether it is enabled."""
        return self._enabled

    @staticmethod
    def when_enabled(wrapped: Callable[..., Any] | None = None, *, when_not_enabled: Callable[[], Any] | None = None) -> Any:
        """Decorates a method, whose result is lost, to rest while the entity is disabled; `when_not_enabled` is called instead."""

        def decorate(method: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(method)
            def guarded(self: SimpleManagedEntity, *args: Any, **kwargs: Any) -> None:
                if self._enabled:
                    method(self, *args, **kwargs)
                elif when_not_enabled is not None:
                    when_not_enabled()

            return guarded

        return decorate if wrapped is None else decorate(wrapped)


class LifecyclePublisher(SimpleManagedEntity, Publisher):
    """A publisher that publishes only while its node is active."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        SimpleManagedEntity.__init__(self)
        Publisher.__init__(self, *args, **kwargs)

    def publish(self, msg: Any) -> None:
        """Publishes a message while active; does nothing otherwise."""
        if self._enabled:
            Publisher.publish(self, msg)


class LifecycleNodeMixin(ManagedEntity):
    """Makes a Node a managed one; comes before Node among the bases.

    Transitions are published on `~/transition_event`: the states that they lead from and to, as ROS leaves the other fields empty.

    Args:
        enable_communication_interface: Whether the node has its services.
        callback_group: Of the services; the node's default group if None.
    """

    def __init__(self, *, enable_communication_interface: bool = True, callback_group: Any = None) -> None:
        self._managed_entities: list[ManagedEntity] = []
        self._state_machine = _StateMachine(self._announce)
        node = self._node()
        with node._graph.announced_at_once():
            event = message_class("lifecycle_msgs/msg/TransitionEvent")
            self._transition_events = node.create_inner_publisher(event, "~/transition_event", 10)
            if enable_communication_interface:
                LifecycleService(node, callback_group)

    def _node(self) -> Node:
        if not isinstance(self, Node):
            raise TypeError(f"Got {type(self)}, expected a class with the bases LifecycleNodeMixin and Node.")
        return self

    def trigger_configure(self) -> TransitionCallbackReturn:
        """unconfigured -> inactive."""
        return self._change_state("configure")

    def trigger_cleanup(self) -> TransitionCallbackReturn:
        """inactive -> unconfigured."""
        return self._change_state("cleanup")

    def trigger_activate(self) -> TransitionCallbackReturn:
        """inactive -> active."""
        return self._change_state("activate")

    def trigger_deactivate(self) -> TransitionCallbackReturn:
        """active -> inactive."""
        return self._change_state("deactivate")

    def trigger_shutdown(self) -> TransitionCallbackReturn:
        """unconfigured, inactive or active -> finalized.

        Raises:
            RCLError: It is finalized already.
        """
        return self._change_state("shutdown")

    def add_managed_entity(self, entity: ManagedEntity) -> None:
        """Has an entity follow the node's transitions."""
        if not isinstance(entity, ManagedEntity):
            raise TypeError(f"Got {entity!r}, expected a rclpy.lifecycle.ManagedEntity.")
        if entity not in self._managed_entities:
            self._managed_entities.append(entity)

    def create_lifecycle_publisher(self, *args: Any, **kwargs: Any) -> LifecyclePublisher:
        """A publisher that speaks only while the node is active; takes what create_publisher takes."""
        if "publisher_class" in kwargs:
            raise TypeError("create_publisher() got an unexpected keyword argument 'publisher_class'")
        publisher: LifecyclePublisher = Node.create_publisher(self._node(), *args, **kwargs, publisher_class=LifecyclePublisher)
        self.add_managed_entity(publisher)
        return publisher

    def destroy_lifecycle_publisher(self, publisher: LifecyclePublisher) -> bool:
        """Takes a publisher away; False if it is not one of this node's."""
        if publisher in self._managed_entities:
            self._managed_entities.remove(publisher)
        return Node.destroy_publisher(self._node(), publisher)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Configures the managed entities, up to the first that does not succeed."""
        return self._of_entities("on_configure", state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Cleans the managed entities up, up to the first that does not succeed."""
        return self._of_entities("on_cleanup", state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Shuts the managed entities down, up to the first that does not succeed."""
        return self._of_entities("on_shutdown", state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Activates the managed entities, up to the first that does not succeed."""
        return self._of_entities("on_activate", state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Deactivates the managed entities, up to the first that does not succeed."""
        return self._of_entities("on_deactivate", state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Tells the managed entities of an error: SUCCESS leads to unconfigured, anything else to finalized."""
        return self._of_entities("on_error", state)

    def _of_entities(self, callback: str, state: LifecycleState) -> TransitionCallbackReturn:
        for entity in list(self._managed_entities):
            result = getattr(entity, callback)(state)
            if not isinstance(result, TransitionCallbackReturn):
                raise TypeError(f"Got {result!r} from {callback} of {entity}, expected a TransitionCallbackReturn.")
            if result is not TransitionCallbackReturn.SUCCESS:
                return result
        return TransitionCallbackReturn.SUCCESS

    def _change_state(self, transition: str | int) -> TransitionCallbackReturn:
        """Takes a transition by label or id, its callback, and where that ends in an error, the error's callback."""
        state_id, label = self._state_machine.current_state
        before = LifecycleState(label=label, state_id=state_id)
        self._state_machine.trigger(transition)
        result = self._run_callback(before)
        self._state_machine.trigger(result.to_label())
        if result is TransitionCallbackReturn.ERROR:
            self._state_machine.trigger(self._run_callback(before).to_label())
        return result

    def _run_callback(self, before: LifecycleState) -> TransitionCallbackReturn:
        name = _CALLBACKS[self._state_machine.current_state[1]]
        logger = self._node().get_logger()
        try:
            result = getattr(self, name)(before)
        except Exception as fault:
            logger.error(f"{name} from {before.label} raised {type(fault).__name__}: {fault}")
            return TransitionCallbackReturn.ERROR
        if not isinstance(result, TransitionCallbackReturn):
            raise AttributeError(f"Got {result!r} from {name} of {type(self).__name__}, expected a TransitionCallbackReturn.")
        return result

    def _announce(self, edge: _Transition) -> None:
        state = message_class("lifecycle_msgs/msg/State")
        start, goal = (state(id=_STATES[label], label=label) for label in (edge.start, edge.goal))
        self._transition_events.publish(self._transition_events.msg_type(start_state=start, goal_state=goal))


class LifecycleNode(LifecycleNodeMixin, Node):
    """A managed node: unconfigured, inactive, active, finalized. Takes what Node takes."""

    def __init__(self, node_name: str, *, enable_communication_interface: bool = True, **kwargs: Any) -> None:
        Node.__init__(self, node_name, **kwargs)
        LifecycleNodeMixin.__init__(self, enable_communication_interface=enable_communication_interface)
