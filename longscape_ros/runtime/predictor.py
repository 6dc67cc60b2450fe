# SPDX-License-Identifier: Apache-2.0
"""From a snapshot to a prediction, chunk after chunk, without leaving latents in between.

Letters: K context frames, N future steps, T chunk frames, L steps the router looks ahead, A action dimensions, C h w latent, H W
image.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from longscape_ros.actions import encode_actions
from longscape_ros.bundle import ROUTER, Bundle
from longscape_ros.contract import NO_ERROR, Chunk, EndReason, Prediction, Snapshot, Status
from longscape_ros.errors import InputError
from longscape_ros.runtime.backend import Backend, Float32, Latents, Rgb
from longscape_ros.segmentation import expert_for, segment

Cut = Callable[[NDArray[np.float64]], tuple[Chunk, ...]]
"""Motion float64 [N + 1, A] from the anchor on -> its chunks."""

Choice = Callable[[int, np.random.Generator], int]
"""(chunk length, the chunk's noise) -> expert."""

P = ParamSpec("P")
T = TypeVar("T")
_SEED_BITS = 64


@dataclass(frozen=True, slots=True)
class Rollout:
    """A future in latents.

    Args:
        latents: float32 [N, C, h, w] on the host, only frames that are asked for and planned.
        chunks: The cut of the N steps.
        experts: The expert that denoised each chunk.
        confidence: float32 [N]; NaN where the bundle has no estimator.
        seed: Of the noise.
    """

    latents: Float32
    chunks: tuple[Chunk, ...]
    experts: tuple[int, ...]
    confidence: Float32
    seed: int


@dataclass(frozen=True, slots=True)
class _Piece:
    """A denoised chunk: latents [T, C, h, w] where the backend keeps them, and log_error [T], NaN where nothing estimates it."""

    chunk: Chunk
    expert: int
    latents: Latents
    log_error: Float32

    @property
    def valid(self) -> Latents:
        """Latents of the frames that are asked for."""
        return self.latents[: self.chunk.valid]


class Predictor:
    """Predicts with one bundle on one backend; for one thread at a time.

    Equal snapshots, horizons and seeds give bit-equal frames on one backend with one number of threads.

    Args:
        bundle: The model.
        backend: Runs its graphs.
        cut: Cuts motion into chunks; None: the bundle's rule. Another one is for comparisons.
        choose: Chooses experts; None: as the bundle says. Another one is for comparisons.
    """

    def __init__(self, bundle: Bundle, backend: Backend, cut: Cut | None = None, choose: Choice | None = None) -> None:
        manifest = bundle.manifest
        self.bundle = bundle
        self.backend = backend
        self.model_id = bundle.model_id
        self._cut = cut or (lambda motion: segment(motion, manifest.action_space, manifest.segmentation))
        self._choose = choose

    def predict(
        self,
        snapshot: Snapshot,
        *,
        horizon: int | None = None,
        seed: int | None = None,
        status: Status = Status.OK,
        should_stop: Callable[[], bool] | None = None,
    ) -> Prediction:
        """Predict the frames of the planned steps.

        Args:
            snapshot: What is known.
            horizon: Most steps to predict; None: the bundle's. The frames of a short horizon are the first of a long one.
            seed: Of the noise, below 2**64; None: from the model and the anchor.
            status: To report.
            should_stop: Asked between chunks; True ends the prediction after the chunks so far, with status DEGRADED.

        Raises:
            InputError: the snapshot does not fit the bundle, or an argument is out of range.
            BackendError: a graph failed.
        """
        clock = _Stopwatch()
        steps, seed = self._steps(snapshot, horizon), self._seed(snapshot, seed)
        pieces: list[_Piece] = []
        decoding: list[Callable[[], Rgb]] = []
        for piece in self._pieces(snapshot, steps, seed, should_stop, clock):
            pieces.append(piece)
            decoding.append(clock("decode", self.backend.start_decoding, piece.valid))
        frames = np.concatenate([clock("decode", finish) for finish in decoding])
        if len(frames) < steps and status == Status.OK:
            status = Status.DEGRADED
        return Prediction(
            anchor_ns=snapshot.anchor_ns,
            fps=self.bundle.manifest.fps,
            frames=frames,
            chunks=tuple(piece.chunk for piece in pieces),
            experts=tuple(piece.expert for piece in pieces),
            assumed_from=min(snapshot.assumed_from, len(frames)),
            confidence=self._confidence(pieces),
            seed=seed,
            model_id=self.model_id,
            status=status,
            plan_stamp_ns=snapshot.plan_stamp_ns,
            timings_ms=clock.timings_ms(),
            frame_id=snapshot.frame_id,
        )

    def roll_out(
        self,
        snapshot: Snapshot,
        *,
        horizon: int | None = None,
        seed: int | None = None,
    ) -> Rollout:
        """Like :meth:`predict`, without decoding."""
        steps, seed = self._steps(snapshot, horizon), self._seed(snapshot, seed)
        pieces = list(self._pieces(snapshot, steps, seed, None, _Stopwatch()))
        return Rollout(
            latents=np.concatenate([self.backend.fetch(piece.valid) for piece in pieces]),
            chunks=tuple(piece.chunk for piece in pieces),
            experts=tuple(piece.expert for piece in pieces),
            confidence=self._confidence(pieces),
            seed=seed,
        )

    def warm_up(self) -> None:
        """Run every graph once at every chunk length, so that the first prediction is as fast as the rest."""
        manifest = self.bundle.manifest
        context = self.backend.encode(np.zeros((manifest.context, *manifest.image_size, 3), np.uint8))
        motion = np.zeros((manifest.context + 1, len(manifest.action_space)))
        error = np.array([NO_ERROR], np.float32)
        if manifest.length_predictor:
            self.backend.predict_length(context[None])
        if ROUTER in manifest.graphs():
            self.backend.route(context[None], self._features(motion, 0, manifest.experts.routing.lookahead)[None])
        for length in manifest.segmentation.lengths:
            chunk = Chunk(0, length, length, EndReason.MAX_LENGTH)
            for expert in range(manifest.experts.count):
                self._denoise(context, error, motion, chunk, noise_of(0, 0), _Stopwatch(), expert)
            self.backend.start_decoding(np.zeros((length, *manifest.latent_shape), np.float32))()

    def _pieces(
        self, snapshot: Snapshot, steps: int, seed: int, should_stop: Callable[[], bool] | None, clock: _Stopwatch
    ) -> Iterator[_Piece]:
        """The chunks of ``steps`` steps, each when it is denoised."""
        manifest = self.bundle.manifest
        context = clock("encode", self.backend.encode, snapshot.context)  # [K, C, h, w]
        ruled = clip(self._cut(snapshot.motion[manifest.context - 1 :]), steps)
        error = np.array([NO_ERROR], np.float32)  # of the newest context frame
        start = index = 0
        while start < steps and not (index and should_stop is not None and should_stop()):
            chunk = self._next_chunk(ruled, start, context, snapshot, steps, clock)
            piece = self._denoise(context, error, snapshot.motion, chunk, noise_of(seed, index), clock)
            yield piece
            context = follow(context, piece.latents)
            error = piece.log_error[-1:]
            start += chunk.length
            index += 1

    def _confidence(self, pieces: list[_Piece]) -> Float32:
        confidence = self.bundle.manifest.confidence
        log_error = np.concatenate([piece.log_error[: piece.chunk.valid] for piece in pieces])
        return log_error if confidence is None else confidence.of(log_error)

    def _next_chunk(
        self, ruled: tuple[Chunk, ...], start: int, context: Latents, snapshot: Snapshot, steps: int, clock: _Stopwatch
    ) -> Chunk:
        """The rule's chunk; where no command is known any more, one as long as the context suggests, if the bundle can tell."""
        manifest = self.bundle.manifest
        if start < snapshot.assumed_from or not manifest.length_predictor:
            return next(chunk for chunk in ruled if chunk.start == start)
        lengths = manifest.segmentation.lengths
        length = lengths[int(clock("route", self.backend.predict_length, context[None])[0].argmax())]
        return Chunk(start, length, min(length, steps - start), EndReason.END_OF_PLAN)

    def _denoise(
        self,
        context: Latents,
        error: Float32,
        motion: NDArray[np.float64],
        chunk: Chunk,
        noise: np.random.Generator,
        clock: _Stopwatch,
        expert: int | None = None,
    ) -> _Piece:
        """A chunk from the latents of the K frames before it."""
        manifest = self.bundle.manifest
        if expert is None:
            expert = self._expert(context, motion, chunk, noise, clock)
        actions = self._features(motion, chunk.start, chunk.length)[None]
        drawn = noise.standard_normal((1, chunk.length, *manifest.latent_shape), np.float32)
        latents = clock("denoise", self.backend.denoise, expert, context[None], actions, drawn)
        log_error = np.full(chunk.length, np.nan, np.float32)
        if manifest.confidence is not None:
            log_error = clock("estimate", self.backend.estimate_error, context[None], actions, latents, error)[0]
        return _Piece(chunk, expert, latents[0], log_error)

    def _expert(self, context: Latents, motion: NDArray[np.float64], chunk: Chunk, noise: np.random.Generator, clock: _Stopwatch) -> int:
        """Which expert a chunk goes to."""
        manifest = self.bundle.manifest
        if self._choose is not None:
            return self._choose(chunk.length, noise)
        if manifest.experts.count == 1:
            return 0
        routing = manifest.experts.routing
        if routing.kind == "chunk_length":
            return expert_for(chunk.length, manifest.segmentation)
        coming = self._features(motion, chunk.start, routing.lookahead)
        return int(clock("route", self.backend.route, context[None], coming[None])[0].argmax())

    def _features(self, motion: NDArray[np.float64], start: int, length: int) -> Float32:
        """float32 [K + T, F]; the last command is held beyond the plan."""
        known = self.bundle.manifest.context
        rows = np.minimum(np.arange(start, start + known + length), len(motion) - 1)
        return encode_actions(motion[rows], known - 1, self.bundle.manifest.action_space)

    def _steps(self, snapshot: Snapshot, horizon: int | None) -> int:
        manifest = self.bundle.manifest
        shape = (manifest.context, *manifest.image_size, 3)
        if snapshot.context.shape != shape:
            raise InputError(f"Got context images {list(snapshot.context.shape)}, expected {list(shape)} as bundle {self.model_id} says.")
        if snapshot.motion.shape[1] != len(manifest.action_space):
            raise InputError(
                f"Got motion of {snapshot.motion.shape[1]} dimensions, expected {len(manifest.action_space)}: "
                f"{', '.join(manifest.action_space.names)}."
            )
        if horizon is None:
            horizon = manifest.horizon
        if horizon < 1:
            raise InputError(f"Got horizon {horizon}, expected at least 1 step.")
        return min(horizon, snapshot.steps)

    def _seed(self, snapshot: Snapshot, seed: int | None) -> int:
        if seed is None:
            digest = hashlib.sha256(f"{self.model_id} {snapshot.anchor_ns}".encode()).digest()
            return int.from_bytes(digest[: _SEED_BITS // 8], "little")
        if not 0 <= seed < 2**_SEED_BITS:
            raise InputError(f"Got seed {seed}, expected 0 ... 2**{_SEED_BITS} - 1.")
        return seed


def noise_of(seed: int, chunk: int) -> np.random.Generator:
    """The noise of a chunk: a counter-based generator, the same on every machine."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, chunk], np.uint64)))


def follow(context: Latents, latents: Latents) -> Latents:
    """Context [K, C, h, w] and what came after it [T, C, h, w] -> the context of what comes next."""
    known = len(context)
    return latents[-known:] if len(latents) >= known else np.concatenate([context[len(latents) :], latents])


def clip(chunks: tuple[Chunk, ...], steps: int) -> tuple[Chunk, ...]:
    """Chunks of the first ``steps`` steps; the cut itself follows the whole plan."""
    return tuple(replace(c, valid=min(c.valid, steps - c.start)) for c in chunks if c.start < steps)


class _Stopwatch:
    """Time spent inside the graphs, by stage, and in all."""

    def __init__(self) -> None:
        self._begin = time.perf_counter()
        self._stages = dict.fromkeys(("encode", "route", "denoise", "estimate", "decode"), 0.0)

    def __call__(self, stage: str, run: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        begin = time.perf_counter()
        result = run(*args, **kwargs)
        self._stages[stage] += time.perf_counter() - begin
        return result

    def timings_ms(self) -> dict[str, float]:
        stages = {stage: 1e3 * seconds for stage, seconds in self._stages.items()}
        return stages | {"graphs": sum(stages.values()), "total": 1e3 * (time.perf_counter() - self._begin)}
