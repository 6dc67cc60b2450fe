# SPDX-License-Identifier: Apache-2.0
"""What the chunk transformer sees, and what it does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from einops import rearrange
from support.toy_runs import toy_model
from torch import Tensor
from torch.nn import functional as F

from longscape_ros.model.transformer import ChunkTransformer, TransformerConfig, modulate

B, T = 2, 16


@pytest.fixture(scope="module")
def transformer() -> ChunkTransformer:
    return toy_model().denoiser.transformer


class Chunk:
    """Random inputs of one chunk."""

    def __init__(self, config: TransformerConfig, length: int = T, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.known = config.context
        self.context = torch.randn((B, config.context, *config.latent_shape), generator=generator)
        self.actions = torch.randn((B, config.context + length, config.action_features), generator=generator)
        self.noisy = torch.randn((B, length, *config.latent_shape), generator=generator)
        self.time = torch.tensor([0.25, 0.75])

    @torch.no_grad()
    def denoise(self, transformer: ChunkTransformer, expert: int = 0) -> Tensor:
        cache = transformer.encode_context(self.context, self.actions[:, : self.known], expert)
        return transformer(self.noisy, self.time, self.context[:, -1], self.actions[:, self.known :], expert, cache)


@pytest.fixture
def chunk(transformer: ChunkTransformer) -> Chunk:
    return Chunk(transformer.config)


@pytest.mark.parametrize("length", [4, 8, 32])
def test_a_chunk_of_any_length_keeps_its_shape(transformer: ChunkTransformer, length: int) -> None:
    chunk = Chunk(transformer.config, length)
    assert chunk.denoise(transformer).shape == chunk.noisy.shape


@torch.no_grad()
def joint(transformer: ChunkTransformer, chunk: Chunk, expert: int) -> Tensor:
    """The same network in one pass over all tokens, with a mask that hides the chunk from the context: no cache."""
    config = transformer.config
    before = config.context // config.tubelet
    groups = before + chunk.noisy.shape[1] // config.tubelet
    moments = transformer.moment[:groups]
    condition = torch.cat(
        (
            transformer.condition(chunk.actions[:, : chunk.known], torch.ones(B), moments[:before]),
            transformer.condition(chunk.actions[:, chunk.known :], chunk.time, moments[before:]),
        ),
        dim=1,
    )
    reference = transformer.tokens(chunk.context[:, -1:], 1).expand(-1, groups - before, -1, -1)
    known = transformer.embed_context(transformer.tokens(chunk.context, config.tubelet))
    noisy = transformer.embed_noisy(torch.cat((transformer.tokens(chunk.noisy, config.tubelet), reference), dim=-1))
    x = torch.cat((known, noisy), dim=1) + transformer.place + moments[:, None]
    first = before * config.patches
    visible = torch.ones(groups * config.patches, groups * config.patches, dtype=torch.bool)
    visible[:first, first:] = False
    for block in transformer.blocks:
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = block.modulation(condition).unsqueeze(2).chunk(6, dim=-1)
        qkv = block.qkv(modulate(block.norm(x), shift_a, scale_a))
        query, key, value = rearrange(qkv, "b g p (three n d) -> three b n (g p) d", three=3, n=config.heads)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=visible)
        x = x + gate_a * block.out(rearrange(attended, "b n (g p) d -> b g p (n d)", g=groups))
        x = x + gate_f * block.feed_forward(modulate(block.norm(x), shift_f, scale_f), expert)
    shift, scale = transformer.modulation(condition).unsqueeze(2).chunk(2, dim=-1)
    offset = transformer.project(modulate(transformer.norm(x), shift, scale))[:, before:]
    sizes = {"y": config.latent_shape[1] // config.patch, "f": config.tubelet, "p": config.patch, "q": config.patch}
    return chunk.context[:, -1:] + rearrange(offset, "b g (y x) (f c p q) -> b (g f) c (y p) (x q)", **sizes)


@pytest.mark.parametrize("expert", [0, 3])
def test_with_cached_context_it_computes_what_one_pass_computes_whose_context_does_not_see_the_chunk(
    transformer: ChunkTransformer, chunk: Chunk, expert: int
) -> None:
    torch.testing.assert_close(chunk.denoise(transformer, expert), joint(transformer, chunk, expert), atol=1e-5, rtol=1e-5)


def test_every_context_frame_matters(transformer: ChunkTransformer, chunk: Chunk) -> None:
    reference = chunk.denoise(transformer)
    for frame in range(transformer.config.context):
        other = Chunk(transformer.config)
        other.context[:, frame] += 1
        assert not torch.allclose(other.denoise(transformer), reference, atol=1e-4), frame


def test_every_frames_action_matters(transformer: ChunkTransformer, chunk: Chunk) -> None:
    reference = chunk.denoise(transformer)
    for frame in range(transformer.config.context + T):
        other = Chunk(transformer.config)
        other.actions[:, frame] += 1
        assert not torch.allclose(other.denoise(transformer), reference, atol=1e-4), frame


def test_the_order_of_the_actions_matters(transformer: ChunkTransformer, chunk: Chunk) -> None:
    other = Chunk(transformer.config)
    other.actions[:, -2:] = chunk.actions[:, -2:].flip(1)
    assert not torch.allclose(other.denoise(transformer), chunk.denoise(transformer), atol=1e-4)


def test_every_frame_of_the_chunk_sees_every_other(transformer: ChunkTransformer, chunk: Chunk) -> None:
    reference = chunk.denoise(transformer)
    for frame in (0, T - 1):
        other = Chunk(transformer.config)
        other.noisy[:, frame] += 1
        changed = (other.denoise(transformer) - reference).abs().amax(dim=(0, 2, 3, 4))  # [T]
        assert (changed > 1e-5).all()


def test_the_diffusion_time_matters(transformer: ChunkTransformer, chunk: Chunk) -> None:
    other = Chunk(transformer.config)
    other.time = torch.tensor([0.25, 0.8])
    difference = (other.denoise(transformer) - chunk.denoise(transformer)).abs().amax(dim=(1, 2, 3, 4))  # [B]
    assert difference[0] == 0
    assert difference[1] > 1e-4


def test_the_choice_of_the_expert_matters(transformer: ChunkTransformer, chunk: Chunk) -> None:
    results = [chunk.denoise(transformer, expert) for expert in range(transformer.config.experts)]
    for expert, result in enumerate(results[1:], 1):
        assert not torch.allclose(result, results[0], atol=1e-4), expert


def test_samples_of_a_batch_do_not_see_each_other(transformer: ChunkTransformer, chunk: Chunk) -> None:
    other = Chunk(transformer.config)
    for tensor in (other.context, other.actions, other.noisy):
        tensor[1] += 1
    torch.testing.assert_close(other.denoise(transformer)[0], chunk.denoise(transformer)[0])


def test_before_training_the_prediction_is_that_nothing_moves(transformer: ChunkTransformer, chunk: Chunk) -> None:
    fresh = ChunkTransformer(transformer.config)
    torch.testing.assert_close(chunk.denoise(fresh), chunk.context[:, -1:].expand_as(chunk.noisy))


@torch.no_grad()
def test_tokens_are_patches_of_consecutive_frames(transformer: ChunkTransformer) -> None:
    channels, height, width = transformer.config.latent_shape
    tubelet, patch = transformer.config.tubelet, transformer.config.patch
    latents = torch.arange(8 * channels * height * width).reshape(1, 8, channels, height, width)
    tokens = transformer.tokens(latents, tubelet)
    assert tokens.shape == (1, 8 // tubelet, transformer.config.patches, tubelet * channels * patch**2)
    second = latents[0, tubelet : 2 * tubelet, :, :patch, patch : 2 * patch]  # second group, second patch of the first row
    torch.testing.assert_close(tokens[0, 1, 1], second.flatten())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch": 3}, "patch 3, expected a patch that divides"),
        ({"context": 6}, "6 context frames.*expected a tubelet that divides both"),
        ({"max_length": 30}, "chunks up to 30"),
        ({"heads": 3}, "width 32 and 3 heads"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(transformer: ChunkTransformer, changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(transformer.config, **changes)
