"""Floor plans: named rectangular rooms, the doors between them, the walls around them.

Rooms fill a rectangle in bands, so no ground is left outside a room that a navigation mesh could
take for floor. Metres in the horizontal plane (x, z) of habitat's frame; the floor is y = 0.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

WALL_THICKNESS_M = 0.12
WALL_HEIGHT_M = 2.6
DOOR_HEIGHT_M = 2.1
ROOM_SIDE_M = (3.0, 4.6)
DOOR_WIDTH_M = (1.0, 1.2)
DOOR_CORNER_M = 0.3

ROOM_NAMES = ('kitchen', 'bedroom', 'bathroom', 'living room', 'study', 'hallway', 'dining room',
              'nursery', 'laundry room', 'playroom')

# Rooms a band; every list has a band width all its bands can share within ROOM_SIDE_M.
BANDS = {3: [(3,)], 4: [(2, 2)], 5: [(2, 3), (3, 2)], 6: [(3, 3), (2, 2, 2)],
         7: [(3, 4), (4, 3)], 8: [(4, 4), (3, 2, 3)]}


class LayoutError(ValueError):
    """A drawn layout breaks a rule; the caller draws another one."""


@dataclass(frozen=True)
class Room:
    """A rectangle between the centre lines of its walls."""
    name: str
    x0: float
    z0: float
    x1: float
    z1: float

    @property
    def box(self):
        """[x0, z0, x1, z1] between the centre lines of its walls."""
        return [self.x0, self.z0, self.x1, self.z1]

    def contains(self, x, z):
        return self.x0 <= x < self.x1 and self.z0 <= z < self.z1

    def inside(self):
        """(x0, z0, x1, z1) between the faces of its walls."""
        t = WALL_THICKNESS_M / 2
        return self.x0 + t, self.z0 + t, self.x1 - t, self.z1 - t


@dataclass(frozen=True)
class Door:
    """An opening in the wall line `axis` = `at` ('x': the wall runs along z), between two rooms.

    `rooms` are indices: the room on the low side of the wall first.
    """
    rooms: tuple
    axis: str
    at: float
    centre: float
    width: float

    @property
    def point(self):
        """(x, z) of its middle."""
        return (self.at, self.centre) if self.axis == 'x' else (self.centre, self.at)

    def keep_clear(self, depth_m=1.1, side_m=0.2):
        """The rectangle (x0, z0, x1, z1) on both sides in which nothing may stand."""
        half = self.width / 2 + side_m
        if self.axis == 'x':
            return self.at - depth_m, self.centre - half, self.at + depth_m, self.centre + half
        return self.centre - half, self.at - depth_m, self.centre + half, self.at + depth_m


@dataclass(frozen=True)
class Wall:
    """A straight piece of wall; `rooms` are the indices on its low and high side, or None."""
    axis: str
    at: float
    start: float
    end: float
    rooms: tuple


def draw_rooms(rng, count):
    """`count` (3..8) rooms with unique names."""
    bands = BANDS[count][rng.integers(len(BANDS[count]))]
    low, high = ROOM_SIDE_M
    width = _draw_large(rng, low * max(bands), high * min(bands))
    depths = [_draw_large(rng, low, high) for _ in bands]
    names = list(rng.permutation(ROOM_NAMES)[:count])
    turned = rng.random() < 0.5
    rooms, z0 = [], 0.0
    for number, depth in zip(bands, depths):
        z1 = round(z0 + depth, 3)
        cuts = _split(rng, width, number)
        for x0, x1 in zip(cuts[:-1], cuts[1:]):
            box = (z0, x0, z1, x1) if turned else (x0, z0, x1, z1)
            rooms.append(Room(str(names.pop()), *box))
        z0 = z1
    return rooms


def _draw_large(rng, low, high):
    """The larger of two uniform draws: large rooms hold more furniture to tell apart."""
    return max(rng.uniform(low, high), rng.uniform(low, high))


def _split(rng, width, number):
    """Cut positions 0..width, every part within ROOM_SIDE_M."""
    low, high = ROOM_SIDE_M
    for _ in range(1000):
        inner = sorted(rng.uniform(0, width, number - 1))
        cuts = [0.0, *(round(float(c), 3) for c in inner), round(float(width), 3)]
        if all(low - 0.002 <= b - a <= high + 0.002 for a, b in zip(cuts[:-1], cuts[1:])):
            return cuts
    return [round(float(width) * k / number, 3) for k in range(number + 1)]


def draw_walls(rooms):
    """Pieces of wall, cut wherever a room begins or ends, overlapping at the corners only."""
    lines = {}
    for k, room in enumerate(rooms):
        for axis, at, start, end, side in (('x', room.x0, room.z0, room.z1, 1),
                                           ('x', room.x1, room.z0, room.z1, 0),
                                           ('z', room.z0, room.x0, room.x1, 1),
                                           ('z', room.z1, room.x0, room.x1, 0)):
            lines.setdefault((axis, at), []).append((start, end, side, k))
    walls = []
    for (axis, at), edges in sorted(lines.items()):
        stops = sorted({e[0] for e in edges} | {e[1] for e in edges})
        for start, end in zip(stops[:-1], stops[1:]):
            sides = [None, None]
            for a, b, side, k in edges:
                if a <= start and end <= b:
                    sides[side] = k
            if sides != [None, None]:
                walls.append(Wall(axis, at, start, end, tuple(sides)))
    return walls


def draw_doors(rng, rooms, extra=0.25):
    """Doors that join all rooms (a random spanning tree) and a few more; raises LayoutError."""
    walls = [w for w in draw_walls(rooms) if None not in w.rooms]
    order = rng.permutation(len(walls))
    group = list(range(len(rooms)))
    doors = []
    for wall in (walls[i] for i in order):
        a, b = wall.rooms
        joined = group[a] == group[b]
        if joined and rng.random() >= extra:
            continue
        width = round(float(rng.uniform(*DOOR_WIDTH_M)), 3)
        margin = WALL_THICKNESS_M / 2 + DOOR_CORNER_M + width / 2
        if wall.end - wall.start < 2 * margin:
            continue
        centre = round(float(rng.uniform(wall.start + margin, wall.end - margin)), 3)
        doors.append(Door((a, b), wall.axis, wall.at, centre, width))
        group = [group[a] if g == group[b] else g for g in group]
    if len(set(group)) > 1:
        raise LayoutError('some rooms share no wall long enough for a door')
    return doors


def room_at(rooms, x, z):
    """Index of the room at (x, z), or None."""
    for k, room in enumerate(rooms):
        if room.contains(x, z):
            return k
    return None


def box_distance(box, x, z):
    """Horizontal distance of a point to a rectangle (x0, z0, x1, z1); 0 inside."""
    return math.hypot(max(box[0] - x, 0.0, x - box[2]), max(box[1] - z, 0.0, z - box[3]))


def box_gap(a, b):
    """Horizontal distance between two rectangles; 0 when they touch."""
    return math.hypot(max(a[0] - b[2], b[0] - a[2], 0.0), max(a[1] - b[3], b[1] - a[3], 0.0))
