# SPDX-License-Identifier: Apache-2.0
"""The types that cross borders between the parts. Frozen, validated where they are made, and free of ROS, torch and I/O.

Shapes: H, W image height and width; K context frames; N grid steps; A action dimensions.
Times are integer nanoseconds of the node's clock. The *grid* of a prediction has the bundle's rate f and is anchored at
t0, the stamp of the newest conditioning image: step k ends at t0 + k / f.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from longscape_ros.errors import InputError

NANOSECONDS = 1_000_000_000
"""Nanoseconds in a second."""

ActionKind = Literal["position", "velocity", "delta", "state"]
"""How commands at any rate become one number per grid step:

``position``: an absolute target, sampled at the end of the step; ``velocity``: integrated over the step; ``delta``: summed
over the step; ``state``: the last value, held (grippers and the like).
"""

ACTION_KINDS: tuple[ActionKind, ...] = ("position", "velocity", "delta", "state")


class EndReason(IntEnum):
    """Why a chunk ended. The numbers are those of ``longscape_msgs/PredictedVideo``."""

    MOTION = 0
    GRIPPER = 1
    MAX_LENGTH = 2
    END_OF_PLAN = 3


class Status(IntEnum):
    """State of the predictor when it made a prediction. The numbers are those of ``longscape_msgs/PredictedVideo``."""

    OK = 0
    DEGRADED = 1
    STALE_INPUT = 2


class PlanExtension(str, Enum):
    """What follows the last point of a plan: nothing, or the last command held."""

    NONE = "none"
    HOLD = "hold"


@dataclass(frozen=True, slots=True)
class Frame:
    """One camera image: uint8 RGB [H, W, 3], its stamp, and the optical frame it was taken in."""

    stamp_ns: int
    rgb: NDArray[np.uint8]
    frame_id: str = ""

    def __post_init__(self) -> None:
        if self.rgb.dtype != np.uint8 or self.rgb.ndim != 3 or self.rgb.shape[2] != 3:
            raise InputError(f"Got an image of {self.rgb.dtype} {self.rgb.shape}, expected uint8 [H, W, 3]; convert it to RGB first.")


@dataclass(frozen=True, slots=True)
class ActionDimension:
    """One number of the action, as a bundle declares it.

    Args:
        name: Name in messages, for example a joint's.
        unit: ``m``, ``rad``, ``m/s``, ``1`` ...; for people only.
        kind: See :data:`ActionKind`.
        motion_range: Moving kinds: how far the dimension typically travels within an episode of the training bags, in
            ``unit`` (for velocities: unit times seconds). The chunk rule's threshold is a fraction of it.
        scale: Moving kinds: the typical travel within one longest chunk; states: half the distance between the two ends.
            Model inputs are divided by it.
        midpoint: States: the value halfway between the two ends, where a gripper counts as flipped.
        hysteresis: States: how far beyond the midpoint a value must go to flip, in ``unit``.
        is_gripper: States: whether a flip forces a chunk boundary.
    """

    name: str
    unit: str = "1"
    kind: ActionKind = "position"
    motion_range: float = 1.0
    scale: float = 1.0
    midpoint: float = 0.0
    hysteresis: float = 0.0
    is_gripper: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ACTION_KINDS:
            raise InputError(f"Got kind {self.kind!r} for action {self.name!r}, expected one of {', '.join(ACTION_KINDS)}.")
        for label, value in (("motion_range", self.motion_range), ("scale", self.scale)):
            if not np.isfinite(value) or value <= 0:
                raise InputError(f"Got {label} = {value} for action {self.name!r}, expected a positive number.")
        if self.is_gripper and self.kind != "state":
            raise InputError(f"Action {self.name!r} is a gripper of kind {self.kind!r}; only a 'state' can flip.")

    @property
    def moves(self) -> bool:
        """Whether its accumulated motion counts in the chunk rule (everything but a state)."""
        return self.kind != "state"


@dataclass(frozen=True, slots=True)
class ActionSpace:
    """The action's dimensions, in the order of the model's columns."""

    dimensions: tuple[ActionDimension, ...]

    def __post_init__(self) -> None:
        if not self.dimensions:
            raise InputError("Got an action without dimensions, expected at least one; name them in the topic mapping.")
        if len(set(self.names)) != len(self.names):
            raise InputError(f"Got action names {list(self.names)}, expected each name once.")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(d.name for d in self.dimensions)

    def __len__(self) -> int:
        return len(self.dimensions)


@dataclass(frozen=True, slots=True)
class ChunkRule:
    """Parameters of the action-guided chunk rule (LongScape, arXiv 2509.21790), see :mod:`longscape_ros.segmentation`.

    Args:
        base: Base window in grid steps.
        lengths: Chunk lengths in grid steps, increasing multiples of ``base``.
        threshold: Motion that ends a chunk, as a fraction of a dimension's ``motion_range``.
    """

    base: int = 8
    lengths: tuple[int, ...] = (8, 16, 24, 32)
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if self.base < 1 or not self.lengths or any(length < 1 or length % self.base for length in self.lengths):
            raise InputError(f"Got chunk lengths {list(self.lengths)}, expected multiples of the base window {self.base}.")
        if list(self.lengths) != sorted(set(self.lengths)):
            raise InputError(f"Got chunk lengths {list(self.lengths)}, expected increasing numbers.")
        if not self.threshold > 0:
            raise InputError(f"Got threshold {self.threshold}, expected a positive number.")


NO_ERROR = -8.0
"""What an error estimator is told of a frame that was recorded, not predicted: natural logarithm of the mean square error, 35 dB."""


@dataclass(frozen=True, slots=True)
class Confidence:
    """How a frame's estimated error becomes the probability that the frame is right.

    Args:
        psnr_db: A frame is right if its PSNR is at least this.
        slope: Of the probability's logit over the natural logarithm of the mean square error (pixels from 0 to 1).
        offset: Of the logit.
    """

    psnr_db: float
    slope: float
    offset: float

    def of(self, log_error: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """float32 [...], the probabilities for estimated logarithms [...]."""
        logit = np.clip(self.slope * np.asarray(log_error, np.float64) + self.offset, -60, 60)
        return np.asarray(1 / (1 + np.exp(-logit)), np.float32)


StampSource = Literal["header", "receive"]
"""What dates a message: its header's stamp (zero: when it was received), or when it was received."""


