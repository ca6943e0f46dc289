"""The outline of the base, and how far it can move before it touches something."""
from __future__ import annotations

import json
import math

import numpy as np

from ..navigation.errors import UserError

STEP_M = 0.02
"""Way between two places at which the outline is tried."""
DEEPER_M = 0.005
"""A point inside the outline is hit when it comes this much deeper; leaving it is none."""


class Footprint:
    """A convex outline around the base's origin, metres, x forward, y left.

    normals: (E, 2) unit vectors out of its E edges; offsets_m: (E,) distances of the edges from
    the origin along them. A circle has no edges and the one offset `reach_m`.
    """

    def __init__(self, reach_m: float, normals: np.ndarray | None = None,
                 offsets_m: np.ndarray | None = None):
        self.reach_m = reach_m
        self._normals, self._offsets_m = normals, offsets_m

    @classmethod
    def of(cls, radius_m: float, corners: str = '') -> Footprint:
        """A polygon from text such as '[[0.3, 0.2], ...]' (as nav2 writes it), else a circle."""
        if not corners.strip():
            return cls(radius_m)
        try:
            points = np.array(json.loads(corners), dtype=float)
        except (ValueError, TypeError):
            points = np.empty(0)
        if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3 \
                or not np.isfinite(points).all():
            raise UserError(f'footprint is {corners!r}; give three or more corners in metres as '
                            '[[x, y], ...]')
        edges = np.roll(points, -1, axis=0) - points
        following = np.roll(edges, -1, axis=0)
        bends = edges[:, 0] * following[:, 1] - edges[:, 1] * following[:, 0]
        turns = np.arctan2(bends, (edges * following).sum(axis=1))
        # once around (2 pi), always to the same side
        if not bends.all() or len(set(np.sign(bends))) > 1 or abs(turns.sum()) > 7.0:
            raise UserError(f'footprint {corners} is not convex; give its corners in order and '
                            'without dents')
        outward = np.sign(bends[0]) * np.stack([edges[:, 1], -edges[:, 0]], axis=1)
        normals = outward / np.hypot(*edges.T)[:, None]
        return cls(float(np.hypot(*points.T).max()), normals, (normals * points).sum(axis=1))

    def distance_m(self, x_m: np.ndarray, y_m: np.ndarray) -> np.ndarray:
        """Distance of points to the outline, negative inside; for a polygon, to its nearest edge.

        Beyond a polygon's corner it is less than the true distance, of the same sign.
        """
        if self._normals is None:
            return np.hypot(x_m, y_m) - self.reach_m
        distance_m = np.full(np.shape(x_m), -np.inf)
        for (x, y), offset_m in zip(self._normals, self._offsets_m):
            np.maximum(distance_m, x * x_m + y * y_m - offset_m, out=distance_m)
        return distance_m

    def speed_m_s(self, linear_m_s: float, angular_rad_s: float) -> float:
        """Speed of the fastest point of the outline, at most."""
        return abs(linear_m_s) + abs(angular_rad_s) * self.reach_m

    def way_to_contact_m(self, points: np.ndarray, linear_m_s: float, angular_rad_s: float,
                         within_m: float, count: int) -> float | None:
        """How far the outline moves at these velocities until it touches `count` points.

        points: (N, 2) in the base's frame. None when it does not within `within_m`. The way is
        that of the outline's fastest point, on the circle that both velocities make.
        """
        speed_m_s = self.speed_m_s(linear_m_s, angular_rad_s)
        points = points[np.hypot(points[:, 0], points[:, 1]) <= self.reach_m + within_m]
        if speed_m_s == 0.0 or len(points) < count:
            return None
        way_m = np.linspace(0.0, within_m, math.ceil(within_m / STEP_M) + 1)[:, None]
        yaw = angular_rad_s * way_m / speed_m_s
        chord_m = linear_m_s * way_m / speed_m_s * np.sinc(yaw / (2 * math.pi))
        x_m = points[:, 0] - chord_m * np.cos(yaw / 2)
        y_m = points[:, 1] - chord_m * np.sin(yaw / 2)
        cos, sin = np.cos(yaw), np.sin(yaw)
        distance_m = self.distance_m(cos * x_m + sin * y_m, cos * y_m - sin * x_m)
        touched = distance_m < np.minimum(0.0, distance_m[0] - DEEPER_M)
        hit = touched.any(axis=0)
        if hit.sum() < count:
            return None
        first_m = way_m[touched[:, hit].argmax(axis=0), 0]
        return float(np.partition(first_m, count - 1)[count - 1])
