# SPDX-License-Identifier: Apache-2.0
"""The chunk rule: offline, online, from everywhere, and its calibration."""

from __future__ import annotations

import logging
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longscape_ros.contract import ActionDimension, ActionSpace, Chunk, ChunkRule, EndReason
from longscape_ros.errors import InputError
from longscape_ros.segmentation import OnlineSegmenter, calibrate_threshold, expert_for, lengths_from_everywhere, segment

SPACE = ActionSpace(
    (
        ActionDimension("x", "m", motion_range=10.0),
        ActionDimension("turn", "rad/s", "velocity", motion_range=5.0),
        ActionDimension("gripper", "1", "state", midpoint=0.5, hysteresis=0.1, is_gripper=True),
        ActionDimension("light", "1", "state", midpoint=0.5),
    )
)
RULE = ChunkRule()
RULES = [
    RULE,
    ChunkRule(threshold=1.5),
    ChunkRule(8, (8, 16, 32)),
    ChunkRule(4, (8, 12, 32)),
    ChunkRule(8, (16, 24)),
    ChunkRule(8, (8,)),
    ChunkRule(16, (32,)),
    ChunkRule(1, (1, 2, 3, 5)),
]


def rest(steps: int) -> np.ndarray:
    return np.zeros((steps + 1, len(SPACE)))


def cut(motion: np.ndarray, rule: ChunkRule = RULE) -> list[tuple[int, int, EndReason]]:
    return [(c.length, c.valid, c.reason) for c in segment(motion, SPACE, rule)]


def test_a_resting_robot_gets_the_longest_chunks():
    assert cut(rest(64)) == [(32, 32, EndReason.MAX_LENGTH)] * 2


def test_motion_beyond_the_threshold_ends_a_chunk_with_the_window_that_exceeded_it():
    motion = rest(40)
    motion[9:, 0] = 5.1  # in the second window
    assert cut(motion)[0] == (16, 16, EndReason.MOTION)


def test_motion_at_the_threshold_does_not_end_a_chunk():
    motion = rest(32)
    motion[9:, 0] = 5.0
    assert cut(motion) == [(32, 32, EndReason.MAX_LENGTH)]


def test_the_excursion_counts_the_start_row_and_motion_there_and_back():
    motion = rest(32)
    motion[1:, 1] = 3.0  # the only difference is to row 0
    assert cut(motion)[0] == (8, 8, EndReason.MOTION)
    motion[:, 1] = 0.0
    motion[4, 1] = 3.0
    assert cut(motion)[0] == (8, 8, EndReason.MOTION)


def test_a_gripper_flip_has_its_own_chunk_and_ends_the_one_before():
    motion = rest(64)
    motion[20:, 2] = 1.0  # in the window of steps 17 ... 24
    assert cut(motion) == [
        (16, 16, EndReason.GRIPPER),
        (8, 8, EndReason.GRIPPER),
        (32, 32, EndReason.MAX_LENGTH),
        (8, 8, EndReason.END_OF_PLAN),
    ]


def test_a_chunk_before_a_flip_is_a_gripper_chunk_even_if_it_has_the_longest_length():
    motion = rest(64)
    motion[33:, 2] = 1.0
    assert [c[2] for c in cut(motion)[:2]] == [EndReason.GRIPPER, EndReason.GRIPPER]


@pytest.mark.parametrize(("row", "lengths"), [(8, [8, 32]), (9, [8, 8, 24])])
def test_a_flip_belongs_to_the_window_at_whose_end_it_is(row, lengths):
    motion = rest(40)
    motion[row:, 2] = 1.0
    assert [c[0] for c in cut(motion)] == lengths


def test_a_gripper_inside_its_hysteresis_does_not_flip():
    motion = rest(32)
    motion[5:9, 2] = 0.59
    assert cut(motion) == [(32, 32, EndReason.MAX_LENGTH)]
    motion[9:, 2] = 0.61
    assert cut(motion)[0] == (8, 8, EndReason.GRIPPER)


def test_a_gripper_that_is_inside_its_hysteresis_at_the_anchor_has_the_state_of_its_side():
    motion = rest(32)
    motion[:, 2] = 0.55
    motion[12:, 2] = 0.61  # from closed to closed
    assert cut(motion) == [(32, 32, EndReason.MAX_LENGTH)]


def test_a_state_that_is_no_gripper_cuts_nothing():
    motion = rest(32)
    motion[10:, 3] = 1.0
    assert cut(motion) == [(32, 32, EndReason.MAX_LENGTH)]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (3, [(8, 3)]),
        (8, [(8, 8)]),
        (20, [(24, 20)]),
        (33, [(32, 32), (8, 1)]),
    ],
)
def test_the_tail_of_a_plan_is_padded_to_a_length_of_the_rule(steps, expected):
    chunks = cut(rest(steps))
    assert [c[:2] for c in chunks] == expected
    assert chunks[-1][2] is EndReason.END_OF_PLAN


