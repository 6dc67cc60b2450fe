# SPDX-License-Identifier: Apache-2.0
"""From a training run to a bundle that a robot can run: ONNX graphs, verified against PyTorch."""

from longscape_ros.export.export import export_run

__all__ = ["export_run"]
