# SPDX-License-Identifier: Apache-2.0
"""The command line: help, faults, exit statuses, figures as JSON, and the whole way from the simulation to a prediction."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.tiny_bundle import write_tiny_bundle

from longscape_ros import cli
from longscape_ros.bags.reader import raw_messages, topics
from longscape_ros.bags.writer import BagWriter
from longscape_ros.bundle import ENCODER, load_bundle
from longscape_ros.cli import COMMANDS, FAULT, INTERRUPTED, main, parser
from longscape_ros.commands.command import Command
from longscape_ros.commands.predict import outputs
from longscape_ros.offline import PREDICTION_TOPIC

NAMES = (
    "demo", "generate", "train", "curve", "export", "probe", "eval", "compare", "surprise", "ablate", "predict", "view", "bench", "doctor",
)  # fmt: skip
WAIT_S = 300.0
HAS_GRAPH = importlib.util.find_spec("cyclonedds") is not None or "ROS_DISTRO" in os.environ

Figures = dict[str, Any]


def read(path: Path) -> Figures:
    """Figures that were written with --json, which must be flat and finite."""
    figures: Figures = json.loads(path.read_text(encoding="utf-8"))
    for name, value in figures.items():
        assert isinstance(value, str) or (isinstance(value, float) and math.isfinite(value)), (name, value)
        assert isinstance(value, str) == name.startswith("meta.") or figures["meta.command"] == "doctor", name
    return figures


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a command ends with that cannot do what it is asked to."""
    assert main([str(argument) for argument in arguments]) == FAULT
    shown = capsys.readouterr()
    assert shown.out == ""
    *before, line = shown.err.splitlines()
    assert all(text.startswith("Measuring") for text in before)
    prefix = f"longscape {arguments[0]}: "
    assert line.startswith(prefix)
    return line.removeprefix(prefix)


# Help


@pytest.mark.parametrize("command", COMMANDS, ids=NAMES)
def test_every_command_has_a_help_with_an_example_that_can_be_typed(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command.name, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert f"example:\n  {command.example}\n" in shown
    assert "--json FILE" in shown
    program, *arguments = shlex.split(command.example)
    assert program == "longscape"
    assert parser().parse_args(arguments).command is command


def test_the_programs_own_help_names_every_command(capsys):
    assert tuple(command.name for command in COMMANDS) == NAMES
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert all(f"{command.name} " in shown and command.summary.split()[0] in shown for command in COMMANDS)


def test_the_version_is_the_packages(start):
    process = start("--version")
    out, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, out, err) == (0, f"longscape_ros {cli._version()}\n", "")


