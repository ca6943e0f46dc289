"""Furniture: what it looks like (a few closed boxes each) and where it stands.

A piece is named by colour and noun. Its own frame: x along its width from 0 to w, y up, z from
its back (0, at the wall) to its front (d).
"""
from __future__ import annotations

from dataclasses import dataclass

from sim_bridge.worlds.rooms import WALL_THICKNESS_M, LayoutError, box_gap

# Saturated, far apart in hue or lightness, and unlike every floor and wall.
COLOURS = {'red': (205, 30, 30), 'orange': (245, 125, 10), 'yellow': (240, 220, 30),
           'green': (30, 150, 45), 'blue': (30, 65, 210), 'purple': (125, 40, 165),
           'pink': (250, 130, 190), 'black': (30, 30, 34)}

GAP_M = 1.2
WALL_GAP_M = 0.03
SIZE_JITTER = 0.08
SIGNATURE_SHARE = 0.4
PLACE_TRIES, ROOM_TRIES = 40, 8


def _legs(w, d, y1, thick, inset=0.0):
    near, far = inset, inset + thick
    return [(x0, x0 + thick, 0.0, y1, z0, z0 + thick, 'main')
            for x0 in (near, w - far) for z0 in (near, d - far)]


def _chair(w, h, d):
    return [*_legs(w, d, 0.42, 0.06), (0, w, 0.42, 0.50, 0, d, 'main'),
            (0, w, 0.50, h, 0, 0.07, 'main')]


def _table(w, h, d):
    return [*_legs(w, d, h - 0.08, 0.09, 0.03), (0, w, h - 0.08, h, 0, d, 'main')]


def _sofa(w, h, d):
    return [(0, w, 0, 0.40, 0, d, 'main'), (0, w, 0.40, h, 0, 0.22, 'main'),
            (0, 0.18, 0.40, 0.62, 0.22, d, 'main'), (w - 0.18, w, 0.40, 0.62, 0.22, d, 'main')]


def _bed(w, h, d):
    return [(0, w, 0, 0.48, 0.08, d, 'main'), (0, w, 0, h, 0, 0.08, 'main'),
            (0.12, w - 0.12, 0.48, 0.60, 0.14, 0.52, 'light')]


def _wardrobe(w, h, d):
    return [(0, w, 0.0, h, 0, d - 0.02, 'main'), (w / 2 - 0.02, w / 2 + 0.02, 0.1, h - 0.08,
                                                 d - 0.02, d, 'dark'),
            (w / 2 - 0.16, w / 2 - 0.10, 0.8, 1.15, d - 0.02, d, 'dark'),
            (w / 2 + 0.10, w / 2 + 0.16, 0.8, 1.15, d - 0.02, d, 'dark')]


def _shelf(w, h, d):
    boards = [(0.05, w - 0.05, y, y + 0.05, 0.03, d, 'main')
              for y in (0.08, 0.08 + (h - 0.13) / 3, 0.08 + 2 * (h - 0.13) / 3, h - 0.05)]
    return [(0, 0.05, 0, h, 0, d, 'main'), (w - 0.05, w, 0, h, 0, d, 'main'),
            (0.05, w - 0.05, 0.08, h, 0, 0.03, 'dark'), *boards]


def _lamp(w, h, d):
    x, z = w / 2, d / 2
    return [(x - 0.15, x + 0.15, 0, 0.06, z - 0.15, z + 0.15, 'main'),
            (x - 0.035, x + 0.035, 0.06, h - 0.42, z - 0.035, z + 0.035, 'main'),
            (0, w, h - 0.42, h, 0, d, 'main')]


def _fridge(w, h, d):
    split = 0.62 * h
    return [(0, w, 0, split - 0.02, 0, d - 0.03, 'main'),
            (0, w, split - 0.02, split + 0.02, 0, d - 0.03, 'dark'),
            (0, w, split + 0.02, h, 0, d - 0.03, 'main'),
            (0.06, 0.12, split - 0.5, split - 0.1, d - 0.03, d, 'light'),
            (0.06, 0.12, split + 0.1, split + 0.4, d - 0.03, d, 'light')]


def _cabinet(w, h, d):
    drawers = [(0.06, w - 0.06, y, y + 0.035, d - 0.02, d, 'light')
               for y in (0.22 * h, 0.52 * h, 0.82 * h)]
    return [(0, w, 0, h, 0, d - 0.02, 'main'), *drawers]


def _plant(w, h, d):
    x, z = w / 2, d / 2
    return [(x - 0.16, x + 0.16, 0, 0.36, z - 0.16, z + 0.16, 'dark'),
            (x - 0.03, x + 0.03, 0.36, 0.6, z - 0.03, z + 0.03, 'dark'),
            (0, w, 0.58, 0.58 + 0.24, z - 0.12, z + 0.12, 'main'),
            (x - 0.12, x + 0.12, 0.66, 0.66 + 0.24, 0, d, 'main'),
            (x - 0.14, x + 0.14, 0.80, h, z - 0.14, z + 0.14, 'main')]


def _bin(w, h, d):
    return [(0.03, w - 0.03, 0, h - 0.12, 0.03, d - 0.03, 'main'),
            (0, w, h - 0.12, h - 0.05, 0, d, 'main'),
            (0.06, w - 0.06, h - 0.05, h, 0.06, d - 0.06, 'dark')]


def _piano(w, h, d):
    return [(0, w, 0, h, 0, 0.32, 'main'), (0, w, 0.62, 0.72, 0.32, d, 'main'),
            (0.06, w - 0.06, 0.72, 0.75, 0.36, d - 0.02, 'light'),
            (0.02, 0.10, 0, 0.62, d - 0.12, d - 0.04, 'main'),
            (w - 0.10, w - 0.02, 0, 0.62, d - 0.12, d - 0.04, 'main')]


