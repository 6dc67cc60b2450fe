# SPDX-License-Identifier: Apache-2.0
"""Weights that travel: half precision, in files small enough to carry from one machine to the next. No pickle.

A checkpoint continues a training exactly, on the machine it was made on. What is stored here continues it elsewhere: the averaged
weights, and how far the training was. The optimizer starts afresh, with a short warm-up.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longscape_ros.errors import InputError

LARGEST_FILE = 16 * 2**20
"""Bytes of a file of weights at most."""

LARGEST_TOTAL = 64 * 2**20
"""Bytes of a run's files of weights at most, all stages together."""

EXACT_BELOW = 64
"""Tensors of fewer numbers, and all that is not trained, stay in single precision."""

_OVERHEAD = 512
"""Bytes that a tensor's name and shape take in a file, at most."""


def store_weights(folder: Path, stage: str, weights: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write a stage's weights as ``<stage>-<n>.npz``, and ``<stage>.json``, which comes last and names them.

    Raises:
        InputError: the run's weights are more than :data:`LARGEST_TOTAL`, or one tensor more than :data:`LARGEST_FILE`.
    """
    parts: list[dict[str, np.ndarray[Any, Any]]] = [{}]
    size = 0
    for name, tensor in weights.items():
        half = tensor.is_floating_point() and tensor.numel() >= EXACT_BELOW
        array = (tensor.half() if half else tensor).cpu().numpy()
        if array.nbytes + _OVERHEAD > LARGEST_FILE:
            raise InputError(f"Got the weight {name} of {array.nbytes} bytes, expected less than {LARGEST_FILE}; use a narrower model.")
        size += array.nbytes + _OVERHEAD
        if size > LARGEST_FILE:
            parts.append({})
            size = array.nbytes + _OVERHEAD
        parts[-1][name] = array
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for number, part in enumerate(parts):
        names.append(f"{stage}-{number}.npz")
        temporary = folder / f".{stage}.part"
        with temporary.open("wb") as file:
            np.savez(file, **part)  # type: ignore[arg-type]
        os.replace(temporary, folder / names[-1])
    temporary = folder / f".{stage}.part"
    temporary.write_text(json.dumps({"files": names, **state}, indent=2))
    os.replace(temporary, folder / f"{stage}.json")
    total = sum(path.stat().st_size for path in folder.glob("*.npz"))
    if total > LARGEST_TOTAL:
        raise InputError(f"Got {total} bytes of weights in {folder}, expected at most {LARGEST_TOTAL}; use a smaller model.")


def read_weights(folder: Path, stage: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """A stage's weights in single precision, and its state; None if there are none.

    Raises:
        InputError: a file is missing.
    """
    description = folder / f"{stage}.json"
    if not description.is_file():
        return None
    state = json.loads(description.read_text())
    weights: dict[str, Tensor] = {}
    for name in state.pop("files"):
        if not (folder / name).is_file():
            raise InputError(f"Got {description} without {name} beside it, expected every file that it names; copy the whole folder.")
        with np.load(folder / name, allow_pickle=False) as part:
            for key in part.files:
                tensor = torch.from_numpy(part[key])
                weights[key] = tensor.float() if tensor.dtype == torch.float16 else tensor
    return weights, state
