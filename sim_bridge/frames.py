"""Poses: habitat's frame, ROS's frame (REP 103), quaternions.

Habitat: metres, Y up, forward is -Z; yaw about +Y, positive to the left, 0 looks along -Z.
ROS: X forward, Y left, Z up, so that x_ros = -z, y_ros = -x and the yaw is the same number.
"""
from __future__ import annotations

import math

import numpy as np


def to_ros(x: float, z: float, yaw_rad: float) -> tuple[float, float, float]:
    """Habitat's (x, z, yaw) on the floor as ROS's (x, y, yaw); metres and radians."""
    return -z, -x, wrap(yaw_rad)


def from_ros(x: float, y: float, yaw_rad: float) -> tuple[float, float, float]:
    """ROS's (x, y, yaw) as habitat's (x, z, yaw); the inverse of `to_ros`."""
    return -y, -x, wrap(yaw_rad)


def wrap(angle_rad: float) -> float:
    """The same angle in (-pi, pi]."""
    wrapped = math.remainder(angle_rad, 2.0 * math.pi)
    return math.pi if wrapped == -math.pi else wrapped


def forward(yaw_rad: float) -> np.ndarray:
    """Unit vector (3,) an agent with this yaw looks along."""
    return np.array([-math.sin(yaw_rad), 0.0, -math.cos(yaw_rad)])


def heading(dx: float, dz: float) -> float:
    """Yaw in radians that looks along the horizontal vector (dx, dz)."""
    return math.atan2(-dx, -dz)


def yaw_to_xyzw(yaw_rad: float) -> tuple[float, float, float, float]:
    """Habitat's rotation for a yaw, as quaternion coefficients x, y, z, w."""
    return 0.0, math.sin(yaw_rad / 2.0), 0.0, math.cos(yaw_rad / 2.0)


def yaw_from_xyzw(x: float, y: float, z: float, w: float) -> float:
    """Yaw of a rotation in habitat's frame, read from where it turns -Z.

    Tilt does not disturb it; a rotation that looks straight up or down has no yaw (0).
    """
    return heading(-2.0 * (x * z + w * y), -(1.0 - 2.0 * (x * x + y * y)))
