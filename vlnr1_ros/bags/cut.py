"""A recorded run as frames and actions: motion cut into primitives, frames matched by time.

The primitives are those of ``motion.cut``, which also cuts what the navigator sees of motion it
did not ask for. The frame after a primitive is the first image stamped at or after its end.
"""
from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Sequence

from ..motion.cut import Cutter
from ..motion.plan import Pose
from ..motion.safety import Odometry
from ..navigation.actions import Action, ActionSet

MAX_ODOM_GAP_S = 0.5
"""Without odometry for longer, the motion in between is not known."""
MAX_IMAGE_AGE_S = 0.5
"""An image this much later than the end of a primitive shows something else."""
MAX_SPEED_M_S, MAX_TURN_RAD_S = 3.0, 6.0
JUMP_M, JUMP_RAD = 0.05, math.radians(3.0)
"""More than these speeds, and this on top, and odometry jumped."""
ARRIVED_SHARE = 0.02
"""A primitive ends where the base is nearest to its goal, up to this share of it."""


@dataclass(frozen=True)
class Bad:
    """A stretch that cannot be used, from and to in ns, and why."""

    from_ns: int
    to_ns: int
    reason: str


@dataclass
class Piece:
    """Motion without a bad stretch: frame k was seen before action k, one more at the end.

    frames_ns: stamps of images. to_the_end: whether the run ended with it.
    """

    frames_ns: list[int]
    actions: list[Action] = field(default_factory=list)
    to_the_end: bool = False


def cut_run(odometry: Sequence[Odometry], images_ns: Sequence[int],
            action_set: ActionSet) -> tuple[list[Piece], list[Bad]]:
    """Pieces and bad stretches of one run, each in order.

    images_ns: ascending stamps of its images, the first being the one the run begins with.
    """
    pieces: list[Piece] = []
    bad: list[Bad] = []
    # what is not finite is no message: where there are many, odometry is missing
    rest = [o for o in odometry if o.pose.finite()]
    start_ns = images_ns[0] if len(images_ns) else 0
    while True:
        begin = _first_image(images_ns, start_ns)
        rest = [o for o in rest if begin is not None and o.stamp_ns >= begin]
        if not rest:
            break
        piece, trouble, rest = _piece(rest, begin, images_ns, action_set)
        pieces.append(piece)
        if trouble is None:
            piece.to_the_end = True
            break
        bad.append(trouble)
        start_ns = trouble.to_ns
    return [piece for piece in pieces if piece.actions], _merged(bad, pieces)


def split(piece: Piece, unusable: dict[int, str]) -> tuple[list[Piece], list[Bad]]:
    """A piece without some of its frames: {index of a frame: why it cannot be used}.

    What is left without an action between two frames is left out too.
    """
    pieces, bad, begin = [], [], 0
    for k in sorted(unusable):
        pieces.append(Piece(piece.frames_ns[begin:k], piece.actions[begin:max(k - 1, begin)]))
        bad.append(Bad(piece.frames_ns[max(k - 1, 0)], piece.frames_ns[k], unusable[k]))
        begin = k + 1
    pieces.append(Piece(piece.frames_ns[begin:], piece.actions[begin:], piece.to_the_end))
    return [piece for piece in pieces if piece.actions], bad


def _piece(odometry, begin_ns, images_ns, action_set):
    """(piece, the bad stretch that ended it or None, odometry after that)."""
    driven, trouble, rest = _driven(odometry, action_set)
    piece = Piece([begin_ns])
    ends = [cut[1] for cut in driven[1:]] + [len(odometry) - len(rest) - 1]
    for (action, first, goal), last in zip(driven, ends):
        end_ns = _end_ns(odometry[first:last + 1], goal, action_set)
        image_ns = _first_image(images_ns, end_ns)
        late_s = math.inf if image_ns is None else (image_ns - end_ns) * 1e-9
        if late_s > MAX_IMAGE_AGE_S or image_ns == piece.frames_ns[-1]:
            to_ns = odometry[-1].stamp_ns if image_ns is None else max(image_ns, end_ns + 1)
            reason = (f'no image for {late_s:.1f} s after a step' if late_s < math.inf
                      else 'no image any more')
            return piece, Bad(piece.frames_ns[-1], to_ns, reason), odometry
        piece.actions.append(action)
        piece.frames_ns.append(image_ns)
    return piece, trouble, rest


def _driven(odometry, action_set):
    """([(action, index at which it counted, goal)], bad stretch or None, what is left)."""
    cutter = Cutter(action_set, odometry[0].pose)
    driven: list[tuple[Action, int, Pose]] = []
    last = odometry[0]
    for index, now in enumerate(odometry):
        reason = _trouble(last, now)
        cut = [] if reason else cutter.add(now.pose)
        if None in cut:
            reason = 'driven backwards or sideways'
        elif len(cut) > 1:
            reason = 'odometry jumped, or comes too rarely'
        if reason:
            from_ns = odometry[driven[-1][1]].stamp_ns if driven else odometry[0].stamp_ns
            return driven, Bad(min(from_ns, now.stamp_ns), now.stamp_ns, reason), \
                odometry[index:]
        driven += [(action, index, cutter.reached) for action in cut]
        last = now
    return driven, None, []


def _trouble(last: Odometry, now: Odometry) -> str:
    """Why the motion between two messages cannot be relied on; empty when it can."""
    dt_s = (now.stamp_ns - last.stamp_ns) * 1e-9
    if dt_s < 0.0:
        return 'odometry went back in time'
    moved_m, turned_rad = last.pose.distance_m(now.pose), last.pose.turn_rad(now.pose)
    if moved_m <= JUMP_M and turned_rad <= JUMP_RAD:
        return ''
    if dt_s > MAX_ODOM_GAP_S:
        return f'no odometry for {dt_s:.1f} s'
    if moved_m > JUMP_M + MAX_SPEED_M_S * dt_s or turned_rad > JUMP_RAD + MAX_TURN_RAD_S * dt_s:
        return f'odometry jumped {moved_m:.2f} m and {math.degrees(turned_rad):.0f} degrees'
    return ''


def _end_ns(odometry, goal: Pose, action_set: ActionSet) -> int:
    """When the base was where a primitive ends, as near as it came."""
    forward_m, _ = action_set.displacement(Action.MOVE_FORWARD)
    _, turn_rad = action_set.displacement(Action.TURN_LEFT)
    ways = [max(o.pose.distance_m(goal) / forward_m, o.pose.turn_rad(goal) / turn_rad)
            for o in odometry]
    near = min(ways) + ARRIVED_SHARE
    return next(o.stamp_ns for o, way in zip(odometry, ways) if way <= near)


def _first_image(images_ns, from_ns) -> int | None:
    index = bisect_left(images_ns, from_ns)
    return int(images_ns[index]) if index < len(images_ns) else None


def _merged(bad: list[Bad], pieces: list[Piece]) -> list[Bad]:
    """Stretches of the same reason with nothing driven between them are one."""
    merged: list[Bad] = []
    for k, stretch in enumerate(bad):
        if merged and merged[-1].reason == stretch.reason and not pieces[k].actions:
            merged[-1] = Bad(merged[-1].from_ns, stretch.to_ns, stretch.reason)
        else:
            merged.append(stretch)
    return merged
