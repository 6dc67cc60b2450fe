# SPDX-License-Identifier: Apache-2.0
"""TensorRT's building side: finds the one that is installed, parses ONNX with it, and builds engines.

There are two flavours with one API. The classic ``tensorrt`` runs on Jetson, workstations and data-centre GPUs; it times kernels, so it
builds only for the GPU at hand. TensorRT-RTX (``tensorrt_rtx``) needs no GPU to build for one; kernels are chosen where the engine runs.
Both export the same symbols, so a process loads one of them.

The machines this was written on have no GPU: all of it has been run with the real TensorRT-RTX but for the target ``current``; the
classic flavour's own paths, which are the timing cache and building for the GPU at hand, with a stand-in only.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import logging
import sys
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from longscape_ros.errors import BackendError, InputError

CLASSIC, RTX = "tensorrt", "tensorrt_rtx"
FLAVOURS = (CLASSIC, RTX)

CURRENT = "current"
"""The GPU of this machine, as a target."""

TARGETS = ("sm75", "sm80", "sm86", "sm87", "sm89", "sm90", "sm120", "sm121", CURRENT)
"""What engines are built for: GPU generations by compute capability, and :data:`CURRENT`."""

OLDEST = {CLASSIC: (10, 1), RTX: (1, 0)}
"""Versions from which on a network takes its types from the graph alone."""

_BINDINGS = "tensorrt_rtx_bindings"
_LIBRARIES = "onnxruntime_ep_nv_tensorrt_rtx"
_PACKAGES = {
    CLASSIC: "pip install tensorrt (from NVIDIA's package index; on a Jetson it is a part of JetPack)",
    RTX: "pip install onnxruntime-ep-nv-tensorrt-rtx-cu13==0.5.0 tensorrt-rtx-cu13-bindings==1.7.1.116 (Linux, x86-64)",
}
_LAST_WORDS = 4
_LOG = logging.getLogger(__name__)

Shape = tuple[int, ...]

Profile = Mapping[str, tuple[Shape, Shape, Shape]]
"""Input -> smallest, best and largest shape."""

Report = Callable[[str, float], None]
"""(phase, share of the whole build that is done, 0 to 1)."""


@dataclass(frozen=True, slots=True)
class TensorRt:
    """A TensorRT that is loaded.

    Args:
        flavour: One of :data:`FLAVOURS`.
        version: Its own.
        module: The Python module.
    """

    flavour: str
    version: str
    module: Any

    def __str__(self) -> str:
        return f"{'TensorRT-RTX' if self.is_rtx else 'TensorRT'} {self.version}"

    @property
    def is_rtx(self) -> bool:
        """Whether it is TensorRT-RTX."""
        return self.flavour == RTX

    def ahead(self) -> tuple[str, ...]:
        """The targets that it builds for on any machine."""
        if not self.is_rtx:
            return ()
        known = self.module.ComputeCapability.__members__
        return tuple(target for target in TARGETS if target != CURRENT and target.upper() in known)

    def require_target(self, target: str) -> None:
        """Refuse what it cannot build for.

        Raises:
            InputError: it is no target, or another GPU than this machine's has to build for it.
        """
        if target not in TARGETS:
            raise InputError(f"Got the target {target!r}, expected one of {', '.join(TARGETS)}.")
        if target == CURRENT or target in self.ahead():
            return
        if self.is_rtx:
            raise InputError(
                f"Got the target {target}, but {self} builds for {', '.join(self.ahead())} and {CURRENT}; "
                f"on that GPU, use the classic TensorRT and the target {CURRENT}."
            )
        raise InputError(
            f"Got the target {target}, but {self}, the classic one, times kernels on the GPU that it builds for; "
            f"build on that GPU with the target {CURRENT}, or ahead of time with TensorRT-RTX: {_PACKAGES[RTX]}."
        )


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How engines are built; not what they compute.

    Args:
        workspace_mb: Most scratch memory of an engine in megabytes; None: what the GPU has.
        optimization_level: 0 to 5, more is slower to build and may be faster to run; None: TensorRT's choice. TensorRT-RTX 1.7 takes
            it and gives the same engine.
    """

    workspace_mb: int | None = None
    optimization_level: int | None = None

    def __post_init__(self) -> None:
        if self.workspace_mb is not None and self.workspace_mb < 1:
            raise InputError(f"Got a workspace of {self.workspace_mb} MB, expected at least 1.")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise InputError(f"Got the optimization level {self.optimization_level}, expected 0 to 5.")


# ---- finding it ----


def unavailable(flavour: str | None = None) -> str:
    """Why TensorRT cannot be loaded here, and what to install; empty: it can. See :func:`load_tensorrt`."""
    try:
        load_tensorrt(flavour)
    except BackendError as error:
        return str(error)
    return ""


