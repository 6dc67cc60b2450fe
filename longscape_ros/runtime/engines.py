# SPDX-License-Identifier: Apache-2.0
"""A bundle's TensorRT engines: which there are, for which sizes, where they are kept, and when they are built again.

An engine is kept under all that it depends on: the graph's and the weights' hashes, the GPU, TensorRT's flavour and version, precision
and sizes. So what was built from something else, for another GPU or by another version is not found, and what was damaged is refused by
the cache; both are built again.

Letters: B batch, H W image, C h w latent, K context frames, T chunk frames, F action features, L steps the router looks ahead.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from longscape_ros.bundle import Bundle, Manifest
from longscape_ros.errors import BackendError, BundleError, InputError
from longscape_ros.runtime.backend import FP16, FP32, expected_tensors
from longscape_ros.runtime.cache import ArtifactCache
from longscape_ros.runtime.half import VERSION as HALF_VERSION
from longscape_ros.runtime.half import half, halved
from longscape_ros.runtime.tensorrt import CURRENT, RTX, BuildOptions, EngineBuilder, Profile, TensorRt, Timings, load_tensorrt

PRECISIONS = (FP16, FP32)
"""That engines can be built in."""

MOST_BATCH = 64
"""Largest batch that an engine takes; larger ones are cut into parts. For the decoder it is images."""

BEST_BATCH = 16
"""That kernels for more than one sample are chosen for, where an engine has such."""

FORMAT = "1"
"""Of what is kept and of how engines are built; a change makes engines in a cache useless."""

LIST_NAME = "engines.json"
"""What lies beside exported engines and says what they are."""

_ENGINE, _TIMINGS, _KERNELS = "engine", "timings", "kernels"
"""Kinds of files in the cache."""

_LOG = logging.getLogger(__name__)

Progress = Callable[[int, int, float, str], None]
"""(number of the engine that is being built, from 1 on; engines to build; share of that one that is done, 0 to 1; its graph)."""

ShouldStop = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Fact:
    """About an engine.

    Args:
        seconds: That building it took, whenever that was.
        bytes: Of its plan.
        layers: Of the network that it was built from.
        reused: Whether it was there already.
    """

    seconds: float
    bytes: int
    layers: int
    reused: bool


class KernelCache:
    """Keeps the kernels that TensorRT-RTX compiles for engines while they run: a
    :class:`~longscape_ros.runtime.tensorrt_backend.KernelStore`.

    Args:
        cache: Where.
        keys: Graph -> all that its kernels depend on, but for the driver, which TensorRT-RTX checks itself.
    """

    def __init__(self, cache: ArtifactCache, keys: Mapping[str, Mapping[str, str]]) -> None:
        self._cache = cache
        self._keys = keys

    def load(self, graph: str) -> bytes | None:
        """What was saved for a graph's engine; None: nothing."""
        return self._cache.get(_KERNELS, self._keys[graph])

    def save(self, graph: str, content: bytes) -> None:
        """Replace it."""
        self._cache.put(_KERNELS, self._keys[graph], content)


@dataclass(frozen=True)
class EngineSet:
    """The engines of a bundle.

    Args:
        trt: What they were built by, and what runs them.
        target: As it was asked for.
        place: The GPU that they are for.
        precision: What the large graphs compute in.
        plans: Graph -> serialized engine.
        facts: Graph -> what is known of it.
    """

    trt: TensorRt
    target: str
    place: str
    precision: str
    plans: dict[str, bytes] = field(repr=False)
    facts: dict[str, Fact]

    def kernels(self, cache: ArtifactCache) -> KernelCache:
        """Keeps the kernels that are compiled while these engines run."""
        common = {"place": self.place, "flavour": self.trt.flavour, "version": self.trt.version}
        return KernelCache(cache, {graph: common | {"graph": graph, "engine": _sha256(plan)} for graph, plan in self.plans.items()})


