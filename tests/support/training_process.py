# SPDX-License-Identifier: Apache-2.0
"""``python training_process.py bags run``: one of the processes of a training, as torchrun starts them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from longscape_ros.model.recipes import RECIPES, Recipe, toy
from longscape_ros.model.train import train


def two_stages() -> Recipe:
    """The recipe ``toy`` without its last stages, decided by steps alone, and most of it with a router that chooses."""
    recipe = toy()
    stages: dict[str, Any] = {
        "autoencoder": replace(recipe.autoencoder, minutes=600, steps=20),
        "denoiser": replace(recipe.denoiser, minutes=600, steps=20),
    }
    return replace(recipe, **stages, distil=None, heads=None, dense=0.1, by_length=0.2, own_from=0.3)


def main(bags: str, run: str) -> None:
    """Train in single precision: what processes do differently is rounding, which would be coarse in bfloat16."""
    torch.set_num_threads(1)
    RECIPES["toy"] = two_stages
    train(Path(bags), "toy", Path(run), device="cpu", precision="float32")


if __name__ == "__main__":
    main(*sys.argv[1:])