def test_lengths_with_gaps_grow_over_the_gap_at_once():
    rule = ChunkRule(8, (8, 16, 32))
    motion = rest(64)
    motion[20:, 0] = 6.0
    assert cut(motion, rule)[0] == (32, 32, EndReason.MOTION)
    motion = rest(64)
    motion[30:, 2] = 1.0
    assert cut(motion, rule)[:3] == [(16, 16, EndReason.GRIPPER), (8, 8, EndReason.GRIPPER), (8, 8, EndReason.GRIPPER)]


@pytest.mark.parametrize("motion", [np.zeros((1, 4)), np.zeros((5, 3)), np.zeros(4)])
def test_motion_without_steps_or_of_another_space_is_refused(motion):
    with pytest.raises(InputError, match="Got motion"):
        segment(motion, SPACE, RULE)


@st.composite
def motions(draw: st.DrawFn, steps: tuple[int, int] = (1, 160)) -> np.ndarray:
    """Random walks of changing speed, a gripper that flips and hesitates, a state that does not count."""
    count = draw(st.integers(*steps))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    speed = draw(st.sampled_from([0.02, 0.2, 0.6, 3.0])) * (1 + np.sin(np.arange(count + 1) / draw(st.integers(3, 40))))
    motion = np.zeros((count + 1, len(SPACE)))
    motion[:, :2] = np.cumsum(random.normal(size=(count + 1, 2)) * speed[:, np.newaxis], axis=0)
    levels = random.choice([0.0, 0.38, 0.45, 0.5, 0.55, 0.62, 1.0], size=count + 1)
    motion[:, 2] = np.repeat(levels, draw(st.integers(1, 60)))[: count + 1]
    motion[:, 3] = random.integers(0, 2, count + 1)
    return motion


@given(motions(), st.sampled_from(RULES))
def test_chunks_cover_the_plan_without_gaps_and_with_lengths_of_the_rule(motion, rule):
    chunks = segment(motion, SPACE, rule)
    assert [c.start for c in chunks] == [0, *np.cumsum([c.length for c in chunks])[:-1]]
    assert sum(c.valid for c in chunks) == len(motion) - 1
    assert {c.length for c in chunks} <= set(rule.lengths)
    assert all(c.valid == c.length for c in chunks[:-1])


@given(motions(), st.sampled_from(RULES))
def test_a_chunk_grows_only_through_rest_and_past_no_flip(motion, rule):
    for chunk in segment(motion, SPACE, rule):
        shorter = [length for length in rule.lengths if length < chunk.length]
        if not shorter:
            continue
        before = motion[chunk.start : chunk.start + shorter[-1] + 1, :2]
        assert (np.ptp(before, axis=0) / [10.0, 5.0] <= rule.threshold).all()
        gripper = motion[chunk.start : chunk.start + chunk.length + 1, 2]
        assert not (gripper.min() < 0.4 and gripper.max() > 0.6)


@given(motions(), st.sampled_from(RULES), st.integers(1, 160))
def test_what_comes_after_a_chunk_does_not_change_its_length(motion, rule, known):
    """With as many planned steps as the longest chunk has, the chunks are final."""
    prefix = motion[: known + 1]
    final = [c for c in segment(prefix, SPACE, rule) if c.start + rule.lengths[-1] <= len(prefix) - 1]
    assert [(c.start, c.length) for c in final] == [(c.start, c.length) for c in segment(motion, SPACE, rule)][: len(final)]


@settings(max_examples=200)
@given(motions((1, 200)), st.sampled_from(RULES))
def test_the_online_segmenter_gives_the_same_chunks(motion, rule):
    lookahead = rule.lengths[-1]
    steps = len(motion) - 1 - lookahead
    online = OnlineSegmenter(SPACE, rule)
    online.reset(motion[0])
    ended = []
    for step in range(1, steps + 1):
        current = online.current(motion[step : step + lookahead])
        chunk = online.step(motion[step], motion[step + 1 : step + 1 + lookahead])
        if chunk is not None:
            assert (current.start, current.length) == (chunk.start, chunk.length)
            ended.append(chunk)
    assert ended == [c for c in segment(motion, SPACE, rule) if c.start + c.length <= steps]


@given(motions((1, 90)), st.sampled_from(RULES))
def test_the_lengths_from_everywhere_are_those_of_a_plan_that_begins_there(motion, rule):
    lengths = lengths_from_everywhere(motion, SPACE, rule)
    assert lengths.shape == (len(motion) - 1,)
    for row, length in enumerate(lengths):
        first = segment(motion[row:], SPACE, rule)[0]
        fitting = [candidate for candidate in rule.lengths if candidate <= len(motion) - 1 - row]
        assert length == (first.length if first.valid == first.length else max(fitting, default=0))


def test_a_hundred_thousand_rows_take_less_than_five_seconds():
    motion = np.cumsum(np.random.default_rng(0).normal(size=(100_001, len(SPACE))), axis=0)
    started = time.perf_counter()
    assert lengths_from_everywhere(motion, SPACE, RULE).shape == (100_000,)
    assert time.perf_counter() - started < 5


