# SPDX-License-Identifier: Apache-2.0
"""What services put on the wire, byte by byte, and what they survive, beside clients and services made by hand.

The layouts are those of rmw_cyclonedds_cpp's Jazzy sources (serdata.hpp, rmw_node.cpp); they have not been compared with a running ROS.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading

import pytest
from cyclonedds.core import Policy

from longscape_ros.embedded.dds import Participant
from longscape_ros.embedded.exceptions import NotOfferedError, RCLError
from longscape_ros.embedded.lifecycle import LifecycleNode
from longscape_ros.embedded.messages import TypeLibrary, library, message_class, service_class
from longscape_ros.embedded.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from longscape_ros.embedded.services import RequestHeader
from longscape_ros.embedded.type_description_service import type_description

SetBool, Trigger = service_class("std_srvs/srv/SetBool"), service_class("std_srvs/srv/Trigger")
GUID = 0x1122334455667788
HEADER = bytes.fromhex("8877665544332211 0900000000000000")  # the client's id, and its ninth request
LITTLE, BIG = bytes.fromhex("00010000"), bytes.fromhex("00000000")  # encapsulations
PROFILE = QoSProfile(depth=10)
TYPE_HASHES = {
    "lifecycle_msgs/srv/ChangeState": "356fe34f0475a43acf54542013af4167b0e729f77ea22ffb045c6ad8e20668e5",
    "lifecycle_msgs/srv/ChangeState_Request": "d74c6f524e14cade7b67e7297190360ed749264af300524fc1456f27cc2a553a",
    "lifecycle_msgs/srv/ChangeState_Response": "e1ddfed0271fefe63767aa71561926e4d9eac0f1ddf9e71a8873eb46b36deac2",
    "lifecycle_msgs/srv/ChangeState_Event": "bf7f355aca8762a7a51df02eaf4a51024255d15b31b1b68bf0a099673c2709bc",
    "lifecycle_msgs/srv/GetAvailableStates": "00a07d79d2207d71e81a8cbc1880e5d924cc16d4688ea8e8e06e443dc8f8aa1d",
    "lifecycle_msgs/srv/GetAvailableStates_Request": "c2c0c12de6023822f284929577d4ca2862e0501150010966e8a90b632e4424de",
    "lifecycle_msgs/srv/GetAvailableTransitions": "59b7ecefce0982a8a844b9f2c4f14764c1c4543cc55e72924e2aa4adad83e9bc",
    "lifecycle_msgs/srv/GetAvailableTransitions_Request": "52a73c0b5d7489bee0df6ddb0aec45c41289d223ff225b58fe11d859ac8109a6",
    "lifecycle_msgs/srv/GetState": "800a0a5aae599782b02932de0caf563f6dc4e7e94b794eadde075ba2cbef9795",
    "lifecycle_msgs/srv/GetState_Request": "77a9c844e7975f15bc2221e8bbebafc4d118afb78c7f7071eef91f83f940f2f6",
    "rcl_interfaces/srv/DescribeParameters": "845b484d71eb0673dae682f2e3ba3c4851a65a3dcfb97bddd82c5b57e91e4cff",
    "rcl_interfaces/srv/DescribeParameters_Request": "05dd1c2bc87dec2627105c8070d6f9725c781a4f2ab852975bf105462b82b644",
    "rcl_interfaces/srv/GetParameters": "bf9803d5c74cf989a5de3e0c2e99444599a627c7ff75f97b8c05b01003675cbc",
    "rcl_interfaces/srv/GetParameters_Request": "135a9e1c3d7cebef792f6687d7ddf99949b21a0bd9a320d863a9110a3f5cf4d6",
    "rcl_interfaces/srv/GetParameters_Response": "9fa773b46e39cc5d02db6224d8fd520bb9caeeffc2b27c96c1e59431baba9f2a",
    "rcl_interfaces/srv/GetParameters_Event": "84eeb9247b09067c35bd8750d5c8555b700e394a616737c4624f15ae02e64c4d",
    "rcl_interfaces/srv/GetParameterTypes": "da199c878688b3e530bdfe3ca8f74cb9fa0c303101e980a9e8f260e25e1c80ca",
    "rcl_interfaces/srv/GetParameterTypes_Request": "87d7ec5ef545d4daa289d500025d31fb2437bc8b8365ca367161c4dac4be33fd",
    "rcl_interfaces/srv/ListParameters": "3e6062bfbb27bfb8730d4cef2558221f51a11646d78e7bb30a1e83afac3aad9d",
    "rcl_interfaces/srv/ListParameters_Request": "a1b0b5d6b967a5b8ac5bc8563c3ea678f349e312a6a4967227c5a96bc5ce38df",
    "rcl_interfaces/srv/SetParameters": "56eed9a67e169f9cb6c1f987bc88f868c14a8fc9f743a263bc734c154015d7e0",
    "rcl_interfaces/srv/SetParameters_Request": "130d46386b7e84ea9ecf60608a4d83cbe5e5cb7c6cc5b712b7a4e3a6c254e932",
    "rcl_interfaces/srv/SetParameters_Response": "7a0e8140a0b8d98308fa81a5403a766e610af29a239caf54b7553227906fc266",
    "std_srvs/srv/Empty": "5888399dedec5ccc85ea6451949fd2c9f97bfdf963f9a588821639fcd31b5d19",
    "std_srvs/srv/Empty_Request": "458eaf200a3f63d9cc53d19436edebc0c140ef4c93ca75d5bd4ce19fd7759e35",
    "std_srvs/srv/SetBool": "abe9e4bb6b41b40e6789712c00ec8871923e089af3f667a79992a428cff2da0a",
    "std_srvs/srv/SetBool_Request": "c62fbb99d94e1b25e8ef9e109f9581956bb1b3361a45a4e5810c36a90d29932e",
    "std_srvs/srv/SetBool_Response": "d0814e7f7b4880ab77e9c57426c7aa1562ab69f11eef8e2e968812f9cbd0b059",
    "std_srvs/srv/Trigger": "eeff2cd6fa5ad9d27cdf4dec64818317839b62f212a91e6b5304b634b2062c5f",
    "std_srvs/srv/Trigger_Request": "d010825374ce8918e72bfd826c82603e60f45419e932ea976f807b74a863a199",
    "type_description_interfaces/srv/GetTypeDescription": "69b9c19c1021405984cc60dbbb1edceb147a6538b411d812ba6afabeed962cd5",
    "type_description_interfaces/srv/GetTypeDescription_Request": "470f56ccbcf13d55c78c8b735fb12da03e639e5acded994426c89d94778d9e28",
    "type_description_interfaces/srv/GetTypeDescription_Response": "648c49d976240861a482f961c5621ddd0d2135d8cce6f297a76d4f6376d93b75",
}
"""As ROS's generator wrote them into the headers of these packages."""


