# SPDX-License-Identifier: Apache-2.0
"""Does a surprise mean something? How many disturbances are noticed in time, and how often there is an alarm without any.

The threshold is picked on training episodes that nothing disturbs, for a rate of false alarms; held-out episodes say what rate that
is there, and how many disturbances it notices. What disturbs an episode, and when, is told by a topic of its bag.

Every ``every``-th image is predicted from, as on a machine that predicts at that share of the camera's rate, and compared with the
newest prediction that is old enough; this is what the node does (:mod:`longscape_ros.runtime.surprise`).

Letters: N images that were compared.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longscape_ros.bags.reader import raw_messages, topics
from longscape_ros.bags.writer import bag_store
from longscape_ros.bundle import Bundle
from longscape_ros.contract import NANOSECONDS, Confidence, Prediction, TopicMapping
from longscape_ros.errors import BagError, InputError
from longscape_ros.evaluation.statistics import interval, ratio
from longscape_ros.evaluation.windows import Window, read_episodes, task_of
from longscape_ros.runtime.predictor import Predictor
from longscape_ros.runtime.surprise import (
    LEAST_STEPS,
    MOST_STEPS,
    Expectation,
    Expectations,
    image_error,
    patch_squares,
    relative_errors,
    relative_image_error,
)
from longscape_ros.timeline import GridEpisode

DISTURBANCE_TOPIC = "/disturbance"
"""std_msgs/String, JSON with ``kind``, ``size``, ``begin_ns`` and, if known, ``changed``: the share of pixels that differ, by image."""

NOTICED_WITHIN_S = 0.5
"""How soon after its beginning a disturbance has to be noticed."""

APART_S = 1.0
"""Surprises that are less apart are one alarm."""

RATES = (1.0, 4.0, 10.0)
"""False alarms per minute that thresholds are picked for."""

AGES = (2, 4, 8)
"""Least steps between a prediction and the images that it is compared with, to choose among."""

SEEN_SHARE = 0.002
"""A disturbance can be seen if it changes this share of the pixels within the time: 8 of 64 x 64."""

VISIBILITIES = ((0.01, "changes less than 1 %"), (0.03, "changes 1 % to 3 %"), (math.inf, "changes more than 3 %"))
"""Shares of the pixels that a disturbance changes: less than so many, and how that is called."""

ALL = "all"

SINGLE = "a single image"
PLACE, IMAGE = "the worst patch alone", "the whole image alone"
PATCH, WHOLE, CAMERA, CONFIDENT = "error of the worst patch", "error of the whole image", "camera's own image", "patch over confidence"
"""Other measures, to be compared with: a surprise need not be confirmed by a second image; each of the two parts of the measure; errors
that are not divided by what is expected; the camera's image instead of as the autoencoder shows it; the worst patch's error, divided by
that which the model's confidence in the frame stands for."""

