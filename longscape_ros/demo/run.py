# SPDX-License-Identifier: Apache-2.0
"""A demo run: the processes, what is waited for, the recording, and what is made of it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from longscape_ros.bundle import Bundle, find_bundle, load_bundle
from longscape_ros.demo.artefacts import write_artefacts, write_report
from longscape_ros.demo.config import DemoConfig, Outputs
from longscape_ros.demo.graph import graph_environment, how_to_join
from longscape_ros.demo.packages import client_library, require_packages
from longscape_ros.demo.processes import Command, Processes
from longscape_ros.demo.recording import CHUNK_TOPIC, DIAGNOSTICS_TOPIC, PREDICTION_TOPIC, SURPRISE_TOPIC
from longscape_ros.demo.sight import Listener, Sight
from longscape_ros.demo.terminal import ProcessSight, Scene, View, make_view
from longscape_ros.errors import HostError, InputError
from longscape_ros.interrupts import ended_by_sigterm
from longscape_ros.simulation import topics
from longscape_ros.simulation.arm import COMMAND_NAMES, FPS, choose_graphics
from longscape_ros.simulation.disturbance import choose_frame
from longscape_ros.simulation.generate import undisturbed
from longscape_ros.simulation.skills import SKILLS

READY_TIMEOUT_S = 120.0
"""How long any one thing is waited for before the recording begins."""

TICK_S = 0.1
SHOW_EVERY_S = 0.25

DRIVER, PREDICTOR, POLICY, RECORDER, MONITOR = "driver", "predictor", "policy", "recorder", "monitor"

MOST_PER_S = 4.0
"""Predictions per second, however fast the machine is: enough to watch, and the recording stays small."""

MOST_PER_S_DISTURBED = 10.0
"""The same where something disturbs the arm: an image is compared when it is predicted from, and two in a row are a surprise."""

CAMERA_SIZES = (16, 480)
"""Least and largest height and width of the simulated camera's images."""

RECORDED = (
    topics.IMAGE_TOPIC,
    topics.CAMERA_INFO_TOPIC,
    topics.TRAJECTORY_TOPIC,
    topics.JOINT_STATES_TOPIC,
    topics.INSTRUCTION_TOPIC,
    PREDICTION_TOPIC,
    "/predictor/model_info",
    CHUNK_TOPIC,
    SURPRISE_TOPIC,
    topics.DISTURBANCE_TOPIC,
    DIAGNOSTICS_TOPIC,
)
"""Topics in the recording."""

Figures = dict[str, float | str]


def run_demo(config: DemoConfig, console: Console | None = None) -> Figures:
    """Runs the simulated robot, the predictor and a recorder as processes of their own, and leaves what they did in a folder.

    An interrupt (SIGINT, SIGTERM) ends the recording early; a second one leaves out what is not written yet. However this ends, no
    process is left behind.

    Args:
        config: What to do.
        console: Where to show what happens; None: the standard error.

    Returns:
        What ``report.json`` says, see docs/demo.md.

    Raises:
        InputError: The policy cannot do the task, or there is no moment at which the disturbance would make a difference.
        BundleError: There is no model, or it is not one of this robot.
        HostError: Something is missing on this machine, or a process ended early; what was recorded until then is kept.
        KeyboardInterrupt: Interrupted before there was anything to keep.
    """
    console = console or Console(stderr=True, highlight=False)
    require_packages()
    if config.policy and config.task not in SKILLS:
        raise InputError(f"Got task {config.task!r}, which no policy can do; expected one of {', '.join(SKILLS)}, or --no-policy.")
    bundle = load_bundle(find_bundle(config.bundle))
    bundle.require_actions(COMMAND_NAMES)
    choose_graphics()
    disturbed_frame = _disturbed_frame(config)
    outputs = Outputs(config.output)
    outputs.clear()
    title = f"longscape demo: {config.task}, seed {config.seed}"
    with ended_by_sigterm():
        play = _Play(config, bundle, outputs, console, disturbed_frame)
        play.run(title)
        if not outputs.bag.exists():
            raise play.fault or KeyboardInterrupt
        with _progress(console) as progress:
            found = write_artefacts(outputs, f"{title}, {bundle.model_id}", play.figures, progress)
    if play.fault is not None:
        raise play.fault
    found |= _paths(outputs)
    write_report(outputs.report, found)
    _conclude(console, outputs, found)
    return found


def _disturbed_frame(config: DemoConfig) -> int | None:
    """After which command the arm is disturbed; None: it is not.

    Raises:
        InputError: There is no moment at which that would make a difference.
    """
    if config.disturbance is None:
        return None
    kind, _ = config.disturbance
    frame = choose_frame(kind, config.task, config.seed, *undisturbed(config.task, config.seed, round(config.seconds * FPS)))
    if frame is None:
        raise InputError(
            f"Got the disturbance {kind} of {config.task}, seed {config.seed}, expected a moment of the first {config.seconds:g} s at "
            "which it makes a difference: a gripper that closes on something, a hand on its way. Choose another task, kind or seed, or "
            "more seconds."
        )
    return frame


