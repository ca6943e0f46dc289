"""Builds the textured meshes of an apartment and writes them as GLB bytes."""
from __future__ import annotations

from collections import Counter

import numpy as np
import trimesh
from PIL import Image
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from sim_bridge.worlds import textures
from sim_bridge.worlds.furniture import COLOURS
from sim_bridge.worlds.rooms import DOOR_HEIGHT_M, WALL_HEIGHT_M, WALL_THICKNESS_M, draw_walls

# habitat-sim's navigation mesh snaps heights to 0.2 m cells: with the lowest point of the scene
# just above -0.2 the floor lands at y = 0 and not one cell higher.
FOUNDATION_M = 0.1999
TRIM_M = 0.09
NORMALS = {'+x': (1, 0, 0), '-x': (-1, 0, 0), '+y': (0, 1, 0), '-y': (0, -1, 0),
           '+z': (0, 0, 1), '-z': (0, 0, -1)}


class Mesh:
    """Quads that share one texture of stacked bands."""

    def __init__(self, image, bands, metres_per_repeat=1.0):
        self.image, self.bands, self.repeat_m = image, bands, metres_per_repeat
        self.quads, self.uvs = [], []

    def add(self, corners, uv):
        """corners (4,3) counter-clockwise from the front, uv (4,2) with v = 0 at the bottom."""
        self.quads.append(corners)
        self.uvs.append(uv)

    def add_face(self, low, high, direction, band, v_range=(0.0, 1.0)):
        """One face of the box low..high (each (3,)), textured with a band."""
        corners, length = face_corners(low, high, direction)
        u = length / self.repeat_m
        v0, v1 = (self._v(band, f) for f in v_range)
        self.add(corners, [(0, v0), (u, v0), (u, v1), (0, v1)])

    def add_box(self, low, high, tone=None):
        for direction in textures.DIRECTIONS:
            self.add_face(low, high, direction, (tone, direction) if tone else direction)

    def _v(self, band, fraction):
        """v of a height fraction (0 bottom) within a band, kept off the neighbouring bands."""
        fraction = 0.06 + 0.88 * fraction
        return 1.0 - (self.bands.index(band) + 1.0 - fraction) / len(self.bands)

    def to_trimesh(self):
        count = len(self.quads)
        first = 4 * np.arange(count)[:, None]
        faces = (first + np.array([0, 1, 2, 0, 2, 3])).reshape(-1, 3)
        material = PBRMaterial(baseColorTexture=Image.fromarray(self.image), metallicFactor=0.0,
                               roughnessFactor=1.0)
        visual = TextureVisuals(uv=np.array(self.uvs, float).reshape(-1, 2), material=material)
        return trimesh.Trimesh(np.array(self.quads, float).reshape(-1, 3), faces, visual=visual,
                               process=False)


def face_corners(low, high, direction):
    """Corners (4,3) of a box's face, counter-clockwise from outside, and its width in metres."""
    low, high = np.array(low, float), np.array(high, float)
    normal = np.array(NORMALS[direction], float)
    up = np.array([0, 1, 0.0]) if normal[1] == 0 else np.array([0, 0, -1.0])
    right = np.cross(up, normal)
    half, centre = (high - low) / 2, (high + low) / 2
    corners = [centre + half * (normal + right * (2 * u - 1) + up * (2 * v - 1))
               for u, v in ((0, 0), (1, 0), (1, 1), (0, 1))]
    return corners, float(np.abs(2 * half @ right))


