# SPDX-License-Identifier: Apache-2.0
"""Topic mappings as YAML: which topics of a robot are the camera and the action.

.. code-block:: yaml

    image_topic: /camera/image_raw/compressed
    image_type: sensor_msgs/msg/CompressedImage
    image_stamp: header                      # or receive: date images by when they are received
    image_latency_ns: 0                      # how long before that time an image was really seen
    fps: 5.0                                 # the rate at which the model predicts
    action_sources:
    - topic: /gripper/command
      type: std_msgs/msg/Float64
      stamp: receive                         # or header
      fields: {gripper: data}                # name of the dimension: where its value stands
    dimensions:
    - {name: gripper, unit: "1", kind: state, is_gripper: true}

Ranges, scales and midpoints are not part of it; training calibrates them on the bags.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import yaml

from longscape_ros.contract import ActionDimension, ActionSource, StampSource, TopicMapping
from longscape_ros.errors import InputError

_BUILT_IN = Path(__file__).parent / "mappings"
_DIMENSION_KEYS = ("name", "unit", "kind", "is_gripper")
_STAMPS = get_args(StampSource)


def built_in_mappings() -> list[str]:
    """Names of the mappings that ship with the package."""
    return sorted(path.stem for path in _BUILT_IN.glob("*.yaml"))


def load_mapping(source: Path | str) -> TopicMapping:
    """Read a mapping from a YAML file, or one that ships with the package by its name.

    Raises:
        InputError: There is no such file, or it is not a mapping.
    """
    path = Path(source)
    if not path.is_file() and str(source) in built_in_mappings():
        path = _BUILT_IN / f"{source}.yaml"
    if not path.is_file():
        raise InputError(
            f"Got the topic mapping {source}, expected a YAML file or one of {', '.join(built_in_mappings())}; "
            "docs/ros.md shows how to write one."
        )
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"Got {path}, which is not YAML ({error}); expected a topic mapping.") from error
    try:
        return mapping_from_dict(document)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def save_mapping(path: Path, mapping: TopicMapping) -> None:
    """Write a mapping as YAML."""
    path.write_text(yaml.safe_dump(mapping_to_dict(mapping), sort_keys=False), encoding="utf-8")


def mapping_to_dict(mapping: TopicMapping) -> dict[str, Any]:
    """A mapping as the YAML file has it."""
    return {
        "image_topic": mapping.image_topic,
        "image_type": mapping.image_type,
        "image_stamp": mapping.image_stamp,
        "image_latency_ns": mapping.image_latency_ns,
        "fps": mapping.fps,
        "action_sources": [
            {"topic": source.topic, "type": source.type, "stamp": source.stamp, "fields": dict(source.fields)}
            for source in mapping.action_sources
        ],
        "dimensions": [{key: getattr(dimension, key) for key in _DIMENSION_KEYS} for dimension in mapping.dimensions],
    }


def mapping_from_dict(document: Any) -> TopicMapping:
    """The mapping that a parsed YAML file describes.

    Raises:
        InputError: A key is missing or unknown, or a value does not fit.
    """
    known = [field.name for field in dataclasses.fields(TopicMapping)]
    entries = _entries(document, "the mapping", known, required=("image_topic", "fps", "action_sources", "dimensions"))
    sources = []
    for index, item in enumerate(_items(entries, "action_sources")):
        source = _entries(item, f"action_sources[{index}]", ("topic", "type", "fields", "stamp"), required=("topic", "type", "fields"))
        if not isinstance(source["fields"], dict) or not source["fields"]:
            raise InputError(f"Got fields {source['fields']!r} in action_sources[{index}], expected 'name: place in the message'.")
        if source.get("stamp", "header") not in _STAMPS:
            raise InputError(f"Got stamp {source['stamp']!r} in action_sources[{index}], expected 'header' or 'receive'.")
        sources.append(ActionSource(**{**source, "fields": {str(name): str(place) for name, place in source["fields"].items()}}))
    dimensions = []
    for index, item in enumerate(_items(entries, "dimensions")):
        dimensions.append(ActionDimension(**_entries(item, f"dimensions[{index}]", _DIMENSION_KEYS, required=("name", "kind"))))
    if entries.get("image_stamp", "header") not in _STAMPS:
        raise InputError(f"Got image_stamp {entries['image_stamp']!r}, expected 'header' or 'receive'.")
    try:
        fps, latency_ns = float(entries["fps"]), int(entries.get("image_latency_ns", 0))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"Got fps {entries['fps']!r} and image_latency_ns {entries.get('image_latency_ns')!r}, expected numbers."
        ) from error
    return TopicMapping(
        image_topic=str(entries["image_topic"]),
        action_sources=tuple(sources),
        dimensions=tuple(dimensions),
        fps=fps,
        image_type=str(entries.get("image_type", "sensor_msgs/msg/Image")),
        image_latency_ns=latency_ns,
        image_stamp=entries.get("image_stamp", "header"),
    )


def _entries(document: Any, place: str, known: Iterable[str], required: Iterable[str]) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise InputError(f"Got {document!r} for {place}, expected the keys {', '.join(known)}.")
    unknown = [key for key in document if key not in known]
    missing = [key for key in required if key not in document]
    if unknown or missing:
        raise InputError(f"Got {place} with unknown keys {unknown} and without {missing}, expected {', '.join(known)}.")
    return document


def _items(entries: dict[str, Any], key: str) -> list[Any]:
    if not isinstance(entries[key], list):
        raise InputError(f"Got {entries[key]!r} for {key}, expected a list.")
    return list(entries[key])
