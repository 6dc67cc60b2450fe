# SPDX-License-Identifier: Apache-2.0
"""Who may import whom, and what importing the robot's side must not load."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import longscape_ros

PACKAGE = Path(longscape_ros.__file__).parent
CORE = {"contract", "errors", "images", "sharing"}
INPUT = CORE | {"actions"}
MIDDLE = INPUT | {"messages", "segmentation", "timeline", "bundle"}
BELOW_NODES = MIDDLE | {"runtime", "bags"}
EVERYTHING = BELOW_NODES | {
    "interrupts",
    "host",
    "nodes",
    "embedded",
    "model",
    "export",
    "simulation",
    "evaluation",
    "ablations",
    "ablations_plot",
    "alternatives",
    "comparison",
    "bench",
    "demo",
    "examples",
    "learning",
    "learning_plot",
    "parity",
    "probe",
    "video",
    "view",
}

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "images": {"errors"},
    "sharing": set(),
    "contract": {"errors"},
    "actions": CORE,
    "messages": CORE,
    "segmentation": INPUT,
    "timeline": INPUT,
    "bundle": INPUT,
    "runtime": MIDDLE | {"examples"},
    "bags": INPUT | {"messages", "timeline"},
    "interrupts": set(),
    "embedded": {"errors", "interrupts"},
    "host": {"errors", "interrupts", "embedded"},
    "nodes": BELOW_NODES | {"host"},
    "model": INPUT | {"segmentation", "timeline", "bags", "bundle", "examples"},
    "export": BELOW_NODES | {"model", "probe", "examples", "parity"},
    "simulation": INPUT | {"messages", "host", "bags"},
    "examples": INPUT | {"bundle"},
    "parity": BELOW_NODES | {"examples", "evaluation"},
    "probe": {"errors"},
    "learning": {"errors"},
    "learning_plot": {"errors", "learning", "evaluation"},
    "video": set(),
    "evaluation": BELOW_NODES | {"probe", "video"},
    "comparison": {"evaluation"},
    "alternatives": BELOW_NODES | {"evaluation", "comparison"},
    "ablations": BELOW_NODES | {"model", "export", "evaluation", "comparison", "alternatives"},
    "ablations_plot": {"evaluation", "comparison"},
    "bench": BELOW_NODES | {"examples", "evaluation", "demo", "host"},  # draws as evaluation does, and runs the node as the demo does
    "view": INPUT | {"messages", "timeline", "bags", "interrupts", "host", "embedded"},
    "demo": EVERYTHING,
    "offline": BELOW_NODES,
    "doctor": EVERYTHING,
    "commands": EVERYTHING | {"offline", "doctor"},
    "cli": EVERYTHING | {"commands"},
    "__init__": set(),
    "__main__": {"cli"},
}
"""Part of the package -> the other parts that it may import."""

ONLY_IN: dict[str, set[str]] = {
    "torch": {"model", "export", "ablations"},
    "einops": {"model", "export"},
    "onnx": {"export", "model", "runtime"},
    "onnxscript": {"export"},
    "tensorrt": {"runtime", "export"},
    "rclpy": {"host", "nodes", "simulation", "demo", "embedded", "bench", "view"},  # of bench, the camera that the node is measured with
    "cyclonedds": {"embedded"},
    "mujoco": {"simulation"},
    "metaworld": {"simulation"},
    "rerun": {"view"},
}
"""Heavy or host-bound package -> the parts that may import it."""

TORCH_BACKEND = "longscape_ros.runtime.torch_backend"
"""The one module of the robot's side that runs a model in torch."""


def modules() -> dict[str, Path]:
    """Every module of the package, those behind the links ``model`` and ``export`` included."""
    folders = [PACKAGE, *(path for path in PACKAGE.iterdir() if path.is_symlink() and path.is_dir())]
    files = [path for folder in folders for path in folder.rglob("*.py")]
    return {".".join(("longscape_ros", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in files}


def part(module: str) -> str:
    """``longscape_ros.runtime.worker`` -> ``runtime``; the package itself: ``__init__``."""
    return (*module.split("."), "__init__")[1]


def imports(module: str, source: str) -> Iterator[str]:
    """Full names of everything the module imports, inside functions and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(module.split(".")[: -node.level]) if node.level else ""
            origin = ".".join(name for name in (base, node.module) if name)
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def faults(module: str, source: str) -> list[str]:
    """What the module imports and may not."""
    here = part(module)
    found = []
    for name in imports(module, source):
        top = name.split(".")[0]
        if top == "longscape_ros":
            there = part(name)
            allowed = MAY_IMPORT[here] | {here} | ({"model"} if module == TORCH_BACKEND else set())
            if there in MAY_IMPORT and there not in allowed:
                found.append(f"{module} imports {name}; {here} may import {sorted(MAY_IMPORT[here])}")
        elif top in ONLY_IN and here not in ONLY_IN[top] and not (module == TORCH_BACKEND and top == "torch"):
            found.append(f"{module} imports {name}; only {sorted(ONLY_IN[top])} may")
    return found


def test_every_module_belongs_to_a_part_that_has_rules():
    unknown = {part(name) for name in modules()} - set(MAY_IMPORT)
    assert not unknown, f"add the rules of {sorted(unknown)} to MAY_IMPORT"


def test_the_modules_behind_the_links_are_checked_too():
    assert "longscape_ros.model.transformer" in modules()
    assert any(name.startswith("longscape_ros.export") for name in modules())


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_go_only_in_the_directions_of_the_design(name):
    found = faults(name, modules()[name].read_text(encoding="utf-8"))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("longscape_ros.timeline", "from longscape_ros.runtime.worker import InferenceWorker"),
        ("longscape_ros.timeline", "from longscape_ros import runtime"),
        ("longscape_ros.runtime.worker", "from ..nodes import predictor"),
        ("longscape_ros.runtime.worker", "def f():\n    import torch.nn"),
        ("longscape_ros.runtime.worker", "if TYPE_CHECKING:\n    from longscape_ros.model.world import World"),
        ("longscape_ros.bags.reader", "from rclpy.node import Node"),
        ("longscape_ros.simulation.driver", "import longscape_ros.cli"),
    ],
)
def test_a_forbidden_import_is_found_wherever_it_hides(module, source):
    assert len(faults(module, source)) == 1


def test_only_the_command_line_and_the_demo_reach_for_nodes():
    users = {part(name) for name, path in modules().items() for i in imports(name, path.read_text()) if i.startswith("longscape_ros.nodes")}
    assert users <= {"nodes", "commands", "demo"}


def test_importing_the_robots_side_loads_no_torch_no_simulator_and_no_dds():
    quiet = CORE | MIDDLE | {"runtime", "bags", "evaluation", "probe", "video", "bench", "offline", "doctor", "commands", "cli", "__init__"}
    quiet |= {"learning", "learning_plot", "comparison", "alternatives", "ablations_plot", "view"}
    names = sorted(name.removesuffix(".__init__") for name in modules() if part(name) in quiet)
    script = f"""
import importlib, sys
for name in {names}:
    importlib.import_module(name)
print(*(name for name in {sorted(ONLY_IN)} if name in sys.modules))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=PACKAGE.parent)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []
