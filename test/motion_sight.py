"""What a scanner on a simulated base sees, in a world of round things; no ROS."""
import math
from collections import deque

import numpy as np
from motion_loop import PERIOD_NS, Base, Loop

from vlnr1_ros.motion.config import SCAN
from vlnr1_ros.motion.plan import Pose
from vlnr1_ros.motion.readings import scan_readings

RANGE_MAX_M = 8.0
INCREMENT_RAD = math.radians(1.0)
BEAMS = -math.pi + INCREMENT_RAD * np.arange(360)
ROUND = np.stack([np.cos(BEAMS[::4]), np.sin(BEAMS[::4])])


def ray_cast(pose, centres, radii):
    """(360,) ranges of beams from a pose, counted from behind it, +inf where nothing is."""
    angles = pose.yaw_rad + BEAMS
    direction = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    to_centre = np.asarray(centres, float).reshape(-1, 2) - pose[:2]
    along = direction @ to_centre.T
    aside_2 = (to_centre ** 2).sum(axis=1) - along ** 2
    half_2 = np.asarray(radii, float) ** 2 - aside_2
    ranges = np.where((half_2 > 0) & (along > 0), along - np.sqrt(np.maximum(half_2, 0)), np.inf)
    nearest = ranges.min(axis=1, initial=np.inf)
    return np.where(nearest <= RANGE_MAX_M, nearest, np.inf)


class BrakingBase(Base):
    """A base that also slows down no faster than it can."""

    def __init__(self, decel_m_s2, **kwargs):
        super().__init__(**kwargs)
        self.decel_m_s2 = decel_m_s2
        self.wheels = 0.0

    def drive(self, linear, angular):
        self.wheels = max(linear, self.wheels - self.decel_m_s2 * self.dt_s)
        super().drive(self.wheels, angular)


class SeeingLoop(Loop):
    """Closed loop with a scan of `scan_every` periods that comes `scan_delay` periods late."""

    def __init__(self, config, base=None, centres=(), radii=(), scan_every=5, scan_delay=4,
                 noise_m=0.0, seed=0):
        self.centres, self.radii = list(centres), list(radii)
        self.scan_every, self.noise_m = scan_every, noise_m
        self.rng = np.random.default_rng(seed)
        self.pending = deque([None] * scan_delay)
        self.spoil = lambda ranges: ranges
        super().__init__(config, base)
        self.tick(scan_delay + scan_every)

    def tick(self, count=1):
        for _ in range(count):
            self._scan()
            super().tick()

    def _scan(self):
        stamp_ns = self.now_ns + PERIOD_NS
        seen = None
        if stamp_ns // PERIOD_NS % self.scan_every == 0:
            ranges = ray_cast(self.base.pose, self.centres, self.radii)
            ranges = self.spoil(ranges + self.rng.normal(0.0, self.noise_m, len(ranges)))
            seen = None if ranges is None else (stamp_ns, ranges)
        self.pending.append(seen)
        due = self.pending.popleft()
        if due is not None:
            readings = scan_readings(self.config, due[1], -math.pi, INCREMENT_RAD, 0.05,
                                     RANGE_MAX_M)
            self.driver.hear_readings(stamp_ns, SCAN, due[0], readings)

    def clearance_m(self, outline):
        """Distance of the footprint to the nearest thing."""
        nearest = math.inf
        for (x_m, y_m), radius_m in zip(self.centres, self.radii):
            cos, sin = math.cos(self.base.pose.yaw_rad), math.sin(self.base.pose.yaw_rad)
            dx = x_m + radius_m * ROUND[0] - self.base.pose.x_m
            dy = y_m + radius_m * ROUND[1] - self.base.pose.y_m
            nearest = min(nearest, outline.distance_m(cos * dx + sin * dy,
                                                      cos * dy - sin * dx).min())
        return nearest


def ahead_of(pose: Pose, forward_m: float, left_m: float = 0.0):
    """A point of the floor as seen from a pose."""
    cos, sin = math.cos(pose.yaw_rad), math.sin(pose.yaw_rad)
    return (pose.x_m + cos * forward_m - sin * left_m, pose.y_m + sin * forward_m + cos * left_m)
