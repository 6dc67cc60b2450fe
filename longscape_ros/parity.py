# SPDX-License-Identifier: Apache-2.0
"""Does a backend compute what the model does? Compares it with another one: graph by graph, and over rollouts.

The reference is PyTorch in single precision with the bundle's stored weights; where there is no PyTorch, as on most robots, ONNX
Runtime on the CPU, which an export has compared with PyTorch (:mod:`longscape_ros.export.verify`). Inputs are the bundle's examples.

Letters: B batch, K context frames, T chunk frames, N future steps, H W image, C h w latent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longscape_ros.actions import encode_actions
from longscape_ros.bundle import DECODER, ENCODER, ERROR_ESTIMATOR, LENGTH_PREDICTOR, ROUTER, Bundle, denoiser
from longscape_ros.contract import NO_ERROR, Snapshot
from longscape_ros.errors import BackendError, LongscapeError, ParityError
from longscape_ros.evaluation.metrics import psnr
from longscape_ros.examples import read_examples
from longscape_ros.runtime.backend import AUTO, FP16, FP32, INT8, Backend, Float32
from longscape_ros.runtime.backends import Ladder, create_backend
from longscape_ros.runtime.kinds import Kind, Wanted, all_kinds
from longscape_ros.runtime.predictor import Predictor, held, noise_of
from longscape_ros.runtime.quantized import FAITHFUL_DB

FRAMES = 64
"""Of a rollout."""

_LOG = logging.getLogger(__name__)

Both = Callable[[Callable[[Backend], NDArray[Any]]], tuple[NDArray[Any], NDArray[Any]]]
"""Gives what a backend and the reference make of the same."""


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


def verify(
    bundle: Bundle,
    backend: str = AUTO,
    precision: str = AUTO,
    reference: str = AUTO,
    progress: Callable[[float, float, str], None] | None = None,
    kinds: Sequence[Kind] | None = None,
) -> tuple[dict[str, float | str], list[ParityError]]:
    """Compare the backends that work here, in every precision that they have.

    Args:
        bundle: What all run.
        backend: One to compare; ``auto``: all.
        precision: One to compare in; ``auto``: all.
        reference: A backend in single precision; ``auto``: torch, or where that cannot run the bundle ``ort_cpu``.
        progress: Told (comparisons done, their number, the next one).
        kinds: In the place of the package's; for tests.

    Returns:
        :meth:`Parity.figures` of each, ``meta.<backend>[.<precision>]`` where one was not run, and why; and what is too far off.

    Raises:
        BackendError: nothing could be compared.
    """
    kinds = kinds or all_kinds()
    absent = {kind.name: kind.why_not() for kind in kinds}
    exact = _reference(bundle, reference)
    figures: dict[str, float | str] = {"meta.model_id": bundle.model_id, "meta.reference": exact.name}
    faults: list[ParityError] = []
    tried = [
        (kind, each)
        for kind in kinds
        for each in kind.precisions
        if backend in (AUTO, kind.name) and precision in (AUTO, each) and (kind.name, each) != (exact.name, FP32)
    ]
    compared = 0
    for number, (kind, each) in enumerate(tried):
        if progress:
            progress(number, len(tried), f"{kind.name} {each}")
        try:
            if absent[kind.name]:
                raise BackendError(absent[kind.name])
            ladder = Ladder(bundle, Wanted(kind.name, each), kinds)
            if ladder.lacks_engines:
                ladder.build()
            opened = ladder.open_best().backend
        except LongscapeError as error:
            figures[f"meta.{kind.name}.{each}"] = f"not run: {error}"
            continue
        parity = compare(bundle, opened, exact)
        opened.close()
        compared += 1
        figures |= parity.figures()
        try:
            parity.require()
        except ParityError as error:
            faults.append(error)
    exact.close()
    if not compared:
        reasons = "; ".join(f"{name.removeprefix('meta.')} {text}" for name, text in figures.items() if str(text).startswith("not run"))
        raise BackendError(f"Got nothing to compare with {exact.name} ({reasons or 'no such backend or precision'}); name others.")
    if progress:
        progress(len(tried), len(tried), "")
    return figures, faults


def _reference(bundle: Bundle, name: str) -> Backend:
    if name != AUTO:
        return create_backend(bundle, name, precision=FP32)
    try:
        return create_backend(bundle, "torch", precision=FP32)
    except LongscapeError as error:
        _LOG.warning("Backends are compared with ort_cpu, for torch cannot be had here: %s", error)
        return create_backend(bundle, "ort_cpu", precision=FP32)


def compare(bundle: Bundle, backend: Backend, reference: Backend, frames: int = FRAMES, seed: int = 0) -> Parity:
    """Compare a backend with a reference on the examples of a bundle, or on noise where it has none.

    Args:
        bundle: What both run.
        backend: To be compared.
        reference: What is right.
        frames: Of each rollout, if the examples' plans are as long.
        seed: Of the noise.
    """
    examples = _examples(bundle, seed)
    graphs: dict[str, Difference] = {}
    for graph, found, expected in _outputs(bundle, examples, backend, reference, seed):
        difference = Difference.of(found, expected)
        graphs[graph] = difference.worse(graphs[graph]) if graph in graphs else difference
    psnr_db, same = compare_rollouts(bundle, backend, reference, frames, seed)
    return Parity(backend.name, backend.precision, reference.name, graphs, psnr_db, same)


def compare_rollouts(bundle: Bundle, backend: Backend, reference: Backend, frames: int = FRAMES, seed: int = 0) -> tuple[float, float]:
    """PSNR of the frames of rollouts, the lowest, and the share of chunks that went to the same expert; see :func:`compare`."""
    ratios: list[float] = []
    same: list[bool] = []
    for example in _examples(bundle, seed):
        one, other = (Predictor(bundle, b).predict(example, horizon=frames, seed=seed) for b in (backend, reference))
        ratios.append(psnr(other.frames, one.frames))
        same += [a == b for a, b in zip(one.experts, other.experts, strict=True)]
    return float(min(ratios)), float(np.mean(same))


def _outputs(
    bundle: Bundle, examples: Sequence[Snapshot], backend: Backend, reference: Backend, seed: int
) -> Iterator[tuple[str, NDArray[Any], NDArray[Any]]]:
    """(graph, found, expected) of every graph: one example by itself, and all as a batch; every chunk length."""
    manifest = bundle.manifest

    def both(run: Callable[[Backend], NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
        return run(backend), run(reference)

    images = np.concatenate([example.context for example in examples])
    yield ENCODER, *both(lambda b: b.fetch(b.encode(images)))
    whole: Float32 = reference.fetch(reference.encode(images)).reshape(len(examples), manifest.context, *manifest.latent_shape)
    for batch in sorted({1, len(examples)}):
        yield from _outputs_of_batch(bundle, examples[:batch], whole[:batch], both, seed)


def _outputs_of_batch(
    bundle: Bundle, examples: Sequence[Snapshot], context: Float32, both: Both, seed: int
) -> Iterator[tuple[str, NDArray[Any], NDArray[Any]]]:
    """The same for the graphs that see a context [B, K, C, h, w]."""
    manifest = bundle.manifest
    batch = len(examples)
    if ROUTER in manifest.graphs():
        coming = _features(bundle, examples, manifest.experts.routing.lookahead)
        yield ROUTER, *both(lambda b: b.route(context, coming))
    if manifest.length_predictor:
        yield LENGTH_PREDICTOR, *both(lambda b: b.predict_length(context))
    for length in manifest.segmentation.lengths:
        actions = _features(bundle, examples, length)
        noise = noise_of(seed, length).standard_normal((batch, length, *manifest.latent_shape), np.float32)
        for expert in range(manifest.experts.count):
            found, expected = both(partial(_denoise, expert, context, actions, noise))
            yield denoiser(expert), found, expected
        yield DECODER, *both(partial(_decode, expected.reshape(-1, *manifest.latent_shape)))
        if manifest.confidence is not None:
            yield ERROR_ESTIMATOR, *both(partial(_estimate, context, actions, expected))


def _denoise(expert: int, context: Float32, actions: Float32, noise: Float32, backend: Backend) -> Float32:
    return backend.fetch(backend.denoise(expert, context, actions, noise))


def _decode(latents: Float32, backend: Backend) -> NDArray[np.float64]:
    return backend.start_decoding(latents)() / 255


def _estimate(context: Float32, actions: Float32, latents: Float32, backend: Backend) -> Float32:
    return backend.estimate_error(context, actions, latents, np.full(len(context), NO_ERROR, np.float32))


def _features(bundle: Bundle, examples: Sequence[Snapshot], length: int) -> Float32:
    """float32 [B, K + T, F]."""
    known = bundle.manifest.context
    motions = [held(e.motion, 0, known + length) for e in examples]
    return encode_actions(np.stack(motions), known - 1, bundle.manifest.action_space)


def _examples(bundle: Bundle, seed: int) -> list[Snapshot]:
    return read_examples(bundle) or [_noise_example(bundle, seed)]


def _noise_example(bundle: Bundle, seed: int) -> Snapshot:
    """Images of noise, and a plan that goes back and forth within each dimension's usual travel."""
    manifest = bundle.manifest
    random = np.random.default_rng(seed)
    steps = FRAMES + manifest.segmentation.lengths[-1]
    waves = np.sin(np.arange(manifest.context + steps)[:, None] / 10 + np.arange(len(manifest.action_space)))
    scales = np.array([dimension.scale for dimension in manifest.action_space.dimensions])
    images = random.integers(0, 256, (manifest.context, *manifest.image_size, 3), np.uint8)
    return Snapshot(0, images, waves * scales, assumed_from=steps)
