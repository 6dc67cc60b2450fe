# SPDX-License-Identifier: Apache-2.0
"""Which backends work here, and opening the best."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from longscape_ros.bundle import Bundle
from longscape_ros.errors import BackendError, InputError
from longscape_ros.runtime.backend import AUTO, FP32, Backend
from longscape_ros.runtime.building import EngineBuild, Progress
from longscape_ros.runtime.cache import ArtifactCache
from longscape_ros.runtime.kinds import Kind, Wanted, all_kinds
from longscape_ros.runtime.slot import Opened, close_quietly

REFERENCE = "torch"
"""The backend that is used only where it is named, and whose place no other takes."""

NOT_BUILT = "its engines are not built yet"

Prepare = Callable[[Backend], None]
"""Runs a backend for the first time; a BackendError from it means that the backend does not work."""

_LOG = logging.getLogger(__name__)


def available_backends(kinds: Sequence[Kind] | None = None) -> dict[str, str]:
    """Every backend's name, and why it cannot be used here; empty: it can."""
    return {kind.name: kind.why_not() for kind in kinds or all_kinds()}


def create_backend(
    bundle: Bundle,
    name: str = AUTO,
    threads: int | None = None,
    precision: str = AUTO,
    use_cuda_graph: bool = True,
    cache: ArtifactCache | None = None,
) -> Backend:
    """Open a bundle's graphs; see :func:`open_backend`."""
    return open_backend(bundle, name, threads, precision, use_cuda_graph, cache).backend


def open_backend(
    bundle: Bundle,
    name: str = AUTO,
    threads: int | None = None,
    precision: str = AUTO,
    use_cuda_graph: bool = True,
    cache: ArtifactCache | None = None,
) -> Opened:
    """Open a bundle's graphs on the backend that is named, or on the best that works here.

    A backend that is named first builds the engines that it lacks, which takes minutes; ``auto`` leaves such a backend out and says so.

    Args:
        bundle: What to run.
        name: See :class:`Wanted`; so are the others.
        threads: CPU threads per graph.
        precision: What denoisers compute in.
        use_cuda_graph: Whether a GPU's work is recorded.
        cache: Where engines are kept.

    Raises:
        BackendError: the backend is unknown or does not work here, or its engines cannot be built.
        BundleError: a graph does not take or give what the manifest says.
        InputError: an argument is none of its values, or the backend has not the precision.
    """
    ladder = Ladder(bundle, Wanted(name, precision, threads, use_cuda_graph, cache))
    if name != AUTO and ladder.lacks_engines:
        ladder.build()
    return ladder.open()


@dataclass(frozen=True, slots=True)
class Rung:
    """A kind of backend, and the precision that its denoisers shall compute in."""

    kind: Kind
    precision: str

    def __str__(self) -> str:
        return f"{self.kind.name} in {self.precision}"


