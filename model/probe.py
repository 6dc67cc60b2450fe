# SPDX-License-Identifier: Apache-2.0
"""Where the gripper is in an image: a small network that is trained on camera images and measured positions, to judge predictions.

It looks for points in the image and gives their places by a spatial soft-argmax (Levine et al., "End-to-end training of deep
visuomotor policies", JMLR 2016), which a few layers turn into a position. A camera that does not move sees depth only in the
points' arrangement, so there are many of them.

Shapes: B images, H x W pixels, P points, D position's numbers, N frames.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from longscape_ros.bags.measured import read_frames, read_measured
from longscape_ros.bags.reader import find_bags
from longscape_ros.contract import TopicMapping
from longscape_ros.errors import BagError, InputError
from longscape_ros.model.fit import has_bfloat16

Progress = Callable[[float, float, str], None]
"""(done, total, what) of a long job."""

CM = 100.0
HELD_OUT = 10
"""One episode of so many is kept for the probe's own error, at least one."""

LEAST_FRAMES = 16
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProbeConfig:
    """How a probe is built and trained.

    Args:
        image_size: (H, W) in pixels, multiples of 4.
        positions: D.
        width: Channels at half of the resolution; twice as many at a quarter.
        points: P.
        minutes: Time limit of the training.
        steps: Limit of its steps.
        batch: Frames per step.
        rate: Highest learning rate.
        every: One image of so many is used: neighbours resemble each other.
        blur: Share of the images that are blurred in training, as predictions are.
        noise: Standard deviation of the noise on the pixels in training, in levels of 255.
        seed: Of weights, batches and the choice of episodes.
    """

    image_size: tuple[int, int] = (64, 64)
    positions: int = 3
    width: int = 16
    points: int = 32
    minutes: float = 8.0
    steps: int = 30_000
    batch: int = 32
    rate: float = 2e-3
    every: int = 3
    blur: float = 0.3
    noise: float = 4.0
    seed: int = 0

    def __post_init__(self) -> None:
        if any(side % 4 or side <= 0 for side in self.image_size):
            raise InputError(f"Got image size {list(self.image_size)}, expected positive multiples of 4.")
        if not self.minutes > 0:
            raise InputError(f"Got {self.minutes} minutes, expected a positive number.")


class PositionProbe(nn.Module):
    """rgb uint8 [B, H, W, 3] -> position float32 [B, D], in the unit of the measurements it was trained on."""

    mean: Tensor
    deviation: Tensor
    grid: Tensor

    def __init__(self, config: ProbeConfig) -> None:
        super().__init__()
        self.config = config
        fine, coarse = config.width, 2 * config.width
        height, width = (side // 2 for side in config.image_size)
        self.stem = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, fine, 3, padding=1), nn.SiLU(), nn.Conv2d(fine, fine, 3, padding=1))
        self.down = nn.Sequential(nn.SiLU(), nn.Conv2d(fine, coarse, 4, stride=2, padding=1), nn.SiLU())
        self.around = nn.Sequential(
            nn.Conv2d(coarse, coarse, 3, padding=1), nn.SiLU(), nn.Conv2d(coarse, coarse, 3, padding=2, dilation=2), nn.SiLU()
        )
        self.up = nn.Sequential(nn.Conv2d(coarse, 4 * fine, 1), nn.PixelShuffle(2))
        self.points = nn.Sequential(nn.SiLU(), nn.Conv2d(fine, fine, 3, padding=1), nn.SiLU(), nn.Conv2d(fine, config.points, 1))
        self.place = nn.Parameter(torch.zeros(1, config.points, height, width))
        self.head = nn.Sequential(
            nn.Linear(3 * config.points, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, config.positions)
        )
        rows, columns = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
        self.register_buffer("grid", torch.stack([columns.flatten(), rows.flatten()], dim=1), persistent=False)  # [H W / 4, 2]
        self.register_buffer("mean", torch.zeros(config.positions))
        self.register_buffer("deviation", torch.ones(config.positions))

    def forward(self, rgb: Tensor) -> Tensor:
        """See the class."""
        return self.located(self.maps(rgb.permute(0, 3, 1, 2).float() / 127.5 - 1))

    def maps(self, pixels: Tensor) -> Tensor:
        """Pixels from -1 to 1 [B, 3, H, W] -> how much each place looks like each point [B, P, H W / 4]."""
        x = self.stem(pixels)
        x = x + self.up(self.around(self.down(x)))
        maps: Tensor = self.points(x) + self.place
        return maps.flatten(2)

    def located(self, maps: Tensor) -> Tensor:
        """Maps [B, P, H W / 4] -> position [B, D]; in single precision, a place needs all of it."""
        share = maps.softmax(dim=2)
        places = share @ self.grid  # [B, P, 2]
        height = (share * maps).sum(dim=2, keepdim=True) / 10
        numbers: Tensor = self.head(torch.cat([places, height], dim=2).flatten(1))
        return numbers * self.deviation + self.mean


