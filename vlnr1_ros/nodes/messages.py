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
from nav_msgs.msg import Path
from sensor_msgs.msg import Image

# The way back is read from recordings too, where there is no ROS.
from ..bags.values import (  # noqa: F401
    NS,
    image_depth_m,
    image_layout,
    image_rgb,
    odometry,
    parse_plan_status,
    path_poses,
    time_ns,
    yaw_rad,
)
from ..motion.plan import PlanStatus, Pose
from ..navigation.errors import UserError

PLAN_STATUS_NAME = 'plan'


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


def image(frame: np.ndarray, encoding: str, stamp_ns: int, frame_id: str) -> Image:
    """A frame as sensor_msgs/Image: uint8 (H, W, channels), or (H, W) for mono8, 16UC1, 32FC1."""
    kind, channels = image_layout(encoding)
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
