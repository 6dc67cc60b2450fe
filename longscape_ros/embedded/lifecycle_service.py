# SPDX-License-Identifier: Apache-2.0
"""The services of a lifecycle node, by which `ros2 lifecycle` and lifecycle managers drive it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from longscape_ros.embedded.exceptions import RCLError
from longscape_ros.embedded.messages import message_class, service_class


class TransitionDescription(NamedTuple):
    """One edge of the state machine: id and label of the transition, of the state it leaves and of the one it leads to."""

    transition_id: int
    label: str
    start_id: int
    start_label: str
    goal_id: int
    goal_label: str


class LifecycleService:
    """The five services of a lifecycle node.

    Args:
        node: The lifecycle node; its `_state_machine` is asked and its `_change_state(transition_id)` changes it.
        callback_group: Of the services; the node's default group if None.
    """

    def __init__(self, node: Any, callback_group: Any) -> None:
        self._node = node
        for name, kind, callback in (
            ("change_state", "ChangeState", self._change_state),
            ("get_state", "GetState", self._get_state),
            ("get_available_states", "GetAvailableStates", self._get_available_states),
            ("get_available_transitions", "GetAvailableTransitions", self._get_available_transitions),
            ("get_transition_graph", "GetAvailableTransitions", self._get_transition_graph),
        ):
            node.create_service(service_class(f"lifecycle_msgs/srv/{kind}"), f"~/{name}", callback, callback_group=callback_group)

    def _change_state(self, request: Any, response: Any) -> Any:
        """Takes the transition of a label, or of an id where there is no label; one that is not there is refused, and changes nothing."""
        wanted = request.transition.label or request.transition.id
        try:
            response.success = self._node._change_state(wanted).name == "SUCCESS"
        except RCLError as fault:
            self._node.get_logger().warning(f"A request to change the state was refused: {fault}")
            response.success = False
        return response

    def _get_state(self, request: Any, response: Any) -> Any:
        response.current_state.id, response.current_state.label = self._node._state_machine.current_state
        return response

    def _get_available_states(self, request: Any, response: Any) -> Any:
        state = message_class("lifecycle_msgs/msg/State")
        response.available_states = [state(id=number, label=label) for number, label in self._node._state_machine.available_states]
        return response

    def _get_available_transitions(self, request: Any, response: Any) -> Any:
        response.available_transitions = _descriptions(self._node._state_machine.available_transitions)
        return response

    def _get_transition_graph(self, request: Any, response: Any) -> Any:
        response.available_transitions = _descriptions(self._node._state_machine.transition_graph)
        return response


def _descriptions(edges: Iterable[TransitionDescription]) -> list[Any]:
    names = ("TransitionDescription", "Transition", "State")
    description, transition, state = (message_class(f"lifecycle_msgs/msg/{name}") for name in names)
    return [
        description(
            transition=transition(id=edge.transition_id, label=edge.label),
            start_state=state(id=edge.start_id, label=edge.start_label),
            goal_state=state(id=edge.goal_id, label=edge.goal_label),
        )
        for edge in edges
    ]
