# SPDX-License-Identifier: Apache-2.0
"""What is published of a comparison."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from longscape_ros.bags.writer import bag_store, bag_types
from longscape_ros.nodes.surprise import SURPRISE, error_image, surprise_message
from longscape_ros.runtime.surprise import Comparison, State


def comparison(state: State = State.SURPRISED, errors: Any = None) -> Comparison:
    error = math.nan if errors is None else float(errors.max())
    shown = np.full((16, 24, 3), 200, np.uint8)
    return Comparison(5_000_000_007, "optical", 4_000_000_000, "m@1", state, 9.0, error, shown, errors)


def spot() -> np.ndarray[Any, Any]:
    errors = np.zeros((16, 24), np.float32)
    errors[3, 20] = 12.5
    return errors


def test_a_surprise_is_the_same_on_the_wire_from_both_kinds_of_classes():
    from longscape_ros.embedded import ensure_rclpy

    ensure_rclpy()
    from rclpy.serialization import serialize_message

    from longscape_ros.host import message_class

    store = bag_store()
    recorded = bytes(store.serialize_cdr(surprise_message(comparison(errors=spot()), bag_types()), SURPRISE))
    sent = bytes(serialize_message(surprise_message(comparison(errors=spot()), message_class)))
    assert len(sent) == len(recorded)
    assert bytes(store.serialize_cdr(store.deserialize_cdr(sent, SURPRISE), SURPRISE)) == recorded  # gaps of alignment may hold anything


def test_the_message_says_when_how_far_and_where():
    message = surprise_message(comparison(errors=spot()), bag_types())
    assert (message.header.stamp.sec, message.header.stamp.nanosec, message.header.frame_id) == (5, 7, "optical")
    assert (message.state, message.error, message.threshold, message.x, message.y) == (message.STATE_SURPRISED, 12.5, 9.0, 20, 3)
    assert (message.predicted_at.sec, message.model_id) == (4, "m@1")


def test_what_is_not_comparable_has_no_error():
    message = surprise_message(comparison(State.NOT_COMPARABLE), bag_types())
    assert message.state == message.STATE_NOT_COMPARABLE
    assert math.isnan(message.error)


def test_the_error_image_is_red_where_the_surprise_is_and_dark_grey_elsewhere():
    image = error_image(comparison(errors=spot()))
    assert image[3, 20].tolist() == [255, 0, 0]
    assert image[10, 10].tolist() == [100, 100, 100]


def test_the_error_image_of_what_is_not_comparable_has_no_red():
    assert np.array_equal(error_image(comparison(State.NOT_COMPARABLE)), np.full((16, 24, 3), 100, np.uint8))
