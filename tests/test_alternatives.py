# SPDX-License-Identifier: Apache-2.0
"""A bundle beside itself with its parts replaced: what it is offered, what is replaced, and that nothing else differs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support.episodes import make_episode
from support.robot import IMAGE_TOPIC, NAMES, STEP_NS, TRAJECTORY_TOPIC, sway, write_robot_bundle
from support.tiny_bundle import MANIFEST, write_tiny_bundle

from longscape_ros.alternatives import Dealt, alternatives, by_chance, compare
from longscape_ros.bags.writer import BagWriter, bag_types
from longscape_ros.bundle import Experts, Manifest, Routing
from longscape_ros.cli import FAULT, main
from longscape_ros.comparison import METHOD
from longscape_ros.contract import NANOSECONDS, ChunkRule
from longscape_ros.errors import InputError
from longscape_ros.evaluation import Setting, find_windows
from longscape_ros.messages import IMAGE, JOINT_TRAJECTORY, duration_message, image_message, time_message
from longscape_ros.runtime.backends import create_backend
from longscape_ros.runtime.predictor import Predictor, noise_of

HORIZONS = (1, 8, 40)
ROUTED = Experts(4, Routing("learned"))
FIXED = ["fixed_8", "fixed_16", "fixed_24", "fixed_32", "shuffled_lengths"]
ALL = ["longscape", *FIXED, "random_routing", "length_routing", "expert_0", "expert_1", "expert_2", "expert_3"]


def setting_of(folder: Path, episodes: str = "abc", **changes: Any) -> Setting:
    """A tiny bundle, by default with a router, and two windows of each episode."""
    bundle = write_tiny_bundle(folder, **{"experts": ROUTED, **changes})
    windows, still = find_windows([make_episode(name, seed=n) for n, name in enumerate(episodes)], MANIFEST, HORIZONS)
    chosen = [window for window in windows if window.anchor < 40]
    return Setting(Predictor(bundle, create_backend(bundle, "ort_cpu", threads=1)), chosen, still, HORIZONS, None)


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return setting_of(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="module")
def told() -> list[tuple[float, float, str]]:
    """What was told of the progress."""
    return []


@pytest.fixture(scope="module")
def summary(setting: Setting, told: list[tuple[float, float, str]]) -> dict[str, Any]:
    return compare(setting, progress=lambda *progress: told.append(progress))


# ---- what is offered ----


def manifest(**changes: Any) -> Manifest:
    return replace(MANIFEST, **{"experts": ROUTED, **changes})


def test_a_bundle_with_a_router_is_offered_every_length_every_expert_and_chance() -> None:
    assert list(alternatives(manifest())) == ALL


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"experts": Experts(1)}, ["longscape", *FIXED]),
        ({"experts": Experts(4)}, [name for name in ALL if name != "length_routing"]),  # which it does already
        (
            {"experts": Experts(2, Routing("learned")), "segmentation": ChunkRule(8, (8, 16, 32))},
            ["longscape", "fixed_8", "fixed_16", "fixed_32", "shuffled_lengths", "random_routing", "expert_0", "expert_1"],
        ),
        (
            {"experts": Experts(2, Routing("learned")), "segmentation": ChunkRule(8, (16,))},
            ["longscape", "random_routing", "expert_0", "expert_1"],
        ),
    ],
    ids=["one expert", "by length", "two experts, three lengths", "one length"],
)
def test_a_bundle_is_offered_what_it_could_do_otherwise(changes: dict[str, Any], names: list[str]) -> None:
    assert list(alternatives(manifest(**changes))) == names


# ---- what is replaced ----


def test_all_are_scored_on_the_same_windows_and_say_what_they_are(summary: dict[str, Any], setting: Setting) -> None:
    assert list(summary) == ALL
    assert {(entry["windows"], entry["episodes"]) for entry in summary.values()} == {(len(setting.windows), 3)}
    assert len({entry["what"] for entry in summary.values()}) == len(ALL)
    for entry in summary.values():
        for h in HORIZONS:
            assert entry[f"ci.low.psnr.{h}"] <= entry[f"psnr.{h}"] <= entry[f"ci.high.psnr.{h}"]
            low, high = (entry[f"ci.{end}.over_longscape.psnr.{h}"] for end in ("low", "high"))
            assert low <= entry[f"over_longscape.psnr.{h}"] <= high
        assert {"jump.ratio", "sharpness.model.8"} < set(entry)


def test_longscape_is_the_bundle_as_eval_scores_it(summary: dict[str, Any], setting: Setting) -> None:
    figures = setting.score().figures()
    assert {name: summary[METHOD][name.replace(".model", "")] for name in figures if name.startswith("psnr.model.")} == {
        name: value for name, value in figures.items() if name.startswith("psnr.model.")
    }
    assert [summary[METHOD][f"over_longscape.psnr.{h}"] for h in HORIZONS] == [0, 0, 0]


def test_only_the_cut_is_replaced_where_lengths_are(summary: dict[str, Any]) -> None:
    for length in MANIFEST.segmentation.lengths:
        entry = summary[f"fixed_{length}"]
        assert {n: entry[f"chunk.share.{n}"] for n in MANIFEST.segmentation.lengths} == {n: n == length for n in (8, 16, 24, 32)}
        assert max(entry[f"expert.share.{e}"] for e in range(4)) < 1  # the router still chooses
    assert 0 < summary["shuffled_lengths"]["chunk.share.8"] < 1
    assert summary["shuffled_lengths"]["over_longscape.psnr.40"] != 0


def test_dealt_lengths_have_the_shares_that_the_bundles_own_rule_gave(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    dealt = []
    monkeypatch.setattr("longscape_ros.alternatives.Dealt.__init__", lambda self, shares: dealt.append(dict(shares)))
    monkeypatch.setattr("longscape_ros.alternatives.Dealt.__call__", lambda self, motion: setting.predictor.cut(motion))
    summary = compare(setting, ["shuffled_lengths"])
    assert dealt == [{n: summary[METHOD][f"chunk.share.{n}"] for n in MANIFEST.segmentation.lengths}]
    assert summary["shuffled_lengths"]["over_longscape.psnr.40"] == 0


def test_only_the_experts_are_replaced_where_routing_is(summary: dict[str, Any]) -> None:
    cut = {name: value for name, value in summary[METHOD].items() if name.startswith("chunk.share.")}
    routed = ["random_routing", "length_routing", *(f"expert_{e}" for e in range(4))]
    for name in routed:
        assert {length: summary[name][length] for length in cut} == cut
    for e in range(4):
        assert [summary[f"expert_{e}"][f"expert.share.{other}"] for other in range(4)] == [float(e == other) for other in range(4)]
    assert [summary["length_routing"][f"expert.share.{e}"] for e in range(4)] == list(cut.values())
    assert len({summary[name]["psnr.40"] for name in [METHOD, *routed]}) == 7


def test_a_length_that_the_rule_gives_everywhere_changes_nothing(tmp_path: Path) -> None:
    restless = setting_of(tmp_path / "tiny", "ab", segmentation=ChunkRule(8, (8, 16), threshold=1e-6))
    summary = compare(restless, ["fixed_8", "fixed_16"])
    assert summary[METHOD]["chunk.share.8"] == 1
    assert summary["fixed_8"] | {"what": ""} == summary[METHOD] | {"what": ""}
    assert summary["fixed_16"]["over_longscape.psnr.40"] != 0


def test_differences_are_paired_over_episodes(summary: dict[str, Any], setting: Setting) -> None:
    predictor = Predictor(setting.predictor.bundle, setting.predictor.backend, choose=lambda length, noise: 2)
    ours, theirs = (s.score().by_episode("psnr.model.8") for s in (setting, replace(setting, predictor=predictor)))
    differences = [theirs[episode] - ours[episode] for episode in "abc"]
    assert summary["expert_2"]["over_longscape.psnr.8"] == pytest.approx(np.mean(differences))
    assert min(differences) <= summary["expert_2"]["ci.low.over_longscape.psnr.8"]


def test_one_rollout_is_made_per_window_and_alternative(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    horizons = []
    predict = Predictor.predict

    def counted(self: Predictor, *args: Any, **kwargs: Any) -> Any:
        horizons.append(kwargs["horizon"])
        return predict(self, *args, **kwargs)

    monkeypatch.setattr(Predictor, "predict", counted)
    monkeypatch.delattr(Predictor, "roll_out")  # by which misled predictions are made
    compare(setting, ["expert_1"])
    assert len(horizons) == 2 * len(setting.windows)


def test_progress_goes_through_all_alternatives_to_the_end(
    told: list[tuple[float, float, str]], summary: dict[str, Any], setting: Setting
) -> None:
    total = len(ALL) * len(setting.windows)
    assert [done for done, _, _ in told] == list(range(1, total + 1))
    assert {all_of for _, all_of, _ in told} == {total}
    assert list(dict.fromkeys(name for _, _, name in told)) == ALL


@pytest.mark.parametrize("names", [["fixed_12"], ["fixed_8", "best"], ["longscape"], []])
def test_what_is_not_offered_is_refused_and_so_is_nothing(setting: Setting, names: list[str]) -> None:
    with pytest.raises(InputError, match="expected one or more of longscape, fixed_8, fixed_16"):
        compare(setting, names)


def test_windows_of_a_single_episode_are_refused(setting: Setting) -> None:
    windows = [window for window in setting.windows if window.episode.name == "a"]
    with pytest.raises(InputError, match="Got windows of 1 episode, expected those of 2 or more"):
        compare(replace(setting, windows=windows))


# ---- chance ----


def test_dealt_chunks_follow_each_other_in_the_given_shares() -> None:
    dealt = Dealt({8: 0.75, 32: 0.25})
    motion = np.random.default_rng(0).normal(size=(8000, 2))
    chunks = dealt(motion)
    assert [chunk.start for chunk in chunks] == np.cumsum([0, *(chunk.length for chunk in chunks)])[:-1].tolist()
    assert sum(chunk.valid for chunk in chunks) == 7999
    assert np.mean([chunk.length == 8 for chunk in chunks]) == pytest.approx(0.75, abs=0.05)
    assert dealt(motion) == chunks
    assert dealt(motion[::-1]) != chunks


def test_chance_chooses_experts_evenly_and_leaves_a_chunks_noise_as_it_is() -> None:
    choose = by_chance(4)
    chosen = [choose(8, noise_of(1, chunk)) for chunk in range(2000)]
    assert np.bincount(chosen) == pytest.approx([500] * 4, abs=80)
    assert chosen == [choose(32, noise_of(1, chunk)) for chunk in range(2000)]
    noise = noise_of(1, 0)
    choose(8, noise)
    assert noise.standard_normal() == noise_of(1, 0).standard_normal()


# ---- the command ----


def write_bag(path: Path, start: int, frames: int = 80) -> None:
    """The tiny bundle's robot sways; a square follows its x."""
    types, none = bag_types(), np.empty(0)
    motion = sway(start, frames)
    t0 = NANOSECONDS * 1000
    point, header = types("trajectory_msgs/msg/JointTrajectoryPoint"), types("std_msgs/msg/Header")
    points = [
        point(positions=row, velocities=none, accelerations=none, effort=none, time_from_start=duration_message(k * STEP_NS, types))
        for k, row in enumerate(motion)
    ]
    plan = types(JOINT_TRAJECTORY)(header=header(stamp=time_message(t0, types), frame_id=""), joint_names=list(NAMES), points=points)
    with BagWriter(path) as bag:
        bag.write(TRAJECTORY_TOPIC, JOINT_TRAJECTORY, t0 - 1, plan)
        for k, row in enumerate(motion):
            image = np.full((*MANIFEST.image_size, 3), 30, np.uint8)
            image[6:12, round(80 * (row[0] + 0.1)) :][:, :6] = 240
            bag.write(IMAGE_TOPIC, IMAGE, t0 + k * STEP_NS, image_message(image, t0 + k * STEP_NS, "lens", types))


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle and recordings."""
    folder = tmp_path_factory.mktemp("robot")
    write_robot_bundle(folder / "bundle", experts=ROUTED)
    for number, start in enumerate((0, 300, 500)):
        write_bag(folder / "bags" / f"sway_{number}.mcap", start)
    return folder


def arguments(folder: Path, *more: str) -> list[str]:
    given = ["--bundle", str(folder / "bundle"), "--bags", str(folder / "bags"), "--horizons", "1,8,16", "--backend", "ort_cpu"]
    return ["compare", *given, "--precision", "fp32", *more]


def test_the_command_shows_writes_and_draws_the_same_figures(robot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {"table": "t.md", "plot": "p.png", "output": "s.json", "json": "f.json"}
    places = {option: robot / "out" / name for option, name in names.items()}
    options = [text for option, path in places.items() for text in (f"--{option}", str(path))]
    assert main(arguments(robot, "--alternatives", "fixed_8,random_routing", *options)) == 0
    summary = json.loads(places["output"].read_text())
    assert list(summary) == [METHOD, "fixed_8", "random_routing"]
    figures = json.loads(places["json"].read_text())
    assert figures["fixed_8.over_longscape.psnr.16"] == summary["fixed_8"]["over_longscape.psnr.16"]
    assert (figures["meta.model_id"].partition("@")[0], figures["meta.bags"]) == ("tiny", str(robot / "bags"))
    heads, _, *rows = places["table"].read_text().splitlines()
    assert heads == "| variant | PSNR 1 | PSNR 16 |"
    cell = f"{summary['fixed_8']['psnr.16']:.2f} ({summary['fixed_8']['over_longscape.psnr.16']:+.2f}:"
    assert [row.split("`")[1] for row in rows] == list(summary)
    assert cell in rows[1]
    assert f"{summary[METHOD]['psnr.16']:.2f}" in capsys.readouterr().out
    assert cv2.imread(str(places["plot"])).shape[1] > 300


def test_the_command_refuses_what_the_bundle_is_not_offered(robot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(robot, "--alternatives", "fixed_12")) == FAULT
    assert "Got the alternatives ['longscape', 'fixed_12'], expected one or more of longscape, fixed_8" in capsys.readouterr().err


def test_horizons_that_the_table_does_not_usually_have_are_shown_where_no_other_is_scored(robot: Path, tmp_path: Path) -> None:
    options = arguments(robot, "--alternatives", "expert_1", "--table", str(tmp_path / "t.md"))
    options[options.index("1,8,16")] = "4,12"
    assert main(options) == 0
    assert (tmp_path / "t.md").read_text().startswith("| variant | PSNR 4 | PSNR 12 |")
