# SPDX-License-Identifier: Apache-2.0
"""The predictor node's parameters: each declared once, with its type, description, range and when it may change.

A parameter is *fixed* once the node runs (read-only), *configured* (a change needs a cleaned-up node, for it takes effect when the
node is configured), or *live* (a change takes effect with the next image).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, get_args

from longscape_ros.contract import PlanExtension, StampSource
from longscape_ros.errors import InputError
from longscape_ros.host import declare_as, message_class
from longscape_ros.messages import IMAGE, IMAGE_TYPES
from longscape_ros.runtime.backend import AUTO, BACKENDS, PRECISIONS
from longscape_ros.runtime.surprise import DEFAULT_THRESHOLD

AS_MAPPED = "mapping"
"""The value of ``image_stamp`` that leaves it to the mapping."""

_SPEC = "parameter"


class Change(Enum):
    """When a parameter may change."""

    FIXED = "fixed"
    CONFIGURED = "configured"
    LIVE = "live"


@dataclass(frozen=True, slots=True)
class Spec:
    """How a parameter is declared.

    Args:
        name: Its ROS name.
        default: Its default; its type is the parameter's.
        description: For people.
        low: The least value, of a number.
        high: The largest.
        choices: The values that a text may have; empty: any.
        change: When it may change.
    """

    name: str
    default: bool | int | float | str
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    change: Change = Change.CONFIGURED

    @property
    def text(self) -> str:
        """The description, with the choices and the default's meaning to tools that show no more than a text."""
        return f"{self.description} One of: {', '.join(self.choices)}." if self.choices else self.description

    def refusal(self, value: Any) -> str:
        """Why a value of the right type cannot be taken; empty: it can."""
        if self.choices and value not in self.choices:
            return f"Got {self.name} = {value!r}, expected one of {', '.join(self.choices)}."
        return ""


def _parameter(
    name: str,
    default: bool | int | float | str,
    description: str,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    change: Change = Change.CONFIGURED,
) -> Any:
    return field(default=default, metadata={_SPEC: Spec(name, default, description, low, high, choices, change)})


@dataclass(frozen=True, slots=True)
class PredictorParameters:
    """The parameters' values. Times are in seconds, as ROS users expect them."""

    autostart: bool = _parameter(
        "autostart", True, "Whether the node configures and activates itself, or waits for a lifecycle manager.", change=Change.FIXED
    )
    bundle: str = _parameter(
        "model.bundle",
        "",
        "Folder of the model bundle, or the name of one that ships with the package; empty: default.",
    )
    backend: str = _parameter("model.backend", AUTO, "What runs the model; auto takes the best that works here.", choices=(AUTO, *BACKENDS))
    precision: str = _parameter(
        "model.precision",
        AUTO,
        "What the model computes in; auto takes the fastest that the bundle's export found to predict the same. The CPU has fp32 and int8, "
        "GPUs have fp32 and fp16.",
        choices=(AUTO, *PRECISIONS),
    )
    use_cuda_graph: bool = _parameter(
        "model.use_cuda_graph", True, "Whether a GPU's work is recorded once and then queued as a whole; without effect on the CPU."
    )
    build_only: bool = _parameter(
        "build_only",
        False,
        "Load the model, build the engines that it lacks, warm it up, and end the process: with exit status 0 if the best backend works.",
        change=Change.FIXED,
    )
    threads: int = _parameter("model.threads", 0, "CPU threads per graph; 0: as many as there are CPUs, at most 8.", low=0, high=256)
    mapping: str = _parameter(
        "mapping",
        "",
        "Which topics carry the commanded action: a YAML file, or the name of a mapping that ships with the package; empty: what the "
        "bundle says of the robot that it was trained on.",
    )
    action_topics: str = _parameter(
        "action_topics",
        "",
        "Topics of the commanded action in place of the mapping's, in the order of its action_sources, with commas between them; those "
        "left out or empty stay as they are.",
    )
    image_type: str = _parameter("image_type", IMAGE, "Type of ~/input/image.", choices=IMAGE_TYPES)
    input_qos: str = _parameter(
        "input_qos",
        "sensor_data",
        "Quality of service of ~/input/image: best effort with 5 images kept, or reliable, for a camera that is.",
        choices=("sensor_data", "reliable"),
    )
    command_qos: str = _parameter(
        "command_qos",
        "reliable",
        "Quality of service of the command topics; a best-effort publisher needs a best-effort subscription.",
        choices=("reliable", "best_effort"),
    )
    output_qos: str = _parameter(
        "output_qos",
        "reliable",
        "Quality of service of the predictions, the newest one kept. RViz subscribes reliably.",
        choices=("reliable", "best_effort"),
    )
    horizon: int = _parameter("horizon", 0, "Future frames to predict; 0: as many as the bundle says.", low=0, high=1024)
    plan_extension: str = _parameter(
        "plan_extension",
        PlanExtension.HOLD.value,
        "What follows the last commanded point: hold goes on with the last command and marks those frames as assumed, none ends the "
        "prediction there. Streams of single commands need hold.",
        choices=tuple(extension.value for extension in PlanExtension),
    )
    image_stamp: str = _parameter(
        "image_stamp",
        AS_MAPPED,
        "What dates an image: header, its stamp; receive, when it is received, for a camera whose clock is not synchronized; mapping, "
        "what the mapping says.",
        choices=(AS_MAPPED, *get_args(StampSource)),
    )
    image_latency: float = _parameter(
        "image_latency",
        -1.0,
        "Seconds from the moment a scene is seen to the time that dates its image (image_stamp); negative: as the mapping says.",
        low=-1.0,
        high=10.0,
    )
    prediction_rate: float = _parameter(
        "prediction_rate", 0.0, "Most predictions per second of camera time; 0: one per image, as far as the model keeps up.",
        low=0.0, high=1000.0, change=Change.LIVE,
    )  # fmt: skip
    incoming_command_timeout: float = _parameter(
        "incoming_command_timeout", 0.5,
        "Seconds after which a silent stream of velocities or deltas is stale; predictions then say STATUS_STALE_INPUT. 0: never.",
        low=0.0, high=3600.0, change=Change.LIVE,
    )  # fmt: skip
    image_timeout: float = _parameter(
        "image_timeout", 1.0,
        "Age in seconds from which on an image is stale when it arrives; predictions then say STATUS_STALE_INPUT. 0: never.",
        low=0.0, high=3600.0, change=Change.LIVE,
    )  # fmt: skip
    surprise_threshold: float = _parameter(
        "surprise.threshold", DEFAULT_THRESHOLD,
        "An image is a surprise if, in its worst patch or as a whole, it is more than so many times as far from what was predicted for "
        "its moment as is to be expected, and so was the image before. 0: nothing is compared.",
        low=0.0, high=1000.0, change=Change.LIVE,
    )  # fmt: skip
    image_step: int = _parameter(
        "image_step", 0, "Future frame that ~/prediction/image shows, from 1 on; 0: the last.", low=0, high=1024, change=Change.LIVE
    )
    filmstrip_columns: int = _parameter(
        "filmstrip_columns", 8, "Frames beside each other in ~/prediction/filmstrip.", low=1, high=64, change=Change.LIVE
    )
    prediction_format: str = _parameter(
        "prediction_format", "jpeg", "How the frames of ~/prediction are compressed; png is lossless, and two to four times as large.",
        choices=("jpeg", "png"), change=Change.LIVE,
    )  # fmt: skip
    diagnostics_period: float = _parameter(
        "diagnostic_updater.period", 1.0, "Seconds between two messages on /diagnostics.", low=0.05, high=3600.0, change=Change.FIXED
    )
    diagnostics_use_fqn: bool = _parameter(
        "diagnostic_updater.use_fqn",
        False,
        "Whether diagnostics name the node with its namespace, to tell robots apart.",
        change=Change.FIXED,
    )