@dataclass
class _Play:
    """The part with processes.

    After :meth:`run`, ``figures`` has what they used and how they ended; ``fault`` is what ended them early, if anything did.
    """

    config: DemoConfig
    bundle: Bundle
    outputs: Outputs
    console: Console
    disturbed_frame: int | None = None
    figures: Figures = field(default_factory=dict)
    fault: HostError | None = None

    def run(self, title: str) -> None:
        environment = graph_environment(os.environ)
        self.console.print(f"[dim]To look in from another terminal: {escape(how_to_join(environment))}[/dim]", soft_wrap=True)
        interrupted = False
        with Processes(self.outputs.logs, environment) as processes, make_view(self.console) as view:
            stage = _Stage(self.config, title, processes, view)
            try:
                self._prepare(stage)
                stage.record()
            except HostError as error:
                self.fault = error
            except KeyboardInterrupt:
                interrupted = True
            stage.show("ending", force=True)
            processes.stop()
        self.figures = {
            **{f"exit_code.{child.command.name}": float(child.exit_code or 0) for child in processes.children.values()},
            **{f"peak_rss_mb.{child.command.name}": child.usage.peak_rss_mb for child in processes.children.values()},
            **stage.cpu_percents(),
            "meta.task": self.config.task,
            "meta.seed": str(self.config.seed),
            "meta.ros": client_library(),
            "meta.cpus": str(os.cpu_count()),
            "meta.ended": str(self.fault) if self.fault is not None else "interrupted" if interrupted else "complete",
        }

    def _prepare(self, stage: _Stage) -> None:
        """Starts everything, each as soon as what it needs is there."""
        size = max(CAMERA_SIZES[0], min(CAMERA_SIZES[1], 2 * max(self.bundle.manifest.image_size)))
        episode = (f"task:={self.config.task}", f"seed:={self.config.seed}")
        disturbance: tuple[str, ...] = ()
        if self.config.disturbance is not None and self.disturbed_frame is not None:
            kind, amount = self.config.disturbance
            disturbance = f"disturbance:={kind}:{amount:g}", f"disturbance_after:={self.disturbed_frame / FPS}"
        stage.start(
            Command(
                MONITOR, "longscape_ros.demo.monitor", _ros_arguments(f"pictures:={str(self.console.is_terminal).lower()}"), speaks=True
            )
        )
        stage.start(Command(DRIVER, "longscape_ros.simulation.driver", _ros_arguments(*episode, *disturbance, f"image_size:={size}")))
        stage.start(Command(PREDICTOR, "longscape_ros.nodes.predictor", self._predictor_arguments()))
        stage.wait("the camera's first image", DRIVER, lambda sight: sight.frames > 0)
        stage.wait("the model", PREDICTOR, lambda sight: sight.diagnostics.get("model.state") == "active")
        if self.disturbed_frame is not None:
            self._start_recorder(stage)  # the first command is the beginning of the time after which the arm is disturbed
        if self.config.policy:
            stage.start(Command(POLICY, "longscape_ros.simulation.policy", _ros_arguments(*episode)))
            stage.wait("the first prediction", PREDICTOR, lambda sight: sight.predictions > 0)
        if self.disturbed_frame is None:
            self._start_recorder(stage)

    def _start_recorder(self, stage: _Stage) -> None:
        stage.start(Command(RECORDER, "longscape_ros.nodes.recorder", self._recorder_arguments(), last=True))
        stage.wait("the recorder", RECORDER, lambda sight: "recorder" in sight.nodes)

    def _predictor_arguments(self) -> tuple[str, ...]:
        return _ros_arguments(
            f"model.bundle:={self.bundle.path.resolve()}",
            f"model.backend:={self.config.backend}",
            f"model.precision:={self.config.precision}",
            "mapping:=simulated_arm",
            f"prediction_rate:={MOST_PER_S if self.config.disturbance is None else MOST_PER_S_DISTURBED}",
            remappings={"~/input/image": topics.IMAGE_TOPIC, "~/input/camera_info": topics.CAMERA_INFO_TOPIC},
        )

    def _recorder_arguments(self) -> tuple[str, ...]:
        return _ros_arguments(f"output:={self.outputs.bag.resolve()}", f"topics:=[{', '.join(RECORDED)}]")


def _ros_arguments(*parameters: str, remappings: dict[str, str] | None = None) -> tuple[str, ...]:
    renamed = (f"{old}:={new}" for old, new in (remappings or {}).items())
    return "--ros-args", *(word for p in parameters for word in ("-p", p)), *(word for r in renamed for word in ("-r", r))


