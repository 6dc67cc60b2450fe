# SPDX-License-Identifier: Apache-2.0
"""Many futures at once, chunk after chunk in latents: chunks of equal length and expert are denoised in one batch.

Futures that came the same way share a :class:`State`; while their next chunks are equal too (length, expert and actions), these are
denoised once for all of them. The noise depends on the seed and on how many chunks came before, not on the future.

Letters: B batch, K context frames, N steps of a future, T chunk frames, L steps the router looks ahead, A action dimensions,
F action features, C h w latent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from longscape_ros.actions import encode_actions
from longscape_ros.bundle import Manifest
from longscape_ros.contract import NO_ERROR, Chunk, EndReason
from longscape_ros.runtime.backend import Backend, Float32, Latents
from longscape_ros.runtime.predictor import Choice, Stopwatch, follow, held, noise_of
from longscape_ros.segmentation import expert_for

T = TypeVar("T")


@dataclass(frozen=True, eq=False, slots=True)
class State:
    """Where futures stand before their next chunk.

    Args:
        context: Latents [K, C, h, w].
        error: The estimate of the newest context frame, a natural logarithm.
        step: Grid steps from the anchor to here.
        chunks: Chunks so far.
    """

    context: Latents
    error: float = NO_ERROR
    step: int = 0
    chunks: int = 0


@dataclass(frozen=True, eq=False, slots=True)
class Piece:
    """A chunk of a future, denoised: row ``row`` of the roller's batch ``batch``, and log_error [T], NaN where nothing estimates it."""

    chunk: Chunk
    expert: int
    batch: int
    row: int
    log_error: Float32


@dataclass(eq=False, slots=True)
class Future:
    """One future on its way.

    Args:
        motion: float64 [K + N, A], see :class:`~longscape_ros.contract.Snapshot`.
        ruled: The rule's chunks, their starts counted from the anchor.
        steps: Steps from the anchor to where it ends.
        assumed_from: First step from the anchor whose action is assumed.
        state: Where it stands.
        pieces: What is done of it.
    """

    motion: NDArray[np.float64]
    ruled: tuple[Chunk, ...]
    steps: int
    assumed_from: int
    state: State
    pieces: list[Piece] = field(default_factory=list)

    @property
    def done(self) -> bool:
        """Whether it has come to its end."""
        return self.state.step >= self.steps


@dataclass(eq=False, slots=True)
class _Job:
    """A chunk to denoise: features [K + T, F], and the futures that it belongs to with what each keeps of it; rank: the first one's."""

    state: State
    length: int
    expert: int
    actions: Float32
    rank: int
    members: list[tuple[Future, Chunk]] = field(default_factory=list)


