# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.tiny_bundle import write_tiny_bundle
from support.tiny_probe import write_tiny_probe

from longscape_ros.errors import InputError
from longscape_ros.probe import Probe


def test_a_probe_says_where_the_gripper_is_and_what_it_was_trained_on(tmp_path: Path) -> None:
    facts = write_tiny_probe(tmp_path / "probe.onnx", (16, 24))
    probe = Probe(tmp_path / "probe.onnx")
    assert probe.facts == facts
    images = np.zeros((2, 16, 24, 3), np.uint8)
    images[1] = (255, 102, 51)
    located = probe.locate(images)
    assert located.dtype == np.float64
    assert located.tolist() == [pytest.approx([0, 0, 0]), pytest.approx([0.1, 0.04, 0.02])]


def test_images_of_another_size_are_refused_with_the_remedy(tmp_path: Path) -> None:
    write_tiny_probe(tmp_path / "probe.onnx", (16, 24))
    with pytest.raises(InputError, match=r"Got images of \[24, 16\] pixels for the probe .*, expected \[16, 24\].*--image-size"):
        Probe(tmp_path / "probe.onnx").locate(np.zeros((1, 24, 16, 3), np.uint8))


def test_what_is_no_probe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="which is no file; longscape probe makes one"):
        Probe(tmp_path / "absent.onnx")
    bundle = write_tiny_bundle(tmp_path / "tiny")
    with pytest.raises(InputError, match=r"which is no probe .*expected longscape_probe"):
        Probe(bundle.file("decoder.onnx"))
    (tmp_path / "text.onnx").write_text("nothing")
    with pytest.raises(InputError, match="which is no probe"):
        Probe(tmp_path / "text.onnx")
