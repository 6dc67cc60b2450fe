# SPDX-License-Identifier: Apache-2.0
"""What is done with a GPU's memory and streams, on a device of the host's memory that does work as late, or as unexpectedly, as it may."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from support.host_device import HostDevice
from support.host_onnxruntime import HostSessions
from support.host_tensorrt import host_tensorrt, plans_of
from support.plain_graphs import PlainGraphs
from support.snapshots import make_snapshot
from support.tiny_bundle import MANIFEST, write_tiny_bundle

from longscape_ros.actions import feature_count
from longscape_ros.bundle import Bundle, Experts, Routing
from longscape_ros.contract import ChunkRule, Confidence
from longscape_ros.errors import BackendError
from longscape_ros.runtime import gpu_backend, transfers
from longscape_ros.runtime.backends import available_backends, create_backend
from longscape_ros.runtime.cache import ArtifactCache
from longscape_ros.runtime.gpu_backend import GpuBackend, padded
from longscape_ros.runtime.onnxruntime_gpu_backend import open_onnxruntime_gpu
from longscape_ros.runtime.predictor import Predictor
from longscape_ros.runtime.tensorrt_backend import open_tensorrt

FEATURES = feature_count(MANIFEST.action_space)
LATENT = MANIFEST.latent_shape
EXPERTS, AHEAD = 3, 8

Opens = Callable[[Bundle, HostDevice], GpuBackend]


def tensorrt(bundle: Bundle, device: HostDevice) -> GpuBackend:
    return open_tensorrt(bundle, plans_of(bundle), host_tensorrt(device), device)


def tensorrt_rtx(bundle: Bundle, device: HostDevice) -> GpuBackend:
    return open_tensorrt(bundle, plans_of(bundle), host_tensorrt(device, rtx=True), device)


def ort_cuda(bundle: Bundle, device: HostDevice) -> GpuBackend:
    return open_onnxruntime_gpu(bundle, "ort_cuda", device, open_session=HostSessions(device))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Has every graph there is."""
    experts = Experts(EXPERTS, Routing("learned", AHEAD))
    folder = tmp_path_factory.mktemp("bundles") / "everything"
    return write_tiny_bundle(folder, experts=experts, confidence=Confidence(25.0, -1.0, -6.0), length_predictor=True)


@pytest.fixture(scope="module")
def plain(bundle: Bundle) -> PlainGraphs:
    return PlainGraphs(bundle)


@pytest.fixture(params=[tensorrt, tensorrt_rtx, ort_cuda], ids=lambda opens: opens.__name__)
def opens(request: pytest.FixtureRequest) -> Opens:
    opens: Opens = request.param
    return opens


@pytest.fixture(params=[None, 1, 2], ids=["late", "random 1", "random 2"])
def device(request: pytest.FixtureRequest) -> HostDevice:
    return HostDevice(seed=request.param)


@pytest.fixture
def backend(bundle: Bundle, opens: Opens, device: HostDevice) -> Iterator[GpuBackend]:
    backend = opens(bundle, device)
    yield backend
    backend.close()


def images(batch: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (batch, *MANIFEST.image_size, 3), np.uint8)


