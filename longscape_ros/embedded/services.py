# SPDX-License-Identifier: Apache-2.0
"""rclpy's Service and Client, on the wire as rmw_cyclonedds has them.

A service /a is two DDS topics, rq/aRequest and rr/aReply, whose samples begin with a header behind the encapsulation: 8 bytes that tell
which client asked, and its 8-byte count of requests. The reply repeats both, so every client sees all replies and keeps its own. Writer
and reader of one service, or of one client, have the same `serviceid=` or `clientid=` in their user data: with these each side makes
sure that the other one is connected both ways. Source: rmw_cyclonedds_cpp of Jazzy, serdata.hpp and rmw_node.cpp. Other middleware
carries requests in other ways, which are not understood here.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cyclonedds.core import DDSException, DDSStatus

from longscape_ros.embedded.context import Context
from longscape_ros.embedded.dds import (
    Participant,
    close_entity,
    interruptible,
    matched_publications,
    matched_subscriptions,
    sample_class,
    user_data_of,
)
from longscape_ros.embedded.endpoints import Endpoint
from longscape_ros.embedded.exceptions import NotOfferedError, RCLError
from longscape_ros.embedded.graph import service_topics
from longscape_ros.embedded.messages import Message, ServiceType, deserialize_message, serialize_message
from longscape_ros.embedded.qos import QoSProfile
from longscape_ros.embedded.task import Future

_ENCAPSULATION = 4  # bytes before the CDR body: which byte order, and options
_HEADER = 16
_REPLY_READER_S = 0.1  # as long as rmw_cyclonedds waits for the client's reader
_LOOK_EVERY_S = 0.01
_WAIT_S = 0.1  # the longest wait in which a shutdown goes unnoticed
_WARN_EVERY_S = 5.0


@dataclass(frozen=True)
class RequestHeader:
    """What a request and its reply begin with.

    Args:
        guid: The client, as 64 bits of its own choice.
        sequence_number: The client's count of its requests.
    """

    guid: int
    sequence_number: int

    def before(self, cdr: bytes) -> bytes:
        """A message's CDR bytes with the header between encapsulation and body; the body's alignment stays, for the header has 16 bytes."""
        return cdr[:_ENCAPSULATION] + struct.pack(_header_format(cdr), self.guid, self.sequence_number) + cdr[_ENCAPSULATION:]

    @classmethod
    def split(cls, data: bytes) -> tuple[RequestHeader, bytes]:
        """The header of a sample, and the message's CDR bytes without it.

        Raises:
            ValueError: the sample is too short to have one.
        """
        body = _ENCAPSULATION + _HEADER
        if len(data) < body:
            raise ValueError(f"Got {len(data)} bytes, expected at least {body}: an encapsulation and a request header.")
        return cls(*struct.unpack(_header_format(data), data[_ENCAPSULATION:body])), data[:_ENCAPSULATION] + data[body:]


def _header_format(cdr: bytes) -> str:
    """Two 8-byte integers in the byte order that the encapsulation announces."""
    return "<Qq" if cdr[1] & 1 else ">Qq"


@dataclass(frozen=True)
class RequestInfo:
    """Where a request came from, and so where its response goes.

    Args:
        header: The request's.
        writer_handle: Cyclone's handle of the DDS writer that sent it.
    """

    header: RequestHeader
    writer_handle: int


class _ServiceEnd(Endpoint):
    """What services and clients share: a DDS reader that an executor watches, and a DDS writer for the other direction."""

    def __init__(
        self,
        participant: Participant,
        context: Context,
        srv_type: type[ServiceType],
        service_name: str,
        qos_profile: QoSProfile,
        callback_group: Any,
        logger: Any,
        *,
        serves: bool,
    ) -> None:
        (in_topic, in_type), (out_topic, out_type) = zip(service_topics(service_name), (srv_type.Request, srv_type.Response), strict=True)
        if not serves:
            (in_topic, in_type), (out_topic, out_type) = (out_topic, out_type), (in_topic, in_type)
        self.service_id = participant.new_service_id()
        user_data = f"{'serviceid' if serves else 'clientid'}={self.service_id};"
        self._writer: Any = participant.create_writer(out_topic, out_type._TYPE_NAME, qos_profile, user_data=user_data)
        reader = participant.create_reader(in_topic, in_type._TYPE_NAME, qos_profile, user_data=user_data)
        super().__init__(reader, context, DDSStatus.DataAvailable, [])
        self.writer_gid: bytes = self._writer.guid.bytes
        self.srv_type, self.service_name = srv_type, service_name
        self.qos_profile, self.callback_group = qos_profile, callback_group
        self._in_type, self._sample_class = in_type, sample_class(out_type._TYPE_NAME)
        self._logger = logger
        self._has_data = True
        self._silent_until = 0.0
        self.bad_samples = 0
        """How many samples could not be read."""

    @property
    def gids(self) -> list[bytes]:
        """The GIDs of the reader and the writer."""
        return [self.gid, self.writer_gid]

    def configure_introspection(self, *_: Any, **__: Any) -> None:
        """Not offered.

        Raises:
            NotOfferedError: Always.
        """
        raise NotOfferedError("introspection of a service")

    def poll(self) -> int:
        """Takes the statuses that DDS raised since the last time."""
        raised = super().poll()
        self._has_data |= bool(raised & DDSStatus.DataAvailable)
        return raised

    def is_ready(self) -> bool:
        """Whether there may be a sample."""
        return self._has_data and self.is_alive

    def destroy(self) -> None:
        """Leaves both topics."""
        writer, self._writer = self._writer, None
        super().destroy()
        if writer is not None:
            close_entity(writer)

    def _next(self) -> tuple[RequestHeader, bytes, int] | None:
        """Header, CDR bytes and writer's handle of the oldest sample, None if there is none; unreadable ones are passed over."""
        reader = self._entity
        while reader is not None:
            samples = reader.take(1)
            if not samples:
                break
            if hasattr(samples[0], "cdr"):
                try:
                    return *RequestHeader.split(samples[0].cdr), samples[0].sample_info.publication_handle
                except ValueError as fault:
                    self._refuse(str(fault))
        self._has_data = False
        return None

    def _message(self, cdr: bytes) -> Message:
        """The message of a sample, counted and logged where its bytes are none. Cyclone has checked their structure, not their texts.

        Raises:
            ValueError: The bytes are no such message.
        """
        try:
            return deserialize_message(cdr, self._in_type)
        except Exception as fault:  # whatever rosbags' generated code stumbles over
            text = f"Got {len(cdr)} bytes that are no {self._in_type._TYPE_NAME} ({type(fault).__name__}: {fault})."
            self._refuse(text)
            raise ValueError(text) from fault

    def _refuse(self, why: str) -> None:
        self.bad_samples += 1
        now = time.monotonic()
        if now >= self._silent_until:  # not the logger's throttle, which all services would share
            self._silent_until = now + _WARN_EVERY_S
            self._logger.warning(f"A sample for {self.service_name} was dropped, the {self.bad_samples}. that cannot be read: {why}")

    def _write(self, header: RequestHeader, message: Message) -> None:
        """Sends a message.

        Raises:
            RCLError: DDS refused it, or could not send it in time.
        """
        sample: Any = self._sample_class.__new__(self._sample_class)
        sample.cdr = header.before(serialize_message(message))
        try:
            self._writer.write(sample)
        except DDSException as fault:
            raise RCLError(f"Failed to send {len(sample.cdr)} bytes for {self.service_name}: {fault}") from fault


