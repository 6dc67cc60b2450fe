# SPDX-License-Identifier: Apache-2.0
"""Where the gripper is in an image, by a network that was trained on camera images and measured positions (``longscape probe``).

A prediction can be sharp and wrong; pixels do not say by how many centimetres the arm is misplaced, this does. The probe has never
seen a prediction, so its error on actual frames (reported beside every figure) says how far it can be trusted.

An ONNX file: rgb uint8 [B, H, W, 3] -> position float32 [B, D] in metres. What it was trained on stands in its metadata.

Letters: B images, H W their size, D measured positions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from longscape_ros.errors import BackendError, InputError

Image = NDArray[np.uint8]

PROBE = "probe.onnx"
"""The file's name in a bundle's folder."""

METADATA = "longscape_probe"
"""Key of the ONNX metadata under which :class:`ProbeFacts` stand as JSON."""

INPUT, OUTPUT = "rgb", "position"


@dataclass(frozen=True, slots=True)
class ProbeFacts:
    """What a probe says of itself.

    Args:
        names: D names in the measured topic.
        topic: Of sensor_msgs/JointState, where the positions were measured.
        image_size: (H, W).
        error_cm: Mean distance from the measured position, in centimetres, on episodes it was not trained on.
        error_cm_p95: Its 95th percentile.
        frames: It was trained on.
        unit: Of the positions.
    """

    names: tuple[str, ...]
    topic: str
    image_size: tuple[int, int]
    error_cm: float
    error_cm_p95: float
    frames: int
    unit: str = "m"


class Locator(Protocol):
    """Tells where the gripper is in images."""

    def locate(self, rgb: Image) -> NDArray[np.float64]:
        """Images uint8 [B, H, W, 3] -> positions float64 [B, D] in metres."""


class Probe:
    """A probe from a file, run by ONNX Runtime on one CPU thread.

    Args:
        path: The file.

    Raises:
        InputError: it is not a probe, or there is no such file.
    """

    def __init__(self, path: Path) -> None:
        import onnxruntime

        if not path.is_file():
            raise InputError(f"Got the probe {path}, which is no file; longscape probe makes one.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            self.facts = _facts(self._session.get_modelmeta().custom_metadata_map)
        except Exception as error:  # ONNX Runtime's own exceptions have no common base
            raise InputError(f"Got {path}, which is no probe ({error}); expected a file that longscape probe wrote.") from error
        self.path = path

    def locate(self, rgb: Image) -> NDArray[np.float64]:
        """See :class:`Locator`.

        Raises:
            InputError: the images have another size than the probe's.
            BackendError: ONNX Runtime failed.
        """
        self.require_size(rgb.shape[1:3])
        try:
            position: Any = self._session.run([OUTPUT], {INPUT: np.ascontiguousarray(rgb)})[0]
        except Exception as error:  # ONNX Runtime's own exceptions have no common base
            raise BackendError(f"{self.path}: the probe failed to run ({error}); train it again with longscape probe.") from error
        return np.asarray(position, np.float64)

    def require_size(self, image_size: tuple[int, ...]) -> None:
        """Refuse images (H, W) of another size than the probe's.

        Raises:
            InputError: they are.
        """
        if tuple(image_size) != self.facts.image_size:
            raise InputError(
                f"Got images of {list(image_size)} pixels for the probe {self.path}, expected {list(self.facts.image_size)}; "
                "train one on images of this size with longscape probe --image-size."
            )


def _facts(metadata: dict[str, str]) -> ProbeFacts:
    if METADATA not in metadata:
        raise InputError(f"found the metadata {sorted(metadata)}, expected {METADATA}")
    document = json.loads(metadata[METADATA])
    return ProbeFacts(**{**document, "names": tuple(document["names"]), "image_size": tuple(document["image_size"])})
