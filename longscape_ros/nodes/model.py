# SPDX-License-Identifier: Apache-2.0
"""What the predictor node loads when it is configured: bundle, topic mapping, and a model that is warm; plain Python."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import Any

from longscape_ros.bags.mapping import load_mapping, mapping_to_dict
from longscape_ros.bundle import Bundle, find_bundle, load_bundle
from longscape_ros.contract import NANOSECONDS, PlanExtension, TopicMapping
from longscape_ros.errors import BackendError, BundleError, InputError
from longscape_ros.nodes.parameters import AS_MAPPED, PredictorParameters
from longscape_ros.nodes.pipeline import PipelineConfig
from longscape_ros.runtime.backends import Ladder
from longscape_ros.runtime.fallback import Condition, Serving
from longscape_ros.runtime.kinds import Wanted
from longscape_ros.runtime.predictor import Predictor

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Model:
    """A model that is ready to predict.

    Args:
        parameters: What it was loaded for.
        bundle: The model on disk.
        mapping: The topics that carry the action, with what the parameters say in place of what it said.
        serving: What runs it.
    """

    parameters: PredictorParameters
    bundle: Bundle
    mapping: TopicMapping
    serving: Serving

    @property
    def predictor(self) -> Predictor:
        """Warm."""
        return self.serving.predictor

    @property
    def condition(self) -> Condition:
        """What runs it now, and why nothing better does."""
        return self.serving.condition

    @property
    def pipeline_config(self) -> PipelineConfig:
        """How the parameters configure the pipeline."""
        return PipelineConfig(
            horizon=self.parameters.horizon,
            plan_extension=PlanExtension(self.parameters.plan_extension),
            image_latency_ns=self.mapping.image_latency_ns,
        )

    def info(self) -> dict[str, Any]:
        """What ``~/model_info`` says."""
        manifest, condition = self.bundle.manifest, self.condition
        return {
            "model_id": self.bundle.model_id,
            "bundle": str(self.bundle.path),
            "backend": condition.backend,
            "precision": condition.precision,
            "device": condition.device,
            "threads": condition.threads,
            "cuda_graphs": condition.uses_cuda_graphs,
            "degraded": condition.degraded,
            "cause": condition.cause,
            "not_used": condition.refused,
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
        """Frees the model, and ends what is being built for it."""
        self.serving.close()


def load_model(parameters: PredictorParameters) -> Model:
    """Loads, checks and warms up; takes seconds, and logs what it is doing.

    Engines that are missing are built meanwhile and afterwards, by another process.

    Raises:
        BundleError: The bundle is damaged, expects other actions than the mapping has, or there is no mapping.
        BackendError: The backend does not work here.
        InputError: The mapping is none, it has fewer topics than are to be replaced, or the backend has not the precision.
    """
    path = find_bundle(parameters.bundle)
    _log.info("Loading the bundle %s ...", path)
    begin = time.monotonic()
    bundle = load_bundle(path)
    mapping = load_mapping(parameters.mapping) if parameters.mapping else bundle.manifest.mapping
    if mapping is None:
        raise BundleError(
            f"Bundle {bundle.model_id} does not say which topics carry the action, expected a mapping; name one in the parameter 'mapping'."
        )
    mapping = with_parameters(mapping, parameters)
    bundle.require_actions(dimension.name for dimension in mapping.dimensions)
    _log.info("Warming up %s ...", bundle.model_id)
    serving = Serving(bundle, wanted_of(parameters))
    how = serving.condition
    _log.info(
        "%s is ready on %s in %s with %d threads after %.1f s.",
        *(bundle.model_id, how.backend, how.precision, how.threads, time.monotonic() - begin),
    )
    return Model(parameters, bundle, mapping, serving)


def build_model(parameters: PredictorParameters) -> str:
    """Builds the engines that are missing, loads and warms up, and frees all again; what came out of it, in words.

    Raises:
        BackendError: Engines cannot be built, or a backend that should work here does not.
        BundleError: See :func:`load_model`; so is InputError.
    """
    ladder = Ladder(load_bundle(find_bundle(parameters.bundle)), wanted_of(parameters))
    if ladder.lacks_engines:
        ladder.build()
    model = load_model(parameters)
    how = model.condition
    model.close()
    if how.degraded:
        raise BackendError(f"{model.bundle.model_id} runs on {how.backend} only, expected a better backend to work here: {how.cause}")
    return f"{model.bundle.model_id} is built: it runs on {how.backend} in {how.precision} ({how.device})."


def with_parameters(mapping: TopicMapping, parameters: PredictorParameters) -> TopicMapping:
    """The mapping with what the parameters say instead of it: topics of the action, and what dates the images.

    Raises:
        InputError: See :func:`with_topics`.
    """
    mapping = with_topics(mapping, parameters.action_topics)
    if parameters.image_stamp != AS_MAPPED:
        mapping = replace(mapping, image_stamp="receive" if parameters.image_stamp == "receive" else "header")
    if parameters.image_latency >= 0:
        mapping = replace(mapping, image_latency_ns=round(parameters.image_latency * NANOSECONDS))
    return mapping


def with_topics(mapping: TopicMapping, topics: str) -> TopicMapping:
    """The mapping with other topics for its action sources.

    Args:
        mapping: As it was written.
        topics: Names in the order of the sources, with commas between them; those left out or empty stay as they are.

    Raises:
        InputError: There are more topics than sources.
    """
    names = [name.strip() for name in topics.split(",")]
    sources = mapping.action_sources
    if len(names) > len(sources):
        raise InputError(
            f"Got {len(names)} action topics ({topics}), expected at most {len(sources)}, in place of "
            f"{', '.join(source.topic for source in sources)}; correct the parameter 'action_topics', or name another mapping."
        )
    names += [""] * (len(sources) - len(names))
    renamed = tuple(replace(source, topic=name or source.topic) for source, name in zip(sources, names, strict=True))
    return replace(mapping, action_sources=renamed)


def wanted_of(parameters: PredictorParameters) -> Wanted:
    """What the parameters say of backends."""
    return Wanted(parameters.backend, parameters.precision, parameters.threads or None, parameters.use_cuda_graph)