def test_without_a_plan_the_online_segmenter_takes_the_last_row_as_held():
    online = OnlineSegmenter(SPACE, RULE)
    online.reset(np.zeros(4))
    nothing = np.zeros((0, 4))
    ended = [online.step(np.array([0.0, 0.0, float(step > 11), 0.0]), nothing) for step in range(1, 49)]
    assert [c for c in ended if c] == [Chunk(0, 16, 16, EndReason.GRIPPER), Chunk(16, 32, 32, EndReason.MAX_LENGTH)]


def test_a_plan_that_changes_under_a_chunk_lets_it_go_on_to_the_next_length():
    online = OnlineSegmenter(SPACE, RULE)
    online.reset(np.zeros(4))
    resting = np.zeros((40, 4))
    for _ in range(10):
        assert online.step(np.zeros(4), resting) is None
    flipped = np.array([0.0, 0.0, 1.0, 0.0])
    ended = [online.step(flipped, np.repeat(flipped[np.newaxis], 40, axis=0)) for _ in range(6)]
    assert ended == [None] * 5 + [Chunk(0, 16, 16, EndReason.GRIPPER)]


def test_the_chunk_in_progress_ends_where_the_plan_ends():
    online = OnlineSegmenter(SPACE, RULE)
    online.reset(np.zeros(4))
    online.step(np.zeros(4), np.zeros((40, 4)))
    assert online.current(np.zeros((40, 4))) == Chunk(0, 32, 32, EndReason.MAX_LENGTH)
    assert online.current(np.zeros((9, 4))) == Chunk(0, 16, 10, EndReason.END_OF_PLAN)


def test_a_reset_counts_from_the_new_anchor():
    online = OnlineSegmenter(SPACE, ChunkRule(1, (1, 2)))
    online.reset(np.zeros(4))
    online.step(np.zeros(4), np.zeros((2, 4)))
    online.reset(np.zeros(4))
    online.step(np.zeros(4), np.zeros((2, 4)))
    assert online.step(np.zeros(4), np.zeros((2, 4))) == Chunk(0, 2, 2, EndReason.MAX_LENGTH)


def test_the_online_segmenter_must_be_reset_first_and_needs_a_step():
    online = OnlineSegmenter(SPACE, RULE)
    with pytest.raises(InputError, match="before the first reset"):
        online.step(np.zeros(4), np.zeros((1, 4)))
    online.reset(np.zeros(4))
    with pytest.raises(InputError, match="neither an executed nor a planned step"):
        online.current(np.zeros((0, 4)))
    with pytest.raises(InputError, match="Got motion of shape"):
        online.step(np.zeros(3), np.zeros((1, 4)))


def test_experts_are_numbered_by_chunk_length():
    assert [expert_for(length, RULE) for length in RULE.lengths] == [0, 1, 2, 3]
    with pytest.raises(InputError, match=r"Got a chunk of 20 steps, expected one of \[8, 16, 24, 32\]"):
        expert_for(20, RULE)


def test_calibration_uses_every_length_where_the_data_allow_it():
    random = np.random.default_rng(1)
    episodes = [np.cumsum(random.normal(size=(400, 4)) * [0.7, 0.3, 0, 0], axis=0) for _ in range(10)]
    threshold, shares = calibrate_threshold(episodes, SPACE, 8, (8, 16, 24, 32))
    assert list(shares) == [8, 16, 24, 32]
    assert sum(shares.values()) == pytest.approx(1)
    assert min(shares.values()) > 0.1
    lengths = np.concatenate([lengths_from_everywhere(m, SPACE, ChunkRule(threshold=threshold))[:-31] for m in episodes])
    assert shares == {length: pytest.approx((lengths == length).mean()) for length in shares}


def test_calibration_warns_about_lengths_that_are_hardly_used(caplog):
    with caplog.at_level(logging.WARNING):
        _, shares = calibrate_threshold([rest(100)], SPACE, 8, (8, 32))
    assert shares == {8: 0.0, 32: 1.0}
    assert "Only 0.0 % of the chunks have 8 steps" in caplog.text


def test_calibration_of_episodes_without_a_chunk_is_refused():
    with pytest.raises(InputError, match="Got episodes of at most 7 steps, expected one of at least 8"):
        calibrate_threshold([rest(7)], SPACE, 8, (8, 16))


def test_calibration_spreads_the_rest_where_one_length_cannot_be_used():
    motion = np.zeros((1001, 4))
    motion[:, 0] = np.cumsum(np.abs(np.random.default_rng(2).normal(size=1001)))
    motion[:, 2] = np.arange(1001) // 25 % 2  # a flip every 25 steps: nothing reaches 32
    _, shares = calibrate_threshold([motion], SPACE, 8, (8, 16, 32))
    assert shares[32] == 0
    assert min(shares[8], shares[16]) > 0.3
