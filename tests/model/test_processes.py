# SPDX-License-Identifier: Apache-2.0
"""Training in several processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from support import training_process
from support.toy_runs import write_toy_bags
from torch import Tensor

from longscape_ros.errors import InputError
from longscape_ros.model.processes import Processes, choose_device, deviation, joined, move
from longscape_ros.model.recipes import RECIPES
from longscape_ros.model.run import LOG, load_model
from longscape_ros.model.train import train

CPU = torch.device("cpu")
TIMEOUT_S = 240


@dataclass(frozen=True)
class Batch:
    """Something that can be cut into parts."""

    values: Tensor
    length: int


def test_a_process_takes_its_part_of_a_batch() -> None:
    batch = Batch(torch.arange(6), 8)
    assert [Processes(CPU, rank, 3).part(batch).values.tolist() for rank in range(3)] == [[0, 1], [2, 3], [4, 5]]
    assert Processes(CPU, 1, 3).part(batch).length == 8
    assert Processes(CPU).part(batch) is batch


def test_one_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined(CPU) as processes:
        assert (processes.rank, processes.count, processes.leads) == (0, 1, True)
        assert processes.agree(0.5) == 0.5
        assert processes.mean({"loss": 2.0}) == {"loss": 2.0}
        processes.wait()
        module = torch.nn.Linear(1, 1)
        assert processes.wrap(module) is module


def test_devices_are_chosen_by_name() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(InputError, match="Got the device 'tpu', expected auto, cpu or cuda"):
        choose_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="sees no CUDA GPU here; use --device cpu"):
            choose_device("cuda")


def test_the_deviation_of_one_process_is_that_of_its_values() -> None:
    values = torch.randn(50)
    assert deviation(values) == values.std()


def test_nested_tensors_are_moved() -> None:
    value = {"a": torch.ones(2), "b": [{"c": torch.zeros(1), "d": 7}], "e": "text"}
    moved = move(value, torch.device("meta"))
    assert moved["a"].device.type == moved["b"][0]["c"].device.type == "meta"
    assert (moved["b"][0]["d"], moved["e"]) == (7, "text")


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bags(tmp_path_factory.mktemp("bags"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def train_in_processes(count: int, bags: Path, run: Path) -> None:
    """What torchrun does, without its own process."""
    script = training_process.__file__
    path = os.pathsep.join([str(Path(script).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    shared = {**os.environ, "PYTHONPATH": path, "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    children = [
        subprocess.Popen(
            [sys.executable, script, str(bags), str(run)],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        for child in children:
            said, _ = child.communicate(timeout=TIMEOUT_S)
            assert child.returncode == 0, said
    finally:
        for child in children:
            child.kill()
            child.wait()


def losses(run: Path) -> dict[tuple[str, int], float]:
    """(stage, step) -> loss."""
    lines = [json.loads(line) for line in (run / LOG).read_text().splitlines()]
    return {(line["stage"], line["step"]): line["loss"] for line in lines}


def test_two_processes_train_what_one_does(bags: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    monkeypatch.setitem(RECIPES, "toy", training_process.two_stages)
    train(bags, "toy", tmp_path / "one", device="cpu", precision="float32")
    train_in_processes(2, bags, tmp_path / "two")
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert set(one) == set(two) == {("autoencoder", 20), ("denoiser", 20)}
    for key, loss in one.items():
        assert two[key] == pytest.approx(loss, rel=1e-5, abs=1e-5), key
    models = [load_model(tmp_path / run).state_dict() for run in ("one", "two")]
    torch.testing.assert_close(models[0]["denoiser.router.load"], models[1]["denoiser.router.load"], atol=1e-5, rtol=0)
    assert models[0]["denoiser.router.load"].std() > 1e-3  # a router chose