class Roller:
    """Rolls futures out on one backend.

    What comes first in the order that the futures are given in is finished first: each batch takes the chunk that the first
    unfinished future waits for, and as many others of its length and expert as fit. So a deadline leaves some futures finished
    instead of all half done, and in all it takes hardly more batches than going on with all of them evenly.

    Args:
        backend: Runs the graphs.
        manifest: The bundle's.
        seed: Of the noise.
        most: Most rows in a batch.
        choose: Chooses experts; None: as the bundle says.
        clock: Measures the graphs.

    Attributes:
        batches: Latents [B, T, C, h, w], as the backend keeps them.
        denoised: Chunks denoised: rows of all batches.
    """

    def __init__(self, backend: Backend, manifest: Manifest, seed: int, most: int, choose: Choice | None, clock: Stopwatch) -> None:
        self.batches: list[Latents] = []
        self.denoised = 0
        self._backend = backend
        self._manifest = manifest
        self._seed = seed
        self._most = most
        self._choose = choose
        self._clock = clock
        self._chances: dict[tuple[int, int], tuple[int, Float32]] = {}

    def roll(self, futures: Sequence[Future], why_stop: Callable[[], str]) -> str:
        """Roll futures out to their ends.

        Args:
            futures: The first ones are finished first.
            why_stop: Asked before each batch; anything but an empty text ends it.

        Returns:
            Why it was ended; empty: all futures are done.

        Raises:
            BackendError: a graph failed.
        """
        ranks = {id(future): rank for rank, future in enumerate(futures)}
        waiting: dict[tuple[int, int], list[_Job]] = {}
        unfinished = [future for future in futures if not future.done]
        while unfinished or waiting:
            reason = why_stop()
            if reason:
                return reason
            for job in self._jobs(unfinished, ranks):
                waiting.setdefault((job.length, job.expert), []).append(job)
            jobs = self._next(waiting)
            self._denoise(jobs)
            unfinished = [future for job in jobs for future, _ in job.members if not future.done]
        return ""

    def _next(self, waiting: dict[tuple[int, int], list[_Job]]) -> list[_Job]:
        """The jobs of the next batch, taken out of those that wait."""
        kind = min(waiting, key=lambda other: min(job.rank for job in waiting[other]))
        ordered = sorted(waiting.pop(kind), key=lambda job: job.rank)
        if ordered[self._most :]:
            waiting[kind] = ordered[self._most :]
        return ordered[: self._most]

    def _jobs(self, futures: list[Future], ranks: dict[int, int]) -> list[_Job]:
        """The next chunk of each future; equal ones are one job."""
        chunks = self._next_chunks(futures)
        experts = self._experts(futures, chunks)
        actions = self._features(futures, [chunk.length for chunk in chunks])
        jobs: dict[tuple[int, int, int, bytes], _Job] = {}
        for future, chunk, expert, features in zip(futures, chunks, experts, actions, strict=True):
            key = (id(future.state), chunk.length, expert, features.tobytes())
            job = jobs.setdefault(key, _Job(future.state, chunk.length, expert, features, ranks[id(future)]))
            job.members.append((future, chunk))
        return list(jobs.values())

    def _next_chunks(self, futures: list[Future]) -> list[Chunk]:
        """The rule's chunks; where no command is known any more, as long as the context suggests, if the bundle can tell."""
        guesses = [future for future in futures if self._manifest.length_predictor and future.state.step >= future.assumed_from]
        states = list({id(future.state): future.state for future in guesses}.values())
        lengths: dict[int, int] = {}
        for some in _portions(states, self._most):
            contexts = np.concatenate([state.context[None] for state in some])
            scores = self._clock("route", self._backend.predict_length, contexts)
            for state, best in zip(some, scores.argmax(axis=1).tolist(), strict=True):
                lengths[id(state)] = self._manifest.segmentation.lengths[best]
        asked = {id(future) for future in guesses}
        chunks = []
        for future in futures:
            start = future.state.step
            if id(future) in asked:
                length = lengths[id(future.state)]
                chunks.append(Chunk(start, length, min(length, future.steps - start), EndReason.END_OF_PLAN))
            else:
                chunks.append(next(chunk for chunk in future.ruled if chunk.start == start))
        return chunks

    def _experts(self, futures: list[Future], chunks: list[Chunk]) -> list[int]:
        """Which expert each chunk goes to."""
        if self._choose is not None:
            return [self._chance(future.state.chunks, chunk.length)[0] for future, chunk in zip(futures, chunks, strict=True)]
        experts = self._manifest.experts
        if experts.count == 1:
            return [0] * len(chunks)
        if experts.routing.kind == "chunk_length":
            return [expert_for(chunk.length, self._manifest.segmentation) for chunk in chunks]
        coming = self._features(futures, [experts.routing.lookahead] * len(futures))
        keys = [(id(future.state), features.tobytes()) for future, features in zip(futures, coming, strict=True)]
        asked = {key: (future.state, features) for key, future, features in zip(keys, futures, coming, strict=True)}
        chosen: dict[tuple[int, bytes], int] = {}
        for some in _portions(list(asked), self._most):
            contexts = np.concatenate([asked[key][0].context[None] for key in some])
            scores = self._clock("route", self._backend.route, contexts, np.stack([asked[key][1] for key in some]))
            chosen |= zip(some, scores.argmax(axis=1).tolist(), strict=True)
        return [chosen[key] for key in keys]

    def _features(self, futures: list[Future], lengths: list[int]) -> list[Float32]:
        """float32 [K + T, F] of each future's next steps, see :func:`~longscape_ros.actions.encode_actions`."""
        known = self._manifest.context
        features: dict[int, Float32] = {}
        for length in set(lengths):
            some = [index for index, other in enumerate(lengths) if other == length]
            motion = np.stack([held(futures[index].motion, futures[index].state.step, known + length) for index in some])
            features |= zip(some, encode_actions(motion, known - 1, self._manifest.action_space), strict=True)
        return [features[index] for index in range(len(futures))]

    def _chance(self, chunks: int, length: int) -> tuple[int, Float32]:
        """The expert that is chosen by :data:`Choice`, if at all, and the noise [1, T, C, h, w] of a chunk with so many before it."""
        if (chunks, length) not in self._chances:
            generator = noise_of(self._seed, chunks)
            expert = 0 if self._choose is None else self._choose(length, generator)
            noise = generator.standard_normal((1, length, *self._manifest.latent_shape), np.float32)
            self._chances[chunks, length] = expert, noise
        return self._chances[chunks, length]

    def _denoise(self, jobs: list[_Job]) -> None:
        """One batch; its futures go on."""
        length, expert = jobs[0].length, jobs[0].expert
        contexts = np.concatenate([job.state.context[None] for job in jobs])
        actions = np.stack([job.actions for job in jobs])
        noise = np.concatenate([self._chance(job.state.chunks, length)[1] for job in jobs])
        latents = self._clock("denoise", self._backend.denoise, expert, contexts, actions, noise)
        log_error = np.full((len(jobs), length), np.nan, np.float32)
        if self._manifest.confidence is not None:
            before = np.array([job.state.error for job in jobs], np.float32)
            log_error = self._clock("estimate", self._backend.estimate_error, contexts, actions, latents, before)
        for row, job in enumerate(jobs):
            # who goes on keeps all of the chunk; only where a future ends, or others branch off, a part of it is dropped
            valid = max(chunk.valid for _, chunk in job.members)
            error = float(log_error[row, valid - 1])
            state = State(follow(job.state.context, latents[row][:valid]), error, job.state.step + valid, job.state.chunks + 1)
            for future, chunk in job.members:
                future.pieces.append(Piece(chunk, expert, len(self.batches), row, log_error[row]))
                future.state = state
        self.batches.append(latents)
        self.denoised += len(jobs)


def _portions(items: list[T], most: int) -> list[list[T]]:
    return [items[start : start + most] for start in range(0, len(items), most)]
