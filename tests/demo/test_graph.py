# SPDX-License-Identifier: Apache-2.0
"""The demo's own ROS graph."""

from __future__ import annotations

import socket

from longscape_ros.demo.graph import DOMAINS, free_domain, graph_environment, how_to_join


def test_the_graph_stays_on_this_machine_whatever_the_user_has_set():
    user = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET", "ROS_STATIC_PEERS": "10.0.0.1", "ROS_LOCALHOST_ONLY": "0", "HOME": "/home/me"}
    chosen = graph_environment(user)
    assert chosen["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert "ROS_STATIC_PEERS" not in chosen
    assert "ROS_LOCALHOST_ONLY" not in chosen
    assert chosen["HOME"] == "/home/me"


def test_humble_is_told_in_its_own_way():
    assert graph_environment({"ROS_DISTRO": "humble"})["ROS_LOCALHOST_ONLY"] == "1"


def test_a_domain_that_the_user_has_set_is_kept_and_else_one_is_chosen():
    assert graph_environment({"ROS_DOMAIN_ID": "42"})["ROS_DOMAIN_ID"] == "42"
    assert int(graph_environment({})["ROS_DOMAIN_ID"]) in DOMAINS


def test_a_domain_in_use_is_not_chosen():
    one, other = free_domain(), free_domain()
    while one == other:
        other = free_domain()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as busy:
        busy.bind(("", 7400 + 250 * one + 10))
        assert {free_domain((one, other)) for _ in range(8)} == {other}


def test_threads_that_the_user_has_set_are_kept():
    assert graph_environment({})["LP_NUM_THREADS"] == "0"
    assert graph_environment({"LP_NUM_THREADS": "4"})["LP_NUM_THREADS"] == "4"


def test_it_says_how_to_join():
    environment = graph_environment({"ROS_DOMAIN_ID": "42"})
    assert how_to_join(environment) == "export ROS_DOMAIN_ID=42 ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST"
