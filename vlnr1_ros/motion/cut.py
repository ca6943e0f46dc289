"""Motion without a plan (a push, teleoperation) cut into primitives by odometry.

The navigator's history and recorded runs are cut by the same rule, so that a model sees motion
it did not command as it sees its own.
"""
from __future__ import annotations

import math

from ..navigation.actions import Action, ActionSet
from .plan import Pose, wrap

CUT_SHARE = 0.8
"""Of a primitive: a base that moved less still sees what it saw."""
AHEAD_RAD = math.radians(60.0)
"""Motion further off the heading is no step forward."""
MOST_AT_ONCE = 4
"""Primitives between two poses; more is a jump of odometry."""


class Cutter:
    """Tells which primitives a base has driven, pose by pose.

    A primitive counts from 0.8 of its length on, and the next one is measured from where the whole
    one would have ended: a metre is four steps of 25 cm, not five of 20 cm.
    """

    def __init__(self, action_set: ActionSet, start: Pose):
        self._forward_m, _ = action_set.displacement(Action.MOVE_FORWARD)
        _, self._turn_rad = action_set.displacement(Action.TURN_LEFT)
        self._from = start

    @property
    def reached(self) -> Pose:
        """Where the last whole primitive ended: the next one is measured from here."""
        return self._from

    def add(self, pose: Pose) -> list[Action | None]:
        """Primitives completed with this pose, oldest first.

        None among them is motion that no primitive describes: backwards, sideways, a jump.
        """
        if not pose.finite():
            return []
        cut: list[Action | None] = []
        while (action := self._next(pose)) is not False:
            if action is None or len(cut) == MOST_AT_ONCE:
                self._from = pose
                return [None] if len(cut) == MOST_AT_ONCE else cut + [None]
            cut.append(action)
        return cut

    def _next(self, pose: Pose) -> Action | None | bool:
        """The next primitive on the way to `pose`, None for none of them, False when arrived."""
        way = self._from.relative(pose)
        distance_m = math.hypot(way.x_m, way.y_m)
        forward_share = distance_m / self._forward_m
        turn_share = abs(way.yaw_rad) / self._turn_rad
        if max(forward_share, turn_share) < CUT_SHARE:
            return False
        x_m, y_m, yaw_rad = self._from
        if turn_share >= forward_share:
            left = way.yaw_rad > 0
            turn_rad = self._turn_rad if left else -self._turn_rad
            self._from = Pose(x_m, y_m, wrap(yaw_rad + turn_rad))
            return Action.TURN_LEFT if left else Action.TURN_RIGHT
        # in a curve the base drives along a heading between the two
        if abs(wrap(math.atan2(way.y_m, way.x_m) - way.yaw_rad / 2)) > AHEAD_RAD:
            return None
        share = self._forward_m / distance_m
        self._from = Pose(x_m + share * (pose.x_m - x_m), y_m + share * (pose.y_m - y_m), yaw_rad)
        return Action.MOVE_FORWARD
