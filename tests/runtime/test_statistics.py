# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest

from longscape_ros.errors import InputError
from longscape_ros.runtime.statistics import Rolling


def test_percentiles_are_those_of_the_newest_values() -> None:
    rolling = Rolling(window=3)
    for value in (1000.0, 1.0, 2.0, 3.0):
        rolling.add(value)
    assert rolling.percentile(50) == 2.0
    assert rolling.percentile(100) == 3.0
    assert rolling.count == 4


def test_without_values_a_percentile_is_not_a_number() -> None:
    assert math.isnan(Rolling().percentile(50))


def test_a_window_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="window of 0"):
        Rolling(0)
