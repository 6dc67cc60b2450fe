# SPDX-License-Identifier: Apache-2.0
"""What lifecycle nodes say beyond what rclpy says: faults are told with what was got and what is expected."""

from __future__ import annotations

import pytest

from longscape_ros.embedded.exceptions import RCLError
from longscape_ros.embedded.lifecycle import LifecycleNode, LifecycleNodeMixin


def test_the_mixin_needs_a_node():
    with pytest.raises(TypeError, match="expected a class with the bases LifecycleNodeMixin and Node"):
        LifecycleNodeMixin()


def test_a_transition_that_does_not_exist_is_refused_with_those_that_do(make_node):
    robot = make_node("robot", kind=LifecycleNode)
    with pytest.raises(RCLError, match="Got the transition 'activate' in the state 'unconfigured', expected one of: configure, shutdown"):
        robot.trigger_activate()
    robot.trigger_shutdown()
    with pytest.raises(RCLError, match="Got the transition 'shutdown' in the state 'finalized', expected one of: none"):
        robot.trigger_shutdown()


def test_an_exception_in_a_callback_is_logged(make_node, capsys):
    class Robot(LifecycleNode):
        def on_configure(self, state):
            raise RuntimeError("broken")

    make_node("robot", kind=Robot).trigger_configure()
    assert "on_configure from unconfigured raised RuntimeError: broken" in capsys.readouterr().err


def test_an_answer_that_is_none_is_told_with_its_callback(make_node):
    class Robot(LifecycleNode):
        def on_configure(self, state):
            return "SUCCESS"

    with pytest.raises(AttributeError, match="Got 'SUCCESS' from on_configure of Robot, expected a TransitionCallbackReturn"):
        make_node("robot", kind=Robot).trigger_configure()
