# SPDX-License-Identifier: Apache-2.0
"""Backends side by side, each in a process of its own."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from longscape_ros.bench import child, compare
from longscape_ros.bench.cells import Bench, Cell
from longscape_ros.bench.compare import ORT, ORT_INT8, TORCH, TORCH_COMPILED, ratios, thread_counts, wanted_sides
from longscape_ros.bench.config import BenchConfig
from longscape_ros.bench.side import Side, SideSpec
from longscape_ros.bundle import Bundle
from longscape_ros.errors import BackendError
from longscape_ros.runtime.backends import create_backend
from longscape_ros.runtime.kinds import Kind, all_kinds

CPU = SideSpec("ort_cpu", "fp32", 1)


# ---- the process of a side ----


def test_a_side_opens_its_backend_in_a_process_of_its_own_and_times_cells(bundle: Bundle) -> None:
    with Side(bundle, CPU) as side:
        side.wait()
        assert (side.opened["device"], side.opened["threads"]) == ("CPU", 1)
        for cell in (Cell("denoise", 8, 2), Cell("decode", 8), Cell("chunk", 16), Cell("horizon", 40), Cell("product", 64)):
            assert side.milliseconds(cell) > 0
        assert side.memory()["peak_rss_mb"] > 10


def test_a_side_that_does_not_open_says_why(bundle: Bundle) -> None:
    with Side(bundle, SideSpec("abacus", "fp32", 1)) as side, pytest.raises(BackendError, match="Got the backend 'abacus'"):
        side.wait()


def test_a_side_whose_process_ends_says_its_last_words(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longscape_ros.bench.side._MODULE", "longscape_ros.no_such_module")
    with Side(bundle, CPU) as side:
        for _ in range(2):  # it is told as often as it is asked for
            with pytest.raises(BackendError, match=r"process of ort_cpu.fp32 ended.*No module named"):
                side.milliseconds(Cell("decode", 8))


def test_a_side_that_does_not_answer_is_not_waited_for_forever(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with Side(bundle, CPU) as side:
        side.wait()
        monkeypatch.setattr("longscape_ros.bench.side.RUN_TIMEOUT_S", 0.0)
        with pytest.raises(BackendError, match=r"Got no answer from .* for 0 s"):
            side.milliseconds(Cell("horizon", 200))


def test_the_process_answers_every_order_with_a_line(bundle: Bundle) -> None:
    orders = [
        {"time": Cell("decode", 8).as_dict()},
        {"open": {"name": "ort_cpu", "precision": "fp32", "threads": 1, "device": "cpu", "compiled": False}, "bundle": str(bundle.path)},
        {"time": Cell("decode", 8).as_dict()},
        {"time": {"kind": "decode", "size": 0}},
        {"memory": True},
    ]
    answers: list[dict[str, Any]] = []
    child.serve(io.StringIO("".join(json.dumps(order) + "\n" for order in orders)), answers.append)
    assert [next(iter(answer)) for answer in answers] == ["fault", "opened", "ms", "fault", "memory"]
    assert "Got size 0" in answers[3]["fault"]


def test_a_backend_with_cuda_events_is_timed_by_them(bundle: Bundle) -> None:
    class WithEvents:
        """Runs on the CPU and says that a GPU took a quarter of a millisecond."""

        def __init__(self) -> None:
            self._backend = create_backend(bundle, "ort_cpu", 1)
            self.asked = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(self._backend, name)

        def timed(self, work: Callable[[], Any]) -> tuple[Any, float]:
            self.asked += 1
            return work(), 0.25

    backend: Any = WithEvents()
    bench = Bench(bundle, backend)
    assert [bench.milliseconds(cell) for cell in (Cell("denoise", 8), Cell("decode", 8))] == [0.25, 0.25]
    assert bench.milliseconds(Cell("chunk", 8)) != 0.25
    assert backend.asked == 4  # short cells are run once before they are timed


def test_no_product_is_timed_where_nothing_could_tell_its_time(bundle: Bundle) -> None:
    backend: Any = create_backend(bundle, "ort_cpu", 1)
    backend.name = "torch"
    with pytest.raises(BackendError, match="Got a matrix product to time on torch"):
        Bench(bundle, backend).milliseconds(Cell("product", 8))


# ---- what is compared ----


def test_sides_are_named_by_backend_device_and_precision() -> None:
    labels = [SideSpec("ort_cpu", "int8").label, SideSpec("torch", "fp32", None, "cuda", True).label]
    assert labels == ["ort_cpu.int8", "torch_cuda_compiled.fp32"]
    assert [SideSpec("torch", "fp32").label, SideSpec("torch", "fp32", compiled=True).label] == [TORCH, TORCH_COMPILED]


def test_every_backend_in_every_precision_is_compared_or_has_a_reason() -> None:
    specs, missing = wanted_sides(BenchConfig())
    labels = {spec.label for spec in specs} | set(missing)
    expected = {f"{kind.name}.{precision}" for kind in all_kinds() for precision in kind.precisions}
    assert expected | {TORCH_COMPILED, "torch_cuda.fp32", "torch_cuda_compiled.fp32"} == labels
    assert all(missing.values())
    assert len(labels) == len(specs) + len(missing)


def test_compiling_is_asked_for_and_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = (Kind("torch", ("fp32",), lambda: "", lambda *_: pytest.fail("nothing is opened")),)
    monkeypatch.setattr(compare, "all_kinds", lambda: kinds)
    monkeypatch.setattr(compare, "has_compiler", lambda: True)
    assert "--compiled" in wanted_sides(BenchConfig())[1][TORCH_COMPILED]
    for config in (BenchConfig(compiled=True), BenchConfig(full=True)):
        assert TORCH_COMPILED in {spec.label for spec in wanted_sides(config)[0]}
    monkeypatch.setattr(compare, "has_compiler", lambda: False)
    assert "C++ compiler" in wanted_sides(BenchConfig(compiled=True))[1][TORCH_COMPILED]


def test_a_kind_that_does_not_work_here_has_its_reason_in_every_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = (Kind("tensorrt", ("fp16", "fp32"), lambda: "no GPU", lambda *_: pytest.fail("nothing is opened"), on_gpu=True),)
    monkeypatch.setattr(compare, "all_kinds", lambda: kinds)
    assert wanted_sides(BenchConfig()) == ([], {"tensorrt.fp16": "no GPU", "tensorrt.fp32": "no GPU"})


def test_powers_of_two_and_all_cpus_are_tried_as_threads() -> None:
    assert [thread_counts(cpus) for cpus in (1, 2, 3, 6, 8, 64)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4, 6], [1, 2, 4, 8], [1, 2, 4, 8]]


# ---- what comes out ----


def test_ratios_say_how_many_times_as_fast_the_first_side_is() -> None:
    times = {ORT: [10.0] * 3, ORT_INT8: [4.0] * 3, TORCH: [30.0] * 3, TORCH_COMPILED: [20.0] * 3}
    figures = ratios(times)
    assert (figures["ort_cpu_over_torch"], figures["int8_over_fp32"]) == (2.0, 2.5)  # against the faster of torch's
    assert figures["meta.ort_cpu_over_torch"] == f"{ORT} against {TORCH_COMPILED}"
    eager = ratios({ORT: [10.0], TORCH: [30.0]})
    assert eager["ort_cpu_over_torch"] == 3.0
    assert "the only one" in str(eager["meta.ort_cpu_over_torch"])
    assert "int8_over_fp32" not in eager
    assert ratios({TORCH: [1.0]}) == {}


@dataclass
class FakeSide:
    """A side that takes as long as it is told."""

    spec: SideSpec
    times: dict[str, float]
    asked: list[str] = field(default_factory=list)

    def milliseconds(self, cell: Cell) -> float:
        self.asked.append(str(cell))
        if str(cell) not in self.times:
            raise BackendError(f"out of memory at {cell}")
        return self.times[str(cell)]


def test_the_share_of_the_peak_is_work_over_time_beside_the_best_product(bundle: Bundle) -> None:
    times = {"product1024": 2.0, "product2048": 10.0, **{f"denoise{t}.b{b}": 4.0 for t in (16, 32) for b in (1, 8)}}
    side: Any = FakeSide(CPU, times)
    figures = compare.peak_fractions(bundle, side, 0.0)
    peak = 2048**3 / 10.0  # faster than 1024**3 / 2
    assert figures["peak_gmacs.ort_cpu.fp32"] == pytest.approx(peak / 1e6)
    macs = compare.work.denoiser_macs(bundle, 16)
    assert figures["peak_fraction"] == figures["peak_fraction.ort_cpu.fp32.16.b1"] == pytest.approx(macs / 4.0 / peak)
    assert figures["peak_fraction.ort_cpu.fp32.16.b8"] == pytest.approx(8 * macs / 4.0 / peak)


def test_a_peak_that_cannot_be_measured_is_told(bundle: Bundle) -> None:
    side: Any = FakeSide(SideSpec("ort_cuda", "fp32"), {})
    assert compare.peak_fractions(bundle, side, 0.0) == {"meta.not_run.ort_cuda.fp32.peak": "out of memory at product4096"}


def test_a_side_that_fails_at_a_cell_is_left_out_there_alone() -> None:
    able: Any = FakeSide(CPU, {"denoise16.b1": 1.0, "denoise16.b64": 64.0})
    small: Any = FakeSide(SideSpec("ort_cuda", "fp32"), {"denoise16.b1": 0.5})
    missing: dict[str, str] = {}
    cells = [Cell("denoise", 16), Cell("denoise", 16, 64)]
    figures = compare._tables({ORT: able, "ort_cuda.fp32": small}, cells, 0.0, missing, lambda text: None)
    assert figures["side.ort_cpu.fp32.denoise16.b64_ms_p50"] == 64.0
    assert figures["side.ort_cuda.fp32.denoise16.b1_ms_p50"] == 0.5
    assert "side.ort_cuda.fp32.denoise16.b64_ms_p50" not in figures
    assert missing == {"ort_cuda.fp32.denoise16.b64": "out of memory at denoise16.b64"}
    assert small.asked.count("denoise16.b64") == 1


def test_compiled_graphs_are_timed_at_the_first_cell_only() -> None:
    compiled: Any = FakeSide(SideSpec("torch", "fp32", compiled=True), {"denoise16.b1": 1.0, "chunk16": 2.0})
    compare._tables({TORCH_COMPILED: compiled}, [Cell("denoise", 16), Cell("chunk", 16)], 0.0, {}, lambda text: None)
    assert set(compiled.asked) == {"denoise16.b1"}


def test_a_comparison_has_a_row_for_what_runs_and_a_reason_for_what_does_not(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = next(kind for kind in all_kinds() if kind.name == "ort_cpu")
    gone = Kind("ort_cuda", ("fp32",), lambda: "no GPU", lambda *_: pytest.fail("nothing is opened"), on_gpu=True)
    monkeypatch.setattr(compare, "all_kinds", lambda: (gone, cpu))
    monkeypatch.setattr(compare, "PRODUCT_SIZES", (64,))
    said: list[str] = []
    figures = compare.compare(bundle, BenchConfig(threads=1), 0.2, said.append)
    for cell in ("denoise16.b1", "denoise16.b8", "decode16.b1", "chunk16", "horizon32"):
        middle, high, n = (figures[f"side.{ORT}.{cell}_ms_{what}"] for what in ("p50", "p95", "n"))
        assert isinstance(middle, float)
        assert 0 < middle <= high  # type: ignore[operator]
        assert n >= 5  # type: ignore[operator]
    assert figures[f"side.{ORT}.peak_rss_mb"] > 10  # type: ignore[operator]
    assert figures[f"meta.side.{ORT}"] == "CPU, 1 thread"
    assert figures["peak_fraction"] > 0  # type: ignore[operator]
    assert figures["meta.not_run.ort_cuda.fp32"] == "no GPU"
    times = (figures[f"side.{label}.denoise16.b1_ms_p50"] for label in (ORT, ORT_INT8))
    assert figures["int8_over_fp32"] == pytest.approx(next(times) / next(times))  # type: ignore[operator]
    assert f"Opening {ORT} ..." in said


def test_the_fastest_number_of_threads_is_kept(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    closed: list[int | None] = []

    class TimedSide(FakeSide):
        def __init__(self, bundle: Bundle, spec: SideSpec) -> None:
            super().__init__(spec, {"denoise16.b1": {1: 5.0, 2: 3.0, 4: 4.0}[spec.threads or 0]})

        def __enter__(self) -> TimedSide:
            return self

        def __exit__(self, *_: object) -> None:
            self.close()

        def wait(self) -> None:
            """It is open."""

        def close(self) -> None:
            closed.append(self.spec.threads)

    monkeypatch.setattr(compare, "Side", TimedSide)
    monkeypatch.setattr(compare, "usable_cpus", lambda: 4)
    best = compare.fastest(bundle, SideSpec("ort_cpu", "fp32"), Cell("denoise", 16), 0.0)
    assert best.spec.threads == 2
    assert sorted(closed, key=str) == [1, 4]
