# SPDX-License-Identifier: Apache-2.0
"""Denoisers in 8-bit integers, for CPUs: their weights are rounded once, their activations on the way (dynamic quantisation).

Weights get a scale per output channel, activations one per matrix. What every token goes through is quantised, which is nearly all of
the work: attention's and the experts' layers. What translates between latents and tokens, and what conditions them, stays in single
precision: errors there reach every token and every later frame, and the layers are small.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from longscape_ros.bundle import Bundle, Manifest
from longscape_ros.errors import BackendError
from longscape_ros.runtime.cache import ArtifactCache
from longscape_ros.runtime.folding import fold_weights

KEPT = ("embed", "modulation", "project")
"""Parts of the names of weights that stay in single precision."""

FAITHFUL_DB = 45.0
"""Least PSNR of rollouts against those in single precision. A prediction of 25 dB loses 0.05 dB to such errors if they have nothing to do
with its own."""

VERIFIED = "int8.rollout_psnr_db"
"""Figure of a manifest's verification that says how faithful this bundle's quantised denoisers are."""

VERSION = "1"
"""Of what is done here; a change makes graphs in a cache useless."""

_LOG = logging.getLogger(__name__)


def why_not() -> str:
    """Why graphs cannot be quantised here; empty: they can."""
    try:
        import onnx  # noqa: F401
    except ImportError:
        return "quantising needs the package onnx (pip install onnx)"
    return ""


def is_verified(manifest: Manifest) -> bool:
    """Whether an export measured that quantised denoisers predict the same."""
    return manifest.verification.get(VERIFIED, 0.0) >= FAITHFUL_DB


def quantized(bundle: Bundle, graph: str, cache: ArtifactCache) -> bytes:
    """A denoiser of a bundle in 8-bit integers, with its weights inside; from the cache if it is there.

    Args:
        bundle: Whose graph.
        graph: Its file name.
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
    made = _quantize(bundle.file(graph))
    cache.put("int8", key, made)
    return made


def _quantize(path: Path) -> bytes:
    if reason := why_not():
        raise BackendError(f"{path}: cannot be quantised: {reason}; or use the precision fp32.")
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    model = onnx.load(path)
    weights = fold_weights(model)
    chosen = [node for node, weight in weights.items() if not any(part in weight for part in KEPT)]
    if not chosen:
        raise BackendError(f"{path}: found no weights to quantise, expected a denoiser of this package; use the precision fp32.")
    add_pre_process_metadata(model)  # what it would be asked for is done: weights are constants
    options = {"DefaultTensorType": onnx.TensorProto.FLOAT}  # of tensors whose type inference does not find
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / path.name
        quantize_dynamic(
            model,
            target,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=chosen,
            extra_options=options,
        )
        return target.read_bytes()
