"""What the bridge says on topics, as messages made once and filled anew."""
from __future__ import annotations

import math

from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image

from sim_bridge import frames
from sim_bridge.environment import Observation
from vlnr1_ros.navigation.camera import Camera
from vlnr1_ros.nodes import messages

ODOM_FRAME, BASE_FRAME, CAMERA_FRAME = 'odom', 'base_link', 'camera_optical_frame'


class Topics:
    """Publishers of `/clock`, `odom`, `camera_info` and `image_raw`; all reliable."""

    def __init__(self, node: Node, camera: Camera):
        reliable = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        self._clock = node.create_publisher(Clock, '/clock', reliable)
        self._odometry = node.create_publisher(Odometry, 'odom', reliable)
        self._info = node.create_publisher(CameraInfo, 'camera_info', reliable)
        self._image = node.create_publisher(Image, 'image_raw', reliable)
        self._time = Clock()
        self._odom = Odometry(child_frame_id=BASE_FRAME)
        self._odom.header.frame_id = ODOM_FRAME
        self._camera_info = camera_info(camera)
        self._last: tuple[float, float, float] | None = None

    def listeners(self) -> dict[str, int]:
        """How many subscriptions are matched with the topics that matter."""
        return {'odom': self._odometry.get_subscription_count(),
                'image_raw': self._image.get_subscription_count()}

    def moved_by_hand(self) -> None:
        """The base was put somewhere else: the next odometry has no velocity."""
        self._last = None

    def clock_and_odometry(self, stamp_ns: int, seen: Observation, dt_s: float) -> None:
        """Publish both; velocities are the displacement since the last call over `dt_s`."""
        self._time.clock = messages.time_message(stamp_ns)
        self._clock.publish(self._time)
        x, y, yaw = frames.to_ros(seen.x, seen.z, seen.yaw_rad)
        odom = self._odom
        odom.header.stamp = self._time.clock
        pose, twist = odom.pose.pose, odom.twist.twist
        pose.position.x, pose.position.y, pose.position.z = x, y, float(seen.y)
        pose.orientation.z, pose.orientation.w = math.sin(yaw / 2), math.cos(yaw / 2)
        last_x, last_y, last_yaw = self._last or (x, y, yaw)
        self._last = (x, y, yaw)
        twist.linear.x = ((x - last_x) * math.cos(yaw) + (y - last_y) * math.sin(yaw)) / dt_s
        twist.angular.z = frames.wrap(yaw - last_yaw) / dt_s
        self._odometry.publish(odom)

    def camera(self, stamp_ns: int, rgb) -> None:
        """Publish a uint8 (H, W, 3) frame and what the camera is."""
        self._camera_info.header.stamp = messages.time_message(stamp_ns)
        self._info.publish(self._camera_info)
        self._image.publish(messages.image(rgb, 'rgb8', stamp_ns, CAMERA_FRAME))


def camera_info(camera: Camera) -> CameraInfo:
    """An ideal pinhole camera as sensor_msgs/CameraInfo."""
    info = CameraInfo(width=camera.width, height=camera.height, distortion_model='plumb_bob',
                      d=[0.0] * 5)
    fx, cx, cy = float(camera.fx), camera.width / 2, camera.height / 2
    info.header.frame_id = CAMERA_FRAME
    info.k = [fx, 0.0, cx, 0.0, fx, cy, 0.0, 0.0, 1.0]
    info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    info.p = [fx, 0.0, cx, 0.0, 0.0, fx, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    return info
