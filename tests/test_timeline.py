# SPDX-License-Identifier: Apache-2.0
"""Frames and plans on the grid: kinds, interpolation, replacement, extension, knowledge, clocks, recordings."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from longscape_ros.contract import NANOSECONDS, ActionDimension, ActionSpace, Episode, Frame, Plan, PlanExtension
from longscape_ros.errors import InputError, NotReadyError
from longscape_ros.images import resize_rgb
from longscape_ros.timeline import AHEAD_NS, MOST_PLANS, PLAN_AHEAD_NS, Timeline, TimelineConfig, episode_grid

MS = NANOSECONDS // 1000
STEP = 50 * MS  # 20 Hz
T0 = 1000 * NANOSECONDS
X, Y = ActionDimension("x"), ActionDimension("y")
SPEED = ActionDimension("speed", kind="velocity")
DELTA = ActionDimension("delta", kind="delta")
GRIPPER = ActionDimension("gripper", kind="state", midpoint=0.5, is_gripper=True)
HOLD = PlanExtension.HOLD


def timeline(*dimensions: ActionDimension, hold: PlanExtension = PlanExtension.NONE, context: int = 3, latency_ns: int = 0) -> Timeline:
    return Timeline(TimelineConfig(20.0, context, 8, (4, 4), ActionSpace(dimensions or (X,)), hold, latency_ns))


def frame(at_ns: int, shade: int = 0) -> Frame:
    return Frame(at_ns, np.full((4, 4, 3), shade, dtype=np.uint8), "camera")


def plan(start_ns, values, *, names=("x",), times=None, received=None, velocities=None, accelerations=None) -> Plan:
    """A plan of one point per step, the first at its start, received when it starts."""
    values = np.atleast_2d(np.asarray(values, dtype=np.float64))
    values = values.reshape(-1, len(names))
    times = np.arange(len(values)) * STEP if times is None else np.asarray(times)
    derivatives = [None if d is None else np.asarray(d, dtype=np.float64).reshape(values.shape) for d in (velocities, accelerations)]
    return Plan(start_ns if received is None else received, start_ns, names, times.astype(np.int64), values, *derivatives)


def filled(*plans: Plan, frames: int = 3, **options) -> Timeline:
    result = timeline(*options.pop("dimensions", ()), **options)
    for p in plans:
        assert result.add_plan(p)
    for k in reversed(range(frames)):
        assert result.add_frame(frame(T0 - k * STEP, shade=k))
    return result


# Frames


def test_the_context_is_the_newest_frames_on_the_grid():
    snapshot = filled(plan(T0, np.arange(9))).snapshot()
    assert snapshot.anchor_ns == T0
    assert snapshot.context[:, 0, 0, 0].tolist() == [2, 1, 0]
    assert (snapshot.missing_context, snapshot.frame_id) == (0, "camera")


def test_a_faster_camera_gives_the_nearest_frames():
    line = timeline()
    line.add_plan(plan(T0, np.arange(9)))
    for k in range(10, -1, -1):  # 60 Hz
        line.add_frame(frame(T0 - k * NANOSECONDS // 60, shade=k))
    assert line.snapshot().context[:, 0, 0, 0].tolist() == [6, 3, 0]


def test_a_missing_frame_repeats_its_neighbour_and_is_counted():
    line = timeline(context=4)
    line.add_plan(plan(T0, np.arange(9)))
    line.add_frame(frame(T0 - 3 * STEP, 3))
    line.add_frame(frame(T0 - STEP + 20 * MS, 1))  # late, but within half a period
    line.add_frame(frame(T0, 0))
    snapshot = line.snapshot()
    assert snapshot.context[:, 0, 0, 0].tolist() == [3, 1, 1, 0]
    assert snapshot.missing_context == line.counters["frames_missing"] == 1


def test_the_first_frame_alone_fills_the_context():
    snapshot = filled(plan(T0, np.arange(9)), frames=1).snapshot()
    assert snapshot.context[:, 0, 0, 0].tolist() == [0, 0, 0]
    assert snapshot.missing_context == 2


def test_duplicate_and_late_frames_are_refused_and_counted():
    line = filled(plan(T0, np.arange(9)))
    before = line.snapshot()
    assert not line.add_frame(frame(T0, shade=9))
    assert not line.add_frame(frame(T0 - STEP, shade=9))
    assert (line.counters["frames_duplicate"], line.counters["frames_out_of_order"]) == (1, 1)
    assert_equal(line.snapshot(), before)


def test_frames_from_the_future_are_refused_and_counted_and_disturb_nothing():
    line = filled(plan(T0, np.arange(9)))
    before = line.snapshot()
    assert not line.add_frame(frame(T0 + 500 * NANOSECONDS), received_ns=T0 + STEP)
    assert (line.counters["frames_ahead"], line.counters["clock_jumps"]) == (1, 0)
    assert_equal(line.snapshot(), before)
    assert line.add_frame(frame(T0 + STEP), received_ns=T0 + STEP - AHEAD_NS), "a clock may be coarse"
    assert line.counters["clock_jumps"] == 0


def test_a_frames_latency_counts_when_it_is_compared_with_its_arrival():
    line = timeline(latency_ns=AHEAD_NS)
    assert line.add_frame(frame(T0 + 2 * AHEAD_NS), received_ns=T0)
    assert not line.add_frame(frame(T0 + 2 * AHEAD_NS + 1), received_ns=T0)


def test_a_clock_that_is_set_back_forgets_everything():
    line = filled(plan(T0, np.arange(9)))
    assert line.add_frame(frame(T0 - 500 * NANOSECONDS))
    assert line.counters["clock_jumps"] == 1
    assert line.newest_frame_ns == T0 - 500 * NANOSECONDS
    with pytest.raises(NotReadyError, match=r"no command yet for \['x'\]"):
        line.snapshot()


def test_a_plan_can_be_the_first_to_show_that_the_clock_was_set_back():
    line = filled(plan(T0, np.arange(9)))
    early = T0 - 500 * NANOSECONDS
    assert line.add_plan(plan(early, np.arange(9)))
    assert line.add_frame(frame(early))
    assert line.counters["clock_jumps"] == 1
    assert line.snapshot().steps == 8


def test_the_image_latency_shifts_the_frames_against_the_commands():
    line = timeline(latency_ns=STEP)
    line.add_plan(plan(T0 - STEP, np.arange(12)))
    line.add_frame(frame(T0))
    snapshot = line.snapshot()
    assert snapshot.anchor_ns == line.newest_frame_ns == T0 - STEP
    assert snapshot.motion[2:, 0].tolist() == list(range(9))


def test_an_older_anchor_sees_no_newer_frame():
    line = filled(plan(T0 - 3 * STEP, np.arange(20)), frames=6)
    snapshot = line.snapshot(anchor_ns=T0 - STEP + 1)
    assert snapshot.anchor_ns == T0 - STEP
    assert snapshot.context[:, 0, 0, 0].tolist() == [3, 2, 1]
    with pytest.raises(NotReadyError, match="no image at or before"):
        line.snapshot(anchor_ns=T0 - NANOSECONDS)


def test_without_an_image_there_is_no_snapshot():
    line = timeline()
    line.add_plan(plan(T0, np.arange(9)))
    assert line.newest_frame_ns is None
    with pytest.raises(NotReadyError, match="Got no image yet"):
        line.snapshot()


# Plans: interpolation


def test_positions_are_read_at_the_ends_of_the_steps():
    snapshot = filled(plan(T0 - 2 * STEP, np.arange(20))).snapshot()
    assert snapshot.motion[:, 0].tolist() == list(range(11))
    assert (snapshot.steps, snapshot.assumed_from, snapshot.plan_stamp_ns) == (8, 8, T0 - 2 * STEP)


def test_points_between_the_steps_are_interpolated_linearly():
    snapshot = filled(plan(T0 - 2 * STEP, [0.0, 10.0], times=[0, 10 * STEP])).snapshot()
    np.testing.assert_allclose(snapshot.motion[:, 0], np.arange(11))


@pytest.mark.parametrize("degree", [3, 5])
def test_velocities_make_the_interpolation_cubic_and_accelerations_quintic(degree):
    curve = np.polynomial.Polynomial(np.random.default_rng(degree).normal(size=degree + 1))
    knots = np.array([0.0, 0.27, 0.6])
    derivatives = [curve.deriv(n)(knots) for n in (1, 2)]
    given = {"velocities": derivatives[0]} | ({"accelerations": derivatives[1]} if degree == 5 else {})
    p = plan(T0 - 2 * STEP, curve(knots), times=knots * NANOSECONDS, **given)
    snapshot = filled(p).snapshot()
    np.testing.assert_allclose(snapshot.motion[:, 0], curve(np.arange(11) * 0.05), atol=1e-9)


def test_a_plan_begins_with_a_segment_from_the_position_held_until_then():
    line = filled(plan(T0 - 10 * STEP, [4.0]), plan(T0, [0.0, 8.0], times=[4 * STEP, 8 * STEP]))
    assert line.snapshot().motion[:, 0].tolist() == [4, 4, 4, 3, 2, 1, 0, 2, 4, 6, 8]


def test_a_plan_begins_with_the_speed_that_was_commanded_until_then():
    moving = plan(T0 - 4 * STEP, [0.0, 20.0], times=[0, 20 * STEP], velocities=[20.0, 20.0])  # 1 per step
    stopping = plan(T0, [8.0], times=[4 * STEP], velocities=[0.0])
    motion = filled(moving, stopping, hold=HOLD).snapshot().motion[:, 0]
    s = np.arange(5) / 4
    hermite = 4 * (2 * s**3 - 3 * s**2 + 1) + 4 * (s**3 - 2 * s**2 + s) + 8 * (3 * s**2 - 2 * s**3)  # slope 4 per 4 steps at first
    np.testing.assert_allclose(motion[2:7], hermite)
    np.testing.assert_allclose(motion[7:], 8)


def test_before_the_first_command_a_position_stands_at_it():
    snapshot = filled(plan(T0 + 2 * STEP, [3.0, 5.0], times=[STEP, 3 * STEP]), hold=HOLD).snapshot()
    assert snapshot.motion[:, 0].tolist() == [3, 3, 3, 3, 3, 3, 4, 5, 5, 5, 5]
    assert snapshot.assumed_from == 0


# Plans: replacement and time


def test_a_newer_plan_replaces_the_older_from_its_own_start_on():
    old = plan(T0 - 2 * STEP, np.zeros(20))
    new = plan(T0 + 4 * STEP, np.full(8, 7.0), received=T0 - STEP)
    snapshot = filled(old, new).snapshot()
    assert snapshot.motion[:, 0].tolist() == [0] * 6 + [7] * 5
    assert snapshot.plan_stamp_ns == T0 + 4 * STEP


def test_a_newer_plan_that_starts_earlier_replaces_the_whole_older_one():
    later = plan(T0 + 2 * STEP, np.full(12, 1.0), received=T0 - 2 * STEP)
    sooner = plan(T0, np.full(12, 2.0), received=T0 - STEP)
    assert filled(later, sooner).snapshot().motion[3:, 0].tolist() == [2] * 8


def test_points_that_were_past_when_received_are_dropped():
    old = plan(T0 - 10 * STEP, [4.0])
    late = plan(T0 - 4 * STEP, np.arange(100.0, 116.0), received=T0 - STEP // 2)
    motion = filled(old, late).snapshot().motion[:, 0]
    assert motion.tolist() == [4, 4, 104, 105, 106, 107, 108, 109, 110, 111, 112]  # 104 is the first that was not past


def test_a_plan_that_was_over_when_received_is_refused():
    line = filled(plan(T0, np.arange(9)))
    assert not line.add_plan(plan(T0 - 10 * STEP, [1.0, 2.0], received=T0))
    assert line.counters["plans_past"] == 1


def test_a_plan_that_begins_long_after_it_was_received_is_taken_and_counted():
    line = filled(plan(T0, np.arange(9)))
    assert line.add_plan(plan(T0 + PLAN_AHEAD_NS, [1.0, 2.0], received=T0))
    assert line.counters["plans_ahead"] == 0
    assert line.add_plan(plan(T0 + PLAN_AHEAD_NS + 1, [1.0, 2.0], received=T0))
    assert line.counters["plans_ahead"] == 1


def test_a_plan_shorter_than_the_horizon_ends_the_prediction():
    snapshot = filled(plan(T0, np.arange(6))).snapshot()
    assert (snapshot.steps, snapshot.assumed_from) == (5, 5)


def test_rounded_nanoseconds_do_not_cut_the_last_step():
    config = TimelineConfig(15.0, 1, 8, (4, 4), ActionSpace((X, DELTA)))
    line = Timeline(config)
    times = [int(k * NANOSECONDS / 15) for k in range(9)]  # truncated; the grid rounds
    line.add_plan(plan(T0, np.ones((9, 2)), names=("x", "delta"), times=times))
    line.add_frame(frame(T0))
    snapshot = line.snapshot()
    assert snapshot.steps == 8
    assert snapshot.motion[:, 1].tolist() == list(range(9))


def test_a_held_plan_goes_on_and_says_from_where():
    snapshot = filled(plan(T0, np.arange(6)), hold=HOLD).snapshot()
    assert (snapshot.steps, snapshot.assumed_from) == (8, 5)
    assert snapshot.motion[3:, 0].tolist() == [1, 2, 3, 4, 5, 5, 5, 5]


def test_a_stream_needs_hold():
    line = filled(plan(T0 - MS, [3.0]))
    with pytest.raises(NotReadyError, match=r"no command for \['x'\] after the newest image.*plan_extension to 'hold'"):
        line.snapshot()
    snapshot = filled(plan(T0 - MS, [3.0]), hold=HOLD).snapshot()
    assert (snapshot.steps, snapshot.assumed_from) == (8, 0)


def test_a_dimension_without_any_command_is_named():
    line = filled(plan(T0, np.arange(9)), dimensions=(X, Y, GRIPPER), hold=HOLD)
    with pytest.raises(NotReadyError, match=r"no command yet for \['y', 'gripper'\]"):
        line.snapshot()


def test_a_stream_sample_lasts_until_the_next():
    samples = [plan(T0 - 2 * STEP + k * 30 * MS, [float(k)]) for k in range(12)]
    snapshot = filled(*samples).snapshot()
    assert snapshot.motion[:, 0].tolist() == [0, 1, 3, 5, 6, 8, 10]  # until the last sample, 230 ms after the anchor
    assert snapshot.steps == snapshot.assumed_from == 4


def test_one_point_with_a_time_is_approached_as_the_controller_does():
    samples = [plan(T0 + 4 * k * STEP, [4.0 * k], times=[4 * STEP]) for k in range(-1, 3)]
    np.testing.assert_allclose(filled(*samples).snapshot().motion[2:, 0], [-4, -3, -2, -1, 0, 1, 2, 3, 4])


# Plans: other kinds


def test_velocities_are_integrated_between_their_points_and_held():
    p = plan(T0 + STEP // 2, [2.0, -4.0], names=("speed",), times=[0, 2 * STEP])
    snapshot = filled(plan(T0 - 9 * STEP, [1.0], names=("speed",)), p, dimensions=(SPEED,), hold=HOLD).snapshot()
    np.testing.assert_allclose(np.diff(snapshot.motion[:, 0]) / 0.05, [1, 1, 1.5, 2, -1, -4, -4, -4, -4, -4])
    assert snapshot.motion[2, 0] == 0
    assert snapshot.assumed_from == 2


def test_a_velocity_that_was_in_force_when_its_plan_came_late_is_kept():
    late = plan(T0 - 4 * STEP, np.arange(16.0), names=("speed",), received=T0 + STEP // 2)
    steps = np.diff(filled(late, dimensions=(SPEED,)).snapshot().motion[:, 0]) / 0.05
    np.testing.assert_allclose(steps, [0, 0, 2, 5, 6, 7, 8, 9, 10, 11])


def test_deltas_are_summed_over_the_steps():
    samples = [plan(T0 - STEP + k * 20 * MS, [10.0**k], names=("delta",)) for k in range(1, 9)]
    motion = filled(*samples, dimensions=(DELTA,)).snapshot().motion[:, 0]
    assert np.diff(motion).tolist() == [0, 110, 111000, 11000000]


def test_a_held_stream_of_deltas_goes_on_at_its_own_rate():
    slow = [plan(T0 - k * 100 * MS, [3.0], names=("delta",)) for k in (4, 3, 2, 1, 0)]
    np.testing.assert_allclose(np.diff(filled(*slow, dimensions=(DELTA,), hold=HOLD).snapshot().motion[2:, 0]), 1.5)
    fast = [plan(T0 - 2 * STEP + k * 10 * MS, [3.0], names=("delta",)) for k in range(1, 13)]  # until 20 ms after the anchor
    np.testing.assert_allclose(np.diff(filled(*fast, dimensions=(DELTA,), hold=HOLD).snapshot().motion[:, 0]), 15)


def test_a_single_delta_is_held_once_per_step():
    snapshot = filled(plan(T0 - MS, [3.0], names=("delta",)), dimensions=(DELTA,), hold=HOLD).snapshot()
    assert np.diff(snapshot.motion[:, 0]).tolist() == [0, 3] + [3] * 8


def test_states_are_held():
    p = plan(T0, [0.0, 1.0], names=("gripper",), times=[0, 125 * MS])
    snapshot = filled(p, dimensions=(GRIPPER,), hold=HOLD).snapshot()
    assert snapshot.motion[:, 0].tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(("dimension", "expected"), [(X, 5.0), (GRIPPER, 5.0), (SPEED, 0.0), (DELTA, 0.0)])
def test_a_plan_whose_first_point_is_never_reached_still_counts(dimension, expected):
    far = plan(T0, [5.0, 6.0], names=(dimension.name,), times=[40 * STEP, 41 * STEP], received=T0 - MS)
    replacing = plan(T0 + 20 * STEP, [7.0, 7.0], names=(dimension.name,), received=T0)
    snapshot = filled(far, replacing, dimensions=(dimension,), hold=HOLD).snapshot()
    assert snapshot.motion[:, 0].tolist() == [expected] * 11
    assert snapshot.assumed_from == 8


def test_sources_that_carry_some_dimensions_each_are_merged_by_name():
    arm = plan(T0, np.stack([np.arange(9), 10 * np.arange(9), np.zeros(9)], axis=1), names=("y", "x", "elbow"))
    hand = plan(T0 - STEP, [1.0] * 6, names=("gripper",))
    snapshot = filled(hand, arm, dimensions=(X, Y, GRIPPER)).snapshot()
    assert snapshot.motion[3].tolist() == [10, 1, 1]
    assert snapshot.steps == 4  # where the shorter plan is over
    assert snapshot.plan_stamp_ns == T0


# Refusals


def test_plans_of_other_joints_are_refused_and_counted():
    line = timeline()
    assert not line.add_plan(plan(T0, [1.0], names=("elbow",)))
    assert not line.add_plan(plan(T0, [[1.0, 2.0]], names=("x", "x")))
    assert line.counters["plans_unknown"] == 2


def test_repeated_plans_are_refused_and_counted():
    line = timeline()
    p = plan(T0, [1.0, 2.0], received=T0, velocities=[0.0, 0.0])
    assert line.add_plan(p)
    assert not line.add_plan(plan(T0, [1.0, 2.0], received=T0 + MS, velocities=[0.0, 0.0]))
    assert line.add_plan(plan(T0, [1.0, 2.0], received=T0 + MS))
    assert line.counters["plans_duplicate"] == 1


def test_samples_of_a_stream_out_of_order_are_refused_and_counted():
    line = timeline()
    assert line.add_plan(plan(T0, [1.0], received=T0 + MS))
    assert not line.add_plan(plan(T0 - 5 * MS, [2.0], received=T0 + 2 * MS))
    assert line.counters["plans_out_of_order"] == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"fps": 0.0}, "Got fps = 0.0"),
        ({"context": 0}, "Got 0 context frames"),
        ({"horizon": 0}, "a horizon of 0 steps"),
        ({"image_size": (0, 4)}, "Got image size"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(options, text):
    sound = {"fps": 20.0, "context": 3, "horizon": 8, "image_size": (4, 4), "space": ActionSpace((X,))}
    with pytest.raises(InputError, match=text):
        TimelineConfig(**(sound | options))


# Knowledge, order, memory

SPACE = (X, SPEED, DELTA, GRIPPER)


@st.composite
def plans(draw: st.DrawFn, most: int = 12) -> list[Plan]:
    """Streams and plans of all kinds of dimensions around the anchor, by receive time, each received at its own time."""
    result = []
    received = sorted(draw(st.lists(st.integers(-120, 8), min_size=1, max_size=most, unique=True)))
    for at in received:
        names = draw(st.sampled_from([tuple(d.name for d in SPACE), ("x", "speed"), ("delta", "gripper"), ("gripper",), ("delta",)]))
        count = draw(st.sampled_from([1, 1, 3, 20]))
        random = np.random.default_rng(draw(st.integers(0, 1000)))
        start = T0 + (at + draw(st.sampled_from([0, 0, -1, 3, 8]))) * 25 * MS
        times = np.cumsum(random.integers(0 if draw(st.booleans()) else 1, 90, count)) * MS
        derivatives = [random.normal(size=(count, len(names))) if draw(st.booleans()) else None for _ in range(2)]
        result.append(Plan(T0 + at * 25 * MS, start, names, times, random.normal(size=(count, len(names))), *derivatives))
    return result


def assert_equal(a, b) -> None:
    assert np.array_equal(a.motion, b.motion)
    assert np.array_equal(a.context, b.context)
    for name in ("anchor_ns", "assumed_from", "plan_stamp_ns", "missing_context"):
        assert getattr(a, name) == getattr(b, name)


def snapshot_or_reason(line: Timeline, **options):
    try:
        return line.snapshot(**options)
    except NotReadyError as error:
        return str(error)


def assert_same(a, b) -> None:
    if isinstance(a, str) or isinstance(b, str):
        assert a == b
    else:
        assert_equal(a, b)


@settings(max_examples=150)
@given(plans(), st.integers(-20, 10), st.sampled_from(PlanExtension))
def test_later_plans_never_change_what_was_known_before(received, known_by, hold):
    known_by_ns = T0 + known_by * 25 * MS
    everything, known = timeline(*SPACE, hold=hold), timeline(*SPACE, hold=hold)
    for line, upto in ((everything, max(p.received_ns for p in received)), (known, known_by_ns)):
        for k in (2, 1, 0):
            line.add_frame(frame(T0 - k * STEP, k))
        for p in received:
            if p.received_ns <= upto:
                line.add_plan(p)
    assert_same(snapshot_or_reason(everything, known_by_ns=known_by_ns), snapshot_or_reason(known))


@settings(max_examples=150)
@given(plans(), st.data(), st.sampled_from(PlanExtension))
def test_equal_input_gives_bit_equal_snapshots_however_frames_and_plans_interleave(received, data, hold):
    frames = [frame(T0 - k * STEP, k) for k in range(60, -1, -1)]
    first, second = timeline(*SPACE, hold=hold), timeline(*SPACE, hold=hold)
    for p in received:
        first.add_plan(p)
    for f in frames:
        first.add_frame(f)
    waiting = list(received)
    for f in frames:
        for _ in range(data.draw(st.integers(0, len(waiting)))):
            second.add_plan(waiting.pop(0))
        second.add_frame(f)
    for p in waiting:
        second.add_plan(p)
    assert_same(snapshot_or_reason(first), snapshot_or_reason(second))


@settings(max_examples=100)
@given(plans(), st.sampled_from(PlanExtension))
def test_what_was_asked_before_does_not_change_an_answer(received, hold):
    asked = timeline(*SPACE, hold=hold)
    waiting = list(received)
    for k in range(24, -1, -1):
        while waiting and waiting[0].received_ns <= T0 - k * STEP:
            asked.add_plan(waiting.pop(0))
        asked.add_frame(frame(T0 - k * STEP, k))
        fresh = timeline(*SPACE, hold=hold)
        for p in received[: len(received) - len(waiting)]:
            fresh.add_plan(p)
        for earlier in range(24, k - 1, -1):
            fresh.add_frame(frame(T0 - earlier * STEP, earlier))
        assert_same(snapshot_or_reason(asked), snapshot_or_reason(fresh))
        anchor_ns = T0 - (k + 2) * STEP
        np.testing.assert_array_equal(asked.motion(anchor_ns, 5), fresh.motion(anchor_ns, 5))


@given(plans())
def test_motion_is_finite_and_accumulates_from_the_anchor(received):
    line = timeline(*SPACE, hold=HOLD)
    line.add_frame(frame(T0))
    for p in received:
        line.add_plan(p)
    snapshot = snapshot_or_reason(line)
    if isinstance(snapshot, str):
        return
    assert np.isfinite(snapshot.motion).all()
    assert snapshot.motion[2, 1:3].tolist() == [0, 0]
    assert snapshot.steps == 8


def test_memory_stays_bounded_and_old_commands_that_are_in_force_are_kept():
    line = timeline(X, GRIPPER, hold=HOLD)
    line.add_plan(plan(T0, [1.0], names=("gripper",)))
    for k in range(4000):
        line.add_plan(plan(T0 + k * 10 * MS, [float(k)]))
        if k % 5 == 0:
            line.add_frame(frame(T0 + k * 10 * MS))
    assert line.snapshot().motion[2].tolist() == [3995, 1]
    assert len(line._plans) < 400
    assert len(line._frames) < 60


def test_memory_stays_bounded_without_a_camera():
    line = timeline()
    for k in range(MOST_PLANS + 10):
        line.add_plan(plan(T0 + k * MS, [1.0]))
    assert len(line._plans) == MOST_PLANS
    assert line.counters["plans_dropped"] == 10


# Recordings


def recording(plans: list[Plan], frames: int = 10, shape: tuple[int, int] = (4, 4)) -> Episode:
    images = tuple(Frame(T0 + k * STEP, np.full((*shape, 3), k % 256, dtype=np.uint8)) for k in range(frames))
    return Episode("reach", images, tuple(plans), "reach for it")


def test_an_episode_is_put_on_the_grid_of_its_first_frame():
    grid = episode_grid(recording([plan(T0 + STEP, np.arange(1.0, 6.0))]), ActionSpace((X,)), 20.0, (4, 4))
    assert (grid.name, grid.instruction) == ("reach", "reach for it")
    assert grid.stamps_ns.tolist() == [T0 + k * STEP for k in range(10)]
    assert grid.frames[:, 0, 0, 0].tolist() == list(range(10))
    assert grid.motion[:, 0].tolist() == [1, 1, 2, 3, 4, 5, 5, 5, 5, 5]
    assert grid.commanded.tolist() == [False] + [True] * 5 + [False] * 4


def test_an_episode_repeats_missing_frames_and_corrects_the_latency():
    episode = recording([plan(T0 - STEP, np.arange(12.0))])
    episode = Episode("", tuple(f for k, f in enumerate(episode.frames) if k not in (3, 4)), episode.plans)
    grid = episode_grid(episode, ActionSpace((X,)), 20.0, (4, 4), image_latency_ns=STEP)
    assert grid.frames[:, 0, 0, 0].tolist() == [0, 1, 2, 5, 5, 5, 6, 7, 8, 9]
    assert grid.motion[:, 0].tolist() == list(range(10))


def test_an_episode_with_many_missing_frames_is_warned_about(caplog):
    episode = recording([plan(T0, np.arange(12.0))])
    episode_grid(episode, ActionSpace((X,)), 20.0, (4, 4))
    assert caplog.text == ""
    episode_grid(episode, ActionSpace((X,)), 40.0, (4, 4))
    assert "reach has no image of its own for 9 of 19 rows at 40 Hz" in caplog.text


@pytest.mark.parametrize(("fps", "rows"), [(4.0, 3), (5.0, 3), (20.0, 10), (40.0, 19), (1.11, 1)])
def test_an_episode_can_be_put_on_another_rate(fps, rows):
    grid = episode_grid(recording([plan(T0, np.arange(10.0))]), ActionSpace((X,)), fps, (4, 4))
    assert len(grid.frames) == rows
    np.testing.assert_allclose(grid.motion[:, 0], np.minimum(np.arange(rows) * 20 / fps, 9))  # the plan is over at 9


def test_an_episode_of_one_frame_has_one_row():
    command = plan(T0, np.ones((1, 4)), names=tuple(d.name for d in SPACE))
    grid = episode_grid(recording([command], frames=1), ActionSpace(SPACE), 20.0, (4, 4))
    assert grid.motion.tolist() == [[1, 0, 0, 1]]


@settings(max_examples=60)
@given(plans(most=6))
def test_a_timeline_that_knows_everything_agrees_with_the_recording(received):
    frames = 30
    episode = Episode("", tuple(frame(T0 + (k - 12) * STEP, k) for k in range(frames)), tuple(received))
    try:
        grid = episode_grid(episode, ActionSpace(SPACE), 20.0, (4, 4))
    except InputError as error:
        assert "Got no command for" in str(error)  # noqa: PT017
        return
    line = timeline(*SPACE)
    for p in received:
        line.add_plan(p)
    for f in episode.frames:
        line.add_frame(f)
        snapshot = snapshot_or_reason(line)
        row = (f.stamp_ns - episode.frames[0].stamp_ns) // STEP
        if isinstance(snapshot, str) or row < 14:  # further back than the lookback all plans are in both
            continue
        expected = grid.motion[row - 2 : row + 1 + snapshot.steps].copy()
        expected[:, 1:3] -= expected[2, 1:3]
        np.testing.assert_allclose(snapshot.motion[: len(expected)], expected, atol=1e-6)


def test_an_episode_without_frames_or_commands_is_refused():
    with pytest.raises(InputError, match="Got no image in reach"):
        episode_grid(recording([plan(T0, [1.0])], frames=0), ActionSpace((X,)), 20.0, (4, 4))
    with pytest.raises(InputError, match=r"Got no command for \['y'\] in reach"):
        episode_grid(recording([plan(T0, [1.0])]), ActionSpace((X, Y)), 20.0, (4, 4))


def test_an_episode_of_four_hundred_frames_takes_less_than_a_second():
    plans = [plan(T0 + k * 16 * STEP, np.random.default_rng(k).normal(size=(96, 2)), names=("x", "gripper")) for k in range(25)]
    episode = recording(plans, frames=400, shape=(128, 128))
    started = time.perf_counter()
    assert episode_grid(episode, ActionSpace((X, GRIPPER)), 20.0, (64, 64)).commanded.all()
    assert time.perf_counter() - started < 1


# Images


def test_resizing_cuts_the_centre_to_the_aspect():
    rgb = np.zeros((4, 10, 3), dtype=np.uint8)
    rgb[:, 3:7] = 200
    assert (resize_rgb(rgb, (2, 2)) == 200).all()
    assert (resize_rgb(np.swapaxes(rgb, 0, 1), (4, 4)) == 200).all()


def test_resizing_averages_areas():
    rgb = np.zeros((4, 4, 3), dtype=np.uint8)
    rgb[::2] = 100
    assert (resize_rgb(rgb, (2, 2)) == 50).all()


@given(st.tuples(*[st.integers(1, 40)] * 4))
def test_resizing_gives_the_wanted_size_for_every_size(sizes):
    assert resize_rgb(np.zeros((*sizes[:2], 3), dtype=np.uint8), sizes[2:]).shape == (*sizes[2:], 3)


# Real robots


@pytest.mark.parametrize(("robot", "arm"), [("franka_droid", "position"), ("widowx_bridge", "delta")])
def test_a_real_robot_seen_live_agrees_with_its_recording(shared, robot, arm):
    episode, space = real_episode(shared / "data" / robot / "episode_0", arm)
    grid = episode_grid(episode, space, 5.0, (48, 48))
    assert grid.commanded[1:-1].all()
    assert np.ptp(grid.motion[:, :-1], axis=0).min() > 0  # the arm moves
    line = Timeline(TimelineConfig(5.0, 4, 8, (48, 48), space))
    for p in episode.plans:
        assert line.add_plan(p)
    for row, f in enumerate(episode.frames):
        assert line.add_frame(f)
        if 3 <= row < len(grid.frames) - 9:
            snapshot = line.snapshot()
            assert (snapshot.steps, snapshot.missing_context) == (8, 0)
            assert np.array_equal(snapshot.context, grid.frames[row - 3 : row + 1])
            expected = grid.motion[row - 3 : row + 9]
            offset = [expected[3, a] if d.kind == "delta" else 0 for a, d in enumerate(space.dimensions)]
            np.testing.assert_allclose(snapshot.motion, expected - offset, atol=1e-6)  # stamps are off the grid by nanoseconds


def real_episode(folder: Path, arm: str) -> tuple[Episode, ActionSpace]:
    """Images of the fixed camera, the arm's stream and the unstamped gripper's."""
    frames, plans = [], []
    with AnyReader([folder], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        for connection, received, raw in reader.messages():
            if connection.topic.startswith("/camera/wrist"):
                continue
            message = reader.deserialize(raw, connection.msgtype)
            if connection.msgtype == "sensor_msgs/msg/CompressedImage":
                bgr = cv2.imdecode(message.data, cv2.IMREAD_COLOR)
                stamp = message.header.stamp
                frames.append(Frame(stamp.sec * NANOSECONDS + stamp.nanosec, np.ascontiguousarray(bgr[:, :, ::-1])))
            elif connection.msgtype == "trajectory_msgs/msg/JointTrajectory":
                (point,) = message.points
                after = point.time_from_start.sec * NANOSECONDS + point.time_from_start.nanosec
                plans.append(plan(received, point.positions, names=tuple(message.joint_names), times=[after]))
            elif connection.msgtype == "geometry_msgs/msg/TwistStamped":
                twist = (message.twist.linear, message.twist.angular)
                plans.append(plan(received, [[v.x, v.y, v.z] for v in twist], names=("dx", "dy", "dz", "rx", "ry", "rz")))
            elif connection.topic == "/gripper/command":
                plans.append(plan(received, [message.data], names=("gripper",)))
    moving = next(p.names for p in plans if len(p.names) > 1)
    return Episode(folder.name, tuple(frames), tuple(plans)), ActionSpace((*(ActionDimension(n, kind=arm) for n in moving), GRIPPER))
