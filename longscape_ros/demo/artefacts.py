# SPDX-License-Identifier: Apache-2.0
"""Everything that a demo leaves behind is made from its recording, here; it can be made again at any time."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from longscape_ros.demo.config import Outputs
from longscape_ros.demo.recording import read_recording
from longscape_ros.demo.report import figures

Progress = Callable[[int, int, str], None]


def write_artefacts(
    outputs: Outputs, title: str = "", known: Mapping[str, float | str] | None = None, progress: Progress | None = None
) -> dict[str, float | str]:
    """Makes report, contact sheet and film of ``outputs.bag``, the quickest first.

    Args:
        outputs: Where the recording is and the rest goes.
        title: For the pictures.
        known: More figures for the report, which no recording tells.
        progress: Called with (done, of how many, what).

    Returns:
        What the report says, see :func:`longscape_ros.demo.report.figures`.

    Raises:
        BagError: The recording cannot be read.
    """
    from longscape_ros.demo.sheet import write_sheet
    from longscape_ros.demo.video import write_video

    recording = read_recording(outputs.bag)
    found = figures(recording) | dict(known or {})
    write_report(outputs.report, found)
    write_sheet(recording, outputs.sheet, title)
    write_video(recording, outputs.video, title, progress)
    return found


def write_report(path: Path, found: Mapping[str, float | str]) -> None:
    """Writes figures as flat JSON, all at once; what is no finite number becomes null."""
    finite = {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in found.items()}
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(finite, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, path)
