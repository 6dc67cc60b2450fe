# SPDX-License-Identifier: Apache-2.0
"""The demo in the terminal."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from longscape_ros.demo.sight import ChunkSight, Listener, Sight, encode_picture, picture
from longscape_ros.demo.terminal import Lines, ProcessSight, Scene, Screen, draw, make_view

PICTURE = np.full((64, 64, 3), (200, 40, 80), np.uint8)
SIGHT = Sight(
    nodes=("predictor", "simulated_arm"),
    frames=240,
    missing_frames=2,
    frame_rate=20.0,
    plans=15,
    predictions=20,
    prediction_rate=1.7,
    latency_ms_p50=480.0,
    latency_ms_p95=600.0,
    remaining_ms=1110.0,
    remaining_ms_p5=1010.0,
    age_s=0.5,
    horizon_s=1.6,
    chunks=(ChunkSight(8, 0, "gripper"), ChunkSight(24, 2, "max_length")),
    executed=(ChunkSight(16, None, "motion"),),
    diagnostics={"inference": "predicting", "inference.requests_dropped": "12"},
    camera=encode_picture(PICTURE),
    future=encode_picture(PICTURE),
)
PROCESSES = (ProcessSight("driver", True, 310.0, 16.0), ProcessSight("policy", False, float("nan"), float("nan")))
SCENE = Scene("longscape demo", "recording", 12.0, 60.0, SIGHT, PROCESSES)
WANTED = ("recording", "240, 20.0/s, 2 missing", "20, 1.7/s", "p50 480 ms, p95 600 ms", "1110 ms, p5 1010 ms", "predicting")


def shown(scene: Scene, width: int, in_colour: bool) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system="truecolor")
    with console.capture() as capture:
        console.print(draw(scene, width, in_colour))
    return capture.get()


def plain(scene: Scene, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    with console.capture() as capture:
        console.print(draw(scene, width, in_colour=False))
    return capture.get()


def test_what_the_monitor_sees_survives_the_way_as_a_line():
    line = SIGHT.to_json()
    assert "\n" not in line
    assert Sight.from_json(line) == SIGHT
    assert np.array_equal(picture(SIGHT.camera), PICTURE[:32, :32])


def test_lines_that_are_none_are_passed_over():
    stream = io.BytesIO(b"not json\n" + SIGHT.to_json().encode() + b"\n")
    listener = Listener(stream)
    listener.join()
    assert listener.newest == SIGHT


def test_all_figures_processes_and_chunks_are_shown():
    text = plain(SCENE)
    for wanted in (
        *WANTED,
        "driver",
        "16 % CPU, 310 MB",
        "policy",
        "ended",
        "8 gripper (expert 0)",
        "24 max length (expert 2)",
        "12 / 60 s",
    ):
        assert wanted in text, wanted
    assert "16 motion" in text
    assert "16 motion (expert" not in text  # nobody denoised what was executed


def test_camera_and_prediction_are_shown_in_half_blocks_where_there_is_colour_and_room():
    pixel = "48;2;200;40;80"
    assert pixel in shown(SCENE, 120, in_colour=True)
    assert "▀" in shown(SCENE, 80, in_colour=True)
    assert "▀" not in shown(SCENE, 60, in_colour=True)
    assert "▀" not in shown(SCENE, 120, in_colour=False)


@pytest.mark.parametrize("width", [20, 60, 80, 120, 200])
def test_before_anything_is_known_there_is_something_to_see(width):
    text = shown(Scene("longscape demo", "waiting for the camera's first image", 0.0, 60.0, Sight()), width, in_colour=True)
    assert "longscape" in text


def test_without_a_terminal_there_are_lines_when_something_changes():
    output = io.StringIO()
    view = make_view(Console(file=output, width=80))
    assert isinstance(view, Lines)
    with view:
        for scene in (SCENE, SCENE, replace(SCENE, phase="ending")):
            view.show(scene)
    first, second = output.getvalue().splitlines()
    assert all(wanted in first for wanted in (*WANTED, "12 of 60 s", "chunks 8 gripper (expert 0) + 24 max length (expert 2)"))
    assert second.startswith("ending")


def test_a_terminal_keeps_one_picture_up_to_date():
    console = Console(file=io.StringIO(), width=100, height=40, force_terminal=True)
    view = make_view(console)
    assert isinstance(view, Screen)
    with view:
        view.show(SCENE)
        view.show(replace(SCENE, phase="ending"))
