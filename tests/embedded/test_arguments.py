# SPDX-License-Identifier: Apache-2.0
"""ROS arguments and parameter files."""

from __future__ import annotations

import pytest

from longscape_ros.embedded.arguments import parse_arguments, read_parameter_file, remove_ros_args
from longscape_ros.embedded.exceptions import RCLError, UnknownROSArgsError
from longscape_ros.embedded.names import Remap


def parse(text):
    return parse_arguments(["--ros-args", *text.split()])


def test_only_what_stands_behind_ros_args_is_read():
    assert remove_ros_args(["prog", "a", "--ros-args", "-p", "x:=1", "--", "b", "--ros-args", "-r", "c:=d"]) == ["prog", "a", "b"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("1.5", 1.5), ("1e3", 1000.0), ("true", True), ("abc", "abc"), ("[1,2]", [1, 2]), ("2026-01-01", "2026-01-01"),
        ("'1'", "1"), ("[a,b]", ["a", "b"]),
    ],
)  # fmt: skip
def test_parameter_values_are_yaml_as_ros_reads_it(text, value):
    found = parse(f"-p x:={text}").overrides_for("/n")["x"]
    assert (found, type(found)) == (value, type(value))


def test_a_parameter_can_be_meant_for_one_node():
    arguments = parse("-p all:=1 -p n:only:=2")
    assert arguments.overrides_for("/n") == {"all": 1, "only": 2}
    assert arguments.overrides_for("/m") == {"all": 1}


def test_later_values_win():
    assert parse("-p x:=1 -p x:=2").overrides_for("/n") == {"x": 2}


def test_remaps_and_node_prefixes_are_read():
    assert parse("-r a:=b --remap n:c:=d e:=f").remaps == [Remap("a", "b"), Remap("c", "d", "n"), Remap("e", "f")]


def test_log_levels_and_switches_are_read():
    arguments = parse("--log-level debug --log-level a.b:=warn --disable-rosout-logs -e /enclave")
    assert (arguments.log_levels, arguments.rosout, arguments.enclave) == ({"": "debug", "a.b": "warn"}, False, "/enclave")


@pytest.mark.parametrize("text", ["-p", "-p x", "--nope", "-r a", "-r a:="])
def test_unknown_and_malformed_arguments_are_refused(text):
    with pytest.raises(UnknownROSArgsError, match="unknown or malformed ROS arguments"):
        parse(text)


def test_a_parameter_file_names_nodes_exactly_or_by_wildcards(tmp_path):
    file = tmp_path / "parameters.yaml"
    file.write_text(
        "/ns/n: {ros__parameters: {x: 3}}\n"
        "/**: {ros__parameters: {x: 1, nested: {deep: [1.0, 2.0]}}}\n"
        "/*/n: {ros__parameters: {x: 2, star: true}}\n"
        "other: {ros__parameters: {x: 9}}\n"
    )
    arguments = parse(f"--params-file {file}")
    assert arguments.overrides_for("/ns/n") == {"x": 3, "nested.deep": [1.0, 2.0], "star": True}
    assert arguments.overrides_for("/a/b/c") == {"x": 1, "nested.deep": [1.0, 2.0]}


def test_namespaces_in_a_parameter_file_may_nest(tmp_path):
    file = tmp_path / "parameters.yaml"
    file.write_text("ns: {n: {ros__parameters: {x: 3}}}\n")
    assert parse(f"--params-file {file}").overrides_for("/ns/n") == {"x": 3}


def test_a_parameter_file_that_is_missing_or_is_none_is_refused(tmp_path):
    with pytest.raises(RCLError, match="which cannot be read"):
        read_parameter_file(tmp_path / "missing.yaml")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(RCLError, match="without node names"):
        read_parameter_file(tmp_path / "list.yaml")
