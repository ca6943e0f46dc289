"""An apartment one can stand in: its free floor, its views, where each piece is reached."""
from __future__ import annotations

import math
import os
import tempfile

import numpy as np

from sim_bridge.embedded.glb import load_glb
from sim_bridge.embedded.navmesh import NavMesh
from sim_bridge.embedded.render import Scene
from sim_bridge.worlds import files
from sim_bridge.worlds.apartment import draw_apartment
from sim_bridge.worlds.rooms import LayoutError, box_distance
from vlnr1_ros.navigation.errors import UserError

AGENT_RADIUS_M, AGENT_HEIGHT_M, CAMERA_HEIGHT_M = 0.1, 1.5, 1.25
VIEW_PX, HFOV_DEG = 56, 90.0
MIN_ISLAND_SHARE = 0.95
GOAL_DISTANCE_M, GOAL_SPACING_M, MIN_GOALS = 0.5, 0.25, 4
MAX_DRAWS = 100


class World:
    """An accepted apartment with its scene and navigation mesh. Raises LayoutError otherwise."""

    def __init__(self, apartment):
        self.rooms, self.doors, self.pieces = (apartment.rooms, apartment.doors,
                                               apartment.pieces)
        self.apartment = apartment
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, 'apartment.glb')
            files.write_bytes(path, apartment.glb)
            self.scene = Scene(load_glb(path))
        self.navmesh = NavMesh(self.scene.triangles, AGENT_RADIUS_M, AGENT_HEIGHT_M)
        self._object_index = {name: k for k, name in enumerate(self.scene.names)}
        self._check_islands()
        self.goals = {piece.id: self._goals_of(piece) for piece in self.pieces}

    def free(self, x, z):
        """True when the agent can stand at (x, z) on the main island."""
        point = (x, 0.0, z)
        return self.navmesh.is_navigable(point) and self.navmesh.island(point) == 0

    def candidates(self, piece):
        """All pieces of the piece's room."""
        return [p for p in self.pieces if p.room == piece.room]

    def nearest(self, x, z, pieces):
        """The piece whose footprint is nearest to (x, z)."""
        return min(pieces, key=lambda p: box_distance(p.box, x, z))

    def view(self, x, z, yaw_rad, size_px=VIEW_PX):
        """(rgb, depth, object_index) of the agent's camera."""
        return self.scene.render(camera_pose(x, z, yaw_rad), size_px, size_px, HFOV_DEG)

    def pixels(self, x, z, yaw_rad, pieces):
        """{piece id: its pixels in a VIEW_PX square view}."""
        objects = self.view(x, z, yaw_rad)[2]
        counts = np.bincount(objects[objects >= 0], minlength=len(self.scene.names))
        return {p.id: int(counts[self._object_index[p.id]]) for p in pieces}

    def _check_islands(self):
        areas = self.navmesh.island_areas
        if max(areas) != areas[0] or areas[0] < MIN_ISLAND_SHARE * sum(areas):
            raise LayoutError(f'the free floor falls apart: {areas} square metres')
        for door in self.doors:
            if not self.free(*door.point):
                raise LayoutError(f'the door at {door.point} is closed')
        for room in self.rooms:
            x0, z0, x1, z1 = room.inside()
            free = [self.free(x, z) for x in np.arange(x0 + 0.2, x1, 0.3)
                    for z in np.arange(z0 + 0.2, z1, 0.3)]
            if sum(free) < 0.3 * len(free):
                raise LayoutError(f'too little free floor in the {room.name}')

    def _goals_of(self, piece):
        """Free points about GOAL_DISTANCE_M beside the piece: list of (x, z)."""
        room, others = self.rooms[piece.room], self.candidates(piece)
        points = [(x, z) for x, z in ring(piece.box, GOAL_DISTANCE_M, GOAL_SPACING_M)
                  if room.contains(x, z) and self.free(x, z)
                  and self.nearest(x, z, others) is piece]
        if len(points) < MIN_GOALS:
            raise LayoutError(f'the {piece.name} cannot be reached')
        return points


def draw_world(rng):
    """Draw apartments until one keeps every rule; UserError when none of MAX_DRAWS does."""
    for _ in range(MAX_DRAWS):
        try:
            return World(draw_apartment(rng))
        except LayoutError as error:
            reason = error
    raise UserError(f'{MAX_DRAWS} layouts were drawn and none is usable ({reason}): '
                    'choose another --seed')


def camera_pose(x, z, yaw_rad):
    """Camera to world, (4, 4), of an agent's camera."""
    c, s = math.cos(yaw_rad), math.sin(yaw_rad)
    return np.array([[c, 0, s, x], [0, 1, 0, CAMERA_HEIGHT_M], [-s, 0, c, z], [0, 0, 0, 1.0]])


def ring(box, distance_m, spacing_m):
    """Points (x, z) around a rectangle at a distance, at most spacing_m apart."""
    x0, z0, x1, z1 = box
    d = distance_m
    points = []
    for start, end in (((x0, z0 - d), (x1, z0 - d)), ((x1 + d, z0), (x1 + d, z1)),
                       ((x1, z1 + d), (x0, z1 + d)), ((x0 - d, z1), (x0 - d, z0))):
        count = math.ceil(math.dist(start, end) / spacing_m)
        points += [(start[0] + (end[0] - start[0]) * k / count,
                    start[1] + (end[1] - start[1]) * k / count) for k in range(count + 1)]
    for cx, cz, first in ((x1, z0, -90), (x1, z1, 0), (x0, z1, 90), (x0, z0, 180)):
        count = math.ceil(math.pi / 2 * d / spacing_m)
        points += [(cx + d * math.cos(math.radians(first + 90 * k / count)),
                    cz + d * math.sin(math.radians(first + 90 * k / count)))
                   for k in range(1, count)]
    return [(round(x, 4), round(z, 4)) for x, z in points]
