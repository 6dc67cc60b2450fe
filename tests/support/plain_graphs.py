# SPDX-License-Identifier: Apache-2.0
"""A bundle's graphs, one by one on ONNX Runtime's CPU in fp32: what every backend is compared with."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from longscape_ros.bundle import DECODER, ENCODER, ERROR_ESTIMATOR, LENGTH_PREDICTOR, ROUTER, Bundle, denoiser


@lru_cache(maxsize=64)
def session_of(model: Path | bytes) -> onnxruntime.InferenceSession:
    """A session on the CPU; the same for the same model, for opening one takes longer than many runs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    source = str(model) if isinstance(model, Path) else model
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


class PlainGraphs:
    """Has the methods of a :class:`~longscape_ros.runtime.backend.Backend`."""

    name, precision, device, threads = "plain", "fp32", "CPU", 1

    def __init__(self, bundle: Bundle) -> None:
        self.sessions = {graph: session_of(bundle.file(graph)) for graph in bundle.manifest.graphs()}

    def _run(self, graph: str, output: str, **inputs: Any) -> Any:
        return self.sessions[graph].run([output], inputs)[0]

    def encode(self, rgb: Any) -> Any:
        return self._run(ENCODER, "latents", rgb=rgb)

    def denoise(self, expert: int, context: Any, actions: Any, noise: Any) -> Any:
        return self._run(denoiser(expert), "latents", context=context, actions=actions, noise=noise)

    def start_decoding(self, latents: Any) -> Any:
        rgb = self._run(DECODER, "rgb", latents=latents)
        return lambda: rgb

    def route(self, context: Any, coming: Any) -> Any:
        return self._run(ROUTER, "scores", context=context, coming=coming)

    def predict_length(self, context: Any) -> Any:
        return self._run(LENGTH_PREDICTOR, "scores", context=context)

    def estimate_error(self, context: Any, actions: Any, latents: Any, before: Any) -> Any:
        return self._run(ERROR_ESTIMATOR, "log_error", context=context, actions=actions, latents=latents, before=before)

    def fetch(self, latents: Any) -> np.ndarray[Any, Any]:
        return np.asarray(latents)

    def close(self) -> None:
        self.sessions.clear()
