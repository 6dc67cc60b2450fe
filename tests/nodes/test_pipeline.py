# SPDX-License-Identifier: Apache-2.0
"""What the predictor node does, without a graph: decisions, statuses, counters, chunks, surprise, clocks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import pytest
from support.tiny_bundle import MANIFEST, write_tiny_bundle

from longscape_ros.contract import NANOSECONDS, ActionDimension, ActionSpace, EndReason, Frame, Plan, PlanExtension, Prediction, Status
from longscape_ros.errors import InputError
from longscape_ros.nodes.pipeline import Limits, Outcome, Pipeline, PipelineConfig, Trouble, timeline_config
from longscape_ros.runtime.backends import create_backend
from longscape_ros.runtime.predictor import Predictor
from longscape_ros.runtime.slot import BackendSlot, Opened
from longscape_ros.runtime.surprise import LEAST_STEPS, Comparison, State
from longscape_ros.segmentation import segment
from longscape_ros.timeline import Timeline

WAIT_S = 20
STEP = NANOSECONDS // 20
T0 = 1000 * NANOSECONDS
DELAY = 3_000_000  # from an image's stamp to its arrival
NAMES = MANIFEST.action_space.names
HOLD, NONE = PlanExtension.HOLD, PlanExtension.NONE


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    bundle = write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")
    return Predictor(bundle, create_backend(bundle, "ort_cpu", threads=1))


class Rig:
    """A pipeline that runs, and what comes out of it; while ``gate`` is shut, its worker is held."""

    def __init__(self, predictor: Predictor, config: PipelineConfig) -> None:
        self.predictions: SimpleQueue[Any] = SimpleQueue()
        self.gate = threading.Event()
        self.gate.set()
        self.busy = threading.Event()
        self.comparisons: list[Comparison] = []
        self.pipeline = Pipeline(predictor, config, self._hold, self.predictions.put, self.comparisons.append)
        self.pipeline.limits = Limits(surprise_threshold=1e6)
        self.pipeline.active = True
        self.pipeline.start()

    def _hold(self, prediction: Prediction) -> None:
        self.busy.set()
        self.gate.wait(WAIT_S)
        self.predictions.put(prediction)

    def next(self) -> Prediction:
        result = self.predictions.get(timeout=WAIT_S)
        assert isinstance(result, Prediction), result
        return result

    def until(self, anchor_ns: int) -> Prediction:
        """The prediction with this anchor; earlier ones may or may not have been made."""
        while (prediction := self.next()).anchor_ns < anchor_ns:
            pass
        return prediction

    def image(self, k: float, shade: int = 0, late_ns: int = DELAY) -> Outcome:
        """The image of step k arrives."""
        stamp_ns = T0 + round(k * STEP)
        return self.pipeline.add_frame(frame(stamp_ns, shade), self.pipeline.receive(stamp_ns + late_ns))

    def images(self, steps: range) -> list[Outcome]:
        return [self.image(k) for k in steps]

    def plan(self, values: Any, start: float = 0, early: float = 4, names: tuple[str, ...] = NAMES) -> Trouble | None:
        """A plan of one point per step, the first one step after its start."""
        values = np.asarray(values, np.float64).reshape(-1, len(names))
        start_ns = T0 + round(start * STEP)
        times = np.arange(1, len(values) + 1) * STEP
        return self.pipeline.add_plan(Plan(self.pipeline.receive(start_ns - round(early * STEP)), start_ns, names, times, values))

    def command(self, k: float, values: Any, names: tuple[str, ...] = NAMES) -> Trouble | None:
        """One command of a stream, in force at once."""
        received_ns = self.pipeline.receive(T0 + round(k * STEP))
        return self.pipeline.add_plan(Plan(received_ns, received_ns, names, np.zeros(1, np.int64), np.array([values], np.float64)))


def frame(stamp_ns: int, shade: int = 0) -> Frame:
    return Frame(stamp_ns, np.full((*MANIFEST.image_size, 3), shade, np.uint8), "camera")


def ramp(steps: int, speed: float = 0.002) -> np.ndarray[Any, Any]:
    """x moves evenly; y and the gripper stay."""
    at = np.arange(1, steps + 1)
    return np.stack([speed * at, 0 * at, 0 * at], axis=1)


@pytest.fixture
def rigs(predictor: Predictor) -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(other: Predictor | None = None, **config: Any) -> Rig:
        made.append(Rig(other or predictor, PipelineConfig(**config)))
        return made[-1]

    yield make
    for rig in made:
        rig.gate.set()
        rig.pipeline.stop()


# Predictions


def test_an_image_after_a_plan_gives_the_predictors_own_answer_to_what_was_known(rigs, predictor):
    rig = rigs()
    rig.plan(ramp(96))
    outcomes = rig.images(range(3))
    assert outcomes[-1].trouble is None
    snapshot = outcomes[-1].request.snapshot
    prediction = rig.until(snapshot.anchor_ns)
    assert prediction.anchor_ns == snapshot.anchor_ns == T0 + 2 * STEP
    assert (len(prediction.frames), prediction.status, prediction.assumed_from) == (MANIFEST.horizon, Status.OK, MANIFEST.horizon)
    assert np.array_equal(prediction.frames, predictor.predict(snapshot).frames)
    assert prediction.plan_stamp_ns == T0


def test_the_horizon_is_the_configured_one(rigs):
    rig = rigs(horizon=10)
    rig.plan(ramp(96))
    rig.image(0)
    assert len(rig.next().frames) == 10


def test_chunks_before_the_horizon_do_not_depend_on_where_it_is(rigs):
    plans = ramp(96, speed=0.006)
    short, long = rigs(horizon=20), rigs(horizon=60)
    for rig in (short, long):
        rig.plan(plans)
        rig.image(0)
    first, second = short.next(), long.next()
    whole = segment(np.concatenate([plans[:1], plans]), MANIFEST.action_space, MANIFEST.segmentation)
    assert [c.length for c in first.chunks] == [c.length for c in whole][: len(first.chunks)]
    assert np.array_equal(first.frames, second.frames[:20])


def test_while_the_model_is_busy_the_newest_image_wins(rigs):
    rig = rigs()
    rig.plan(ramp(96))
    rig.gate.clear()
    rig.image(0)
    assert rig.busy.wait(WAIT_S)
    rig.images(range(1, 6))
    rig.gate.set()
    assert [rig.next().anchor_ns for _ in range(2)] == [T0, T0 + 5 * STEP]
    assert rig.pipeline.counters["requests_dropped"] == 4
    assert rig.pipeline.counters["requests"] == 6


def test_until_it_is_active_it_listens_and_predicts_nothing(rigs):
    rig = rigs()
    rig.pipeline.active = False
    rig.plan(ramp(96))
    rig.images(range(4))
    assert rig.pipeline.counters["requests"] == 0
    rig.pipeline.active = True
    assert rig.image(4).request.snapshot.missing_context == 0, "the context was taken in before"
    assert rig.next().anchor_ns == T0 + 4 * STEP


def test_before_any_command_it_says_what_is_missing(rigs):
    rig = rigs()
    outcome = rig.image(0)
    assert outcome.request is None
    assert "no command yet" in outcome.trouble.text
    assert rig.pipeline.counters["images_not_ready"] == 1


def test_the_rate_of_predictions_is_limited_in_camera_time(rigs):
    rig = rigs()
    rig.pipeline.limits = Limits(prediction_rate=8)
    rig.plan(ramp(200))
    jitter = np.random.default_rng(0).uniform(-0.1, 0.1, 161)
    asked = [k for k in range(161) if rig.image(k + jitter[k]).request is not None]
    assert len(asked) == pytest.approx(8 * 8, abs=1), "eight per second of the eight seconds"
    assert set(np.diff(asked)) == {2, 3}
    assert rig.pipeline.counters["images_skipped"] == 161 - len(asked)


def test_a_new_rate_holds_from_the_next_image_on(rigs):
    rig = rigs()
    rig.plan(ramp(96))
    rig.pipeline.limits = Limits(prediction_rate=0.1)
    asked = [rig.image(k).request is not None for k in range(3)]
    rig.pipeline.limits = Limits()
    assert [*asked, rig.image(3).request is not None] == [True, False, False, True]
    rig.pipeline.limits = Limits(prediction_rate=20)
    assert rig.image(4).request is not None


# Statuses


def test_after_the_plan_frames_are_assumed_or_not_predicted_as_configured(rigs):
    holding, ending = rigs(plan_extension=HOLD), rigs(plan_extension=NONE)
    for rig in (holding, ending):
        rig.plan(ramp(12))
        rig.image(0)
    held, ended = holding.next(), ending.next()
    assert (len(held.frames), held.assumed_from, held.status) == (32, 12, Status.OK)
    assert (len(ended.frames), ended.assumed_from, ended.status) == (12, 12, Status.DEGRADED)
    assert "plan_extension" in ending.image(20).trouble.text


def test_a_backend_that_is_not_the_best_degrades_every_prediction(rigs, predictor):
    second = BackendSlot(Opened(predictor.backend, cause="the GPU is lost"))
    rig = rigs(Predictor(predictor.bundle, second))
    rig.plan(ramp(96))
    rig.image(0)
    assert rig.next().status == Status.DEGRADED


def test_an_image_that_is_old_on_arrival_makes_the_prediction_stale(rigs):
    rig = rigs()
    rig.pipeline.limits = Limits(image_timeout_ns=NANOSECONDS)
    rig.plan(ramp(96))
    outcome = rig.image(0, late_ns=NANOSECONDS + 1)
    assert "1.000 s old" in outcome.trouble.text
    assert "use_sim_time" in outcome.trouble.text
    assert rig.next().status == Status.STALE_INPUT
    assert rig.pipeline.counters["images_stale"] == 1


def twist_manifest() -> dict[str, Any]:
    dimensions = (
        ActionDimension("v", "m/s", "velocity", motion_range=0.3, scale=0.1),
        ActionDimension("w", "m", "delta", motion_range=0.3, scale=0.1),
        ActionDimension("gripper", "1", "state", scale=0.5, midpoint=0.5, hysteresis=0.1, is_gripper=True),
    )
    return {"action_space": ActionSpace(dimensions)}


@pytest.fixture(scope="module")
def twist(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    bundle = write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "twist", **twist_manifest())
    return Predictor(bundle, create_backend(bundle, "ort_cpu", threads=1))


def test_a_silent_stream_of_velocities_is_stale_and_a_silent_gripper_is_not(rigs, twist):
    rig = rigs(twist)
    rig.pipeline.limits = Limits(command_timeout_ns=NANOSECONDS // 2)
    rig.command(-1, [1], names=("gripper",))
    for k in range(40):
        rig.command(k, [0.1, 0.005], names=("v", "w"))
        assert rig.image(k).trouble is None
    assert rig.pipeline.counters["commands_stale"] == 0
    troubles = [rig.image(k).trouble for k in range(40, 60)]
    assert [trouble is not None for trouble in troubles] == [False] * 9 + [True] * 11
    assert "incoming_command_timeout" in troubles[-1].text
    assert rig.pipeline.counters["commands_stale"] == 11
    rig.command(60, [0.1, 0.005], names=("v", "w"))
    assert rig.image(60).request.status == Status.OK


def test_a_trajectory_is_not_stale_before_it_is_over(rigs, twist):
    rig = rigs(twist)
    rig.pipeline.limits = Limits(command_timeout_ns=NANOSECONDS // 2)
    rig.plan(np.full((40, 3), 0.1), names=("v", "w", "gripper"))
    statuses = [rig.image(k).request.status for k in range(60)]
    assert statuses.index(Status.STALE_INPUT) == 50


def test_positions_are_held_by_the_robot_and_are_never_stale(rigs):
    rig = rigs()
    rig.pipeline.limits = Limits(command_timeout_ns=1)
    rig.plan(ramp(5))
    assert {rig.image(k).request.status for k in range(40)} == {Status.OK}


# Input that cannot be used


def test_duplicate_and_late_images_are_counted_and_ask_for_nothing(rigs):
    rig = rigs()
    rig.plan(ramp(96))
    rig.images(range(3))
    again, late = rig.image(2), rig.image(1, late_ns=STEP)
    assert (again.request, late.request) == (None, None)
    assert "seen at the same time as the one before it, expected a later one" in again.trouble.text
    assert "seen 0.050 s before the newest one, expected them in order" in late.trouble.text
    counters = rig.pipeline.counters
    assert (counters["images"], counters["requests"]) == (5, 3)
    assert (counters["frames_duplicate"], counters["frames_out_of_order"]) == (1, 1)


def test_an_image_from_the_future_is_left_out_and_the_next_one_is_predicted_from(rigs):
    rig = rigs()
    rig.plan(ramp(96))
    rig.image(0)
    outcome = rig.pipeline.add_frame(frame(T0 + STEP + 3600 * NANOSECONDS), rig.pipeline.receive(T0 + STEP))
    assert outcome.request is None
    assert "dated 3600.000 s later than the node's clock, expected one clock; it is left out" in outcome.trouble.text
    assert "image_stamp to receive" in outcome.trouble.text
    assert rig.image(2).trouble is None
    assert (rig.pipeline.counters["frames_ahead"], rig.pipeline.counters["clock_jumps"]) == (1, 0)
    assert rig.pipeline.image_age_ms.percentile(0) == pytest.approx(-3.6e6)


def test_an_image_ahead_of_the_clock_by_more_than_the_timeout_is_stale(rigs):
    rig = rigs()
    rig.pipeline.limits = Limits(image_timeout_ns=NANOSECONDS // 10)
    rig.plan(ramp(96))
    outcome = rig.pipeline.add_frame(frame(T0 + NANOSECONDS // 2), rig.pipeline.receive(T0))
    assert "is dated 0.500 s later than the node's clock, expected at most 0.1 s (image_timeout)" in outcome.trouble.text
    assert outcome.request.status == Status.STALE_INPUT


def test_an_old_image_that_nothing_can_be_predicted_from_is_said_to_be_old(rigs):
    rig = rigs()
    rig.pipeline.limits = Limits(image_timeout_ns=NANOSECONDS)
    rig.plan(ramp(96))
    outcome = rig.image(-72_000, late_ns=3600 * NANOSECONDS)
    assert "is 3600.000 s old" in outcome.trouble.text
    assert [rig.pipeline.counters[name] for name in ("images_stale", "images_not_ready")] == [1, 1]


def test_samples_of_a_stream_out_of_order_are_refused_and_the_remedy_named(rigs):
    rig = rigs()
    for stamp in (3, 1):
        received_ns, start_ns = rig.pipeline.receive(T0 + 5 * STEP), T0 + stamp * STEP
        trouble = rig.pipeline.add_plan(Plan(received_ns, start_ns, NAMES, np.zeros(1, np.int64), np.zeros((1, 3))))
    assert "take effect before the ones before them, expected them in order; they are left out" in trouble.text
    assert "stamp be 'receive'" in trouble.text
    assert rig.pipeline.counters["plans_out_of_order"] == 1


def test_commands_without_a_camera_make_room_and_that_is_said(rigs, monkeypatch):
    monkeypatch.setattr("longscape_ros.timeline.MOST_PLANS", 3)
    rig = rigs()
    troubles = [rig.command(k, [0.1 * k, 0, 0]) for k in range(4)]
    assert [trouble.kind for trouble in troubles if trouble] == ["plans_dropped"]
    assert rig.pipeline.counters["plans_dropped"] == 1


def test_commands_that_are_over_repeated_or_of_other_names_are_refused_and_counted(rigs):
    rig = rigs()
    assert rig.plan(ramp(96)) is None
    assert "repeat" in rig.plan(ramp(96)).text
    past = rig.plan(ramp(5), start=-50, early=-20).text
    assert "that were over 0.7" in past
    assert "use_sim_time" in past
    assert "['elbow'] that the model has not" in rig.command(1, [1.0], names=("elbow",)).text
    counters = rig.pipeline.counters
    assert [counters[name] for name in ("commands", "plans_duplicate", "plans_past", "plans_unknown")] == [4, 1, 1, 1]


def test_commands_dated_by_a_clock_that_is_ahead_are_taken_and_the_remedy_named(rigs):
    rig = rigs()
    said = rig.plan(ramp(96), early=72_000).text
    assert "begin 3600" in said
    assert "they are taken" in said
    assert "stamp be 'receive'" in said
    assert [rig.pipeline.counters[name] for name in ("commands", "plans_ahead")] == [1, 1]


def test_a_prediction_that_fails_is_reported_and_the_next_one_is_made(rigs, predictor, monkeypatch):
    rig = rigs()
    rig.plan(ramp(96))
    denoise = predictor.backend.denoise
    monkeypatch.setattr(predictor.backend, "denoise", lambda *a: (_ for _ in ()).throw(InputError("no")))
    rig.image(0)
    assert isinstance(rig.predictions.get(timeout=WAIT_S), InputError)
    monkeypatch.setattr(predictor.backend, "denoise", denoise)
    rig.image(1)
    assert rig.next().anchor_ns == T0 + STEP
    assert rig.pipeline.counters["inference_errors"] == 1


def test_nothing_piles_up_while_predictions_fail(rigs, predictor, monkeypatch):
    rig = rigs()
    rig.plan(ramp(96))
    monkeypatch.setattr(predictor.backend, "denoise", lambda *a: (_ for _ in ()).throw(InputError("no")))
    for step in range(6):
        rig.image(step)
        assert isinstance(rig.predictions.get(timeout=WAIT_S), InputError)
    assert len(rig.pipeline._asked) <= 1


def test_a_configuration_below_zero_is_refused():
    with pytest.raises(InputError, match="expected none below 0"):
        PipelineConfig(horizon=-1)


# Receive times and clocks


def test_receive_times_tell_the_order_even_where_the_clock_stands_still(rigs):
    pipeline = rigs().pipeline
    assert [pipeline.receive(T0), pipeline.receive(T0), pipeline.receive(T0 - 5), pipeline.receive(T0 + 10)] == [
        T0,
        T0 + 1,
        T0 + 2,
        T0 + 10,
    ]


def test_a_plan_that_arrives_after_the_image_is_not_in_its_prediction(rigs):
    rig = rigs()
    rig.plan(ramp(96))
    first = rig.image(0).request.snapshot
    rig.plan(ramp(96, speed=0.01), start=1, early=0.5)
    second = rig.image(1).request.snapshot
    assert first.plan_stamp_ns == T0
    assert second.plan_stamp_ns == T0 + STEP


def test_a_clock_that_goes_back_flushes_everything(rigs):
    rig = rigs()
    rig.plan(ramp(96))
    rig.images(range(40))
    assert "no command yet" in rig.image(-200).trouble.text
    assert rig.pipeline.counters["clock_jumps"] == 1
    assert "no command yet" in rig.image(-199).trouble.text
    rig.plan(ramp(96), start=-198, early=0)
    outcome = rig.image(-198)
    assert outcome.request.snapshot.missing_context == 1, "only the images since the jump count"
    rig.until(T0 - 198 * STEP)
    assert not [c for c in rig.comparisons if c.stamp_ns < T0], "predictions from before the jump say nothing"


def test_stamps_that_go_back_under_a_steady_clock_flush_too(rigs):
    rig = rigs()
    rig.plan(ramp(400))
    rig.images(range(60))
    trouble = rig.pipeline.add_frame(frame(T0), rig.pipeline.receive(T0 + 60 * STEP)).trouble
    assert "seen 2.950 s before the newest one, expected stamps that go forward" in trouble.text
    assert rig.pipeline.counters["clock_jumps"] == 1
    assert rig.pipeline.newest_image_ns == T0


def test_a_clock_that_jumps_forward_is_followed(rigs):
    rig = rigs()
    rig.plan(ramp(96))
    rig.images(range(5))
    hour = 3600 * NANOSECONDS // STEP
    rig.plan(ramp(96), start=hour)
    outcomes = rig.images(range(hour, hour + 5))
    assert {outcome.request.status for outcome in outcomes} == {Status.OK}
    assert outcomes[0].request.snapshot.missing_context == MANIFEST.context - 1
    assert outcomes[-1].request.snapshot.missing_context == 0
    assert [rig.pipeline.counters[name] for name in ("clock_jumps", "segmentation_restarts", "frames_ahead")] == [0, 1, 0]


def test_a_reset_forgets_images_and_commands_and_keeps_the_counts(rigs):
    rig = rigs()
    rig.plan(ramp(96))
    rig.images(range(3))
    rig.pipeline.reset()
    assert rig.pipeline.newest_image_ns is None
    assert rig.image(3).request is None
    assert rig.pipeline.counters["images"] == 4


def test_the_cameras_latency_moves_every_stamp(rigs):
    rig = rigs(image_latency_ns=2 * STEP)
    rig.plan(ramp(96), start=-10)
    rig.image(0)
    assert rig.next().anchor_ns == T0 - 2 * STEP


# Chunks of what is executed


def executed(rig: Rig, steps: range, every: float = 1.0) -> list[tuple[int, int, EndReason]]:
    """(begin, length, reason) of the chunks that ended, in grid steps since T0."""
    ended = []
    for k in np.arange(steps.start, steps.stop, every):
        ended += rig.image(float(k)).ended
    return [((e.begin_ns - T0) // STEP, round((e.end_ns - e.begin_ns) / STEP), e.chunk.reason) for e in ended]


def mixed(steps: int) -> np.ndarray[Any, Any]:
    """Slow, then fast, with a gripper that closes at step 70."""
    at = np.arange(1, steps + 1)
    return np.stack([0.002 * at + 0.02 * np.maximum(at - 40, 0), 0.0 * at, at >= 70], axis=1)


def test_the_chunks_of_executed_motion_are_those_of_the_rule(rigs):
    rig = rigs()
    plan = mixed(140)
    rig.plan(plan)
    found = executed(rig, range(100))
    whole = segment(np.concatenate([plan[:1], plan]), MANIFEST.action_space, MANIFEST.segmentation)
    assert found == [(c.start, c.length, c.reason) for c in whole][: len(found)]
    assert EndReason.GRIPPER in [reason for *_, reason in found]


@pytest.mark.parametrize("every", [0.5, 0.667, 1.5, 2.9])
def test_a_camera_of_another_rate_gives_the_same_chunks(rigs, every):
    rig, plan = rigs(), mixed(140)
    rig.plan(plan)
    whole = segment(np.concatenate([plan[:1], plan]), MANIFEST.action_space, MANIFEST.segmentation)
    found = executed(rig, range(100), every)
    same = [f[:2] == (c.start, c.length) for f, c in zip(found, whole, strict=False)]
    assert len(found) >= 3
    assert sum(same) >= len(found) - 1, "a boundary may move by a base window where motion ends a chunk at its very end"


def test_velocities_accumulate_over_the_executed_steps(rigs, twist):
    rig = rigs(twist)
    rig.plan(np.tile([0.1, 0.005, 0.0], (200, 1)), names=("v", "w", "gripper"))
    speed = np.arange(201) * 0.005
    motion = np.stack([speed, speed, 0 * speed], axis=1)
    whole = segment(motion, twist.bundle.manifest.action_space, twist.bundle.manifest.segmentation)
    found = executed(rig, range(120))
    assert len(found) >= 3
    assert found == [(c.start, c.length, c.reason) for c in whole][: len(found)]


def test_after_a_gap_longer_than_the_context_the_chunks_begin_anew(rigs):
    rig = rigs()
    rig.plan(ramp(140))
    rig.images(range(5))
    rig.image(5 + MANIFEST.context)
    assert rig.pipeline.counters["segmentation_restarts"] == 1
    begins = [begin for begin, *_ in executed(rig, range(10, 60))]
    assert begins[0] == 5 + MANIFEST.context


# Surprise


def watched(rig: Rig, steps: range, shade: int = 0) -> list[Comparison]:
    """What the images of some steps are found to be, each after its prediction is made."""
    before = len(rig.comparisons)
    for k in steps:
        rig.image(k, shade)
        rig.until(T0 + k * STEP)
    rig.pipeline.stop()  # the last comparison may follow its prediction by a moment
    return rig.comparisons[before:]


def test_an_image_as_the_autoencoder_shows_it_is_compared_with_the_newest_prediction_that_is_old_enough(rigs, predictor):
    rig = rigs()
    rig.plan(ramp(96))
    comparisons = watched(rig, range(LEAST_STEPS + 3))
    assert [(c.stamp_ns - T0) // STEP for c in comparisons] == [LEAST_STEPS, LEAST_STEPS + 1, LEAST_STEPS + 2]
    assert [(c.stamp_ns - c.anchor_ns) // STEP for c in comparisons] == [LEAST_STEPS] * 3
    first, last = comparisons[0], comparisons[-1]
    backend = predictor.backend
    assert np.array_equal(first.shown, backend.start_decoding(backend.encode(frame(T0).rgb[np.newaxis]))()[0])
    assert first.frame_id == "camera"
    assert last.error == pytest.approx(float(last.errors.max()))
    x, y = last.place
    assert last.errors[y, x] == last.errors.max()


def test_an_image_is_a_surprise_beyond_the_threshold_only(rigs):
    calm, nervous = rigs(), rigs()
    for rig, threshold in ((calm, 1e6), (nervous, 1e-6)):
        rig.pipeline.limits = Limits(surprise_threshold=threshold)
        rig.plan(ramp(96))
    assert {c.state for c in watched(calm, range(8))} == {State.EXPECTED}
    assert [c.state for c in watched(nervous, range(8), shade=200)] == [State.EXPECTED, *[State.SURPRISED] * (7 - LEAST_STEPS)]
    assert [rig.pipeline.counters["images_surprising"] for rig in (calm, nervous)] == [0, 7 - LEAST_STEPS]


def test_after_a_replan_images_are_not_comparable_until_predictions_know_of_it(rigs):
    rig = rigs()
    rig.plan(ramp(96))
    for k in range(10):
        rig.image(k)
        rig.until(T0 + k * STEP)
    rig.plan(ramp(96, speed=-0.02), start=10, early=0.5)
    comparisons = watched(rig, range(10, 20))
    states = {(c.stamp_ns - T0) // STEP: c.state for c in rig.comparisons}
    assert states[9] is not State.NOT_COMPARABLE
    assert states[10] is not State.NOT_COMPARABLE, "the new plan has not moved anything yet"
    assert [states[k] for k in (12, 13)] == [State.NOT_COMPARABLE] * 2
    assert states[19] is not State.NOT_COMPARABLE, "the prediction of five steps ago knew the new plan"
    missing = [c for c in comparisons if c.state is State.NOT_COMPARABLE]
    assert all(np.isnan(c.error) and c.errors is None and c.place == (0, 0) for c in missing)
    assert rig.pipeline.counters["images_not_comparable"] == len(missing)


def test_a_new_plan_of_the_same_commands_changes_nothing(rigs):
    rig, plan = rigs(), ramp(96)
    rig.plan(plan)
    for k in range(10):
        rig.image(k)
        rig.until(T0 + k * STEP)
    rig.plan(plan[10:], start=10, early=0.5)
    assert State.NOT_COMPARABLE not in {c.state for c in watched(rig, range(10, 18))}


def test_a_threshold_of_zero_switches_comparing_off(rigs):
    rig = rigs()
    rig.pipeline.limits = Limits()
    rig.plan(ramp(96))
    requests = [rig.image(k).request for k in range(8)]
    assert not any(request.show_anchor for request in requests)
    assert watched(rig, range(8, 14)) == []


def test_nothing_is_compared_where_nothing_was_predicted(rigs):
    rig = rigs()
    rig.plan(ramp(300))
    assert watched(rig, range(0, 100, MANIFEST.horizon)) == []


# Parity


def test_the_predictions_of_a_run_are_those_of_a_second_run_with_the_same_receive_times(rigs):
    def run() -> list[Prediction]:
        rig = rigs()
        made = []
        for k in range(60):
            if k % 16 == 0:
                rig.plan(mixed(96)[k : k + 80], start=k, early=3 - 0.3 * k / 16)
            if rig.image(k, shade=4 * k).request is not None:
                made.append(rig.next())
        return made

    first, second = run(), run()
    assert len(first) == 60
    for one, two in zip(first, second, strict=True):
        assert np.array_equal(one.frames, two.frames)
        assert (one.chunks, one.seed, one.plan_stamp_ns) == (two.chunks, two.seed, two.plan_stamp_ns)


def test_after_stop_nothing_comes_out(rigs):
    rig = rigs()
    rig.plan(ramp(96))
    rig.pipeline.stop()
    rig.image(0)
    with pytest.raises(Empty):
        rig.predictions.get(timeout=0.1)


def test_a_snapshot_is_made_of_one_timeline_and_of_nothing_else(rigs):
    rig = rigs()
    timeline = Timeline(timeline_config(MANIFEST, MANIFEST.horizon, HOLD))
    plan = Plan(T0 - 4 * STEP, T0, NAMES, np.arange(1, 97) * STEP, ramp(96).astype(np.float64))
    rig.pipeline.add_plan(plan)
    timeline.add_plan(plan)
    for k in range(6):
        image = frame(T0 + k * STEP, shade=k)
        made = rig.pipeline.add_frame(image, rig.pipeline.receive(image.stamp_ns + DELAY)).request.snapshot
        timeline.add_frame(image)
        expected = timeline.snapshot(known_by_ns=image.stamp_ns + DELAY)
        assert np.array_equal(made.context, expected.context)
        assert np.array_equal(made.motion, expected.motion)
        assert (made.anchor_ns, made.plan_stamp_ns, made.assumed_from) == (
            expected.anchor_ns,
            expected.plan_stamp_ns,
            expected.assumed_from,
        )
