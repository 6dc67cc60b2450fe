# SPDX-License-Identifier: Apache-2.0
"""Does a backend compute what the model does? Compares it with another one: graph by graph, and over rollouts.

The reference is PyTorch in single precision with the bundle's stored weights; where there is no PyTorch, as on most robots, ONNX
Runtime on the CPU, which an export has compared with PyTorch (:mod:`longscape_ros.export.verify`). Inputs are the bundle's examples.

Letters: B batch, K context frames, T chunk frames, N future steps, H W image, C h w latent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longscape_ros.actions import encode_actions
from longscape_ros.bundle import DECODER, ENCODER, ERROR_ESTIMATOR, LENGTH_PREDICTOR, ROUTER, Bundle, denoiser
from longscape_ros.contract import NO_ERROR, Snapshot
from longscape_ros.errors import ParityError
from longscape_ros.evaluation.metrics import psnr
from longscape_ros.examples import read_examples
from longscape_ros.runtime.backend import FP16, FP32, INT8, Backend, Float32
from longscape_ros.runtime.predictor import Predictor, noise_of
from longscape_ros.runtime.quantized import FAITHFUL_DB

FRAMES = 64
"""Of a rollout."""


@dataclass(frozen=True, slots=True)
class Limit:
    """How far a backend may be from the reference.

    Args:
        relative: Norm of the difference over the norm of what is expected, of any graph's output.
        cosine: Least cosine of the two.
        rollout_psnr_db: Least PSNR of a rollout's frames. See :data:`FAITHFUL_DB`.
    """

    relative: float
    cosine: float
    rollout_psnr_db: float


LIMITS = {FP32: Limit(1e-3, 0.99999, 55.0), FP16: Limit(2e-2, 0.9995, FAITHFUL_DB), INT8: Limit(0.1, 0.995, FAITHFUL_DB)}
"""By precision."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Of a graph's output from the reference, the worst of all cases; see :class:`Limit`. ``largest``: of any number."""

    largest: float
    relative: float
    cosine: float

    @classmethod
    def of(cls, found: NDArray[Any], expected: NDArray[Any]) -> Difference:
        """Of two arrays of one shape."""
        f, e = found.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
        norms = float(np.linalg.norm(f)), float(np.linalg.norm(e))
        difference = np.abs(f - e)
        same = norms == (0.0, 0.0)
        return cls(
            largest=float(difference.max()),
            relative=0.0 if same else float(np.linalg.norm(difference)) / max(norms[1], 1e-30),
            cosine=1.0 if same else float(f @ e) / max(norms[0] * norms[1], 1e-30),
        )

    def worse(self, other: Difference) -> Difference:
        """The worse of two in each figure; what is not a number stays so."""
        return Difference(
            largest=float(np.maximum(self.largest, other.largest)),
            relative=float(np.maximum(self.relative, other.relative)),
            cosine=float(np.minimum(self.cosine, other.cosine)),
        )


@dataclass(frozen=True, slots=True)
class Parity:
    """How near a backend is to the reference.

    Args:
        backend: Its name.
        precision: What it computes in.
        reference: Name of the reference.
        graphs: Graph -> difference.
        rollout_psnr_db: Of the frames of rollouts, the lowest.
        same_experts: Share of the rollouts' chunks that went to the same expert.
    """

    backend: str
    precision: str
    reference: str
    graphs: dict[str, Difference]
    rollout_psnr_db: float
    same_experts: float

    def figures(self) -> dict[str, float]:
        """Flat, for reports: ``<backend>.<precision>.<graph>.largest`` and so on."""
        at = f"{self.backend}.{self.precision}"
        flat = {
            f"{at}.{graph}.{name}": getattr(difference, name)
            for graph, difference in self.graphs.items()
            for name in ("largest", "relative", "cosine")
        }
        return flat | {f"{at}.rollout_psnr_db": self.rollout_psnr_db, f"{at}.same_experts": self.same_experts}

    def require(self, limit: Limit | None = None) -> None:
        """Refuse a backend that computes something else.

        Args:
            limit: None: that of its precision.

        Raises:
            ParityError: it does; the text names every graph that is too far off.
        """
        limit = limit or LIMITS[self.precision]
        faults = [
            f"{graph}: relative difference {found.relative:.2g}, cosine {found.cosine:.6f}"
            for graph, found in self.graphs.items()
            if not (found.relative <= limit.relative and found.cosine >= limit.cosine)
        ]
        if not self.rollout_psnr_db >= limit.rollout_psnr_db:
            faults.append(f"rollout: PSNR {self.rollout_psnr_db:.1f} dB")
        if faults:
            raise ParityError(
                f"Got from {self.backend} in {self.precision}: {'; '.join(faults)}; expected, compared with {self.reference}, a relative "
                f"difference of at most {limit.relative:g}, a cosine of at least {limit.cosine:g} and a PSNR of at least "
                f"{limit.rollout_psnr_db:g} dB. Use another precision or another backend."
            )


