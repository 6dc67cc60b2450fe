# SPDX-License-Identifier: Apache-2.0
"""What a bundle keeps to be tried with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.tiny_bundle import MANIFEST, write_graphs

from longscape_ros.bundle import Bundle, write_bundle
from longscape_ros.errors import BundleError, InputError
from longscape_ros.examples import EXAMPLES, STEPS, choose_examples, read_examples, write_examples

CONTEXT = MANIFEST.context


def episodes(*lengths: int, moving: int = 150) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.int64]]:
    """Frames that show their number; each episode moves from frame ``moving`` on."""
    total = sum(lengths)
    frames = np.broadcast_to(np.arange(total)[:, None, None, None] % 251, (total, *MANIFEST.image_size, 3)).astype(np.uint8)
    x = np.concatenate([np.maximum(np.arange(length) - moving, 0) for length in lengths])
    return frames, np.stack([x, np.zeros(total), np.zeros(total)], axis=1).astype(float), np.cumsum([0, *lengths])


def write(folder: Path, files: dict[str, bytes]) -> Bundle:
    graphs = folder / "graphs"
    graphs.mkdir()
    write_graphs(graphs, MANIFEST)
    for name, content in files.items():
        (graphs / name).write_bytes(content)
    return write_bundle(folder / "bundle", replace(MANIFEST), {path.name: path for path in graphs.iterdir()})


def test_examples_are_of_different_episodes_and_of_the_motion_in_them() -> None:
    frames, motion, bounds = episodes(400, 400, 400)
    chosen = choose_examples(frames, motion, bounds, CONTEXT, count=2)
    assert [example.context.shape for example in chosen] == [(CONTEXT, *MANIFEST.image_size, 3)] * 2
    for example, first in zip(chosen, (0, 800), strict=True):
        assert example.steps == STEPS
        assert np.ptp(example.motion[CONTEXT - 1 :, 0]) == STEPS  # moves all the time
        start = int(np.flatnonzero((frames[:, 0, 0, 0] == example.context[0, 0, 0, 0]) & (np.arange(len(frames)) >= first + 140))[0])
        assert np.array_equal(example.motion, motion[start : start + CONTEXT + STEPS])


def test_short_episodes_give_short_examples_and_the_longest_ones_are_taken() -> None:
    chosen = choose_examples(*episodes(20, 50, 50, moving=0), CONTEXT)
    assert [example.steps for example in chosen] == [46, 46]


def test_episodes_of_nothing_but_context_are_refused() -> None:
    with pytest.raises(InputError, match="no episode of more than 4 frames"):
        choose_examples(*episodes(3, 4), CONTEXT)


def test_what_a_bundle_keeps_is_read_as_it_was_written(tmp_path: Path) -> None:
    chosen = choose_examples(*episodes(200, 200, moving=20), CONTEXT)
    write_examples(tmp_path / EXAMPLES, chosen)
    found = read_examples(write(tmp_path, {EXAMPLES: (tmp_path / EXAMPLES).read_bytes()}))
    for one, other in zip(found, chosen, strict=True):
        assert np.array_equal(one.context, other.context)
        assert np.array_equal(one.motion, other.motion)


def test_a_bundle_may_have_none(tmp_path: Path) -> None:
    assert read_examples(write(tmp_path, {})) == []


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"not an archive"])
def test_a_file_that_holds_something_else_is_named(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BundleError, match=r"examples\.npz: found no examples .* export the model again"):
        read_examples(write(tmp_path, {EXAMPLES: content}))


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / EXAMPLES, context=np.array([print], dtype=object), motion=np.zeros((1, 9, 3)))
    with pytest.raises(BundleError, match="found no examples"):
        read_examples(write(tmp_path, {EXAMPLES: (tmp_path / EXAMPLES).read_bytes()}))
