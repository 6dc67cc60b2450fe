# SPDX-License-Identifier: Apache-2.0
"""What a chunk costs: multiply-accumulates, counted and not measured, to compare models at equal inference compute."""

from __future__ import annotations

from longscape_ros.model.transformer import TransformerConfig


def denoiser_macs(config: TransformerConfig, length: int, steps: int, top: int = 1) -> int:
    """Multiply-accumulates of one chunk: its context's keys and values once, then ``steps`` evaluations.

    Args:
        config: Of the transformer.
        length: Frames of the chunk.
        steps: Network evaluations.
        top: Experts per chunk.
    """
    context, chunk = config.context // config.tubelet, length // config.tubelet  # groups
    pixels = config.tubelet * config.latent_shape[0] * config.patch**2
    reference = config.latent_shape[0] * config.patch**2
    first = _blocks(config, context, context, top) + context * config.patches * pixels * config.width
    ends = chunk * config.patches * (2 * pixels + reference) * config.width + 2 * chunk * config.width**2
    return first + steps * (_blocks(config, chunk, context + chunk, top) + ends)


def _blocks(config: TransformerConfig, groups: int, seen: int, top: int) -> int:
    """All blocks on ``groups`` groups of tokens that attend to ``seen`` groups."""
    tokens, width = groups * config.patches, config.width
    attention = tokens * (4 * width**2 + 2 * seen * config.patches * width)
    experts = top * tokens * 2 * width * config.hidden
    modulation = groups * 6 * width**2
    return config.depth * (attention + experts + modulation)
