# SPDX-License-Identifier: Apache-2.0
"""Makes `import rclpy`, `from sensor_msgs.msg import Image` and the like work on a host without ROS, and only there."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from longscape_ros.errors import HostError

INTERFACES = Path(__file__).resolve().parent.parent / "interfaces"
"""The folder of longscape_msgs: package.xml and msg/*.msg."""

_SHARED = {
    "logging": "get_logger LoggingSeverity",
    "exceptions": (
        "InvalidHandle InvalidNamespaceException InvalidNodeNameException InvalidParameterException InvalidParameterTypeException "
        "InvalidParameterValueException InvalidServiceNameException InvalidTopicNameException NameValidationException "
        "NoTypeSupportImportedException NotInitializedException ParameterAlreadyDeclaredException ParameterException "
        "ParameterImmutableException ParameterNotDeclaredException ParameterUninitializedException ROSInterruptException"
    ),
    "qos": (
        "DurabilityPolicy HistoryPolicy InvalidQoSProfileException LivelinessPolicy QoSCompatibility QoSPolicyKind QoSPresetProfiles "
        "QoSProfile ReliabilityPolicy qos_check_compatible qos_policy_name_from_kind qos_profile_action_status_default "
        "qos_profile_best_available qos_profile_default qos_profile_parameter_events qos_profile_parameters qos_profile_sensor_data "
        "qos_profile_services_default qos_profile_system_default qos_profile_unknown DeadlineBestAvailable "
        "LivelinessLeaseDurationeBestAvailable"
    ),
    "executors": (
        "ConditionReachedException Executor ExternalShutdownException MultiThreadedExecutor ShutdownException SingleThreadedExecutor "
        "TimeoutException"
    ),
    "events": (
        "DeadlineMissedInfo IncompatibleQoSInfo LivelinessChangedInfo LivelinessLostInfo MatchedInfo MessageLostInfo "
        "PublisherEventCallbacks QoSPublisherEventType QoSSubscriptionEventType SubscriptionEventCallbacks UnsupportedEventTypeError"
    ),
}

RCLPY: dict[str, dict[str, str]] = {
    "rclpy": {
        "api": (
            "InitContextManager create_node get_global_executor get_rmw_implementation_identifier init ok shutdown spin spin_once "
            "spin_until_future_complete try_shutdown"
        ),
        "context": "Context get_default_context",
        "node": "Node",
        "executors": "Executor SingleThreadedExecutor",
        "parameters": "Parameter",
        "signals": "SignalHandlerOptions install_signal_handlers uninstall_signal_handlers",
        "task": "Future",
    },
    "rclpy.callback_groups": {"callback_groups": "CallbackGroup MutuallyExclusiveCallbackGroup ReentrantCallbackGroup"},
    "rclpy.client": {"services": "Client"},
    "rclpy.clock": {
        "clock": "Clock ClockChange JumpHandle JumpThreshold ROSClock TimeJump",
        "time": "ClockType Duration Time",
    },
    "rclpy.clock_type": {"time": "ClockType"},
    "rclpy.constants": {"time": "NANOSECONDS"},
    "rclpy.context": {"context": "Context"},
    "rclpy.duration": {"time": "Duration Infinite"},
    "rclpy.event_handler": {"events": _SHARED["events"]},
    "rclpy.exceptions": {"exceptions": _SHARED["exceptions"]},
    "rclpy.executors": {"executors": _SHARED["executors"]},
    "rclpy.expand_topic_name": {"names": "expand_topic_name"},
    "rclpy.guard_condition": {"timer": "GuardCondition"},
    "rclpy.impl.rcutils_logger": {"logging": "RcutilsLogger"},
    "rclpy.lifecycle": {
        "lifecycle": (
            "LifecycleNode LifecycleNodeMixin LifecyclePublisher LifecycleState ManagedEntity SimpleManagedEntity TransitionCallbackReturn"
        ),
    },
    "rclpy.logging": {
        "logging": (
            "LoggingSeverity get_logger get_logger_effective_level get_logger_level get_logging_severity_from_string set_logger_level"
        ),
    },
    "rclpy.logging_service": {"logger_service": "LoggingService"},
    "rclpy.node": {
        "node": "Node",
        "exceptions": "NodeNameNonExistentError",
        "parameters": "Parameter",
        "endpoints": "Publisher Subscription",
        "services": "Client Service",
        "timer": "Timer Rate",
    },
    "rclpy.parameter": {"parameters": "PARAMETER_SEPARATOR_STRING Parameter parameter_value_to_python"},
    "rclpy.parameter_service": {"parameter_service": "ParameterService"},
    "rclpy.publisher": {"endpoints": "Publisher"},
    "rclpy.qos": {"qos": _SHARED["qos"]},
    "rclpy.qos_overriding_options": {
        "qos_overriding": "InvalidQosOverridesError QoSOverridingOptions",
        "qos": "QoSPolicyKind",
    },
    "rclpy.serialization": {"messages": "deserialize_message serialize_message"},
    "rclpy.service": {"services": "Service"},
    "rclpy.signals": {
        "signals": "SignalHandlerOptions get_current_signal_handlers_options install_signal_handlers uninstall_signal_handlers",
    },
    "rclpy.subscription": {"endpoints": "Subscription"},
    "rclpy.task": {"task": "Future Task"},
    "rclpy.time": {"time": "Duration Time"},
    "rclpy.timer": {"timer": "Rate Timer"},
    "rclpy.topic_endpoint_info": {"endpoint_info": "TopicEndpointInfo TopicEndpointTypeEnum TypeHash"},
    "rclpy.type_description_service": {
        "type_description_service": "START_TYPE_DESCRIPTION_SERVICE_PARAM TypeDescriptionService",
    },
    "rclpy.utilities": {
        "api": "get_rmw_implementation_identifier ok shutdown timeout_sec_to_nsec try_shutdown",
        "arguments": "remove_ros_args",
        "context": "get_default_context",
    },
    "rclpy.validate_full_topic_name": {"names": "validate_full_topic_name"},
    "rclpy.validate_namespace": {"names": "validate_namespace"},
    "rclpy.validate_node_name": {"names": "validate_node_name"},
    "rclpy.validate_parameter_name": {"names": "validate_parameter_name"},
    "rclpy.validate_topic_name": {"names": "validate_topic_name"},
    "rclpy.wait_for_message": {"api": "wait_for_message"},
    "rosidl_runtime_py.utilities": {"api": "get_message get_service"},
}
"""The modules that can be imported: for each, the embedded module -> the names it gives."""

_ALIASES = {
    "rclpy.constants": {"S_TO_NS": "NANOSECONDS"},
    "rclpy.lifecycle": {
        "Node": "LifecycleNode",
        "NodeMixin": "LifecycleNodeMixin",
        "Publisher": "LifecyclePublisher",
        "State": "LifecycleState",
    },
}
_PACKAGES = frozenset(".".join(parts[:count]) for parts in (name.split(".") for name in RCLPY) for count in range(1, len(parts)))
_KINDS = ("msg", "srv")
_LOCK = threading.Lock()


def ensure_rclpy(interfaces: Sequence[Path] = (INTERFACES,)) -> str:
    """Makes rclpy importable: the real one where it is, else the embedded graph.

    Args:
        interfaces: Folders of interface packages (package.xml, msg/*.msg, srv/*.srv) that the embedded graph takes in beside the standard
            ones.

    Returns:
        "rclpy" or "embedded".

    Raises:
        HostError: A ROS installation whose rclpy does not import, which is not shadowed; or Cyclone DDS is missing.
    """
    with _LOCK:
        finder = next((finder for finder in sys.meta_path if isinstance(finder, _Finder)), None)
        if finder is None:
            if _real_rclpy():
                return "rclpy"
            _require_cyclone()
            finder = _Finder()
            sys.meta_path.insert(0, finder)
        finder.add_interfaces(interfaces)
        return "embedded"


def _real_rclpy() -> bool:
    """Whether the host's own rclpy imports; refuses one that is there and does not."""
    if "rclpy" in sys.modules:
        return True
    spec = importlib.util.find_spec("rclpy")
    if spec is None or spec.origin is None:
        _refuse_sourced_ros()
        return False
    try:
        importlib.import_module("rclpy")
    except Exception as fault:
        raise HostError(
            f"Got {type(fault).__name__} from the installed rclpy ({spec.origin}): {fault}. Expected one that works with Python "
            f"{_version()} of {sys.executable}. {_remedy()}"
        ) from fault
    return True


def _refuse_sourced_ros() -> None:
    """A sourced ROS has rclpy, though not where this Python looks."""
    for prefix in (path for path in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if path):
        for pattern in ("lib/python*/site-packages/rclpy", "lib/python*/dist-packages/rclpy", "local/lib/python*/dist-packages/rclpy"):
            found = next(Path(prefix).glob(pattern), None)
            if found is not None:
                raise HostError(
                    f"Got the sourced ROS {os.environ.get('ROS_DISTRO', '')} with rclpy in {found}, which Python {_version()} of "
                    f"{sys.executable} does not find. {_remedy()}"
                )