@pytest.mark.parametrize("arguments", [[], ["fly"], ["train"], ["predict", "bag"], ["eval", "--bags", "b", "--horizons", "1,a"]])
def test_what_cannot_be_parsed_ends_with_the_usage(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == FAULT
    assert capsys.readouterr().err.startswith("usage: longscape")


# Exit statuses


@pytest.mark.skipif(not HAS_GRAPH, reason="no cyclonedds and no ROS, which the doctor must tell")
def test_the_doctor_ends_with_zero_where_nothing_is_missing(bundle, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("ROS_DOMAIN_ID", raising=False)
    assert main(["doctor", "--bundle", str(bundle.path), "--json", str(tmp_path / "doctor.json")]) == 0
    figures = read(tmp_path / "doctor.json")
    assert (figures["missing"], figures["bundle.status"], figures["meta.command"]) == (0, "ok", "doctor")
    assert "bundle runs" in capsys.readouterr().out


def test_the_doctor_ends_with_one_where_something_is_missing(tmp_path, capsys, monkeypatch):
    damaged = write_tiny_bundle(tmp_path / "tiny")
    damaged.file(ENCODER).unlink()
    monkeypatch.setenv("ROS_DOMAIN_ID", "here")
    assert main(["doctor", "--bundle", str(damaged.path), "--json", str(tmp_path / "doctor.json")]) == 1
    figures = read(tmp_path / "doctor.json")
    assert figures["missing"] >= 2
    assert "encoder.onnx: found no such file" in figures["bundle.found"]
    shown = capsys.readouterr().out
    assert "-> set it to a number from 0 to 101, or unset it" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("predict nowhere --output out.mcap --bundle {bundle}", "Got nowhere, expected a rosbag2 folder, an .mcap file, or a folder"),
        ("predict nowhere --output out.mcap --bundle nothing", "nothing: found no such folder"),
        ("predict nowhere --output out.mcap --bundle {bundle} --fps 5", "expected all of --image-topic, --fps, --action"),
        ("predict {empty} --output out.mcap --bundle {bundle}", "found the topics {{}}, expected {{'/arm/joint_trajectory'"),
        ("predict {empty} --output out.mcap --bundle {bundle} --mapping franka_droid", "expected the action names ['x', 'y', 'gripper']"),
        ("predict {empty} --output out --bundle {bundle}", "expected a name that ends in .mcap"),
        ("eval --bags nowhere --bundle {bundle}", "Got nowhere, expected a rosbag2 folder"),
        ("bench --bundle {bundle} --threads 0", "Got 0 threads, expected at least 1"),
        ("bench --bundle {bundle} --seconds 0", "Got 0.0 seconds, expected a positive time"),
        ("bench --bundle {bundle} --backend abacus", "Got the backend 'abacus', expected auto or one of"),
        ("bench --bundle {bundle} --no-compare --no-node --seconds 0.01 --json {empty}/no/folder.json", "Not a directory"),
    ],
)
def test_a_fault_is_one_line_and_status_two(bundle, tmp_path, capsys, monkeypatch, arguments, text):
    monkeypatch.chdir(tmp_path)
    empty = tmp_path / "empty.mcap"
    BagWriter(empty).close()
    places = {"bundle": bundle.path, "empty": empty}
    if "--json" in arguments:
        assert main(arguments.format(**places).split()) == FAULT
        assert text in capsys.readouterr().err
    else:
        assert text.format(**places) in refused(capsys, *arguments.format(**places).split())
    assert list(tmp_path.iterdir()) == [empty]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("generate --output out", "Got no tasks, expected --tasks T1,T2 or --split train|heldout"),
        ("generate --output out --tasks juggle", "Got task 'juggle', expected one of reach, push"),
        ("generate --output out --tasks reach --episodes 0", "Got 1 tasks and 0 episodes"),
        ("generate --output out --tasks reach --frames 1", "Got 1 frames of 64 pixels"),
        ("generate --output out --tasks reach --image-size 7", "Got 400 frames of 7 pixels"),
        ("generate --output out --tasks reach --seed -1", "Got seed -1, expected zero or more"),
        ("generate --output out --tasks reach --workers 0", "Got 0 workers, expected at least one"),
        (
            "train --bags bags --recipe huge --output run",
            "Got the recipe 'huge', expected one of cpu, cpu-more, cpu-128, cpu-128-more, cpu-tune,",
        ),
        ("train --bags bags --recipe toy --output run", "Got the topic mapping bags/mapping.yaml, expected a YAML file"),
        ("train --bags bags --recipe toy --output run --minutes 0", "Got 0.0 minutes, expected a positive number"),
        ("export run --output bundle", "Got run, which has no run.json"),
        ("demo --seconds 0", "Got 0.0 seconds, expected a positive number"),
    ],
)
def test_a_fault_of_what_not_every_host_can_do_is_one_line_and_status_two(tmp_path, capsys, monkeypatch, arguments, text):
    name, *_ = arguments.split()
    command = next(command for command in COMMANDS if command.name == name)
    missing = [module for module in command.modules if importlib.util.find_spec(module) is None]
    if missing:
        pytest.skip(f"no {' and no '.join(missing)}; install them with: pip install 'longscape_ros[{command.extra}]'")
    monkeypatch.chdir(tmp_path)
    assert text in refused(capsys, *arguments.split())
    assert list(tmp_path.iterdir()) == []