# noun: (width, height, depth in metres, its boxes)
NOUNS = {'chair': ((0.48, 0.95, 0.48), _chair), 'table': ((0.95, 0.75, 0.7), _table),
         'sofa': ((1.4, 0.85, 0.75), _sofa), 'bed': ((1.15, 0.95, 1.75), _bed),
         'wardrobe': ((1.0, 2.0, 0.55), _wardrobe), 'shelf': ((0.9, 1.7, 0.34), _shelf),
         'lamp': ((0.46, 1.55, 0.46), _lamp), 'fridge': ((0.66, 1.75, 0.66), _fridge),
         'cabinet': ((0.9, 0.8, 0.45), _cabinet), 'plant': ((0.62, 1.1, 0.62), _plant),
         'bin': ((0.42, 0.62, 0.42), _bin), 'piano': ((1.15, 1.15, 0.56), _piano)}

SIGNATURE = {'kitchen': 'fridge', 'bedroom': 'bed', 'living room': 'sofa', 'study': 'shelf',
             'dining room': 'table', 'laundry room': 'cabinet', 'hallway': 'wardrobe'}


@dataclass(frozen=True)
class Piece:
    """A named object; `quarter` counts quarter turns, 0 = its back at the wall of lowest z."""
    id: str
    colour: str
    noun: str
    room: int
    box: tuple
    size: tuple
    quarter: int

    @property
    def name(self):
        return f'{self.colour} {self.noun}'

    @property
    def centre(self):
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2

    @property
    def front(self):
        """The direction (x, z) its front looks into."""
        return ((0, 1), (-1, 0), (0, -1), (1, 0))[self.quarter]

    def parts(self):
        """Closed boxes ((x0, y0, z0), (x1, y1, z1), tone) in the apartment's frame."""
        w, h, d = self.size
        for x0, x1, y0, y1, z0, z1, tone in NOUNS[self.noun][1](w, h, d):
            corners = [self._place(x, z) for x, z in ((x0, z0), (x1, z1))]
            xs, zs = sorted(c[0] for c in corners), sorted(c[1] for c in corners)
            yield (xs[0], y0, zs[0]), (xs[1], y1, zs[1]), tone

    def _place(self, x, z):
        w, _, d = self.size
        x, z = {0: (x, z), 1: (d - z, x), 2: (w - x, d - z), 3: (z, w - x)}[self.quarter]
        return self.box[0] + x, self.box[1] + z


def furnish(rng, rooms, doors):
    """3 to 5 pieces a room: colours and nouns distinct within it, names unique in the apartment.

    Footprints stand at a wall, GAP_M apart, clear of the doors. Raises LayoutError.
    """
    pieces, taken = [], set()
    for k, room in enumerate(rooms):
        clear = [d.keep_clear() for d in doors if k in d.rooms]
        wanted = int(rng.choice((3, 4, 5), p=(0.2, 0.4, 0.4)))
        drawn = []
        for _ in range(ROOM_TRIES):
            drawn = max(drawn, _furnish_room(rng, room, clear, taken, wanted), key=len)
            if len(drawn) == wanted:
                break
        if len(drawn) < 3:
            raise LayoutError(f'no room for three pieces of furniture in the {room.name}')
        for colour, noun, box, size, quarter in drawn:
            taken.add((colour, noun))
            name = f'{colour}_{noun}_{len(pieces):02d}'
            pieces.append(Piece(name, colour, noun, k, box, size, quarter))
    return pieces


def _furnish_room(rng, room, clear, taken, wanted):
    """Rows (colour, noun, box, size, quarter); large pieces tend to choose their place first."""
    nouns = [str(n) for n in rng.permutation(list(NOUNS))]
    signature = SIGNATURE.get(room.name)
    if signature and rng.random() < SIGNATURE_SHARE:
        nouns = [signature, *(n for n in nouns if n != signature)]
    nouns = sorted(nouns[:wanted],
                   key=lambda n: -NOUNS[n][0][0] * NOUNS[n][0][2] * rng.uniform(0.2, 1))
    colours = [str(c) for c in rng.permutation(list(COLOURS))]
    drawn = []
    for noun in nouns:
        colour = next((c for c in colours if (c, noun) not in taken), None)
        scale = rng.uniform(1 - SIZE_JITTER, 1 + SIZE_JITTER, 3)
        size = tuple(round(float(s * f), 3) for s, f in zip(NOUNS[noun][0], scale))
        for _ in range(PLACE_TRIES):
            quarter = int(rng.integers(4))
            box = _against_wall(rng, room, size, quarter)
            if colour and (all(box_gap(box, c) > 0 for c in clear)
                           and all(box_gap(box, p[2]) >= GAP_M for p in drawn)):
                drawn.append((colour, noun, box, size, quarter))
                colours.remove(colour)
                break
    return drawn


def _against_wall(rng, room, size, quarter):
    """Footprint with its back at wall `quarter` (0 low z, 1 high x, 2 high z, 3 low x)."""
    w, _, d = size
    t = WALL_THICKNESS_M / 2 + WALL_GAP_M
    x0, z0, x1, z1 = room.x0 + t, room.z0 + t, room.x1 - t, room.z1 - t
    low, high = (x0, x1 - w) if quarter in (0, 2) else (z0, z1 - w)
    corner = rng.random()
    along = low if corner < 0.2 else high if corner > 0.8 else rng.uniform(low, high)
    box = {0: (along, z0, along + w, z0 + d), 1: (x1 - d, along, x1, along + w),
           2: (along, z1 - d, along + w, z1), 3: (x0, along, x0 + d, along + w)}[quarter]
    return tuple(round(float(v), 3) for v in box)
