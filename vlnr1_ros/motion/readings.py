"""What a laser scanner or a depth camera sees, as points on the floor around the base.

REP 117: +inf is free space, -inf something too near to measure, NaN and whatever is out of range
no measurement. REP 118: depth 0 is no measurement.
"""
from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..navigation.errors import UserError
from .config import DriverConfig

DEPTH_COLUMNS, DEPTH_ROWS = 80, 60
TOO_NEAR_M = 0.1
"""Where a depth camera's -inf is taken to be."""
LARGEST = 1e6
"""Metres or radians; what is larger is garbage, and arithmetic could make it infinite."""


class Readings(NamedTuple):
    """points: (N, 2) metres in the base's frame, all finite.

    measured: beams or pixels that tell anything, free space among it; returns: those that hit
    something, the floor too; defect: why the message can not be used, empty when it can.
    """

    points: np.ndarray
    measured: int
    returns: int
    defect: str = ''


def defective(defect: str) -> Readings:
    """Readings of a message that can not be used."""
    return Readings(np.empty((0, 2)), 0, 0, defect)


def scan_readings(config: DriverConfig, ranges_m, angle_min_rad: float, increment_rad: float,
                  range_min_m: float, range_max_m: float) -> Readings:
    """Of a planar scan, from the fields of sensor_msgs/LaserScan."""
    ranges_m = np.asarray(ranges_m, dtype=float)
    if not (abs(angle_min_rad) <= LARGEST and abs(increment_rad) <= LARGEST):
        return defective(f'the scan begins at {angle_min_rad} rad, a beam every {increment_rad}')
    near = np.isneginf(ranges_m)
    ranges_m = np.where(near, range_min_m, ranges_m)
    hit = (ranges_m >= range_min_m) & (ranges_m <= range_max_m) & (np.abs(ranges_m) <= LARGEST)
    angles = (angle_min_rad + increment_rad * np.flatnonzero(hit)
              + math.radians(config.scan_yaw_deg))
    points = np.stack([config.scan_x_m + ranges_m[hit] * np.cos(angles),
                       config.scan_y_m + ranges_m[hit] * np.sin(angles)], axis=1)
    returns = int(hit.sum())
    return Readings(points, returns + int(np.isposinf(ranges_m).sum()), returns)


class DepthCamera:
    """Turns depth images into readings.

    fx, fy, cx, cy: of an undistorted image of `width` x `height` pixels (sensor_msgs/CameraInfo).
    UserError when they are those of no camera.
    """

    def __init__(self, config: DriverConfig, width: int, height: int, fx: float, fy: float,
                 cx: float, cy: float):
        if not (all(map(math.isfinite, (fx, fy, cx, cy))) and fx > 0 and fy > 0):
            raise UserError(f'depth/camera_info has fx {fx}, fy {fy}: calibrate the depth camera')
        self._config, self._shape = config, (height, width)
        self._rows = slice(None, None, math.ceil(height / DEPTH_ROWS))
        self._columns = slice(None, None, math.ceil(width / DEPTH_COLUMNS))
        right = (np.arange(width)[self._columns] - cx)[None, :] / fx
        down = (np.arange(height)[self._rows] - cy)[:, None] / fy
        pitch, yaw = math.radians(config.depth_pitch_deg), math.radians(config.depth_yaw_deg)
        # Of every pixel's ray, a metre deep: ahead, to the left and up, with the camera's tilt.
        ahead = math.cos(pitch) - math.sin(pitch) * down + 0.0 * right
        self._up = -math.sin(pitch) - math.cos(pitch) * down + 0.0 * right
        self._x = math.cos(yaw) * ahead + math.sin(yaw) * right
        self._y = math.sin(yaw) * ahead - math.cos(yaw) * right

    def readings(self, depth_m: np.ndarray) -> Readings:
        """Of an image (H, W), float metres along the optical axis."""
        if depth_m.shape != self._shape:
            return defective(f'a depth image of {depth_m.shape[1]}x{depth_m.shape[0]} with a '
                             f'camera_info of {self._shape[1]}x{self._shape[0]}')
        depth_m = depth_m[self._rows, self._columns].astype(float)
        depth_m[np.isneginf(depth_m)] = TOO_NEAR_M
        config = self._config
        with np.errstate(invalid='ignore'):
            hit = (depth_m > 0) & (depth_m <= LARGEST)
            height_m = config.depth_z_m + depth_m * self._up
            tall = hit & (height_m >= config.depth_min_height_m) & (
                height_m <= config.depth_max_height_m)
        points = np.stack([config.depth_x_m + (depth_m * self._x)[tall],
                           config.depth_y_m + (depth_m * self._y)[tall]], axis=1)
        returns = int(hit.sum())
        return Readings(points, returns + int(np.isposinf(depth_m).sum()), returns)
