# SPDX-License-Identifier: Apache-2.0
"""ROS messages to contract types and back. Works on rclpy's and on rosbags' message objects alike and imports neither.

Functions that build messages take ``classes``, which gives the class of a type name such as ``sensor_msgs/msg/Image``.
Shapes: H, W image; N frames of a prediction.
"""

from __future__ import annotations

import array
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from longscape_ros.contract import NANOSECONDS, ActionSource, Chunk, EndReason, Frame, Plan, Prediction, StampSource, Status
from longscape_ros.errors import InputError
from longscape_ros.images import decoded, resize_rgb, rgb_of
from longscape_ros.sharing import share

Classes = Callable[[str], type]
Image = NDArray[np.uint8]

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
IMAGE_TYPES = (IMAGE, COMPRESSED_IMAGE)

JOINT_TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
JOINT_STATE = "sensor_msgs/msg/JointState"
CONTROLLER_STATE = "control_msgs/msg/JointTrajectoryControllerState"
ACTION_SEQUENCE = "longscape_msgs/msg/ActionSequence"
PREDICTED_VIDEO = "longscape_msgs/msg/PredictedVideo"

_ENCODERS: dict[str, tuple[str, tuple[int, ...]]] = {
    "png": (".png", (cv2.IMWRITE_PNG_COMPRESSION, 1)),
    "jpeg": (".jpg", (cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)),
}
_SHARED_IMAGES = 8
"""Images that one thread encodes at a time."""

_TYPE_CODES = {"uint8": "B", "uint32": "I", "float32": "f", "float64": "d"}
_PATH_PART = re.compile(r"([A-Za-z_]\w*)((?:\[\d+\])*)")


# ---- time ----


def nanoseconds(stamp: Any) -> int:
    """builtin_interfaces Time or Duration -> nanoseconds."""
    return int(stamp.sec) * NANOSECONDS + int(stamp.nanosec)


