# SPDX-License-Identifier: Apache-2.0
"""ROS arguments and parameter files: which node gets which value, and of which type."""

from __future__ import annotations

import math

import pytest
from rclpy.exceptions import ParameterUninitializedException
from rclpy.utilities import remove_ros_args


@pytest.fixture
def got(ros):
    """got(arguments, name and namespace) gives the parameters that arguments give a node."""

    def values(*arguments, name="n", namespace=None):
        from rclpy.node import Node

        options = {"namespace": namespace, "automatically_declare_parameters_from_overrides": True}
        node = Node(name, context=ros.context, cli_args=["--ros-args", *arguments], **options)
        own = {"use_sim_time", "start_type_description_service"}
        found = {name: parameter.value for name, parameter in node.get_parameters_by_prefix("").items() if name not in own}
        node.destroy_node()
        return found

    return values


@pytest.fixture
def file(tmp_path):
    """file(text) gives the arguments that name a parameter file with this text."""
    count = iter(range(10))

    def write(text):
        path = tmp_path / f"{next(count)}.yaml"
        path.write_text(text)
        return ["--params-file", str(path)]

    return write


# On the command line


def test_only_what_stands_behind_ros_args_is_ros():
    assert remove_ros_args(["prog", "a", "--ros-args", "-p", "x:=1", "--", "b", "--ros-args", "-r", "c:=d"]) == ["prog", "a", "b"]
    assert remove_ros_args(["prog", "--", "--help"]) == ["prog", "--", "--help"]
    assert remove_ros_args([]) == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("-5", -5), ("+5", 5), ("0x10", 16), ("010", 8), ("9999999999999999999", 1e19), ("1.5", 1.5), ("1.", 1.0),
        ("1e3", 1000.0), (".inf", math.inf), ("true", True), ("yes", True), ("y", True), ("Off", False), ("abc", "abc"), ("/a/b", "/a/b"),
        ("null", "null"),
        ("~", "~"), ("1_000", "1_000"), ("12:30", "12:30"), ("2026-01-01", "2026-01-01"), ("1.5.2", "1.5.2"), ("'1'", "1"), ("''", ""),
        ("'yes'", "yes"), ("!!str 1", "1"), ("[1,2]", [1, 2]), ("[1.0, 2.5]", [1.0, 2.5]), ("[a,b]", ["a", "b"]), ("['1',b]", ["1", "b"]),
        ("[true,no]", [True, False]), ("a:=b", "a:=b"), (" 1", 1),
    ],
)  # fmt: skip
def test_values_are_yaml_as_ros_reads_it(got, text, value):
    (found,) = got("-p", f"x:={text}").values()
    assert (found, type(found)) == (value, type(value))


def test_a_value_may_be_no_number(got):
    assert math.isnan(got("-p", "x:=.nan")["x"])


def test_an_empty_list_has_no_type_and_so_no_value(ros):
    node = ros.node("n", "-p x:=[]")
    node.declare_parameter("x", ["a"])
    with pytest.raises(ParameterUninitializedException):
        node.get_parameter("x")


def test_a_parameter_can_be_meant_for_one_node(got):
    arguments = ("-p", "all:=1", "-p", "n:only:=2", "-p", "m:other:=3")
    assert got(*arguments) == {"all": 1, "only": 2}
    assert got(*arguments, name="m") == {"all": 1, "other": 3}
    assert got(*arguments, namespace="/ns") == {"all": 1}


def test_names_may_have_parts(got):
    assert got("-p", "a.b.c:=1", "-p", "a/d:=2") == {"a.b.c": 1, "a/d": 2}


@pytest.mark.parametrize(
    ("arguments", "value"), [(("x:=1", "x:=2"), 2), (("n:x:=1", "x:=2"), 2), (("x:=2", "n:x:=1"), 1), (("n:x:=1", "x:=2", "n:x:=3"), 2)]
)
def test_what_comes_later_wins_but_a_node_keeps_its_place(got, arguments, value):
    assert got(*(word for argument in arguments for word in ("-p", argument))) == {"x": value}


