# SPDX-License-Identifier: Apache-2.0
"""Trains a probe for the gripper's position and writes it as ONNX, verified against PyTorch. See :mod:`longscape_ros.probe`."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch

from longscape_ros.bags.mapping import load_mapping
from longscape_ros.contract import TopicMapping
from longscape_ros.errors import BundleError
from longscape_ros.export.structures import OPSET, quiet, simplify
from longscape_ros.model.probe import PositionProbe, ProbeConfig, train_probe
from longscape_ros.probe import INPUT, METADATA, OUTPUT, Probe, ProbeFacts

LARGEST_DIFFERENCE_M = 1e-4
"""How far ONNX Runtime's position may be from PyTorch's: a tenth of a millimetre."""


def make_probe(
    bags: Path,
    output: Path,
    config: ProbeConfig,
    mapping: TopicMapping | None = None,
    names: Sequence[str] = (),
    topic: str = "",
    progress: Callable[[float, float, str], None] | None = None,
) -> dict[str, float]:
    """Train a probe on bags and write it.

    Args:
        bags: Folder of recordings.
        output: The ONNX file; appears when it is complete and verified.
        config: Sizes and limits.
        mapping: Topics of the bags; None: ``mapping.yaml`` beside them.
        names: Measured numbers, in metres.
        topic: Where they are measured.
        progress: Told (done, total, what).

    Returns:
        ``error_cm``, ``error_cm_p95`` on the episodes kept apart, ``frames`` trained on, ``bytes``, and ``parity`` (the largest
        difference to PyTorch in metres).

    Raises:
        BagError: no bag has the camera and the measurements.
        InputError: there are too few episodes, or the configuration is wrong.
        BundleError: ONNX Runtime computes something else than PyTorch.
    """
    topics = mapping or load_mapping(bags / "mapping.yaml")
    config = dataclasses.replace(config, positions=len(names))
    probe, errors, frames = train_probe(bags, topics, names, topic, config, progress)
    facts = ProbeFacts(tuple(names), topic, config.image_size, errors.mean_cm, errors.p95_cm, frames)
    parity = write_probe(probe, facts, output)
    return {
        "error_cm": errors.mean_cm,
        "error_cm_p95": errors.p95_cm,
        "frames": float(frames),
        "bytes": float(output.stat().st_size),
        "parity": parity,
    }


def write_probe(probe: PositionProbe, facts: ProbeFacts, output: Path) -> float:
    """Export, verify on random images, and write; returns the largest difference to PyTorch in metres.

    Raises:
        BundleError: it is larger than :data:`LARGEST_DIFFERENCE_M`.
    """
    probe = probe.eval()
    rgb = torch.randint(0, 256, (4, *facts.image_size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), quiet():
        program = torch.onnx.export(
            probe,
            (rgb,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=1024)},),
            opset_version=OPSET,
            dynamo=True,
            optimize=False,
            verbose=False,
        )
        expected = probe(rgb).numpy()
    assert program is not None
    simplify(program.model)
    proto: onnx.ModelProto = program.model_proto
    del proto.graph.value_info[:]
    proto.metadata_props.add(key=METADATA, value=json.dumps(dataclasses.asdict(facts)))
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.part")
    try:
        onnx.save(proto, partial)
        found = Probe(partial)
        located = np.concatenate([found.locate(rgb[:1].numpy()), found.locate(rgb[1:].numpy())])
        parity = float(np.abs(located - expected).max())
        if not parity <= LARGEST_DIFFERENCE_M:
            raise BundleError(
                f"{output}: found a largest difference of {parity:.2g} m between ONNX Runtime and PyTorch, expected at most "
                f"{LARGEST_DIFFERENCE_M:g} m; the probe is not written."
            )
        os.replace(partial, output)
    finally:
        partial.unlink(missing_ok=True)
    return parity
