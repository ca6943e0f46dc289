"""Navigation on several floors, stairs, ramps and large meshes: PathFinder's questions once more.

NavMesh (navmesh.py) is exact and knows one floor; this one takes any scene, at the price of a grid
of 5 cm: lengths come out up to about 2 % long and walls are rounded to cells. What it can and
cannot do:

- Floors above each other, split levels, stairs and ramps, with Recast's rules and habitat-sim's
  settings: climb 0.2 m, slope 45 degrees, ledges are kept away from, pieces below 1 m2 dropped.
  The height of a point decides its floor.
- Hundreds of thousands of triangles: building takes seconds, a first question to a new goal a
  fraction of one.
- It does not read .navmesh files, knows no doors that open and no ladders or lifts.
"""
from __future__ import annotations

import math
from collections import OrderedDict

import numpy as np
import shapely

from sim_bridge.embedded import height_paths
from sim_bridge.embedded.free_space import FLOOR_NORMAL_Y, MAX_CLIMB_M, floor_height
from sim_bridge.embedded.height_field import Places
from sim_bridge.embedded.navmesh import NAVIGABLE_SLACK_M, SNAP_REACH_M, NavMesh
from vlnr1_ros.navigation.errors import UserError

EXACT_TRIANGLES = 20_000    # beyond, the exact mesh's visibility graph takes minutes
STOREY_SHARE, PLATFORM_SHARE = 0.1, 0.5
LEVEL_M = 0.05
CACHED_GOAL_SETS = 16


def navmesh_of(triangles, radius_m, height_m):
    """NavMesh of a scene of one floor, HeightMesh of any other. Raises UserError without floor."""
    if len(triangles) <= EXACT_TRIANGLES and not has_several_levels(triangles, radius_m, height_m):
        return NavMesh(triangles, radius_m, height_m)
    return HeightMesh(triangles, radius_m, height_m)


def has_several_levels(triangles, radius_m, height_m):
    """Whether one can stand on large levels beside the floor: other storeys, platforms, slopes.

    Tops of walls and furniture do not count: a level above the agent must leave, shrunk by the
    agent's radius, a tenth of the floor, one that the agent could see over the half of it.
    """
    triangles = np.asarray(triangles, float)
    cross = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    length = np.linalg.norm(cross, axis=1)
    upward = cross[:, 1] > FLOOR_NORMAL_Y * np.maximum(length, 1e-12)
    normals = cross / np.maximum(length, 1e-12)[:, None]
    try:
        floor_y = floor_height(triangles, normals, length / 2)
    except UserError:
        return True    # only slopes
    heights = triangles[upward, :, 1]
    low, high = heights.min(1) - floor_y, heights.max(1) - floor_y
    near = (low > -MAX_CLIMB_M) & (high <= MAX_CLIMB_M)
    flat = triangles[upward][:, :, [0, 2]]
    floor_m2 = _standing_room(flat[near], radius_m)
    levels = np.round((low + high) / 2 / LEVEL_M).astype(int)
    levels[high - low > LEVEL_M] = np.iinfo(int).max    # slopes together are one level
    for level in np.unique(levels[~near]):
        part = ~near & (levels == level)
        is_low = (high[part] < height_m).all() and (low[part] > 0).all()
        share = PLATFORM_SHARE if is_low else STOREY_SHARE
        if _standing_room(flat[part], radius_m) > share * floor_m2:
            return True
    return False


def _standing_room(flat, radius_m):
    polygons = shapely.polygons(flat)
    area = shapely.union_all(polygons[shapely.area(polygons) > 1e-9], grid_size=1e-6)
    return area.buffer(2e-3, join_style='mitre').buffer(-2e-3 - radius_m, join_style='mitre').area