def test_a_fault_of_several_lines_becomes_one(capsys, monkeypatch):
    monkeypatch.setattr(cli, "COMMANDS", (broken(OSError("first line\n  second line")),))
    assert refused(capsys, "broken") == "first line second line"


def test_a_fault_of_the_program_itself_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(cli, "COMMANDS", (broken(ZeroDivisionError("oh")),))
    with pytest.raises(ZeroDivisionError):
        main(["broken"])


def test_an_interrupt_ends_a_command_with_130_and_a_word(start, bundle):
    process = start("bench", "--bundle", bundle.path, "--no-compare", "--no-node", "--seconds", 600, "--verbose")
    try:
        while "Opened" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, out) == (INTERRUPTED, "")
    assert err.endswith("Interrupted.\n")
    assert "Traceback" not in err


# What must be installed


def broken(fault: BaseException) -> Command:
    """A command that ends with a fault."""

    def run(options: Any, terminal: Any) -> Any:
        raise fault

    return Command("broken", "does nothing", "", "longscape broken", lambda parser: None, run)


@pytest.mark.parametrize(
    ("arguments", "module", "extra"),
    [
        ("generate --output out --tasks reach", "mujoco", "sim"),
        ("train --bags bags --recipe toy --output out", "torch", "train"),
        ("export run --output out", "onnxscript", "train"),
        ("demo --output out", "av", "demo"),
        ("view run.mcap --save run.rrd", "rerun", "view"),
    ],
)
def test_a_package_that_is_not_installed_is_named_with_the_line_that_installs_it(tmp_path, capsys, monkeypatch, arguments, module, extra):
    monkeypatch.chdir(tmp_path)
    for other in next(command.modules for command in COMMANDS if command.name == arguments.split()[0]):
        if importlib.util.find_spec(other) is None:
            pytest.skip(f"no {other} either")
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    line = refused(capsys, *arguments.split())
    assert line == f"Got no package {module!r}, which this command needs; install it with: pip install 'longscape_ros[{extra}]'"
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_turns_out_to_be_missing_is_named_too(capsys, monkeypatch):
    monkeypatch.setattr(cli, "COMMANDS", (broken(ModuleNotFoundError("No module", name="einops.layers")),))
    assert refused(capsys, "broken").endswith("pip install 'longscape_ros[train]'")
    monkeypatch.setattr(cli, "COMMANDS", (broken(ModuleNotFoundError("No module", name="longscape_ros.typo")),))
    with pytest.raises(ModuleNotFoundError):
        main(["broken"])


# The whole way


@dataclass(frozen=True)
class Chain:
    """What the commands left, from the simulation to a prediction.

    Args:
        folder: Where.
        figures: Command -> what it wrote with --json.
        shown: Command -> its output and error stream.
    """

    folder: Path
    figures: dict[str, Figures]
    shown: dict[str, tuple[str, str]]