class Raw:
    """One side of the service /lamp made by hand, in a participant of its own: bytes go out, bytes come in."""

    def __init__(self, domain, *, serves, ids=("", ""), kind=SetBool, service="/lamp"):
        self.participant, self._received = Participant(domain, "/"), []
        requests, replies = (f"rq{service}Request", kind.Request), (f"rr{service}Reply", kind.Response)
        (out_topic, out_type), (in_topic, in_type) = (replies, requests) if serves else (requests, replies)
        self.writer = self.participant.create_writer(out_topic, out_type._TYPE_NAME, PROFILE, user_data=ids[0])
        self.reader = self.participant.create_reader(in_topic, in_type._TYPE_NAME, PROFILE, user_data=ids[1])

    def send(self, data):
        sample = self.writer.data_type.__new__(self.writer.data_type)
        sample.cdr = data
        self.writer.write(sample)

    def received(self):
        """The bytes of the samples that came and were not heard yet."""
        self._received += [sample.cdr for sample in self.reader.take(100) if hasattr(sample, "cdr")]
        return self._received

    def connected(self):
        return bool(self.writer.get_matched_subscriptions() and self.reader.get_matched_publications())


@pytest.fixture
def make_raw(own_domain):
    """Makes sides by hand, which leave at the end."""
    made = []

    def make(**options):
        made.append(Raw(own_domain, **options))
        return made[-1]

    yield make
    for raw in made:
        raw.participant.close()


@pytest.fixture
def lamp(make_node):
    """A node with the service /lamp, which switches as told; the service and what it was told."""
    node, told = make_node("lamps"), []

    def switch(request, response):
        told.append(request.data)
        response.success, response.message = True, "on" if request.data else "off"
        return response

    return node, node.create_service(SetBool, "lamp", switch), told


@pytest.fixture
def hears(spin):
    """hears(nodes, raw) gives the next bytes that a side made by hand gets."""

    def wait(nodes, raw):
        assert spin(nodes, raw.received)
        return raw.received().pop(0)

    return wait


# What is sent