class HeightMesh:
    """The free places of a scene on all its floors. Points are (x, y, z) in metres, Y up.

    triangles: (T, 3, 3) float, world frame, counter-clockwise from outside. radius_m, height_m:
    the agent's. Raises UserError when there is no place to stand on.
    """

    is_loaded = True

    def __init__(self, triangles, radius_m=0.1, height_m=1.5, seed=0):
        places = self._places = Places(triangles, radius_m, height_m)
        if not len(places.y):
            raise UserError(f'the scene leaves no free floor for an agent of radius {radius_m} m '
                            f'and height {height_m} m: 1 m2 in one piece is the least')
        self._cell, self._low_xz = places.cell, places.low[[0, 2]]
        self._graph = (places.near, places.row, places.column)
        self.island_areas = places.island_areas
        self.navigable_area = sum(self.island_areas)
        corners = np.asarray(triangles).reshape(-1, 3)
        self._low = corners.min(0).astype(np.float32)
        self._high = corners.max(0).astype(np.float32)
        self._fields = OrderedDict()
        self.seed(seed)

    def seed(self, seed):
        """Restarts the random points."""
        self._rng = np.random.default_rng(seed)

    def get_bounds(self):
        """(low (3,), high (3,)) float32: the box around the scene."""
        return self._low, self._high

    def _grid(self, point):
        """(x, y, z) with x and z in cells."""
        x, z = (np.array([point[0], point[2]], float) - self._low_xz) / self._cell
        return x, float(point[1]), z

    def _at(self, x, z, place):
        x, z = np.array([x, z]) * self._cell + self._low_xz
        return np.array([x, self._places.y[place], z], np.float32)

    def _place(self, point):
        """(place, x, z in cells within its square) nearest to a point, None out of reach."""
        x, y, z = self._grid(point)
        if not (math.isfinite(x) and math.isfinite(y) and math.isfinite(z)):
            return None
        p = self._places
        place = height_paths.nearest_place(x, y, z, self._cell, SNAP_REACH_M[0] / self._cell,
                                           SNAP_REACH_M[1], p.first, p.row, p.column, p.y, p.shape)
        if place < 0:
            return None
        return (place, *height_paths.into_square(x, z, place, p.row, p.column))

    def snap_point(self, point):
        """The nearest navigable point, (3,) float32; NaN when none is within reach."""
        found = self._place(point)
        if found is None:
            return np.full(3, np.nan, np.float32)
        place, x, z = found
        return self._at(x, z, place)

    def is_navigable(self, point, max_y_delta=0.5):
        """True when the agent can stand at the point (1 cm of horizontal tolerance)."""
        snapped = self.snap_point(point)
        return bool(abs(snapped[1] - point[1]) <= max_y_delta
                    and math.hypot(snapped[0] - point[0], snapped[2] - point[2])
                    <= NAVIGABLE_SLACK_M)

    def island(self, point):
        """Number of the nearest island (0 is the largest), -1 when none is within reach."""
        found = self._place(point)
        return -1 if found is None else int(self._places.island[found[0]])

    def island_radius(self, point):
        """Half the diagonal of the box around the point's island, metres; 0 when out of reach."""
        island = self.island(point)
        if island < 0:
            return 0.0
        members = self._places.island == island
        rows, columns = self._places.row[members], self._places.column[members]
        return math.hypot(np.ptp(rows) + 1, np.ptp(columns) + 1) * self._cell / 2

    def distance_to_closest_obstacle(self, point, max_search_radius=2.0):
        """Metres from the point to the edge of the free space, at most max_search_radius."""
        x, y, z = self._grid(point)
        p = self._places
        reach = max_search_radius / self._cell
        close = np.flatnonzero((np.abs(p.column + 0.5 - x) <= reach + 1)
                               & (np.abs(p.row + 0.5 - z) <= reach + 1) & (np.abs(p.y - y) < 1.0)
                               & (p.near < 0).any(1))
        best = reach
        for i in close:
            c, r = p.column[i], p.row[i]
            for k, (x0, z0, x1, z1) in enumerate(((c, r, c, r + 1), (c + 1, r, c + 1, r + 1),
                                                  (c, r, c + 1, r), (c, r + 1, c + 1, r + 1))):
                if p.near[i, k] < 0:
                    best = min(best, math.hypot(x - min(max(x, x0), x1), z - min(max(z, z0), z1)))
        return float(best * self._cell)

    def get_random_navigable_point(self, max_tries=1000, island_index=-1):
        """A uniformly drawn free point of all floors, (3,) float32; NaN for an unknown island."""
        choice = (np.arange(len(self._places.y)) if island_index < 0
                  else np.flatnonzero(self._places.island == island_index))
        if not len(choice):
            return np.full(3, np.nan, np.float32)
        place = self._rng.choice(choice)
        x, z = self._rng.uniform(0, 1, 2)
        inside = height_paths.into_square(self._places.column[place] + x,
                                          self._places.row[place] + z, place, *self._graph[1:])
        return self._at(*inside, place)

    def try_step(self, start, end):
        """Where a straight step ends when the agent slides along what it meets, (3,) float32."""
        return self._step(start, end, True)

    def try_step_no_sliding(self, start, end):
        """Where a straight step ends when the agent stops at what it meets, (3,) float32."""
        return self._step(start, end, False)

    def _step(self, start, end, sliding):
        found = self._place(start)
        if found is None:
            return np.asarray(start, np.float32)
        place, ax, az = found
        bx, _, bz = self._grid(end)
        if not (math.isfinite(bx) and math.isfinite(bz)):
            raise UserError(f'a step must end at a finite point, not at {end}')
        reached, share = height_paths.walk(place, ax, az, bx, bz, *self._graph)
        if share < 1.0 and sliding:
            reached, bx, bz = height_paths.slide(place, ax, az, bx, bz, *self._graph)
        elif share < 1.0:
            bx, bz = ax + share * (bx - ax), az + share * (bz - az)
        return self._at(*height_paths.into_square(bx, bz, reached, *self._graph[1:]), reached)

    def _field(self, goals):
        """(goals (G, 3) in cells, their places, distance, following); cached."""
        goals = np.atleast_2d(np.asarray(goals, float))
        key = goals.tobytes()
        if key in self._fields:
            self._fields.move_to_end(key)
            return self._fields[key]
        found = [place for place in map(self._place, goals) if place is not None]
        places = np.array([place for place, _, _ in found], np.int64)
        inside = np.array([(x, self._places.y[place], z) for place, x, z in found]).reshape(-1, 3)
        field = (inside, places, *height_paths.distance_field(
            inside, places, self._cell, *self._graph, self._places.y))
        self._fields[key] = field
        if len(self._fields) > CACHED_GOAL_SETS:
            self._fields.popitem(last=False)
        return field

    def geodesic(self, start, goals):
        """Metres of the shortest way to the nearest goal; goals (3,) or (G, 3); inf when none."""
        return self._entry(start, goals)[0]

    def _entry(self, start, goals):
        found = self._place(start)
        if found is None:
            return math.inf, None
        place, x, z = found
        length, entry = height_paths.best_entry(
            place, x, self._places.y[place], z, *self._field(goals), self._cell, *self._graph,
            self._places.y)
        return float(length), entry

    def shortest_path(self, start, goals):
        """(length_m, points (K, 3) float32) of the way `geodesic` measures; K = 0 when none."""
        length, entry = self._entry(start, goals)
        if not math.isfinite(length):
            return math.inf, np.zeros((0, 3), np.float32)
        inside, places, _, following = self._field(goals)
        p = self._places
        place, x, z = self._place(start)
        points = [self._at(x, z, place)]
        while entry >= 0:
            points.append(self._at(p.column[entry] + 0.5, p.row[entry] + 0.5, entry))
            entry = int(following[entry])
        goal = -1 - entry
        points.append(self._at(inside[goal, 0], inside[goal, 2], places[goal]))
        return length, np.array(points)

    def get_topdown_view(self, meters_per_pixel, height, eps=0.5):
        """(rows along z, columns along x) bool: which cells of the scene's box are free."""
        p = self._places
        columns = max(1, int((self._high[0] - self._low[0]) / meters_per_pixel))
        rows = max(1, int((self._high[2] - self._low[2]) / meters_per_pixel))
        free = np.zeros(p.shape, bool)
        there = np.abs(p.y - height) <= eps
        free[p.row[there], p.column[there]] = True
        row = ((np.arange(rows) + 0.5) * meters_per_pixel / self._cell).astype(int)
        column = ((np.arange(columns) + 0.5) * meters_per_pixel / self._cell).astype(int)
        return free[np.minimum(row, p.shape[0] - 1)][:, np.minimum(column, p.shape[1] - 1)]
