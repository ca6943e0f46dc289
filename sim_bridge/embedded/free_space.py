"""From scene triangles to the polygons an agent's centre may occupy on a single floor.

Free space = walkable floor shrunk by the agent's radius, minus the footprints of everything
between MAX_CLIMB_M and the agent's height, grown by the radius. Corners are mitred, not rounded:
a box costs four vertices, and the agent keeps its radius from every surface (but for ROUND_TO_M).
"""
from __future__ import annotations

import numpy as np
import shapely

from vlnr1_ros.navigation.errors import UserError

MAX_CLIMB_M = 0.2
FLOOR_NORMAL_Y = 0.7      # walkable slopes: up to 45 degrees, as in habitat-sim's default settings
MIN_ISLAND_M2 = 1.0       # smaller pockets (the inside of a wardrobe) are dropped, as Recast does
SEAM_M = 2e-3             # floors that meet within this gap are one floor
MITRE_LIMIT = 2.0
ROUND_TO_M = 0.01         # detail that footprints may lose: a 24-sided lamp needs no 24 corners


def floor_height(triangles, normals, areas):
    """Height of the floor: the lowest level with at least half the upward area of the largest.

    A slab closely below the floor (within the climb height) gives way to the floor above it.
    """
    flat = normals[:, 1] > 0.95
    if not flat.any():
        raise UserError('the scene has no upward-facing surface, so there is no floor to walk on: '
                        'check that the mesh is Y-up and its triangles are counter-clockwise')
    levels, index = np.unique(np.round(triangles[flat, :, 1].mean(1), 3), return_inverse=True)
    area = np.bincount(index.ravel(), areas[flat])
    large = levels[area >= 0.5 * area.max()]
    return float(large[large <= large[0] + MAX_CLIMB_M].max())


def _ground_polygons(triangles):
    polygons = shapely.polygons(triangles[:, :, [0, 2]])
    return polygons[shapely.area(polygons) > 1e-9]


def _clip(polygon, height, keep_above):
    """Cuts a convex polygon (K, 3) with a horizontal plane."""
    out = []
    side = (polygon[:, 1] - height) * (1 if keep_above else -1)
    for k in range(len(polygon)):
        j = k - 1
        if (side[k] >= 0) != (side[j] >= 0):
            t = side[j] / (side[j] - side[k])
            out.append(polygon[j] + t * (polygon[k] - polygon[j]))
        if side[k] >= 0:
            out.append(polygon[k])
    return np.array(out).reshape(-1, 3)


def _band_shapes(triangles, low, high):
    """Ground projections (polygons and lines) of what lies strictly between two heights."""
    y = triangles[:, :, 1]
    triangles = triangles[(y.max(1) > low + 1e-6) & (y.min(1) < high - 1e-6)]
    y = triangles[:, :, 1]
    ground = triangles[:, :, [0, 2]]
    first, second = ground[:, 1] - ground[:, 0], ground[:, 2] - ground[:, 0]
    upright = np.abs(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]) < 1e-9
    inside = (y.min(1) >= low) & (y.max(1) <= high)

    shapes = list(_ground_polygons(triangles[~upright & inside]))
    for triangle in triangles[~upright & ~inside]:
        piece = _clip(_clip(triangle, low, True), high, False)
        if len(piece) >= 3:
            shapes.append(shapely.convex_hull(shapely.multipoints(piece[:, [0, 2]])))
    # A vertical triangle that crosses the band belongs to a wall: its whole ground line counts.
    walls = ground[upright]
    if len(walls):
        along = np.where(np.ptp(walls[:, :, 0], 1) >= np.ptp(walls[:, :, 1], 1), 0, 1)
        key = np.take_along_axis(walls, along[:, None, None].repeat(3, 1), 2)[:, :, 0]
        rows = np.arange(len(walls))
        ends = np.stack([walls[rows, key.argmin(1)], walls[rows, key.argmax(1)]], 1)
        ends = np.unique(np.round(ends, 6), axis=0)
        ends = ends[np.abs(ends[:, 0] - ends[:, 1]).max(1) > 1e-6]
        shapes += list(shapely.linestrings(ends))
    return shapes


def _closed_tall_solids(triangles, normals, floor_y, height_m):
    """Footprints of solids taller than the agent: upward faces with none facing down below."""
    up = (normals[:, 1] > FLOOR_NORMAL_Y) & (triangles[:, :, 1].max(1) >= floor_y + height_m)
    down = (normals[:, 1] < -FLOOR_NORMAL_Y) & (triangles[:, :, 1].min(1) > floor_y + MAX_CLIMB_M)
    top = np.round(triangles[:, :, 1].max(1), 3)
    bottom = np.round(triangles[:, :, 1].min(1), 3)
    solids = []
    for level in np.unique(top[up]):
        faces = shapely.union_all(_ground_polygons(triangles[up & (top == level)]))
        below = _ground_polygons(triangles[down & (bottom <= level)])
        solids.append(faces.difference(shapely.union_all(below)) if len(below) else faces)
    return solids


def _polygon_parts(geometry):
    parts = shapely.get_parts(geometry)
    return parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON]


def islands(area):
    """The polygons of an area that are large enough to count, largest first."""
    parts = [part for part in _polygon_parts(area) if part.area >= MIN_ISLAND_M2]
    return sorted(parts, key=lambda part: -part.area)


def free_space(triangles, radius_m, height_m):
    """Returns (polygons, floor_y): islands of free space, largest first; the floor's height.

    triangles: (T, 3, 3) float, world frame, Y up, counter-clockwise seen from outside. Polygons
    have coordinates (x, z). Raises UserError when there is no floor or no room for the agent.
    """
    triangles = np.asarray(triangles, float)
    cross = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    length = np.linalg.norm(cross, axis=1)
    solid = length > 1e-12
    triangles, normals = triangles[solid], cross[solid] / length[solid, None]
    floor_y = floor_height(triangles, normals, length[solid] / 2)

    y = triangles[:, :, 1]
    walkable = ((normals[:, 1] > FLOOR_NORMAL_Y) & (y.min(1) > floor_y - MAX_CLIMB_M)
                & (y.max(1) <= floor_y + MAX_CLIMB_M))
    floor = shapely.union_all(_ground_polygons(triangles[walkable]), grid_size=1e-6)
    floor = floor.buffer(SEAM_M, join_style='mitre').buffer(-SEAM_M - radius_m, join_style='mitre')

    shapes = _band_shapes(triangles, floor_y + MAX_CLIMB_M, floor_y + height_m)
    shapes += _closed_tall_solids(triangles, normals, floor_y, height_m)
    if shapes:
        obstacles = shapely.union_all(shapes, grid_size=1e-6)
        areas_only = shapely.union_all(_polygon_parts(obstacles)).simplify(ROUND_TO_M)
        parts = shapely.get_parts(obstacles)
        lines = parts[shapely.get_type_id(parts) == shapely.GeometryType.LINESTRING]
        grown = [areas_only.buffer(radius_m, join_style='mitre', mitre_limit=MITRE_LIMIT)]
        if len(lines):
            merged = shapely.line_merge(shapely.multilinestrings(lines))
            grown.append(merged.buffer(radius_m, cap_style='square', join_style='mitre',
                                       mitre_limit=MITRE_LIMIT))
        floor = floor.difference(shapely.union_all(grown))

    polygons = islands(floor.buffer(0))
    if not polygons:
        raise UserError(f'the scene leaves no free floor for an agent of radius {radius_m} m and '
                        f'height {height_m} m: {MIN_ISLAND_M2} m2 in one piece is the least')
    return polygons, floor_y