def latents(batch: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal((batch, *LATENT), np.float32)


def chunk(batch: int, length: int, seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {
        "context": random.standard_normal((batch, MANIFEST.context, *LATENT), np.float32),
        "actions": random.standard_normal((batch, MANIFEST.context + length, FEATURES), np.float32),
        "noise": random.standard_normal((batch, length, *LATENT), np.float32),
    }


def close(found: Any, expected: Any) -> None:
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


# ---- the numbers ----


@pytest.mark.parametrize("batch", [1, 5, 64, 70])
def test_every_graph_gives_what_it_gives_on_the_cpu(backend: GpuBackend, plain: PlainGraphs, batch: int) -> None:
    rgb = images(batch)
    expected = plain.encode(rgb)
    encoded = backend.encode(rgb)
    close(backend.fetch(encoded), expected)
    assert np.array_equal(backend.start_decoding(encoded)(), plain.start_decoding(expected)())
    for length in MANIFEST.segmentation.lengths:
        given = chunk(batch, length, seed=length)
        for expert in range(EXPERTS):
            close(backend.fetch(backend.denoise(expert, **given)), plain.denoise(expert, **given))
        estimated = {"context": given["context"], "actions": given["actions"], "latents": given["noise"]}
        before = np.linspace(-8, -2, batch, dtype=np.float32)
        close(backend.estimate_error(**estimated, before=before), plain.estimate_error(**estimated, before=before))
    coming = np.random.default_rng(1).standard_normal((batch, MANIFEST.context + AHEAD, FEATURES), np.float32)
    close(backend.route(given["context"], coming), plain.route(given["context"], coming))
    close(backend.predict_length(given["context"]), plain.predict_length(given["context"]))


def test_a_prediction_is_that_of_the_cpu(bundle: Bundle, backend: GpuBackend, plain: PlainGraphs) -> None:
    seen = make_snapshot(100)
    found, expected = (Predictor(bundle, runs).predict(seen, horizon=100, seed=5) for runs in (backend, plain))
    assert found.chunks == expected.chunks
    assert found.experts == expected.experts
    assert len(found.chunks) > 3
    assert np.array_equal(found.frames, expected.frames)
    close(found.confidence, expected.confidence)


def test_work_is_timed_between_events_that_enclose_both_streams(backend: GpuBackend, device: HostDevice) -> None:
    main, decode = list(device.streams.values())[:2]
    given = chunk(2, 8)
    denoised, denoising_ms = backend.timed(lambda: backend.denoise(0, **given))
    finish, decoding_ms = backend.timed(lambda: backend.start_decoding(denoised[0]))
    assert min(denoising_ms, decoding_ms) > 0  # what was queued in between
    assert not main.queued
    assert not decode.queued  # and done, on both
    assert np.array_equal(finish(), backend.start_decoding(denoised[0])())


def test_a_rollout_is_that_of_the_cpu(bundle: Bundle, backend: GpuBackend, plain: PlainGraphs) -> None:
    found, expected = (Predictor(bundle, runs).roll_out(make_snapshot(60), horizon=60, seed=5) for runs in (backend, plain))
    close(found.latents, expected.latents)


def test_contexts_that_are_put_together_from_two_chunks_are_right(opens: Opens, device: HostDevice, bundle: Bundle) -> None:
    backend = opens(bundle, device)
    first = backend.denoise(0, **chunk(1, 8, seed=1))[0]
    second = backend.denoise(1, **chunk(1, 8, seed=2))[0]
    context = np.concatenate([first[-2:], second[:2]])  # as of chunks that are shorter than the context, by CuPy itself
    expected = np.concatenate([backend.fetch(first)[-2:], backend.fetch(second)[:2]])
    close(backend.fetch(context), expected)
    given = chunk(1, 16)
    del first, second
    found = backend.fetch(backend.denoise(2, context[None], given["actions"], given["noise"]))
    close(found, PlainGraphs(bundle).denoise(2, expected[None], given["actions"], given["noise"]))


def test_arrays_that_are_not_contiguous_are_taken(backend: GpuBackend, plain: PlainGraphs) -> None:
    rgb, given = images(6), chunk(6, 8)
    encoded = backend.encode(rgb[::2])
    close(backend.fetch(encoded), plain.encode(np.ascontiguousarray(rgb[::2])))
    denoised = backend.denoise(0, **given)
    expected = plain.denoise(0, **given)
    close(backend.fetch(denoised[:, -4:]), expected[:, -4:])
    decode = backend.start_decoding(denoised[:, 2])
    del denoised
    backend.fetch(backend.denoise(0, **chunk(6, 8, seed=3)))
    assert np.array_equal(decode(), plain.start_decoding(np.ascontiguousarray(expected[:, 2]))())


def test_no_sample_is_no_work(backend: GpuBackend) -> None:
    assert backend.fetch(backend.encode(images(0))).shape == (0, *LATENT)
    assert backend.start_decoding(latents(0))().shape == (0, *MANIFEST.image_size, 3)


# ---- memory and streams ----


def test_latents_stay_on_the_gpu_from_the_images_to_the_images(bundle: Bundle, opens: Opens) -> None:
    device = HostDevice()
    backend = opens(bundle, device)
    context = backend.encode(images(MANIFEST.context))
    given = chunk(1, 16)
    denoised = backend.denoise(1, context[None], given["actions"], given["noise"])
    following = backend.denoise(1, denoised[:, -MANIFEST.context :], given["actions"], given["noise"])
    assert device.downloaded == 0
    backend.start_decoding(following[0])()
    assert device.downloaded == 16 * np.prod(MANIFEST.image_size) * 3


def test_latents_are_not_numpys_by_accident(backend: GpuBackend) -> None:
    with pytest.raises(TypeError, match="not allowed"):
        np.asarray(backend.encode(images(1)))


def test_what_was_given_out_is_not_changed_by_later_calls(backend: GpuBackend, plain: PlainGraphs) -> None:
    given = [chunk(2, 8, seed=seed) for seed in range(6)]
    denoised = [backend.denoise(0, **one) for one in given]
    decoding = [backend.start_decoding(one[0]) for one in denoised]
    expected = [plain.denoise(0, **one) for one in given]
    for found, wanted in zip(denoised, expected, strict=True):
        close(backend.fetch(found), wanted)
    frames = [decode() for decode in decoding]
    backend.start_decoding(latents(8, seed=9))()
    for found, wanted in zip(frames, expected, strict=True):
        assert np.array_equal(found, plain.start_decoding(wanted[0])())


def test_what_was_given_is_not_read_after_the_call(backend: GpuBackend, plain: PlainGraphs) -> None:
    given = chunk(2, 8)
    expected = plain.denoise(0, **given)
    rgb = plain.start_decoding(given["noise"][0])()
    denoised = backend.denoise(0, **given)
    decode = backend.start_decoding(given["noise"][0])
    for array in given.values():
        array[:] = 7
    close(backend.fetch(denoised), expected)
    assert np.array_equal(decode(), rgb)


def test_many_calls_in_a_row_do_not_overwrite_what_is_still_to_be_copied(backend: GpuBackend, plain: PlainGraphs) -> None:
    given = [chunk(1, 8, seed=seed) for seed in range(10)]
    denoised = [backend.denoise(0, **one) for one in given]
    for found, one in zip(denoised, given, strict=True):
        close(backend.fetch(found), plain.denoise(0, **one))


def test_a_chunk_is_decoded_beside_the_next_one_and_neither_waits_for_the_other(bundle: Bundle, opens: Opens) -> None:
    device = HostDevice()  # does what is waited for, and nothing else
    backend = opens(bundle, device)
    backend.start_decoding(backend.denoise(0, **chunk(1, 8))[0])()  # sizes that are new are waited for
    main, decode = list(device.streams.values())[:2]
    first = backend.denoise(0, **chunk(1, 8))
    finish = backend.start_decoding(first[0])
    second = backend.denoise(0, **chunk(1, 8, seed=1))
    decoded, denoised = decode.done, main.end
    backend.fetch(second)
    assert main.done >= denoised
    assert decode.done == decoded, "the next chunk waited for the images of the one before"
    third = backend.denoise(0, **chunk(1, 8, seed=2))
    decoded, denoised = decode.end, main.done
    finish()
    assert decode.done >= decoded
    assert main.done == denoised, "the images waited for the chunk after theirs"
    backend.fetch(third)


def test_a_chunk_whose_latents_nobody_keeps_is_decoded_all_the_same(backend: GpuBackend, plain: PlainGraphs) -> None:
    given = [chunk(1, 16, seed=seed) for seed in range(4)]
    decoding = [backend.start_decoding(backend.denoise(0, **one)[0]) for one in given]  # their memory is free again at once
    later = [backend.denoise(0, **chunk(1, 16, seed=10 + seed)) for seed in range(4)]
    backend.fetch(later[-1])
    for decode, one in zip(decoding, given, strict=True):
        assert np.array_equal(decode(), plain.start_decoding(plain.denoise(0, **one)[0])())


@pytest.mark.parametrize("order", [1, -1])
def test_any_number_of_chunks_may_wait_to_be_fetched_in_any_order(backend: GpuBackend, plain: PlainGraphs, order: int) -> None:
    given = [latents(1 + seed % 5, seed) for seed in range(3 * gpu_backend.MOST_DECODING)]
    decoding = [(backend.start_decoding(one), one) for one in given]
    for decode, one in decoding[::order]:
        assert np.array_equal(decode(), plain.start_decoding(one)())
        assert np.array_equal(decode(), plain.start_decoding(one)())


def test_chunks_that_wait_to_be_fetched_keep_a_bounded_amount_of_page_locked_memory(bundle: Bundle, opens: Opens) -> None:
    device = HostDevice()
    backend = opens(bundle, device)
    waiting, kept = [], []
    for seed in range(3 * gpu_backend.MOST_DECODING):
        waiting.append(backend.start_decoding(latents(8, seed)))
        kept.append(device.page_locked)
    assert kept[-1] == kept[gpu_backend.MOST_DECODING]


def test_images_that_were_fetched_are_the_callers_alone(backend: GpuBackend) -> None:
    finish = backend.start_decoding(latents(8))
    frames = weakref.ref(finish())
    del finish
    assert frames() is None


def test_chunks_that_nobody_fetches_keep_no_more_than_their_share_of_memory(bundle: Bundle, opens: Opens) -> None:
    device = HostDevice()
    backend = opens(bundle, device)

    def decode_and_forget() -> int:
        for seed in range(2 * gpu_backend.MOST_DECODING):
            backend.start_decoding(backend.denoise(0, **chunk(1, 8, seed))[0])
        return device.used

    assert decode_and_forget() == decode_and_forget()


def test_all_memory_is_given_back(bundle: Bundle, opens: Opens, device: HostDevice) -> None:
    backend = opens(bundle, device)
    Predictor(bundle, backend).predict(make_snapshot(40), horizon=40)
    backend.start_decoding(latents(3))
    assert device.used > 0
    queued = [(stream, stream.end) for stream in device.streams.values() if not stream.capturing]
    backend.close()
    backend.close()
    assert device.used == 0
    assert all(stream.done >= end for stream, end in queued), "memory was freed that is in use"
    with pytest.raises(BackendError, match="closed"):
        backend.encode(images(1))


def test_sizes_that_were_not_used_for_long_are_given_up_and_come_back(
    backend: GpuBackend, plain: PlainGraphs, device: HostDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_backend, "MOST_PREPARED", 3)
    backend.encode(images(1))
    used = []
    for turn in range(3):
        for batch in (1, 2, 3, 4, 5):
            given = chunk(batch, 8, seed=turn)
            denoised, decode = backend.denoise(0, **given), backend.start_decoding(given["noise"][:, 0])
            close(backend.fetch(denoised), plain.denoise(0, **given))
            assert np.array_equal(decode(), plain.start_decoding(np.ascontiguousarray(given["noise"][:, 0]))())
        del denoised
        used.append(device.used)
    assert used[0] == used[1] == used[2]


def test_sizes_are_given_up_only_when_their_runs_are_done(bundle: Bundle, plain: PlainGraphs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_backend, "MOST_PREPARED", 2)
    device = HostDevice()
    backend = open_onnxruntime_gpu(bundle, "ort_cuda", device, open_session=HostSessions(device))  # does not wait in between
    given = [chunk(batch, 8, seed=batch) for batch in range(1, 8)]
    denoised = [backend.denoise(0, **one) for one in given]
    for found, one in zip(denoised, given, strict=True):
        close(backend.fetch(found), plain.denoise(0, **one))


def test_results_of_many_sizes_leave_a_few_page_locked_buffers(backend: GpuBackend, device: HostDevice) -> None:
    encoded = backend.encode(images(64))
    before = device.page_locked
    for batch in range(1, 65):
        backend.fetch(encoded[:batch])
    assert device.page_locked - before <= transfers.MOST_FREE * encoded.nbytes


# ---- sizes ----


def test_batches_are_padded_by_a_quarter_at_most_and_to_few_sizes() -> None:
    sizes = {rows: padded(rows, 1000) for rows in range(1, 513)}
    assert all(rows <= size <= max(1.25 * rows, 1) for rows, size in sizes.items())
    assert {size for size in sizes.values() if size <= 64} == {1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64}
    assert all(padded(size, 1000) == size for size in sizes.values())
    assert padded(17, 18) == 18


def test_padding_leaves_no_trace_in_results(backend: GpuBackend, plain: PlainGraphs) -> None:
    wide, narrow = chunk(16, 8), chunk(9, 8, seed=1)
    for array in wide.values():
        array[:] = np.nan
    backend.denoise(0, **{name: array[:10] for name, array in wide.items()})
    close(backend.fetch(backend.denoise(0, **narrow)), plain.denoise(0, **narrow))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"noise": np.zeros((2, 9, *LATENT), np.float32)}, r"expected actions float32 \[2, 13, 5\]"),
        ({"noise": np.zeros((1, 8, *LATENT), np.float32)}, r"expected noise float32 \[2, 8, 2, 2, 3\]"),
        ({"context": np.zeros((2, 3, *LATENT), np.float32)}, r"expected context float32 \[2, 4, 2, 2, 3\]"),
        ({"actions": np.zeros((2, 12, FEATURES))}, r"actions float64 \[2, 12, 5\].* expected actions float32"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_with_found_and_expected(backend: GpuBackend, change: dict[str, Any], text: str) -> None:
    with pytest.raises(BackendError, match=f"denoiser_0.onnx on .*{text}"):
        backend.denoise(0, **chunk(2, 8) | change)


def test_images_of_another_size_are_refused(backend: GpuBackend) -> None:
    with pytest.raises(BackendError, match=r"failed to run encoder\.onnx on rgb uint8 \[1, 3, 3, 3\]: expected rgb uint8 \[1, 16, 24, 3\]"):
        backend.encode(np.zeros((1, 3, 3, 3), np.uint8))


def test_a_graph_that_the_bundle_does_not_have_is_named(tmp_path: Any, opens: Opens) -> None:
    bundle = write_tiny_bundle(tmp_path / "plain", segmentation=ChunkRule(lengths=(8,)), experts=Experts(1))
    backend = opens(bundle, HostDevice())
    with pytest.raises(BackendError, match=r"router\.onnx, which is not open"):
        backend.route(chunk(1, 8)["context"], np.zeros((1, 12, FEATURES), np.float32))


# ---- faults ----


def test_memory_that_runs_out_is_an_error_and_smaller_batches_go_on(bundle: Bundle, opens: Opens, plain: PlainGraphs) -> None:
    device = HostDevice()
    backend = opens(bundle, device)
    backend.fetch(backend.denoise(0, **chunk(1, 8)))
    device.total = device.used + 2000
    with pytest.raises(BackendError, match=r"failed to run denoiser_0\.onnx on Host GPU \(SM89\): out of memory.* use another backend"):
        backend.denoise(0, **chunk(40, 8))
    assert not backend.lost
    given = chunk(1, 8, seed=4)
    close(backend.fetch(backend.denoise(0, **given)), plain.denoise(0, **given))


def test_a_gpu_that_fails_for_good_is_reported_as_lost_and_can_be_closed(
    bundle: Bundle, opens: Opens, caplog: pytest.LogCaptureFixture
) -> None:
    device = HostDevice()
    backend = opens(bundle, device)
    finish = backend.start_decoding(backend.encode(images(4)))
    device.dead = True
    with pytest.raises(BackendError, match=r"run decoder\.onnx on Host GPU .*illegal memory access.* lost to this process: use ort_cpu"):
        finish()
    assert backend.lost
    with pytest.raises(BackendError, match="illegal memory access"):
        backend.encode(images(4))
    with caplog.at_level(logging.WARNING):
        backend.close()
    assert "did not finish its work" in caplog.text


def test_what_it_runs_on_is_said(backend: GpuBackend) -> None:
    assert backend.device == "Host GPU (SM89)"
    assert backend.name in ("tensorrt", "ort_cuda")
    assert backend.precision == "fp32"
    assert backend.threads == 1


# ---- a real GPU ----


@pytest.mark.parametrize("name", ["tensorrt", "ort_tensorrt", "ort_cuda"])
def test_a_real_gpu_predicts_what_the_cpu_does(bundle: Bundle, plain: PlainGraphs, tmp_path: Any, name: str) -> None:
    reason = available_backends()[name]
    if reason:
        pytest.skip(reason)
    backend = create_backend(bundle, name, precision="fp32", cache=ArtifactCache(tmp_path))
    for batch in (1, 5, 64, 70):
        for length in MANIFEST.segmentation.lengths:
            given = chunk(batch, length, seed=length)
            for _ in range(3):  # the first run, a CUDA graph's first, and its next
                np.testing.assert_allclose(backend.fetch(backend.denoise(0, **given)), plain.denoise(0, **given), atol=1e-3)
    found, expected = (Predictor(bundle, runs).predict(make_snapshot(100), horizon=100, seed=5) for runs in (backend, plain))
    assert np.abs(found.frames.astype(int) - expected.frames).max() <= 1
    backend.close()
