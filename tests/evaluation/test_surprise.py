# SPDX-License-Identifier: Apache-2.0
"""How alarms are counted, thresholds picked, and disturbances noticed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.episodes import make_episode
from support.tiny_bundle import write_tiny_bundle

from longscape_ros.bags.writer import BagWriter, bag_types
from longscape_ros.contract import NANOSECONDS
from longscape_ros.errors import BagError, InputError
from longscape_ros.evaluation.surprise import (
    DISTURBANCE_TOPIC,
    RATES,
    SINGLE,
    USED,
    Share,
    Truth,
    Watched,
    alarm_rate,
    figures,
    noticed,
    pick_threshold,
    read_truth,
    watch,
)
from longscape_ros.evaluation.surprise_table import table
from longscape_ros.runtime.backends import create_backend
from longscape_ros.runtime.predictor import Predictor
from longscape_ros.runtime.surprise import LEAST_STEPS

STEP = NANOSECONDS // 20
MOVED = Truth("move", 0.1, 10 * STEP, 0.02)


def watched(errors: list[float], truth: Truth | None = None, every: int = 1, name: str = "push_1", minutes: float | None = None) -> Watched:
    stamps = np.arange(len(errors)) * every * STEP
    seconds = len(errors) * every / 20 if minutes is None else 60 * minutes
    return Watched(name, truth, stamps.astype(np.int64), {USED: np.array(errors)}, seconds)


def test_surprises_that_follow_each_other_closely_are_one_alarm():
    errors = [0.0] * 60
    errors[5] = errors[6] = errors[20] = errors[45] = 9.0
    assert watched(errors).alarms(USED, 8.0) == 2, "15 frames later it is the same one, 25 frames later another"
    assert watched(errors).alarms(USED, 9.0) == 0


def test_images_that_were_not_compared_raise_no_alarm():
    assert watched([float("nan")] * 5).alarms(USED, 1.0) == 0


@pytest.mark.parametrize(("at", "delay_s"), [(10, np.inf), (11, 0.05), (20, 0.5), (21, np.inf), (3, np.inf)])
def test_a_disturbance_is_noticed_after_it_began_and_within_half_a_second(at, delay_s):
    errors = [0.0] * 30
    errors[at] = 5.0
    assert watched(errors, MOVED).delay_s(USED, 4.0) == pytest.approx(delay_s)


def test_a_threshold_gives_no_more_alarms_than_are_allowed_and_is_the_least_that_does():
    quiet, loud = watched([1.0, 2.0, 3.0], minutes=1.0), watched([1.5, 7.0, 6.5], minutes=1.0)
    assert pick_threshold([quiet, loud], USED, 0.0) == 7.0
    threshold = pick_threshold([quiet, loud], USED, 0.5)
    assert threshold == 3.0
    assert alarm_rate([quiet, loud], USED, threshold)[0] == 0.5


def test_without_a_compared_image_there_is_no_threshold():
    with pytest.raises(InputError, match="give more bags"):
        pick_threshold([], USED, 1.0)


def test_shares_have_wilsons_interval():
    assert Share(9, 10).interval == pytest.approx((0.596, 0.982), abs=1e-3)
    assert Share(0, 10).interval[0] == 0
    assert np.isnan(Share(0, 0).interval[0])


def test_what_is_noticed_has_the_median_delay_of_what_was_noticed():
    errors = np.zeros((3, 30))
    errors[0, 12], errors[1, 16] = 5, 5
    share, delay_s = noticed([watched(list(row), MOVED) for row in errors], USED, 4.0)
    assert (share.count, share.total) == (2, 3)
    assert delay_s == pytest.approx(0.2)


def test_disturbances_that_cannot_be_seen_do_not_count():
    hidden = Truth("move", 0.03, 10 * STEP, 0.001)
    calm = [watched([1.0, 2.0] * 20, name=f"push_{k}") for k in range(3)]
    found = figures(calm, [*calm, watched([0.0] * 11 + [9.0] * 9, MOVED), watched([0.0] * 20, hidden)])
    assert (found["disturbed.seen"], found["disturbed.not_seen"], found["heldout.episodes"]) == (1, 1, 3)
    assert found[f"{USED}.{RATES[0]:g}.noticed.changes 1 % to 3 %.of"] == 1
    assert found[f"{USED}.{RATES[0]:g}.noticed.move 0.1"] == found[f"{USED}.{RATES[0]:g}.noticed.all"] == 1
    assert all(np.isfinite(figure) for figure in found.values())


def test_the_table_has_a_line_for_each_disturbance():
    calm = [watched([1.0, 2.0] * 20, name=f"push_{k}") for k in range(3)]
    found = figures(calm, [*calm, watched([0.0] * 11 + [9.0] * 9, MOVED)])
    text = table({**found, "every": 3.0, "meta.model_id": "m@1", "meta.backend": "ort_cpu", "meta.precision": "int8"})
    assert "| move 0.1 | 1 | 100 % (21 % to 100 %), 0.05 s |" in text
    assert f"| {USED} (used) | 100 % | 0.0 |" in text


# Along an episode


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Predictor]:
    bundle = write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")
    made = Predictor(bundle, create_backend(bundle, "ort_cpu", threads=1))
    yield made
    made.backend.close()


def test_an_undisturbed_episode_is_watched_in_its_middle(predictor):
    seen = watch(predictor, make_episode("calm", frames=120), None, every=2, seconds=2.0)
    compared = seen.stamps_ns[np.isfinite(seen.errors[USED])]
    assert seen.seconds == pytest.approx(2.0, abs=0.6)
    assert 35 * STEP < compared.min() < compared.max() < 95 * STEP
    assert set(np.diff(seen.stamps_ns)) == {2 * STEP}


def test_a_disturbed_episode_is_watched_until_it_should_have_been_noticed(predictor):
    seen = watch(predictor, make_episode("disturbed", frames=120), Truth("move", 0.1, 60 * STEP, None), every=3)
    assert seen.stamps_ns[-1] == pytest.approx(70 * STEP, abs=2 * STEP)
    assert seen.stamps_ns[0] == (60 - 16) * STEP
    assert np.isnan(seen.errors[USED][:2]).all()
    assert np.isfinite(seen.errors[USED][1 - (-LEAST_STEPS // 3) :]).all()
    single = seen.errors[SINGLE]
    assert np.array_equal(seen.errors[USED][3:], np.minimum(single[3:], single[2:-1]))


# What the bag says


def write_bag(path: Path, text: str | None) -> Path:
    classes: Any = bag_types()
    with BagWriter(path) as bag:
        bag.write("/instruction", "std_msgs/msg/String", 1, classes("std_msgs/msg/String")(data="push"))
        if text is not None:
            bag.write(DISTURBANCE_TOPIC, "std_msgs/msg/String", 2, classes("std_msgs/msg/String")(data=text))
    return path


def test_a_bag_tells_what_disturbed_it(tmp_path):
    told = {"kind": "bump", "size": 1.0, "begin_ns": 7}
    for number, changed in enumerate([[0.0, 0.1, 0.05], [0.0, 0.001], None]):
        bag = write_bag(tmp_path / str(number), json.dumps(told | ({} if changed is None else {"changed": changed})))
        assert read_truth(bag) == Truth("bump", 1.0, 7, None if changed is None else max(changed))
    assert read_truth(write_bag(tmp_path / "calm", None)) is None


def test_a_bag_that_tells_something_else_is_refused(tmp_path):
    with pytest.raises(BagError, match="expected JSON with kind, size and begin_ns"):
        read_truth(write_bag(tmp_path / "odd", "{}"))
