# SPDX-License-Identifier: Apache-2.0
"""The door: rclpy and message packages become importable where there is no ROS, and only there; signals end spinning."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from longscape_ros.embedded.install import RCLPY
from longscape_ros.embedded.messages import TypeLibrary
from longscape_ros.embedded.signals import (
    SignalHandlerOptions,
    install_signal_handlers,
    uninstall_signal_handlers,
)
from longscape_ros.errors import HostError

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE_S = 60.0
DOOR = "from longscape_ros.embedded import ensure_rclpy\n"


@pytest.fixture
def run(start):
    """Runs a script on a host without ROS, with more folders on Python's path; what it printed."""

    def run_script(script, *folders, **environment):
        path = os.pathsep.join(str(folder) for folder in (*folders, ROOT))
        process = start(script, PYTHONPATH=path, **{"AMENT_PREFIX_PATH": "", **environment})
        out, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, err
        return out.splitlines()

    return run_script


@pytest.fixture
def refusal(run):
    """The text of the error with which ensure_rclpy refuses."""
    script = f"""{DOOR}
from longscape_ros.errors import HostError
try:
    print("accepted", ensure_rclpy())
except HostError as fault:
    print("refused", fault)
"""
    return lambda *folders, **environment: run(script, *folders, **environment)[0]


def package(folder, name, **definitions):
    """A folder of message definitions."""
    (folder / name / "msg").mkdir(parents=True)
    (folder / name / "package.xml").write_text(f"<package format='3'><name>{name}</name></package>")
    for short, text in definitions.items():
        (folder / name / "msg" / f"{short}.msg").write_text(text)
    return folder / name


def test_rclpy_and_the_message_packages_can_be_imported_and_used(run):
    script = f"""{DOOR}
print(ensure_rclpy(), ensure_rclpy())
import rclpy
from longscape_msgs.msg import PredictedVideo
from rclpy.node import Node
from sensor_msgs.msg import Image
print(Image(height=2).height, PredictedVideo.STATUS_STALE_INPUT, rclpy.get_rmw_implementation_identifier())
with rclpy.init(args=[]):
    print(Node("here").get_fully_qualified_name(), rclpy.ok())
print(rclpy.ok())
"""
    assert run(script) == ["embedded embedded", "2 2 embedded_cyclonedds", "/here True", "False"]


def test_every_module_has_the_names_it_promises(run):
    script = f"""{DOOR}
from longscape_ros.embedded.install import RCLPY
import importlib
ensure_rclpy()
for name, sources in RCLPY.items():
    module = importlib.import_module(name)
    for promised in " ".join(sources.values()).split():
        assert promised in module.__all__ and hasattr(module, promised), (name, promised)
    print(name)
"""
    assert run(script) == list(RCLPY)


def test_importing_the_door_alone_changes_nothing(run):
    script = f"""{DOOR}
import importlib.util, sys
print(importlib.util.find_spec("rclpy"), "cyclonedds" in sys.modules)
"""
    assert run(script) == ["None False"]


def test_a_class_is_the_same_however_it_is_reached(run):
    script = f"""{DOOR}
ensure_rclpy()
import sensor_msgs.msg
from rosidl_runtime_py.utilities import get_message
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image
print(Image is sensor_msgs.msg.Image is get_message("sensor_msgs/msg/Image") is get_message("sensor_msgs/Image"))
print(Image.__module__, "Image" in sensor_msgs.msg.__all__, deserialize_message(serialize_message(Image(width=3)), Image).width)
"""
    assert run(script) == ["True", "sensor_msgs.msg True 3"]


def test_a_service_class_is_the_same_however_it_is_reached(run):
    script = f"""{DOOR}
ensure_rclpy()
import std_srvs.srv
from rosidl_runtime_py.utilities import get_service
from std_srvs.srv import SetBool
print(SetBool is std_srvs.srv.SetBool is get_service("std_srvs/srv/SetBool") is get_service("std_srvs/SetBool"))
print(SetBool.__module__, std_srvs.srv.__all__, SetBool.Request(data=True), SetBool.Response())
"""
    shown = "std_srvs.srv.SetBool_Request(data=True) std_srvs.srv.SetBool_Response(success=False, message='')"
    assert run(script) == ["True", f"std_srvs.srv ['Empty', 'SetBool', 'Trigger'] {shown}"]


@pytest.mark.parametrize(
    ("statement", "error", "text"),
    [
        ("import rclpy.action", "ModuleNotFoundError", "no actions"),
        ("from example_interfaces.srv import AddTwoInts", "ModuleNotFoundError", "No module named 'example_interfaces'"),
        ("import sensor_msgs.srv", "ModuleNotFoundError", "services are those of rcl_interfaces"),
        ("from std_srvs.srv import Fill", "ImportError", "cannot import name 'Fill'"),
        ("import std_srvs.srv; std_srvs.srv.Fill", "AttributeError", "no attribute 'Fill'; known: Empty, SetBool, Trigger"),
        ("from sensor_msgs.msg import Picture", "ImportError", "cannot import name 'Picture'"),
        ("import sensor_msgs.msg; sensor_msgs.msg.Picture", "AttributeError", "no attribute 'Picture'; known: BatteryState, CameraInfo"),
        (
            "from rosidl_runtime_py.utilities import get_message; get_message('a/msg/B')",
            "ValueError",
            "Got the message type 'a/msg/B', which is unknown",
        ),
        (
            "from rosidl_runtime_py.utilities import get_service; get_service('a/srv/B')",
            "ValueError",
            "Got the service type 'a/srv/B', which is unknown",
        ),
    ],
)
def test_what_is_not_there_is_said_so(run, statement, error, text):
    script = f"""{DOOR}
ensure_rclpy()
try:
    {statement.replace("; ", chr(10) + "    ")}
except Exception as fault:
    print(type(fault).__name__, fault)
"""
    (line,) = run(script)
    assert line.startswith(error)
    assert text in line


