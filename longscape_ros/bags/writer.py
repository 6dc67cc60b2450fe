# SPDX-License-Identifier: Apache-2.0
"""Writing recordings: rosbag2 folders, or single MCAP files that Foxglove, Rerun and ``ros2 bag`` open."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from rosbags.rosbag2 import StoragePlugin, Writer, WriterError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from longscape_ros.errors import BagError

_MESSAGES = Path(__file__).parent.parent / "interfaces" / "msg"
_FORMAT_VERSION: Final = 9


@functools.cache
def bag_store() -> Typestore:
    """The message types of ROS 2 Jazzy and of longscape_msgs."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for path in sorted(_MESSAGES.glob("*.msg")):
        store.register(get_types_from_msg(path.read_text(encoding="utf-8"), f"longscape_msgs/msg/{path.stem}"))
    return store


def bag_types() -> Callable[[str], type]:
    """Type name -> class of the messages that :class:`BagWriter` takes."""
    return bag_store().types.__getitem__


class BagWriter:
    """Writes one recording; a context manager. The recording appears under its name when it is complete; after a fault it does not.

    Args:
        path: ``NAME.mcap``: a single MCAP file, replaced if it exists; anything else: a rosbag2 folder, which must not exist.

    Raises:
        BagError: The folder exists, or cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._single = path.suffix == ".mcap"
        if not self._single and path.exists():
            raise BagError(f"Got {path} to write a bag to, which exists; expected a new name, remove it first.")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._temporary = Path(tempfile.mkdtemp(prefix=f".{path.stem}.", dir=path.parent))
            self._writer = Writer(self._temporary / path.stem, version=_FORMAT_VERSION, storage_plugin=StoragePlugin.MCAP)
            self._writer.open()
        except (OSError, WriterError) as error:
            raise BagError(f"Got {path} to write a bag to, which cannot be made ({error}); choose another place.") from error
        self._connections: dict[str, Any] = {}
        self._kinds: dict[str, str] = {}
        self.counts: dict[str, int] = {}

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.close()
        else:
            self.discard()

    def write(self, topic: str, type_name: str, received_ns: int, message: Any) -> None:
        """Write a message of the classes of :func:`bag_types`.

        Raises:
            BagError: The topic has messages of another type.
        """
        self.write_raw(topic, type_name, received_ns, bytes(bag_store().serialize_cdr(message, type_name)))

    def write_raw(self, topic: str, type_name: str, received_ns: int, data: bytes, definition: str = "", digest: str = "") -> None:
        """Write a serialized message.

        Args:
            topic: Where it came from.
            type_name: Its ROS type.
            received_ns: When it came.
            data: CDR with its four leading bytes.
            definition: The type's text with all that it contains, where it is not one of :func:`bag_types`.
            digest: Its hash, RIHS01.

        Raises:
            BagError: The type is unknown and has no definition, or the topic has messages of another type.
        """
        if topic not in self._connections:
            self._connections[topic] = self._connect(topic, type_name, definition, digest)
            self._kinds[topic], self.counts[topic] = type_name, 0
        if self._kinds[topic] != type_name:
            raise BagError(f"Got {type_name} on {topic}, expected {self._kinds[topic]} like its first message.")
        self._writer.write(self._connections[topic], received_ns, data)
        self.counts[topic] += 1

    def close(self) -> None:
        """Finish the recording."""
        if not self._temporary.exists():
            return
        self._writer.close()
        written = self._temporary / self.path.stem
        if self._single:
            os.replace(written / f"{self.path.stem}.mcap", self.path)
        else:
            written.rename(self.path)
        shutil.rmtree(self._temporary)

    def discard(self) -> None:
        """Leave nothing of the recording; what was there before stays."""
        if self._temporary.exists():
            self._writer.close()
            shutil.rmtree(self._temporary)

    def _connect(self, topic: str, type_name: str, definition: str, digest: str) -> Any:
        if type_name in bag_store().types:
            return self._writer.add_connection(topic, type_name, typestore=bag_store())
        if not definition:
            raise BagError(f"Got {type_name} on {topic}, which is not a type of ROS 2 Jazzy; expected its definition beside it.")
        return self._writer.add_connection(topic, type_name, msgdef=definition, rihs01=digest)
