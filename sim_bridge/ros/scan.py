"""Depth images as a robot's depth camera and laser scanner give them (REP 117, REP 118)."""
from __future__ import annotations

import math

import numpy as np

from vlnr1_ros.navigation.camera import Camera


def with_infinities(depth_m: np.ndarray, max_m: float) -> np.ndarray:
    """Depth (H, W) float32 in which nothing seen (0), or nothing up to `max_m`, is +inf."""
    return np.where((depth_m <= 0) | (depth_m >= max_m), np.float32(np.inf), depth_m)


class DepthScan:
    """A planar scan from the depth image of a level camera that looks along x.

    Every beam has the horizontal distance to the nearest thing between two heights above the
    floor, anywhere in its columns. Beams are as wide as the widest column, so none is empty.
    Angles are in radians, positive to the left, of the beams' centres; first the rightmost.
    """

    def __init__(self, camera: Camera, min_height_m: float, max_height_m: float,
                 range_max_m: float):
        hfov_rad = math.radians(camera.hfov_deg)
        self.beams = max(1, math.floor(hfov_rad / (2 * math.atan(0.5 / camera.fx))))
        self.increment_rad = hfov_rad / self.beams
        self.angle_min_rad = -hfov_rad / 2 + self.increment_rad / 2
        self.angle_max_rad = -self.angle_min_rad
        self.range_max_m = range_max_m
        # Pixel centres; columns from right to left, as the beams go.
        right = (np.arange(camera.width)[::-1] + 0.5 - camera.width / 2) / camera.fx
        below = (np.arange(camera.height) + 0.5 - camera.height / 2) / camera.fx
        self._lengthening = np.sqrt(1 + right ** 2).astype(np.float32)
        beam_of = ((np.arctan(-right) + hfov_rad / 2) / self.increment_rad).astype(int)
        self._first = np.searchsorted(beam_of, np.arange(self.beams))
        # A pixel's height is camera height - below * depth, so that every row has a nearest and a
        # farthest depth at which that is within the limits.
        with np.errstate(divide='ignore', invalid='ignore'):
            low = (camera.height_m - max_height_m) / below
            high = (camera.height_m - min_height_m) / below
        self._nearest = np.fmax(0, np.fmin(low, high)).astype(np.float32)[:, None]
        self._farthest = np.fmax(low, high).astype(np.float32)[:, None]

    def ranges(self, depth_m: np.ndarray) -> np.ndarray:
        """float32 (beams,) metres; +inf where nothing is within `range_max_m`.

        depth_m: float32 (H, W), +inf where nothing was seen.
        """
        inside = (depth_m > self._nearest) & (depth_m < self._farthest)
        column = np.where(inside, depth_m, np.float32(np.inf)).min(axis=0)
        ranges = np.minimum.reduceat(column[::-1] * self._lengthening, self._first)
        return np.where(ranges > self.range_max_m, np.float32(np.inf), ranges)
