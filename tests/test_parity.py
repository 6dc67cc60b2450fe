# SPDX-License-Identifier: Apache-2.0
"""Comparing one backend with another: equal ones pass, and whatever is off is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_bundle import write_tiny_bundle

from longscape_ros.bundle import Bundle, Experts, Routing
from longscape_ros.contract import Confidence
from longscape_ros.errors import BackendError, ParityError
from longscape_ros.parity import LIMITS, Difference, Parity, compare, verify
from longscape_ros.runtime.backend import FP16, FP32, INT8
from longscape_ros.runtime.kinds import Kind
from longscape_ros.runtime.onnxruntime_backend import OnnxRuntimeBackend


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    everything = {"experts": Experts(4, Routing("learned", 8)), "length_predictor": True, "confidence": Confidence(25.0, -1.0, -5.0)}
    return write_tiny_bundle(tmp_path_factory.mktemp("parity") / "tiny", **everything)


class Off(OnnxRuntimeBackend):
    """One method gives something else: what ``change`` makes of it."""

    def __init__(self, bundle: Bundle, method: str, change: Any) -> None:
        super().__init__(bundle, 1)
        right = getattr(self, method)
        setattr(self, method, lambda *args: change(right(*args)))


GRAPHS = {
    "encoder.onnx",
    *(f"denoiser_{e}.onnx" for e in range(4)),
    "decoder.onnx",
    "router.onnx",
    "length_predictor.onnx",
    "error_estimator.onnx",
}


def test_equal_backends_differ_in_nothing_and_every_graph_is_compared(bundle: Bundle) -> None:
    parity = compare(bundle, OnnxRuntimeBackend(bundle, 1), OnnxRuntimeBackend(bundle, 1))
    assert set(parity.graphs) == GRAPHS
    assert all(difference.largest == difference.relative == 0 for difference in parity.graphs.values())
    assert all(difference.cosine == pytest.approx(1) for difference in parity.graphs.values())
    assert parity.rollout_psnr_db == 60  # of equal images
    assert parity.same_experts == 1
    parity.require()


@pytest.mark.parametrize(
    ("method", "graph"),
    [
        ("encode", "encoder.onnx"),
        ("denoise", "denoiser_2.onnx"),
        ("route", "router.onnx"),
        ("predict_length", "length_predictor.onnx"),
        ("estimate_error", "error_estimator.onnx"),
    ],
)
def test_a_graph_that_computes_something_else_is_named(bundle: Bundle, method: str, graph: str) -> None:
    parity = compare(bundle, Off(bundle, method, lambda found: found * 1.5), OnnxRuntimeBackend(bundle, 1))
    assert parity.graphs[graph].relative == pytest.approx(0.5)
    with pytest.raises(ParityError, match=rf"ort_cpu in fp32: .*{graph}: relative difference 0\.5.* compared with ort_cpu"):
        parity.require()


def test_pictures_that_differ_are_seen_in_the_rollout(bundle: Bundle) -> None:
    darker = Off(bundle, "start_decoding", lambda finish: lambda: finish() // 2)
    parity = compare(bundle, darker, OnnxRuntimeBackend(bundle, 1))
    assert parity.rollout_psnr_db < 20
    with pytest.raises(ParityError, match="rollout: PSNR"):
        parity.require()


def test_another_choice_of_experts_is_counted(bundle: Bundle) -> None:
    turned = Off(bundle, "route", lambda scores: np.roll(scores, 1, axis=1))
    assert compare(bundle, turned, OnnxRuntimeBackend(bundle, 1)).same_experts < 0.5


def test_what_is_not_a_number_does_not_pass(bundle: Bundle) -> None:
    parity = compare(bundle, Off(bundle, "route", lambda found: found * np.nan), OnnxRuntimeBackend(bundle, 1))
    with pytest.raises(ParityError, match=r"router\.onnx: relative difference nan"):
        parity.require()


def test_differences_have_their_usual_meaning_and_the_worst_is_kept() -> None:
    one = Difference.of(np.array([3.0, 4.5]), np.array([3.0, 4.0]))
    assert (one.largest, one.relative) == (0.5, pytest.approx(0.1))
    assert one.cosine == pytest.approx((9 + 18) / (np.hypot(3, 4.5) * 5))
    assert Difference.of(np.zeros(2), np.zeros(2)) == Difference(0, 0, 1)
    assert Difference(1, 2, 0.5).worse(Difference(2, 1, 0.4)) == Difference(2, 2, 0.4)
    assert np.isnan(Difference(1, 2, 0.5).worse(Difference(np.nan, 1, 0.4)).largest)


def test_each_precision_has_its_own_limit() -> None:
    assert LIMITS[FP32].relative < LIMITS[FP16].relative < LIMITS[INT8].relative
    near = Parity("b", FP16, "torch", {"g": Difference(0.1, 1e-2, 0.9999)}, 50.0, 1.0)
    near.require()
    with pytest.raises(ParityError):
        replace(near, precision=FP32).require()
    with pytest.raises(ParityError, match=r"PSNR 41\.0 dB"):
        replace(near, rollout_psnr_db=41.0).require()


def test_the_figures_are_flat_and_say_of_what(bundle: Bundle) -> None:
    figures = Parity("tensorrt", FP16, "torch", {"decoder.onnx": Difference(0.1, 0.2, 0.3)}, 50.0, 1.0).figures()
    assert figures == {
        "tensorrt.fp16.decoder.onnx.largest": 0.1,
        "tensorrt.fp16.decoder.onnx.relative": 0.2,
        "tensorrt.fp16.decoder.onnx.cosine": 0.3,
        "tensorrt.fp16.rollout_psnr_db": 50.0,
        "tensorrt.fp16.same_experts": 1.0,
    }


def test_without_examples_noise_is_compared_on_and_gives_the_same_twice(bundle: Bundle, tmp_path: Path) -> None:
    reference = OnnxRuntimeBackend(bundle, 1)
    first = compare(bundle, Off(bundle, "denoise", lambda found: found + 0.01), reference)
    assert first == compare(bundle, Off(bundle, "denoise", lambda found: found + 0.01), reference)


def test_every_backend_and_precision_is_compared_or_has_a_reason(bundle: Bundle) -> None:
    told: list[tuple[float, float, str]] = []
    figures, faults = verify(bundle, reference="ort_cpu", progress=lambda *report: told.append(report))
    assert faults == []
    assert figures["ort_cpu.int8.rollout_psnr_db"] > 40
    assert "attention_heads" in str(figures["meta.torch.fp32"])  # the tiny bundle is not of this package's model
    for name in ("tensorrt", "ort_tensorrt", "ort_cuda"):
        assert f"{name}.fp16.rollout_psnr_db" in figures or str(figures[f"meta.{name}.fp16"]).startswith("not run: ")
    assert told[-1][0] == told[-1][1] == len(told) - 1


def test_what_is_too_far_off_is_told_beside_the_figures(bundle: Bundle) -> None:
    darker = Kind("ort_cuda", (FP32,), lambda: "", lambda b, *_: Off(b, "start_decoding", lambda finish: lambda: finish() // 2))
    figures, faults = verify(bundle, reference="ort_cpu", kinds=[darker])
    assert len(faults) == 1
    assert figures["ort_cpu.fp32.rollout_psnr_db"] < 20  # it calls itself so


def test_with_nothing_to_compare_the_reasons_are_told(bundle: Bundle) -> None:
    with pytest.raises(BackendError, match=r"nothing to compare with ort_cpu \(no such backend or precision\)"):
        verify(bundle, "ort_cpu", FP32, "ort_cpu")
    absent = Kind("ort_cuda", (FP32,), lambda: "no GPU", lambda *_: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(BackendError, match=r"ort_cuda\.fp32 not run: no GPU"):
        verify(bundle, reference="ort_cpu", kinds=[absent])


def test_a_bundle_that_torch_cannot_run_is_compared_with_onnx_runtime(bundle: Bundle) -> None:
    figures, faults = verify(bundle, "ort_cpu", INT8)
    assert (figures["meta.reference"], faults) == ("ort_cpu", [])
