# SPDX-License-Identifier: Apache-2.0
"""The figures of a demo's recording; docs/demo.md explains every key."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from longscape_ros.contract import NANOSECONDS, EndReason, Status
from longscape_ros.demo.recording import Executed, Published, Recording
from longscape_ros.evaluation import psnr
from longscape_ros.evaluation.surprise import count_alarms
from longscape_ros.runtime.surprise import State

HORIZONS = (1, 8, 16, 32)
"""Steps after the anchor at which predicted frames are compared with the camera's."""

FULL = 32
"""Frames of a prediction of the full horizon."""

NOTICED_WITHIN_S = 1.0
"""How soon after a disturbance a surprise is taken for its doing."""

COUNTERS = ("images", "frames_missing", "commands", "requests", "requests_dropped", "inference_errors")
"""What is taken from the predictor's diagnostics."""


def figures(recording: Recording) -> dict[str, float | str]:
    """What a recording shows, under flat keys; a figure that nothing gives is absent.

    - ``seconds``; ``camera.frames``, ``camera.missing``: images recorded, and left out by the camera or lost.
    - ``plans``; ``predictions``; ``predictions_full``: those of :data:`FULL` frames; ``predictions_per_s``: the full ones per second.
    - ``remaining_horizon_ms_p5``, ``_p50``: how much of a prediction still lay ahead when it arrived; ``latency_ms_p50``, ``_p95``:
      image stamp to arrival; ``compute_ms_p50``, ``_p95``: as the predictor measured it; ``interval_ms_p50``, ``_p95``: between two
      arrivals.
    - ``psnr.model.<h>``, ``psnr.copy_last.<h>``: of the frame h steps after the anchor, and of the anchor's image kept, in dB.
    - ``chunk.share.<frames>``, ``chunk.reason.<name>``, ``expert.share.<number>``: shares of all chunks; ``chunks_per_prediction``.
    - ``status.<name>``: predictions of that status; ``assumed_frames_fraction``: predicted from an assumed command.
    - ``executed.chunks``, ``executed.share.<frames>``: chunks of the motion that was executed.
    - ``surprise.compared``, ``surprise.not_comparable``: images; ``surprise.alarms``: surprises, those that follow each other within a
      second being one; ``surprise.alarms_before``: of these, before something disturbed the robot, or all.
    - ``disturbance.at_s``: after the first image; ``disturbance.noticed_after_s``: the first surprise after it, if there is one within a
      second.
    - ``predictor.<counter>``: what the predictor last counted, see :data:`COUNTERS`.
    - ``meta.model_id``, ``meta.backend``, ``meta.precision``, ``meta.threads``, ``meta.disturbance``: texts.
    """
    full = sum(len(p.prediction.frames) >= FULL for p in recording.predictions)
    found: dict[str, float | str] = {
        "seconds": round(recording.span_s, 3),
        "camera.frames": float(len(recording.frames)),
        "camera.missing": float(recording.missing_frames),
        "plans": float(len(recording.plans)),
        "predictions": float(len(recording.predictions)),
        "predictions_full": float(full),
        "predictions_per_s": full / recording.span_s if recording.frames else 0.0,
    }
    if recording.predictions:
        found |= _times(recording.predictions) | _quality(recording) | _chunks(recording.predictions) | _states(recording.predictions)
    return found | _executed(recording.executed) | _surprise(recording) | _predictor(recording.diagnostics)


def _times(predictions: Sequence[Published]) -> dict[str, float | str]:
    arrivals = np.array([p.received_ns for p in predictions])
    return {
        **_percentiles("remaining_horizon_ms", [p.remaining_ms for p in predictions], (5, 50)),
        **_percentiles("latency_ms", [p.latency_ms for p in predictions], (50, 95)),
        **_percentiles("compute_ms", [p.prediction.timings_ms["total"] for p in predictions], (50, 95)),
        **_percentiles("interval_ms", np.diff(arrivals) / 1e6, (50, 95)),
    }


def _percentiles(name: str, values: Iterable[float], percents: Sequence[int]) -> dict[str, float | str]:
    kept = list(values)
    return {f"{name}_p{percent}": float(np.percentile(kept, percent)) for percent in percents} if kept else {}