@pytest.fixture(scope="module")
def chain(toolchain: None, start: Any, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Two short episodes, a toy trained on them, its bundle, and all that is done with that."""
    made = Chain(tmp_path_factory.mktemp("chain"), {}, {})
    bags, run, bundle = (made.folder / name for name in ("bags", "run", "bundle"))
    calls: dict[str, tuple[object, ...]] = {
        "generate": ("--tasks", "reach,push", "--seed", 9000, "--image-size", 32, "--frames", 60, "--workers", 2, "--output", bags),
        "train": ("--bags", bags, "--recipe", "toy", "--output", run),
        "export": (run, "--output", bundle),
        "probe": ("--bags", bags, "--output", bundle / "probe.onnx", "--minutes", 0.02, "--image-size", 32),
        "eval": (
            *("--bundle", bundle, "--bags", bags, "--horizons", "1,8", "--report", made.folder / "report"),
            *("--sheet", made.folder / "sheet.png", "--update-bundle"),
        ),
        "bench": ("--bundle", bundle, "--no-compare", "--no-node", "--seconds", 0.5, "--threads", 1, "--verbose"),
        "predict": (bags, "--bundle", bundle, "--output", made.folder / "predicted"),
        "surprise": (
            *("--bundle", bundle, "--train", bags, "--heldout", bags, "--disturbed", bags / "push_9000"),
            *("--table", made.folder / "surprise.md"),
        ),
    }
    for name, arguments in calls.items():
        process: subprocess.Popen[str] = start(name, *arguments, "--json", made.folder / f"{name}.json")
        made.shown[name] = process.communicate(timeout=WAIT_S)
        assert process.returncode == 0, made.shown[name][1]
        made.figures[name] = read(made.folder / f"{name}.json")
    return made


def test_every_command_shows_its_figures_and_writes_the_same(chain):
    for name, figures in chain.figures.items():
        out, err = chain.shown[name]
        assert f"longscape {name}" in out
        assert err.splitlines()[-1] == f"Figures: {chain.folder / name}.json"
        assert "Traceback" not in err
        assert (figures["meta.command"], figures["meta.version"]) == (name, cli._version())
        assert len(figures) > 5


def test_episodes_become_a_trained_model_and_a_bundle_that_computes_the_same(chain):
    assert chain.figures["generate"]["episodes"] == chain.figures["train"]["episodes"] == 2
    assert chain.figures["train"]["frames"] == 120
    assert chain.figures["train"]["denoiser.steps"] == 20
    parity = {name: value for name, value in chain.figures["export"].items() if name.startswith("parity.")}
    faithful = {name: parity.pop(f"parity.{name}.rollout_psnr_db") for name in ("int8", "fp16")}
    assert len(parity) == 10
    assert all(0 <= value <= 1e-4 for value in parity.values())
    assert min(faithful.values()) > 20
    manifest = load_bundle(chain.folder / "bundle").manifest
    assert (manifest.name, manifest.action_space.names) == ("bundle", ("hand_x", "hand_y", "hand_z", "gripper"))


def test_the_evaluation_is_drawn_and_kept_in_the_bundle(chain):
    manifest = load_bundle(chain.folder / "bundle").manifest
    assert manifest.evaluation == {name: value for name, value in chain.figures["eval"].items() if not name.startswith(("meta.", "ci."))}
    assert {"psnr.model.8", "psnr.copy_last.8", "psnr.shuffled_actions.8"} < manifest.evaluation.keys()
    assert (chain.folder / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_a_probe_in_the_bundles_folder_measures_the_gripper_in_the_report(chain):
    figures, probe = chain.figures["eval"], chain.figures["probe"]
    assert probe["error_cm"] > 0
    assert probe["bytes"] == (chain.folder / "bundle" / "probe.onnx").stat().st_size
    assert figures["meta.probe"] == probe["meta.probe"]
    assert figures["gripper_error_cm.probe.8"] > 0
    written = json.loads((chain.folder / "report" / "eval.json").read_text())
    assert {name: figures[name] for name in written} == written
    assert f"{figures['gripper_error_cm.model.8']:.2f} [" in (chain.folder / "report" / "eval.md").read_text()


def test_a_verbose_command_says_more(chain):
    assert "INFO: Opened bundle@" in chain.shown["bench"][1]
    assert "INFO" not in chain.shown["predict"][1]
    assert chain.figures["bench"]["message_ms_p50"] > 0


def test_every_recording_below_a_folder_is_predicted_into_a_file_of_its_own(chain):
    predicted = sorted(path.name for path in (chain.folder / "predicted").iterdir())
    assert predicted == ["push_9000.mcap", "reach_9000.mcap"]
    counts = [len(list(raw_messages(chain.folder / "predicted" / name, {PREDICTION_TOPIC}))) for name in predicted]
    figures = chain.figures["predict"]
    assert (figures["bags"], figures["images"], figures["predictions"]) == (2, 120, sum(counts))
    assert figures["predicted_frames"] == 32 * sum(counts)
    assert figures["meta.output"] == str(chain.folder / "predicted")


def test_recordings_are_watched_for_surprises(chain):
    figures = chain.figures["surprise"]
    assert (figures["train.episodes"], figures["heldout.episodes"], figures["disturbed.seen"]) == (2, 3, 0)
    assert figures["train.minutes"] > 0
    assert f"{figures['at least 4 steps ahead.1.threshold']:.3f}" in (chain.folder / "surprise.md").read_text()


def test_a_mapping_given_as_options_predicts_the_same(chain, tmp_path):
    actions = "/arm_controller/joint_trajectory:trajectory_msgs/msg/JointTrajectory:hand_x,hand_y,hand_z,gripper:gripper"
    options = ("--image-topic", "/camera/image_raw", "--fps", "20", "--action", actions)
    arguments = ("predict", chain.folder / "bags" / "push_9000", "--bundle", chain.folder / "bundle", "--output", tmp_path / "out.mcap")
    assert main([*map(str, arguments), *options]) == 0
    one, other = (
        [(message.received_ns, len(message.data)) for message in raw_messages(path, {PREDICTION_TOPIC})]
        for path in (tmp_path / "out.mcap", chain.folder / "predicted" / "push_9000.mcap")
    )
    assert one == other
    assert topics(tmp_path / "out.mcap").keys() >= {"/camera/image_raw/compressed", "/camera/camera_info"}


def test_episodes_that_are_there_are_kept_and_options_go_before_the_split(chain, start):
    bags = chain.folder / "bags"
    before = {path: path.stat().st_mtime_ns for path in bags.rglob("*.mcap")}
    process = start("generate", "--split", "heldout", "--tasks", "push,reach", "--episodes", 1, "--output", bags)
    out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, err
    assert ["kept", "2"] in [line.split() for line in out.splitlines()]
    assert {path: path.stat().st_mtime_ns for path in bags.rglob("*.mcap")} == before


def test_an_interrupted_training_goes_on_with_the_same_command(chain, one_thread, tmp_path, capsys, monkeypatch):
    from longscape_ros.model import fit
    from longscape_ros.model.run import AUTOENCODER, DENOISER, LOG, save_checkpoint

    def save_and_stop(path: Path, checkpoint: dict[str, Any]) -> None:
        save_checkpoint(path, checkpoint)
        raise KeyboardInterrupt

    command = ["train", "--bags", str(chain.folder / "bags"), "--recipe", "toy", "--output", str(tmp_path / "run")]
    with monkeypatch.context() as patch:
        patch.setattr(fit, "save_checkpoint", save_and_stop)
        assert main(command) == INTERRUPTED
    assert capsys.readouterr().err.endswith("Interrupted.\n")
    assert (tmp_path / "run" / f"{AUTOENCODER}.pt").exists()
    assert not (tmp_path / "run" / f"{DENOISER}.pt").exists()
    line = refused(capsys, "export", tmp_path / "run", "--output", tmp_path / "bundle")
    assert line.endswith("run the same longscape train command again.")
    assert main(command) == 0
    log = [json.loads(line) for line in (tmp_path / "run" / LOG).read_text().splitlines()]
    assert [(line["stage"], line["step"]) for line in log] == [("autoencoder", 20), ("denoiser", 20)]


def test_predictions_of_recordings_whose_names_have_dots_do_not_overwrite_each_other():
    bags = [Path("bags") / name for name in ("run_1.0", "run_1.5", "deep/run", "single.mcap")]
    found = outputs(bags, Path("bags"), Path("out"))
    assert [str(path) for path in found] == ["out/run_1.0.mcap", "out/run_1.5.mcap", "out/deep/run.mcap", "out/single.mcap"]


@pytest.mark.parametrize(("bag", "at"), [("run.mcap", "run.mcap"), ("bags/run", "bags")])
def test_the_predictions_of_a_single_recording_go_into_the_file_that_is_named(bag, at):
    assert outputs([Path(bag)], Path(at), Path("out.mcap")) == [Path("out.mcap")]
