# SPDX-License-Identifier: Apache-2.0
"""Graphs in 8-bit integers, for CPUs. Weights are rounded once, with a scale per output channel.

- Denoisers: activations are rounded on the way, with one scale per matrix (dynamic quantisation). What every token goes through is
  quantised, which is nearly all of the work: attention's and the experts' layers. What translates between latents and tokens, and what
  conditions them, stays in single precision: errors there reach every token and every later frame, and the layers are small.
- The decoder: its convolutions have fixed scales, which are calibrated on the bundle's examples (static quantisation), so it stays as it
  is where a bundle has none. The last convolution, which makes the pixels, stays too. Its errors reach one frame each.

Weights have seven bits: on x86 CPUs without VNNI the products of two bytes are added in pairs in 16 bits, which eight overflow (rollouts
of the bundles that ship had 27 to 31 dB then in place of 46). So graphs are as faithful on one CPU as on another, and what an export
found of them holds on all.

The encoder stays: it runs once, on few images, and everything hangs on what it gives.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from longscape_ros.bundle import DECODER, ENCODER, Bundle, Manifest, denoiser
from longscape_ros.errors import BackendError
from longscape_ros.examples import EXAMPLES, read_examples
from longscape_ros.runtime.cache import ArtifactCache
from longscape_ros.runtime.folding import fold_weights

KEPT = ("embed", "modulation", "project")
"""Parts of the names of weights that stay in single precision."""

FAITHFUL_DB = 42.0
"""Least PSNR of rollouts against those in single precision. A prediction of 28 dB loses 0.17 dB to such errors if they have nothing to do
with its own, and one of 25 dB loses 0.09 dB."""

VERIFIED = "int8.rollout_psnr_db"
"""Figure of a manifest's verification that says how faithful this bundle's quantised graphs are."""

CALIBRATION_NOISE = 0.2
"""Deviation of the noise on the examples' latents (which have about unit deviation): the decoder gets what a denoiser makes."""

CALIBRATION_ROUNDS = 4

VERSION = "3"
"""Of what is done here; a change makes graphs in a cache useless."""

_LOG = logging.getLogger(__name__)


def why_not() -> str:
    """Why graphs cannot be quantised here; empty: they can."""
    try:
        import onnx  # noqa: F401
    except ImportError:
        return "quantising needs the package onnx (pip install onnx)"
    return ""


def quantizable(manifest: Manifest) -> set[str]:
    """The graphs of a bundle that are quantised."""
    decoder = {DECODER} if EXAMPLES in manifest.files else set()
    return decoder | {denoiser(expert) for expert in range(manifest.experts.count)}


def quantized(bundle: Bundle, graph: str, cache: ArtifactCache) -> bytes:
    """A graph of a bundle in 8-bit integers, with its weights inside; from the cache if it is there.

    Args:
        bundle: Whose graph.
        graph: Its file name, one of :func:`quantizable`.
        cache: Where it is kept.

    Raises:
        BackendError: it cannot be quantised here.
    """
    import onnxruntime

    files = {name: record.sha256 for name, record in bundle.manifest.files.items() if name == graph or not name.endswith(".onnx")}
    key = {"version": VERSION, "onnxruntime": onnxruntime.__version__, **files}
    found = cache.get("int8", key)
    if found is not None:
        return found
    _LOG.info("Quantising %s ...", graph)
    if reason := why_not():
        raise BackendError(f"{bundle.file(graph)}: cannot be quantised: {reason}; or use the precision fp32.")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / graph
        if graph == DECODER:
            _quantize_decoder(bundle, target)
        else:
            _quantize_denoiser(bundle.file(graph), target)
        made = target.read_bytes()
    cache.put("int8", key, made)
    return made


def _quantize_denoiser(path: Path, target: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    model = onnx.load(path)
    weights = fold_weights(model)
    chosen = [node for node, weight in weights.items() if not any(part in weight for part in KEPT)]
    if not chosen:
        raise BackendError(f"{path}: found no weights to quantise, expected a denoiser of this package; use the precision fp32.")
    add_pre_process_metadata(model)  # what it would be asked for is done: weights are constants
    quantize_dynamic(
        model,
        target,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
        nodes_to_quantize=chosen,
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},  # of tensors whose type inference does not find
    )


def _quantize_decoder(bundle: Bundle, target: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    model = onnx.load(bundle.file(DECODER))
    fold_weights(model)
    add_pre_process_metadata(model)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    for number, node in enumerate(convolutions):
        node.name = node.name or f"convolution_{number}"
    chosen = [node.name for node in convolutions[:-1]]
    if not chosen:
        raise BackendError(f"{bundle.file(DECODER)}: found no convolutions to quantise, expected several; use the precision fp32.")
    quantize_static(
        model,
        target,
        _Calibration(bundle),
        quant_format=QuantFormat.QOperator,
        op_types_to_quantize=["Conv"],
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_quantize=chosen,
    )


class _Calibration:
    """Latents of the examples, with noise; what ONNX Runtime's calibration asks for."""

    def __init__(self, bundle: Bundle) -> None:
        import onnxruntime

        encoder = onnxruntime.InferenceSession(bundle.file(ENCODER), providers=["CPUExecutionProvider"])
        images = np.concatenate([example.context for example in read_examples(bundle)])
        self._batches = self._noisy(encoder.run(["latents"], {"rgb": images})[0])

    @staticmethod
    def _noisy(latents: Any) -> Iterator[dict[str, Any]]:
        for number in range(CALIBRATION_ROUNDS):
            noise = np.random.default_rng(number).standard_normal(latents.shape, np.float32)
            yield {"latents": latents + CALIBRATION_NOISE * noise}

    def get_next(self) -> dict[str, Any] | None:
        """The next batch of inputs; None: that was all."""
        return next(self._batches, None)
