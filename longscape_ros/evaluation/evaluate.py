# SPDX-License-Identifier: Apache-2.0
"""From a bundle and bags to figures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from longscape_ros.bags.measured import read_measured
from longscape_ros.bundle import Bundle
from longscape_ros.contract import TopicMapping
from longscape_ros.errors import BagError, InputError
from longscape_ros.evaluation.scores import Scores
from longscape_ros.evaluation.scoring import score
from longscape_ros.evaluation.sheet import draw_sheet
from longscape_ros.evaluation.windows import HORIZONS, Window, checked_horizons, find_windows, read_episodes
from longscape_ros.probe import PROBE, Probe
from longscape_ros.runtime.backend import AUTO
from longscape_ros.runtime.backends import create_backend
from longscape_ros.runtime.predictor import Predictor
from longscape_ros.timeline import GridEpisode

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setting:
    """What is scored, on what.

    Args:
        predictor: The model.
        windows: Where it predicts from.
        still: Windows that were left out because too little moves.
        horizons: Frames ahead to score at, in order.
        probe: Finds the gripper in images; None: there is none for these.
    """

    predictor: Predictor
    windows: Sequence[Window]
    still: int
    horizons: tuple[int, ...]
    probe: Probe | None

    def score(self, seed: int = 0, progress: Callable[[int, int], None] | None = None, misled: bool = True) -> Scores:
        """See :func:`longscape_ros.evaluation.score`."""
        return score(self.predictor, self.windows, self.horizons, seed, progress, self.probe, misled)

    def figures(self, scores: Scores) -> dict[str, float]:
        """All figures of :func:`evaluate`."""
        return scores.figures() | {"windows.still": float(self.still)}


@contextmanager
def prepare(
    bundle: Bundle,
    bags: Sequence[Path],
    mapping: TopicMapping | None = None,
    horizons: Sequence[int] = HORIZONS,
    windows: int | None = None,
    backend: str = AUTO,
    probe: Path | None = None,
    precision: str = AUTO,
) -> Iterator[Setting]:
    """Read the bags, choose the windows and open the model; it is closed afterwards.

    Args:
        bundle: The model.
        bags: Recordings it was not trained on.
        mapping: Topics of the bags; None: the bundle's.
        horizons: Steps after the anchor to score at.
        windows: Most places to predict from, spread evenly; None: all.
        backend: See :func:`create_backend`.
        probe: File of a probe for the gripper; None: ``probe.onnx`` beside the bundle's manifest, if there is one that fits.
        precision: See :func:`create_backend`.

    Raises:
        InputError: there is nothing to score, or the probe cannot be used.
        BagError: a probe is named whose measured positions are not in the bags.
    """
    horizons = checked_horizons(horizons)
    episodes = read_episodes(bundle, bags, mapping)
    chosen, still = find_windows(episodes, bundle.manifest, horizons, windows)
    found = _probe(bundle, probe)
    if found is not None:
        try:
            found.require_size(bundle.manifest.image_size)
            chosen = _with_measured(chosen, dict(zip(map(id, episodes), bags, strict=True)), found)
        except (BagError, InputError) as error:
            if probe is not None:
                raise
            _log.warning("The bundle's probe is not used: %s", error)
            found = None
    predictor = Predictor(bundle, create_backend(bundle, backend, precision=precision))
    try:
        yield Setting(predictor, chosen, still, horizons, found)
    finally:
        predictor.backend.close()


def evaluate(
    bundle: Bundle,
    bags: Sequence[Path],
    mapping: TopicMapping | None = None,
    horizons: Sequence[int] = HORIZONS,
    windows: int | None = None,
    seed: int = 0,
    backend: str = AUTO,
    progress: Callable[[int, int], None] | None = None,
    probe: Path | None = None,
) -> dict[str, float]:
    """Score a bundle on bags.

    Args:
        bundle: The model.
        bags: Recordings it was not trained on.
        mapping: Topics of the bags; None: the bundle's.
        horizons: Steps after the anchor to score at.
        windows: Most places to predict from, spread evenly; None: all.
        seed: For the choice of foreign actions.
        backend: See :func:`create_backend`.
        progress: Called with windows done and in all.
        probe: See :func:`prepare`.

    Returns:
        Figures of the windows that reach a horizon ``h`` (one that no window gives is absent). ``who`` is ``model``;
        ``copy_last`` (the anchor's frame); ``autoencoder`` (the actual frame encoded and decoded: the ceiling);
        ``shuffled_actions`` (the model with commands from another episode); ``counterfactual_actions`` (the model with the
        commands mirrored, see :func:`longscape_ros.evaluation.mirrored`).

        - ``psnr.<who>.<h>`` in dB against the actual frame; ``psnr_motion.*`` counts only pixels that changed since the anchor;
          ``ssim.<who>.<h>``.
        - ``separation.counterfactual.<h>``, ``separation.shuffled.<h>``: mean absolute difference of the predictions with the
          recorded and with the other commands, over that of prediction and actual frame.
        - ``sharpness.<who>.<h>``, ``contrast.<who>.<h>`` of ``model`` and ``autoencoder``: mean square of the Laplacian, and
          standard deviation, over those of the actual frame.
        - ``drift_db_per_100_frames``: slope of the PSNR from frame 32 on; ``.copy_last`` and ``.over_copy_last`` (the difference).
        - ``gripper_error_cm.<who>.<h>``: distance of where the probe sees the gripper from where it was measured, or, for
          ``counterfactual_actions``, from the place of the mirrored measured motion: the arm's lag is taken to mirror too, and
          nothing to be in its way, so only places inside the box that the gripper was measured in count
          (``counterfactual.reachable.<h>``: their share). ``gripper_error_cm.probe.<h>``, ``gripper_error_cm.probe``: of the probe
          itself, on the actual frames.
        - ``chunk.share.<length>``, ``chunk.reason.<name>``, ``expert.share.<e>``: shares of all chunks.
        - ``jump.boundary``, ``jump.inside``: mean absolute difference of successive predicted frames across and inside chunks, in
          levels of 255; ``jump.boundary_actual``, ``jump.inside_actual``: of the actual frames at the same places;
          ``jump.ratio``: (boundary / boundary_actual) / (inside / inside_actual).
        - ``confidence.rank_correlation``: Spearman's, of doubt (-confidence) and the frames' RMSE;
          ``confidence.rank_correlation_within_horizon``: among frames that are equally far ahead, mean over how far;
          ``confidence.calibration_error``: of confidence as the probability of a PSNR that the manifest says.
        - ``ci.low.<figure>``, ``ci.high.<figure>``: 95 % interval under resampling of episodes.
        - ``windows``, ``windows.still`` (left out, see :data:`MOVING_SHARE`), ``episodes``.

    Raises:
        InputError: there is nothing to score.
    """
    with prepare(bundle, bags, mapping, horizons, windows, backend, probe) as setting:
        return setting.figures(setting.score(seed, progress))


def contact_sheet(
    bundle: Bundle,
    bags: Sequence[Path],
    path: Path,
    mapping: TopicMapping | None = None,
    horizons: Sequence[int] = HORIZONS,
    windows: int = 4,
    backend: str = AUTO,
) -> Path:
    """Draw a PNG of a few windows, see :func:`draw_sheet`; returns its path.

    Raises:
        InputError: there is nothing to predict.
    """
    with prepare(bundle, bags, mapping, horizons, windows, backend) as setting:
        return draw_sheet(setting.predictor, setting.windows, setting.horizons, path)


def _probe(bundle: Bundle, named: Path | None) -> Probe | None:
    beside = bundle.file(PROBE)
    if named is not None:
        return Probe(named)
    return Probe(beside) if beside.is_file() else None


def _with_measured(windows: Sequence[Window], bags: dict[int, Path], probe: Probe) -> list[Window]:
    """The windows with the positions that were measured in their bags, which are named by the episodes' identity."""
    episodes: dict[int, GridEpisode] = {id(window.episode): window.episode for window in windows}
    measured = {key: read_measured(bags[key], probe.facts.names, probe.facts.topic, episode.stamps_ns) for key, episode in episodes.items()}
    return [replace(window, measured=measured[id(window.episode)][window.anchor : window.anchor + window.steps + 1]) for window in windows]
