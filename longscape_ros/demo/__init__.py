# SPDX-License-Identifier: Apache-2.0
"""The demo: a simulated robot, the predictor watching it, and what it thought it would see."""

from longscape_ros.demo.config import DemoConfig
from longscape_ros.demo.run import run_demo

__all__ = ["DemoConfig", "run_demo"]
