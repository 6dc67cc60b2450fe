# SPDX-License-Identifier: Apache-2.0
"""Film and contact sheet."""

from __future__ import annotations

import numpy as np
import pytest

from longscape_ros.demo.palette import ALARM, EXECUTED, PANEL, expert_colour, mix
from longscape_ros.demo.recording import Recording

pytest.importorskip("PIL", reason="no pillow; install it with: pip install 'longscape_ros[video]'")

from longscape_ros.demo.canvas import enlarge
from longscape_ros.demo.sheet import choose, write_sheet
from longscape_ros.demo.video import HEIGHT, WIDTH, Film, write_video

PERIOD_NS = 50_000_000
TILE = 320


def has(picture: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((picture == np.array(colour, np.uint8)).all(axis=2).any())


def tile(picture: np.ndarray, column: int) -> np.ndarray:
    left = 24 + column * (TILE + 16)
    return picture[100 : 100 + TILE, left : left + TILE]


def test_a_film_shows_what_was_predicted_for_the_moment_beside_what_came(recording):
    moment_ns = recording.frames[45].stamp_ns
    picture = Film(recording, "title").draw(moment_ns)
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert picture.dtype == np.uint8
    for column in (1, 2, 3):  # exact predictions: the same pixels within their frames
        assert np.array_equal(tile(picture, column)[4:-4, 4:-4], tile(picture, 0)[4:-4, 4:-4])


def test_a_film_enlarges_pixels_to_squares_without_blur(recording):
    shown = tile(Film(recording).draw(recording.frames[45].stamp_ns), 0)
    expected = recording.actual(recording.frames[45].stamp_ns, (16, 16))
    assert np.array_equal(shown, expected.repeat(20, axis=0).repeat(20, axis=1))


def test_a_film_draws_chunks_in_their_experts_colours_dim_where_they_came_too_late(recording):
    picture = Film(recording).draw(recording.frames[45].stamp_ns)
    for expert in (0, 2):
        assert has(picture, expert_colour(expert))
    assert has(picture, mix(expert_colour(0), PANEL, 0.45))


def test_nothing_of_a_prediction_is_drawn_before_it_was_published(recording):
    before = Film(recording).draw(recording.predictions[0].received_ns - PERIOD_NS)
    lanes = before[508:650]
    assert not has(lanes, expert_colour(0))
    assert not has(lanes, expert_colour(2))


def test_an_executed_chunk_is_drawn_once_it_has_ended(recording):
    film = Film(recording)
    only_executed = Film(Recording(recording.frames, recording.plans, (), recording.executed))
    assert has(film.draw(recording.frames[40].stamp_ns), EXECUTED)
    assert has(only_executed.draw(recording.frames[40].stamp_ns), EXECUTED)
    assert not has(only_executed.draw(recording.frames[20].stamp_ns), EXECUTED)


def test_a_film_frames_what_was_not_as_predicted_and_marks_what_disturbed_the_robot(recording):
    film = Film(recording)
    assert not has(film.draw(recording.frames[20].stamp_ns), ALARM)
    surprised = film.draw(recording.frames[24].stamp_ns)
    assert has(tile(surprised, 0), ALARM)
    assert not has(surprised[508:], ALARM)
    disturbed = film.draw(recording.frames[62].stamp_ns)
    assert has(disturbed[508:], ALARM)
    assert not has(disturbed[:508], ALARM)


@pytest.mark.parametrize("parts", ["frames", "plans", "predictions"])
def test_a_film_can_do_without_any_part_of_a_recording(recording, parts):
    kept = {"frames": recording.frames, "plans": recording.plans, "predictions": recording.predictions} | {parts: ()}
    assert Film(Recording(**kept)).draw(recording.frames[50].stamp_ns).shape == (HEIGHT, WIDTH, 3)


def test_a_film_is_h264_that_plays_everywhere_and_lasts_as_long_as_the_recording(recording, tmp_path):
    av = pytest.importorskip("av", reason="no av; install it with: pip install 'longscape_ros[video]'")
    done = []
    part = Recording(recording.frames[:30], recording.plans, recording.predictions)
    path = write_video(part, tmp_path / "demo.mp4", progress=lambda *report: done.append(report))
    assert path is not None
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height, stream.average_rate) == (WIDTH, HEIGHT, 20)
        assert sum(1 for _ in container.decode(video=0)) == 30
    assert done[-1][:2] == (30, 30)
    assert [file.name for file in tmp_path.iterdir()] == ["demo.mp4"]


def test_an_empty_recording_gives_no_film(tmp_path):
    assert write_video(Recording((), (), ()), tmp_path / "demo.mp4") is None
    assert not any(tmp_path.iterdir())


def test_a_contact_sheet_shows_predictions_whose_future_was_seen(recording, tmp_path):
    from PIL import Image

    chosen = choose(recording)
    assert [p.prediction.anchor_ns for p in chosen] == sorted(p.prediction.anchor_ns for p in chosen)
    assert 1 <= len(chosen) <= 3
    with Image.open(write_sheet(recording, tmp_path / "new" / "sheet.png")) as sheet:
        pixels = np.asarray(sheet)
    assert has(pixels, expert_colour(0))
    assert has(pixels, expert_colour(2))


def test_a_prediction_whose_future_was_not_seen_is_not_on_the_sheet(recording):
    assert choose(Recording(recording.frames[:30], recording.plans, recording.predictions)) == []


def test_a_contact_sheet_without_predictions_says_so(tmp_path):
    assert write_sheet(Recording((), (), ()), tmp_path / "sheet.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("size", "box", "expected"),
    [((64, 64), 192, (192, 192)), ((128, 128), 192, (192, 192)), ((48, 64), 320, (320, 240)), ((480, 640), 320, (320, 240))],
)
def test_a_picture_fills_its_box(size, box, expected):
    rgb = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    picture = enlarge(rgb, box)
    assert picture.size == expected
    if box % size[1] == 0:
        factor = box // size[1]
        assert np.array_equal(np.asarray(picture)[::factor, ::factor], rgb)
