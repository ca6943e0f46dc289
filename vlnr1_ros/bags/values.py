"""What messages say, as plain Python values.

The functions look at fields only, so that they read messages of rclpy and those of a recording
alike. What does not add up raises UserError.
"""
from __future__ import annotations

import math

import cv2
import numpy as np

from ..motion.plan import PlanStatus, Pose
from ..motion.safety import Odometry
from ..navigation.errors import UserError

NS = 1_000_000_000
QUATERNION_TOLERANCE = 0.01

COLOUR = {'rgb8': (0, 1, 2), 'bgr8': (2, 1, 0), 'rgba8': (0, 1, 2), 'bgra8': (2, 1, 0),
           'mono8': (0, 0, 0)}
LAYOUT = {'rgb8': ('u1', 3), 'bgr8': ('u1', 3), 'rgba8': ('u1', 4), 'bgra8': ('u1', 4),
           'mono8': ('u1', 1), '16UC1': ('u2', 1), '32FC1': ('f4', 1)}


def time_ns(stamp) -> int:
    """builtin_interfaces/Time as nanoseconds."""
    return stamp.sec * NS + stamp.nanosec


def yaw_rad(orientation) -> float:
    """Heading of a quaternion; NaN when it is not one (not of unit length)."""
    x, y, z, w = orientation.x, orientation.y, orientation.z, orientation.w
    if not abs(x * x + y * y + z * z + w * w - 1.0) <= QUATERNION_TOLERANCE:
        return math.nan
    return math.atan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z))


def planar(pose) -> Pose:
    """geometry_msgs/Pose on the floor; what is no pose comes out as NaN."""
    return Pose(pose.position.x, pose.position.y, yaw_rad(pose.orientation))


def path_poses(message) -> list[Pose]:
    """The poses of nav_msgs/Path; what is not a pose comes out as NaN."""
    return [planar(stamped.pose) for stamped in message.poses]


def odometry(message) -> Odometry:
    """What the driver needs of nav_msgs/Odometry; a broken orientation comes out as NaN."""
    velocity = message.twist.twist
    return Odometry(time_ns(message.header.stamp), message.header.frame_id,
                    planar(message.pose.pose), velocity.linear.x, velocity.angular.z)


def parse_plan_status(message) -> PlanStatus:
    """What the driver's `plan_status` (diagnostic_msgs/DiagnosticArray) says."""
    try:
        values = {item.key: item.value for item in message.status[0].values}
        seconds, nanoseconds = values['plan_stamp'].split('.')
        return PlanStatus(int(seconds) * NS + int(nanoseconds), values['state'],
                          int(values['executed']), int(values['of']), values['reason'])
    except (IndexError, KeyError, ValueError) as error:
        raise UserError(f'not a plan_status: {error!r}; it needs one status with plan_stamp, '
                        'state, executed, of and reason') from None


def image_rgb(message) -> np.ndarray:
    """A colour image as contiguous uint8 (H, W, 3) RGB, whatever its rows are padded with."""
    if message.encoding not in COLOUR:
        raise UserError(f'image encoding {message.encoding!r} is not a colour image known here; '
                        f'publish one of {", ".join(COLOUR)}')
    pixels = _pixels(message)
    if message.encoding == 'mono8':
        return np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels[:, :, list(COLOUR[message.encoding])])


def image_depth_m(message) -> np.ndarray:
    """A depth image as float32 (H, W) metres (REP 118: 16UC1 is millimetres, 0 is nothing)."""
    if message.encoding not in ('16UC1', '32FC1'):
        raise UserError(f'depth encoding {message.encoding!r}; publish 16UC1 or 32FC1')
    pixels = _pixels(message)[:, :, 0].astype(np.float32)
    return pixels * np.float32(0.001) if message.encoding == '16UC1' else pixels


def compressed_rgb(message) -> np.ndarray:
    """A JPEG or PNG colour image as contiguous uint8 (H, W, 3) RGB; UserError when broken."""
    data = np.frombuffer(message.data, np.uint8)
    pixels = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if pixels is None:
        raise UserError(f'compressed image of format {message.format!r} with {data.size} bytes '
                        'cannot be read; publish jpeg or png')
    return np.ascontiguousarray(pixels[:, :, ::-1])


def image_layout(encoding: str) -> tuple[str, int]:
    """(numpy type, channels) of an image encoding."""
    if encoding not in LAYOUT:
        raise UserError(f'image encoding {encoding!r} is not supported; use one of '
                        f'{", ".join(LAYOUT)}')
    return LAYOUT[encoding]


def _pixels(message) -> np.ndarray:
    """(H, W, channels) view of an image's data, without its padding, in its own byte order."""
    kind, channels = image_layout(message.encoding)
    dtype = np.dtype(kind).newbyteorder('>' if message.is_bigendian else '<')
    height, width, step = message.height, message.width, message.step
    row_bytes = width * channels * dtype.itemsize
    if height == 0 or width == 0 or step < row_bytes or len(message.data) < step * height:
        raise UserError(f'image of {width}x{height} {message.encoding} with step {step} and '
                        f'{len(message.data)} bytes does not add up: a row has {row_bytes} bytes')
    rows = np.frombuffer(message.data, np.uint8, count=step * height).reshape(height, step)
    rows = np.ascontiguousarray(rows[:, :row_bytes])
    return rows.view(dtype).reshape(height, width, channels)
