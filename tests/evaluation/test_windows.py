# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from support.episodes import make_episode
from support.tiny_bundle import MANIFEST

from longscape_ros.errors import InputError
from longscape_ros.evaluation import find_windows, mirrored, spread, with_actions_of
from longscape_ros.evaluation.windows import episode_names, task_of

K = MANIFEST.context


def test_windows_stand_every_24_frames_where_the_whole_horizon_lies_ahead() -> None:
    windows, still = find_windows([make_episode("long", frames=150)], MANIFEST, (1, 8, 96))
    assert [window.anchor for window in windows] == [3, 27, 51]
    assert {window.steps for window in windows} == {96}
    assert still == 0


def test_a_short_episode_is_scored_as_far_as_it_goes() -> None:
    windows, _ = find_windows([make_episode("short", frames=25)], MANIFEST, (1, 8, 16, 32))
    assert [(window.anchor, window.steps) for window in windows] == [(3, 21)]
    with pytest.raises(InputError, match="Got 0 windows"):
        find_windows([make_episode("too short", frames=11)], MANIFEST, (1, 8, 16, 32))


def test_frames_after_a_gap_in_the_commands_are_not_scored() -> None:
    episode = make_episode("interrupted", frames=60)
    episode.commanded[40] = False
    windows, _ = find_windows([episode], MANIFEST, (8, 32))
    assert [(window.anchor, window.steps) for window in windows] == [(3, 32)]
    assert len(windows[0].snapshot(K, beyond=32).motion) == 40


def test_windows_in_which_nothing_moves_are_left_out_and_counted() -> None:
    moving, resting = make_episode("moving"), make_episode("resting", speed=0.0)
    windows, still = find_windows([moving, resting], MANIFEST, (32,))
    assert {window.episode.name for window in windows} == {"moving"}
    assert still == len(windows) == 4
    with pytest.raises(InputError, match="none moves"):
        find_windows([resting], MANIFEST, (32,))


def test_a_window_with_one_still_block_is_left_out() -> None:
    episode = make_episode("stops", frames=100)
    episode.motion[68:] = episode.motion[68]
    episode.frames[68:] = episode.frames[68]
    assert [w.anchor for w in find_windows([episode], MANIFEST, (64,))[0]] == [3]


def test_seen_motion_counts_without_a_command() -> None:
    episode = make_episode("pushed")
    episode.motion[:] = 0
    assert find_windows([episode], MANIFEST, (32,))[1] == 0


def test_the_most_windows_are_spread_over_all() -> None:
    episodes = [make_episode(name, seed=seed) for seed, name in enumerate("abcd")]
    windows, _ = find_windows(episodes, MANIFEST, (32,), most=4)
    assert [window.episode.name for window in windows] == list("abcd")


def test_a_snapshot_of_a_window_holds_what_is_before_and_what_is_commanded() -> None:
    episode = make_episode("e")
    (window, *_), _ = find_windows([episode], MANIFEST, (32,))
    snapshot = window.snapshot(K, beyond=32)
    assert np.array_equal(snapshot.context, episode.frames[:4])
    assert np.array_equal(snapshot.motion, episode.motion[: 4 + 64])
    assert snapshot.anchor_ns == episode.stamps_ns[3]


def test_foreign_actions_start_where_the_robot_is_and_states_stay_absolute() -> None:
    own, foreign = (find_windows([make_episode(str(seed), seed=seed)], MANIFEST, (32,))[0][1].snapshot(K, 0) for seed in (0, 7))
    mixed = with_actions_of(own, foreign, MANIFEST.action_space)
    assert np.array_equal(mixed.motion[:K], own.motion[:K])
    assert mixed.motion[K:, 0] - own.motion[K - 1, 0] == pytest.approx(foreign.motion[K:, 0] - foreign.motion[K - 1, 0])
    assert np.array_equal(mixed.motion[K:, 2], foreign.motion[K:, 2])


def test_mirrored_actions_go_the_other_way_from_where_the_robot_is_and_states_stay() -> None:
    (_, window, *_), _ = find_windows([make_episode("e")], MANIFEST, (32,))
    snapshot = window.snapshot(K, beyond=32)
    other = mirrored(snapshot, MANIFEST.action_space)
    now = snapshot.motion[K - 1]
    assert np.array_equal(other.motion[:K], snapshot.motion[:K])
    assert np.ptp(snapshot.motion[K:, 0]) > 0.1
    assert other.motion[K:, 0] - now[0] == pytest.approx(now[0] - snapshot.motion[K:, 0])
    assert np.array_equal(other.motion[K:, 2], snapshot.motion[K:, 2])
    assert other.context is snapshot.context
    assert mirrored(other, MANIFEST.action_space).motion == pytest.approx(snapshot.motion)


def test_windows_are_spread_evenly_and_at_least_one_is_left() -> None:
    windows, _ = find_windows([make_episode("a", frames=300)], MANIFEST, (8,))
    assert [w.anchor for w in spread(windows, 3)] == [windows[i].anchor for i in (0, len(windows) // 2, len(windows) - 1)]
    assert spread(windows, 0) == windows[:1]
    assert spread(windows, None) == windows


def test_episodes_of_one_name_are_told_apart() -> None:
    windows, _ = find_windows([make_episode("a"), make_episode("b"), make_episode("a")], MANIFEST, (96,))
    assert list(dict.fromkeys(episode_names(windows))) == ["a", "b", "a#2"]


@pytest.mark.parametrize(
    ("episode", "task"),
    [
        ("pick-place_9000", "pick-place"),
        ("run-7", "run"),
        ("run7#2", "run"),
        ("a#2", "a"),
        ("my_robot", "my_robot"),
        ("2024_run", "2024_run"),
        ("9000", "9000"),
    ],
)
def test_an_episodes_task_is_its_name_up_to_its_number(episode: str, task: str) -> None:
    assert task_of(episode) == task
