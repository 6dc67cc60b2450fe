# SPDX-License-Identifier: Apache-2.0
"""What is told of those compared: paired differences, and columns of what there is."""

from __future__ import annotations

from typing import Any

import pytest

from longscape_ros.comparison import METHOD, document_of, entry_of, grid, shares_of, table
from longscape_ros.evaluation import Scores


def document(offset: float, episodes: int = 3) -> dict[str, Any]:
    """PSNR of 20 and more at frame 8 in each episode, and in the first alone at frame 64."""
    scores = Scores()
    for number in range(episodes):
        scores.add("psnr.model.8", f"e{number}", 20 + number + offset * (number + 1))
        scores.add("psnr.copy_last.8", f"e{number}", 10.0)
    scores.add("psnr.model.64", "e0", 15.0)
    scores.add("chunk.share.8", "e0", 1.0, 4.0)
    scores.add("chunk.share.16", "e0", 3.0, 4.0)
    return document_of(scores, (8, 64))


def test_differences_are_means_over_episodes_with_their_intervals() -> None:
    entry = entry_of(document(0.5), document(0.0), (8, 64))
    assert entry["psnr.8"] == pytest.approx(22)
    assert entry["over_longscape.psnr.8"] == pytest.approx(1.0)  # of 0.5, 1.0 and 1.5
    assert 0.5 <= entry["ci.low.over_longscape.psnr.8"] < 1.0 < entry["ci.high.over_longscape.psnr.8"] <= 1.5
    assert entry["chunk.share.16"] == 0.75
    assert not [name for name in entry if "copy_last" in name]


def test_a_figure_of_a_single_episode_has_no_difference() -> None:
    entry = entry_of(document(0.5), document(0.0), (8, 64))
    assert entry["psnr.64"] == 15
    assert "over_longscape.psnr.64" not in entry
    assert table({METHOD: entry_of(document(0.0), document(0.0), (8, 64)), "other": entry}, (8, 64)).splitlines()[-1].endswith(" | 15.00 |")


def test_shares_of_chunk_lengths_are_read_off_the_figures() -> None:
    assert shares_of(document(0.0)["figures"]) == {8: 0.25, 16: 0.75}


def test_a_table_has_columns_of_what_was_scored_only() -> None:
    method, other = (entry_of(document(offset), document(0.0), (8,)) for offset in (0.0, -0.5))
    heads, first, second = grid({METHOD: method, "other": other, "unscored": {"what": "judged by its loss"}}, (8, 64))
    assert heads == ["variant", "PSNR 8"]
    assert first == [f"`{METHOD}`", "**21.00**"]
    assert second[1].startswith("20.00 (-1.00: -1.")
    costed = grid({METHOD: {**method, "gmacs_per_frame": 0.0641, "equal_compute.steps": 4.0}, "other": other}, (8,))
    assert costed[0] == ["variant", "PSNR 8", "GMAC per frame", "at equal compute: steps"]
    assert (costed[1][2:], costed[2][2:]) == (["0.064", "4"], ["", ""])


def test_what_equals_the_method_is_not_shown_as_the_method() -> None:
    entry = entry_of(document(0.0), document(0.0), (8,))
    _, first, second = grid({METHOD: entry, "expert_0": entry}, (8,))
    assert (first[1], second[1]) == ("**21.00**", "21.00 (+0.00: +0.00 to +0.00)")