@dataclass(frozen=True)
class MeasuredFrames:
    """Images with measured positions, of several episodes.

    Args:
        rgb: uint8 [N, H, W, 3].
        positions: float32 [N, D].
    """

    rgb: NDArray[np.uint8]
    positions: NDArray[np.float32]


@dataclass(frozen=True)
class ProbeErrors:
    """Distances from the measured positions on held-out episodes, in centimetres if positions are metres."""

    mean_cm: float
    p95_cm: float


def read_measured_frames(
    bags: Sequence[Path], mapping: TopicMapping, names: Sequence[str], topic: str, config: ProbeConfig, progress: Progress | None = None
) -> list[MeasuredFrames]:
    """One of each bag that has what is asked for; the others are logged and left out.

    Raises:
        BagError: none has.
    """
    episodes: list[MeasuredFrames] = []
    fault: BagError | None = None
    for index, bag in enumerate(bags):
        try:
            stamps, rgb = read_frames(bag, mapping, config.image_size, config.every)
            positions = read_measured(bag, names, topic, stamps)
        except BagError as error:
            fault = fault or error
            _log.warning("Left out %s: %s", bag, error)
            continue
        known = np.isfinite(positions).all(axis=1)
        episodes.append(MeasuredFrames(rgb[known], positions[known].astype(np.float32)))
        if progress:
            progress(index + 1, len(bags), f"bag {index + 1} of {len(bags)}")
    if not episodes:
        raise fault or BagError("Got no bag to train a probe on, expected at least two.")
    return episodes


