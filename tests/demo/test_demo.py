# SPDX-License-Identifier: Apache-2.0
"""The demo itself, from the simulated arm to the film; each run is a few seconds long."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from rich.console import Console
from support.tiny_bundle import write_tiny_bundle

import longscape_ros
from longscape_ros.bags.reader import topics
from longscape_ros.demo import DemoConfig, run_demo
from longscape_ros.demo.artefacts import write_artefacts
from longscape_ros.demo.config import Outputs
from longscape_ros.errors import BundleError, HostError, InputError

MARK = "LONGSCAPE_TEST_MARK"
PROCESSES = ("monitor", "driver", "predictor", "policy", "recorder")


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> str:
    """Stands in the environment of every process that the test starts."""
    value = uuid.uuid4().hex
    monkeypatch.setenv(MARK, value)
    return value


def marked(mark: str) -> list[int]:
    """Processes with the mark, but for this one."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        pid = int(entry.parent.name)
        try:
            if pid != os.getpid() and f"{MARK}={mark}".encode() in entry.read_bytes():
                found.append(pid)
        except OSError:  # ended meanwhile, or somebody else's
            continue
    return found


def quiet() -> Console:
    return Console(file=io.StringIO(), width=100)


def test_a_demo_leaves_a_film_a_sheet_a_recording_and_a_report_and_no_process(demo_host, arm_bundle, tmp_path, mark):
    outputs = Outputs(tmp_path / "demo")
    console = quiet()
    found = run_demo(DemoConfig(seconds=4, output=outputs.folder, bundle=arm_bundle), console)
    assert marked(mark) == []
    for path in (outputs.video, outputs.sheet, outputs.bag, outputs.report):
        assert path.stat().st_size > 0, path
    assert json.loads(outputs.report.read_text()) == found
    assert found["seconds"] >= 3
    assert found["camera.frames"] > 20
    assert found["plans"] >= 1
    assert found["predictions_full"] >= 1
    assert found["remaining_horizon_ms_p5"] > 0
    assert found["meta.ended"] == "complete"
    assert {name: found[f"exit_code.{name}"] for name in PROCESSES} == dict.fromkeys(PROCESSES, 0.0)
    recorded = topics(outputs.bag)
    assert {"/camera/image_raw", "/camera/camera_info", "/arm_controller/joint_trajectory", "/predictor/prediction"} <= set(recorded)
    shown = console.file.getvalue()
    assert str(outputs.video) in shown
    assert "ROS_DOMAIN_ID" in shown

    again = write_artefacts(outputs)
    assert {name: again[name] for name in again} == {name: found[name] for name in again}


def test_a_demo_that_is_disturbed_tells_when_and_records_what_was_thought_of_it(demo_host, arm_bundle, tmp_path, mark):
    outputs = Outputs(tmp_path / "demo")
    console = quiet()
    found = run_demo(DemoConfig(seconds=8, output=outputs.folder, bundle=arm_bundle, disturbance=("bump", 1.0)), console)
    assert marked(mark) == []
    assert found["meta.disturbance"] == "bump 1"
    assert "disturbance.at_s" in found
    assert found["surprise.compared"] > 0
    assert {"/disturbance", "/predictor/surprise"} <= set(topics(outputs.bag))
    assert "Disturbed " in console.file.getvalue()


def test_a_disturbance_without_a_moment_for_it_is_refused_before_anything_is_started(demo_host, arm_bundle, tmp_path, mark):
    config = DemoConfig(seconds=4, task="reach", output=tmp_path / "demo", bundle=arm_bundle, disturbance=("grip", 1.0))
    with pytest.raises(InputError, match=r"Got the disturbance grip of reach, seed 9000, expected a moment of the first 4 s"):
        run_demo(config, quiet())
    assert not config.output.exists()
    with pytest.raises(InputError, match="expected a policy"):
        DemoConfig(policy=False, disturbance=("bump", 1.0))


def test_an_interrupt_ends_a_demo_early_and_keeps_what_there_is(demo_host, arm_bundle, tmp_path, mark):
    outputs = Outputs(tmp_path / "demo")
    script = (
        "from pathlib import Path\nfrom longscape_ros.demo import DemoConfig, run_demo\n"
        f"run_demo(DemoConfig(seconds=600, output=Path({str(outputs.folder)!r}), bundle=Path({str(arm_bundle)!r})))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(longscape_ros.__file__).parent.parent)}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if line.startswith("recording"):
            break
    time.sleep(1.0)  # some seconds to keep
    process.send_signal(signal.SIGINT)
    said.append(process.communicate(timeout=120)[1])
    assert process.returncode == 0, "".join(said)
    assert marked(mark) == []
    found = json.loads(outputs.report.read_text())
    assert found["meta.ended"] == "interrupted"
    assert outputs.video.stat().st_size > 0


def test_a_process_that_cannot_start_ends_the_demo_with_its_reason(demo_host, arm_bundle, tmp_path, mark):
    config = DemoConfig(seconds=600, task="juggle", output=tmp_path / "demo", bundle=arm_bundle, policy=False)
    with pytest.raises(HostError, match=r"driver ended with exit status 1 .*Got task 'juggle', expected one of"):
        run_demo(config, quiet())
    assert marked(mark) == []


def test_a_task_that_no_policy_can_do_is_refused_before_anything_is_started(demo_host, arm_bundle, tmp_path, mark):
    config = DemoConfig(seconds=4, task="juggle", output=tmp_path / "demo", bundle=arm_bundle)
    with pytest.raises(InputError, match=r"Got task 'juggle', which no policy can do; expected one of reach, push, .*, or --no-policy"):
        run_demo(config, quiet())
    assert not config.output.exists()
    assert marked(mark) == []


def test_a_bundle_of_another_robot_is_refused_before_anything_is_started(demo_host, tmp_path):
    with pytest.raises(BundleError, match=r"expected the action names \['x', 'y', 'gripper'\]"):
        run_demo(DemoConfig(output=tmp_path / "demo", bundle=write_tiny_bundle(tmp_path / "bundle").path), quiet())
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_a_demo_lasts_a_positive_time(seconds):
    with pytest.raises(InputError, match="expected a positive number"):
        DemoConfig(seconds=seconds)


def test_files_of_an_older_run_are_removed_and_others_are_left_alone(tmp_path):
    outputs = Outputs(tmp_path)
    outputs.logs.mkdir()
    mine = tmp_path / "notes.txt"
    for path in (outputs.report, outputs.logs / "driver.log", mine):
        path.write_text("old")
    outputs.clear()
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["logs", "notes.txt"]
