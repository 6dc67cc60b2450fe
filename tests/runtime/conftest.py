# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from support.classic_tensorrt import module as classic_module

from longscape_ros.runtime.tensorrt import CLASSIC, RTX, TensorRt, load_tensorrt, unavailable


@pytest.fixture(scope="session")
def rtx() -> TensorRt:
    """The real TensorRT-RTX, which builds without a GPU."""
    if reason := unavailable(RTX):
        pytest.skip(reason)
    return load_tensorrt(RTX)


@pytest.fixture
def classic() -> TensorRt:
    """What stands for the classic TensorRT."""
    return TensorRt(CLASSIC, "10.13.0.35", classic_module())