def test_the_header_stands_between_the_encapsulation_and_the_body():
    assert RequestHeader(GUID, 9).before(LITTLE + b"\x01") == LITTLE + HEADER + b"\x01"
    assert RequestHeader.split(LITTLE + HEADER + b"\x01\0\0\0") == (RequestHeader(GUID, 9), LITTLE + b"\x01\0\0\0")
    assert RequestHeader(2**64 - 1, -1).before(LITTLE)[4:] == b"\xff" * 16


def test_the_header_has_the_byte_order_of_the_encapsulation():
    sample = BIG + HEADER[7::-1] + HEADER[:7:-1] + b"\x01"
    assert RequestHeader.split(sample) == (RequestHeader(GUID, 9), BIG + b"\x01")
    assert RequestHeader(GUID, 9).before(BIG + b"\x01") == sample


@pytest.mark.parametrize("size", range(20))
def test_a_sample_too_short_for_a_header_is_refused(size):
    with pytest.raises(ValueError, match=f"Got {size} bytes, expected at least 20"):
        RequestHeader.split((LITTLE + HEADER)[:size])


def test_a_request_is_a_header_and_the_messages_cdr(make_node, make_raw, hears, spin):
    node, raw = make_node(), make_raw(serves=True)
    client = node.create_client(SetBool, "lamp")
    assert spin([node], lambda: client.service_is_ready() and raw.connected())
    for number in (1, 2):
        client.call_async(SetBool.Request(data=True))
        data = hears([node], raw)
        assert data[:4] + data[12:] == LITTLE + number.to_bytes(8, "little") + b"\x01\0\0\0"
    own_id = data[4:12]
    other = make_node("other").create_client(SetBool, "lamp")
    assert spin([node], lambda: other.service_is_ready())
    other.call_async(SetBool.Request())
    assert hears([node], raw)[4:12] != own_id


def test_a_request_without_fields_has_one_byte(make_node, make_raw, hears, spin):
    node, raw = make_node(), make_raw(serves=True, kind=Trigger)
    client = node.create_client(Trigger, "lamp")
    assert spin([node], lambda: client.service_is_ready() and raw.connected())
    client.call_async(Trigger.Request())
    assert hears([node], raw)[12:] == (1).to_bytes(8, "little") + bytes(4)  # the byte, and padding


def test_a_reply_repeats_the_requests_header(lamp, make_raw, hears, spin):
    node, _, told = lamp
    raw = make_raw(serves=False, ids=("clientid=a;", "clientid=a;"))
    assert spin([node], raw.connected)
    raw.send(LITTLE + HEADER + b"\x01\0\0\0")
    # success, three bytes of padding, the text's length with its end, the text
    assert hears([node], raw) == LITTLE + HEADER + b"\x01\0\0\0" + b"\x03\0\0\0" + b"on\0\0"
    assert told == [True]


def test_a_request_in_the_other_byte_order_is_understood(lamp, make_raw, hears, spin):
    node, _, told = lamp
    raw = make_raw(serves=False)
    assert spin([node], raw.connected)
    raw.send(BIG + HEADER[7::-1] + HEADER[:7:-1] + b"\x01\0\0\0")
    assert hears([node], raw)[4:20] == HEADER
    assert told == [True]


def test_a_client_takes_the_replies_to_itself_alone(make_node, make_raw, hears, spin):
    node, raw = make_node(), make_raw(serves=True)
    client = node.create_client(SetBool, "lamp")
    assert spin([node], lambda: client.service_is_ready() and raw.connected())
    future = client.call_async(SetBool.Request(data=True))
    header = hears([node], raw)[4:20]
    body = b"\x01\0\0\0" + b"\x04\0\0\0" + b"own\0"
    other = bytes([header[0] ^ 1]) + header[1:]
    raw.send(LITTLE + other + body.replace(b"own", b"not"))
    raw.send(LITTLE + header[:8] + (7).to_bytes(8, "little") + body.replace(b"own", b"not"))
    raw.send(LITTLE + header + body)
    raw.send(LITTLE + header + body.replace(b"own", b"not"))
    assert spin([node], future.done)
    assert future.result() == SetBool.Response(success=True, message="own")


# Names, types, quality of service


