# SPDX-License-Identifier: Apache-2.0
"""What the predictor node loads when it is configured: bundle, topic mapping, and a model that is warm; plain Python."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

from longscape_ros.bags.mapping import load_mapping, mapping_to_dict
from longscape_ros.bundle import Bundle, default_bundle_path, load_bundle
from longscape_ros.contract import NANOSECONDS, PlanExtension, TopicMapping
from longscape_ros.errors import BundleError
from longscape_ros.nodes.parameters import PredictorParameters
from longscape_ros.nodes.pipeline import PipelineConfig
from longscape_ros.runtime.backend import AUTO
from longscape_ros.runtime.backends import available_backends, create_backend
from longscape_ros.runtime.predictor import Predictor

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Model:
    """A model that is ready to predict.

    Args:
        parameters: What it was loaded for.
        bundle: The model on disk.
        mapping: The topics that carry the action.
        predictor: Warm.
        degraded: Whether a better backend should work here, and does not.
    """

    parameters: PredictorParameters
    bundle: Bundle
    mapping: TopicMapping
    predictor: Predictor
    degraded: bool

    @property
    def pipeline_config(self) -> PipelineConfig:
        """How the parameters configure the pipeline."""
        latency_s = self.parameters.image_latency
        return PipelineConfig(
            horizon=self.parameters.horizon,
            plan_extension=PlanExtension(self.parameters.plan_extension),
            image_latency_ns=round(latency_s * NANOSECONDS) if latency_s >= 0 else self.mapping.image_latency_ns,
            degraded=self.degraded,
        )

    def info(self) -> dict[str, Any]:
        """What ``~/model_info`` says."""
        manifest = self.bundle.manifest
        return {
            "model_id": self.bundle.model_id,
            "bundle": str(self.bundle.path),
            "backend": self.predictor.backend.name,
            "threads": self.predictor.backend.threads,
            "degraded": self.degraded,
            "fps": manifest.fps,
            "image_size": list(manifest.image_size),
            "context": manifest.context,
            "horizon": self.parameters.horizon or manifest.horizon,
            "chunk_lengths": list(manifest.segmentation.lengths),
            "experts": manifest.experts.count,
            "sampler_steps": manifest.sampler_steps,
            "actions": [{"name": d.name, "unit": d.unit, "kind": d.kind} for d in manifest.action_space.dimensions],
            "mapping": mapping_to_dict(self.mapping),
            "evaluation": dict(manifest.evaluation),
        }

    def close(self) -> None:
        """Frees the model."""
        self.predictor.backend.close()


def load_model(parameters: PredictorParameters) -> Model:
    """Loads, checks and warms up; takes seconds, and logs what it is doing.

    Raises:
        BundleError: The bundle is damaged, expects other actions than the mapping has, or there is no mapping.
        BackendError: The backend does not work here.
        InputError: The mapping is none.
    """
    path = parameters.bundle or default_bundle_path()
    _log.info("Loading the bundle %s ...", path)
    begin = time.monotonic()
    bundle = load_bundle(path)
    mapping = load_mapping(parameters.mapping) if parameters.mapping else bundle.manifest.mapping
    if mapping is None:
        raise BundleError(
            f"Bundle {bundle.model_id} does not say which topics carry the action, expected a mapping; name one in the parameter 'mapping'."
        )
    bundle.require_actions(dimension.name for dimension in mapping.dimensions)
    backend = create_backend(bundle, parameters.backend, parameters.threads or None)
    _log.info("Warming up %s on %s ...", bundle.model_id, backend.name)
    predictor = Predictor(bundle, backend)
    predictor.warm_up()
    _log.info("%s is ready on %s with %d threads after %.1f s.", bundle.model_id, backend.name, backend.threads, time.monotonic() - begin)
    best = next(name for name, reason in available_backends().items() if not reason)
    return Model(parameters, bundle, mapping, predictor, degraded=parameters.backend == AUTO and backend.name != best)
