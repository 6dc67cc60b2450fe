# SPDX-License-Identifier: Apache-2.0
"""What the predictor node publishes: messages are only made for topics that somebody listens to."""

from __future__ import annotations

import json
from typing import Any

from rclpy.qos import QoSProfile, ReliabilityPolicy

from longscape_ros.contract import Prediction
from longscape_ros.host import message_class
from longscape_ros.messages import IMAGE, PREDICTED_VIDEO, filmstrip, image_message, prediction_to_message, scaled_camera_info
from longscape_ros.nodes.executed import ExecutedChunk
from longscape_ros.nodes.parameters import PredictorParameters
from longscape_ros.nodes.surprise import SURPRISE, error_image, surprise_message
from longscape_ros.runtime.surprise import Comparison

CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
FLOAT64 = "std_msgs/msg/Float64"
STRING = "std_msgs/msg/String"


class Outputs:
    """The lifecycle publishers of a predictor node; they are silent while it is inactive. Any thread may publish.

    Args:
        node: The lifecycle node.
        parameters: Its parameters; those that are live may be replaced later.
    """

    def __init__(self, node: Any, parameters: PredictorParameters) -> None:
        reliability = ReliabilityPolicy.RELIABLE if parameters.output_qos == "reliable" else ReliabilityPolicy.BEST_EFFORT
        newest = QoSProfile(depth=1, reliability=reliability)
        self.parameters = parameters
        self.camera_info: Any = None
        """The newest sensor_msgs/CameraInfo of the camera; None: there is none."""
        self._node = node
        self._video = self._create(PREDICTED_VIDEO, "~/prediction", newest)
        self._filmstrip = self._create(IMAGE, "~/prediction/filmstrip", newest)
        self._image = self._create(IMAGE, "~/prediction/image", newest)
        self._camera_info = self._create(CAMERA_INFO, "~/prediction/camera_info", newest)
        self._surprise = self._create(SURPRISE, "~/surprise", QoSProfile(depth=10))
        self._surprise_image = self._create(IMAGE, "~/surprise/image", newest)
        self._inference_time = self._create(FLOAT64, "~/debug/inference_time_ms", QoSProfile(depth=10))
        self._chunk = self._create(STRING, "~/debug/chunk", QoSProfile(depth=10))

    def publish_prediction(self, prediction: Prediction) -> None:
        """A prediction, as video, as images, and how long it took."""
        if self._video.get_subscription_count():
            self._video.publish(prediction_to_message(prediction, message_class, self.parameters.prediction_format))
        if self._filmstrip.get_subscription_count():
            strip = filmstrip(prediction, self.parameters.filmstrip_columns)
            self._filmstrip.publish(image_message(strip, prediction.anchor_ns, prediction.frame_id, message_class))
        self._publish_image(prediction)
        self._inference_time.publish(message_class(FLOAT64)(data=prediction.timings_ms["total"]))

    def publish_surprise(self, comparison: Comparison) -> None:
        """How far an image is from what was predicted of it, and where."""
        if not self._node.context.ok():
            return
        self._surprise.publish(surprise_message(comparison, message_class))
        if self._surprise_image.get_subscription_count():
            image = error_image(comparison)
            self._surprise_image.publish(image_message(image, comparison.stamp_ns, comparison.frame_id, message_class))

    def publish_chunk(self, ended: ExecutedChunk) -> None:
        """A chunk of the executed motion that ended, as JSON."""
        report = {
            "begin_ns": ended.begin_ns,
            "end_ns": ended.end_ns,
            "length": ended.chunk.length,
            "reason": ended.chunk.reason.name,
        }
        self._chunk.publish(message_class(STRING)(data=json.dumps(report)))

    def destroy(self) -> None:
        """Leaves the topics."""
        video = (self._video, self._filmstrip, self._image, self._camera_info)
        for publisher in (*video, self._surprise, self._surprise_image, self._inference_time, self._chunk):
            self._node.destroy_lifecycle_publisher(publisher)

    def _create(self, type_name: str, topic: str, qos: QoSProfile) -> Any:
        return self._node.create_lifecycle_publisher(message_class(type_name), topic, qos)

    def _publish_image(self, prediction: Prediction) -> None:
        """One future frame with the anchor's stamp: tools look transforms up at a stamp, and there are none of the future."""
        step = min(self.parameters.image_step or len(prediction.frames), len(prediction.frames))
        rgb = prediction.frames[step - 1]
        if self._image.get_subscription_count():
            self._image.publish(image_message(rgb, prediction.anchor_ns, prediction.frame_id, message_class))
        camera_info = self.camera_info
        if camera_info is not None and self._camera_info.get_subscription_count():
            height, width = rgb.shape[:2]
            self._camera_info.publish(scaled_camera_info(camera_info, (height, width), prediction.anchor_ns, message_class))