def train_probe(
    bags: Path,
    mapping: TopicMapping,
    names: Sequence[str],
    topic: str,
    config: ProbeConfig,
    progress: Progress | None = None,
) -> tuple[PositionProbe, ProbeErrors, int]:
    """Train a probe on all bags below a folder but one of ten, and measure it on those.

    Args:
        bags: Folder of recordings.
        mapping: Says which topic is the camera.
        names: D names in the messages of ``topic``.
        topic: Of sensor_msgs/JointState.
        config: Sizes and limits.
        progress: Told how far it is, in minutes, after the bags were read.

    Returns:
        The probe, its errors on the episodes kept apart, and the frames it was trained on.

    Raises:
        BagError: no bag has the camera and the measurements.
        InputError: there are fewer than two episodes, or too few frames.
    """
    episodes = read_measured_frames(find_bags(bags), mapping, names, topic, config, progress)
    if len(episodes) < 2:
        raise InputError(f"Got {len(episodes)} episode below {bags}, expected at least two: one is kept for the probe's own error.")
    order = np.random.default_rng(config.seed).permutation(len(episodes))
    apart = order[: max(1, len(episodes) // HELD_OUT)]
    train, held_out = _joined([episodes[i] for i in np.setdiff1d(order, apart)]), _joined([episodes[i] for i in apart])
    probe = fit_probe(train, config, progress)
    return probe, measure(probe, held_out), len(train.rgb)


def fit_probe(frames: MeasuredFrames, config: ProbeConfig, progress: Progress | None = None) -> PositionProbe:
    """Train on given frames; ends with averaged weights.

    Raises:
        InputError: there are too few frames.
    """
    if len(frames.rgb) < LEAST_FRAMES:
        raise InputError(f"Got {len(frames.rgb)} images with a measured position, expected at least {LEAST_FRAMES}; give more bags.")
    torch.manual_seed(config.seed)
    bfloat16 = has_bfloat16()
    probe = PositionProbe(config)
    probe.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # convolutions are faster so
    positions = torch.from_numpy(frames.positions)
    probe.mean.copy_(positions.mean(dim=0))
    probe.deviation.copy_(positions.std(dim=0).clamp_min(1e-6))
    averaged = AveragedModel(probe, multi_avg_fn=_average)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=config.rate, weight_decay=1e-4)
    random = np.random.default_rng(config.seed)
    begun, step, done, recent = time.monotonic(), 0, 0.0, math.nan
    while done < 1:
        rows = random.integers(len(frames.rgb), size=config.batch)
        for group in optimizer.param_groups:
            group["lr"] = config.rate * min(1.0, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * done))
        pixels = _worse(torch.from_numpy(frames.rgb[rows]), config).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            maps = probe.maps(pixels)
        located = probe.located(maps.float())
        distance = torch.linalg.vector_norm(located - positions[rows], dim=1).mean()
        optimizer.zero_grad(set_to_none=True)
        (distance / probe.deviation.mean()).backward()
        nn.utils.clip_grad_norm_(probe.parameters(), 1.0)
        optimizer.step()
        averaged.update_parameters(probe)
        step += 1
        minutes = (time.monotonic() - begun) / 60
        done = max(step / config.steps, minutes / config.minutes)
        recent = CM * distance.item() if step == 1 else 0.98 * recent + 0.02 * CM * distance.item()
        if progress and step % 20 == 0:
            progress(min(done, 1.0) * config.minutes, config.minutes, f"step {step}, {recent:.2f} cm")
    probe.load_state_dict(averaged.module.state_dict())
    probe.eval()
    return probe


@torch.no_grad()
def measure(probe: PositionProbe, frames: MeasuredFrames, batch: int = 256) -> ProbeErrors:
    """The probe's distances from the measured positions."""
    located = torch.cat([probe(part) for part in torch.from_numpy(frames.rgb).split(batch)]).numpy()
    distances = CM * np.linalg.norm(located - frames.positions, axis=1)
    return ProbeErrors(float(distances.mean()), float(np.percentile(distances, 95)))


def _average(averaged: Any, current: Any, count: Any) -> None:
    """Exponential over the last 200 steps; at first over a tenth of them all, not to keep what the weights were at the beginning."""
    torch._foreach_lerp_(averaged, current, 1 - min(0.995, (1 + int(count)) / (10 + int(count))))


def _worse(rgb: Tensor, config: ProbeConfig) -> Tensor:
    """Pixels [B, 3, H, W] from -1 to 1 of uint8 [B, H, W, 3], some blurred, all with noise and other light."""
    pixels = rgb.permute(0, 3, 1, 2).float()
    blurred = torch.rand(len(rgb)) < config.blur
    pixels[blurred] = F.avg_pool2d(F.pad(pixels[blurred], (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    pixels = pixels * (1 + 0.05 * torch.randn(len(rgb), 1, 1, 1)) + config.noise * torch.randn_like(pixels)
    return pixels / 127.5 - 1


def _joined(episodes: Sequence[MeasuredFrames]) -> MeasuredFrames:
    return MeasuredFrames(np.concatenate([e.rgb for e in episodes]), np.concatenate([e.positions for e in episodes]))
