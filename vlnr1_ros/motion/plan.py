"""Plans: a list of poses on the wire, a list of actions inside.

``pose[0]`` is where the base was when the image was taken, ``pose[k]`` where it should be after
the k-th action. Poses are planar (REP 103: x forward, y left, yaw positive to the left).
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Iterable, NamedTuple, Sequence

from ..navigation.actions import Action, ActionSet
from ..navigation.errors import UserError

POSE_TOLERANCE = 1e-3  # metres and radians
LARGEST = 1e9

ACCEPTED, RUNNING, DONE, DROPPED = 'accepted', 'running', 'done', 'dropped'
HOLD, REPLACED = 'an empty plan asks to hold', 'replaced by a newer plan'
"""Reasons of a drop that the navigator wanted."""
STOPPED_BY_HAND = 'stopped by ~/stop'
"""Reason of a drop that ends the run: who stops a robot does not want it to go on by itself."""
EMERGENCY = 'emergency stop is engaged'
EMERGENCY_ENDS = f'{EMERGENCY}, which ends the run'
"""Reason of a drop where `resume_after_emergency` is false: somebody has to start anew."""
STARTED = 'the driver was started'
"""Reason of a drop that ends the runs begun before the status' stamp, which is then that of the
start: the driver of before was told of a pause or an emergency stop, this one knows of none."""

MAX_AGE_S, MAX_SHIFT_M, MAX_SHIFT_DEG = 5.0, 0.05, 5.0  # of a plan since its image, by default


class Pose(NamedTuple):
    """A place on the floor, in metres and radians."""

    x_m: float
    y_m: float
    yaw_rad: float

    def finite(self) -> bool:
        """Whether no number is NaN, infinite or so large that arithmetic would make it so."""
        return all(abs(value) <= LARGEST for value in self)

    def moved(self, forward_m: float, turn_rad: float) -> Pose:
        """The pose after driving straight, then turning on the spot."""
        return Pose(self.x_m + forward_m * math.cos(self.yaw_rad),
                    self.y_m + forward_m * math.sin(self.yaw_rad),
                    wrap(self.yaw_rad + turn_rad))

    def relative(self, other: Pose) -> Pose:
        """`other` as seen from this pose."""
        dx_m, dy_m = other.x_m - self.x_m, other.y_m - self.y_m
        cos, sin = math.cos(self.yaw_rad), math.sin(self.yaw_rad)
        return Pose(cos * dx_m + sin * dy_m, cos * dy_m - sin * dx_m,
                    wrap(other.yaw_rad - self.yaw_rad))

    def distance_m(self, other: Pose) -> float:
        """Straight-line distance to `other`."""
        return math.hypot(other.x_m - self.x_m, other.y_m - self.y_m)

    def turn_rad(self, other: Pose) -> float:
        """Absolute heading difference to `other`."""
        return abs(wrap(other.yaw_rad - self.yaw_rad))


def wrap(angle_rad: float) -> float:
    """The same angle within (-pi, pi]."""
    return math.atan2(math.sin(angle_rad), math.cos(angle_rad))


@dataclass(frozen=True)
class PlanStatus:
    """What became of a plan: `state` is accepted, running, done or dropped."""

    stamp_ns: int
    state: str
    executed: int
    of: int
    reason: str = ''


def encode(start: Pose, actions: Iterable[int], action_set: ActionSet) -> list[Pose]:
    """The poses of a plan that executes `actions` from `start`; one more pose than actions."""
    poses = [Pose(*start)]
    for action in actions:
        poses.append(poses[-1].moved(*action_set.displacement(action)))
    return poses


def decode(poses: Sequence[Pose], action_set: ActionSet) -> list[Action]:
    """Inverse of :func:`encode`.

    Raises UserError when a pose is not finite, or when two consecutive ones do not differ by
    exactly one action of `action_set` (to 1 mm and 1 mrad). No poses at all decode to no actions.
    """
    poses = [Pose(*pose) for pose in poses]
    for index, pose in enumerate(poses):
        if not pose.finite():
            raise UserError(f'pose {index} of the plan is not finite: {tuple(pose)}')
    if len(poses) == 1:
        raise UserError('the plan has one pose; send the starting pose and one pose an action, '
                        'or no pose at all to hold')
    expected = {action: Pose(0.0, 0.0, 0.0).moved(*action_set.displacement(action))
                for action in Action}
    actions = []
    for index in range(1, len(poses)):
        step = poses[index - 1].relative(poses[index])
        action = next((action for action, pose in expected.items()
                       if step.distance_m(pose) <= POSE_TOLERANCE
                       and step.turn_rad(pose) <= POSE_TOLERANCE), None)
        if action is None:
            raise UserError(
                f'pose {index} of the plan is {step.x_m:.3f} m ahead, {step.y_m:.3f} m aside and '
                f'turned {math.degrees(step.yaw_rad):.2f} degrees from the one before: not a '
                f'primitive of {action_set.forward_m:g} m and {action_set.turn_deg:g} degrees; '
                'use the same forward_m and turn_deg on both sides')
        actions.append(action)
    return actions


def check_stamp(stamp_ns: int, now_ns: int, last_stamp_ns: int, last_stop_ns: int,
                max_age_s: float = MAX_AGE_S) -> None:
    """Raise UserError when a plan comes out of turn: repeated, before a stop, or too old."""
    if stamp_ns <= last_stamp_ns:
        raise UserError('the plan is not newer than the last one')
    if stamp_ns < last_stop_ns:
        raise UserError('the plan is older than the last stop')
    age_s = (now_ns - stamp_ns) * 1e-9
    if age_s > max_age_s:
        raise UserError(f'the plan is too old: {age_s:.2f} s, at most {max_age_s:g} s '
                        '(plan_max_age_s)')


def check_shift(start: Pose, here: Pose, max_shift_m: float = MAX_SHIFT_M,
                max_shift_deg: float = MAX_SHIFT_DEG) -> None:
    """Raise UserError when the base is not where a plan starts."""
    moved_m, turned_deg = start.distance_m(here), math.degrees(start.turn_rad(here))
    if moved_m >= max_shift_m or turned_deg >= max_shift_deg:
        raise UserError(f'the base moved {moved_m:.3f} m and {turned_deg:.1f} degrees since '
                        'the image')


def check_frame(frame_id: str, odometry_frame_id: str) -> None:
    """Raise UserError when a plan is in another frame than odometry."""
    if frame_id != odometry_frame_id:
        raise UserError(f'the plan is in frame {frame_id!r}, odometry in {odometry_frame_id!r}')