def load_tensorrt(flavour: str | None = None) -> TensorRt:
    """Load a flavour of TensorRT.

    Args:
        flavour: One of :data:`FLAVOURS`; None: the classic one where it is installed, else TensorRT-RTX.

    Raises:
        BackendError: it is not installed, too old, or in parts that do not fit.
        InputError: there is no such flavour.
    """
    if flavour is not None and flavour not in FLAVOURS:
        raise InputError(f"Got the TensorRT flavour {flavour!r}, expected one of {', '.join(FLAVOURS)}.")
    if flavour is None:
        faults = []
        for name in FLAVOURS:
            try:
                return load_tensorrt(name)
            except BackendError as error:
                faults.append(str(error))
        raise BackendError(" Nor TensorRT-RTX: ".join(faults))
    module = _import(CLASSIC) if flavour == CLASSIC else _import_rtx()
    loaded = TensorRt(flavour, str(module.__version__), module)
    if _numbers(loaded.version)[:2] < OLDEST[flavour]:
        oldest = ".".join(map(str, OLDEST[flavour]))
        raise BackendError(f"Found {flavour} {loaded.version}, expected {oldest} or newer; update it: {_PACKAGES[flavour]}.")
    return loaded


def _import_rtx() -> Any:
    """NVIDIA's own package, or the bindings with the libraries of the package for ONNX Runtime."""
    if _is_installed(RTX):
        return _import(RTX)
    missing = [name for name in (_BINDINGS, _LIBRARIES) if not _is_installed(name)]
    if missing:
        raise BackendError(f"Found no Python package {' and no '.join(missing)}, expected TensorRT-RTX; {_PACKAGES[RTX]}.")
    libraries = _load_libraries()
    module = _import(_BINDINGS)
    if _numbers(module.__version__) != _numbers(libraries):
        raise BackendError(
            f"Found {_BINDINGS} {module.__version__} and libraries {libraries} in {_LIBRARIES}, expected equal versions; "
            f"pip install tensorrt-rtx-cu13-bindings=={libraries}."
        )
    return module


