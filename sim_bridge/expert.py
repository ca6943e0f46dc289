"""The shortest-path expert: which primitives lead to the goal from any pose.

It follows the geodesic with few turns. The headings it can reach form a lattice (its yaw plus
whole turns); it goes straight while the path stays within `TURN_MARGIN` turns of its heading
and otherwise turns to the best heading of the lattice. Every forward step must shorten the
geodesic and the choice of heading depends on the position alone (but for the margin, which
favours going straight), so it can neither swing to and fro nor run in circles.
"""
from __future__ import annotations

import math
from typing import Callable

import numpy as np

from sim_bridge.frames import heading, wrap
from vlnr1_ros.navigation.errors import UserError

STOP, FORWARD, LEFT, RIGHT = 0, 1, 2, 3

STOP_DISTANCE_M = 0.35
"""Geodesic distance to the goal set at which the expert has arrived."""
TURN_MARGIN = 0.7
"""Heading error, in turns, above which it turns; more than a half keeps it from dithering."""
FACING_SLACK_RAD = math.radians(10.0)
"""Final heading error allowed beyond half a turn."""
NEAR_POINT_M = 0.12
"""Path points nearer than this are passed over: their direction says nothing."""
MIN_PROGRESS = 0.5
"""Share of a forward step by which the geodesic should shorten for a heading to be good."""
CACHED_PATHS = 4096