@dataclass(frozen=True, slots=True)
class ActionSource:
    """A topic that carries some of the action's dimensions.

    Args:
        topic: Where it is published.
        type: ROS type, for example ``trajectory_msgs/msg/JointTrajectory``.
        fields: Names in ``ActionSpace`` -> where the value stands in the message. For types with names inside
            (JointTrajectory, JointState) the name there; for the rest a path such as ``twist.linear.x``, ``data`` or
            ``data[2]``.
        stamp: What dates the commands.
    """

    topic: str
    type: str
    fields: dict[str, str]
    stamp: StampSource = "header"


@dataclass(frozen=True, slots=True)
class TopicMapping:
    """Which topics of a robot are the camera and the action, and what the action's dimensions are.

    Args:
        image_topic: The camera.
        action_sources: The topics that carry the action.
        dimensions: The action's.
        fps: Rate of the frames to predict.
        image_type: ROS type of the camera's messages.
        image_latency_ns: How long before the time that dates it an image was really seen.
        image_stamp: What dates the images.
    """

    image_topic: str
    action_sources: tuple[ActionSource, ...]
    dimensions: tuple[ActionDimension, ...]
    fps: float
    image_type: str = "sensor_msgs/msg/Image"
    image_latency_ns: int = 0
    image_stamp: StampSource = "header"

    def __post_init__(self) -> None:
        if not self.fps > 0:
            raise InputError(f"Got fps = {self.fps}, expected a positive rate in Hz.")
        carried = [name for source in self.action_sources for name in source.fields]
        declared = [d.name for d in self.dimensions]
        if sorted(carried) != sorted(declared):
            raise InputError(
                f"The action sources carry {sorted(carried)}, but the dimensions are {sorted(declared)}; "
                "they must be the same names, each once."
            )


@dataclass(frozen=True, slots=True)
class Plan:
    """Commands of some action dimensions from a start time on: a whole trajectory, or a stream's single sample.

    Args:
        received_ns: When it arrived; what decides which of two plans is the newer.
        start_ns: When its execution starts.
        names: The P dimensions it carries.
        times_ns: int64 [N], time of each point relative to ``start_ns``, not decreasing.
        values: float64 [N, P].
        velocities: float64 [N, P] or None; unit per second.
        accelerations: float64 [N, P] or None.
    """

    received_ns: int
    start_ns: int
    names: tuple[str, ...]
    times_ns: NDArray[np.int64]
    values: NDArray[np.float64]
    velocities: NDArray[np.float64] | None = None
    accelerations: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        shape = (len(self.times_ns), len(self.names))
        if shape[0] == 0:
            raise InputError(f"Got a plan of {list(self.names)} without points, expected at least one.")
        for label, array in (("values", self.values), ("velocities", self.velocities), ("accelerations", self.accelerations)):
            if array is None:
                continue
            if array.shape != shape:
                raise InputError(f"Got {label} of shape {array.shape} for {shape[0]} points of {list(self.names)}, expected {shape}.")
            if not np.isfinite(array).all():
                raise InputError(f"Got {label} with NaN or infinity for {list(self.names)}, expected finite numbers; the plan is ignored.")
        if (np.diff(self.times_ns) < 0).any() or self.times_ns[0] < 0:
            raise InputError(
                "Got times from start that decrease or are negative, expected them in order from zero on; the plan is ignored."
            )