def specs() -> tuple[Spec, ...]:
    """Every parameter's declaration."""
    return tuple(f.metadata[_SPEC] for f in dataclasses.fields(PredictorParameters))


def declare(node: Any) -> PredictorParameters:
    """Declares every parameter on an rclpy node; their values.

    Raises:
        InputError: One was given a value that does not fit.
    """
    for spec in specs():
        declare_as(node, spec.name, spec.default, _descriptor(spec))
    return read(node)


def read(node: Any) -> PredictorParameters:
    """The parameters' present values.

    Raises:
        InputError: A text is none of its choices.
    """
    values = {}
    for f in dataclasses.fields(PredictorParameters):
        spec = f.metadata[_SPEC]
        values[f.name] = node.get_parameter(spec.name).value
        if refusal := spec.refusal(values[f.name]):
            raise InputError(refusal)
    return PredictorParameters(**values)


def changed(values: PredictorParameters, parameters: Iterable[Any]) -> PredictorParameters:
    """The values with those of some parameters (objects with a name and a value) in their place; other nodes' names are left out."""
    fields = {f.metadata[_SPEC].name: f.name for f in dataclasses.fields(PredictorParameters)}
    return dataclasses.replace(values, **{fields[p.name]: p.value for p in parameters if p.name in fields})


def same_model(one: PredictorParameters, other: PredictorParameters) -> bool:
    """Whether a model that was loaded for the one is right for the other: they differ only in what is live."""
    live = {f.name for f in dataclasses.fields(PredictorParameters) if f.metadata[_SPEC].change is Change.LIVE}
    return dataclasses.replace(one, **{name: getattr(other, name) for name in live}) == other


def refusal(parameters: Iterable[Any], configured: PredictorParameters | None) -> str:
    """Why parameters (objects with a name and a value) cannot be set now; empty: they can.

    Args:
        parameters: What is to be set.
        configured: What the node is configured with, active or not; None: it is not configured.
    """
    fields = {f.metadata[_SPEC].name: f for f in dataclasses.fields(PredictorParameters)}
    for parameter in parameters:
        if parameter.name not in fields:
            continue
        spec: Spec = fields[parameter.name].metadata[_SPEC]
        if reason := spec.refusal(parameter.value):
            return reason
        unchanged = configured is None or parameter.value == getattr(configured, fields[parameter.name].name)
        if not unchanged and spec.change is Change.CONFIGURED:  # the same value is no change: ros2 param load of what was dumped
            return f"{spec.name} takes effect when the node is configured; deactivate it and clean it up first (ros2 lifecycle set)."
    return ""


def _descriptor(spec: Spec) -> Any:
    descriptor: Any = message_class("rcl_interfaces/msg/ParameterDescriptor")()
    descriptor.description = spec.text
    descriptor.read_only = spec.change is Change.FIXED
    if spec.low is not None and spec.high is not None:
        if isinstance(spec.default, int):
            kind = message_class("rcl_interfaces/msg/IntegerRange")
            descriptor.integer_range = [kind(from_value=int(spec.low), to_value=int(spec.high), step=1)]
        else:
            kind = message_class("rcl_interfaces/msg/FloatingPointRange")
            descriptor.floating_point_range = [kind(from_value=spec.low, to_value=spec.high, step=0.0)]
    return descriptor