def build_engines(
    bundle: Bundle,
    precision: str = FP16,
    target: str = CURRENT,
    cache: ArtifactCache | None = None,
    progress: Progress | None = None,
    should_stop: ShouldStop | None = None,
    trt: TensorRt | None = None,
    *,
    graphs: Sequence[str] | None = None,
    options: BuildOptions | None = None,
) -> EngineSet:
    """Build the engines of a bundle that the cache lacks, keep them there, and take the rest from it.

    Args:
        bundle: Whose engines.
        precision: One of :data:`PRECISIONS`; in half precision, graphs that decide or estimate stay in single precision.
        target: The GPU, one of :data:`~longscape_ros.runtime.tensorrt.TARGETS`.
        cache: Where engines are kept; None: where the user's are.
        progress: Called while engines are built, on any thread.
        should_stop: Asked while engines are built, on any thread; true ends that. What was built until then is kept.
        trt: What builds; None: what is installed, TensorRT-RTX where the target is another GPU.
        graphs: Only these; None: all of the bundle.
        options: How to build.

    Raises:
        BackendError: there is no TensorRT, no GPU where the target is this machine's, TensorRT refuses a graph, or it was stopped.
        BundleError: a file was changed since the bundle was loaded.
        InputError: there is no such precision or target, or this TensorRT cannot build for it.
    """
    shelf = _Shelf(bundle, precision, target, cache, trt, options)
    found = {graph: shelf.find(graph) for graph in graphs or bundle.manifest.graphs()}
    lacking = [graph for graph, engine in found.items() if engine is None]
    for number, graph in enumerate(lacking, 1):
        if should_stop is not None and should_stop():
            raise BackendError(f"Building engines was stopped before {graph}, {number} of {len(lacking)}.")

        def told(share: float, number: int = number, graph: str = graph) -> None:
            if progress is not None:
                progress(number, len(lacking), share, graph)

        told(0.0)
        found[graph] = shelf.build(graph, told, should_stop)
    made = {graph: engine for graph, engine in found.items() if engine is not None}
    return shelf.engine_set(made)


def load_engines(
    bundle: Bundle,
    precision: str = FP16,
    target: str = CURRENT,
    cache: ArtifactCache | None = None,
    trt: TensorRt | None = None,
    *,
    options: BuildOptions | None = None,
) -> EngineSet:
    """The engines of a bundle from the cache; for arguments and faults see :func:`build_engines`.

    Raises:
        BackendError: one is not there, too.
    """
    shelf = _Shelf(bundle, precision, target, cache, trt, options)
    found = {graph: shelf.find(graph) for graph in bundle.manifest.graphs()}
    if lacking := [graph for graph, engine in found.items() if engine is None]:
        raise BackendError(
            f"Found no engine of {bundle.model_id} for {', '.join(lacking)} in {shelf.cache.folder} ({shelf.text}); expected one for each "
            "graph. Have them built (longscape export --tensorrt)."
        )
    return shelf.engine_set({graph: engine for graph, engine in found.items() if engine is not None})


def missing_engines(
    bundle: Bundle,
    precision: str = FP16,
    target: str = CURRENT,
    cache: ArtifactCache | None = None,
    trt: TensorRt | None = None,
    *,
    options: BuildOptions | None = None,
) -> list[str]:
    """The graphs whose engine the cache lacks; for arguments and faults see :func:`build_engines`."""
    shelf = _Shelf(bundle, precision, target, cache, trt, options)
    return [graph for graph in bundle.manifest.graphs() if shelf.find(graph) is None]


def export_engines(
    bundle: Bundle,
    folder: Path,
    targets: Sequence[str],
    precision: str = FP16,
    cache: ArtifactCache | None = None,
    progress: Callable[[float, float, str], None] | None = None,
    trt: TensorRt | None = None,
    *,
    graphs: Sequence[str] | None = None,
    options: BuildOptions | None = None,
) -> list[EngineSet]:
    """Build a bundle's engines for some GPUs into a folder: ``<target>/<graph>.plan``, and ``engines.json``, which says what they are.

    Args:
        bundle: Whose engines.
        folder: Where; files of an export before are replaced.
        targets: The GPUs.
        precision: What the large graphs compute in.
        cache: Where engines are kept besides.
        progress: Called with (done, total, what), on any thread.
        trt: What builds; None: what is installed.
        graphs: Only these; None: all of the bundle.
        options: How to build.

    Raises:
        BackendError: see :func:`build_engines`; nothing is written then.
        InputError: see there; or no target is named, or one twice.
    """
    if not targets or len(set(targets)) != len(targets):
        raise InputError(f"Got the targets {', '.join(targets) or '(none)'}, expected at least one, and each once.")
    for target in targets:  # before minutes of building
        _Shelf(bundle, precision, target, cache, trt, options)
    made = []
    for index, target in enumerate(targets):

        def told(number: int, total: int, share: float, graph: str, index: int = index, target: str = target) -> None:
            if progress is not None:
                progress(index + (number - 1 + share) / total, len(targets), f"{target} {graph} ({number} of {total})")

        made.append(build_engines(bundle, precision, target, cache, told, None, trt, graphs=graphs, options=options))
    if progress is not None:
        progress(len(targets), len(targets), "")
    _write(folder, bundle, made)
    return made