class Ladder:
    """The backends that may run a bundle, the best first; from one that fails it goes down, never up.

    Args:
        bundle: What to run.
        wanted: A backend that is named stands at the top; those below it serve only until its engines are built, or after it has failed.
        kinds: In the place of the package's; for tests.

    Raises:
        BackendError: the backend that is named is unknown or cannot be used here; or none can.
        InputError: the backend has not the precision that is wanted.
    """

    def __init__(self, bundle: Bundle, wanted: Wanted, kinds: Sequence[Kind] | None = None) -> None:
        self._bundle = bundle
        self._wanted = wanted
        self._kinds = tuple(kinds or all_kinds())
        self._unusable: list[tuple[Kind, str, str]] = []
        """Kind, what of it cannot be used on this machine, and why; in the order of kinds."""
        self._rungs = self._usable() if wanted.name == AUTO else self._named()

    @property
    def best(self) -> Rung:
        """What is aimed at."""
        return self._rungs[0]

    @property
    def lacks_engines(self) -> bool:
        """Whether the best backend has engines that must be built first."""
        engines = self.best.kind.engines
        return engines is not None and not engines.are_built(self._bundle, self.best.precision, self._wanted)

    def engine_build(self, told: Callable[[Progress], None] | None = None) -> EngineBuild:
        """What builds the engines of the best backend.

        Args:
            told: Called with the progress, on the thread that waits for the build.
        """
        engines = self.best.kind.engines
        assert engines is not None, "asked only of a kind that has engines"
        return EngineBuild(engines.command(self._bundle, self.best.precision, self._wanted), told)

    def build(self) -> None:
        """Build the engines of the best backend, and wait for it.

        Raises:
            BackendError: that failed.
        """
        build = self.engine_build()
        try:
            fault = build.run()
        finally:
            build.close()
        if fault:
            raise BackendError(f"The engines of {self.best} cannot be built: {fault}")

    def open(self, prepare: Prepare | None = None, meanwhile: bool = False) -> Opened:
        """Open the best backend that works now.

        Args:
            prepare: Called with each that opens.
            meanwhile: Whether others may serve in the place of one that is named while that lacks its engines.

        Raises:
            BackendError: none works.
            BundleError: a graph does not take or give what the manifest says.
        """
        is_named = self._wanted.name != AUTO
        if (meanwhile or not is_named) and self.lacks_engines:
            return self._descend(self._rungs[1:], {str(self.best): NOT_BUILT}, f"{self.best}: {NOT_BUILT}", prepare)
        return self._descend(self._rungs[:1] if is_named else self._rungs, {}, "", prepare)

    def open_best(self, prepare: Prepare | None = None) -> Opened:
        """Open the best backend and no other.

        Raises:
            BackendError: it does not work.
            BundleError: a graph does not take or give what the manifest says.
        """
        return self._descend(self._rungs[:1], {}, "", prepare)

    def below(self, failed: Opened, error: BackendError, prepare: Prepare | None = None) -> Opened | None:
        """What serves after a backend has failed while it ran: it is closed, and the next one that works is opened.

        Returns:
            None: nothing; if no backend stands below this one, it stays open.
        """
        place = (failed.backend.name, failed.backend.precision)
        at = next(i for i, rung in enumerate(self._rungs) if (rung.kind.name, rung.precision) == place)
        is_lost = getattr(failed.backend, "lost", False)  # the GPU is, for all of this process
        following = [rung for rung in self._rungs[at + 1 :] if not (is_lost and rung.kind.on_gpu)]
        if not following:
            return None
        fault = f"failed while it ran: {error}"
        _LOG.error("The next backend takes over: %s %s", self._rungs[at], fault)
        close_quietly(failed.backend)
        refused = {**failed.refused, str(self._rungs[at]): fault}
        try:
            return self._descend(following, refused, failed.cause or f"{self._rungs[at]} {fault}", prepare)
        except BackendError as none_works:
            _LOG.error("%s", none_works)
            return None

    def _descend(self, rungs: Sequence[Rung], refused: Mapping[str, str], cause: str, prepare: Prepare | None) -> Opened:
        """Open the first of some rungs that works.

        Args:
            rungs: In their order.
            refused: What is known of better ones already.
            cause: Of the first that should have worked.
            prepare: Called with each that opens.
        """
        refused = dict(refused)
        for rung in rungs:
            try:
                backend = self._open(rung, prepare)
            except BackendError as error:
                if len(rungs) == 1:
                    raise
                _LOG.warning("The backend %s does not work here, trying the next: %s", rung, error)
                refused[str(rung)] = str(error)
                cause = cause or f"{rung}: {error}"
                continue
            found = Opened(backend, self._better_than(rung) | refused, cause)
            reasons = "".join(f"; not {name}: {why}" for name, why in found.refused.items())
            _LOG.info("%s runs on %s (%s)%s.", self._bundle.model_id, rung, backend.device, reasons)
            return found
        reasons = "; ".join(f"{what}: {why}" for what, why in (self._all_unusable() | refused).items())
        raise BackendError(f"No backend works here: {reasons}.")

    def _open(self, rung: Rung, prepare: Prepare | None) -> Backend:
        backend = rung.kind.open(self._bundle, rung.precision, self._wanted)
        if prepare is not None:
            try:
                prepare(backend)
            except BaseException:
                close_quietly(backend)
                raise
        return backend

    def _all_unusable(self) -> dict[str, str]:
        return {what: why for _, what, why in self._unusable}

    def _better_than(self, rung: Rung) -> dict[str, str]:
        """What is better than a rung and cannot be used on this machine."""
        until = self._kinds.index(rung.kind)
        return {what: why for kind, what, why in self._unusable if self._kinds.index(kind) <= until}

    def _usable(self) -> tuple[Rung, ...]:
        """For ``auto``: all that can be used and have the precision."""
        rungs = []
        for kind in self._kinds:
            if kind.name == REFERENCE:
                continue
            if reason := kind.why_not() or self._wrong_precision(kind):
                self._unusable.append((kind, kind.name, reason))
            else:
                rungs.append(self._rung(kind, self._wanted.precision))
        if not rungs:
            reasons = "; ".join(f"{what}: {why}" for what, why in self._all_unusable().items())
            raise BackendError(f"Got the backend {AUTO} and the precision {self._wanted.precision}, but no backend can be used: {reasons}.")
        return self._with_last_resort(rungs)

    def _named(self) -> tuple[Rung, ...]:
        """The one that is named, and what can take its place."""
        names = [kind.name for kind in self._kinds]
        if self._wanted.name not in names:
            raise BackendError(f"Got the backend {self._wanted.name!r}, expected {AUTO} or one of {', '.join(names)}.")
        first = self._kinds[names.index(self._wanted.name)]
        if reason := first.why_not():
            usable = [kind.name for kind in self._kinds if kind is not first and not kind.why_not()]
            raise BackendError(f"Got the backend {first.name!r}: {reason}. Use {', '.join(usable)} or {AUTO}.")
        if reason := self._wrong_precision(first):
            raise InputError(f"Got the precision {self._wanted.precision!r} for the backend {first.name!r}: {reason}.")
        rungs = [self._rung(first, self._wanted.precision)]
        if first.name != REFERENCE:
            for kind in self._kinds[names.index(first.name) + 1 :]:
                if kind.name != REFERENCE and not kind.why_not():
                    rungs.append(self._rung(kind, AUTO if self._wrong_precision(kind) else self._wanted.precision))
        return self._with_last_resort(rungs)

    def _rung(self, kind: Kind, precision: str) -> Rung:
        """A kind in a precision; for ``auto`` in the fastest that predicts the same and can be had here."""
        if precision != AUTO:
            return Rung(kind, precision)
        for fast in kind.fast_precisions(self._bundle.manifest):
            rung = Rung(kind, fast)
            reason = kind.lacks(self._bundle, fast, self._wanted)
            if not reason:
                return rung
            self._unusable.append((kind, str(rung), reason))
        return Rung(kind, FP32)

    def _with_last_resort(self, rungs: list[Rung]) -> tuple[Rung, ...]:
        """What was not asked for by name can go wrong too: at the very end stands single precision."""
        last = rungs[-1]
        if self._wanted.precision == AUTO and last.precision != FP32:
            rungs.append(Rung(last.kind, FP32))
        return tuple(rungs)

    def _wrong_precision(self, kind: Kind) -> str:
        """Why a kind cannot have the precision that is wanted; empty: it can."""
        wanted = self._wanted.precision
        if wanted in (AUTO, *kind.precisions):
            return ""
        having = [other.name for other in self._kinds if wanted in other.precisions]
        return f"it has {', '.join(kind.precisions)} only; {wanted} is for {', '.join(having) or 'none'}"
