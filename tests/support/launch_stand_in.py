# SPDX-License-Identifier: Apache-2.0
"""What this package's launch files use of ROS's ``launch`` and ``launch_ros``, for hosts that have neither: PyPI and Debian do not.

Only a stand-in: it works out which processes a launch file would start, with which command lines, and starts none. It was compared with
launch and launch_ros of Humble, Jazzy and Rolling (late 2024), which made the same command lines of these launch files. Arguments that it
does not know are a TypeError, as they are there.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml


class LaunchContext:
    """What is known while a launch file is worked out."""

    def __init__(self, shares: Mapping[str, Path]) -> None:
        self.launch_configurations: dict[str, str] = {}
        self.shares = shares
        self.commands: list[list[str]] = []


class LaunchConfiguration:
    def __init__(self, variable_name: str) -> None:
        self._name = variable_name

    def perform(self, context: LaunchContext) -> str:
        if self._name not in context.launch_configurations:
            raise RuntimeError(f"launch configuration '{self._name}' does not exist")
        return context.launch_configurations[self._name]


class FindPackageShare:
    def __init__(self, package: Any) -> None:
        self._package = package

    def perform(self, context: LaunchContext) -> str:
        return str(context.shares[text(self._package, context)])


class PathJoinSubstitution:
    def __init__(self, substitutions: Iterable[Any]) -> None:
        self._parts = list(substitutions)

    def perform(self, context: LaunchContext) -> str:
        first, *rest = (text(part, context) for part in self._parts)
        return str(Path(first, *rest))


def text(value: Any, context: LaunchContext) -> str:
    """A text, a substitution, or a list of both, as text."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return "".join(text(part, context) for part in value)
    return str(value.perform(context))


class IfCondition:
    def __init__(self, predicate_expression: Any) -> None:
        self._expression = predicate_expression

    def holds(self, context: LaunchContext) -> bool:
        said = text(self._expression, context).lower()
        if said not in ("true", "1", "false", "0"):
            raise RuntimeError(f"invalid condition expression '{said}'")
        return said in ("true", "1")


class LaunchDescription:
    def __init__(self, initial_entities: Iterable[Any] | None = None) -> None:
        self._entities = list(initial_entities or ())

    def visit(self, context: LaunchContext) -> None:
        for entity in self._entities:
            if entity.condition is None or entity.condition.holds(context):
                entity.visit(context)


class _Action:
    def __init__(self, condition: IfCondition | None = None) -> None:
        self.condition = condition


class DeclareLaunchArgument(_Action):
    def __init__(self, name: str, *, default_value: Any = None, description: str = "", **rest: Any) -> None:
        super().__init__(**rest)
        self._name, self._default = name, default_value
        self.description = description

    def visit(self, context: LaunchContext) -> None:
        if self._name not in context.launch_configurations:
            context.launch_configurations[self._name] = text(self._default, context)


class OpaqueFunction(_Action):
    def __init__(
        self, *, function: Callable[..., Any], args: Iterable[Any] | None = None, kwargs: dict[str, Any] | None = None, **rest: Any
    ) -> None:
        super().__init__(**rest)
        self._function, self._args, self._kwargs = function, list(args or ()), kwargs or {}

    def visit(self, context: LaunchContext) -> None:
        LaunchDescription(self._function(context, *self._args, **self._kwargs)).visit(context)


class ExecuteProcess(_Action):
    def __init__(self, *, cmd: Iterable[Any], output: str = "log", **rest: Any) -> None:
        super().__init__(**rest)
        self._command = list(cmd)

    def visit(self, context: LaunchContext) -> None:
        context.commands.append([text(word, context) for word in self._command])