def sources(bundle: Bundle, graph: str) -> dict[str, str]:
    """What a graph's engine is built from: file -> sha256. Whatever is no graph may hold weights."""
    return {name: record.sha256 for name, record in bundle.manifest.files.items() if name == graph or not name.endswith(".onnx")}


def _require_unchanged(bundle: Bundle, graph: str) -> None:
    """Refuse files that are not those that the engine would be kept under.

    Raises:
        BundleError: one was changed since the bundle was loaded.
    """
    for name, expected in sources(bundle, graph).items():
        if (found := _sha256(bundle.file(name).read_bytes())) != expected:
            raise BundleError(f"{bundle.file(name)}: found the hash {found}, expected {expected}; it was changed meanwhile, start again.")


def profiles_of(graph: str, manifest: Manifest, two: bool) -> list[Profile]:
    """The sizes that a graph's engine is built for: batches of 1 to 64, and every chunk length.

    Args:
        graph: Its file name.
        manifest: The bundle's.
        two: Whether the batch of 1 gets a profile of its own, and with it kernels of its own: where kernels are chosen when an engine is
            built. TensorRT-RTX compiles them for the sizes that it meets, so there a second profile would only double the build's time
            (measured on the default bundle's denoisers: 1.9 times the time, 1.5 times the plan).
    """
    batches = ((1, 1, 1), (1, BEST_BATCH, MOST_BATCH)) if two else ((1, 1, MOST_BATCH),)
    return [_profile(graph, manifest, *batch) for batch in batches]


