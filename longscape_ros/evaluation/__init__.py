# SPDX-License-Identifier: Apache-2.0
"""How well a bundle predicts recorded episodes, frame by frame, against simple alternatives. Needs no torch."""

from longscape_ros.evaluation.evaluate import Setting, contact_sheet, evaluate, prepare
from longscape_ros.evaluation.experts import RoutedChunk, routed_chunks, specialisation
from longscape_ros.evaluation.experts_plot import write_experts
from longscape_ros.evaluation.metrics import HIGHEST_PSNR, Image, psnr, ssim
from longscape_ros.evaluation.report import write_report
from longscape_ros.evaluation.scores import Scores
from longscape_ros.evaluation.scoring import score
from longscape_ros.evaluation.sheet import draw_sheet
from longscape_ros.evaluation.statistics import Difference, paired_difference
from longscape_ros.evaluation.windows import HORIZONS, Window, find_windows, mirrored, read_episodes, spread, with_actions_of

__all__ = [
    "HIGHEST_PSNR",
    "HORIZONS",
    "Difference",
    "Image",
    "RoutedChunk",
    "Scores",
    "Setting",
    "Window",
    "contact_sheet",
    "draw_sheet",
    "evaluate",
    "find_windows",
    "mirrored",
    "paired_difference",
    "prepare",
    "psnr",
    "read_episodes",
    "routed_chunks",
    "score",
    "specialisation",
    "spread",
    "ssim",
    "with_actions_of",
    "write_experts",
    "write_report",
]
