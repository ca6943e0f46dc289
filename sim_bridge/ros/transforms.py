"""Frames on /tf and /tf_static, where tf2_msgs is installed (it comes with ROS 2 from apt)."""
from __future__ import annotations

from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

try:
    from tf2_msgs.msg import TFMessage
except ImportError:
    TFMessage = None

ODOM_FRAME, BASE_FRAME = 'odom', 'base_link'
CAMERA_BODY_FRAME, CAMERA_FRAME = 'camera_link', 'camera_optical_frame'
OPTICAL_XYZW = (-0.5, 0.5, -0.5, 0.5)
"""REP 103: z ahead, x to the right and y down, in a frame with x ahead, y left and z up."""


class Transforms:
    """odom -> base_link with every odometry; base_link -> camera once, for late comers too.

    tf_message: class of the messages, tf2_msgs' own where it is installed.
    """

    def __init__(self, node: Node, camera_height_m: float, tf_message: type):
        self._tf_message = tf_message
        self._tf = node.create_publisher(tf_message, '/tf', QoSProfile(
            depth=100, reliability=ReliabilityPolicy.RELIABLE))
        self._static = node.create_publisher(tf_message, '/tf_static', QoSProfile(
            depth=1, reliability=ReliabilityPolicy.RELIABLE,
            durability=DurabilityPolicy.TRANSIENT_LOCAL))
        self._static.publish(tf_message(transforms=camera_mount(camera_height_m)))

    def publish(self, odometry: Odometry) -> None:
        """The base's frame at the time of an odometry message."""
        self._tf.publish(self._tf_message(transforms=[base_in_odom(odometry)]))


def base_in_odom(odometry: Odometry) -> TransformStamped:
    """The pose of an odometry message as the transform between its frames."""
    moved = TransformStamped(header=odometry.header, child_frame_id=odometry.child_frame_id)
    position = odometry.pose.pose.position
    moved.transform.translation.x = position.x
    moved.transform.translation.y = position.y
    moved.transform.translation.z = position.z
    moved.transform.rotation = odometry.pose.pose.orientation
    return moved


def camera_mount(height_m: float) -> list[TransformStamped]:
    """Where camera_link and the optical frame are on the base."""
    body = TransformStamped(child_frame_id=CAMERA_BODY_FRAME)
    body.header.frame_id = BASE_FRAME
    body.transform.translation.z = float(height_m)
    optical = TransformStamped(child_frame_id=CAMERA_FRAME)
    optical.header.frame_id = CAMERA_BODY_FRAME
    rotation = optical.transform.rotation
    rotation.x, rotation.y, rotation.z, rotation.w = OPTICAL_XYZW
    return [body, optical]
