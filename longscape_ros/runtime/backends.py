# SPDX-License-Identifier: Apache-2.0
"""Which backends work here, and opening one."""

from __future__ import annotations

import logging

from longscape_ros.bundle import Bundle
from longscape_ros.errors import BackendError, InputError
from longscape_ros.runtime.backend import AUTO, BACKENDS, Backend
from longscape_ros.runtime.cpus import usable_cpus
from longscape_ros.runtime.onnxruntime_backend import PROVIDERS, OnnxRuntimeBackend

MOST_THREADS = 8
"""More threads than this do not speed up graphs this small."""

_LOG = logging.getLogger(__name__)


def available_backends() -> dict[str, str]:
    """Every backend's name, and why it cannot be used here; empty: it can."""
    import onnxruntime

    provided = onnxruntime.get_available_providers()
    reasons = {
        name: "" if provider in provided else f"this onnxruntime has no {provider}; install onnxruntime-gpu instead of onnxruntime"
        for name, provider in PROVIDERS.items()
    }
    return reasons | dict.fromkeys((name for name in BACKENDS if name not in PROVIDERS), "not available in this version of longscape_ros")


def create_backend(bundle: Bundle, name: str = AUTO, threads: int | None = None) -> Backend:
    """Open a bundle's graphs.

    Args:
        bundle: What to run.
        name: A backend, or ``auto`` for the best that works here.
        threads: CPU threads per graph; None: :func:`~longscape_ros.runtime.cpus.usable_cpus`, at most :data:`MOST_THREADS`.

    Raises:
        BackendError: the backend is unknown or does not work here.
        BundleError: a graph does not take or give what the manifest says.
    """
    reasons = available_backends()
    usable = [other for other, reason in reasons.items() if not reason]
    if name not in (AUTO, *reasons):
        raise BackendError(f"Got the backend {name!r}, expected {AUTO} or one of {', '.join(reasons)}.")
    if reasons.get(name):
        raise BackendError(f"Got the backend {name!r}: {reasons[name]}. Use one of {', '.join(usable)}, or {AUTO}.")
    if threads is None:
        threads = min(usable_cpus(), MOST_THREADS)
    if threads < 1:
        raise InputError(f"Got {threads} threads, expected at least 1.")
    candidates = usable if name == AUTO else [name]
    for candidate in candidates[:-1]:
        try:
            return OnnxRuntimeBackend(bundle, candidate, threads)
        except BackendError as error:
            _LOG.warning("The backend %s does not work here, trying the next: %s", candidate, error)
    return OnnxRuntimeBackend(bundle, candidates[-1], threads)