def test_a_folder_named_like_a_message_package_is_not_taken_for_it(run, tmp_path):
    (tmp_path / "sensor_msgs").mkdir()
    script = f"""{DOOR}
import longscape_msgs, sensor_msgs
ensure_rclpy()
from longscape_msgs.msg import CandidateCosts
print(CandidateCosts().best_index)
"""
    assert run(script, tmp_path) == ["0"]


def test_a_users_own_messages_are_taken_in(run, tmp_path):
    folder = package(tmp_path, "gripper_msgs", Grip="float64 force 2.5\nstd_msgs/Header header\n")
    script = f"""{DOOR}
from pathlib import Path
print(ensure_rclpy([Path({str(folder)!r})]))
from gripper_msgs.msg import Grip
print(Grip().force, Grip().header.frame_id == "")
"""
    assert run(script) == ["embedded", "2.5 True"]


def test_a_message_package_without_manifest_or_with_other_definitions_is_refused(tmp_path):
    library = TypeLibrary()
    with pytest.raises(HostError, match=r"without package\.xml; expected package\.xml and msg/\*\.msg"):
        library.add_folder(tmp_path)
    assert library.add_folder(package(tmp_path / "one", "gripper_msgs", Grip="float64 force\n")) == "gripper_msgs"
    assert library.add_folder(tmp_path / "one" / "gripper_msgs") == "gripper_msgs"
    with pytest.raises(HostError, match="expected the definition already loaded"):
        library.add_folder(package(tmp_path / "two", "gripper_msgs", Grip="int32 force\n"))


def test_the_real_rclpy_goes_first(run, tmp_path):
    (tmp_path / "rclpy").mkdir()
    (tmp_path / "rclpy" / "__init__.py").write_text("real = True")
    script = f"""{DOOR}
print(ensure_rclpy())
import rclpy
print(rclpy.real)
"""
    assert run(script, tmp_path) == ["rclpy", "True"]


def test_a_real_rclpy_that_does_not_import_is_not_shadowed(refusal, tmp_path):
    (tmp_path / "rclpy").mkdir()
    (tmp_path / "rclpy" / "__init__.py").write_text("raise ImportError('librcl.so: cannot open shared object file')")
    line = refusal(tmp_path, ROS_DISTRO="jazzy")
    assert line.startswith(f"refused Got ImportError from the installed rclpy ({tmp_path}/rclpy/__init__.py): librcl.so: cannot open")
    assert "Run with the Python that ROS was built for" in line


@pytest.mark.parametrize("place", ["lib/python3.99/site-packages", "lib/python3/dist-packages", "local/lib/python3.99/dist-packages"])
def test_a_sourced_ros_for_another_python_is_not_shadowed(refusal, tmp_path, place):
    (tmp_path / "ros" / place / "rclpy").mkdir(parents=True)
    line = refusal(ROS_DISTRO="jazzy", AMENT_PREFIX_PATH=f"{tmp_path}/overlay{os.pathsep}{tmp_path}/ros")
    assert line.startswith(f"refused Got the sourced ROS jazzy with rclpy in {tmp_path}/ros/{place}/rclpy, which Python 3.")
    assert "Run with the Python that ROS was built for" in line


def test_a_sourced_workspace_without_rclpy_does_not_matter(refusal, tmp_path):
    (tmp_path / "lib" / "python3.12" / "site-packages" / "my_robot").mkdir(parents=True)
    assert refusal(ROS_DISTRO="jazzy", AMENT_PREFIX_PATH=str(tmp_path)) == "accepted embedded"


def test_a_host_without_cyclone_is_told_what_to_install(refusal, tmp_path):
    (tmp_path / "cyclonedds").mkdir()
    (tmp_path / "cyclonedds" / "__init__.py").write_text("raise ImportError('no wheel')")
    line = refusal(tmp_path)
    assert line.startswith("refused Got no rclpy and no Cyclone DDS (ImportError: no wheel) in Python 3.")
    assert "Run: pip install 'cyclonedds>=11'" in line


def test_a_signals_former_handler_is_replaced_as_long_as_ours_is_installed():
    former = signal.getsignal(signal.SIGTERM)
    install_signal_handlers(SignalHandlerOptions.SIGTERM)
    try:
        assert signal.getsignal(signal.SIGTERM) is not former
    finally:
        uninstall_signal_handlers()


def test_an_interrupt_that_was_caught_is_forgotten_wherever_it_struck(run):
    script = f"""{DOOR}
ensure_rclpy()
import rclpy
rclpy.init(args=[])
try:
    exec("import os, signal; os.kill(os.getpid(), signal.SIGINT); [number for number in range(10**6)]")
except KeyboardInterrupt:
    print("caught")
rclpy.try_shutdown()
"""
    assert run(script) == ["caught"]  # and ends with status 0, not by the signal
