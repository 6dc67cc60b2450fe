# SPDX-License-Identifier: Apache-2.0
"""From a snapshot to a prediction, chunk after chunk, without leaving latents in between.

Letters: K context frames, N future steps, T chunk frames, L steps the router looks ahead, A action dimensions, C h w latent, H W
image.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from longscape_ros.actions import encode_actions
from longscape_ros.bundle import ROUTER, Bundle
from longscape_ros.contract import NO_ERROR, Chunk, EndReason, Prediction, Snapshot, Status
from longscape_ros.errors import InputError
from longscape_ros.runtime.backend import Backend, Float32, Latents, Rgb
from longscape_ros.runtime.slot import BackendSlot, Opened
from longscape_ros.segmentation import expert_for, segment
from longscape_ros.sharing import begin

Cut = Callable[[NDArray[np.float64]], tuple[Chunk, ...]]
"""Motion float64 [N + 1, A] from the anchor on -> its chunks."""

Choice = Callable[[int, np.random.Generator], int]
"""(chunk length, the chunk's noise) -> expert."""

P = ParamSpec("P")
T = TypeVar("T")
SEED_BITS = 64
"""Of a seed of the noise."""

GRAPH_STAGES = ("encode", "route", "denoise", "estimate", "decode")
"""What the graphs are used for."""

OTHER_STAGES = ("inputs", "join")
"""What is done between them: waiting for a chunk's inputs, and the chunks' frames made one array."""

BESIDE_STAGES = ("cut", "features", "noise")
"""What the inputs take: chunks cut, actions, noise. It is done beside a graph where there is a CPU for it, else it is waited for."""


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


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What a chunk is denoised from.

    Args:
        chunk: Which.
        actions: Features [1, K + T, F].
        noise: [1, T, C, h, w].
        expert: Unless the router chooses one.
        coming: What the router sees [1, K + L, F]; None: it is not asked.
    """

    chunk: Chunk
    actions: Float32
    noise: Float32
    expert: int
    coming: Float32 | None


class Predictor:
    """Predicts with one bundle on one backend at a time; for one thread at a time.

    Equal snapshots, horizons and seeds give bit-equal frames on one backend with one number of threads.

    Args:
        bundle: The model.
        backend: Runs its graphs; of a slot, the one that is in it when a request begins, and the next one where that fails.
        cut: Cuts motion into chunks; None: the bundle's rule. Another one is for comparisons.
        choose: Chooses experts; None: as the bundle says. Another one is for comparisons.
    """

    def __init__(self, bundle: Bundle, backend: Backend | BackendSlot, cut: Cut | None = None, choose: Choice | None = None) -> None:
        manifest = bundle.manifest
        self.bundle = bundle
        self._slot = backend if isinstance(backend, BackendSlot) else BackendSlot(Opened(backend))
        self.model_id = bundle.model_id
        self.cut = cut or (lambda motion: segment(motion, manifest.action_space, manifest.segmentation))
        self.choose = choose

    @property
    def backend(self) -> Backend:
        """The backend in use; another one may take its place between two requests, and where a request failed."""
        return self._slot.backend

    @property
    def degraded(self) -> bool:
        """Whether a better backend should work here, and does not."""
        return self._slot.opened.degraded

    def serve(self, answer: Callable[[], T]) -> T:
        """What ``answer`` gives with :attr:`backend`; it is called again, on the next backend, where that fails.

        Raises:
            BackendError: the last backend failed.
        """
        return self._slot.serve(answer)

    def predict(
        self,
        snapshot: Snapshot,
        *,
        horizon: int | None = None,
        seed: int | None = None,
        status: Status = Status.OK,
        should_stop: Callable[[], bool] | None = None,
        show_anchor: bool = False,
    ) -> Prediction:
        """Predict the frames of the planned steps.

        Args:
            snapshot: What is known.
            horizon: Most steps to predict; None: the bundle's. The frames of a short horizon are the first of a long one.
            seed: Of the noise, below 2**64; None: from the model and the anchor.
            status: To report; DEGRADED in the place of OK if a better backend should work here, and does not.
            should_stop: Asked between chunks; True ends the prediction after the chunks so far, with status DEGRADED.
            show_anchor: Whether to decode the anchor's image too, whose latents there are anyway; see :attr:`Prediction.shown`.

        Raises:
            InputError: the snapshot does not fit the bundle, or an argument is out of range.
            BackendError: a graph failed, and there is no other backend.
        """
        clock = Stopwatch()
        steps, seed = self._steps(snapshot, horizon), self._seed(snapshot, seed)
        pieces, frames, shown = self.serve(lambda: self._frames(snapshot, steps, seed, should_stop, show_anchor, clock))
        if (len(frames) < steps or self.degraded) and status == Status.OK:
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
            shown=shown,
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

        def answer() -> tuple[list[_Piece], Float32]:
            pieces = list(self._pieces(snapshot, steps, seed, None, Stopwatch()))
            return pieces, np.concatenate([self.backend.fetch(piece.valid) for piece in pieces])

        pieces, latents = self.serve(answer)
        return Rollout(
            latents=latents,
            chunks=tuple(piece.chunk for piece in pieces),
            experts=tuple(piece.expert for piece in pieces),
            confidence=self._confidence(pieces),
            seed=seed,
        )

    def warm_up(self) -> None:
        """Run every graph once at every chunk length, so that the first prediction is as fast as the rest."""
        manifest = self.bundle.manifest
        context = self.backend.encode(np.zeros((manifest.context, *manifest.image_size, 3), np.uint8))
        self.backend.start_decoding(context[-1:])()
        motion = np.zeros((manifest.context + 1, len(manifest.action_space)))
        error = np.array([NO_ERROR], np.float32)
        if manifest.length_predictor:
            self.backend.predict_length(context[None])
        if ROUTER in manifest.graphs():
            self.backend.route(context[None], self._features(motion, 0, manifest.experts.routing.lookahead)[None])
        for length in manifest.segmentation.lengths:
            chunk = Chunk(0, length, length, EndReason.MAX_LENGTH)
            for expert in range(manifest.experts.count):
                inputs = self._inputs(motion, chunk, noise_of(0, 0), Stopwatch())
                self._denoise(context, error, replace(inputs, expert=expert, coming=None), Stopwatch())
            self.backend.start_decoding(np.zeros((length, *manifest.latent_shape), np.float32))()

    def _frames(
        self, snapshot: Snapshot, steps: int, seed: int, should_stop: Callable[[], bool] | None, show_anchor: bool, clock: Stopwatch
    ) -> tuple[list[_Piece], Rgb, Rgb | None]:
        """The chunks of ``steps`` steps, their frames, and the anchor's image if it is asked for."""
        pieces: list[_Piece] = []
        decoding: list[Callable[[], Rgb]] = []
        showing: list[Callable[[], Rgb]] = []

        def show(context: Latents) -> None:
            if show_anchor:
                showing.append(clock("decode", self.backend.start_decoding, context[-1:]))

        for piece in self._pieces(snapshot, steps, seed, should_stop, clock, show):
            pieces.append(piece)
            decoding.append(clock("decode", self.backend.start_decoding, piece.valid))
        frames = [clock("decode", finish) for finish in decoding]
        shown = clock("decode", showing[0])[0] if showing else None
        return pieces, frames[0] if len(frames) == 1 else clock("join", np.concatenate, frames), shown

    def _pieces(
        self,
        snapshot: Snapshot,
        steps: int,
        seed: int,
        should_stop: Callable[[], bool] | None,
        clock: Stopwatch,
        on_context: Callable[[Latents], None] | None = None,
    ) -> Iterator[_Piece]:
        """The chunks of ``steps`` steps, each when it is denoised; the next one's inputs are made meanwhile.

        ``on_context`` gets the latents of the context [K, C, h, w].
        """
        known = self.bundle.manifest.context

        def rule() -> tuple[Chunk, ...]:
            return clip(clock("cut", self.cut, snapshot.motion[known - 1 :]), steps)

        def ruled_inputs(ruled: Sequence[Chunk], start: int, index: int) -> _Inputs | None:
            """None: the chunk's length depends on what the one before it looks like."""
            if start >= snapshot.assumed_from and self.bundle.manifest.length_predictor:
                return None
            chunk = next(chunk for chunk in ruled if chunk.start == start)
            return self._inputs(snapshot.motion, chunk, clock("noise", noise_of, seed, index), clock)

        def first() -> tuple[tuple[Chunk, ...], _Inputs | None]:
            ruled = rule()
            return ruled, ruled_inputs(ruled, 0, 0)

        prepared = begin(first)
        context = clock("encode", self.backend.encode, snapshot.context)  # [K, C, h, w]
        if on_context is not None:
            on_context(context)
        ruled, inputs = clock("inputs", prepared)
        error = np.array([NO_ERROR], np.float32)  # of the newest context frame
        start = index = 0
        while True:
            if inputs is None:
                guess = self._guess(start, context, steps, clock)
                inputs = clock("inputs", self._inputs, snapshot.motion, guess, noise_of(seed, index), clock)
            start += inputs.chunk.length
            index += 1
            upcoming = begin(ruled_inputs, ruled, start, index) if start < steps else None
            piece = self._denoise(context, error, inputs, clock)
            yield piece
            if upcoming is None or (should_stop is not None and should_stop()):
                return
            context = follow(context, piece.latents)
            error = piece.log_error[-1:]
            inputs = clock("inputs", upcoming)

    def _confidence(self, pieces: list[_Piece]) -> Float32:
        confidence = self.bundle.manifest.confidence
        log_error = np.concatenate([piece.log_error[: piece.chunk.valid] for piece in pieces])
        return log_error if confidence is None else confidence.of(log_error)

    def _guess(self, start: int, context: Latents, steps: int, clock: Stopwatch) -> Chunk:
        """Where no command is known any more: a chunk as long as the context suggests."""
        lengths = self.bundle.manifest.segmentation.lengths
        length = lengths[int(clock("route", self.backend.predict_length, context[None])[0].argmax())]
        return Chunk(start, length, min(length, steps - start), EndReason.END_OF_PLAN)

    def _inputs(self, motion: NDArray[np.float64], chunk: Chunk, noise: np.random.Generator, clock: Stopwatch) -> _Inputs:
        """What a chunk is denoised from, but for its context; for any thread."""
        manifest = self.bundle.manifest
        expert, coming = self._chosen(chunk.length, noise), None
        if expert is None:
            coming = clock("features", self._features, motion, chunk.start, manifest.experts.routing.lookahead)[None]
        actions = clock("features", self._features, motion, chunk.start, chunk.length)[None]
        drawn: Float32 = clock("noise", noise.standard_normal, (1, chunk.length, *manifest.latent_shape), np.float32)
        return _Inputs(chunk, actions, drawn, expert or 0, coming)

    def _chosen(self, length: int, noise: np.random.Generator) -> int | None:
        """The expert of a chunk; None: the router chooses it."""
        manifest = self.bundle.manifest
        if self.choose is not None:
            return self.choose(length, noise)
        if manifest.experts.count == 1:
            return 0
        return expert_for(length, manifest.segmentation) if manifest.experts.routing.kind == "chunk_length" else None

    def _denoise(self, context: Latents, error: Float32, inputs: _Inputs, clock: Stopwatch) -> _Piece:
        """A chunk from the latents of the K frames before it."""
        chunk, expert = inputs.chunk, inputs.expert
        if inputs.coming is not None:
            expert = int(clock("route", self.backend.route, context[None], inputs.coming)[0].argmax())
        latents = clock("denoise", self.backend.denoise, expert, context[None], inputs.actions, inputs.noise)
        log_error = np.full(chunk.length, np.nan, np.float32)
        if self.bundle.manifest.confidence is not None:
            log_error = clock("estimate", self.backend.estimate_error, context[None], inputs.actions, latents, error)[0]
        return _Piece(chunk, expert, latents[0], log_error)

    def _features(self, motion: NDArray[np.float64], start: int, length: int) -> Float32:
        """float32 [K + T, F]; the last command is held beyond the plan."""
        known = self.bundle.manifest.context
        return encode_actions(held(motion, start, known + length), known - 1, self.bundle.manifest.action_space)

    def _steps(self, snapshot: Snapshot, horizon: int | None) -> int:
        manifest = self.bundle.manifest
        require_known(self.bundle, snapshot.context, snapshot.motion)
        if horizon is None:
            horizon = manifest.horizon
        if horizon < 1:
            raise InputError(f"Got horizon {horizon}, expected at least 1 step.")
        return min(horizon, snapshot.steps)

    def _seed(self, snapshot: Snapshot, seed: int | None) -> int:
        if seed is None:
            return seed_of(self.model_id, snapshot.anchor_ns)
        if not 0 <= seed < 2**SEED_BITS:
            raise InputError(f"Got seed {seed}, expected 0 ... 2**{SEED_BITS} - 1.")
        return seed


def seed_of(model_id: str, anchor_ns: int) -> int:
    """The seed that predictions from an anchor have unless they are given another."""
    digest = hashlib.sha256(f"{model_id} {anchor_ns}".encode()).digest()
    return int.from_bytes(digest[: SEED_BITS // 8], "little")


def noise_of(seed: int, chunk: int) -> np.random.Generator:
    """The noise of a chunk: a counter-based generator, the same on every machine."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, chunk], np.uint64)))


def require_known(bundle: Bundle, context: NDArray[np.uint8], motion: NDArray[np.float64]) -> None:
    """Refuse images [K, H, W, 3] and motion [R, A] that are not what a bundle takes.

    Raises:
        InputError: they are not.
    """
    manifest = bundle.manifest
    shape = (manifest.context, *manifest.image_size, 3)
    if context.shape != shape:
        raise InputError(f"Got context images {list(context.shape)}, expected {list(shape)} as bundle {bundle.model_id} says.")
    if motion.shape[1] != len(manifest.action_space):
        raise InputError(
            f"Got motion of {motion.shape[1]} dimensions, expected {len(manifest.action_space)}: {', '.join(manifest.action_space.names)}."
        )


def follow(context: Latents, latents: Latents) -> Latents:
    """Context [K, C, h, w] and what came after it [T, C, h, w] -> the context of what comes next."""
    known = len(context)
    return latents[-known:] if len(latents) >= known else np.concatenate([context[len(latents) :], latents])


def held(motion: NDArray[np.float64], start: int, rows: int) -> NDArray[np.float64]:
    """float64 [rows, A], the motion from row ``start`` on; its last row is held beyond the end."""
    return motion[np.minimum(np.arange(start, start + rows), len(motion) - 1)]


def clip(chunks: tuple[Chunk, ...], steps: int) -> tuple[Chunk, ...]:
    """Chunks of the first ``steps`` steps; the cut itself follows the whole plan."""
    return tuple(replace(c, valid=min(c.valid, steps - c.start)) for c in chunks if c.start < steps)


class Stopwatch:
    """Time spent inside the graphs, between them and beside them, by stage, and in all; and the CPU time of the thread inside them."""

    def __init__(self) -> None:
        self._begin_s = time.perf_counter()
        self._stages = dict.fromkeys((*GRAPH_STAGES, *OTHER_STAGES, *BESIDE_STAGES), 0.0)
        self._graphs_cpu_s = 0.0

    def __call__(self, stage: str, run: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        begin_s, begin_cpu_s = time.perf_counter(), time.thread_time()
        result = run(*args, **kwargs)
        self._stages[stage] += time.perf_counter() - begin_s
        if stage in GRAPH_STAGES:
            self._graphs_cpu_s += time.thread_time() - begin_cpu_s
        return result

    def timings_ms(self) -> dict[str, float]:
        """Milliseconds; of what is no graph, only what there was."""
        stages = {stage: 1e3 * seconds for stage, seconds in self._stages.items() if seconds or stage in GRAPH_STAGES}
        inside = sum(stages[stage] for stage in GRAPH_STAGES)
        total_ms = 1e3 * (time.perf_counter() - self._begin_s)
        return stages | {"graphs": inside, "graphs_cpu": 1e3 * self._graphs_cpu_s, "total": total_ms}
