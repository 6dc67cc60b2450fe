# SPDX-License-Identifier: Apache-2.0
"""Messages to contract types and back, with rosbags' classes and with rclpy's."""

from __future__ import annotations

import array
import io
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image as PillowImage

import longscape_ros
from longscape_ros.bags.writer import bag_store, bag_types
from longscape_ros.contract import ActionSource, Chunk, EndReason, Prediction, Status
from longscape_ros.embedded.messages import TypeLibrary
from longscape_ros.errors import InputError
from longscape_ros.images import resize_rgb
from longscape_ros.messages import (
    COMPRESSED_IMAGE,
    IMAGE,
    JOINT_STATE,
    JOINT_TRAJECTORY,
    compressed_message,
    duration_message,
    encode_images,
    filmstrip,
    frame_from_compressed,
    frame_from_image,
    frame_from_message,
    image_message,
    nanoseconds,
    plan_from_message,
    prediction_from_message,
    prediction_to_message,
    scaled_camera_info,
    time_message,
)

TYPES = bag_types()
STAMP_NS = 1_700_000_000_123_456_789


@pytest.fixture(params=["rosbags", "rclpy"])
def classes(request):
    """The message classes of a recording, and those that behave like rclpy's."""
    if request.param == "rosbags":
        return TYPES
    return rclpy_types().message_class


def rclpy_types() -> TypeLibrary:
    """Classes that behave like rclpy's."""
    library = TypeLibrary()
    library.add_folder(Path(longscape_ros.__file__).parent / "interfaces")
    return library


def picture(height: int = 6, width: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def raw_image(rgb: np.ndarray, encoding: str, data: np.ndarray, step: int) -> SimpleNamespace:
    header = SimpleNamespace(stamp=SimpleNamespace(sec=1, nanosec=5), frame_id="lens")
    height, width = rgb.shape[:2]
    return SimpleNamespace(
        header=header, height=height, width=width, encoding=encoding, is_bigendian=0, step=step, data=array.array("B", data.tobytes())
    )


def test_several_images_are_encoded_to_the_same_bytes_as_one_by_one():
    frames = np.stack([picture(16, 24, seed=k) for k in range(20)])
    for format in ("jpeg", "png"):
        alone = [encode_images(frame[np.newaxis], format)[0] for frame in frames]
        together = encode_images(frames, format)
        assert len(together) == len(alone)
        assert all(np.array_equal(one, other) for one, other in zip(together, alone, strict=True))


def make_prediction(frames: int = 12, size: tuple[int, int] = (16, 24)) -> Prediction:
    ramp = np.linspace(0, 255, size[1]).astype(np.uint8)
    images = np.stack([np.broadcast_to(np.roll(ramp, k)[None, :, None], (*size, 3)) for k in range(frames)])
    return Prediction(
        anchor_ns=STAMP_NS,
        fps=20.0,
        frames=np.ascontiguousarray(images),
        chunks=(Chunk(0, 8, 8, EndReason.MOTION), Chunk(8, 8, 4, EndReason.END_OF_PLAN)),
        experts=(0, 3),
        assumed_from=10,
        confidence=np.full(frames, np.nan, np.float32),
        seed=2**64 - 1,
        model_id="tiny@0123456789ab",
        status=Status.DEGRADED,
        plan_stamp_ns=STAMP_NS - 5,
        timings_ms={"total": 12.5},
        frame_id="lens",
    )


# ---- time and images ----


@pytest.mark.parametrize("time_ns", [0, 1, STAMP_NS, -1_500_000_000])
def test_times_and_durations_survive_the_round_trip(classes, time_ns):
    assert nanoseconds(duration_message(time_ns, classes)) == time_ns
    if time_ns >= 0:
        assert nanoseconds(time_message(time_ns, classes)) == time_ns


def test_an_image_survives_the_round_trip(classes):
    rgb = picture()
    frame = frame_from_message(image_message(rgb, STAMP_NS, "lens", classes), IMAGE, received_ns=1)
    np.testing.assert_array_equal(frame.rgb, rgb)
    assert (frame.stamp_ns, frame.frame_id) == (STAMP_NS, "lens")


def test_a_png_survives_the_round_trip_and_a_jpeg_nearly(classes):
    smooth = cv2.resize(picture(4, 4), (64, 64))
    exact = frame_from_message(compressed_message(smooth, STAMP_NS, "lens", classes, "png"), COMPRESSED_IMAGE, 1)
    near = frame_from_compressed(compressed_message(smooth, STAMP_NS, "lens", classes, "jpeg"), 1)
    np.testing.assert_array_equal(exact.rgb, smooth)
    assert np.abs(near.rgb.astype(int) - smooth).mean() < 3


def test_a_stamp_of_zero_means_when_it_was_received(classes):
    assert frame_from_image(image_message(picture(), 0, "lens", classes), received_ns=77).stamp_ns == 77
    message = image_message(picture(), STAMP_NS, "lens", classes)
    assert [frame_from_message(message, IMAGE, 77, stamp).stamp_ns for stamp in ("header", "receive")] == [STAMP_NS, 77]


def test_padded_rows_are_cut():
    rgb = picture()
    padded = np.zeros((6, 32), np.uint8)
    padded[:, :24] = rgb.reshape(6, 24)
    np.testing.assert_array_equal(frame_from_image(raw_image(rgb, "rgb8", padded, 32), 0).rgb, rgb)


def test_a_grey_png_becomes_rgb():
    buffer = io.BytesIO()
    grey = picture()[..., 0]
    PillowImage.fromarray(grey).save(buffer, "PNG")
    header = SimpleNamespace(stamp=SimpleNamespace(sec=0, nanosec=0), frame_id="")
    frame = frame_from_compressed(SimpleNamespace(header=header, format="png", data=buffer.getvalue()), 5)
    np.testing.assert_array_equal(frame.rgb, np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"step": 3}, "expected at least 24 per row"),
        ({"data": b"1234"}, "4 in all, expected at least 24 per row and 144 in all"),
        ({"height": 0}, "8 x 0"),
        ({"encoding": "nonsense"}, "encoding 'nonsense', expected one of rgb8"),
        ({"encoding": "8UC3"}, "encoding '8UC3'"),
        ({"encoding": "nv21"}, "encoding 'nv21'"),
        ({"encoding": "bgr16"}, "expected at least 48 per row"),
    ],
)
def test_an_image_that_does_not_fit_is_refused_with_the_numbers(changes, text):
    message = raw_image(picture(), "rgb8", picture(), 24)
    for name, value in changes.items():
        setattr(message, name, value)
    with pytest.raises(InputError, match=text):
        frame_from_image(message, 0)