class Node(_Action):
    def __init__(
        self,
        *,
        executable: str,
        package: str | None = None,
        name: str | None = None,
        namespace: str | None = None,
        parameters: Sequence[Any] | None = None,
        remappings: Iterable[tuple[Any, Any]] | None = None,
        ros_arguments: Iterable[Any] | None = None,
        arguments: Iterable[Any] | None = None,
        output: str = "log",
        **rest: Any,
    ) -> None:
        super().__init__(**rest)
        self._executable, self._name, self._namespace = f"{package}/{executable}", name, namespace
        self._parameters, self._remappings = list(parameters or ()), list(remappings or ())
        self._ros_arguments, self._arguments = ros_arguments, list(arguments or ())

    def visit(self, context: LaunchContext) -> None:
        namespace = f"/{self._namespace.strip('/')}" if self._namespace else ""
        words: list[Any] = [self._executable, *self._arguments]
        words += [] if self._ros_arguments is None else ["--ros-args", *self._ros_arguments]
        words += ["--ros-args"]
        words += ["-r", f"__node:={self._name}"] if self._name else []
        words += ["-r", f"__ns:={namespace}"] if namespace else []
        for parameters in self._parameters:
            if isinstance(parameters, Mapping):
                node = f"{namespace}/{self._name}" if self._name else "/**"
                parameters = _temporary({node: {"ros__parameters": dict(parameters)}})
            words += ["--params-file", parameters]
        for source, target in self._remappings:
            words += ["-r", f"{text(source, context)}:={text(target, context)}"]
        context.commands.append([text(word, context) for word in words])


def _temporary(document: Any) -> str:
    with tempfile.NamedTemporaryFile("w", prefix="launch_params_", delete=False) as file:
        yaml.safe_dump(document, file)
    return file.name


class GroupAction(_Action):
    def __init__(self, actions: Iterable[Any], **rest: Any) -> None:
        super().__init__(**rest)
        self._actions = list(actions)

    def visit(self, context: LaunchContext) -> None:
        before = dict(context.launch_configurations)
        LaunchDescription(self._actions).visit(context)
        context.launch_configurations = before


class PythonLaunchDescriptionSource:
    def __init__(self, launch_file_path: Any) -> None:
        self.location = launch_file_path


class IncludeLaunchDescription(_Action):
    def __init__(
        self, launch_description_source: PythonLaunchDescriptionSource, *, launch_arguments: Iterable[tuple[str, Any]] = (), **rest: Any
    ) -> None:
        super().__init__(**rest)
        self._source, self._arguments = launch_description_source, list(launch_arguments)

    def visit(self, context: LaunchContext) -> None:
        for name, value in self._arguments:
            context.launch_configurations[name] = text(value, context)
        load(Path(text(self._source.location, context))).visit(context)


def load(path: Path) -> LaunchDescription:
    """What a launch file describes."""
    spec = importlib.util.spec_from_file_location(path.name.replace(".", "_"), path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    description = module.generate_launch_description()
    assert isinstance(description, LaunchDescription)
    return description


def commands(path: Path, arguments: Mapping[str, str], shares: Mapping[str, Path]) -> list[list[str]]:
    """The command lines of the processes that a launch file starts; an executable of a package is ``package/executable``."""
    context = LaunchContext(shares)
    context.launch_configurations |= arguments
    load(path).visit(context)
    return context.commands


def modules() -> Iterator[tuple[str, ModuleType]]:
    """The modules to be found while a launch file is loaded."""
    places: dict[str, tuple[type, ...]] = {
        "launch": (LaunchContext, LaunchDescription),
        "launch.actions": (DeclareLaunchArgument, ExecuteProcess, GroupAction, IncludeLaunchDescription, OpaqueFunction),
        "launch.conditions": (IfCondition,),
        "launch.launch_description_sources": (PythonLaunchDescriptionSource,),
        "launch.substitutions": (LaunchConfiguration, PathJoinSubstitution),
        "launch_ros": (),
        "launch_ros.actions": (Node,),
        "launch_ros.substitutions": (FindPackageShare,),
    }
    for name, members in places.items():
        module = ModuleType(name)
        vars(module).update({member.__name__: member for member in members})
        yield name, module