def _load_libraries() -> str:
    """Load TensorRT-RTX and its parser for all modules to come; returns their version.

    The package that they lie in is not imported: it would change its own folder and the environment.
    """
    found = importlib.util.find_spec(_LIBRARIES)
    folders = [Path(folder) for folder in (found.submodule_search_locations or ())] if found is not None else []
    loaded = {}
    for stem in ("libtensorrt_rtx", "libtensorrt_onnxparser_rtx"):  # the parser needs the first
        files = sorted(path for folder in folders for path in folder.glob(f"{stem}.so.*.*") if path.is_file())
        if not files:
            raise BackendError(f"Found no {stem}.so.* in {_LIBRARIES}, expected TensorRT-RTX; {_PACKAGES[RTX]}.")
        try:
            loaded[stem] = ctypes.CDLL(str(files[-1]), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise BackendError(f"{files[-1]} cannot be loaded: {error}; install it again: {_PACKAGES[RTX]}.") from error
    library = loaded["libtensorrt_rtx"]
    return ".".join(str(getattr(library, f"getInferLib{part}Version")()) for part in ("Major", "Minor", "Patch", "Build"))


def _is_installed(name: str) -> bool:
    return name in sys.modules or importlib.util.find_spec(name) is not None


def _import(name: str) -> Any:
    flavour = CLASSIC if name == CLASSIC else RTX
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: a library that it needs
        raise BackendError(f"The Python package {name} cannot be imported ({error}); {_PACKAGES[flavour]}.") from error
    if not hasattr(module, "Builder"):  # a placeholder, or a folder of that name
        raise BackendError(f"The Python package {name} has no Builder, expected TensorRT; {_PACKAGES[flavour]}.")
    return module


def _numbers(version: str) -> tuple[int, ...]:
    """``1.7.1.116`` -> (1, 7, 1, 116)."""
    parts = version.split(".")
    return tuple(int(part) for part in parts if part.isdigit())


# ---- building ----


@dataclass(frozen=True, slots=True)
class Network:
    """A graph that TensorRT has parsed.

    Args:
        name: Of the graph.
        definition: TensorRT's network.
        parser: Holds the weights while the network is in use.
    """

    name: str
    definition: Any
    parser: Any

    @property
    def layers(self) -> int:
        """How many layers it has, before any are fused."""
        return int(self.definition.num_layers)


class EngineBuilder:
    """TensorRT's builder, and what it says.

    Args:
        tensorrt: The flavour.
    """

    def __init__(self, tensorrt: TensorRt) -> None:
        self.tensorrt = tensorrt
        self._trt = tensorrt.module
        self._logger, self._words = voice_of(self._trt)
        self._builder = self._trt.Builder(self._logger)
        if self._builder is None:
            raise BackendError(f"{self.tensorrt} does not start: {self._words.text()}.")

    def parse(self, name: str, model: Path | bytes, outputs: Collection[str] | None = None) -> Network:
        """Have a graph parsed; tensors have the types that the graph gives them.

        Args:
            name: Of the graph, for messages.
            model: An ONNX file, whose weights may lie beside it; or such a file's content, weights inside.
            outputs: Those that are wanted; None: all.

        Raises:
            BackendError: TensorRT refuses the graph; says which node.
        """
        self._words.clear()
        kinds = self._trt.NetworkDefinitionCreationFlag
        flags = 1 << int(kinds.STRONGLY_TYPED) if hasattr(kinds, "STRONGLY_TYPED") else 0  # where there is no flag, all networks are
        definition = self._builder.create_network(flags)
        parser = self._trt.OnnxParser(definition, self._logger)
        is_parsed = parser.parse(model) if isinstance(model, bytes) else parser.parse_from_file(str(model))
        if not is_parsed:
            faults = [_fault(parser.get_error(index)) for index in range(parser.num_errors)]
            raise BackendError(f"{self.tensorrt} does not take {name}: {'; '.join(faults) or self._words.text()}.")
        found = {tensor.name: tensor for tensor in map(definition.get_output, range(definition.num_outputs))}
        missing = [output for output in outputs or () if output not in found]
        if missing or not found:  # bytes that are no graph are taken for an empty one
            raise BackendError(
                f"{self.tensorrt} finds the outputs {', '.join(found) or '(none)'} in {name}, expected {', '.join(missing)}."
            )
        for output, tensor in found.items():
            if outputs is not None and output not in outputs:
                definition.unmark_output(tensor)
        return Network(name, definition, parser)

    def build(
        self,
        network: Network,
        profiles: Sequence[Profile],
        target: str = CURRENT,
        options: BuildOptions = BuildOptions(),
        report: Report | None = None,
        should_stop: Callable[[], bool] | None = None,
        timings: Timings | None = None,
    ) -> bytes:
        """Build an engine; takes seconds to minutes.

        Args:
            network: What it computes.
            profiles: The sizes that it must take.
            target: One of :data:`TARGETS`.
            options: How.
            report: Told how far it is.
            should_stop: Asked now and then whether to give up.
            timings: Measurements to use and to add to, of the classic flavour.

        Returns:
            The engine's plan.

        Raises:
            BackendError: it cannot be built, or was called off.
            InputError: the target is not one that this flavour builds for here.
        """
        self.tensorrt.require_target(target)
        self._words.clear()
        config = self._config(target, options)
        for profile in profiles:
            self._add_profile(network, config, profile)
        times = self._use_timings(config, timings) if timings is not None and not self.tensorrt.is_rtx else None
        phases = _Phases(report, should_stop)
        monitor = _monitor_of(self._trt, phases)
        config.progress_monitor = monitor  # kept in a local too: the config does not keep it alive
        plan = _interruptible(lambda: self._builder.build_serialized_network(network.definition, config), phases)
        if phases.is_stopped:
            raise BackendError(f"Building the engine of {network.name} was called off.")
        if plan is None:
            raise BackendError(f"{self.tensorrt} does not build {network.name} for {target}: {self._words.text()}.")
        if timings is not None and times is not None:
            timings.content = bytes(config.get_timing_cache().serialize())
        return bytes(plan)

    def _config(self, target: str, options: BuildOptions) -> Any:
        config = self._builder.create_builder_config()
        config.clear_flag(self._trt.BuilderFlag.TF32)  # half of single precision's digits, in the guise of single precision
        if hasattr(self._trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):  # an engine that allocates while it runs cannot be captured
            config.set_flag(self._trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
        if options.workspace_mb is not None:
            config.set_memory_pool_limit(self._trt.MemoryPoolType.WORKSPACE, options.workspace_mb << 20)
        if options.optimization_level is not None:
            config.builder_optimization_level = options.optimization_level
        if self.tensorrt.is_rtx:
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(self._trt.ComputeCapability, target.upper()), 0)
        return config

    def _add_profile(self, network: Network, config: Any, profile: Profile) -> None:
        made = self._builder.create_optimization_profile()
        for index in range(network.definition.num_inputs):
            name = network.definition.get_input(index).name
            if name not in profile:
                raise BackendError(
                    f"Found the input {name} in {network.name}, expected one of {', '.join(profile)}; export the bundle again."
                )
            made.set_shape(name, *profile[name])
        if config.add_optimization_profile(made) < 0:
            raise BackendError(f"{self.tensorrt} does not take the sizes {dict(profile)} for {network.name}: {self._words.text()}.")

    def _use_timings(self, config: Any, timings: Timings) -> Any:
        times = config.create_timing_cache(timings.content)
        if times is None or not config.set_timing_cache(times, False):
            _LOG.info("The kept timings are of another GPU or version, and are made again.")
            times = config.create_timing_cache(b"")
            config.set_timing_cache(times, False)
        return times


class Timings:
    """What the classic TensorRT measured while it built, so that the next engine is built faster.

    Args:
        content: Kept from before; empty: nothing.
    """

    def __init__(self, content: bytes = b"") -> None:
        self.content = content


def _interruptible(build: Callable[[], Any], phases: _Phases) -> Any:
    """Build on a thread of its own, and wait for it.

    TensorRT calls Python back while it builds, and swallows what that raises. On the main thread this would be a Ctrl-C.
    """
    built: list[Any] = []
    thread = threading.Thread(target=lambda: built.append(build()), name="tensorrt-build")
    thread.start()
    try:
        thread.join()
    except BaseException:
        phases.stop()
        thread.join()
        raise
    return built[0] if built else None


def _fault(error: Any) -> str:
    """A parser's error: node, operator, what is wrong."""
    name, operator = error.node_name(), error.node_operator()
    where = f"node {name or error.node()} ({operator})" if operator else f"node {error.node()}"
    return f"{where}: {' '.join(error.desc().split())} [{error.code().name}]"


# ---- what TensorRT says ----


class Words:
    """TensorRT's last errors."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=_LAST_WORDS)

    def add(self, line: str) -> None:
        """What was logged as an error."""
        self._lines.append(" ".join(line.split()))

    def clear(self) -> None:
        """Forget them."""
        self._lines.clear()

    def text(self) -> str:
        """All in one line."""
        return " | ".join(self._lines) or "TensorRT does not say why"


@cache
def voice_of(trt: Any) -> tuple[Any, Words]:
    """The logger of a process, and the errors that it was told: TensorRT goes on with the first that it is given and ignores all others."""
    words = Words()
    return logger_of(trt, words), words


def logger_of(trt: Any, words: Words) -> Any:
    """A logger for TensorRT that passes its log on to ours; errors become the text of exceptions, and are not logged twice.

    It has to live as long as what was made with it.
    """
    severity = trt.ILogger.Severity

    class Logger(trt.ILogger):  # type: ignore[misc]  # known at run time only
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # super() does not initialise a class of C++

        def log(self, level: Any, message: str) -> None:
            if level in (severity.INTERNAL_ERROR, severity.ERROR):
                words.add(message)
            _LOG.log(logging.WARNING if level == severity.WARNING else logging.DEBUG, "TensorRT: %s", message)

    return Logger()


class _Phases:
    """Where a build is: phases within phases, each of a number of steps. Called from TensorRT's threads.

    Args:
        report: Told of progress; what it raises stops the build.
        should_stop: Asked at every step.
    """

    def __init__(self, report: Report | None, should_stop: Callable[[], bool] | None) -> None:
        self._report = report
        self._should_stop = should_stop
        self._lock = threading.RLock()
        self._phases: dict[str, tuple[str | None, int]] = {}
        self._done: dict[str, int] = {}
        self._share = 0.0
        self.is_stopped = False

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins."""
        with self._lock:
            self._phases[name] = (parent, max(steps, 1))
            self._done[name] = 0

    def step(self, name: str, number: int) -> bool:
        """A step of a phase is done; whether to go on."""
        with self._lock:
            if name in self._phases:
                self._done[name] = number + 1
            self._tell(name)
            if not self.is_stopped and self._should_stop is not None and self._should_stop():
                self.is_stopped = True
            return not self.is_stopped

    def stop(self) -> None:
        """Have the build end at its next step."""
        self.is_stopped = True

    def finish(self, name: str) -> None:
        """A phase is over."""
        with self._lock:
            self._phases.pop(name, None)
            self._done.pop(name, None)

    def _tell(self, name: str) -> None:
        share = sum(self._part(root) for root, (parent, _) in self._phases.items() if parent not in self._phases)
        if self._report is not None and share > self._share:
            self._share = min(share, 1.0)
            self._report(name, self._share)

    def _part(self, name: str) -> float:
        """The share of a phase that is done, with what its own phases have done of the step that is under way."""
        _, steps = self._phases[name]
        inner = max((self._part(child) for child, (parent, _) in self._phases.items() if parent == name), default=0.0)
        return min((self._done[name] + inner) / steps, 1.0)


def _monitor_of(trt: Any, phases: _Phases) -> Any:
    """TensorRT's interface for progress. An exception must not reach C++: it stops the build."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # known at run time only
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.phases = phases

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            phases.start(name, parent, steps)

        def step_complete(self, name: str, step: int) -> bool:
            try:
                return phases.step(name, step)
            except Exception:
                _LOG.exception("The build is called off, as its progress cannot be told.")
                phases.stop()
                return False

        def phase_finish(self, name: str) -> None:
            phases.finish(name)

    return Monitor()
