# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from longscape_ros.errors import BundleError
from longscape_ros.export import probe as module
from longscape_ros.export.probe import write_probe
from longscape_ros.model.probe import PositionProbe, ProbeConfig
from longscape_ros.probe import Probe, ProbeFacts

FACTS = ProbeFacts(("hand_x", "hand_y", "hand_z"), "/joint_states", (64, 64), error_cm=0.7, error_cm_p95=2.0, frames=1000)


@pytest.fixture(scope="module")
def network() -> PositionProbe:
    torch.manual_seed(0)
    return PositionProbe(ProbeConfig())


def test_a_probe_is_written_as_it_is_in_torch_and_small(network: PositionProbe, tmp_path: Path) -> None:
    path = tmp_path / "new" / "probe.onnx"
    assert write_probe(network, FACTS, path) <= module.LARGEST_DIFFERENCE_M
    assert path.stat().st_size < 1_000_000
    probe = Probe(path)
    assert probe.facts == FACTS
    images = np.random.default_rng(1).integers(0, 256, (5, 64, 64, 3), np.uint8)
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(probe.locate(images), expected, atol=1e-5)
    assert [file.name for file in path.parent.iterdir()] == ["probe.onnx"]


def test_a_probe_that_computes_something_else_is_not_written(
    network: PositionProbe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Probe.locate
    monkeypatch.setattr(Probe, "locate", lambda self, rgb: right(self, rgb) + 0.01)
    with pytest.raises(BundleError, match=r"found a largest difference of 0\.01 m .* expected at most 0\.0001 m"):
        write_probe(network, FACTS, tmp_path / "probe.onnx")
    assert list(tmp_path.iterdir()) == []
