# SPDX-License-Identifier: Apache-2.0
"""From images and commands to predictions: what the predictor node does, in plain Python.

Every image that is taken makes a :class:`Snapshot` of what had been received by then; its prediction depends on nothing else. So a
recording of the same messages with the same receive times gives the same predictions, bit for bit on one backend.

One thread (the node's executor) calls the pipeline; predictions come back on the worker's thread. While the model is busy, the
newest request waits and older ones are dropped. Input that cannot be used is counted and otherwise ignored.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from longscape_ros.bundle import Manifest
from longscape_ros.contract import NANOSECONDS, Frame, Plan, PlanExtension, Prediction, Snapshot, Status
from longscape_ros.errors import InputError, NotReadyError
from longscape_ros.images import resize_rgb
from longscape_ros.nodes.executed import ExecutedChunk, ExecutedChunks
from longscape_ros.runtime.predictor import Predictor
from longscape_ros.runtime.statistics import Rolling
from longscape_ros.runtime.surprise import Comparison, Expectation, Expectations, State, compare
from longscape_ros.runtime.worker import InferenceWorker, Request
from longscape_ros.timeline import CLOCK_JUMP_NS, Timeline, TimelineConfig

_REFUSED_IMAGES = {
    "frames_duplicate": "seen at the same time as the one before it, expected a later one; it is left out. Let the camera's driver stamp "
    "each image anew, or set image_stamp to receive.",
    "frames_out_of_order": "seen {behind:.3f} s before the newest one, expected them in order; it is left out. See that one camera alone "
    "publishes on the topic; if its stamps are not in order, set image_stamp to receive.",
    "frames_ahead": "dated {ahead:.3f} s later than the node's clock, expected one clock; it is left out. Synchronize the camera's clock, "
    "or set image_stamp to receive; with use_sim_time its stamps must be of the time on /clock.",
}
"""Why a timeline refuses an image, by its counter."""

_REFUSED_COMMANDS = {
    "plans_duplicate": "that repeat the ones before, expected new ones; they are left out. See that nobody sends them twice.",
    "plans_out_of_order": "that take effect before the ones before them, expected them in order; they are left out. See that one node "
    "alone sends them; if its stamps are not in order, let the source's stamp be 'receive' in the topic mapping.",
    "plans_past": "that were over {late:.3f} s before they arrived, expected some that are not; they are left out. Check that all clocks "
    "agree (use_sim_time), or let the source's stamp be 'receive' in the topic mapping.",
    "plans_unknown": "that the model has not, or twice the same, expected its own names; correct the topic mapping.",
}
"""Why a timeline refuses commands, by its counter."""

_AHEAD = (
    "Got commands of {} that begin {:.3f} s after they arrived, expected them sooner; they are taken, and change nothing until then. Check "
    "that all clocks agree (use_sim_time), or let the source's stamp be 'receive' in the topic mapping."
)

_NO_ROOM = "Got commands and no image for too long, expected both; the oldest commands are left out. Check that the camera publishes."

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PipelineConfig:
    """What stays the same while the pipeline runs.

    Args:
        horizon: Future frames to predict; 0: as many as the bundle says.
        plan_extension: What follows the last commanded point.
        image_latency_ns: How long before its stamp an image was really seen.
    """

    horizon: int = 0
    plan_extension: PlanExtension = PlanExtension.HOLD
    image_latency_ns: int = 0

    def __post_init__(self) -> None:
        if self.horizon < 0 or self.image_latency_ns < 0:
            raise InputError(f"Got horizon {self.horizon} and image latency {self.image_latency_ns} ns, expected none below 0.")


@dataclass(frozen=True, slots=True)
class Limits:
    """What may change while the pipeline runs; 0 switches a limit off.

    Args:
        prediction_rate: Most predictions per second of camera time.
        command_timeout_ns: After so long without a command, a stream of velocities or deltas is stale.
        image_timeout_ns: An image this old on arrival is stale.
        surprise_threshold: An image that differs by more from what was predicted is a surprise; 0: nothing is compared.
    """

    prediction_rate: float = 0.0
    command_timeout_ns: int = 0
    image_timeout_ns: int = 0
    surprise_threshold: float = 0.0


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong with an input.

    Args:
        kind: The counter that counts it.
        text: What was got, what was expected, and the remedy.
    """

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an image led to.

    Args:
        request: What was asked of the model; None: nothing.
        trouble: What was wrong; None: nothing.
        ended: Chunks of the executed motion that ended.
    """

    request: Request | None = None
    trouble: Trouble | None = None
    ended: tuple[ExecutedChunk, ...] = ()


@dataclass(frozen=True, slots=True)
class _Asked:
    """What was known when a prediction was asked for.

    Args:
        snapshot: What it is made of.
        expectation: What its anchor's image is to be compared with; None: nothing was predicted of it.
        holds: Whether the robot was commanded until then what was assumed.
    """

    snapshot: Snapshot
    expectation: Expectation | None
    holds: bool


class Pipeline:
    """Images and commands in, predictions out.

    ``counters`` tell what came in and what became of it; ``limits`` may be replaced at any time; while ``active`` is false it takes
    everything in and predicts nothing.

    Args:
        predictor: The model, for the pipeline's worker alone.
        config: See there.
        on_prediction: Gets each prediction, on the worker's thread.
        on_error: Gets what was raised instead, on the worker's thread.
        on_comparison: Gets each image that was compared with an earlier prediction, on the worker's thread, after the prediction that
            is made from it; None: nobody wants it.
    """

    def __init__(
        self,
        predictor: Predictor,
        config: PipelineConfig,
        on_prediction: Callable[[Prediction], None],
        on_error: Callable[[Exception], None],
        on_comparison: Callable[[Comparison], None] | None = None,
    ) -> None:
        manifest = predictor.bundle.manifest
        self.horizon = config.horizon or manifest.horizon
        self.limits = Limits()
        self.active = False
        self.latency_ms = Rolling()
        """From the arrival of an image to the end of ``on_prediction``."""
        self.graphs_cpu_ms = 0.0
        """CPU time of the worker's thread inside the graphs, of all predictions made: with one thread per graph all that graphs used."""
        self.image_age_ms = Rolling()
        """Of images when they arrive; below zero: they are dated later than the node's clock."""
        self._config = config
        self._manifest = manifest
        self._timeline = Timeline(timeline_config(manifest, self.horizon, config.plan_extension, config.image_latency_ns))
        self._executed = ExecutedChunks(manifest)
        self._expectations = Expectations()
        self._lock = threading.Lock()
        self._asked: dict[int, _Asked] = {}  # by anchor, of predictions that are not made yet
        self._on_comparison = on_comparison
        self.newest_comparison: Comparison | None = None
        """Of the newest image that was compared."""
        self._states = dict.fromkeys(State, 0)
        self._worker = InferenceWorker(predictor, self._finish, self._fail)
        self._on_prediction = on_prediction
        self._on_error = on_error
        self._moves = {d.name for d in manifest.action_space.dimensions if d.kind in ("velocity", "delta")}
        self._commanded_until_ns: dict[tuple[str, ...], int] = {}  # names of a stream -> when its last command was over
        self._received_ns: int | None = None
        self._arrived_s: float | None = None  # the same moment, of a steady clock
        self._next_request_ns: int | None = None
        self._counters = dict.fromkeys(
            ("images", "images_stale", "images_skipped", "images_not_ready", "commands", "commands_stale", "requests", "clock_jumps"), 0
        )

    @property
    def counters(self) -> dict[str, int]:
        """How often what happened: the pipeline's own, the timeline's, and the worker's counts."""
        counts = self._counters | {name: count for name, count in self._timeline.counters.items() if name != "clock_jumps"}
        counts["clock_jumps"] += self._timeline.counters["clock_jumps"]
        return counts | {
            "predictions": self._worker.predictions,
            "requests_dropped": self._worker.dropped,
            "inference_errors": self._worker.errors,
            "segmentation_restarts": self._executed.restarts,
            "images_compared": self._states[State.EXPECTED] + self._states[State.SURPRISED],
            "images_surprising": self._states[State.SURPRISED],
            "images_not_comparable": self._states[State.NOT_COMPARABLE],
        }

    @property
    def inference_ms(self) -> Rolling:
        """Milliseconds that the model took."""
        return self._worker.latency_ms

    @property
    def queue_ms(self) -> Rolling:
        """Milliseconds that requests waited for the model."""
        return self._worker.queue_ms

    @property
    def newest_image_ns(self) -> int | None:
        """When the newest image was seen."""
        return self._timeline.newest_frame_ns

    def start(self) -> None:
        """Starts the worker, once."""
        self._worker.start()

    def stop(self) -> None:
        """Ends the worker; nothing comes out any more."""
        self._worker.stop()

    def reset(self) -> None:
        """Forgets all that was received, because the clock was set back or to another source; counters stay."""
        self._counters["clock_jumps"] += 1
        self._timeline.reset()
        self._received_ns = None
        self._restart()

    def receive(self, now_ns: int) -> int:
        """The receive time of a message that arrives now: the clock's, made strictly increasing so that it tells the order.

        A clock that was set back by more than a second flushes everything.
        """
        self._arrived_s = time.perf_counter()
        before_ns = self._received_ns
        if before_ns is not None and before_ns - now_ns > CLOCK_JUMP_NS:
            _log.warning("The clock went back by %.3f s; images and commands are forgotten.", (before_ns - now_ns) / NANOSECONDS)
            self.reset()
            before_ns = None
        self._received_ns = now_ns if before_ns is None else max(now_ns, before_ns + 1)
        return self._received_ns

    def add_plan(self, plan: Plan) -> Trouble | None:
        """Takes commands; or else why they are refused, see :class:`Timeline`."""
        self._counters["commands"] += 1
        before = dict(self._timeline.counters)
        taken = self._timeline.add_plan(plan)
        counted = self._counted(before)
        if not taken:
            kind = next(name for name in _REFUSED_COMMANDS if name in counted)
            late_s = (plan.received_ns - plan.start_ns - int(plan.times_ns[-1])) / NANOSECONDS
            return Trouble(kind, f"Got commands of {list(plan.names)} {_REFUSED_COMMANDS[kind].format(late=late_s)}")
        if self._moves.intersection(plan.names):
            self._commanded_until_ns[plan.names] = max(plan.received_ns, plan.start_ns + int(plan.times_ns[-1]))
        if "plans_ahead" in counted:
            return Trouble("plans_ahead", _AHEAD.format(list(plan.names), (plan.start_ns - plan.received_ns) / NANOSECONDS))
        return Trouble("plans_dropped", _NO_ROOM) if "plans_dropped" in counted else None

    def add_frame(self, frame: Frame, received_ns: int) -> Outcome:
        """Takes an image, and asks for a prediction where one is due.

        Args:
            frame: The image in any size.
            received_ns: See :meth:`receive`.
        """
        self._counters["images"] += 1
        seen_ns = frame.stamp_ns - self._config.image_latency_ns
        self.image_age_ms.add((received_ns - seen_ns) / 1e6)
        frame = replace(frame, rgb=resize_rgb(frame.rgb, self._manifest.image_size))
        behind_s = ((self._timeline.newest_frame_ns or 0) - seen_ns) / NANOSECONDS
        before = dict(self._timeline.counters)
        taken = self._timeline.add_frame(frame, received_ns)
        counted = self._counted(before)
        if not taken:
            kind = next(name for name in _REFUSED_IMAGES if name in counted)
            text = _REFUSED_IMAGES[kind].format(behind=behind_s, ahead=(seen_ns - received_ns) / NANOSECONDS)
            return Outcome(trouble=Trouble(kind, f"Got an image that was {text}"))
        trouble = self._image_staleness(received_ns - seen_ns)
        stale = trouble is not None
        if "clock_jumps" in counted:
            trouble = Trouble(
                "clock_jumps",
                f"Got an image that was seen {behind_s:.3f} s before the newest one, expected stamps that go forward; all images and "
                "commands are forgotten. Play a bag with --clock and set use_sim_time; see that one camera alone publishes on the topic.",
            )
        try:
            snapshot = self._timeline.snapshot(known_by_ns=received_ns)
        except NotReadyError as error:
            self._counters["images_not_ready"] += 1
            return Outcome(trouble=trouble or Trouble("images_not_ready", str(error)))
        ended = self._executed.update(snapshot)
        silent = self._command_staleness(received_ns)
        return Outcome(self._ask(snapshot, received_ns, stale=stale or silent is not None), trouble or silent, ended)

    def _image_staleness(self, age_ns: int) -> Trouble | None:
        """Counts an image that is dated too far from the time when it arrived; what is wrong with it."""
        if not 0 < self.limits.image_timeout_ns < abs(age_ns):
            return None
        self._counters["images_stale"] += 1
        found = "is {:.3f} s old" if age_ns > 0 else "is dated {:.3f} s later than the node's clock"
        return Trouble(
            "images_stale",
            f"Got an image that {found.format(abs(age_ns) / NANOSECONDS)}, expected at most "
            f"{self.limits.image_timeout_ns / NANOSECONDS:g} s (image_timeout); synchronize the camera's clock, or set image_stamp to "
            "receive; where a bag is played, set use_sim_time.",
        )

    def _command_staleness(self, received_ns: int) -> Trouble | None:
        """Counts an image at which a stream of commands has been silent for too long; what is wrong with it."""
        silent_ns = received_ns - min(self._commanded_until_ns.values(), default=received_ns)
        if not 0 < self.limits.command_timeout_ns < silent_ns:
            return None
        self._counters["commands_stale"] += 1
        return Trouble(
            "commands_stale",
            f"Got no command for {silent_ns / NANOSECONDS:.3f} s on a stream of velocities or deltas, expected one at least every "
            f"{self.limits.command_timeout_ns / NANOSECONDS:g} s (incoming_command_timeout); the last one is taken as held.",
        )

    def _ask(self, snapshot: Snapshot, received_ns: int, stale: bool) -> Request | None:
        if not self.active:
            return None
        if not self._due(snapshot.anchor_ns):
            self._counters["images_skipped"] += 1
            return None
        status = Status.STALE_INPUT if stale else Status.DEGRADED if snapshot.steps < self.horizon else Status.OK
        asked = self._expect(snapshot, received_ns)
        with self._lock:
            self._asked[snapshot.anchor_ns] = asked
        request = Request(
            snapshot,
            horizon=self.horizon,
            status=status,
            arrived_s=self._arrived_s,
            show_anchor=self.limits.surprise_threshold > 0,
        )
        self._counters["requests"] += 1
        replaced = self._worker.submit(request)
        if replaced is not None:
            with self._lock:
                self._asked.pop(replaced.snapshot.anchor_ns, None)
        return request

    def _expect(self, snapshot: Snapshot, received_ns: int) -> _Asked:
        """What the newest image is to be compared with when a prediction is made from it.

        The image is encoded for that anyway, so to compare it costs no more than to decode it; images that nothing is predicted from
        are not compared.
        """
        if not self.limits.surprise_threshold > 0:
            return _Asked(snapshot, None, False)
        expectation = self._expectations.find(snapshot.anchor_ns)
        if expectation is None:
            return _Asked(snapshot, None, False)
        executed = self._timeline.motion(expectation.prediction.anchor_ns, expectation.step, known_by_ns=received_ns)
        return _Asked(snapshot, expectation, expectation.holds(executed, self._manifest.action_space))

    def _due(self, anchor_ns: int) -> bool:
        """Whether ``prediction_rate`` allows a prediction; images may come half a step early."""
        if not self.limits.prediction_rate > 0:
            self._next_request_ns = None
            return True
        interval_ns = round(NANOSECONDS / self.limits.prediction_rate)
        due_ns = anchor_ns if self._next_request_ns is None else min(self._next_request_ns, anchor_ns + interval_ns)
        if anchor_ns < due_ns - round(NANOSECONDS / self._manifest.fps / 2):
            return False
        on_time = anchor_ns - due_ns < interval_ns
        self._next_request_ns = (due_ns if on_time else anchor_ns) + interval_ns
        return True

    def _finish(self, prediction: Prediction) -> None:
        """On the worker's thread."""
        begin_s = time.perf_counter()
        self._on_prediction(prediction)
        self.graphs_cpu_ms += prediction.timings_ms["graphs_cpu"]
        waited_ms = sum(prediction.timings_ms[stage] for stage in ("prepare", "queue", "total"))
        self.latency_ms.add(waited_ms + 1e3 * (time.perf_counter() - begin_s))
        self._compare(prediction)

    def _fail(self, error: Exception) -> None:
        """On the worker's thread, in the place of a prediction: what is waiting, if anything, is what was asked last."""
        with self._lock:
            self._asked = {anchor_ns: self._asked[anchor_ns] for anchor_ns in list(self._asked)[-1:]}
        self._on_error(error)

    def _compare(self, prediction: Prediction) -> None:
        """Compares the image that the prediction was made from with what was predicted of it before."""
        with self._lock:
            asked = self._asked.pop(prediction.anchor_ns, None)
        if asked is None:  # from before the clock was set back
            return
        threshold = self.limits.surprise_threshold
        if asked.expectation is not None and threshold > 0:
            comparison = compare(asked.expectation, prediction, asked.holds, threshold, before=self.newest_comparison)
            self._states[comparison.state] += 1
            self.newest_comparison = comparison
            if self._on_comparison is not None:
                self._on_comparison(comparison)
        self._expectations.add(prediction, asked.snapshot.motion[self._manifest.context - 1 :])

    def _counted(self, before: Mapping[str, int]) -> set[str]:
        """What the timeline has counted since; where it has flushed itself because stamps went back, the rest follows here."""
        counted = {name for name, count in self._timeline.counters.items() if count > before[name]}
        if "clock_jumps" in counted:
            self._restart()
        return counted

    def _restart(self) -> None:
        self._executed.restart()
        self._expectations.forget()
        self.newest_comparison = None
        with self._lock:
            self._asked.clear()
        self._commanded_until_ns.clear()
        self._next_request_ns = None


def timeline_config(manifest: Manifest, horizon: int, plan_extension: PlanExtension, image_latency_ns: int = 0) -> TimelineConfig:
    """A timeline that looks beyond the horizon as far as the last chunk, which begins before it, can reach."""
    return TimelineConfig(
        fps=manifest.fps,
        context=manifest.context,
        horizon=horizon + manifest.segmentation.lengths[-1],
        image_size=manifest.image_size,
        space=manifest.action_space,
        plan_extension=plan_extension,
        image_latency_ns=image_latency_ns,
    )
