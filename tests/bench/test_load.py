# SPDX-License-Identifier: Apache-2.0
"""Where a camera's images go, and what CPU time the node takes for them."""

from __future__ import annotations

import importlib.util

import pytest
from support.hosts import skip_unless_installed

from longscape_ros.bench import BenchConfig, bench
from longscape_ros.bench.camera import Seen
from longscape_ros.bench.load import ENDS, figures_of, load
from longscape_ros.bench.stream import CAMERAS, Stream
from longscape_ros.bundle import Bundle
from longscape_ros.errors import InputError

AFTER = dict.fromkeys(ENDS, "2") | {"inference.process_cpu_ms": "5500", "inference.graphs_cpu_ms": "2000", "camera.images": "17"}
BEFORE = dict.fromkeys(ENDS, "1") | {"inference.process_cpu_ms": "2500", "inference.graphs_cpu_ms": "0"}


def test_every_image_is_in_one_place_and_what_is_in_none_is_unexplained() -> None:
    figures = figures_of(Seen(published=12, seconds=10.0, before=BEFORE, after=AFTER), "camera.x")
    assert figures == {
        "camera.x.cpu_outside": pytest.approx(0.1),
        "camera.x.cpu_graphs": pytest.approx(0.2),
        "camera.x.images": 12.0,
        "camera.x.images_per_s": 1.2,
        "camera.x.images_lost": 1.0,
        "camera.x.images_unused": 6.0,
        "camera.x.images_replaced": 1.0,
        "camera.x.images_predicted": 1.0,
        "camera.x.images_unexplained": 2.0,  # twelve, and ten counters counted one each
    }


def test_without_ros_and_dds_the_reason_is_told(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    figures = load(bundle, CAMERAS[0], 1.0, "auto", "auto")
    assert list(figures) == ["meta.not_run.camera.rgb8_640x480_30hz"]


def test_a_node_that_does_not_start_is_told_with_its_last_words(bundle: Bundle) -> None:
    if importlib.util.find_spec("rclpy") is None:
        skip_unless_installed("cyclonedds", extra="embedded")
    figures = load(bundle, CAMERAS[0], 1.0, "abacus", "auto")
    assert "process predictor ended" in str(figures["meta.not_run.camera.rgb8_640x480_30hz"])


@pytest.mark.parametrize("encoding", ["rgb8", "jpeg"])
def test_the_images_of_a_camera_are_accounted_for(bundle: Bundle, encoding: str) -> None:
    if importlib.util.find_spec("rclpy") is None:
        skip_unless_installed("cyclonedds", extra="embedded")
    camera = Stream(encoding, 160, 120, 30)
    figures = bench(bundle, BenchConfig(backend="ort_cpu", seconds=2.0, cameras=(camera,), only_cameras=True))
    assert not [name for name in figures if not name.startswith(("camera.", "meta."))]
    assert str(figures[f"meta.camera.{camera.name}"]).startswith(f"160 x 120 {encoding} at 30 Hz, ")
    found = {name.rpartition(".")[2]: value for name, value in figures.items() if isinstance(value, float)}
    ends = ("lost", "unused", "replaced", "predicted", "unexplained")
    assert sum(found[f"images_{end}"] for end in ends) == found["images"] > 20
    assert found["images_predicted"] > 0
    assert found["images_unexplained"] >= 0
    assert found["cpu_outside"] > 0
    assert found["cpu_graphs"] > 0


def test_a_camera_that_is_named_twice_is_refused() -> None:
    with pytest.raises(InputError, match=r"rgb8:640x480@30, rgb8:640x480@30, expected each once"):
        BenchConfig(cameras=(CAMERAS[0], CAMERAS[0]))