def test_topics_types_and_hashes_are_those_of_ros(make_node, spin):
    node = make_node("house", namespace="/our")
    node.create_service(SetBool, "~/lamp", print)
    topics = dict(node.get_topic_names_and_types(no_demangle=True))
    assert topics["rq/our/house/lampRequest"] == ["std_srvs::srv::dds_::SetBool_Request_"]
    assert topics["rr/our/house/lampReply"] == ["std_srvs::srv::dds_::SetBool_Response_"]
    (request,) = node.get_subscriptions_info_by_topic("rq/our/house/lampRequest", no_mangle=True)
    (reply,) = node.get_publishers_info_by_topic("rr/our/house/lampReply", no_mangle=True)
    hashes = (str(request.topic_type_hash), str(reply.topic_type_hash))
    assert hashes == tuple(f"RIHS01_{TYPE_HASHES[f'std_srvs/srv/SetBool_{half}']}" for half in ("Request", "Response"))
    assert (request.node_name, reply.node_name) == ("house", "house")
    for info in (request, reply):
        profile = info.qos_profile
        assert (profile.history, profile.depth) == (HistoryPolicy.KEEP_LAST, 10)
        assert (profile.reliability, profile.durability) == (ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE)
    (parameters,) = node.get_subscriptions_info_by_topic("rq/our/house/set_parametersRequest", no_mangle=True)
    assert parameters.qos_profile.depth == 1000


def test_the_halves_of_a_service_and_of_a_client_have_one_id_in_their_user_data(lamp):
    node, service, _ = lamp
    clients = [node.create_client(SetBool, "lamp") for _ in range(2)]
    for end, key in ((service, "serviceid"), *((client, "clientid") for client in clients)):
        texts = [entity.get_qos()[Policy.Userdata].data.decode() for entity in (end.entity, end._writer)]
        kinds = ("Request", "Response") if key == "serviceid" else ("Response", "Request")
        hashes = [f"typehash=RIHS01_{TYPE_HASHES[f'std_srvs/srv/SetBool_{kind}']};" for kind in kinds]
        assert texts == [f"{key}={end.service_id};{text}" for text in hashes]
        assert re.fullmatch(r"[ 0-9a-f][0-9a-f](\.[0-9a-f]{1,2}){15}", end.service_id)
    own = node.context.participant.gid[:12]
    assert [int(part, 16) for part in service.service_id.split(".")[:12]] == list(own)
    assert len({end.service_id for end in (service, *clients)}) == 3


def test_type_hashes_are_those_that_ros_generated():
    for name in library().service_names():
        library().service_class(name)
    assert {name: library().type_hash(name) for name in TYPE_HASHES} == {name: f"RIHS01_{text}" for name, text in TYPE_HASHES.items()}


def test_services_are_read_from_folders(tmp_path):
    folder = tmp_path / "example_interfaces"
    (folder / "srv").mkdir(parents=True)
    (folder / "package.xml").write_text("<package format='3'><name>example_interfaces</name></package>")
    (folder / "srv" / "AddTwoInts.srv").write_text("int64 a\nint64 b  # the other one\n---\nint64 sum\n")
    (folder / "srv" / "Wrong.srv").write_text("int64 a\n")
    types = TypeLibrary()
    assert types.add_folder(folder) == types.add_folder(folder) == "example_interfaces"
    add = types.service_class("example_interfaces/srv/AddTwoInts")
    assert types.serialize(add.Request(a=1, b=2)) == LITTLE + bytes([1, *bytes(7), 2, *bytes(7)])
    expected = "RIHS01_e118de6bf5eeb66a2491b5bda11202e7b68f198d6f67922cf30364858239c81a"  # of rmw_zenoh's design document
    assert types.type_hash("example_interfaces/srv/AddTwoInts") == expected
    with pytest.raises(Exception, match="Got 0 lines of '---' in the definition of example_interfaces/srv/Wrong, expected one"):
        types.service_class("example_interfaces/srv/Wrong")
    (folder / "srv" / "AddTwoInts.srv").write_text("int64 a\n---\nint64 sum\n")
    with pytest.raises(Exception, match="Got another example_interfaces/srv/AddTwoInts"):
        types.add_folder(folder)


# Who is connected


@pytest.mark.parametrize(
    ("ids", "ready"),
    [
        (("serviceid=1;", "serviceid=1;"), True),
        (("serviceid=1;", "serviceid=2;"), False),
        (("", "serviceid=2;"), False),
        (("", ""), True),
    ],
)
def test_a_service_is_ready_once_both_of_its_halves_are_there(make_node, make_raw, spin, ids, ready):
    node, raw = make_node(), make_raw(serves=True, ids=ids)
    client = node.create_client(SetBool, "lamp")
    reader, writer = client.entity, client._writer
    assert spin([node], lambda: reader.get_matched_publications() and writer.get_matched_subscriptions() and raw.connected())
    assert client.service_is_ready() == ready