def compare(bundle: Bundle, backend: Backend, reference: Backend, frames: int = FRAMES, seed: int = 0) -> Parity:
    """Compare a backend with a reference on the examples of a bundle, or on noise where it has none.

    Args:
        bundle: What both run.
        backend: To be compared.
        reference: What is right.
        frames: Of each rollout, if the examples' plans are as long.
        seed: Of the noise.
    """
    examples = read_examples(bundle) or [_noise_example(bundle, seed)]
    graphs: dict[str, Difference] = {}
    for graph, found, expected in _outputs(bundle, examples, backend, reference, seed):
        difference = Difference.of(found, expected)
        graphs[graph] = difference.worse(graphs[graph]) if graph in graphs else difference
    ratios: list[float] = []
    same: list[bool] = []
    for example in examples:
        one, other = (Predictor(bundle, b).predict(example, horizon=frames, seed=seed) for b in (backend, reference))
        ratios.append(psnr(other.frames, one.frames))
        same += [a == b for a, b in zip(one.experts, other.experts, strict=True)]
    return Parity(backend.name, backend.precision, reference.name, graphs, float(min(ratios)), float(np.mean(same)))


def _outputs(
    bundle: Bundle, examples: Sequence[Snapshot], backend: Backend, reference: Backend, seed: int
) -> Iterator[tuple[str, NDArray[Any], NDArray[Any]]]:
    """(graph, found, expected) of every graph: one example by itself, and all as a batch; every chunk length."""
    manifest = bundle.manifest
    both = (backend, reference)
    known, lookahead = manifest.context, manifest.experts.routing.lookahead
    images = np.concatenate([example.context for example in examples])
    yield ENCODER, *(b.fetch(b.encode(images)) for b in both)
    whole: Float32 = reference.fetch(reference.encode(images)).reshape(len(examples), known, *manifest.latent_shape)
    for batch in sorted({1, len(examples)}):
        context = whole[:batch]
        if ROUTER in manifest.graphs():
            coming = _features(bundle, examples[:batch], lookahead)
            yield ROUTER, *(b.route(context, coming) for b in both)
        if manifest.length_predictor:
            yield LENGTH_PREDICTOR, *(b.predict_length(context) for b in both)
        for length in manifest.segmentation.lengths:
            actions = _features(bundle, examples[:batch], length)
            noise = noise_of(seed, length).standard_normal((batch, length, *manifest.latent_shape), np.float32)
            for expert in range(manifest.experts.count):
                found, expected = (b.fetch(b.denoise(expert, context, actions, noise)) for b in both)
                yield denoiser(expert), found, expected
            if manifest.confidence is not None:
                before = np.full(batch, NO_ERROR, np.float32)
                yield ERROR_ESTIMATOR, *(b.estimate_error(context, actions, expected, before) for b in both)
            yield DECODER, *(b.start_decoding(expected.reshape(-1, *manifest.latent_shape))() / 255 for b in both)


def _features(bundle: Bundle, examples: Sequence[Snapshot], length: int) -> Float32:
    """float32 [B, K + T, F]."""
    known = bundle.manifest.context
    motions = [e.motion[np.minimum(np.arange(known + length), len(e.motion) - 1)] for e in examples]
    return encode_actions(np.stack(motions), known - 1, bundle.manifest.action_space)


def _noise_example(bundle: Bundle, seed: int) -> Snapshot:
    """Images of noise, and a plan that goes back and forth within each dimension's usual travel."""
    manifest = bundle.manifest
    random = np.random.default_rng(seed)
    steps = FRAMES + manifest.segmentation.lengths[-1]
    waves = np.sin(np.arange(manifest.context + steps)[:, None] / 10 + np.arange(len(manifest.action_space)))
    scales = np.array([dimension.scale for dimension in manifest.action_space.dimensions])
    images = random.integers(0, 256, (manifest.context, *manifest.image_size, 3), np.uint8)
    return Snapshot(0, images, waves * scales, assumed_from=steps)