LEAST_LOG_ERROR = -12.0
"""Natural logarithm of a mean square error, 52 dB: less than that no model is to be believed."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Truth:
    """What disturbed an episode.

    Args:
        kind: For example ``bump``.
        size: In the kind's unit.
        begin_ns: Stamp of the last image before it.
        changed: The largest share of the pixels that it changes in time; None: unknown.
    """

    kind: str
    size: float
    begin_ns: int
    changed: float | None

    @staticmethod
    def from_json(text: str) -> Truth:
        """What :data:`DISTURBANCE_TOPIC` tells.

        Raises:
            InputError: It tells something else.
        """
        try:
            told: dict[str, Any] = json.loads(text)
            changed = float(max(told["changed"])) if told.get("changed") else None
            return Truth(str(told["kind"]), float(told["size"]), int(told["begin_ns"]), changed)
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(f"Got {text[:80]!r} on {DISTURBANCE_TOPIC}, expected JSON with kind, size and begin_ns.") from error

    @property
    def name(self) -> str:
        """Kind and size."""
        return f"{self.kind} {self.size:g}"

    @property
    def is_seen(self) -> bool:
        """Whether it can be seen in time, as far as is known."""
        return self.changed is None or self.changed >= SEEN_SHARE

    @property
    def visibility(self) -> str | None:
        """How much of the image it changes, in words; None: unknown, or too little to be seen."""
        if self.changed is None or not self.is_seen:
            return None
        return next(text for most, text in VISIBILITIES if self.changed < most)


@dataclass(frozen=True)
class Watched:
    """An episode, and how far its images were from what was predicted.

    Args:
        name: Of the episode.
        truth: What disturbed it; None: nothing.
        stamps_ns: int64 [N].
        errors: Measure -> float64 [N], NaN where there was no prediction.
        seconds: How much camera time was watched.
    """

    name: str
    truth: Truth | None
    stamps_ns: NDArray[np.int64]
    errors: dict[str, Numbers]
    seconds: float

    def alarms(self, measure: str, threshold: float) -> int:
        """Surprises, those that follow each other closely being one."""
        return count_alarms(self.stamps_ns[self.errors[measure] > threshold])

    def delay_s(self, measure: str, threshold: float) -> float:
        """Seconds of camera time from the disturbance to the first surprise; infinite: it was not noticed in time."""
        assert self.truth is not None, "only a disturbance can be noticed"
        after_s = (self.stamps_ns - self.truth.begin_ns) / NANOSECONDS
        noticed = (self.errors[measure] > threshold) & (after_s > 0) & (after_s <= NOTICED_WITHIN_S + 1e-6)
        return float(after_s[noticed].min()) if noticed.any() else math.inf


def count_alarms(at_ns: NDArray[np.int64]) -> int:
    """How many alarms surprises at these moments are, in order: those that are less than :data:`APART_S` apart are one."""
    return int(len(at_ns) > 0) + int((np.diff(at_ns) >= APART_S * NANOSECONDS).sum())


def measure_name(age: int) -> str:
    """The measure of the node, with predictions at least so many steps old."""
    return f"at least {age} steps ahead"


USED = measure_name(LEAST_STEPS)
"""What the node does."""


def read_truth(bag: Path) -> Truth | None:
    """What disturbed a bag's episode; None: nothing.

    Raises:
        BagError: The bag cannot be read, or its topic says something else.
    """
    if DISTURBANCE_TOPIC not in topics(bag):
        return None
    store = bag_store()
    message = next(raw_messages(bag, (DISTURBANCE_TOPIC,)))
    told: Any = store.deserialize_cdr(message.data, message.type)
    try:
        return Truth.from_json(told.data)
    except InputError as error:
        raise BagError(f"{bag}: {error}") from error


def watch(predictor: Predictor, episode: GridEpisode, truth: Truth | None, every: int, seconds: float = math.inf) -> Watched:
    """Predicts along an episode, and compares.

    Args:
        predictor: The model.
        episode: On the bundle's grid.
        truth: What disturbs it. An episode that is disturbed is watched from just before until it should have been noticed.
        every: Images from one prediction to the next.
        seconds: Most camera time to watch of an episode that is not disturbed; it is in its middle.
    """
    manifest = predictor.bundle.manifest
    first, last = _span(episode, truth, manifest.context, manifest.fps, seconds)
    expectations = Expectations()
    stamps: list[int] = []
    rows: list[dict[str, float]] = []
    for anchor in range(first, last + 1, every):
        planned = int(np.logical_and.accumulate(episode.commanded[anchor + 1 :]).sum())
        if not planned:
            break
        window = Window(episode, anchor, min(MOST_STEPS, planned), planned)
        snapshot = window.snapshot(manifest.context, manifest.segmentation.lengths[-1])
        image = predictor.predict(snapshot, horizon=MOST_STEPS, show_anchor=True)
        stamps.append(image.anchor_ns)
        rows.append(_errors(expectations, image, window.now, manifest.confidence))
        expectations.add(image, snapshot.motion[manifest.context - 1 :])
    names = (*map(measure_name, AGES), PLACE, IMAGE, CAMERA, PATCH, WHOLE, CONFIDENT)
    single = {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}
    errors = {name: _confirmed(values) for name, values in single.items()} | {SINGLE: single[USED]}
    compared = int(np.isfinite(errors[USED]).sum())
    return Watched(episode.name, truth, np.array(stamps, np.int64), errors, compared * every / manifest.fps)


def _confirmed(errors: Numbers) -> Numbers:
    """float64 [N], of each error and the one before the smaller, as :func:`longscape_ros.runtime.surprise.compare` asks for."""
    return np.asarray(np.minimum(errors, np.concatenate([[np.nan], errors[:-1]])), np.float64)


def _span(episode: GridEpisode, truth: Truth | None, context: int, fps: float, seconds: float) -> tuple[int, int]:
    """First and last row to predict from."""
    rows = len(episode.frames)
    if truth is None:
        watched = int(min(rows - context, seconds * fps + LEAST_STEPS))
        first = context - 1 + (rows - context + 1 - watched) // 2
        return first, min(first + watched, rows - 2)
    begin = round((truth.begin_ns - int(episode.stamps_ns[0])) * fps / NANOSECONDS)
    return max(context - 1, begin - MOST_STEPS), min(begin + round(NOTICED_WITHIN_S * fps), rows - 2)


def _errors(expectations: Expectations, image: Prediction, camera: NDArray[np.uint8], confidence: Confidence | None) -> dict[str, float]:
    assert image.shown is not None, "it was asked for"
    errors = {}
    for age in AGES:
        expectation = expectations.find(image.anchor_ns, least_steps=age)
        if expectation is None:
            continue
        parts = _parts(expectation, image.shown)
        errors[measure_name(age)] = max(parts)
        if age != LEAST_STEPS:
            continue
        patch = math.sqrt(patch_squares(image.shown, expectation.frame).max())
        errors[PLACE], errors[IMAGE] = parts
        errors |= {CAMERA: max(_parts(expectation, camera)), PATCH: patch, WHOLE: image_error(image.shown, expectation.frame)}
        estimate = float(expectation.prediction.confidence[expectation.step - 1])
        if confidence is not None and 0 < estimate < 1:
            log_error = (math.log(estimate / (1 - estimate)) - confidence.offset) / confidence.slope
            errors[CONFIDENT] = patch / math.exp(max(log_error, LEAST_LOG_ERROR) / 2)
    return errors


def _parts(expectation: Expectation, shown: NDArray[np.uint8]) -> tuple[float, float]:
    """How many times as far off as expected the worst patch is, and the whole image."""
    return float(relative_errors(expectation, shown).max()), relative_image_error(expectation, shown)


def watch_bags(
    predictor: Predictor,
    bags: Sequence[Path],
    mapping: TopicMapping | None,
    every: int,
    seconds: float,
    progress: Callable[[int, int, str], None] | None = None,
) -> Iterator[Watched]:
    """:func:`watch`, bag after bag.

    Raises:
        LongscapeError: see :func:`read_truth` and :func:`read_episodes`.
    """
    for number, bag in enumerate(bags):
        if progress is not None:
            progress(number, len(bags), bag.stem)
        (episode,) = read_episodes(predictor.bundle, [bag], mapping)
        yield watch(predictor, episode, read_truth(bag), every, seconds)


def pick_threshold(episodes: Sequence[Watched], measure: str, rate: float) -> float:
    """The least threshold with at most ``rate`` alarms per minute in episodes that nothing disturbs.

    Raises:
        InputError: Nothing was watched.
    """
    minutes = sum(episode.seconds for episode in episodes) / 60
    errors = np.concatenate([episode.errors[measure] for episode in episodes]) if episodes else np.empty(0)
    candidates = np.sort(errors[np.isfinite(errors)])[::-1]
    if not len(candidates):
        raise InputError("Got no image to pick a threshold by, expected training episodes that nothing disturbs; give more bags.")
    best = float(candidates[0])
    for threshold in candidates[1:]:
        if sum(episode.alarms(measure, threshold) for episode in episodes) > rate * minutes:
            break
        best = float(threshold)
    return best


@dataclass(frozen=True, slots=True)
class Share:
    """How many of how many, with its 95 % interval."""

    count: int
    total: int

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's score interval. Source: Wilson, "Probable inference, the law of succession, and statistical inference", 1927."""
        if not self.total:
            return math.nan, math.nan
        z, n, p = 1.96, self.total, self.count / self.total
        middle, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, (middle - spread) / (1 + z * z / n)), min(1.0, (middle + spread) / (1 + z * z / n))