@pytest.mark.parametrize(
    ("ids", "answered"), [(("clientid=1;", "clientid=1;"), True), (("", ""), True), (("clientid=1;", "clientid=2;"), False)]
)
def test_a_response_is_sent_once_the_clients_reader_is_known_and_else_dropped_aloud(lamp, make_raw, spin, capfd, ids, answered):
    node, service, told = lamp
    raw = make_raw(serves=False, ids=ids)
    assert spin([node], raw.connected)
    raw.send(LITTLE + HEADER + b"\x01\0\0\0")
    assert spin([node], lambda: told)
    assert spin([node], raw.received, **({} if answered else {"patience_s": 0.3})) == answered
    assert service.lost_responses == (not answered)
    assert ("A response of /lamp was dropped: its client's reader was not found" in capfd.readouterr().err) == (not answered)


def test_a_client_that_left_before_it_was_answered_is_no_fault(make_node, make_raw, spin):
    node, gone = make_node(), []
    raw = make_raw(serves=False, ids=("clientid=1;", "clientid=1;"))

    def leave_then_answer(request, response):
        raw.participant.close()
        assert spin([other], lambda: not service.entity.get_matched_publications())
        gone.append(True)
        return response

    other = make_node("other")
    service = node.create_service(SetBool, "lamp", leave_then_answer)
    assert spin([node], raw.connected)
    raw.send(LITTLE + HEADER + b"\x01\0\0\0")
    assert spin([node], lambda: gone and service.lost_responses == 1)


# Bad bytes


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        (SetBool, LITTLE + HEADER + bytes(400)),
        (service_class("rcl_interfaces/srv/GetParameters"), LITTLE + HEADER + b"\x01\0\0\0" + b"\x05\0\0\0" + b"\xff\xfe\xfd\xfc\0\0\0\0"),
        (service_class("lifecycle_msgs/srv/ChangeState"), LITTLE + HEADER + b"\x01\0\0\0" + b"\x05\0\0\0" + b"\xff\xfe\xfd\xfc\0\0\0\0"),
    ],
)
def test_a_request_that_cannot_be_read_is_counted_and_the_next_one_answered(make_node, make_raw, hears, spin, capfd, kind, bad):
    node, raw = make_node(), make_raw(serves=False, kind=kind)
    service = node.create_service(kind, "lamp", lambda request, response: response)
    assert spin([node], raw.connected)
    raw.send(bad)
    raw.send(bad)
    good = kind.Request()
    raw.send(RequestHeader(GUID, 10).before(library().serialize(good)))
    assert hears([node], raw)[4:20] == RequestHeader(GUID, 10).before(LITTLE)[4:]
    assert service.bad_samples == 2
    logged = capfd.readouterr().err
    assert "A sample for /lamp was dropped, the 1. that cannot be read: Got" in logged
    assert logged.count("A sample for /lamp was dropped") == 1  # the second one comes too soon after it


def test_a_reply_that_cannot_be_read_fails_its_request_alone(make_node, make_raw, hears, spin):
    node, raw = make_node(), make_raw(serves=True)
    client = node.create_client(SetBool, "lamp")
    assert spin([node], lambda: client.service_is_ready() and raw.connected())
    future = client.call_async(SetBool.Request())
    header = hears([node], raw)[4:20]
    raw.send(LITTLE + header + b"\x01\0\0\0" + b"\x04\0\0\0" + b"\xff\xff\xff\0")
    assert spin([node], future.done)
    with pytest.raises(RCLError, match="The response of /lamp cannot be read: Got 16 bytes that are no std_srvs/srv/SetBool_Response"):
        future.result()
    assert client.bad_samples == 1
    again = client.call_async(SetBool.Request())
    raw.send(LITTLE + hears([node], raw)[4:20] + b"\x01\0\0\0" + b"\x01\0\0\0" + b"\0\0\0\0")
    assert spin([node], again.done)
    assert again.result() == SetBool.Response(success=True)


@pytest.mark.parametrize("end", ["shutdown", "destroy"])
def test_a_call_without_a_timeout_ends_with_its_client_or_its_context(make_node, context, end):
    node = make_node()
    client = node.create_client(SetBool, "nobody")
    threading.Timer(0.2, context.shutdown if end == "shutdown" else lambda: node.destroy_client(client)).start()
    assert client.call(SetBool.Request()) is None


