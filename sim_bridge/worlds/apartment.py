"""One apartment: rooms, doors and furniture drawn from a seed, and the files it becomes."""
from __future__ import annotations

import json
from dataclasses import dataclass

from sim_bridge.worlds.furniture import furnish
from sim_bridge.worlds.glb import build_meshes, to_glb
from sim_bridge.worlds.rooms import draw_doors, draw_rooms

ROOM_COUNTS = (3, 4, 5, 6, 7, 8)
ROOM_COUNT_WEIGHTS = (0.10, 0.25, 0.2, 0.25, 0.1, 0.1)


@dataclass(frozen=True)
class Apartment:
    rooms: list
    doors: list
    pieces: list
    glb: bytes

    def layout(self):
        """What stands where, as plain lists and dicts (layout.json). No simulator reads it."""
        return {'rooms': [{'name': r.name, 'box': r.box} for r in self.rooms],
                'doors': [{'rooms': [self.rooms[k].name for k in d.rooms], 'axis': d.axis,
                           'at': d.at, 'centre': d.centre, 'width': d.width}
                          for d in self.doors],
                'objects': [{'id': p.id, 'name': p.name, 'colour': p.colour, 'noun': p.noun,
                             'room': self.rooms[p.room].name, 'box': list(p.box),
                             'height': p.size[1], 'front': list(p.front)}
                            for p in self.pieces]}


def draw_apartment(rng):
    """Draw one layout and its GLB; raises LayoutError when the draw breaks a rule."""
    count = int(rng.choice(ROOM_COUNTS, p=ROOM_COUNT_WEIGHTS))
    rooms = draw_rooms(rng, count)
    doors = draw_doors(rng, rooms)
    pieces = furnish(rng, rooms, doors)
    return Apartment(rooms, doors, pieces, to_glb(build_meshes(rng, rooms, doors, pieces)))


def stage_config(name):
    """The JSON text that makes habitat-sim take the GLB Y up and unlit."""
    return json.dumps({'render_asset': f'{name}.glb', 'up': [0, 1, 0], 'front': [0, 0, -1],
                       'units_to_meters': 1.0, 'force_flat_shading': True}, indent=1)
