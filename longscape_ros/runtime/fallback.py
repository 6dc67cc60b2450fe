# SPDX-License-Identifier: Apache-2.0
"""Keeps a bundle served, whatever becomes of its backends.

The best backend that works is opened and warmed up. When it fails at a request, the next one down the list answers that request and all
that follow. While the best one lacks its engines, another process builds them and another backend serves; when they are there, they take
over between two requests. Until then, and after a failure, predictions are degraded. There is no other way up.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from longscape_ros.bundle import Bundle
from longscape_ros.errors import BackendError
from longscape_ros.runtime.backend import Backend
from longscape_ros.runtime.backends import NOT_BUILT, Ladder
from longscape_ros.runtime.building import EngineBuild, Progress
from longscape_ros.runtime.kinds import Kind, Wanted
from longscape_ros.runtime.predictor import Predictor
from longscape_ros.runtime.slot import BackendSlot, Opened

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Condition:
    """How a bundle is served, for people.

    Args:
        backend: Name of the backend in use.
        precision: What its denoisers compute in.
        device: What it runs on.
        threads: CPU threads per graph.
        uses_cuda_graphs: Whether a GPU's work is recorded and queued as a whole.
        refused: Better backends, and why they are not used.
        cause: Why predictions are degraded; empty: they are not.
        engines: What became of engines that were missing; empty: none were.
    """

    backend: str
    precision: str
    device: str
    threads: int
    uses_cuda_graphs: bool
    refused: dict[str, str]
    cause: str
    engines: str

    @property
    def degraded(self) -> bool:
        """Whether a better backend should work here, and does not."""
        return bool(self.cause)

    def figures(self) -> dict[str, str]:
        """As texts, for diagnostics."""
        return {
            "backend": self.backend,
            "precision": self.precision,
            "device": self.device,
            "threads": str(self.threads),
            "cuda_graphs": "on" if self.uses_cuda_graphs else "off",
            "not_used": "; ".join(f"{name}: {why}" for name, why in self.refused.items()),
            "cause": self.cause,
            "engines": self.engines,
        }


class Serving:
    """A bundle that is served; ``predictor`` is warm.

    Args:
        bundle: The model.
        wanted: What shall run it.
        kinds: In the place of the package's; for tests.

    Raises:
        BackendError: no backend works, or the one that is named does not.
        BundleError: a graph does not take or give what the manifest says.
        InputError: the backend has not the precision that is wanted.
    """

    def __init__(self, bundle: Bundle, wanted: Wanted, kinds: Sequence[Kind] | None = None) -> None:
        self._bundle = bundle
        self._ladder = Ladder(bundle, wanted, kinds)
        opened = self._ladder.open(self._warm_up, meanwhile=True)
        self._slot = BackendSlot(opened, self._after)
        self._engines = ""
        self._outlook = NOT_BUILT
        self._build: EngineBuild | None = None
        self._builder: threading.Thread | None = None
        self.predictor = Predictor(bundle, self._slot)
        if opened.refused.get(str(self._ladder.best)) == NOT_BUILT:
            self._build = self._ladder.engine_build(self._tell)
            self._engines, self._outlook = "building engines", "its engines are being built"
            self._builder = threading.Thread(target=self._build_and_adopt, args=(self._build,), name="longscape-engines", daemon=True)
            self._builder.start()

    @property
    def condition(self) -> Condition:
        """How the bundle is served now; for any thread."""
        opened = self._slot.opened
        backend = opened.backend

        def newest(text: str) -> str:
            """What was true of the engines when the backend was opened, as it is now."""
            return text.replace(NOT_BUILT, self._outlook)

        return Condition(
            backend=backend.name,
            precision=backend.precision,
            device=backend.device,
            threads=backend.threads,
            uses_cuda_graphs=bool(getattr(backend, "use_cuda_graph", False)),
            refused={name: newest(why) for name, why in opened.refused.items()},
            cause=newest(opened.cause),
            engines=self._engines,
        )

    def close(self) -> None:
        """End what is being built and free the backends; whoever predicts must have stopped."""
        if self._build is not None:
            self._build.close()
        self._slot.close()
        if self._builder is not None:
            self._builder.join()

    def _warm_up(self, backend: Backend) -> None:
        Predictor(self._bundle, backend).warm_up()

    def _after(self, failed: Opened, error: BackendError) -> Opened | None:
        return self._ladder.below(failed, error, self._warm_up)

    # ---- on a thread of its own: engines ----

    def _tell(self, progress: Progress) -> None:
        self._engines = f"building engines: {progress}"

    def _build_and_adopt(self, build: EngineBuild) -> None:
        begin = time.monotonic()
        best = self._ladder.best
        _LOG.warning("The engines of %s are not there yet. They are being built; meanwhile %s serves.", best, self.predictor.backend.name)
        fault = build.run()
        if build.is_closed:
            return
        if fault:
            self._fail(f"engines could not be built: {fault}")
            return
        _LOG.info("The engines of %s were built in %.0f s.", best, time.monotonic() - begin)
        self._engines = "engines are built, warming up"
        try:
            opened = self._ladder.open_best(self._warm_up)
        except Exception as error:  # whatever it is, the backend in use goes on
            self._fail(f"engines were built, but do not run: {error}")
            return
        self._engines, self._outlook = "", "its engines are built, and take over at the next request"
        self._slot.offer(opened)

    def _fail(self, text: str) -> None:
        self._engines = self._outlook = text
        _LOG.error("%s goes on serving: %s", self.predictor.backend.name, text)