@pytest.mark.parametrize("data", [b"", b"not an image"])
def test_bytes_that_are_no_image_are_refused(data):
    header = SimpleNamespace(stamp=SimpleNamespace(sec=0, nanosec=0), frame_id="")
    with pytest.raises(InputError, match="expected PNG or JPEG"):
        frame_from_compressed(SimpleNamespace(header=header, format="png", data=data), 0)


def test_an_unknown_image_type_names_the_two_that_work():
    with pytest.raises(InputError, match="sensor_msgs/msg/Image or sensor_msgs/msg/CompressedImage"):
        frame_from_message(None, "sensor_msgs/msg/PointCloud2", 0)


def test_an_unknown_format_names_those_that_work(classes):
    with pytest.raises(InputError, match="png, jpeg"):
        compressed_message(picture(), 0, "", classes, "bmp")


def test_a_scaled_camera_info_projects_points_to_where_the_scaled_image_shows_them(classes):
    """A white dot in a large image must be where the scaled intrinsics put it in the small one."""
    k = np.array([[300.0, 0, 160], [0, 300.0, 120], [0, 0, 1]])
    info = SimpleNamespace(
        header=SimpleNamespace(frame_id="lens"), height=240, width=320, distortion_model="plumb_bob", d=[0.0] * 5,
        k=k.ravel(), r=np.eye(3).ravel(), p=np.hstack([k, np.zeros((3, 1))]).ravel(),
    )  # fmt: skip
    scaled = scaled_camera_info(info, (48, 48), STAMP_NS, classes)
    assert (scaled.height, scaled.width, nanoseconds(scaled.header.stamp)) == (48, 48, STAMP_NS)
    image = np.zeros((240, 320, 3), np.uint8)
    image[100:105, 200:205] = 255  # centred on pixel (202, 102)
    point = np.linalg.inv(k) @ [202, 102, 1]
    seen = np.asarray(scaled.k).reshape(3, 3) @ point
    small = resize_rgb(image, (48, 48))[..., 0].astype(float)
    rows, columns = np.mgrid[:48, :48]
    centre = np.array([(columns * small).sum(), (rows * small).sum()]) / small.sum()
    np.testing.assert_allclose(seen[:2], centre, atol=0.05)


# ---- commands ----

ARM = ActionSource("/arm/joint_trajectory", JOINT_TRAJECTORY, {"a": "joint_a", "b": "joint_b"})


def trajectory(points: list[dict], names=("joint_b", "joint_a"), stamp_ns: int = STAMP_NS, classes=TYPES):
    empty = array.array("d") if classes is not TYPES else np.zeros(0)

    def numbers(values):
        return array.array("d", values) if classes is not TYPES else np.array(values, np.float64)

    made = []
    for index, point in enumerate(points):
        fields = dict.fromkeys(("positions", "velocities", "accelerations", "effort"), empty)
        fields |= {key: numbers(values) for key, values in point.items()}
        step = duration_message((index + 1) * 50_000_000, classes)
        made.append(classes("trajectory_msgs/msg/JointTrajectoryPoint")(**fields, time_from_start=step))
    header = classes("std_msgs/msg/Header")(stamp=time_message(stamp_ns, classes), frame_id="")
    return classes(JOINT_TRAJECTORY)(header=header, joint_names=list(names), points=made)


