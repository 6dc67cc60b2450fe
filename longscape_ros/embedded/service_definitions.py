# SPDX-License-Identifier: Apache-2.0
"""The services that every ROS node has or that are commonly used, by name: what a request and a response hold.

rosbags' typestore has messages only, so the fields are stated here, as the packages rcl_interfaces, lifecycle_msgs,
type_description_interfaces and std_srvs of Jazzy define them; comments are not repeated. The tests compare the type hashes with those
that ROS's own generator wrote. Other services are read from .srv files, see :meth:`TypeLibrary.add_folder`.
"""

from __future__ import annotations

_NAMES = "string[] names"
_SUCCESS = "bool success\nstring message"

DEFINITIONS: dict[str, str] = {
    "lifecycle_msgs/srv/ChangeState": "Transition transition\n---\nbool success",
    "lifecycle_msgs/srv/GetAvailableStates": "---\nState[] available_states",
    "lifecycle_msgs/srv/GetAvailableTransitions": "---\nTransitionDescription[] available_transitions",
    "lifecycle_msgs/srv/GetState": "---\nState current_state",
    "rcl_interfaces/srv/DescribeParameters": f"{_NAMES}\n---\nParameterDescriptor[] descriptors",
    "rcl_interfaces/srv/GetLoggerLevels": f"{_NAMES}\n---\nLoggerLevel[] levels",
    "rcl_interfaces/srv/GetParameterTypes": f"{_NAMES}\n---\nuint8[] types",
    "rcl_interfaces/srv/GetParameters": f"{_NAMES}\n---\nParameterValue[] values",
    "rcl_interfaces/srv/ListParameters": "uint64 DEPTH_RECURSIVE=0\nstring[] prefixes\nuint64 depth\n---\nListParametersResult result",
    "rcl_interfaces/srv/SetLoggerLevels": "LoggerLevel[] levels\n---\nSetLoggerLevelsResult[] results",
    "rcl_interfaces/srv/SetParameters": "Parameter[] parameters\n---\nSetParametersResult[] results",
    "rcl_interfaces/srv/SetParametersAtomically": "Parameter[] parameters\n---\nSetParametersResult result",
    "std_srvs/srv/Empty": "---",
    "std_srvs/srv/SetBool": f"bool data\n---\n{_SUCCESS}",
    "std_srvs/srv/Trigger": f"---\n{_SUCCESS}",
    "type_description_interfaces/srv/GetTypeDescription": (
        "string type_name\nstring type_hash\nbool include_type_sources true\n---\nbool successful\nstring failure_reason\n"
        "TypeDescription type_description\nTypeSource[] type_sources\nKeyValue[] extra_information"
    ),
}
"""The service's name -> the text of its .srv file."""
