# SPDX-License-Identifier: Apache-2.0
"""What is published of a comparison between an image and what was predicted of it; plain Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from longscape_ros.messages import time_message
from longscape_ros.runtime.surprise import Comparison

SURPRISE = "longscape_msgs/msg/Surprise"


def surprise_message(comparison: Comparison, classes: Callable[[str], type]) -> Any:
    """longscape_msgs/Surprise of rclpy's classes or of rosbags'."""
    x, y = comparison.place
    header = classes("std_msgs/msg/Header")(stamp=time_message(comparison.stamp_ns, classes), frame_id=comparison.frame_id)
    return classes(SURPRISE)(
        header=header,
        state=int(comparison.state),
        error=comparison.error,
        threshold=comparison.threshold,
        predicted_at=time_message(comparison.anchor_ns, classes),
        x=x,
        y=y,
        model_id=comparison.model_id,
    )


def error_image(comparison: Comparison) -> NDArray[np.uint8]:
    """uint8 RGB [H, W, 3], the image in dark grey, and red where it is not as predicted: full red from the threshold on.

    Where the two are not comparable there is no red.
    """
    grey = cv2.cvtColor(comparison.shown, cv2.COLOR_RGB2GRAY).astype(np.float32) / 2
    image = np.repeat(grey[:, :, np.newaxis], 3, axis=2)
    if comparison.errors is not None:
        share = np.clip(comparison.errors / comparison.threshold, 0, 1)[:, :, np.newaxis] ** 2
        image = image * (1 - share) + np.array([255, 0, 0], np.float32) * share
    return np.asarray(image.round(), np.uint8)