def test_a_transition_that_has_no_such_id_is_refused_aloud(make_node, spin, capfd):
    robot, asking = make_node("robot", kind=LifecycleNode), make_node("asking")
    kind = service_class("lifecycle_msgs/srv/ChangeState")
    client = asking.create_client(kind, "/robot/change_state")
    assert spin([robot, asking], client.service_is_ready)
    future = client.call_async(kind.Request())
    assert spin([robot, asking], future.done)
    assert not future.result().success
    assert "A request to change the state was refused: Got the transition 0 in the state 'unconfigured'" in capfd.readouterr().err


def test_a_parameter_of_an_unknown_type_is_refused(make_node, spin):
    node, asking = make_node("node"), make_node("asking")
    node.declare_parameter("a", 1)
    kind = service_class("rcl_interfaces/srv/SetParameters")
    client = asking.create_client(kind, "/node/set_parameters")
    assert spin([node, asking], client.service_is_ready)
    parameter, value = message_class("rcl_interfaces/msg/Parameter"), message_class("rcl_interfaces/msg/ParameterValue")
    future = client.call_async(
        kind.Request(parameters=[parameter(name="a", value=value(type=77)), parameter(name="a", value=value(type=0))])
    )
    assert spin([node, asking], future.done)
    unknown, unset = future.result().results
    assert (unknown.successful, unset.successful) == (False, False)
    assert "Got a parameter that is none" in unknown.reason
    assert node.get_parameter("a").value == 1


def test_what_services_lack_is_said_so(lamp):
    _, service, _ = lamp
    with pytest.raises(NotOfferedError, match="Got a request for introspection of a service"):
        service.configure_introspection(None, PROFILE, 1)


# Type descriptions


def reckoned_hash(description):
    """The RIHS01 hash of a TypeDescription message, reckoned as REP 2016 has it: of its JSON without default values."""

    def struct(individual):
        return {
            "type_name": individual.type_name,
            "fields": [
                {
                    "name": field.name,
                    "type": {
                        "type_id": field.type.type_id,
                        "capacity": field.type.capacity,
                        "string_capacity": field.type.string_capacity,
                        "nested_type_name": field.type.nested_type_name,
                    },
                }
                for field in individual.fields
            ],
        }

    content = {
        "type_description": struct(description.type_description),
        "referenced_type_descriptions": [struct(individual) for individual in description.referenced_type_descriptions],
    }
    return f"RIHS01_{hashlib.sha256(json.dumps(content).encode()).hexdigest()}"


@pytest.mark.parametrize(
    "name",
    [
        "std_srvs/srv/SetBool",
        "rcl_interfaces/srv/GetParameters",
        "sensor_msgs/msg/Image",
        "sensor_msgs/msg/CameraInfo",
        "std_msgs/msg/Empty",
    ],
)
def test_a_type_description_has_the_hash_of_its_type(name):
    assert reckoned_hash(type_description(name)) == library().type_hash(name)


def test_a_node_describes_the_types_it_uses(lamp, make_node, spin):
    node, _, _ = lamp
    kind = service_class("type_description_interfaces/srv/GetTypeDescription")
    asking = make_node("asking")
    client = asking.create_client(kind, "/lamps/get_type_description")
    assert spin([node, asking], client.service_is_ready)

    def ask(name, type_hash):
        future = client.call_async(kind.Request(type_name=name, type_hash=type_hash))
        assert spin([node, asking], future.done)
        return future.result()

    hashed = f"RIHS01_{TYPE_HASHES['std_srvs/srv/SetBool']}"
    described = ask("std_srvs/srv/SetBool", hashed)
    assert (described.successful, described.failure_reason) == (True, "")
    assert reckoned_hash(described.type_description) == hashed
    refusals = [ask("a", "RIHS01_1"), ask("sensor_msgs/msg/Image", library().type_hash("sensor_msgs/msg/Image"))]
    assert [(refusal.successful, refusal.failure_reason) for refusal in refusals] == [
        (False, "Failed to parse type hash"),
        (False, "Type not currently in use by this node"),
    ]


def test_default_values_are_told():
    described = type_description("geometry_msgs/msg/Quaternion").type_description
    assert [(field.name, field.default_value) for field in described.fields] == [("x", ""), ("y", ""), ("z", ""), ("w", "1.0")]


def test_a_node_can_do_without_the_service_of_types(make_node):
    node = make_node("quiet", "-p start_type_description_service:=false", start_parameter_services=False)
    assert list(node.services) == []
