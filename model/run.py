# SPDX-License-Identifier: Apache-2.0
"""A training run on disk: what was calibrated on the bags, and the weights so far.

``run.json`` is the description, ``autoencoder.pt`` and ``denoiser.pt`` are checkpoints of the two stages, ``latents.pt`` has all
frames encoded, ``log.jsonl`` has a line of figures every few steps.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from longscape_ros.bags.mapping import mapping_from_dict, mapping_to_dict
from longscape_ros.contract import ActionDimension, ActionSpace, ChunkRule, TopicMapping
from longscape_ros.errors import InputError
from longscape_ros.model.autoencoder import AutoencoderConfig
from longscape_ros.model.transformer import TransformerConfig
from longscape_ros.model.world import WorldConfig, WorldModel

AUTOENCODER = "autoencoder.pt"
DENOISER = "denoiser.pt"
LATENTS = "latents.pt"
LOG = "log.jsonl"
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
    """

    recipe: str
    world: WorldConfig
    space: ActionSpace
    rule: ChunkRule
    mapping: TopicMapping
    data: dict[str, Any] = field(default_factory=dict)


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
    if (folder / _DESCRIPTION).is_file() and load_run(folder) != run:
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
    world = document["world"]
    autoencoder = _config(AutoencoderConfig, world.pop("autoencoder"))
    transformer = _config(TransformerConfig, world.pop("transformer"))
    return Run(
        recipe=document["recipe"],
        world=WorldConfig(autoencoder, transformer, **world),
        space=ActionSpace(tuple(ActionDimension(**d) for d in document["space"])),
        rule=_config(ChunkRule, document["rule"]),
        mapping=mapping_from_dict(document["mapping"]),
        data=document["data"],
    )


def load_model(folder: Path) -> WorldModel:
    """The trained model of a run, on the CPU.

    Raises:
        InputError: the run has not reached its end.
    """
    model = WorldModel(load_run(folder).world)
    for part, name in ((model.autoencoder, AUTOENCODER), (model.transformer, DENOISER)):
        checkpoint = load_checkpoint(folder / name)
        if checkpoint is None or not checkpoint["finished"]:
            raise InputError(f"Got the run {folder} without a finished {name}; run the same longscape train command again.")
        part.load_state_dict(checkpoint["averaged"])
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
