# SPDX-License-Identifier: Apache-2.0
"""Which chunks go to which expert."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
from support.episodes import make_episode
from support.tiny_bundle import MANIFEST, write_tiny_bundle

from longscape_ros.bundle import Experts
from longscape_ros.contract import ChunkRule, EndReason
from longscape_ros.evaluation.experts import RoutedChunk, mutual_information, routed_chunks, specialisation, specialisation_table
from longscape_ros.evaluation.experts_plot import COLOURS, write_experts
from longscape_ros.evaluation.windows import Window
from longscape_ros.runtime.backends import create_backend
from longscape_ros.runtime.predictor import Predictor

CHUNK = RoutedChunk(expert=0, length=8, reason=EndReason.MOTION, speed=0.1, gripper="open", task="push", contact=False)


def chunks() -> list[RoutedChunk]:
    """Expert 0 has the short, fast ones, expert 1 the long, slow ones; tasks are spread over both."""
    fast = [replace(CHUNK, task=task, guesses=(0, 1)) for task in ("push", "reach") for _ in range(4)]
    slow = [replace(CHUNK, expert=1, length=32, speed=0.01, task=task, guesses=(1, 1)) for task in ("push", "reach") for _ in range(4)]
    return fast + slow


def test_shares_are_of_each_group() -> None:
    figures = specialisation(chunks(), (8, 32), 2)
    assert figures["experts.share.0"] == 0.5
    assert (figures["experts.length.8.0"], figures["experts.length.32.0"]) == (1.0, 0.0)
    assert (figures["experts.task.push.1"], figures["experts.contact.no.1"]) == (0.5, 0.5)


def test_information_is_a_bit_where_the_group_decides_and_none_where_it_does_not() -> None:
    figures = specialisation(chunks(), (8, 32), 2)
    assert figures["experts.information.length"] == pytest.approx(1)
    assert figures["experts.information.task"] == pytest.approx(0)


def test_information_is_symmetric() -> None:
    first, second = [0, 0, 1, 2, 2, 2], ["a", "b", "a", "a", "b", "b"]
    assert mutual_information(first, second) == pytest.approx(mutual_information(second, first))
    assert mutual_information(first, first) == pytest.approx(1.4591, abs=1e-4)  # the entropy


def test_agreement_counts_where_the_rule_is_met() -> None:
    figures = specialisation(chunks(), (8, 32), 2)
    assert figures["length_predictor.agreement.recorded"] == 1.0
    assert figures["length_predictor.agreement.generated"] == 0.5
    assert figures["length_predictor.agreement.commonest"] == 0.5


def test_without_a_predictor_and_measurements_there_are_no_such_figures() -> None:
    figures = specialisation([replace(chunk, guesses=None, contact=None) for chunk in chunks()], (8, 32), 2)
    assert not [name for name in figures if "length_predictor" in name or "contact" in name]


def test_the_table_has_a_row_per_group() -> None:
    text = specialisation_table(specialisation(chunks(), (8, 32), 2), 2)
    assert "| all | 50 % | 50 % |" in text
    assert "| length 8 | 100 % | 0 % |" in text
    assert "| task reach | 50 % | 50 % |" in text
    assert "information" not in text


def test_report_files_say_the_same(tmp_path: Path) -> None:
    figures = write_experts(chunks(), replace(MANIFEST, segmentation=ChunkRule(8, (8, 32)), experts=Experts(2)), tmp_path)
    assert json.loads((tmp_path / "experts.json").read_text()) == figures
    assert "| length 8 | 100 % | 0 % |" in (tmp_path / "experts.md").read_text()
    picture = cv2.imread(str(tmp_path / "experts.png"))
    for colour in COLOURS[:2]:
        assert (picture == colour[::-1]).all(axis=2).sum() > 1000
    assert not (picture == COLOURS[2][::-1]).all(axis=2).any()


def test_a_real_predictor_is_asked_chunk_by_chunk(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny", length_predictor=True)
    predictor = Predictor(bundle, create_backend(bundle, "ort_cpu", threads=1))
    window = Window(make_episode("push_1"), anchor=10, steps=64, planned=100)
    routed = routed_chunks(predictor, [window])
    rollout = predictor.roll_out(window.snapshot(4, 32), horizon=64)
    whole = [(chunk.length, expert) for chunk, expert in zip(rollout.chunks, rollout.experts, strict=True) if chunk.valid == chunk.length]
    assert [(chunk.length, chunk.expert) for chunk in routed] == whole
    assert {chunk.task for chunk in routed} == {"push"}
    assert all(chunk.guesses is not None and chunk.contact is None for chunk in routed)
    assert routed[0].guesses is not None
    assert routed[0].guesses[0] == routed[0].guesses[1]  # the first context is the recorded one in both
    predictor.backend.close()