def test_a_trajectory_becomes_a_plan_in_the_order_of_the_mapping(classes):
    message = trajectory([{"positions": [1, 2]}, {"positions": [3, 4]}], classes=classes)
    plan = plan_from_message(message, ARM, received_ns=5)
    assert plan.names == ("a", "b")
    assert (plan.received_ns, plan.start_ns) == (5, STAMP_NS)
    np.testing.assert_array_equal(plan.values, [[2, 1], [4, 3]])
    np.testing.assert_array_equal(plan.times_ns, [50_000_000, 100_000_000])
    assert plan.velocities is None


def test_velocities_and_accelerations_come_along_where_every_point_has_them():
    full = {"positions": [1, 2], "velocities": [3, 4], "accelerations": [5, 6]}
    plan = plan_from_message(trajectory([full, full]), ARM, 5)
    np.testing.assert_array_equal(plan.velocities, [[4, 3], [4, 3]])
    np.testing.assert_array_equal(plan.accelerations, [[6, 5], [6, 5]])
    partly = plan_from_message(trajectory([full, {"positions": [1, 2]}]), ARM, 5)
    assert partly.velocities is None
    assert partly.accelerations is None


def test_velocities_are_the_values_of_a_trajectory_without_positions():
    plan = plan_from_message(trajectory([{"velocities": [3, 4]}]), ARM, 5)
    np.testing.assert_array_equal(plan.values, [[4, 3]])
    assert plan.velocities is None


def test_a_trajectory_with_stamp_zero_starts_when_received():
    assert plan_from_message(trajectory([{"positions": [1, 2]}], stamp_ns=0), ARM, 5).start_ns == 5


def test_a_source_that_does_not_trust_stamps_starts_when_received():
    source = ActionSource(ARM.topic, ARM.type, ARM.fields, stamp="receive")
    assert plan_from_message(trajectory([{"positions": [1, 2]}]), source, 5).start_ns == 5


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (trajectory([]), "without points"),
        (trajectory([{"positions": [1, 2]}], names=("joint_b", "other")), r"expected \['joint_a'\] among them"),
        (trajectory([{"positions": [1]}]), r"points with \[1\] positions .* expected 2"),
        (trajectory([{}]), "neither positions nor velocities"),
        (trajectory([{"positions": [np.nan, 2]}]), "NaN"),
    ],
)
def test_a_trajectory_that_does_not_fit_is_refused_with_the_reason(message, text):
    with pytest.raises(InputError, match=text):
        plan_from_message(message, ARM, 5)


def test_an_action_sequence_becomes_a_plan(classes):
    values = np.array([1, 2, 3, 4, 5, 6], np.float32)
    header = classes("std_msgs/msg/Header")(stamp=time_message(0, classes), frame_id="")
    message = classes("longscape_msgs/msg/ActionSequence")(
        header=header,
        candidate_id=3,
        names=["x", "y", "z"],
        time_from_start=[duration_message(time, classes) for time in (0, 50)],
        values=values if classes is TYPES else array.array("f", values),
    )
    source = ActionSource("/proposal", "longscape_msgs/msg/ActionSequence", {"far": "z", "near": "x"})
    plan = plan_from_message(message, source, 9)
    np.testing.assert_array_equal(plan.values, [[3, 1], [6, 4]])
    assert (plan.start_ns, plan.times_ns.tolist()) == (9, [0, 50])
    message.values = message.values[:5]
    with pytest.raises(InputError, match=r"5 values for 2 times and 3 names .* expected 6"):
        plan_from_message(message, source, 9)


def test_samples_of_streams_become_plans_of_one_point():
    twist = TYPES("geometry_msgs/msg/TwistStamped")
    vector = TYPES("geometry_msgs/msg/Vector3")
    header = TYPES("std_msgs/msg/Header")(stamp=time_message(STAMP_NS, TYPES), frame_id="")
    message = twist(
        header=header, twist=TYPES("geometry_msgs/msg/Twist")(linear=vector(x=1.0, y=2.0, z=3.0), angular=vector(x=4.0, y=5.0, z=6.0))
    )
    source = ActionSource("/servo", "geometry_msgs/msg/TwistStamped", {"yaw": "twist.angular.z", "x": "twist.linear.x"})
    plan = plan_from_message(message, source, 5)
    assert (plan.names, plan.start_ns, plan.times_ns.tolist()) == (("yaw", "x"), STAMP_NS, [0])
    np.testing.assert_array_equal(plan.values, [[6, 1]])