def time_message(time_ns: int, classes: Classes) -> Any:
    """Nanoseconds since the epoch -> builtin_interfaces/Time."""
    return classes("builtin_interfaces/msg/Time")(sec=time_ns // NANOSECONDS, nanosec=time_ns % NANOSECONDS)


def duration_message(duration_ns: int, classes: Classes) -> Any:
    """Nanoseconds -> builtin_interfaces/Duration."""
    return classes("builtin_interfaces/msg/Duration")(sec=duration_ns // NANOSECONDS, nanosec=duration_ns % NANOSECONDS)


def header_message(stamp_ns: int, frame_id: str, classes: Classes) -> Any:
    """std_msgs/Header."""
    return classes("std_msgs/msg/Header")(stamp=time_message(stamp_ns, classes), frame_id=frame_id)


# ---- images in ----


def frame_from_message(
    message: Any, type_name: str, received_ns: int, stamp: StampSource = "header", image_size: tuple[int, int] | None = None
) -> Frame:
    """sensor_msgs/Image or CompressedImage -> frame. The node and all that reads recordings for the model go through here.

    Args:
        message: The message.
        type_name: Its type.
        received_ns: When it arrived; stands in for a stamp of zero.
        stamp: What dates the frame.
        image_size: (H, W) to cut and scale the image to; None: as it was sent.

    Raises:
        InputError: The type is neither of the two, or the image cannot be decoded.
    """
    if type_name == IMAGE:
        frame = frame_from_image(message, received_ns, image_size)
    elif type_name == COMPRESSED_IMAGE:
        frame = frame_from_compressed(message, received_ns, image_size)
    else:
        raise InputError(f"Got images of type {type_name}, expected {' or '.join(IMAGE_TYPES)}; correct the topic mapping.")
    return frame if stamp == "header" else replace(frame, stamp_ns=received_ns)


def frame_from_image(message: Any, received_ns: int, image_size: tuple[int, int] | None = None) -> Frame:
    """sensor_msgs/Image of one of :data:`longscape_ros.images.ENCODINGS`; rows may be padded. See :func:`frame_from_message`."""
    return _frame(message, received_ns, rgb_of(message), image_size)


def frame_from_compressed(message: Any, received_ns: int, image_size: tuple[int, int] | None = None) -> Frame:
    """sensor_msgs/CompressedImage in PNG, JPEG or whatever else OpenCV reads. See :func:`frame_from_message`."""
    return _frame(message, received_ns, decoded(np.frombuffer(message.data, np.uint8), message.format, image_size), image_size)


def _frame(message: Any, received_ns: int, rgb: Image, image_size: tuple[int, int] | None) -> Frame:
    sized = rgb if image_size is None else resize_rgb(rgb, image_size)
    return Frame(_stamp_ns(message, received_ns), sized, str(message.header.frame_id))


def _stamp_ns(message: Any, received_ns: int) -> int:
    return nanoseconds(message.header.stamp) or received_ns


# ---- commands in ----


def plan_from_message(message: Any, source: ActionSource, received_ns: int) -> Plan:
    """A command of any supported type -> plan of the dimensions that the source names.

    JointTrajectory (whole trajectories; without positions its velocities are the values), ActionSequence, JointState and
    JointTrajectoryControllerState carry names inside; of any other type the values are found by path. A stamp of zero, a source
    whose ``stamp`` is ``receive``, and a message without a header start when received.

    Args:
        message: The message.
        source: What to take from it.
        received_ns: When it arrived.

    Raises:
        InputError: A name or field is missing, the points do not fit, or a value is not finite.
    """
    start_ns = received_ns
    if source.stamp == "header" and hasattr(message, "header"):
        start_ns = _stamp_ns(message, received_ns)
    if source.type == JOINT_TRAJECTORY:
        return _plan_of_points(list(message.joint_names), message.points, source, received_ns, start_ns)
    if source.type == ACTION_SEQUENCE:
        return _plan_of_sequence(message, source, received_ns, start_ns)
    values = _sample(message, source)
    try:
        row = np.array([[float(value) for value in values]])
    except (TypeError, ValueError) as error:
        raise InputError(f"Got {values!r} on {source.topic}, expected numbers at {list(source.fields.values())}.") from error
    return Plan(received_ns, start_ns, tuple(source.fields), np.zeros(1, np.int64), row)


def _plan_of_points(names: Sequence[str], points: Sequence[Any], source: ActionSource, received_ns: int, start_ns: int) -> Plan:
    columns = _columns(names, source)
    if not points:
        raise InputError(f"Got a trajectory without points on {source.topic}, expected at least one; it is ignored.")
    times = np.array([nanoseconds(point.time_from_start) for point in points], np.int64)
    tables = {}
    for field in ("positions", "velocities", "accelerations"):
        rows = [getattr(point, field) for point in points]
        if all(len(row) == len(names) for row in rows):
            tables[field] = np.array(rows, np.float64)[:, columns]
        elif field == "positions" and any(len(row) for row in rows):
            lengths = sorted({len(row) for row in rows})
            raise InputError(f"Got points with {lengths} positions on {source.topic}, expected {len(names)}, one per joint; it is ignored.")
    values = tables.get("positions", tables.get("velocities"))
    if values is None:
        raise InputError(f"Got points with neither positions nor velocities on {source.topic}, expected one of them; it is ignored.")
    velocities = tables.get("velocities") if "positions" in tables else None
    accelerations = tables.get("accelerations") if velocities is not None else None
    return Plan(received_ns, start_ns, tuple(source.fields), times, values, velocities, accelerations)


def _plan_of_sequence(message: Any, source: ActionSource, received_ns: int, start_ns: int) -> Plan:
    names = list(message.names)
    columns = _columns(names, source)
    times = np.array([nanoseconds(time) for time in message.time_from_start], np.int64)
    values = np.asarray(message.values, np.float64)
    if values.size != len(times) * len(names):
        raise InputError(
            f"Got {values.size} values for {len(times)} times and {len(names)} names on {source.topic}, "
            f"expected {len(times) * len(names)}, row by row; it is ignored."
        )
    return Plan(received_ns, start_ns, tuple(source.fields), times, values.reshape(len(times), len(names))[:, columns])


def _sample(message: Any, source: ActionSource) -> list[Any]:
    """The values of a stream's message, in the order of the source's fields."""
    if source.type == JOINT_STATE:
        return _pick(list(message.name), message.position, source)
    if source.type == CONTROLLER_STATE:
        point = message.reference if hasattr(message, "reference") else message.desired
        return _pick(list(message.joint_names), point.positions, source)
    return [_at(message, path, source.topic) for path in source.fields.values()]


def _pick(names: Sequence[str], values: Sequence[float], source: ActionSource) -> list[float]:
    columns = _columns(names, source)
    if len(values) != len(names):
        raise InputError(f"Got {len(values)} values for {len(names)} names on {source.topic}, expected as many; it is ignored.")
    return [values[column] for column in columns]


def _columns(names: Sequence[str], source: ActionSource) -> list[int]:
    wanted = list(source.fields.values())
    if missing := [name for name in wanted if name not in names]:
        raise InputError(f"Got {list(names)} on {source.topic}, expected {missing} among them; correct the topic mapping.")
    return [names.index(name) for name in wanted]


def _at(message: Any, path: str, topic: str) -> Any:
    """The value at a path such as ``twist.linear.x`` or ``data[2]``."""
    value = message
    for part in path.split("."):
        match = _PATH_PART.fullmatch(part)
        if match is None:
            raise InputError(f"Got the field {path!r} for {topic}, expected names and indices such as twist.linear.x or data[2].")
        try:
            value = getattr(value, match[1])
            for index in re.findall(r"\d+", match[2]):
                value = value[int(index)]
        except (AttributeError, IndexError, TypeError) as error:
            raise InputError(f"Got a message on {topic} without {path!r} ({error}); correct the topic mapping.") from error
    return value


# ---- images out ----


def image_message(rgb: Image, stamp_ns: int, frame_id: str, classes: Classes) -> Any:
    """uint8 [H, W, 3] -> sensor_msgs/Image in rgb8."""
    height, width = rgb.shape[:2]
    kind = classes(IMAGE)
    return kind(
        header=header_message(stamp_ns, frame_id, classes),
        height=height,
        width=width,
        encoding="rgb8",
        is_bigendian=0,
        step=3 * width,
        data=number_sequence(kind, "uint8", np.ascontiguousarray(rgb).reshape(-1)),
    )


def compressed_message(rgb: Image, stamp_ns: int, frame_id: str, classes: Classes, format: str = "png") -> Any:
    """uint8 [H, W, 3] -> sensor_msgs/CompressedImage.

    Args:
        rgb: The image.
        stamp_ns: Its stamp.
        frame_id: Its optical frame.
        classes: See the module's text.
        format: ``png`` (lossless) or ``jpeg`` (quality 95, full colour resolution; about half the size).

    Raises:
        InputError: There is no such format.
    """
    return _compressed_messages(encode_images(rgb[np.newaxis], format), [stamp_ns], frame_id, classes, format)[0]


def _compressed_messages(data: Sequence[Image], stamps_ns: Sequence[int], frame_id: str, classes: Classes, format_name: str) -> list[Any]:
    """sensor_msgs/CompressedImage of images that are encoded; a prediction has many, so nothing is looked up twice."""
    kind, header, time = classes(COMPRESSED_IMAGE), classes("std_msgs/msg/Header"), classes("builtin_interfaces/msg/Time")
    text = f"rgb8; {format_name} compressed bgr8"
    return [
        kind(
            header=header(stamp=time(sec=stamp_ns // NANOSECONDS, nanosec=stamp_ns % NANOSECONDS), frame_id=frame_id),
            format=text,
            data=number_sequence(kind, "uint8", encoded),
        )
        for encoded, stamp_ns in zip(data, stamps_ns, strict=True)
    ]


def encode_images(frames: Image, format: str) -> list[Image]:
    """Images uint8 [N, H, W, 3] -> the bytes of each; see :func:`compressed_message`."""
    if format not in _ENCODERS:
        raise InputError(f"Got the image format {format!r}, expected one of {', '.join(_ENCODERS)}.")
    parts = [frames[start : start + _SHARED_IMAGES] for start in range(0, len(frames), _SHARED_IMAGES)]
    return [image for encoded in share(lambda part: [_encode(rgb, format) for rgb in part], parts) for image in encoded]


def _encode(rgb: Image, format: str) -> Image:
    extension, options = _ENCODERS[format]
    done, data = cv2.imencode(extension, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)
    assert done, "PNG and JPEG take every uint8 RGB image"
    return np.asarray(data, np.uint8).reshape(-1)


def scaled_camera_info(message: Any, image_size: tuple[int, int], stamp_ns: int, classes: Classes) -> Any:
    """The camera_info of an image that was cut to its centre and scaled as :func:`longscape_ros.images.resize_rgb` does.

    Args:
        message: sensor_msgs/CameraInfo of the camera.
        image_size: H, W of the predicted images.
        stamp_ns: The new stamp.
        classes: See the module's text.
    """
    kind = classes("sensor_msgs/msg/CameraInfo")
    height, width = image_size
    scale = min(message.height / height, message.width / width) or 1.0
    top, left = (message.height - round(height * scale)) // 2, (message.width - round(width * scale)) // 2
    to_scaled = np.array(  # pixel centres lie at whole numbers
        [[1 / scale, 0, (0.5 - left) / scale - 0.5], [0, 1 / scale, (0.5 - top) / scale - 0.5], [0, 0, 1]]
    )
    intrinsics = np.asarray(message.k, np.float64).reshape(3, 3)
    projection = np.asarray(message.p, np.float64).reshape(3, 4)
    return kind(
        header=header_message(stamp_ns, str(message.header.frame_id), classes),
        height=height,
        width=width,
        distortion_model=message.distortion_model,
        d=number_sequence(kind, "float64", np.asarray(message.d, np.float64)),
        k=(to_scaled @ intrinsics).ravel(),
        r=np.asarray(message.r, np.float64),
        p=(to_scaled @ projection).ravel(),
        binning_x=0,
        binning_y=0,
        roi=classes("sensor_msgs/msg/RegionOfInterest")(x_offset=0, y_offset=0, height=0, width=0, do_rectify=False),
    )


# ---- predictions ----


def prediction_to_message(prediction: Prediction, classes: Classes, format: str = "jpeg") -> Any:
    """Prediction -> longscape_msgs/PredictedVideo.

    ``chunk_lengths`` are the frames of each chunk that are in the message, so that they add up to N.

    Args:
        prediction: The prediction.
        classes: See the module's text.
        format: Of the frames, see :func:`compressed_message`.
    """
    kind = classes(PREDICTED_VIDEO)
    stamps = prediction.stamps_ns().tolist()
    images = encode_images(prediction.frames, format)
    frame_id = prediction.frame_id
    chunks = prediction.chunks
    return kind(
        header=header_message(prediction.anchor_ns, frame_id, classes),
        requester_id="",
        request_id="",
        candidate_id=0,
        status=int(prediction.status),
        model_id=prediction.model_id,
        seed=prediction.seed,
        plan_stamp=time_message(prediction.plan_stamp_ns, classes),
        compute_time=duration_message(round(1e6 * prediction.timings_ms.get("total", 0.0)), classes),
        frames=_compressed_messages(images, stamps, frame_id, classes, format),
        assumed_from=prediction.assumed_from,
        chunk_lengths=number_sequence(kind, "uint32", np.array([chunk.valid for chunk in chunks], np.uint32)),
        chunk_experts=number_sequence(kind, "uint8", np.array(prediction.experts, np.uint8)),
        chunk_end_reasons=number_sequence(kind, "uint8", np.array([int(chunk.reason) for chunk in chunks], np.uint8)),
        confidence=number_sequence(kind, "float32", prediction.confidence.astype(np.float32)),
    )


def prediction_from_message(message: Any) -> Prediction:
    """longscape_msgs/PredictedVideo -> prediction; the rate follows from the frames' stamps, a chunk's length is its frames.

    Raises:
        InputError: It has no frames, or its parts do not fit together.
    """
    if not message.frames:
        raise InputError("Got a predicted video without frames, expected at least one.")
    anchor_ns = nanoseconds(message.header.stamp)
    lengths = [int(length) for length in message.chunk_lengths]
    count = len(message.frames)
    if sum(lengths) != count or not len(lengths) == len(message.chunk_experts) == len(message.chunk_end_reasons):
        raise InputError(
            f"Got {count} frames in chunks of {lengths} with {len(message.chunk_experts)} experts and "
            f"{len(message.chunk_end_reasons)} end reasons, expected lengths that add up to the frames, and one of each per chunk."
        )
    span_ns = nanoseconds(message.frames[-1].header.stamp) - anchor_ns
    if span_ns <= 0:
        raise InputError("Got predicted frames that are not later than the anchor, expected stamps after it.")
    starts = np.cumsum([0, *lengths[:-1]]).tolist()
    reasons = [EndReason(int(reason)) for reason in message.chunk_end_reasons]
    return Prediction(
        anchor_ns=anchor_ns,
        fps=round(count * NANOSECONDS / span_ns, 6),
        frames=np.stack([frame_from_compressed(frame, anchor_ns).rgb for frame in message.frames]),
        chunks=tuple(Chunk(start, n, n, reason) for start, n, reason in zip(starts, lengths, reasons, strict=True)),
        experts=tuple(int(expert) for expert in message.chunk_experts),
        assumed_from=int(message.assumed_from),
        confidence=np.asarray(message.confidence, np.float32),
        seed=int(message.seed),
        model_id=str(message.model_id),
        status=Status(int(message.status)),
        plan_stamp_ns=nanoseconds(message.plan_stamp),
        timings_ms={"total": nanoseconds(message.compute_time) / 1e6},
        frame_id=str(message.header.frame_id),
    )


def filmstrip(prediction: Prediction, columns: int = 8) -> Image:
    """The prediction's frames, evenly spread in time, beside each other: uint8 [H, columns * W, 3].

    Columns that it has no frames for are black; the last column shows the last frame.
    """
    frames = prediction.frames
    height, width = frames.shape[1:3]
    strip = np.zeros((height, columns * width, 3), np.uint8)
    shown = min(columns, len(frames))
    for column in range(shown):
        index = math.ceil((column + 1) * len(frames) / shown) - 1
        strip[:, column * width : (column + 1) * width] = frames[index]
    return strip


def number_sequence(kind: type, dtype: str, values: NDArray[Any]) -> Any:
    """A number sequence as the class wants it: rclpy's classes take array.array at once and check all else item by item."""
    if hasattr(kind, "get_fields_and_field_types"):
        return array.array(_TYPE_CODES[dtype], np.ascontiguousarray(values).tobytes())
    return values