def build_meshes(rng, rooms, doors, pieces):
    """{node name: Mesh} of the apartment."""
    meshes = {}
    for room in rooms:
        floor_kind, floor_colour, wall_kind, upper, lower = textures.STYLES[room.name]
        key = room.name.replace(' ', '_')
        shift = textures.jitter(rng, (128, 128, 128), 4) - 128
        image = textures.floor(rng, floor_kind, textures.jitter(rng, floor_colour, 5))
        meshes[f'floor_{key}'] = _flat(image, room, 0.0, '+y')
        ceiling = textures.solid(rng, (236, 235, 230), 1.5)[:textures.BAND_PX]
        meshes[f'ceiling_{key}'] = _flat(ceiling, room, WALL_HEIGHT_M, '-y')
        image = textures.wall(rng, wall_kind, np.array(upper) + shift, np.array(lower) + shift)
        meshes[f'walls_{key}'] = Mesh(image, textures.WALL_DIRECTIONS)
    meshes['walls_outside'] = Mesh(textures.wall(rng, 'plain', (190, 190, 186), (190, 190, 186)),
                                   textures.WALL_DIRECTIONS)
    meshes['trim'] = Mesh(textures.solid(rng, (92, 74, 60)), textures.DIRECTIONS)
    _add_walls(meshes, rooms, doors)
    for piece in pieces:
        colour = textures.jitter(rng, COLOURS[piece.colour], 5)
        mesh = Mesh(textures.piece(rng, colour), textures.OBJECT_BANDS)
        for low, high, tone in piece.parts():
            mesh.add_box(low, high, tone)
        meshes[piece.id] = mesh
    low = (min(r.x0 for r in rooms), -FOUNDATION_M, min(r.z0 for r in rooms))
    high = (max(r.x1 for r in rooms), -0.001, max(r.z1 for r in rooms))
    meshes['foundation'] = Mesh(textures.solid(rng, (90, 90, 90)), textures.DIRECTIONS)
    meshes['foundation'].add_box(low, high)
    return meshes


def _flat(image, room, y, direction):
    mesh = Mesh(image, (direction,))
    corners, _ = face_corners((room.x0, y, room.z0), (room.x1, y, room.z1), direction)
    mesh.add(corners, [(c[0], -c[2]) for c in corners])
    return mesh


def _add_walls(meshes, rooms, doors):
    """Walls as closed boxes; every side face carries the texture of the room it looks into."""
    t = WALL_THICKNESS_M / 2
    walls = draw_walls(rooms)
    ends = Counter((w.axis, w.at, v) for w in walls for v in (w.start, w.end))
    for wall in walls:
        start = wall.start - (t if ends[wall.axis, wall.at, wall.start] == 1 else 0)
        end = wall.end + (t if ends[wall.axis, wall.at, wall.end] == 1 else 0)
        door = next((d for d in doors if (d.axis, d.at) == (wall.axis, wall.at)
                     and wall.start < d.centre < wall.end), None)
        if door is None:
            _add_wall_box(meshes, rooms, wall, start, end, 0.0, WALL_HEIGHT_M)
            continue
        a, b = door.centre - door.width / 2, door.centre + door.width / 2
        top = DOOR_HEIGHT_M + TRIM_M
        _add_wall_box(meshes, rooms, wall, start, a - TRIM_M, 0.0, WALL_HEIGHT_M)
        _add_wall_box(meshes, rooms, wall, b + TRIM_M, end, 0.0, WALL_HEIGHT_M)
        _add_wall_box(meshes, rooms, wall, a - TRIM_M, b + TRIM_M, top, WALL_HEIGHT_M)
        for u0, u1, y0, y1 in ((a - TRIM_M, a, 0.0, top), (b, b + TRIM_M, 0.0, top),
                               (a, b, DOOR_HEIGHT_M, top)):
            meshes['trim'].add_box(*_wall_corners(wall, u0, u1, y0, y1))


def _wall_corners(wall, start, end, y0, y1):
    t = WALL_THICKNESS_M / 2
    if wall.axis == 'x':
        return (wall.at - t, y0, start), (wall.at + t, y1, end)
    return (start, y0, wall.at - t), (end, y1, wall.at + t)


def _add_wall_box(meshes, rooms, wall, start, end, y0, y1):
    low, high = _wall_corners(wall, start, end, y0, y1)
    v_range = (y0 / WALL_HEIGHT_M, y1 / WALL_HEIGHT_M)
    for side, sign in ((0, '-'), (1, '+')):
        room = wall.rooms[side]
        key = 'outside' if room is None else rooms[room].name.replace(' ', '_')
        direction = sign + wall.axis
        meshes[f'walls_{key}'].add_face(low, high, direction, direction, v_range)
    for direction in textures.DIRECTIONS:
        if direction[1] != wall.axis:
            meshes['trim'].add_face(low, high, direction, direction)


def to_glb(meshes):
    """GLB bytes; each mesh is a node of its own name, Y up, metres."""
    scene = trimesh.Scene()
    for name, mesh in meshes.items():
        scene.add_geometry(mesh.to_trimesh(), geom_name=name, node_name=name)
    return scene.export(file_type='glb')