def _version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _remedy() -> str:
    return "Run with the Python that ROS was built for (usually /usr/bin/python3), or without ROS, in a shell that sources no setup file."


def _require_cyclone() -> None:
    try:
        importlib.import_module("cyclonedds.domain")
    except Exception as fault:
        where = f"Python {_version()} on {sys.platform} {os.uname().machine if hasattr(os, 'uname') else ''}".rstrip()
        raise HostError(
            f"Got no rclpy and no Cyclone DDS ({type(fault).__name__}: {fault}) in {where}; expected one of them. "
            "Run: pip install 'cyclonedds>=11' (it has wheels for Python 3.10 to 3.13 on x86-64 Linux, macOS and Windows); "
            "elsewhere install ROS 2 and source it."
        ) from fault


class _Finder(MetaPathFinder, Loader):
    """Finds rclpy's modules and the interface packages; the class of a message or a service is made when it is first asked for."""

    def __init__(self) -> None:
        from longscape_ros.embedded.messages import library

        self._library = library()

    def add_interfaces(self, folders: Sequence[Path]) -> None:
        """Takes in the interface packages of folders."""
        for folder in folders:
            package = self._library.add_folder(Path(folder))
            loaded = sys.modules.get(package)
            if loaded is not None and getattr(loaded, "__loader__", None) is not self:
                for name in (
                    package,
                    f"{package}.msg",
                    f"{package}.srv",
                ):  # a folder of that name on sys.path had been taken for the package
                    sys.modules.pop(name, None)

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """The module's spec if it is one of ours."""
        package, _, rest = fullname.partition(".")
        if fullname in RCLPY or fullname in _PACKAGES:
            return importlib.util.spec_from_loader(fullname, self, origin="embedded graph", is_package=fullname in _PACKAGES)
        if package == "rclpy":
            raise _missing(fullname)
        if package not in self._library.packages():
            return None
        if not rest or any(self._names(package, rest)):
            return importlib.util.spec_from_loader(fullname, self, origin="embedded graph", is_package=not rest)
        raise _missing(fullname)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Python's own."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Fills a module with its names."""
        package, _, rest = module.__name__.partition(".")
        if package != "rclpy" and rest in _KINDS:
            vars(module).update(self._classes(module, package, rest))
            return
        names = dict(_exports(module.__name__))
        vars(module).update(names)
        if names:
            vars(module)["__all__"] = sorted(names)

    def _names(self, package: str, kind: str) -> Iterator[str]:
        """The short names of a package's messages (kind msg) or services (kind srv)."""
        every = {"msg": self._library.names, "srv": self._library.service_names}.get(kind)
        prefix = f"{package}/{kind}/"
        return (name.removeprefix(prefix) for name in (every() if every else ()) if name.startswith(prefix))

    def _classes(self, module: ModuleType, package: str, kind: str) -> dict[str, Any]:
        """What a module of messages or of services consists of."""
        public = list(self._names(package, kind))
        make = self._library.message_class if kind == "msg" else self._library.service_class

        def get(name: str) -> Any:
            if name not in public:
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}; known: {', '.join(public)}")
            vars(module)[name] = make(f"{package}/{kind}/{name}")
            return vars(module)[name]

        return {"__getattr__": get, "__all__": public, "__dir__": lambda: public}


def _exports(module: str) -> Iterator[tuple[str, Any]]:
    """Names and values of one of rclpy's modules."""
    for source, names in RCLPY.get(module, {}).items():
        ours = importlib.import_module(f"longscape_ros.embedded.{source}")
        for name in names.split():
            yield name, getattr(ours, name)
            for alias, original in _ALIASES.get(module, {}).items():
                if original == name:
                    yield alias, getattr(ours, name)


def _missing(name: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(
        f"No module named {name!r}: the embedded graph has topics, services, timers, parameters and lifecycle nodes, no actions; its "
        "services are those of rcl_interfaces, lifecycle_msgs, std_srvs and type_description_interfaces, and of folders with .srv files. "
        "See docs/ros.md, or run on a host with ROS 2.",
        name=name,
    )