def alarm_rate(episodes: Sequence[Watched], measure: str, threshold: float) -> tuple[float, float, float]:
    """False alarms per minute, and the interval of that, episodes resampled."""
    sums = np.array([(episode.alarms(measure, threshold), episode.seconds / 60) for episode in episodes], np.float64)
    return (float(sums[:, 0].sum() / sums[:, 1].sum()), *interval(sums, ratio))


def noticed(episodes: Sequence[Watched], measure: str, threshold: float) -> tuple[Share, float]:
    """How many disturbances were noticed in time, and the median delay of those in seconds."""
    delays = np.array([episode.delay_s(measure, threshold) for episode in episodes])
    in_time = delays[np.isfinite(delays)]
    return Share(len(in_time), len(delays)), float(np.median(in_time)) if len(in_time) else math.nan


def by_disturbance(episodes: Sequence[Watched]) -> dict[str, list[Watched]]:
    """Episodes that were disturbed so that it can be seen: by kind and size, by how much that changes the image, and :data:`ALL`."""
    seen = [(episode, episode.truth) for episode in episodes if episode.truth is not None and episode.truth.is_seen]
    names = sorted({truth.name for _, truth in seen})
    groups = {name: [episode for episode, truth in seen if truth.name == name] for name in names}
    groups |= {text: [episode for episode, truth in seen if truth.visibility == text] for _, text in VISIBILITIES}
    groups[ALL] = [episode for episode, _ in seen]
    return {name: group for name, group in groups.items() if group}


