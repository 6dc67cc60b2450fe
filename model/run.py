# SPDX-License-Identifier: Apache-2.0
"""A training run on disk: what was calibrated on the bags, and the weights so far.

``run.json`` is the description, ``<stage>.pt`` are the stages' checkpoints, ``latents.pt`` has all frames encoded, ``rollouts.pt``
what the heads learn from, ``log.jsonl`` a line of figures every few steps, as has ``tensorboard/``. ``run.json`` and ``weights/`` are
all that another machine needs to go on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from longscape_ros.bags.mapping import mapping_from_dict, mapping_to_dict
from longscape_ros.contract import ActionDimension, ActionSpace, ChunkRule, Confidence, TopicMapping
from longscape_ros.errors import InputError
from longscape_ros.model.autoencoder import AutoencoderConfig
from longscape_ros.model.transformer import TransformerConfig
from longscape_ros.model.world import WorldConfig, WorldModel

AUTOENCODER = "autoencoder"
DENOISER = "denoiser"
DISTIL = "distil"
HEADS = "heads"
LATENTS = "latents.pt"
ROLLOUTS = "rollouts.pt"
LOG = "log.jsonl"
TENSORBOARD = "tensorboard"
WEIGHTS = "weights"
LOCK = ".lock"
_DESCRIPTION = "run.json"


@dataclass(frozen=True)
class Run:
    """What a bundle needs to know of a training, besides the weights.

    Args:
        recipe: Its name.
        world: The model's configuration.
        space: The action, calibrated.
        rule: The chunk rule, calibrated.
        mapping: The robot's topics.
        data: Figures of the training bags.
        sampler_steps: Network evaluations per chunk of the finished model.
        stages: Names of the training's stages.
        confidence: Calibrated at the training's end; None: it has not come so far.
    """

    recipe: str
    world: WorldConfig
    space: ActionSpace
    rule: ChunkRule
    mapping: TopicMapping
    data: dict[str, Any] = field(default_factory=dict)
    sampler_steps: int = 4
    stages: tuple[str, ...] = (AUTOENCODER, DENOISER)
    confidence: Confidence | None = None


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Keeps a run's folder for this process, as long as it lives at the most.

    Raises:
        InputError: another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            fault = f"Got the run {folder}, which another training is working on; end that one, or name another folder."
            raise InputError(fault) from error
        yield


def begin_run(folder: Path, run: Run) -> None:
    """Write the description of a new run; one that was begun before goes on only if it is the same.

    Raises:
        InputError: it is not.
    """
    if (folder / _DESCRIPTION).is_file():
        found = load_run(folder)
        if replace(found, confidence=None) == run:
            return
        raise InputError(f"Got the run {folder}, which was begun with another recipe or other bags; name another folder to begin anew.")
    save_run(folder, run)


def save_run(folder: Path, run: Run) -> None:
    """Write the description."""
    document = {
        "recipe": run.recipe,
        "world": dataclasses.asdict(run.world),
        "space": [dataclasses.asdict(d) for d in run.space.dimensions],
        "rule": dataclasses.asdict(run.rule),
        "mapping": mapping_to_dict(run.mapping),
        "data": run.data,
        "sampler_steps": run.sampler_steps,
        "stages": run.stages,
        "confidence": None if run.confidence is None else dataclasses.asdict(run.confidence),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _DESCRIPTION).write_text(json.dumps(document, indent=2))


def load_run(folder: Path) -> Run:
    """Read the description.

    Raises:
        InputError: ``folder`` is not a run's.
    """
    path = folder / _DESCRIPTION
    if not path.is_file():
        raise InputError(f"Got {folder}, which has no {_DESCRIPTION}; expected the folder that longscape train wrote to.")
    document = json.loads(path.read_text())
    world: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in document["world"].items()}
    autoencoder = _config(AutoencoderConfig, world.pop("autoencoder"))
    transformer = _config(TransformerConfig, world.pop("transformer"))
    return Run(
        recipe=document["recipe"],
        world=WorldConfig(autoencoder, transformer, **world),
        space=ActionSpace(tuple(ActionDimension(**d) for d in document["space"])),
        rule=_config(ChunkRule, document["rule"]),
        mapping=mapping_from_dict(document["mapping"]),
        data=document["data"],
        sampler_steps=document["sampler_steps"],
        stages=tuple(document["stages"]),
        confidence=None if document["confidence"] is None else Confidence(**document["confidence"]),
    )


def undistilled(run: Run) -> Run:
    """The run as if it had ended with the denoiser: what its distillation began from."""
    return replace(run, stages=(AUTOENCODER, DENOISER), sampler_steps=run.world.sampler_steps, confidence=None)


def load_model(folder: Path, run: Run | None = None) -> WorldModel:
    """The trained model of a run, on the CPU.

    Args:
        folder: Of the run.
        run: What of it; None: all stages.

    Raises:
        InputError: the run has not reached its end.
    """
    run = run or load_run(folder)
    model = WorldModel(run.world)
    heads = {"length_predictor": model.length_predictor, "error_estimator": model.error_estimator}
    parts: dict[str, nn.Module] = {
        AUTOENCODER: model.autoencoder,
        DENOISER: model.denoiser,
        DISTIL: nn.ModuleDict({"student": model.denoiser}),
        HEADS: nn.ModuleDict(heads),
    }
    for name in run.stages:  # in their order: a distilled denoiser replaces the one before
        checkpoint = load_checkpoint(folder / f"{name}.pt")
        if checkpoint is None or not checkpoint["finished"]:
            raise InputError(f"Got the run {folder} with an unfinished {name}; run the same longscape train command again.")
        parts[name].load_state_dict(checkpoint["averaged"])
    if HEADS in run.stages and run.confidence is None:
        raise InputError(f"Got the run {folder}, whose confidence is not calibrated yet; run the same longscape train command again.")
    return model.eval()


def save_checkpoint(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint; a crash leaves the one before."""
    partial = path.with_suffix(".part")
    torch.save(checkpoint, partial)
    os.replace(partial, path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """A checkpoint, or None if there is none yet."""
    if not path.is_file():
        return None
    checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return checkpoint


def _config(kind: Any, document: dict[str, Any]) -> Any:
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in document.items()})