def _quality(recording: Recording) -> dict[str, float | str]:
    scores: dict[str, list[float]] = defaultdict(list)
    for published in recording.predictions:
        prediction = published.prediction
        size = prediction.frames.shape[1:3]
        stamps = prediction.stamps_ns()
        last = recording.actual(prediction.anchor_ns, size)
        for h in (h for h in HORIZONS if h <= len(prediction.frames)):
            actual = recording.actual(int(stamps[h - 1]), size)
            if actual is not None and last is not None:
                scores[f"psnr.model.{h}"].append(psnr(actual, prediction.frames[h - 1]))
                scores[f"psnr.copy_last.{h}"].append(psnr(actual, last))
    return {name: float(np.mean(values)) for name, values in sorted(scores.items(), key=lambda item: int(item[0].split(".")[-1]))}


def _chunks(predictions: Sequence[Published]) -> dict[str, float | str]:
    chunks = [chunk for p in predictions for chunk in p.prediction.chunks]
    experts = [expert for p in predictions for expert in p.prediction.experts]
    reasons = Counter(chunk.reason for chunk in chunks)
    return {
        "chunks_per_prediction": len(chunks) / len(predictions),
        **{f"chunk.share.{frames}": count / len(chunks) for frames, count in sorted(Counter(c.valid for c in chunks).items())},
        **{f"chunk.reason.{reason.name.lower()}": reasons[reason] / len(chunks) for reason in EndReason},
        **{f"expert.share.{expert}": count / len(experts) for expert, count in sorted(Counter(experts).items())},
    }


def _states(predictions: Sequence[Published]) -> dict[str, float | str]:
    states = Counter(p.prediction.status for p in predictions)
    frames = sum(len(p.prediction.frames) for p in predictions)
    assumed = sum(len(p.prediction.frames) - min(p.prediction.assumed_from, len(p.prediction.frames)) for p in predictions)
    return {
        **{f"status.{status.name.lower()}": float(states[status]) for status in Status},
        "assumed_frames_fraction": assumed / frames,
        "meta.model_id": predictions[-1].prediction.model_id,
    }


def _executed(executed: Sequence[Executed]) -> dict[str, float | str]:
    lengths = Counter(chunk.length for chunk in executed)
    shares = {f"executed.share.{length}": count / len(executed) for length, count in sorted(lengths.items())}
    return {"executed.chunks": float(len(executed)), **shares}


def _surprise(recording: Recording) -> dict[str, float | str]:
    compared, disturbed = recording.compared, recording.disturbed
    surprising = np.array([c.stamp_ns for c in compared if c.state is State.SURPRISED], np.int64)
    before = surprising if disturbed is None else surprising[surprising <= disturbed.begin_ns]
    found: dict[str, float | str] = {
        "surprise.compared": float(sum(c.state is not State.NOT_COMPARABLE for c in compared)),
        "surprise.not_comparable": float(sum(c.state is State.NOT_COMPARABLE for c in compared)),
        "surprise.alarms": float(count_alarms(surprising)),
        "surprise.alarms_before": float(count_alarms(before)),
    }
    if disturbed is None or not recording.frames:
        return found
    found |= {"disturbance.at_s": (disturbed.begin_ns - int(recording.stamps_ns[0])) / NANOSECONDS, "meta.disturbance": disturbed.name}
    after_s = (surprising[surprising > disturbed.begin_ns] - disturbed.begin_ns) / NANOSECONDS
    return found | ({"disturbance.noticed_after_s": float(after_s[0])} if len(after_s) and after_s[0] <= NOTICED_WITHIN_S else {})


def _predictor(diagnostics: Mapping[str, str]) -> dict[str, float | str]:
    counts = {name.partition(".")[2]: text for name, text in diagnostics.items()}
    return {
        **{f"predictor.{name}": float(counts[name]) for name in COUNTERS if counts.get(name, "").isdigit()},
        **{f"meta.{name}": diagnostics[f"model.{name}"] for name in ("backend", "precision", "threads") if f"model.{name}" in diagnostics},
    }