class ShortestPathExpert:
    """Plans primitives on a navigation mesh.

    `pathfinder` is the embedded simulator's NavMesh or habitat-sim's PathFinder. The result is
    a pure function of the arguments: nothing is remembered but shortest paths already found.
    """

    def __init__(self, pathfinder, forward_m: float = 0.25, turn_deg: float = 30.0,
                 allow_sliding: bool = True):
        if forward_m <= 0 or not 0 < turn_deg <= 90:
            raise UserError(f'forward_m {forward_m} must be positive and turn_deg {turn_deg} '
                             'within (0, 90]')
        self.forward_m = float(forward_m)
        self.turn_rad = math.radians(turn_deg)
        self._pathfinder = pathfinder
        self._slides = allow_sliding
        self._try_step = (pathfinder.try_step if allow_sliding
                          else pathfinder.try_step_no_sliding)
        self._paths: dict = {}
        self._goals = np.zeros((0, 3), np.float32)

    def plan(self, position, yaw_rad: float, goals, face=None, n: int = 6,
             accept: Callable[[np.ndarray], bool] | None = None) -> list[int]:
        """The next n habitat actions from a pose, padded with stop.

        position: (3,) in metres. goals: (3,) or (G, 3), any of which counts as reached.
        face: (3,) point to look at before stopping, or None. accept: asked for the position
        before stopping; while it says no, the expert goes nearer to the goals, as far as it can.
        Raises UserError when no goal can be reached.
        """
        self._use_goals(goals)
        position = np.asarray(position, np.float32)
        if not self._pathfinder.is_navigable(position):
            # where the simulator puts an agent that stands beside the mesh once it moves
            snapped = np.asarray(self._pathfinder.snap_point(position), np.float32)
            position = snapped if np.isfinite(snapped).all() else position
        if not math.isfinite(self._path(position)[0]):
            raise UserError(f'no goal can be reached from {position.tolist()}: '
                             'the episode and the scene do not belong together')
        actions: list[int] = []
        while len(actions) < n:
            action, position, yaw_rad = self._next(position, yaw_rad, face, accept)
            if action == STOP:
                break
            actions.append(action)
        return actions + [STOP] * (n - len(actions))

    def _next(self, position, yaw_rad, face, accept):
        length, points = self._path(position)
        arrived = length <= STOP_DISTANCE_M and (accept is None or accept(position))
        if not arrived and not self._pathfinder.is_navigable(position):
            # off the mesh any step leads to its nearest place, which is no nearer to the goal
            return FORWARD, self._step(position, yaw_rad)[0], yaw_rad
        step = None if arrived else self._forward_choice(position, yaw_rad, length, points)
        if step is not None:
            turns, after = step
            return ((FORWARD, after, yaw_rad) if turns == 0
                    else self._turned(position, yaw_rad, turns))
        if face is not None:
            error = _error(position, face, yaw_rad)
            if abs(error) > 0.5 * self.turn_rad + FACING_SLACK_RAD:
                return self._turned(position, yaw_rad, error)
        return STOP, position, yaw_rad

    def _turned(self, position, yaw_rad, sign):
        if sign > 0:
            return LEFT, position, wrap(yaw_rad + self.turn_rad)
        return RIGHT, position, wrap(yaw_rad - self.turn_rad)

    def _forward_choice(self, position, yaw_rad, length, points):
        """(turns to the left, position after the step) of the heading to take, or None.

        Headings are tried by their distance from the path's direction, the present one first if
        it lies within the margin: a free step first, then one that slides, then any progress.
        Where nothing slides, a free step that can be followed by another comes before all: whoever
        touches a corner without sliding may be held there.
        """
        error = _error(position, _ahead(points), yaw_rad)
        order = sorted(self._lattice(error), key=lambda turns: abs(error - turns * self.turn_rad))
        if abs(error) <= TURN_MARGIN * self.turn_rad:
            order.remove(0)
            order.insert(0, 0)
        free = sliding = None
        best_progress, best = 1e-3, None
        for turns in order:
            after, bumped = self._step(position, yaw_rad + turns * self.turn_rad)
            progress = length - self._path(after)[0]
            if progress >= MIN_PROGRESS * self.forward_m or self._path(after)[0] < NEAR_POINT_M:
                if not bumped and (self._slides or self._leads_on(after, yaw_rad)):
                    return turns, after
                if bumped:
                    sliding = sliding or (turns, after)
                else:
                    free = free or (turns, after)
            if progress > best_progress:
                best_progress, best = progress, (turns, after)
        return free or sliding or best

    def _leads_on(self, position, yaw_rad):
        """Whether a good free step can be taken from here, or none is needed any more."""
        length, points = self._path(position)
        error = _error(position, _ahead(points), yaw_rad)
        for turns in self._lattice(error):
            after, bumped = self._step(position, yaw_rad + turns * self.turn_rad)
            if not bumped and length - self._path(after)[0] >= MIN_PROGRESS * self.forward_m:
                return True
        return length <= STOP_DISTANCE_M

    def _lattice(self, error_rad):
        """Headings, as whole turns to the left, within 90 degrees of the path's direction."""
        low = math.ceil((error_rad - math.pi / 2) / self.turn_rad)
        high = math.floor((error_rad + math.pi / 2) / self.turn_rad)
        return list(range(low, high + 1))

    def _step(self, position, yaw_rad):
        wanted = position + np.array([-math.sin(yaw_rad) * self.forward_m, 0.0,
                                      -math.cos(yaw_rad) * self.forward_m], np.float32)
        after = np.asarray(self._try_step(position, wanted), np.float32)
        moved = math.hypot(after[0] - position[0], after[2] - position[2])
        # habitat-sim's own rule for "collided"
        return after, moved * moved + 1e-5 < self.forward_m * self.forward_m

    def _use_goals(self, goals):
        goals = np.atleast_2d(np.asarray(goals, np.float32))
        if goals.shape[1:] != (3,) or not len(goals):
            raise UserError(f'goals must be (G, 3) positions, not of shape {goals.shape}')
        if not np.array_equal(goals, self._goals):
            self._goals = goals
            self._paths.clear()

    def _path(self, position):
        key = position.tobytes()
        found = self._paths.get(key)
        if found is None:
            if len(self._paths) >= CACHED_PATHS:
                self._paths.clear()
            found = self._paths[key] = shortest_path(self._pathfinder, position, self._goals)
        return found


def shortest_path(pathfinder, start, goals) -> tuple[float, np.ndarray]:
    """Length in metres and corner points (K, 3) of the shortest path to the nearest goal.

    Works on NavMesh and on habitat-sim's PathFinder; inf and (0, 3) when there is no path.
    """
    if hasattr(pathfinder, 'shortest_path'):
        return pathfinder.shortest_path(start, goals)
    import habitat_sim

    query = habitat_sim.MultiGoalShortestPath()
    query.requested_start = np.asarray(start, np.float32)
    query.requested_ends = list(np.atleast_2d(np.asarray(goals, np.float32)))
    if not pathfinder.is_loaded or not pathfinder.find_path(query):
        return math.inf, np.zeros((0, 3), np.float32)
    return float(query.geodesic_distance), np.asarray(query.points, np.float32)


def _error(position, target, yaw_rad):
    """How far to turn left, in radians, to look from `position` at `target`."""
    return wrap(heading(target[0] - position[0], target[2] - position[2]) - yaw_rad)


def _ahead(points):
    """The first path point far enough to give a direction; the last one otherwise."""
    x, z = points[0][0], points[0][2]
    for point in points[1:-1]:
        if math.hypot(point[0] - x, point[2] - z) > NEAR_POINT_M:
            return point
    return points[-1]
