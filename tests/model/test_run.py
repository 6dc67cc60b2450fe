# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.toy_runs import CONFIDENCE, MAPPING, RULE, SPACE, toy_config, toy_model, write_toy_run

from longscape_ros.errors import InputError
from longscape_ros.model.run import (
    AUTOENCODER,
    DENOISER,
    DISTIL,
    HEADS,
    Run,
    begin_run,
    claimed,
    load_checkpoint,
    load_model,
    load_run,
    save_checkpoint,
    save_run,
)


def test_a_description_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = Run("toy", toy_config(), SPACE, RULE, MAPPING, {"frames": 240.0}, 2, (AUTOENCODER, DENOISER, HEADS), CONFIDENCE)
    save_run(tmp_path / "run", run)
    assert load_run(tmp_path / "run") == run
    assert json.loads((tmp_path / "run" / "run.json").read_text())["recipe"] == "toy"


def test_a_run_goes_on_only_with_what_it_was_begun_with(tmp_path: Path) -> None:
    run = Run("toy", toy_config(), SPACE, RULE, MAPPING, {"frames": 240.0})
    begin_run(tmp_path, run)
    begin_run(tmp_path, run)
    with pytest.raises(InputError, match="begun with another recipe or other bags; name another folder"):
        begin_run(tmp_path, replace(run, data={"frames": 241.0}))
    assert load_run(tmp_path) == run
    calibrated = replace(run, confidence=CONFIDENCE)  # known at the end only; it is the same run nevertheless
    save_run(tmp_path, calibrated)
    begin_run(tmp_path, run)
    assert load_run(tmp_path) == calibrated


def test_a_run_is_worked_on_by_one_training_at_a_time(tmp_path: Path) -> None:
    with claimed(tmp_path), pytest.raises(InputError, match="another training is working on; end that one"), claimed(tmp_path):
        pass
    with claimed(tmp_path):
        pass


def test_a_folder_without_a_description_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no run\.json; expected the folder that longscape train wrote to"):
        load_run(tmp_path)


def test_the_model_is_the_averaged_one_ready_to_predict(tmp_path: Path) -> None:
    model = toy_model()
    found = load_model(write_toy_run(tmp_path, model, heads=True))
    assert not found.training
    assert found.config == model.config
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], tensor, atol=0, rtol=0)


def test_a_distilled_denoiser_replaces_the_one_before(tmp_path: Path) -> None:
    teacher, student = toy_model(seed=1), toy_model(seed=2)
    write_toy_run(tmp_path, teacher)
    save_run(tmp_path, replace(load_run(tmp_path), stages=(AUTOENCODER, DENOISER, DISTIL)))
    distilled = {f"student.{name}": tensor for name, tensor in student.denoiser.state_dict().items()}
    save_checkpoint(tmp_path / f"{DISTIL}.pt", {"averaged": distilled, "finished": True})
    found = load_model(tmp_path)
    for name, tensor in student.denoiser.state_dict().items():
        torch.testing.assert_close(found.denoiser.state_dict()[name], tensor, atol=0, rtol=0)
    torch.testing.assert_close(found.autoencoder.coarse_bias, teacher.autoencoder.coarse_bias, atol=0, rtol=0)


def test_a_model_whose_confidence_is_not_calibrated_is_refused(tmp_path: Path) -> None:
    run = write_toy_run(tmp_path, toy_model(), heads=True)
    save_run(run, replace(load_run(run), confidence=None))
    with pytest.raises(InputError, match="whose confidence is not calibrated yet; run the same longscape train command again"):
        load_model(run)


@pytest.mark.parametrize("missing", [AUTOENCODER, DENOISER, HEADS])
def test_a_training_that_has_not_reached_its_end_is_refused(tmp_path: Path, missing: str) -> None:
    run = write_toy_run(tmp_path, toy_model(), heads=True)
    (run / f"{missing}.pt").unlink()
    with pytest.raises(InputError, match=rf"with an unfinished {missing}; run the same longscape train command again"):
        load_model(run)


def test_an_unfinished_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"with an unfinished denoiser;"):
        load_model(write_toy_run(tmp_path, toy_model(), finished=False))


def test_a_checkpoint_that_could_not_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "stage.pt"
    assert load_checkpoint(path) is None
    save_checkpoint(path, {"step": 1, "weights": torch.ones(3)})
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_checkpoint(path, {"step": 2, "weights": lambda: None})
    found = load_checkpoint(path)
    assert found is not None
    assert found["step"] == 1
    save_checkpoint(path, {"step": 3})
    assert load_checkpoint(path) == {"step": 3}


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_reading_a_checkpoint_runs_no_code_from_it(tmp_path: Path) -> None:
    torch.save({"step": Malicious(tmp_path / "trace")}, tmp_path / "stage.pt")
    with pytest.raises(pickle.UnpicklingError):
        load_checkpoint(tmp_path / "stage.pt")
    assert not (tmp_path / "trace").exists()
