"""Obstacles ahead: remembers what was seen and says what the base would run into.

Points are kept in the odometry frame, so that they stay where they are while the base moves on
between two scans.
"""
from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from .config import DEPTH, OBSTACLE_SOURCES, SCAN, DriverConfig
from .plan import Pose
from .readings import Readings

REMEMBERED_POSES = 500


@dataclass
class _Seen:
    """The newest readings of one source; `points` in the odometry frame."""

    points: np.ndarray
    stamp_ns: int
    heard_ns: int
    trouble: str


class Obstacles:
    """The sources of `obstacle_source`, the newest readings of each, and the rule."""

    def __init__(self, config: DriverConfig):
        self._config = config
        self._footprint = config.outline()
        self._min_points = {SCAN: config.scan_min_points, DEPTH: config.depth_min_points}
        self._seen: dict[str, _Seen | None] = dict.fromkeys(
            OBSTACLE_SOURCES[config.obstacle_source])
        self._poses: deque[tuple[int, Pose]] = deque(maxlen=REMEMBERED_POSES)

    def configure(self, config: DriverConfig):
        """Take other distances and times; outline and sources stay."""
        self._config = config

    def forget(self):
        """The clock or odometry jumped: nothing seen is where it was, or when it was."""
        self._seen = dict.fromkeys(self._seen)
        self._poses.clear()

    def hear_pose(self, stamp_ns: int, pose: Pose):
        """Note where the base was."""
        self._poses.append((stamp_ns, pose))

    def hear(self, now_ns: int, source: str, stamp_ns: int, readings: Readings):
        """Take the newest readings of a source; the same ones again are no news."""
        last = self._seen[source]
        if not self._poses or last is not None and last.stamp_ns == stamp_ns:
            return
        x_m, y_m, yaw = self._pose_at(stamp_ns)
        cos, sin = math.cos(yaw), math.sin(yaw)
        points = readings.points @ np.array([[cos, sin], [-sin, cos]]) + (x_m, y_m)
        self._seen[source] = _Seen(points, stamp_ns, now_ns, self._defect(source, readings))

    def trouble(self, now_ns: int) -> str | None:
        """Why the base sees too little to move, or None."""
        timeout_s = self._config.obstacle_timeout_s
        for source, seen in self._seen.items():
            if seen is None:
                return f'no {source} yet'
            if seen.trouble:
                return seen.trouble
            if (now_ns - seen.heard_ns) * 1e-9 > timeout_s:
                return f'the {source} is silent for more than {timeout_s:g} s'
            late_s = (seen.heard_ns - seen.stamp_ns) * 1e-9
            if abs(late_s) > timeout_s:
                return (f'the {source} is stamped {late_s:.2f} s before it came; synchronise the '
                        'clocks or set use_sim_time alike')
        return None

    def ahead(self, pose: Pose, linear_m_s: float, angular_rad_s: float) -> str | None:
        """What the base, at `pose`, would run into at these velocities, or None."""
        config = self._config
        speed_m_s = self._footprint.speed_m_s(linear_m_s, angular_rad_s)
        within_m = max(config.stop_distance_m, speed_m_s * config.time_to_collision_s)
        cos, sin = math.cos(pose.yaw_rad), math.sin(pose.yaw_rad)
        for source, seen in self._seen.items():
            if seen is None or not len(seen.points):
                continue
            points = (seen.points - pose[:2]) @ np.array([[cos, -sin], [sin, cos]])
            way_m = self._footprint.way_to_contact_m(
                points, linear_m_s, angular_rad_s, within_m, self._min_points[source])
            if way_m is not None:
                return f'obstacle {way_m:.2f} m ahead, seen by {source}'
        return None

    def age_s(self, now_ns: int) -> dict[str, float]:
        """Seconds since each source was heard; infinite before the first time."""
        return {source: math.inf if seen is None else (now_ns - seen.heard_ns) * 1e-9
                for source, seen in self._seen.items()}

    def _pose_at(self, stamp_ns: int) -> Pose:
        """Where the base was: odometry comes often enough not to be interpolated."""
        for pose_ns, pose in reversed(self._poses):
            if pose_ns <= stamp_ns:
                return pose
        return self._poses[0][1]

    def _defect(self, source: str, readings: Readings) -> str:
        if readings.defect:
            return readings.defect
        if readings.measured == 0:
            return f'the {source} measures nothing: all of it is nan or out of range'
        if readings.returns == 0 and self._config.stop_on_empty_scan:
            return (f'the {source} sees nothing, however far: it may be covered; in a room that '
                    'large set stop_on_empty_scan to false')
        return ''
