# SPDX-License-Identifier: Apache-2.0
"""The demo's own ROS graph: on this machine only, and in a domain where nobody else is."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Mapping, Sequence

DOMAINS = range(1, 102)
"""Domains whose ports no system hands out to others."""

_PORT_BASE, _DOMAIN_GAIN = 7400, 250
_FIRST_PORTS = (0, 10, 11)
"""Multicast discovery, and the first participant's two own ports, from the domain's first port on."""


def graph_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Environment variables for the demo's processes.

    The discovery stays on this machine. A ROS_DOMAIN_ID that is set is kept; else a domain is chosen where no port is in use. Math
    libraries and the software renderer get one thread each, for there are as many processes as a small machine has cores.

    Args:
        environment: The user's.
    """
    chosen = dict(environment)
    for name in ("ROS_LOCALHOST_ONLY", "ROS_STATIC_PEERS"):
        chosen.pop(name, None)
    chosen["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    if chosen.get("ROS_DISTRO") == "humble":
        chosen["ROS_LOCALHOST_ONLY"] = "1"  # all that it knows
    chosen["ROS_DOMAIN_ID"] = chosen.get("ROS_DOMAIN_ID") or str(free_domain())
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"), "1")
    return single | {"LP_NUM_THREADS": "0", "PYTHONUNBUFFERED": "1"} | chosen


def free_domain(among: Sequence[int] = DOMAINS) -> int:
    """A domain that nobody uses on this machine, as far as ports tell; another each time, for demos that start together."""
    domains = random.sample(among, len(among))
    return next((domain for domain in domains if _is_free(domain)), domains[0])


def _is_free(domain: int) -> bool:
    with contextlib.ExitStack() as sockets:
        for offset in _FIRST_PORTS:
            trial = sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            try:
                trial.bind(("", _PORT_BASE + _DOMAIN_GAIN * domain + offset))
            except OSError:
                return False
    return True


def how_to_join(environment: Mapping[str, str]) -> str:
    """What to type in another terminal to see the demo's topics."""
    names = ("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE")
    return "export " + " ".join(f"{name}={environment[name]}" for name in names if name in environment)