@dataclass(frozen=True, slots=True)
class Episode:
    """A recording: the camera's images in the order of their stamps, and all that was commanded.

    Args:
        name: For messages and reports.
        frames: Images as recorded or already resized, all of one size.
        plans: In the order they were received.
        instruction: What the robot was told in words; empty: nothing.
    """

    name: str
    frames: tuple[Frame, ...]
    plans: tuple[Plan, ...]
    instruction: str = ""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A coherent piece of motion, denoised at once.

    Args:
        start: Grid steps from the anchor to the chunk's start; its frames are start + 1 ... start + length.
        length: Steps the model denoises: one of the bundle's chunk lengths.
        valid: Steps of it that are planned; the rest is padding (the last command held) and dropped after decoding.
        reason: Why it ended.
    """

    start: int
    length: int
    valid: int
    reason: EndReason

    def __post_init__(self) -> None:
        if not 0 < self.valid <= self.length or self.start < 0:
            raise InputError(
                f"Got a chunk with start {self.start}, length {self.length}, valid {self.valid}; "
                "expected 0 < valid <= length and start >= 0."
            )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that one prediction depends on; equal snapshots give equal predictions on one backend.

    Args:
        anchor_ns: t0, the stamp of the newest conditioning image.
        context: uint8 [K, H, W, 3], images nearest to t0 - (K - 1) / f ... t0.
        motion: float64 [K + N, A], the action at the grid's steps -(K - 1) ... N. Moving kinds: accumulated motion (for
            positions the commanded value itself); states: the value. Row K - 1 is t0.
        assumed_from: First future step (0 ... N) whose action was assumed, not commanded; N: none.
        plan_stamp_ns: When the newest plan that it contains started; 0: no command at all.
        missing_context: How many context images were missing and repeat a neighbour.
        frame_id: Optical frame of the anchor image.
    """

    anchor_ns: int
    context: NDArray[np.uint8]
    motion: NDArray[np.float64]
    assumed_from: int
    plan_stamp_ns: int = 0
    missing_context: int = 0
    frame_id: str = ""

    def __post_init__(self) -> None:
        if self.context.ndim != 4 or self.context.dtype != np.uint8 or self.context.shape[3] != 3:
            raise InputError(f"Got context of {self.context.dtype} {self.context.shape}, expected uint8 [K, H, W, 3].")
        if self.motion.ndim != 2 or len(self.motion) <= len(self.context):
            raise InputError(
                f"Got motion of shape {self.motion.shape} for {len(self.context)} context frames, expected [K + N, A] with N > 0."
            )

    @property
    def steps(self) -> int:
        """N, the future steps whose action is known or assumed."""
        return len(self.motion) - len(self.context)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the camera will see.

    Args:
        anchor_ns: t0; frame k (from 0) shows the scene at t0 + (k + 1) / f.
        fps: f in Hz.
        frames: uint8 [N, H, W, 3].
        chunks: The cut of the N steps.
        experts: The expert that denoised each chunk.
        assumed_from: First frame whose action was assumed; N: none.
        confidence: float32 [N], the probability that a frame is right, see :class:`Confidence`; NaN where unknown.
        seed: Of the noise.
        model_id: Bundle name and hash.
        status: See :class:`Status`.
        plan_stamp_ns: See :class:`Snapshot`.
        timings_ms: Milliseconds per stage: ``encode``, ``route`` (expert and length), ``denoise``, ``estimate`` (confidence),
            ``decode``, ``graphs`` (all inside the graphs), ``graphs_cpu`` (CPU time of the thread that was inside them), ``total``.
            Between graphs: ``inputs`` (waiting for a chunk's inputs), ``join`` (of the chunks' frames). Beside graphs, where there was a
            CPU for it: ``cut``, ``features``, ``noise`` (what the inputs took). What did not happen is absent.
        frame_id: Optical frame of the anchor image.
        shown: uint8 [H, W, 3], the anchor's image as the autoencoder shows it; None: it was not asked for.
    """

    anchor_ns: int
    fps: float
    frames: NDArray[np.uint8]
    chunks: tuple[Chunk, ...]
    experts: tuple[int, ...]
    assumed_from: int
    confidence: NDArray[np.float32]
    seed: int
    model_id: str
    status: Status = Status.OK
    plan_stamp_ns: int = 0
    timings_ms: dict[str, float] = field(default_factory=dict)
    frame_id: str = ""
    shown: NDArray[np.uint8] | None = None

    def stamps_ns(self) -> NDArray[np.int64]:
        """int64 [N], the time each frame shows."""
        steps = np.arange(1, len(self.frames) + 1)
        return self.anchor_ns + np.round(steps * (NANOSECONDS / self.fps)).astype(np.int64)