class Service(_ServiceEnd):
    """Answers the requests of one service by calling back."""

    def __init__(self, *args: Any, srv_name: str, callback: Callable[[Any, Any], Any]) -> None:
        super().__init__(*args, serves=True)
        self.srv_name, self.callback = srv_name, callback
        self.lost_responses = 0
        """How many responses were not sent, because the client had gone or could not be reached."""

    def take(self) -> Callable[[], Any] | None:
        """Takes one request and gives what to call; None if there is none."""
        while (taken := self._next()) is not None:
            header, cdr, writer_handle = taken
            try:
                return functools.partial(self._answer, self.callback, self._message(cdr), RequestInfo(header, writer_handle))
            except ValueError:
                continue
        return None

    def _answer(self, callback: Callable[[Any, Any], Any], request: Any, info: RequestInfo) -> Any:
        """Calls back and sends the response; a coroutine is given to the executor, which ends it."""
        response = callback(request, self.srv_type.Response())
        if inspect.iscoroutine(response):
            return self._respond_later(response, info)
        self.send_response(response, info)
        return None

    async def _respond_later(self, response: Any, info: RequestInfo) -> None:
        self.send_response(await response, info)

    def send_response(self, response: Any, header: RequestInfo) -> None:
        """Sends the response of a request; waits up to 0.1 s for the client's reader, then drops the response with a warning.

        Raises:
            TypeError: it is no response of this service.
            InvalidHandle: the service has been destroyed.
            RCLError: DDS refused it.
        """
        if not isinstance(response, self.srv_type.Response):
            raise TypeError(f"Expected {self.srv_type.Response}, got {type(response)} from the callback of {self.service_name}")
        reader = self.entity
        end = time.monotonic() + _REPLY_READER_S
        while not (reachable := self._reaches(reader, header.writer_handle)) and reachable is not None and time.monotonic() < end:
            time.sleep(_LOOK_EVERY_S)
        if reachable:
            self._write(header.header, response)
            return
        self.lost_responses += 1
        if reachable is None:
            self._logger.debug(f"A client of {self.service_name} left before it was answered.")
        else:
            self._logger.warning(f"A response of {self.service_name} was dropped: its client's reader was not found in {_REPLY_READER_S} s")

    def _reaches(self, reader: Any, writer_handle: int) -> bool | None:
        """Whether the replies reach the client that has this writer; None if it has left."""
        asking = interruptible(reader.get_matched_publication_data, writer_handle)
        if asking is None:
            return None
        client_id = user_data_of(asking.qos).get("clientid")
        if client_id is None:  # of a kind that tells none: nothing to look for
            return True
        return any(user_data_of(end.qos).get("clientid") == client_id for end in matched_subscriptions(self._writer))


