# SPDX-License-Identifier: Apache-2.0
"""One process or many: what training knows of the others, started by ``torchrun``.

Every process draws the same batch from the same seed and takes its part of it; gradients are averaged by
``DistributedDataParallel``. So the number of processes changes nothing but the speed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from longscape_ros.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """Who computes.

    Args:
        device: This process's.
        rank: Number of this process.
        count: Of all processes.
    """

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def part(self, batch: T) -> T:
        """This process's part of a batch: a dataclass of tensors [B, ...] of which B is a multiple of ``count``."""
        if self.count == 1:
            return batch
        values = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}  # type: ignore[arg-type]
        parts = {name: value.chunk(self.count)[self.rank] if isinstance(value, Tensor) else value for name, value in values.items()}
        return dataclasses.replace(batch, **parts)  # type: ignore[type-var]

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with gradients averaged over the processes."""
        if self.count == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices, broadcast_buffers=False, find_unused_parameters=True)

    def agree(self, value: float) -> float:
        """The first process's number, in all of them."""
        if self.count == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=self.device)
        distributed.broadcast(shared, 0)
        return float(shared)

    def mean(self, figures: dict[str, float]) -> dict[str, float]:
        """Means over the processes; all give the same names."""
        if self.count == 1 or not figures:
            return figures
        values = torch.tensor(list(figures.values()), dtype=torch.float64, device=self.device)
        distributed.all_reduce(values)
        return dict(zip(figures, (values / self.count).tolist(), strict=True))

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            distributed.barrier()


@torch.no_grad()
def deviation(values: Tensor) -> Tensor:
    """Standard deviation of all processes' values, of which each has as many."""
    if not distributed.is_initialized():
        return values.std()
    values = values.float()
    mean = values.mean()
    moments = torch.stack((mean, mean.square(), values.var(correction=0)))
    distributed.all_reduce(moments)
    mean, square, inner = moments / distributed.get_world_size()
    count = values.numel() * distributed.get_world_size()
    result: Tensor = ((inner + square - mean.square()) * count / (count - 1)).sqrt()
    return result


def choose_device(name: str = "auto") -> torch.device:
    """``auto`` (a CUDA GPU if there is one), ``cpu`` or ``cuda``.

    Raises:
        InputError: it is none of these, or there is no such device.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"Got the device {name!r}, expected auto, cpu or cuda.")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError(f"Got the device cuda, but torch {torch.__version__} sees no CUDA GPU here; use --device cpu.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Joins the processes that torchrun started, or is alone."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes(device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(device, distributed.get_rank(), count)
    finally:
        distributed.destroy_process_group()


def move(value: Any, device: torch.device) -> Any:
    """Nested dictionaries and lists of tensors, on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: move(item, device) for key, item in value.items()}
    return [move(item, device) for item in value] if isinstance(value, list) else value
