# SPDX-License-Identifier: Apache-2.0
"""Faults in ROS arguments and parameter files are told with what was got and what is expected."""

from __future__ import annotations

import pytest

from longscape_ros.embedded.arguments import parse_arguments, read_parameter_file
from longscape_ros.embedded.exceptions import RCLError, UnknownROSArgsError


@pytest.mark.parametrize("text", ["-p", "-p x", "--nope", "-r a", "-r a:=", "--log-level loud"])
def test_unknown_and_malformed_arguments_are_named(text):
    with pytest.raises(UnknownROSArgsError, match=f"unknown or malformed ROS arguments.*{text.split()[-1]}"):
        parse_arguments(["--ros-args", *text.split()])


@pytest.mark.parametrize(
    ("value", "fault"), [("[1,a]", "not of one type"), ("{a: 1}", "a scalar or a sequence of scalars"), ("*a", "alias")]
)
def test_a_value_that_is_none_is_told_with_its_parameter(value, fault):
    with pytest.raises(RCLError, match=f"Got the parameter 'x:=.*, whose value cannot be read: .*{fault}"):
        parse_arguments(["--ros-args", "-p", f"x:={value}"])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (None, "No such file"),
        ("[1, 2]", "no names of nodes"),
        ("n: {a: 1}", "a below /n has no parameters or nodes"),
        ("n: {ros__parameters: {a: }}", "a has no value"),
        ("n: {ros__parameters: {a: [[1], [2]]}}", "a scalar or a sequence of scalars"),
        ("n: {ros__parameters: {[1]: 2}}", "a key that is no name"),
        ("n: {", "expected"),
    ],
)
def test_a_parameter_file_that_is_missing_or_is_none_is_named(tmp_path, text, fault):
    file = tmp_path / "parameters.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(
        RCLError, match=rf"(?s)Got the parameter file {file}, which cannot be read: .*{fault}.*Expected `node: {{ros__param"
    ):
        read_parameter_file(file)