@pytest.mark.parametrize(
    "arguments",
    [
        ["-p"], ["-p", "x"], ["-p", "x:="], ["-p", ":=1"], ["-p", "x-y:=1"], ["-p", "~x:=1"], ["-p", "1x:=1"], ["-p", "/n:x:=1"],
        ["-p", "*:x:=1"], ["-p", "x:=[1,a]"], ["-p", "x:=[1,2.0]"], ["-p", "x:={a: 1}"], ["--nope"], ["-r"], ["-r", "a"], ["-r", "a:="],
        ["-r", "1a:=b"], ["-r", "a:=1b"], ["-r", "a/:=b"], ["-r", "a:=b//c"], ["-r", "a:={node}/b"], ["-r", "~:=b"], ["-r", "a:=b:=c"],
        ["-r", "__node:=a/b"], ["-r", "__ns:=x"], ["-r", "rostopic://n:a:=b"], ["--log-level", "loud"], ["--log-level", "warning"],
        ["--params-file", "/of/nobody.yaml"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_unknown_and_malformed_arguments_are_refused(got, arguments):
    with pytest.raises(RuntimeError):
        got(*arguments)


# In a file


def test_a_file_reaches_nested_names(got, file):
    arguments = file("n: {ros__parameters: {a: 1, model: {backend: ort, sizes: [1.0, 2.0], deep: {er: yes}}, dotted.name: x}}\n")
    assert got(*arguments) == {"a": 1, "model.backend": "ort", "model.sizes": [1.0, 2.0], "model.deep.er": True, "dotted.name": "x"}


@pytest.mark.parametrize(
    ("section", "nodes"),
    [
        ("n", {"/n"}),
        ("/n", {"/n"}),
        ("/ns/n", {"/ns/n"}),
        ("/*", {"/n", "/m"}),
        ("/ns/*", {"/ns/n"}),
        ("/*/n", {"/ns/n"}),
        ("/**", {"/n", "/m", "/ns/n", "/ns/deep/n"}),
        ("/**/n", {"/n", "/ns/n", "/ns/deep/n"}),
        ("/ns/**", {"/ns/n", "/ns/deep/n"}),
    ],
)
def test_sections_name_nodes_exactly_or_by_wildcards(got, file, section, nodes):
    arguments = file(f"{section}: {{ros__parameters: {{a: 1}}}}\n")
    every = {"/n": ("n", "/"), "/m": ("m", "/"), "/ns/n": ("n", "/ns"), "/ns/deep/n": ("n", "/ns/deep")}
    assert {full for full, (name, namespace) in every.items() if got(*arguments, name=name, namespace=namespace)} == nodes


@pytest.mark.parametrize(
    "text", ["ns: {n: {ros__parameters: {x: 3}}}", "/ns: {n: {ros__parameters: {x: 3}}}", "/*: {n: {ros__parameters: {x: 3}}}"]
)
def test_namespaces_in_a_file_may_nest(got, file, text):
    assert got(*file(text), namespace="/ns") == {"x": 3}
    assert got(*file(text)) == {}


def test_the_section_that_comes_later_wins(got, file):
    assert got(*file("/**: {ros__parameters: {a: 1, b: 1}}\nn: {ros__parameters: {a: 2}}\n")) == {"a": 2, "b": 1}
    assert got(*file("n: {ros__parameters: {a: 2}}\n/**: {ros__parameters: {a: 1, b: 1}}\n")) == {"a": 1, "b": 1}


def test_sections_of_one_node_add_up(got, file):
    assert got(*file("n: {ros__parameters: {a: 1, b: 1}}\nn: {ros__parameters: {b: 2}}\n---\nn: {ros__parameters: {c: 3}}\n")) == {
        "a": 1,
        "b": 2,
        "c": 3,
    }


def test_files_and_single_values_add_up_in_their_order(got, file):
    first, second = file("/**: {ros__parameters: {a: 1, b: 1, c: 1}}\n"), file("/**: {ros__parameters: {b: 2, c: 2}}\n")
    assert got(*first, *second, "-p", "c:=3") == {"a": 1, "b": 2, "c": 3}
    assert got("-p", "c:=3", *first) == {"a": 1, "b": 1, "c": 1}


def test_a_section_is_for_the_node_after_remapping(got, file):
    arguments = file("n: {ros__parameters: {a: 1}}\nm: {ros__parameters: {b: 2}}\n/x/n: {ros__parameters: {c: 3}}\n")
    assert got(*arguments, "-r", "__node:=m") == {"b": 2}
    assert got(*arguments, "-r", "__ns:=/x") == {"c": 3}


def test_texts_may_have_several_lines(got, file):
    text = "n:\n  ros__parameters:\n    kept: |\n      two\n      lines\n    folded: >\n      two\n      lines\n"
    assert got(*file(text)) == {"kept": "two\nlines\n", "folded": "two lines\n"}


@pytest.mark.parametrize("text", ["", "# nothing\n", "n: {ros__parameters: {}}\n"])
def test_a_file_may_be_empty(got, file, text):
    assert got(*file(text)) == {}


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2]", "n: {a: 1}", "n: {ros__parameters: }", "n: {ros__parameters: [1]}", "n: {ros__parameters: {a: }}", "n:\n\tx: 1",
        "n: {ros__parameters: {a: [1, x]}}", "n: {ros__parameters: {a: [[1, 2], [3]]}}", "n: {ros__parameters: {a: &x 1, b: *x}}", "n: {",
        "**: {ros__parameters: {a: 1}}",
    ],
)  # fmt: skip
def test_a_file_that_is_none_is_refused(got, file, text):
    with pytest.raises(RuntimeError):
        got(*file(text))
