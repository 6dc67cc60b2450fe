# SPDX-License-Identifier: Apache-2.0
"""Topic mappings as YAML."""

from __future__ import annotations

import copy

import pytest
import yaml

from longscape_ros.bags.mapping import built_in_mappings, load_mapping, mapping_from_dict, mapping_to_dict, save_mapping
from longscape_ros.errors import InputError
from longscape_ros.simulation import topics

DOCUMENT = {
    "image_topic": "/camera/image_raw",
    "fps": 10,
    "action_sources": [{"topic": "/gripper", "type": "std_msgs/msg/Float64", "fields": {"gripper": "data"}, "stamp": "receive"}],
    "dimensions": [{"name": "gripper", "kind": "state", "is_gripper": True}],
}


@pytest.mark.parametrize("name", built_in_mappings())
def test_mappings_that_ship_survive_the_round_trip(name, tmp_path):
    mapping = load_mapping(name)
    save_mapping(tmp_path / "mapping.yaml", mapping)
    assert load_mapping(tmp_path / "mapping.yaml") == mapping
    assert mapping_from_dict(mapping_to_dict(mapping)) == mapping


def test_the_simulated_arms_mapping_names_the_topics_that_it_publishes():
    shipped, live = load_mapping("simulated_arm"), topics.mapping(recorded=True)
    assert mapping_to_dict(shipped) == mapping_to_dict(live)


def test_what_is_left_out_has_defaults():
    mapping = mapping_from_dict(DOCUMENT)
    assert (mapping.image_type, mapping.image_latency_ns, mapping.dimensions[0].unit) == ("sensor_msgs/msg/Image", 0, "1")
    assert mapping.image_stamp == "header"


def test_images_may_be_dated_by_their_arrival():
    mapping = mapping_from_dict(DOCUMENT | {"image_stamp": "receive"})
    assert mapping.image_stamp == "receive"
    assert mapping_from_dict(mapping_to_dict(mapping)) == mapping


def test_an_unknown_name_lists_the_mappings_that_ship():
    with pytest.raises(InputError, match=r"franka_droid, simulated_arm, widowx_bridge"):
        load_mapping("my_robot")


def test_a_file_that_is_no_yaml_is_named(tmp_path):
    path = tmp_path / "mapping.yaml"
    path.write_text("image_topic: [")
    with pytest.raises(InputError, match=r"mapping\.yaml, which is not YAML"):
        load_mapping(path)


@pytest.mark.parametrize(
    ("place", "value", "text"),
    [
        ((), [], "expected the keys image_topic"),
        (("fps",), None, r"without \['fps'\]"),
        (("fps",), "fast", "expected numbers"),
        (("fps",), -1, "expected a positive rate"),
        (("image_stamp",), "trust me", "expected 'header' or 'receive'"),
        (("extra",), 1, r"unknown keys \['extra'\]"),
        (("action_sources",), {}, "expected a list"),
        (("action_sources", 0, "fields"), {}, "expected 'name: place in the message'"),
        (("action_sources", 0, "fields"), {"other": "data"}, "they must be the same names"),
        (("action_sources", 0, "stamp"), "trust me", "expected 'header' or 'receive'"),
        (("dimensions", 0, "kind"), "torque", "expected one of position"),
        (("dimensions", 0, "range"), 1, r"unknown keys \['range'\]"),
    ],
)
def test_a_fault_is_named_with_the_file(place, value, text, tmp_path):
    document = copy.deepcopy(DOCUMENT)
    if not place:
        document = value
    else:
        target = document
        for key in place[:-1]:
            target = target[key]
        if value is None:
            del target[place[-1]]
        else:
            target[place[-1]] = value
    path = tmp_path / "mapping.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(InputError, match=text) as caught:
        load_mapping(path)
    assert "mapping.yaml" in str(caught.value)
