"""Driving one primitive, closed on odometry.

A primitive starts where the one before was meant to end, so that small errors are made up for and
do not add up; only when the base is not there (a push, a slide along a wall) does it start from
where the base is.

A base that cannot turn on the spot turns along an arc and never turns more sharply than that; the
heading a forward primitive ends with is then left to the next turn.
"""
from __future__ import annotations

import math

from ..navigation.errors import UserError
from .config import DriverConfig
from .plan import Pose, wrap
from .profile import Axis

REST_LINEAR_M_S = 0.03
REST_ANGULAR_RAD_S = 0.05
PROGRESS_M = 0.005
PROGRESS_RAD = math.radians(0.5)


class Blocked(UserError):
    """The base does not move although it is told to."""


class Drive:
    """Linear and angular velocity of the base, and the primitive it is executing."""

    def __init__(self, config: DriverConfig):
        self.linear, self.angular = Axis(0.0, 0.0, 0.0), Axis(0.0, 0.0, 0.0)
        self.configure(config)
        self._start = self._goal = None
        self._forward = False
        self._near_s = self._stalled_s = self._elapsed_s = 0.0
        self._best_m = self._best_rad = math.inf

    def configure(self, config: DriverConfig):
        """Take other limits and tolerances; the primitive in execution goes on."""
        self._config = config
        self._tolerance_rad = math.radians(config.tolerance_deg)
        self._radius_m = radius_m = config.min_turn_radius_m
        linear_m_s2, angular_rad_s = config.max_linear_m_s2, config.max_angular_rad_s
        angular_rad_s2 = config.max_angular_rad_s2
        if radius_m:   # both axes keep their limits whatever arc they share
            linear_m_s2 = min(linear_m_s2, angular_rad_s2 * radius_m)
            angular_rad_s2 = linear_m_s2 / radius_m
            angular_rad_s = min(angular_rad_s, config.max_linear_m_s / radius_m)
        self.linear.limit(config.max_linear_m_s, linear_m_s2, config.reaction_s)
        self.angular.limit(angular_rad_s, angular_rad_s2, config.reaction_s)

    def begin(self, pose: Pose, forward_m: float, turn_rad: float):
        """Start a primitive of `forward_m` or `turn_rad`, the base being at `pose`."""
        at_goal = (self._goal is not None
                   and pose.distance_m(self._goal) <= self._config.tolerance_m
                   and pose.turn_rad(self._goal) <= self._tolerance_rad)
        self._start = self._goal if at_goal else pose
        # The chord of an arc lies halfway between its ends' headings.
        chord_m = 2.0 * self._radius_m * math.sin(0.5 * abs(turn_rad))
        self._goal = self._start.moved(forward_m, 0.5 * turn_rad).moved(chord_m, 0.5 * turn_rad)
        self._forward = forward_m != 0.0
        self._near_s = self._stalled_s = self._elapsed_s = 0.0
        self._best_m = self._best_rad = math.inf

    def remaining(self, pose: Pose) -> tuple[float, float]:
        """(metres ahead on the primitive's line, radians to the left) from `pose` to the goal."""
        turn_rad = wrap(self._goal.yaw_rad - pose.yaw_rad)
        if not self._forward:
            return 0.0, turn_rad
        cos, sin = math.cos(self._start.yaw_rad), math.sin(self._start.yaw_rad)
        return (cos * (self._goal.x_m - pose.x_m) + sin * (self._goal.y_m - pose.y_m), turn_rad)

    def step(self, pose: Pose, speed_m_s: float, speed_rad_s: float, dt_s: float) -> bool:
        """Update the velocities for the next `dt_s`; True when the primitive has ended.

        `speed_m_s` and `speed_rad_s` are measured. Raises Blocked when the base makes no progress.
        """
        ahead_m, turn_rad = self.remaining(pose)
        turned = abs(turn_rad) <= self._tolerance_rad or self._forward and self._radius_m > 0.0
        near = ahead_m <= self._config.tolerance_m and turned
        self._near_s = self._near_s + dt_s if near else 0.0
        self._approach(ahead_m, turn_rad, dt_s)
        if near and (self._near_s > self._config.settle_s
                     or self._at_rest(speed_m_s, speed_rad_s)):
            return True
        if not near:
            self._watch_progress(ahead_m, abs(turn_rad), dt_s)
        return False

    def _approach(self, ahead_m: float, turn_rad: float, dt_s: float):
        # Never backwards: nothing looks behind, and an overshoot this small needs no correction.
        if self._forward or not self._radius_m:
            self.linear.approach(max(ahead_m, 0.0), dt_s)
            self.angular.approach(turn_rad, dt_s)
        else:
            self.angular.approach(turn_rad, dt_s)
            self.linear.ramp(abs(self.angular.velocity) * self._radius_m, dt_s)
        if self._radius_m:
            sharpest = self.linear.velocity / self._radius_m
            self.angular.velocity = min(max(self.angular.velocity, -sharpest), sharpest)

    def brake(self, dt_s: float):
        """Slow down within the limits."""
        self.linear.ramp(0.0, dt_s)
        self.angular.ramp(0.0, dt_s)

    def scale(self, factor: float):
        """Multiply both velocities, past the acceleration limits; a curve keeps its shape."""
        self.linear.velocity *= factor
        self.angular.velocity *= factor

    def _at_rest(self, speed_m_s, speed_rad_s) -> bool:
        return (max(abs(self.linear.velocity), abs(speed_m_s)) <= REST_LINEAR_M_S
                and max(abs(self.angular.velocity), abs(speed_rad_s)) <= REST_ANGULAR_RAD_S)

    def _watch_progress(self, ahead_m, turn_rad, dt_s):
        self._elapsed_s += dt_s
        if self._elapsed_s > self._config.time_allowance_s:
            raise Blocked(f'blocked: not done after {self._config.time_allowance_s:g} s '
                          '(time_allowance_s)')
        if ahead_m < self._best_m - PROGRESS_M or turn_rad < self._best_rad - PROGRESS_RAD:
            self._best_m = min(self._best_m, ahead_m)
            self._best_rad = min(self._best_rad, turn_rad)
            self._stalled_s = 0.0
            return
        self._stalled_s += dt_s
        if self._stalled_s > self._config.stall_timeout_s:
            raise Blocked(f'blocked: no progress for {self._stalled_s:.1f} s with '
                          f'{max(ahead_m, 0.0):.2f} m and {math.degrees(turn_rad):.0f} degrees '
                          'to go')