def test_unstamped_numbers_start_when_received_whatever_the_mapping_says():
    gripper = TYPES("std_msgs/msg/Float64")(data=0.25)
    plan = plan_from_message(gripper, ActionSource("/gripper", "std_msgs/msg/Float64", {"gripper": "data"}), 5)
    assert (plan.start_ns, plan.values.tolist()) == (5, [[0.25]])


def test_elements_of_arrays_are_found_by_index():
    message = SimpleNamespace(data=[7.0, 8.0, 9.0])
    source = ActionSource("/commands", "std_msgs/msg/Float64MultiArray", {"third": "data[2]"})
    assert plan_from_message(message, source, 5).values.tolist() == [[9.0]]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("data[7]", "without 'data\\[7\\]'"),
        ("nothing", "without 'nothing'"),
        ("data[", "expected names and indices"),
        ("data", "expected numbers"),
    ],
)
def test_a_path_that_leads_nowhere_is_named(path, text):
    source = ActionSource("/commands", "std_msgs/msg/Float64MultiArray", {"value": path})
    with pytest.raises(InputError, match=text):
        plan_from_message(SimpleNamespace(data=[1.0, 2.0]), source, 5)


def test_joint_states_and_controller_states_are_read_by_joint_name():
    header = SimpleNamespace(stamp=SimpleNamespace(sec=0, nanosec=0))
    joints = SimpleNamespace(header=header, name=["b", "a"], position=[1.0, 2.0])
    assert plan_from_message(joints, ActionSource("/joint_states", JOINT_STATE, {"x": "a"}), 5).values.tolist() == [[2.0]]
    with pytest.raises(InputError, match="2 values for 1 names"):
        plan_from_message(SimpleNamespace(header=header, name=["a"], position=[1.0, 2.0]), ActionSource("/j", JOINT_STATE, {"x": "a"}), 5)
    source = ActionSource("/state", "control_msgs/msg/JointTrajectoryControllerState", {"x": "a"})
    for field in ("reference", "desired"):  # since Jazzy, and before
        state = SimpleNamespace(header=header, joint_names=["a"], **{field: SimpleNamespace(positions=[3.0])})
        assert plan_from_message(state, source, 5).values.tolist() == [[3.0]]


# ---- predictions ----


def test_a_prediction_survives_the_round_trip(classes):
    prediction = make_prediction()
    found = prediction_from_message(prediction_to_message(prediction, classes, "png"))
    np.testing.assert_array_equal(found.frames, prediction.frames)
    np.testing.assert_array_equal(found.stamps_ns(), prediction.stamps_ns())
    assert [(chunk.start, chunk.valid, chunk.reason) for chunk in found.chunks] == [(0, 8, EndReason.MOTION), (8, 4, EndReason.END_OF_PLAN)]
    for name in ("anchor_ns", "fps", "experts", "assumed_from", "seed", "model_id", "status", "plan_stamp_ns", "timings_ms", "frame_id"):
        assert getattr(found, name) == getattr(prediction, name), name
    assert np.isnan(found.confidence).all()


def test_a_prediction_is_the_same_bytes_from_both_kinds_of_classes():
    kind, library = "longscape_msgs/msg/PredictedVideo", rclpy_types()
    recorded = bag_store().serialize_cdr(prediction_to_message(make_prediction(), TYPES), kind)
    live = library.serialize(prediction_to_message(make_prediction(), library.message_class))
    assert bytes(live) == bytes(recorded)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda m: setattr(m, "frames", []), "without frames"),
        (lambda m: setattr(m, "chunk_lengths", np.array([8, 5], np.uint32)), r"12 frames in chunks of \[8, 5\]"),
        (lambda m: setattr(m, "chunk_experts", np.array([1], np.uint8)), "1 experts"),
        (lambda m: setattr(m.frames[-1], "header", m.header), "not later than the anchor"),
    ],
)
def test_a_predicted_video_whose_parts_do_not_fit_is_refused(change, text):
    message = prediction_to_message(make_prediction(), TYPES)
    change(message)
    with pytest.raises(InputError, match=text):
        prediction_from_message(message)


def test_a_filmstrip_ends_with_the_last_frame_and_is_black_where_there_are_none():
    prediction = make_prediction(frames=12)
    strip = filmstrip(prediction, columns=4)
    assert strip.shape == (16, 4 * 24, 3)
    for column, frame in enumerate((2, 5, 8, 11)):
        np.testing.assert_array_equal(strip[:, 24 * column : 24 * (column + 1)], prediction.frames[frame])
    long = filmstrip(prediction, columns=14)
    np.testing.assert_array_equal(long[:, 24 * 11 : 24 * 12], prediction.frames[11])
    assert not long[:, 24 * 12 :].any()
