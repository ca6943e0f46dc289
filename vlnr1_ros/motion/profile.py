"""Velocity of one axis: limited in speed and acceleration, closed on the distance left."""
from __future__ import annotations

import math


def braking_speed(distance: float, acceleration: float, reaction_s: float) -> float:
    """The speed from which a base that reacts `reaction_s` late still stops within `distance`.

    Stopping distance d = v t + v^2 / (2 a), solved for v. Far away this is the trapezoid's
    sqrt(2 a d), close by it becomes d / t, so the end is approached without chatter.
    """
    lead = acceleration * reaction_s
    return math.sqrt(lead * lead + 2.0 * acceleration * distance) - lead


class Axis:
    """Commanded velocity of one axis, in metres or radians a second.

    The acceleration limit holds between any two calls, whatever is asked for, except for
    :meth:`halt`.
    """

    def __init__(self, max_velocity: float, max_acceleration: float, reaction_s: float):
        self.velocity = 0.0
        self.limit(max_velocity, max_acceleration, reaction_s)

    def limit(self, max_velocity: float, max_acceleration: float, reaction_s: float):
        """Take other limits; a velocity above them is left to the caller."""
        self.max_velocity = max_velocity
        self.max_acceleration = max_acceleration
        self.reaction_s = reaction_s

    def approach(self, remaining: float, dt_s: float) -> float:
        """Velocity for the next `dt_s`, to come to rest after `remaining` (signed)."""
        speed = braking_speed(abs(remaining), self.max_acceleration, self.reaction_s)
        return self.ramp(math.copysign(min(speed, self.max_velocity), remaining), dt_s)

    def ramp(self, target: float, dt_s: float) -> float:
        """Velocity for the next `dt_s`, on the way to `target` within the limits."""
        change = self.max_acceleration * dt_s
        self.velocity += min(max(target - self.velocity, -change), change)
        return self.velocity

    def halt(self):
        """Zero at once, past the acceleration limit."""
        self.velocity = 0.0
