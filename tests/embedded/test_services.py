# SPDX-License-Identifier: Apache-2.0
"""Services of std_srvs, which the rclpy on PyPI lacks, and signals while DDS is asked who is there."""

from __future__ import annotations

import pytest
from support.ros import NODE_WITH_ALARMS

from longscape_ros.embedded.messages import service_class

Empty, SetBool = (service_class(f"std_srvs/srv/{name}") for name in ("Empty", "SetBool"))


def test_messages_without_fields_make_a_service(make_node, spin):
    node, asked = make_node(), []
    node.create_service(Empty, "reset", lambda request, response: asked.append(request) or response)
    client = node.create_client(Empty, "reset")
    assert spin([node], client.service_is_ready)
    future = client.call_async(Empty.Request())
    assert spin([node], future.done)
    assert (future.result(), asked) == (Empty.Response(), [Empty.Request()])


def test_a_service_class_holds_its_messages_and_has_no_instances():
    assert SetBool.Request(data=True).data
    assert SetBool.Response(success=True, message="m") == SetBool.Response(success=True, message="m")
    assert SetBool.Request.get_fields_and_field_types() == {"data": "boolean"}
    assert SetBool.Response.get_fields_and_field_types() == {"success": "boolean", "message": "string"}
    assert repr(SetBool.Request(data=True)) == "std_srvs.srv.SetBool_Request(data=True)"
    with pytest.raises(NotImplementedError):
        SetBool()


ANSWERED_WHILE_SIGNALS_COME = f"""{NODE_WITH_ALARMS}
from std_srvs.srv import Empty
from longscape_ros.embedded.signals import forget_interrupt
service = node.create_service(Empty, "reset", lambda request, response: response)
client = node.create_client(Empty, "reset")
assert client.wait_for_service(30.0)
interrupts = 0
while interrupts < 1000:
    client.call_async(Empty.Request())
    try:
        arm(1e-3)
        while True:
            client.service_is_ready()
            answer = service.take()
            if answer is not None:
                answer()
    except KeyboardInterrupt:
        interrupts += 1
forget_interrupt()
print("alive")
"""


def test_a_signal_while_a_request_is_answered_is_an_interrupt_and_no_error(survive):
    survive(ANSWERED_WHILE_SIGNALS_COME)