def _profile(graph: str, manifest: Manifest, least: int, best: int, most: int) -> Profile:
    inputs, _ = expected_tensors(graph, manifest)
    lengths = sorted(manifest.segmentation.lengths)
    chunks = lengths[0], lengths[(len(lengths) - 1) // 2], lengths[-1]

    def shape(name: str, batch: int, chunk: int) -> tuple[int, ...]:
        open_size = manifest.context + chunk if name == "actions" else chunk
        first, *rest = inputs[name][1]
        assert first is None, "every graph has an open batch"
        return (batch, *(open_size if size is None else size for size in rest))

    return {name: (shape(name, least, chunks[0]), shape(name, best, chunks[1]), shape(name, most, chunks[2])) for name in inputs}


@dataclass(frozen=True, slots=True)
class _Kept:
    """An engine and what is known of it."""

    content: bytes
    fact: Fact


class _Shelf:
    """Engines of one bundle, precision and target in a cache; for arguments and faults see :func:`build_engines`."""

    def __init__(
        self, bundle: Bundle, precision: str, target: str, cache: ArtifactCache | None, trt: TensorRt | None, options: BuildOptions | None
    ) -> None:
        if precision not in PRECISIONS:
            raise InputError(f"Got the precision {precision!r} for engines, expected one of {', '.join(PRECISIONS)}.")
        self.cache = ArtifactCache() if cache is None else cache
        self._bundle = bundle
        self._precision = precision
        self._target = target
        self._trt = _tensorrt_for(target) if trt is None else trt
        self._trt.require_target(target)
        self._build_target, self._place = _place(self._trt, target)
        self._options = options or BuildOptions()
        self.text = f"{self._trt}, {self._place}, {precision}"

    def find(self, graph: str) -> _Kept | None:
        """An engine that is kept, and whole."""
        content = self.cache.get(_ENGINE, self._key(graph))
        if content is None:
            return None
        head, _, plan = content.partition(b"\n")
        return _Kept(plan, Fact(**json.loads(head), bytes=len(plan), reused=True))

    def build(self, graph: str, told: Callable[[float], None], should_stop: ShouldStop | None) -> _Kept:
        """Build an engine, and keep it."""
        started = time.monotonic()
        bundle = self._bundle
        _require_unchanged(bundle, graph)
        model = half(bundle, graph, self.cache) if self._is_half(graph) else bundle.file(graph)
        builder = EngineBuilder(self._trt)
        network = builder.parse(graph, model, tuple(expected_tensors(graph, bundle.manifest)[1]))
        timings_key = {"place": self._place, "flavour": self._trt.flavour, "version": self._trt.version}
        timings = None if self._trt.is_rtx else Timings(self.cache.get(_TIMINGS, timings_key) or b"")
        plan = builder.build(
            network,
            self._profiles(graph),
            self._build_target,
            self._options,
            lambda phase, share: told(share),
            should_stop,
            timings,
        )
        told(1.0)
        if timings is not None:
            self.cache.put(_TIMINGS, timings_key, timings.content)
        fact = Fact(round(time.monotonic() - started, 3), len(plan), network.layers, reused=False)
        head = json.dumps({"seconds": fact.seconds, "layers": fact.layers}).encode()
        self.cache.put(_ENGINE, self._key(graph), head + b"\n" + plan)
        _LOG.info("Built the engine of %s (%s): %.1f s, %.1f MB.", graph, self.text, fact.seconds, fact.bytes / 1e6)
        return _Kept(plan, fact)

    def engine_set(self, engines: Mapping[str, _Kept]) -> EngineSet:
        """These engines."""
        return EngineSet(
            self._trt,
            self._target,
            self._place,
            self._precision,
            {graph: engine.content for graph, engine in engines.items()},
            {graph: engine.fact for graph, engine in engines.items()},
        )

    def _is_half(self, graph: str) -> bool:
        return self._precision == FP16 and graph in halved(self._bundle)

    def _profiles(self, graph: str) -> list[Profile]:
        return profiles_of(graph, self._bundle.manifest, two=not self._trt.is_rtx)

    def _key(self, graph: str) -> dict[str, str]:
        """All that an engine depends on."""
        return {
            "format": FORMAT,
            "graph": graph,
            "flavour": self._trt.flavour,
            "version": self._trt.version,
            "place": self._place,
            "precision": f"{FP16} {HALF_VERSION}" if self._is_half(graph) else FP32,
            "profiles": json.dumps(self._profiles(graph), sort_keys=True),
            "options": json.dumps(asdict(self._options), sort_keys=True),
            **sources(self._bundle, graph),
        }


def _tensorrt_for(target: str) -> TensorRt:
    """What can build for a target, of what is installed: for a GPU that need not be there only TensorRT-RTX."""
    return load_tensorrt(None if target == CURRENT else RTX)


def _place(trt: TensorRt, target: str) -> tuple[str, str]:
    """What TensorRT shall build for, and the GPUs on which the engine runs, for its key.

    An engine for this machine's GPU is the one for its architecture, where that can be named: one that was built elsewhere is found.
    """
    if target != CURRENT:
        return target, target.upper()
    from longscape_ros.runtime.cuda import open_device

    device = open_device()
    architecture = device.sm.lower()
    if architecture in trt.ahead():
        return architecture, device.sm
    return CURRENT, f"{device.name} ({device.sm})"


def _write(folder: Path, bundle: Bundle, made: Sequence[EngineSet]) -> None:
    """Every file appears at once, and the list last."""
    listed = []
    for engines in made:
        (folder / engines.target).mkdir(parents=True, exist_ok=True)
        for graph, plan in engines.plans.items():
            name = f"{engines.target}/{graph.removesuffix('.onnx')}.plan"
            _replace(folder / name, plan)
            fact = engines.facts[graph]
            listed.append(
                {
                    "file": name,
                    "graph": graph,
                    "target": engines.target,
                    "gpu": engines.place,
                    "sha256": _sha256(plan),
                    "bytes": fact.bytes,
                    "layers": fact.layers,
                    "build_seconds": fact.seconds,
                    "built_from": sources(bundle, graph),
                }
            )
    first = made[0]
    document = {
        "format": FORMAT,
        "bundle": bundle.model_id,
        "flavour": first.trt.flavour,
        "version": first.trt.version,
        "precision": first.precision,
        "batches": [1, MOST_BATCH],
        "chunk_lengths": list(bundle.manifest.segmentation.lengths),
        "engines": listed,
    }
    _replace(folder / LIST_NAME, (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
