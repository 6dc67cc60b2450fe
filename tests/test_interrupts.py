# SPDX-License-Identifier: Apache-2.0
"""Signals: interrupted once, on demand, and whatever their number."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from longscape_ros.interrupts import deferred_interrupts, interrupted_once

UNDER_A_STORM = """
import os, signal
from longscape_ros.interrupts import interrupted_once
with interrupted_once():
    try:
        print("ready", flush=True)
        signal.pause()
    except KeyboardInterrupt:
        for _ in range(10**6):
            pass
        print("alive", flush=True)
        os._exit(0)
"""


def test_the_first_signal_interrupts_and_no_other_does():
    before = signal.getsignal(signal.SIGINT)
    with interrupted_once() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert interrupts.over
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_no_signal_interrupts_once_it_is_over():
    with interrupted_once() as interrupts:
        interrupts.over = True
        signal.raise_signal(signal.SIGINT)


def test_signals_that_come_faster_than_they_are_handled_are_one():
    process = subprocess.Popen([sys.executable, "-c", UNDER_A_STORM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
    assert (process.returncode, *process.communicate()) == (0, "alive\n", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_to_be_asked_for_and_another_one_interrupts(number):
    before = signal.getsignal(number)
    with deferred_interrupts() as interrupted:
        assert not interrupted()
        signal.raise_signal(number)
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before
