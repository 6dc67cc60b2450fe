# SPDX-License-Identifier: Apache-2.0
"""Films: H.264 in MP4, which plays everywhere. Needs the extra ``video``."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def write_mp4(path: Path, pictures: Iterable[NDArray[np.uint8]], size: tuple[int, int], rate: Fraction) -> Path:
    """Write a film.

    Args:
        path: Where to; appears when it is complete.
        pictures: uint8 [height, width, 3] each.
        size: (width, height), even numbers.
        rate: Pictures per second.

    Returns:
        ``path``.
    """
    import av

    part = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with av.open(str(part), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            stream = container.add_stream("libx264", rate=rate)
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
            stream.options = {"crf": "20", "preset": "veryfast"}
            for picture in pictures:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path