def figures(train: Sequence[Watched], heldout: Sequence[Watched]) -> dict[str, float]:
    """Flat figures; see docs/commands.md. One that nothing gives is absent."""
    calm = [episode for episode in heldout if episode.truth is None]
    groups = by_disturbance(heldout)
    unseen = sum(episode.truth is not None and not episode.truth.is_seen for episode in heldout)
    found = {
        "train.minutes": sum(episode.seconds for episode in train) / 60,
        "train.episodes": float(len(train)),
        "heldout.minutes": sum(episode.seconds for episode in calm) / 60,
        "heldout.episodes": float(len(calm)),
        "heldout.tasks": float(len({task_of(episode.name) for episode in calm})),
        "disturbed.seen": float(len(groups.get(ALL, ()))),
        "disturbed.not_seen": float(unseen),
    }
    for measure in train[0].errors:
        if not any(np.isfinite(episode.errors[measure]).any() for episode in train):  # a model without confidence
            continue
        for rate in RATES:
            at = f"{measure}.{rate:g}"
            threshold = pick_threshold(train, measure, rate)
            alarms, low, high = alarm_rate(calm, measure, threshold)
            found |= {f"{at}.threshold": threshold, f"{at}.false_alarms_per_min": alarms}
            found |= {f"ci.{at}.false_alarms_per_min.low": low, f"ci.{at}.false_alarms_per_min.high": high}
            for name, episodes in groups.items():
                share, delay_s = noticed(episodes, measure, threshold)
                place = f"{at}.noticed.{name}"
                found |= {place: share.count / share.total if share.total else math.nan, f"{place}.of": float(share.total)}
                found |= {f"ci.{place}.low": share.interval[0], f"ci.{place}.high": share.interval[1], f"{place}.delay_s": delay_s}
    return {name: figure for name, figure in found.items() if math.isfinite(figure)}


def judge(
    bundle: Bundle,
    predictor: Predictor,
    train: Sequence[Path],
    heldout: Sequence[Path],
    mapping: TopicMapping | None = None,
    every: int = 2,
    seconds: float = 10.0,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, float]:
    """Picks thresholds on training episodes, and says what they are worth on held-out ones.

    Args:
        bundle: The model.
        predictor: Of the bundle.
        train: Recordings that nothing disturbs.
        heldout: Recordings that it was not trained on, disturbed or not.
        mapping: Topics of the bags; None: the bundle's.
        every: Images from one prediction to the next.
        seconds: Most camera time to watch of an episode that is not disturbed.
        progress: Called with bags done, in all, and the next one's name.

    Returns:
        See :func:`figures`.

    Raises:
        InputError: There are no undisturbed episodes on one of the sides, or ``every`` is not positive.
        LongscapeError: see :func:`watch_bags`.
    """
    if every < 1:
        raise InputError(f"Got a prediction every {every} images, expected at least every image: 1.")
    watched = list(watch_bags(predictor, [*train, *heldout], mapping, every, seconds, progress))
    trained, held = [episode for episode in watched[: len(train)] if episode.truth is None], watched[len(train) :]
    if not trained or all(episode.truth is not None for episode in held):
        raise InputError("Got no undisturbed episode to train or to test with, expected some in both folders.")
    if progress is not None:
        progress(len(watched), len(watched), "")
    return figures(trained, held)
