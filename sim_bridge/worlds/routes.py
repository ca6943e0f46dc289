"""What happens along a shortest path: doors crossed, turns, landmarks passed.

A route is the path's dense points, (K, 2) x and z in metres, STEP_M apart. Signed angles are
degrees, positive to the left.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sim_bridge.frames import heading, wrap
from sim_bridge.worlds.rooms import box_distance, room_at

STEP_M = 0.05
BEFORE_DOOR_M = 0.7
AFTER_DOOR_M = (0.6, 1.6)
STRAIGHT_DEG = 20.0
TURN_DEG = (40.0, 150.0)
PASS_DISTANCE_M = 1.3
PASS_MARGIN_M = 0.6
PASS_BEARING_DEG = (50.0, 130.0)
LOOK_BACK_M = (0.8, 1.4)


@dataclass(frozen=True)
class Crossing:
    """The route enters room `after` from room `before` at point number `index`."""
    index: int
    before: int
    after: int


@dataclass(frozen=True)
class Passing:
    """A piece left behind on a side ('left' or 'right'), nearest at point number `index`."""
    piece: object
    index: int
    side: str


def dense(points):
    """Points (N, 3) of a path as route (K, 2)."""
    points = np.asarray(points, float)[:, [0, 2]]
    lengths = np.linalg.norm(np.diff(points, axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    count = max(2, int(round(along[-1] / STEP_M)) + 1)
    at = np.linspace(0.0, along[-1], count)
    return np.stack([np.interp(at, along, points[:, k]) for k in (0, 1)], axis=1)


def crossings(route, rooms):
    """Every change of room along the route, in order."""
    found, now = [], room_at(rooms, *route[0])
    for index, point in enumerate(route):
        here = room_at(rooms, *point)
        if here is not None and here != now:
            found.append(Crossing(index, now, here))
            now = here
    return found


def direction(route, start, end):
    """Heading (yaw) from point number start to end, both cut to the route; None when too near."""
    start, end = (min(max(0, k), len(route) - 1) for k in (start, end))
    step = route[end] - route[start]
    if end <= start or math.hypot(*step) < 0.3:
        return None
    return heading(step[0], step[1])


def turn_at(route, index):
    """Signed degrees between the headings before and after a door; None too near an end."""
    before = direction(route, index - round(BEFORE_DOOR_M / STEP_M), index)
    after = direction(route, *(index + round(d / STEP_M) for d in AFTER_DOOR_M))
    if before is None or after is None:
        return None
    return math.degrees(wrap(after - before))


def side_of(angle_deg):
    """'left', 'right', 'straight', or None where a person would hesitate."""
    if angle_deg is None:
        return None
    if abs(angle_deg) < STRAIGHT_DEG:
        return 'straight'
    if TURN_DEG[0] < abs(angle_deg) < TURN_DEG[1]:
        return 'left' if angle_deg > 0 else 'right'
    return None


def passings(route, room, first, last, pieces):
    """Pieces of the room walked past between two point numbers, in order."""
    margin = round(PASS_MARGIN_M / STEP_M)
    found = []
    for piece in pieces:
        if piece.room != room:
            continue
        gaps = [box_distance(piece.box, *route[k]) for k in range(first, last + 1)]
        index = first + int(np.argmin(gaps))
        if gaps[index - first] > PASS_DISTANCE_M:
            continue
        if not first + margin <= index <= last - margin:
            continue
        ahead = direction(route, index - 6, index + 6)
        if ahead is None:
            continue
        offset = np.array(piece.centre) - route[index]
        bearing = math.degrees(wrap(heading(offset[0], offset[1]) - ahead))
        if PASS_BEARING_DEG[0] < abs(bearing) < PASS_BEARING_DEG[1]:
            found.append(Passing(piece, index, 'left' if bearing > 0 else 'right'))
    return sorted(found, key=lambda p: p.index)