class _Stage:
    """The running processes, watched and shown.

    Args:
        config: How long to record.
        title: For the view.
        processes: Where they are started.
        view: Where they are shown.
    """

    def __init__(self, config: DemoConfig, title: str, processes: Processes, view: View) -> None:
        self._config = config
        self._title = title
        self._processes = processes
        self._view = view
        self._listener: Listener | None = None
        self._shown_s = 0.0
        self._recording_since_s: float | None = None
        self._recorded_s = 0.0
        self._cpu_before_s: dict[str, float] = {}

    @property
    def sight(self) -> Sight:
        """What the monitor sees."""
        return Sight() if self._listener is None else self._listener.newest

    def start(self, command: Command) -> None:
        """Starts a process."""
        child = self._processes.start(command)
        if command.speaks:
            self._listener = Listener(child.output)

    def wait(self, what: str, name: str, there: Callable[[Sight], bool]) -> None:
        """Waits until something is there.

        Args:
            what: It, in words.
            name: The process that it comes from.
            there: Whether it is.

        Raises:
            HostError: It does not come, or a process has ended.
        """
        until_s = time.monotonic() + READY_TIMEOUT_S
        while not there(self.sight):
            self._tick(f"waiting for {what}")
            if time.monotonic() > until_s:
                child = self._processes.children[name]
                raise HostError(
                    f"Got nothing of {what} for {READY_TIMEOUT_S:.0f} s, expected it from the process {name}. It said last: "
                    f"{child.last_words()} All it said is in {child.log}. Close other programs if this machine is busy, and let UDP on "
                    "the loopback interface pass if there is a firewall."
                )

    def record(self) -> None:
        """Lets everything run for as long as was asked for.

        Raises:
            HostError: A process has ended.
        """
        self._processes.check()
        self._recording_since_s = time.monotonic()
        self._cpu_before_s = {name: child.usage.cpu_s for name, child in self._processes.children.items()}
        while self._recorded_s < self._config.seconds:
            self._tick("recording")

    def show(self, phase: str, force: bool = False) -> None:
        """Shows what is going on, now and then."""
        now_s = time.monotonic()
        if not force and now_s < self._shown_s + SHOW_EVERY_S:
            return
        self._shown_s = now_s
        cpu = self.cpu_percents()
        processes = tuple(
            ProcessSight(name, child.exit_code is None, child.usage.peak_rss_mb, float(cpu.get(f"cpu_percent.{name}", 0.0)))
            for name, child in self._processes.children.items()
        )
        self._view.show(Scene(self._title, phase, self._recorded_s, self._config.seconds, self.sight, processes))

    def cpu_percents(self) -> Figures:
        """Share of one core that each process used while recording (before: since its start)."""
        return {
            f"cpu_percent.{name}": 100 * (child.usage.cpu_s - self._cpu_before_s.get(name, 0.0)) / (self._recorded_s or child.age_s)
            for name, child in self._processes.children.items()
        }

    def _tick(self, phase: str) -> None:
        self._processes.check()
        if self._recording_since_s is not None:
            self._recorded_s = time.monotonic() - self._recording_since_s
        self.show(phase)
        time.sleep(TICK_S)


@contextlib.contextmanager
def _progress(console: Console) -> Iterator[Callable[[int, int, str], None]]:
    """A bar for the film."""
    if not console.is_terminal:
        yield lambda done, total, text: None
        return
    with Progress(console=console, transient=True) as bars:
        bar = bars.add_task("film", total=None)
        yield lambda done, total, text: bars.update(bar, completed=done, total=total)


def _paths(outputs: Outputs) -> Figures:
    paths = {"video": outputs.video, "contact_sheet": outputs.sheet, "bag": outputs.bag, "report": outputs.report}
    return {f"meta.{name}": str(path) for name, path in paths.items() if path.exists()}


def _conclude(console: Console, outputs: Outputs, found: Figures) -> None:
    """The figures that matter most, and where to look."""
    lines = [f"{found['seconds']:.0f} s, {found['camera.frames']:.0f} images, {found['predictions']:.0f} predictions"]
    if "remaining_horizon_ms_p5" in found:
        lines[0] += f": {found['predictions_per_s']:.2f} of the full horizon per second"
        lines.append(
            f"A prediction came {found['latency_ms_p50']:.0f} ms after its newest image (p95 {found['latency_ms_p95']:.0f}); "
            f"{found['remaining_horizon_ms_p50']:.0f} ms of it still lay ahead then (p5 {found['remaining_horizon_ms_p5']:.0f})."
        )
        lines += [
            f"Frame {h:>2}: {found[f'psnr.model.{h}']:.1f} dB; if nothing had moved: {found[f'psnr.copy_last.{h}']:.1f} dB"
            for h in (8, 16, 32)
            if f"psnr.model.{h}" in found
        ]
    if "disturbance.at_s" in found:
        after_s = found.get("disturbance.noticed_after_s")
        noticed = "not noticed within a second" if after_s is None else f"noticed {after_s:.2f} s after that"
        when = f"Disturbed {found['disturbance.at_s']:.1f} s after the first image ({found['meta.disturbance']})"
        lines.append(f"{when}: {noticed}; {found['surprise.alarms_before']:.0f} alarms before")
    lines += [
        "",
        f"{outputs.video}: the camera beside what was predicted for the same moment",
        f"{outputs.sheet}: actual, predicted and error of a few predictions",
        f"{outputs.bag}: camera, commands and predictions, for Foxglove or Rerun",
        f"{outputs.report}: all figures; docs/demo.md explains them",
    ]
    console.print("\n".join(["", *lines]), markup=False, highlight=False, soft_wrap=True)