class Client(_ServiceEnd):
    """Asks a service.

    Args:
        args: Of _ServiceEnd.
        srv_name: The service's name as it was given.
        executor: Gives the executor of the client's node, None if it has none.
    """

    def __init__(self, *args: Any, srv_name: str, executor: Callable[[], Any]) -> None:
        super().__init__(*args, serves=False)
        self.srv_name = srv_name
        self.context = self._context
        self._executor = executor
        self._guid: int = self._writer.get_instance_handle() % 2**64  # a random number that Cyclone's Python takes for a signed one
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._pending: dict[int, Future] = {}

    def call(self, request: Any, timeout_sec: float | None = None) -> Any:
        """Asks and waits for the response; None after the timeout, or when the client is destroyed or the context shut down.

        Another thread must spin the node; called in one of its callbacks, this waits in vain.

        Raises:
            TypeError: it is no request of this service.
            RCLError: the request could not be sent, or the response cannot be read.
        """
        future, done = self.call_async(request), threading.Event()
        future.add_done_callback(lambda _: done.set())
        end = None if timeout_sec is None else time.monotonic() + timeout_sec
        while not future.done() and self.is_alive and self.context.ok():
            left = _WAIT_S if end is None else end - time.monotonic()
            if left <= 0:
                break
            done.wait(min(left, _WAIT_S))
        self.remove_pending_request(future)
        return future.result()

    def call_async(self, request: Any) -> Future:
        """Asks; the future gets the response once the node is spun.

        Raises:
            TypeError: it is no request of this service.
            InvalidHandle: the client has been destroyed.
            RCLError: the request could not be sent.
        """
        if not isinstance(request, self.srv_type.Request):
            raise TypeError(f"Expected {self.srv_type.Request}, got {type(request)} for {self.service_name}")
        self.entity  # noqa: B018 - raises once destroyed
        future = Future()
        with self._lock:
            number = next(self._numbers)
            self._write(RequestHeader(self._guid, number), request)
            self._pending[number] = future
        future.add_done_callback(self.remove_pending_request)
        return future

    def get_pending_request(self, sequence_number: int) -> Future:
        """The future of a request; KeyError if it does not wait for a response."""
        with self._lock:
            return self._pending[sequence_number]

    def remove_pending_request(self, future: Future) -> None:
        """Forgets a request: its response will be passed over."""
        with self._lock:
            self._pending = {number: other for number, other in self._pending.items() if other is not future}

    def service_is_ready(self) -> bool:
        """Whether a service hears the requests and its replies are heard."""
        reader, writer = self.entity, self._writer
        ends = matched_subscriptions(writer), matched_publications(reader)
        hearing, answering = ([user_data_of(end.qos).get("serviceid") for end in side] for side in ends)
        if any(hearing):
            return bool({service_id for service_id in hearing if service_id} & set(answering))
        return bool(hearing and answering)  # of a kind that tells no ids

    def wait_for_service(self, timeout_sec: float | None = None) -> bool:
        """Waits until a service is ready; False after the timeout or when the context is shut down."""
        end = None if timeout_sec is None else time.monotonic() + timeout_sec
        while not (ready := self.service_is_ready()) and self.context.ok() and (end is None or time.monotonic() < end):
            time.sleep(_LOOK_EVERY_S)
        return ready

    def take(self) -> Callable[[], Any] | None:
        """Takes one response to this client and gives what to call; None if there is none."""
        while (taken := self._next()) is not None:
            header, cdr, _ = taken
            if header.guid != self._guid:
                continue
            with self._lock:
                future = self._pending.pop(header.sequence_number, None)
            if future is None:  # given up, or answered by another service of this name
                continue
            return self._completion(future, cdr)
        return None

    def _completion(self, future: Future, cdr: bytes) -> Callable[[], None]:
        def call() -> None:
            future._set_executor(self._executor())
            try:
                future.set_result(self._message(cdr))
            except ValueError as fault:
                future.set_exception(RCLError(f"The response of {self.service_name} cannot be read: {fault}"))

        return call
