"""What the bridge says on topics, as messages made once and filled anew."""
from __future__ import annotations

import math

from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, LaserScan

from sim_bridge.frames import wrap
from sim_bridge.ros import transforms
from sim_bridge.ros.camera import Picture
from sim_bridge.ros.scan import DepthScan, with_infinities
from sim_bridge.ros.transforms import BASE_FRAME, CAMERA_FRAME, ODOM_FRAME
from vlnr1_ros.navigation.camera import Camera
from vlnr1_ros.nodes import messages


class Topics:
    """Publishers of `/clock`, `odom`, `/tf`, and of what the camera gives.

    All are reliable, but images where `reliable_images` is False. max_depth_m: nothing farther is
    seen. `clock_and_odometry` and `camera` may be called by different threads.
    """

    def __init__(self, node: Node, camera: Camera, reliable_images: bool, depth: bool,
                 scan: DepthScan | None, max_depth_m: float):
        reliable = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        images = reliable if reliable_images else QoSProfile(
            depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._clock = node.create_publisher(Clock, '/clock', reliable)
        # Who records is not waited for, and may lag: what it has not got yet is kept for it.
        self._odometry = node.create_publisher(Odometry, 'odom', QoSProfile(
            depth=1000, reliability=ReliabilityPolicy.RELIABLE))
        self._info = node.create_publisher(CameraInfo, 'camera_info', reliable)
        images_kept = QoSProfile(depth=50, reliability=images.reliability)
        self._image = node.create_publisher(Image, 'image_raw', images_kept)
        if depth:
            self._depth_info = node.create_publisher(CameraInfo, 'depth/camera_info', reliable)
            self._depth = node.create_publisher(Image, 'depth/image_raw', images)
        if scan:
            self._scan = node.create_publisher(LaserScan, 'scan', reliable)
        self._with_depth, self._depth_scan, self._max_depth_m = depth, scan, max_depth_m
        self._transforms = transforms.Transforms(node, camera.height_m, transforms.TFMessage) \
            if transforms.TFMessage else None
        self._time = Clock()
        self._odom = Odometry(child_frame_id=BASE_FRAME)
        self._odom.header.frame_id = ODOM_FRAME
        self._camera_info = camera_info(camera)
        self._scan_message = scan_message(scan) if scan else None
        self._last: tuple[float, float, float] | None = None

    def listeners(self) -> dict[str, int]:
        """How many subscriptions are matched with the topics that matter."""
        return {'odom': self._odometry.get_subscription_count(),
                'image_raw': self._image.get_subscription_count()}

    def moved_by_hand(self) -> None:
        """The base was put somewhere else: the next odometry has no velocity."""
        self._last = None

    def clock_and_odometry(self, stamp_ns: int, pose: tuple[float, float, float], height_m: float,
                           dt_s: float) -> None:
        """Publish both, and the base's frame, from a pose x, y, yaw in ROS's frame.

        Velocities are the displacement since the last call over `dt_s`.
        """
        self._time.clock = messages.time_message(stamp_ns)
        self._clock.publish(self._time)
        x, y, yaw = pose
        odom = self._odom
        odom.header.stamp = self._time.clock
        place, twist = odom.pose.pose, odom.twist.twist
        place.position.x, place.position.y, place.position.z = x, y, float(height_m)
        place.orientation.z, place.orientation.w = math.sin(yaw / 2), math.cos(yaw / 2)
        last_x, last_y, last_yaw = self._last or pose
        self._last = pose
        twist.linear.x = ((x - last_x) * math.cos(yaw) + (y - last_y) * math.sin(yaw)) / dt_s
        twist.angular.z = wrap(yaw - last_yaw) / dt_s
        self._odometry.publish(odom)
        if self._transforms:
            self._transforms.publish(odom)

    def camera(self, picture: Picture) -> None:
        """Publish all that comes from a picture; the colour image last."""
        stamp_ns = picture.stamp_ns
        self._camera_info.header.stamp = messages.time_message(stamp_ns)
        if picture.depth_m is not None:
            depth_m = with_infinities(picture.depth_m, self._max_depth_m)
            if self._depth_scan:
                self._scan_message.header.stamp = self._camera_info.header.stamp
                self._scan_message.ranges = self._depth_scan.ranges(depth_m).tolist()
                self._scan.publish(self._scan_message)
            if self._with_depth:
                self._depth_info.publish(self._camera_info)
                self._depth.publish(messages.image(depth_m, '32FC1', stamp_ns, CAMERA_FRAME))
        self._info.publish(self._camera_info)
        self._image.publish(messages.image(picture.rgb, 'rgb8', stamp_ns, CAMERA_FRAME))


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


def scan_message(scan: DepthScan) -> LaserScan:
    """A scan without ranges; all beams are of one moment.

    Its frame is the base's: the camera stands above its origin and looks along its x, so that
    whoever has no tf reads the scan right as well.
    """
    message = LaserScan(angle_min=float(scan.angle_min_rad), angle_max=float(scan.angle_max_rad),
                        angle_increment=float(scan.increment_rad), range_min=0.0,
                        range_max=float(scan.range_max_m))
    message.header.frame_id = BASE_FRAME
    return message
