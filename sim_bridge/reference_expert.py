"""The expert that walks an episode's reference path instead of the shortest way to its goal.

RxR's instructions describe paths that are not shortest. As VLN-CE made its ground truth, the
shortest-path expert goes from one point of the reference path to the next, in their order
(habitat-lab has the same in `examples/vln_reference_path_follower_example.py`).
"""
from __future__ import annotations

import math

import numpy as np

from sim_bridge.expert import STOP, ShortestPathExpert
from vlnr1_ros.navigation.errors import UserError


class ReferencePathExpert(ShortestPathExpert):
    """Plans primitives along (K, 3) points and then to the nearest of the goals (G, 3), metres.

    How far it has come is remembered: call `visit` for every pose of the episode, in order. A plan
    is then a pure function of the pose and of what was visited.
    """

    def __init__(self, points, goals, pathfinder, forward_m: float = 0.25, turn_deg: float = 30.0,
                 allow_sliding: bool = True):
        super().__init__(pathfinder, forward_m, turn_deg, allow_sliding)
        points = np.asarray(points, np.float32).reshape(-1, 1, 3)
        self._legs = [*points, np.asarray(goals, np.float32).reshape(-1, 3)]
        self._paths_of_leg = [{} for _ in self._legs]
        self._leg = 0

    def visit(self, position, yaw_rad: float) -> None:
        """Pass over the points that are reached from this pose, or can not be."""
        self._leg = self._passed(np.asarray(position, np.float32), yaw_rad, self._leg)

    def plan(self, position, yaw_rad: float, n: int = 6) -> list[int]:
        """The next n habitat actions from a pose, padded with stop; nothing counts as visited.

        Raises UserError when the goal cannot be reached.
        """
        position = np.asarray(position, np.float32)
        self._aim(len(self._legs) - 1)
        if not math.isfinite(self._path(position)[0]):
            raise UserError(f'no goal can be reached from {position.tolist()}: '
                            'the episode and the scene do not belong together')
        actions: list[int] = []
        leg = self._leg
        while len(actions) < n:
            leg = self._passed(position, yaw_rad, leg)
            action, position, yaw_rad = self._next(position, yaw_rad, None, None)
            if action == STOP:
                break
            actions.append(action)
        return actions + [STOP] * (n - len(actions))

    def _passed(self, position, yaw_rad, leg):
        """The leg to walk from here, aimed at; the last one is never passed."""
        self._aim(leg)
        while leg < len(self._legs) - 1:
            # the shortest-path expert stops where it has arrived and where it comes no nearer
            if (math.isfinite(self._path(position)[0])
                    and self._next(position, yaw_rad, None, None)[0] != STOP):
                break
            leg += 1
            self._aim(leg)
        return leg

    def _aim(self, leg):
        # a cache of paths for each leg: a plan may cross from one to the next and be asked again
        self._goals, self._paths = self._legs[leg], self._paths_of_leg[leg]
