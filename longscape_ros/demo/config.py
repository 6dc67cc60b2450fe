# SPDX-License-Identifier: Apache-2.0
"""What a demo run is asked to do, and where it leaves what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from longscape_ros.errors import InputError
from longscape_ros.simulation.disturbance import DisturbanceKind


@dataclass(frozen=True, slots=True)
class DemoConfig:
    """A demo run.

    Args:
        seconds: How long to record, from the moment everything runs.
        task: What the simulated robot does, see ``longscape_ros.simulation.skills.SKILLS``.
        seed: Of the objects' places and of what is done; from 9000 on held out from the training of the bundles that ship.
        output: Folder for all that is left behind; files of an older run there are replaced.
        bundle: The model; None: the one that ships with the package.
        policy: Whether a scripted policy commands the arm; without it the arm waits for trajectories from elsewhere.
        backend: See ``longscape_ros.runtime.kinds.Wanted``; so is ``precision``.
        precision: What the model computes in.
        disturbance: Kind and size of what disturbs the arm once, at a moment at which it makes a difference; None: nothing does.

    Raises:
        InputError: ``seconds`` is not positive, or there is no policy to go on while the arm is disturbed.
    """

    seconds: float = 60.0
    task: str = "drawer-open"
    seed: int = 9000
    output: Path = Path("demo")
    bundle: Path | None = None
    policy: bool = True
    backend: str = "auto"
    precision: str = "auto"
    disturbance: tuple[DisturbanceKind, float] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.seconds < float("inf"):
            raise InputError(f"Got {self.seconds} seconds, expected a positive number.")
        if self.disturbance is not None and not self.policy:
            raise InputError("Got a disturbance and no policy, expected a policy whose commands it disturbs; leave out --no-policy.")


@dataclass(frozen=True, slots=True)
class Outputs:
    """The files of a run in the folder ``folder``."""

    folder: Path

    @property
    def bag(self) -> Path:
        """Camera, commands and predictions, as they were on the topics."""
        return self.folder / "demo.mcap"

    @property
    def video(self) -> Path:
        """The camera beside what was predicted for the same moment."""
        return self.folder / "demo.mp4"

    @property
    def sheet(self) -> Path:
        """Actual, predicted and error of a few predictions."""
        return self.folder / "contact_sheet.png"

    @property
    def report(self) -> Path:
        """The figures."""
        return self.folder / "report.json"

    @property
    def logs(self) -> Path:
        """A folder: what each process said."""
        return self.folder / "logs"

    def clear(self) -> None:
        """Removes an older run's files and makes the folders."""
        self.logs.mkdir(parents=True, exist_ok=True)
        for path in (self.bag, self.video, self.sheet, self.report, *self.logs.glob("*.log")):
            path.unlink(missing_ok=True)
