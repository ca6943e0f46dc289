"""Messages to and from plain Python values.

Every field is cast and checked before it is sent: a value of another type is serialised as garbage
without an error by rclpy, and a NaN velocity is somebody's accident. Bad values raise UserError.
"""
from __future__ import annotations

import math
from array import array
from typing import Iterable, Mapping

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import PoseStamped, Twist, TwistStamped
from nav_msgs.msg import Odometry as OdometryMessage
from nav_msgs.msg import Path
from sensor_msgs.msg import Image

from ..motion.plan import PlanStatus, Pose
from ..motion.safety import Odometry
from ..navigation.errors import UserError

NS = 1_000_000_000
QUATERNION_TOLERANCE = 0.01
PLAN_STATUS_NAME = 'plan'

_COLOUR = {'rgb8': (0, 1, 2), 'bgr8': (2, 1, 0), 'rgba8': (0, 1, 2), 'bgra8': (2, 1, 0),
           'mono8': (0, 0, 0)}
_LAYOUT = {'rgb8': ('u1', 3), 'bgr8': ('u1', 3), 'rgba8': ('u1', 4), 'bgra8': ('u1', 4),
           'mono8': ('u1', 1), '16UC1': ('u2', 1), '32FC1': ('f4', 1)}


def finite(value, name: str) -> float:
    """`value` as a float; UserError when it is none, NaN or infinite."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise UserError(f'{name} is {value!r}, not a number') from None
    if not math.isfinite(number):
        raise UserError(f'{name} is {number}; it must be finite')
    return number


def time_message(stamp_ns: int) -> Time:
    """Nanoseconds as builtin_interfaces/Time."""
    seconds, nanoseconds = divmod(int(stamp_ns), NS)
    if not 0 <= seconds < 2**31:
        raise UserError(f'stamp {stamp_ns} ns does not fit a message')
    return Time(sec=seconds, nanosec=nanoseconds)


def time_ns(stamp: Time) -> int:
    """builtin_interfaces/Time as nanoseconds."""
    return stamp.sec * NS + stamp.nanosec


def twist(linear_m_s: float, angular_rad_s: float) -> Twist:
    """Velocity of a base that drives forward and turns."""
    message = Twist()
    message.linear.x = finite(linear_m_s, 'linear velocity')
    message.angular.z = finite(angular_rad_s, 'angular velocity')
    return message


def twist_stamped(linear_m_s: float, angular_rad_s: float, stamp_ns: int,
                  frame_id: str) -> TwistStamped:
    """:func:`twist` with a header."""
    message = TwistStamped(twist=twist(linear_m_s, angular_rad_s))
    message.header.stamp = time_message(stamp_ns)
    message.header.frame_id = str(frame_id)
    return message


def yaw_rad(orientation) -> float:
    """Heading of a quaternion; NaN when it is not one (not of unit length)."""
    x, y, z, w = orientation.x, orientation.y, orientation.z, orientation.w
    if not abs(x * x + y * y + z * z + w * w - 1.0) <= QUATERNION_TOLERANCE:
        return math.nan
    return math.atan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z))


def path(poses: Iterable[Pose], stamp_ns: int, frame_id: str) -> Path:
    """A plan as nav_msgs/Path; every pose carries the header of the plan."""
    message = Path()
    message.header.stamp = time_message(stamp_ns)
    message.header.frame_id = str(frame_id)
    for x_m, y_m, yaw in poses:
        stamped = PoseStamped(header=message.header)
        stamped.pose.position.x = finite(x_m, 'x of a pose')
        stamped.pose.position.y = finite(y_m, 'y of a pose')
        half = 0.5 * finite(yaw, 'yaw of a pose')
        stamped.pose.orientation.z = math.sin(half)
        stamped.pose.orientation.w = math.cos(half)
        message.poses.append(stamped)
    return message


def path_poses(message: Path) -> list[Pose]:
    """Inverse of :func:`path`; what is not a pose comes out as NaN."""
    return [_planar(stamped.pose) for stamped in message.poses]


def odometry(message: OdometryMessage) -> Odometry:
    """What the driver needs of nav_msgs/Odometry; a broken orientation comes out as NaN."""
    velocity = message.twist.twist
    return Odometry(time_ns(message.header.stamp), message.header.frame_id,
                    _planar(message.pose.pose), velocity.linear.x, velocity.angular.z)


def diagnostics(name: str, level: int, text: str, values: Mapping[str, object], stamp_ns: int,
                hardware_id: str = '') -> DiagnosticArray:
    """One status with key-value pairs; `level` is 0 ok, 1 warning, 2 error, 3 stale."""
    status = DiagnosticStatus(
        level=bytes([int(level)]), name=str(name), message=str(text),
        hardware_id=str(hardware_id),
        values=[KeyValue(key=str(key), value=str(value)) for key, value in values.items()])
    message = DiagnosticArray(status=[status])
    message.header.stamp = time_message(stamp_ns)
    return message


def plan_status(status: PlanStatus, stamp_ns: int) -> DiagnosticArray:
    """What became of a plan, as `plan_status` carries it; plan_stamp is 'seconds.nanoseconds'."""
    seconds, nanoseconds = divmod(int(status.stamp_ns), NS)
    level = 1 if status.state == 'dropped' else 0
    text = f'{status.state} {status.executed}/{status.of} {status.reason}'.strip()
    return diagnostics(PLAN_STATUS_NAME, level, text, {
        'plan_stamp': f'{seconds}.{nanoseconds:09d}', 'state': status.state,
        'executed': int(status.executed), 'of': int(status.of), 'reason': status.reason}, stamp_ns)


def parse_plan_status(message: DiagnosticArray) -> PlanStatus:
    """Inverse of :func:`plan_status`."""
    try:
        values = {item.key: item.value for item in message.status[0].values}
        seconds, nanoseconds = values['plan_stamp'].split('.')
        return PlanStatus(int(seconds) * NS + int(nanoseconds), values['state'],
                          int(values['executed']), int(values['of']), values['reason'])
    except (IndexError, KeyError, ValueError) as error:
        raise UserError(f'not a plan_status: {error!r}; it needs one status with plan_stamp, '
                        'state, executed, of and reason') from None


def image(frame: np.ndarray, encoding: str, stamp_ns: int, frame_id: str) -> Image:
    """A frame as sensor_msgs/Image: uint8 (H, W, channels), or (H, W) for mono8, 16UC1, 32FC1."""
    kind, channels = _layout(encoding)
    frame = np.ascontiguousarray(frame)
    if (frame.dtype != np.dtype(kind) or frame.ndim not in (2, 3)
            or (frame.shape[2] if frame.ndim == 3 else 1) != channels):
        raise UserError(f'a frame of {frame.dtype} {frame.shape} is not {encoding}')
    message = Image()
    message.header.stamp = time_message(stamp_ns)
    message.header.frame_id = str(frame_id)
    message.height, message.width = int(frame.shape[0]), int(frame.shape[1])
    message.encoding = str(encoding)
    message.is_bigendian = 0
    message.step = int(message.width * channels * frame.dtype.itemsize)
    message.data = array('B', frame.astype(np.dtype(kind).newbyteorder('<'), copy=False).tobytes())
    return message


def image_rgb(message: Image) -> np.ndarray:
    """A colour image as contiguous uint8 (H, W, 3) RGB, whatever its rows are padded with."""
    if message.encoding not in _COLOUR:
        raise UserError(f'image encoding {message.encoding!r} is not a colour image known here; '
                        f'publish one of {", ".join(_COLOUR)}')
    pixels = _pixels(message)
    if message.encoding == 'mono8':
        return np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels[:, :, list(_COLOUR[message.encoding])])


def image_depth_m(message: Image) -> np.ndarray:
    """A depth image as float32 (H, W) metres (REP 118: 16UC1 is millimetres, 0 is nothing)."""
    if message.encoding not in ('16UC1', '32FC1'):
        raise UserError(f'depth encoding {message.encoding!r}; publish 16UC1 or 32FC1')
    pixels = _pixels(message)[:, :, 0].astype(np.float32)
    return pixels * np.float32(0.001) if message.encoding == '16UC1' else pixels


def _pixels(message: Image) -> np.ndarray:
    """(H, W, channels) view of an image's data, without its padding, in its own byte order."""
    kind, channels = _layout(message.encoding)
    dtype = np.dtype(kind).newbyteorder('>' if message.is_bigendian else '<')
    height, width, step = message.height, message.width, message.step
    row_bytes = width * channels * dtype.itemsize
    if height == 0 or width == 0 or step < row_bytes or len(message.data) < step * height:
        raise UserError(f'image of {width}x{height} {message.encoding} with step {step} and '
                        f'{len(message.data)} bytes does not add up: a row has {row_bytes} bytes')
    rows = np.frombuffer(message.data, np.uint8, count=step * height).reshape(height, step)
    rows = np.ascontiguousarray(rows[:, :row_bytes])
    return rows.view(dtype).reshape(height, width, channels)


def _layout(encoding: str) -> tuple[str, int]:
    if encoding not in _LAYOUT:
        raise UserError(f'image encoding {encoding!r} is not supported; use one of '
                        f'{", ".join(_LAYOUT)}')
    return _LAYOUT[encoding]


def _planar(pose) -> Pose:
    return Pose(pose.position.x, pose.position.y, yaw_rad(pose.orientation))
