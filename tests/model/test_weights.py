# SPDX-License-Identifier: Apache-2.0
"""Weights that travel."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.toy_runs import toy_model
from torch import Tensor

from longscape_ros.errors import InputError
from longscape_ros.model import weights as storing
from longscape_ros.model.weights import EXACT_BELOW, LARGEST_FILE, LARGEST_TOTAL, read_weights, store_weights


def some(count: int = 6, size: int = 2000) -> dict[str, Tensor]:
    """Large tensors, a small one and a whole number."""
    generator = torch.Generator().manual_seed(0)
    large = {f"layers.{n}.weight": torch.randn(size // 10, 10, generator=generator) for n in range(count)}
    return {**large, "small": torch.full((EXACT_BELOW - 1,), 1 / 3), "count": torch.tensor(7)}


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.npz"))


def test_weights_come_back_in_half_precision_small_ones_exactly_and_the_state_as_it_was(tmp_path: Path) -> None:
    weights = some()
    store_weights(tmp_path, "stage", weights, {"step": 12, "figures": {"loss": 0.5}})
    found = read_weights(tmp_path, "stage")
    assert found is not None
    stored, state = found
    assert state == {"step": 12, "figures": {"loss": 0.5}}
    assert list(stored) == list(weights)
    for name, tensor in weights.items():
        assert stored[name].dtype == tensor.dtype
        expected = tensor.half().float() if name.startswith("layers") else tensor
        torch.testing.assert_close(stored[name], expected, atol=0, rtol=0)
    assert sum(path.stat().st_size for path in files(tmp_path)) < 2.2 * 6 * 2000 + 3000


def test_a_model_is_taken_over_with_all_its_names(tmp_path: Path) -> None:
    model = toy_model()
    store_weights(tmp_path, "stage", model.state_dict(), {})
    found = read_weights(tmp_path, "stage")
    assert found is not None
    toy_model(seed=1).load_state_dict(found[0])


@pytest.mark.parametrize("limit", [5_000, 9_000, 20_000])
def test_no_file_is_larger_than_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(storing, "LARGEST_FILE", limit)
    store_weights(tmp_path, "stage", some(), {})
    assert len(files(tmp_path)) > 1
    assert all(path.stat().st_size <= limit for path in files(tmp_path))
    found = read_weights(tmp_path, "stage")
    assert found is not None
    assert list(found[0]) == list(some())


def test_the_limits_are_those_of_what_can_be_carried() -> None:
    assert LARGEST_FILE <= 16 * 2**20
    assert LARGEST_TOTAL <= 64 * 2**20


def test_a_weight_too_large_for_a_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storing, "LARGEST_FILE", 4000)
    with pytest.raises(InputError, match=r"Got the weight layers\.0\.weight of 4000 bytes, expected less than 4000; use a narrower model"):
        store_weights(tmp_path, "stage", some(), {})


def test_stages_that_are_too_much_together_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store_weights(tmp_path, "first", some(), {})
    monkeypatch.setattr(storing, "LARGEST_TOTAL", files(tmp_path)[0].stat().st_size + 100)
    with pytest.raises(InputError, match=r"bytes of weights in .*, expected at most \d+; use a smaller model"):
        store_weights(tmp_path, "second", some(), {})


def test_without_weights_there_are_none(tmp_path: Path) -> None:
    assert read_weights(tmp_path, "stage") is None
    store_weights(tmp_path, "other", some(), {})
    assert read_weights(tmp_path, "stage") is None


def test_a_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storing, "LARGEST_FILE", 9_000)
    store_weights(tmp_path, "stage", some(), {})
    (tmp_path / "stage-1.npz").unlink()
    with pytest.raises(InputError, match=r"stage\.json without stage-1\.npz beside it, expected every file that it names; copy the whole"):
        read_weights(tmp_path, "stage")


def test_storing_again_replaces_what_was_there_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    for step in (1, 2):
        store_weights(tmp_path, "stage", {name: tensor * step for name, tensor in some().items()}, {"step": step})
    found = read_weights(tmp_path, "stage")
    assert found is not None
    assert found[1]["step"] == 2
    assert int(found[0]["count"]) == 14
    assert {path.name for path in tmp_path.iterdir()} == {"stage.json", "stage-0.npz"}


def test_reading_weights_runs_no_code_from_them(tmp_path: Path) -> None:
    with (tmp_path / "stage-0.npz").open("wb") as file:
        np.savez(file, harmful=np.array([{"an": "object"}], object))
    (tmp_path / "stage.json").write_text(json.dumps({"files": ["stage-0.npz"]}))
    with pytest.raises(ValueError, match="allow_pickle"):
        read_weights(tmp_path, "stage")
