# SPDX-License-Identifier: Apache-2.0
"""What LongScape's own setting would take, beside this bundle: arithmetic from what is published, not a measurement.

LongScape (arXiv 2509.21790) denoises a chunk with one of four transformers of 5.57 thousand million parameters each, in 50 steps, each
twice for classifier-free guidance, at 10 frames per second, and has chunks of 8, 16, 24 or 32 frames; four frames are one latent frame.

Assumed, because it is not published or depends on the images: that the 5.57 thousand million parameters are one expert's and all take
part in a step; that a latent frame has 1350 tokens (480 x 720 pixels, eight times smaller and two by two to a token); that a chunk goes
through together with one latent frame of context. A step then takes one multiply-accumulate per parameter and token. Left out, in
LongScape's favour: attention between tokens, the autoencoder, the text encoder and the router.
"""

from __future__ import annotations

from longscape_ros.bench import work
from longscape_ros.bundle import Bundle

PARAMETERS = 5.57e9
STEPS = 50
EVALUATIONS = 2
"""Per step: with and without the condition."""

FPS = 10.0
FRAMES_PER_LATENT = 4
TOKENS_PER_LATENT = 480 // 16 * (720 // 16)
CONTEXT_LATENTS = 1

FLOPS_PER_MAC = 2


def chunk_flops(frames: int) -> float:
    """Floating point operations of a chunk, in LongScape's setting."""
    tokens = (frames / FRAMES_PER_LATENT + CONTEXT_LATENTS) * TOKENS_PER_LATENT
    return FLOPS_PER_MAC * PARAMETERS * tokens * STEPS * EVALUATIONS


def arithmetic(bundle: Bundle, peak_gmacs: float | None) -> dict[str, float]:
    """Both settings, per chunk and per second of video.

    Args:
        bundle: The other setting; its autoencoder is left out too.
        peak_gmacs: What this machine does at best, in 10**9 multiply-accumulates per second; None: unknown.

    Returns:
        - ``macs.denoiser.<T>``: this bundle's, counted; ``macs.denoiser.fixed``: of these, what does not grow with the chunk (the
          context, mostly); ``macs.encoder``, ``macs.decoder``: per frame;
        - ``arithmetic.longscape.gflops.<T>`` and ``arithmetic.bundle.gflops.<T>``: 10**9 operations of a chunk of T frames;
          ``arithmetic.<which>.gflops_per_s``: of a second of video in chunks of the longest kind;
        - ``arithmetic.<which>.s_per_s``: seconds that a second of video would take at this machine's peak.
    """
    manifest = bundle.manifest
    lengths = manifest.segmentation.lengths
    macs = {length: work.denoiser_macs(bundle, length) for length in lengths}
    encoder, decoder = work.image_macs(bundle)
    figures = {f"macs.denoiser.{length}": float(count) for length, count in macs.items()}
    figures |= {"macs.denoiser.fixed": float(work.fixed_macs(bundle)), "macs.encoder": float(encoder), "macs.decoder": float(decoder)}
    longest = lengths[-1]
    rates = {"longscape": (chunk_flops, FPS), "bundle": (lambda length: FLOPS_PER_MAC * float(macs[length]), manifest.fps)}
    for which, (flops, fps) in rates.items():
        figures |= {f"arithmetic.{which}.gflops.{length}": flops(length) / 1e9 for length in lengths}
        per_second = flops(longest) / longest * fps
        figures[f"arithmetic.{which}.gflops_per_s"] = per_second / 1e9
        if peak_gmacs:
            figures[f"arithmetic.{which}.s_per_s"] = per_second / (FLOPS_PER_MAC * peak_gmacs * 1e9)
    return figures
