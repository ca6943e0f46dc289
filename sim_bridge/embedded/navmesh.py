"""Where an agent can be, how far apart places are, where a step ends: habitat-sim's PathFinder.

One floor, exact Euclidean geodesics (visibility graph over the reflex corners of the free space),
and the step filter of Detour's moveAlongSurface. Points are (x, y, z) in metres, Y up.
"""
from __future__ import annotations

import math
from collections import OrderedDict

import numpy as np
import shapely

from sim_bridge.embedded import visibility
from sim_bridge.embedded.free_space import free_space, islands
from vlnr1_ros.navigation.errors import UserError

INSET_M = 1e-4    # positions stay this far inside the free space, so that none lies on an edge
SNAP_REACH_M = (2.0, 4.0, 2.0)    # how far snap_point searches, as in habitat-sim
NAVIGABLE_SLACK_M = 1e-2          # horizontal tolerance of is_navigable, as in habitat-sim
CACHED_GOAL_SETS = 64


def _rings(polygons):
    for island, polygon in enumerate(polygons):
        for number, ring in enumerate([polygon.exterior, *polygon.interiors]):
            yield island, number == 0, shapely.get_coordinates(ring)[:-1]


def _edges(polygons):
    rows = [np.column_stack([ring, np.roll(ring, -1, 0), np.full(len(ring), island)])
            for island, _, ring in _rings(polygons)]
    return np.ascontiguousarray(np.concatenate(rows))


def _reflex_corners(polygons):
    """(C, 6): every corner a taut string can bend around, with its neighbours on the outline."""
    rows = [np.zeros((0, 6))]
    for _, outer, ring in _rings(polygons):
        if shapely.is_ccw(shapely.linearrings(ring)) != outer:
            ring = ring[::-1]
        before, after = np.roll(ring, 1, 0), np.roll(ring, -1, 0)
        arrive, leave = ring - before, after - ring
        turn = arrive[:, 0] * leave[:, 1] - arrive[:, 1] * leave[:, 0]
        rows.append(np.column_stack([ring, before, after])[turn < -1e-9])
    return np.ascontiguousarray(np.concatenate(rows))


