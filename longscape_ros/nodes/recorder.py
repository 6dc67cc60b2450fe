# SPDX-License-Identifier: Apache-2.0
"""Records topics into one MCAP file: ``python -m longscape_ros.nodes.recorder --ros-args -p output:=run.mcap -p topics:="[/a, /b]"``.

Each topic is joined once somebody publishes on it, with the quality of service that is offered there, as ``ros2 bag record`` does.
Messages are kept as the bytes that came; receive times are the node's clock's, made strictly increasing so that they tell the order.
Where that clock goes back (a bag in a loop, a simulation that starts anew) another file goes on, ``run_2.mcap`` and so on, for readers
sort a file's messages by time. A file appears, complete, when the node ends or the next one begins.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Full, Queue
from typing import Any, NoReturn

from longscape_ros.bags.writer import BagWriter
from longscape_ros.contract import NANOSECONDS
from longscape_ros.errors import BagError, HostError, InputError
from longscape_ros.host import Throttle, declare, loss_events, matching_qos, message_class, run_part
from longscape_ros.messages import COMPRESSED_IMAGE, IMAGE, compressed_message, frame_from_image, nanoseconds
from longscape_ros.nodes.diagnostics import WAITING_FOR_CLOCK
from longscape_ros.timeline import CLOCK_JUMP_NS

AS_SENT = "as_sent"
FORMATS = (AS_SENT, "png", "jpeg")
COLOURS = ("rgb8", "bgr8")
"""Encodings that are compressed; others could lose something."""

LOOK_PERIOD_S = 0.1
"""Seconds between two looks for publishers."""

MOST_WAITING = 2000
"""Messages that wait to be written; more than these are lost, and counted."""

DEPTH = 100


@dataclass(frozen=True, slots=True)
class _Message:
    topic: str
    type: str
    received_ns: int
    data: bytes
    part: int = 1


class Recorder:
    """Records as part of a node.

    Parameters of the node, declared here: ``output``, ``topics``, ``images``.

    Args:
        node: An rclpy node.

    Raises:
        InputError: There is no topic, or ``images`` is no format.
        BagError: The file cannot be made.
    """

    def __init__(self, node: Any) -> None:
        from rclpy.clock import Clock, ClockType

        self._node = node
        output = Path(declare(node, "output", "recording.mcap", "File to write (.mcap), or folder of a rosbag2 bag."))
        topics = [topic for topic in declare(node, "topics", [""], "Names of the topics to record.") if topic]
        self._images = str(declare(node, "images", AS_SENT, f"How sensor_msgs/Image is kept; one of {', '.join(FORMATS)}."))
        if not topics:
            raise InputError('Got no topics to record, expected some: -p topics:="[/camera/image_raw, /predictor/prediction]".')
        if self._images not in FORMATS:
            raise InputError(f"Got images = {self._images!r}, expected one of {', '.join(FORMATS)}.")
        self._wanted = [node.resolve_topic_name(topic) for topic in topics]
        self._output = output
        self._writer = BagWriter(output)
        self._finished: list[BagWriter] = []
        self._newest_ns: int | None = None
        self._part = 1
        self._early: list[tuple[str, str, bytes]] = []  # messages from before the clock runs
        self._subscriptions: dict[str, Any] = {}
        self._lost: Counter[str] = Counter()  # topic -> messages
        self._refused: Counter[str] = Counter()
        self._throttle = Throttle()
        self._fault: Exception | None = None
        self._queue: Queue[_Message | None] = Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._write_all, name="longscape-recorder", daemon=True)
        self._thread.start()
        self._timer = node.create_timer(LOOK_PERIOD_S, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))
        node.get_logger().info(f"Recording to {output}: {', '.join(self._wanted)}.")
        if (second := self._path(2)).exists():
            node.get_logger().warning(f"Found {second}, which an earlier recording went on in; remove it, or it seems part of this one.")

    def close(self) -> None:
        """Writes what waits, finishes the file, and says what is in it."""
        for subscription in self._subscriptions.values():
            self._node.destroy_subscription(subscription)
        self._queue.put(None)
        self._thread.join()
        self._writer.close()
        log = self._node.get_logger()
        for writer in (*self._finished, self._writer):
            kept = ", ".join(f"{topic} {count}" for topic, count in sorted(writer.counts.items()))
            log.info(f"Recorded {sum(writer.counts.values())} messages to {writer.path}: {kept or 'nothing was published'}.")
        if self._early:
            self._lost.update(topic for topic, _, _ in self._early)
            log.warning(f"{len(self._early)} messages came, and no time to date them by: {WAITING_FOR_CLOCK}")
        for topic, count in sorted((self._lost + self._refused).items()):
            log.warning(f"{count} messages of {topic} are not in the recording: {self._lost[topic]} lost, {self._refused[topic]} refused.")

    def _look(self) -> None:
        """Joins topics that have a publisher by now.

        Raises:
            HostError: Writing failed.
        """
        if self._fault is not None:
            raise HostError(f"Got {self._fault!r} while writing {self._writer.path}, expected room for it; the recording ends here.")
        for topic in self._wanted:
            if topic not in self._subscriptions and (publishers := self._node.get_publishers_info_by_topic(topic)):
                self._subscriptions[topic] = self._join(topic, publishers)

    def _join(self, topic: str, publishers: Sequence[Any]) -> Any:
        kind = str(publishers[0].topic_type)
        try:
            message_type = message_class(kind)
        except (ImportError, AttributeError) as error:
            raise InputError(f"Got the type {kind} on {topic}, which is not installed here ({error}); install its package.") from error
        return self._node.create_subscription(
            message_type,
            topic,
            partial(self._receive, topic, kind),
            matching_qos([publisher.qos_profile for publisher in publishers], DEPTH),
            event_callbacks=loss_events(partial(self._on_lost, topic)),
            raw=True,
        )

    def _receive(self, topic: str, kind: str, data: bytes) -> None:
        """Takes a message; those that come before the clock runs are received when it does."""
        now_ns = int(self._node.get_clock().now().nanoseconds)
        if now_ns > 0:
            early, self._early = self._early, []
            for message in (*early, (topic, kind, bytes(data))):
                self._put(*message, now_ns)
        elif len(self._early) < MOST_WAITING:
            self._early.append((topic, kind, bytes(data)))
            if self._throttle.passes("clock", time.monotonic()):
                self._node.get_logger().warning(f"Got a message and no time yet: {WAITING_FOR_CLOCK}")
        else:
            self._count_lost(topic, 1)

    def _put(self, topic: str, kind: str, data: bytes, now_ns: int) -> None:
        if self._newest_ns is not None and self._newest_ns - now_ns > CLOCK_JUMP_NS:
            self._part += 1
            back_s = (self._newest_ns - now_ns) / NANOSECONDS
            self._node.get_logger().warning(
                f"The clock went back by {back_s:.3f} s; what comes from now on is in {self._path(self._part)}."
            )
            self._newest_ns = None
        self._newest_ns = now_ns if self._newest_ns is None else max(now_ns, self._newest_ns + 1)
        try:
            self._queue.put_nowait(_Message(topic, kind, self._newest_ns, data, self._part))
        except Full:
            self._count_lost(topic, 1)

    def _path(self, part: int) -> Path:
        return self._output if part == 1 else self._output.with_name(f"{self._output.stem}_{part}{self._output.suffix}")

    def _on_lost(self, topic: str, event: Any) -> None:
        self._count_lost(topic, int(event.total_count_change))

    def _count_lost(self, topic: str, count: int) -> None:
        self._lost[topic] += count
        if self._throttle.passes(topic, time.monotonic()):
            self._node.get_logger().warning(f"{self._lost[topic]} messages of {topic} were lost so far.")

    # ---- on the writer's thread ----

    def _write_all(self) -> None:
        part = 1
        while (message := self._queue.get()) is not None:
            if self._fault is not None:
                self._lost[message.topic] += 1
                continue
            try:
                if message.part != part:
                    part = message.part
                    self._begin(part)
                self._write(message)
            except BagError as error:
                self._refused[message.topic] += 1
                if self._refused[message.topic] == 1:
                    self._node.get_logger().error(str(error))
            except Exception as error:  # the executor's thread ends the node
                self._fault = error

    def _begin(self, part: int) -> None:
        """Finishes a file, and begins the next.

        Raises:
            HostError: The next one cannot be made.
        """
        self._writer.close()
        self._finished.append(self._writer)
        try:
            self._writer = BagWriter(self._path(part))
        except BagError as error:
            self._finished.pop()
            raise HostError(str(error)) from error

    def _write(self, message: _Message) -> None:
        compressed = self._compressed(message) if message.type == IMAGE and self._images != AS_SENT else None
        if compressed is not None:
            self._writer.write_raw(f"{message.topic}/compressed", COMPRESSED_IMAGE, message.received_ns, compressed)
        else:
            self._writer.write_raw(message.topic, message.type, message.received_ns, message.data)

    def _compressed(self, message: _Message) -> bytes | None:
        """The image compressed; None: it is not one that can be without loss of depth, or is damaged, and is kept as it is."""
        from rclpy.serialization import deserialize_message, serialize_message

        image: Any = deserialize_message(message.data, message_class(IMAGE))
        if image.encoding not in COLOURS:
            return None
        try:
            frame = frame_from_image(image, message.received_ns)
        except InputError:
            return None
        stamp_ns = nanoseconds(image.header.stamp)
        return bytes(serialize_message(compressed_message(frame.rgb, stamp_ns, frame.frame_id, message_class, self._images)))


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Records until SIGINT, SIGTERM or a fault, and ends the process."""
    run_part("recorder", Recorder, args)


if __name__ == "__main__":
    main()
