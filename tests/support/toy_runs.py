# SPDX-License-Identifier: Apache-2.0
"""Small models and finished training runs of them, without training; and recordings that such models learn from in seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from longscape_ros.actions import feature_count
from longscape_ros.bags.mapping import save_mapping
from longscape_ros.bags.writer import BagWriter, bag_types
from longscape_ros.contract import ActionDimension, ActionSource, ActionSpace, ChunkRule, Confidence, TopicMapping
from longscape_ros.messages import IMAGE, image_message
from longscape_ros.model.heads import Heads
from longscape_ros.model.recipes import toy
from longscape_ros.model.run import AUTOENCODER, DENOISER, HEADS, Run, save_checkpoint, save_run
from longscape_ros.model.world import WorldConfig, WorldModel

FLOAT = "std_msgs/msg/Float64"
FPS = 20.0
MAPPING = TopicMapping(
    image_topic="/camera/image_raw",
    action_sources=(
        ActionSource("/slide/command", FLOAT, {"slide": "data"}, stamp="receive"),
        ActionSource("/gripper/command", FLOAT, {"gripper": "data"}, stamp="receive"),
    ),
    dimensions=(ActionDimension("slide", "m", "position"), ActionDimension("gripper", kind="state", is_gripper=True)),
    fps=FPS,
)
SPACE = ActionSpace(
    (
        ActionDimension("slide", "m", "position", motion_range=0.4, scale=0.3),
        ActionDimension("gripper", kind="state", scale=0.5, midpoint=0.5, hysteresis=0.1, is_gripper=True),
    )
)
RULE = ChunkRule(base=8, lengths=(8, 16, 24, 32), threshold=0.5)
CONFIDENCE = Confidence(psnr_db=25.0, slope=-1.0, offset=-6.0)


def toy_config() -> WorldConfig:
    """The model of the recipe ``toy``, with two sampling steps: half the trace."""
    return replace(toy().world(feature_count(SPACE)), sampler_steps=2)


def toy_model(config: WorldConfig | None = None, seed: int = 0) -> WorldModel:
    """A model in which every weight matters: those that start at zero are random too."""
    torch.manual_seed(seed)
    model = WorldModel(config or toy_config())
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
        model.autoencoder.latent_mean.normal_(std=0.1)
        model.autoencoder.latent_std.uniform_(0.5, 2.0)
    return model.eval()


def write_toy_run(folder: Path, model: WorldModel, finished: bool = True, heads: bool = False) -> Path:
    """The folder of a training that ended with ``model``; with or without length predictor and error estimator."""
    stages = (AUTOENCODER, DENOISER, HEADS) if heads else (AUTOENCODER, DENOISER)
    confidence = CONFIDENCE if heads else None
    steps = model.config.sampler_steps
    save_run(folder, Run("toy", model.config, SPACE, RULE, MAPPING, {"episodes": 3.0}, steps, stages, confidence))
    save_checkpoint(folder / f"{AUTOENCODER}.pt", {"averaged": model.autoencoder.state_dict(), "finished": True})
    save_checkpoint(folder / f"{DENOISER}.pt", {"averaged": model.denoiser.state_dict(), "finished": finished})
    if heads:
        trained = Heads(model.length_predictor, model.error_estimator)
        save_checkpoint(folder / f"{HEADS}.pt", {"averaged": trained.state_dict(), "finished": True})
    return folder


def write_toy_bags(folder: Path, episodes: int = 2, frames: int = 120) -> Path:
    """Recordings in which a bright square slides as commanded, now fast, now slowly; beside them ``mapping.yaml``."""
    folder.mkdir(parents=True, exist_ok=True)
    save_mapping(folder / "mapping.yaml", MAPPING)
    for episode in range(episodes):
        write_toy_bag(folder / f"episode_{episode}", frames, episode)
    return folder


def write_toy_bag(path: Path, frames: int, seed: int) -> None:
    """One recording: 32x32 images and a command of both actions every 50 ms; the gripper closes after two thirds."""
    classes = bag_types()
    random = np.random.default_rng(seed)
    speeds = np.repeat(random.uniform(-0.04, 0.04, frames // 12 + 1), 12)[:frames]
    slide = 0.4 * np.abs((np.cumsum(speeds) / 0.4 + 0.5) % 2 - 1)  # back and forth in 0 ... 0.4
    with BagWriter(path) as bag:
        for k in range(frames):
            stamp_ns = round((k + 1) * 1e9 / FPS)
            image = np.full((32, 32, 3), 30, np.uint8)
            left = round(slide[k] / 0.4 * 24)
            image[12:20, left : left + 8] = (240, 200, 120)
            bag.write("/slide/command", FLOAT, stamp_ns, classes(FLOAT)(data=float(slide[k])))
            bag.write("/gripper/command", FLOAT, stamp_ns, classes(FLOAT)(data=float(k > 2 * frames // 3)))
            bag.write("/camera/image_raw", IMAGE, stamp_ns, image_message(image, stamp_ns, "lens", classes))