class NavMesh:
    """The free floor of a scene.

    triangles: (T, 3, 3) float, world frame, counter-clockwise from outside. radius_m, height_m:
    the agent's. Raises UserError when there is no floor to walk on.
    """

    is_loaded = True

    def __init__(self, triangles, radius_m=0.1, height_m=1.5, seed=0):
        triangles = np.asarray(triangles, float)
        free, self.floor_y = free_space(triangles, radius_m, height_m)
        self.polygons = islands(shapely.union_all(free).buffer(-INSET_M, join_style='mitre'))
        self.island_areas = [float(polygon.area) for polygon in self.polygons]
        self.navigable_area = sum(self.island_areas)
        self._walls, self._blockers = _edges(self.polygons), _edges(free)
        self._corners = _reflex_corners(self.polygons)
        self._graph = visibility.visibility_graph(self._corners, self._blockers)
        self._fields = OrderedDict()
        corners = triangles.reshape(-1, 3)
        self._low = corners.min(0).astype(np.float32)
        self._high = corners.max(0).astype(np.float32)
        self.seed(seed)

    def seed(self, seed):
        """Restarts the random points."""
        self._rng = np.random.default_rng(seed)

    def get_bounds(self):
        """(low (3,), high (3,)) float32: the box around the scene."""
        return self._low, self._high

    def _at(self, x, z):
        return np.array([x, self.floor_y, z], np.float32)

    def _place(self, point):
        """(x, z, island) of the free point nearest to a point, None when it is out of reach."""
        x, y, z = float(point[0]), float(point[1]), float(point[2])
        if not abs(y - self.floor_y) <= SNAP_REACH_M[1]:
            return None
        island = visibility.locate(x, z, self._walls)
        if island >= 0:
            return x, z, island
        _, near_x, near_z, island = visibility.nearest_on_edges(x, z, self._walls)
        if not (abs(near_x - x) <= SNAP_REACH_M[0] and abs(near_z - z) <= SNAP_REACH_M[2]):
            return None
        return near_x, near_z, island

    def snap_point(self, point):
        """The nearest navigable point, (3,) float32; NaN when none is within reach."""
        place = self._place(point)
        return np.full(3, np.nan, np.float32) if place is None else self._at(place[0], place[1])

    def is_navigable(self, point, max_y_delta=0.5):
        """True when the agent can stand at the point (1 cm of horizontal tolerance)."""
        if not abs(float(point[1]) - self.floor_y) <= max_y_delta:
            return False
        x, z = float(point[0]), float(point[2])
        return bool(visibility.locate(x, z, self._walls) >= 0
                    or visibility.nearest_on_edges(x, z, self._walls)[0] <= NAVIGABLE_SLACK_M)

    def island(self, point):
        """Number of the nearest island (0 is the largest), -1 when none is within reach."""
        place = self._place(point)
        return -1 if place is None else int(place[2])

    def island_radius(self, point):
        """Half the diagonal of the box around the point's island, metres; 0 when out of reach."""
        island = self.island(point)
        if island < 0:
            return 0.0
        x0, z0, x1, z1 = self.polygons[island].bounds
        return math.hypot(x1 - x0, z1 - z0) / 2

    def distance_to_closest_obstacle(self, point, max_search_radius=2.0):
        """Metres from the point to the edge of the free space, at most max_search_radius."""
        gap = visibility.nearest_on_edges(float(point[0]), float(point[2]), self._walls)[0]
        return float(min(gap, max_search_radius))

    def get_random_navigable_point(self, max_tries=1000, island_index=-1):
        """A uniformly drawn free point, (3,) float32; NaN when max_tries draws all missed."""
        box = (shapely.total_bounds(self.polygons) if island_index < 0
               else self.polygons[island_index].bounds)
        for _ in range(max_tries):
            x, z = self._rng.uniform(box[0], box[2]), self._rng.uniform(box[1], box[3])
            island = visibility.locate(x, z, self._walls)
            if island >= 0 and island_index in (-1, island):
                return self._at(x, z)
        return np.full(3, np.nan, np.float32)

    def try_step(self, start, end):
        """Where a straight step ends when the agent slides along what it meets, (3,) float32."""
        return self._step(start, end, True)

    def try_step_no_sliding(self, start, end):
        """Where a straight step ends when the agent stops at what it meets, (3,) float32."""
        return self._step(start, end, False)

    def _step(self, start, end, sliding):
        place = self._place(start)
        if place is None:
            return np.asarray(start, np.float32)
        ax, az = place[:2]
        bx, bz = float(end[0]), float(end[2])
        if not (math.isfinite(bx) and math.isfinite(bz)):
            raise UserError(f'a step must end at a finite point, not at {end}')
        if (visibility.locate(bx, bz, self._walls) == place[2]
                and visibility.sees(ax, az, bx, bz, self._blockers)):
            return self._at(bx, bz)
        if sliding:
            return self._at(*visibility.slide(ax, az, bx, bz, self._walls, self._blockers,
                                              self._corners, self._graph))
        t = visibility.first_contact(ax, az, bx, bz, self._walls)
        return self._at(ax + t * (bx - ax), az + t * (bz - az))

    def _field(self, goals):
        """(free goals (G, 2), distance, following) as in visibility.distance_field; cached."""
        goals = np.atleast_2d(np.asarray(goals, float))
        key = goals.tobytes()
        if key in self._fields:
            self._fields.move_to_end(key)
            return self._fields[key]
        places = [place for place in map(self._place, goals) if place is not None]
        inside = np.array([place[:2] for place in places], float).reshape(-1, 2)
        field = (inside, *visibility.distance_field(inside, self._corners, self._graph,
                                                    self._blockers))
        self._fields[key] = field
        if len(self._fields) > CACHED_GOAL_SETS:
            self._fields.popitem(last=False)
        return field

    def geodesic(self, start, goals):
        """Metres of the shortest way to the nearest goal; goals (3,) or (G, 3); inf when none."""
        place = self._place(start)
        if place is None:
            return math.inf
        goals, distance, _ = self._field(goals)
        return float(visibility.best_entry(place[0], place[1], goals, self._corners, distance,
                                           self._blockers)[0])

    def shortest_path(self, start, goals):
        """(length_m, points (K, 3) float32) of the way `geodesic` measures; K = 0 when none."""
        place = self._place(start)
        if place is None:
            return math.inf, np.zeros((0, 3), np.float32)
        goals, distance, following = self._field(goals)
        length, entry = visibility.best_entry(place[0], place[1], goals, self._corners, distance,
                                              self._blockers)
        if not math.isfinite(length):
            return math.inf, np.zeros((0, 3), np.float32)
        points = [self._at(place[0], place[1])]
        while entry >= 0:
            points.append(self._at(*self._corners[entry, :2]))
            entry = int(following[entry])
        points.append(self._at(*goals[-1 - entry]))
        return float(length), np.array(points)

    def get_topdown_view(self, meters_per_pixel, height, eps=0.5):
        """(rows along z, columns along x) bool: which cells of the scene's box are free."""
        columns = max(1, int((self._high[0] - self._low[0]) / meters_per_pixel))
        rows = max(1, int((self._high[2] - self._low[2]) / meters_per_pixel))
        if abs(height - self.floor_y) > eps:
            return np.zeros((rows, columns), bool)
        x = self._low[0] + (np.arange(columns) + 0.5) * meters_per_pixel
        z = self._low[2] + (np.arange(rows) + 0.5) * meters_per_pixel
        free = shapely.union_all(self.polygons)
        shapely.prepare(free)
        return shapely.contains_xy(free, *np.meshgrid(x, z))
