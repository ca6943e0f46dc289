"""Compiled plane geometry for the navigation mesh: visibility, location, contact, distances.

Edges are rows (x0, z0, x1, z1, island) of closed polygon outlines.
"""
from __future__ import annotations

import numba as nb
import numpy as np

_JIT = {'nopython': True, 'nogil': True, 'cache': True, 'error_model': 'numpy'}


@nb.jit(**_JIT)
def sees(ax, az, bx, bz, edges):
    """True when segment a-b crosses no edge. End points must not lie on an edge."""
    dx, dz = bx - ax, bz - az
    low_x, high_x = min(ax, bx), max(ax, bx)
    low_z, high_z = min(az, bz), max(az, bz)
    for e in range(edges.shape[0]):
        px, pz, qx, qz = edges[e, 0], edges[e, 1], edges[e, 2], edges[e, 3]
        if max(px, qx) < low_x or min(px, qx) > high_x:
            continue
        if max(pz, qz) < low_z or min(pz, qz) > high_z:
            continue
        side_p = dx * (pz - az) - dz * (px - ax)
        side_q = dx * (qz - az) - dz * (qx - ax)
        if (side_p > 0) == (side_q > 0):
            continue
        ex, ez = qx - px, qz - pz
        side_a = ex * (az - pz) - ez * (ax - px)
        side_b = ex * (bz - pz) - ez * (bx - px)
        if (side_a > 0) != (side_b > 0):
            return False
    return True


@nb.jit(**_JIT)
def locate(x, z, edges):
    """Island that contains the point, -1 when none does (even-odd rule, island by island)."""
    inside = -1
    odd = False
    current = -1
    for e in range(edges.shape[0]):
        island = int(edges[e, 4])
        if island != current:
            if odd:
                return inside
            current, inside, odd = island, island, False
        z0, z1 = edges[e, 1], edges[e, 3]
        if (z0 > z) != (z1 > z):
            if x < edges[e, 0] + (z - z0) / (z1 - z0) * (edges[e, 2] - edges[e, 0]):
                odd = not odd
    return inside if odd else -1


@nb.jit(**_JIT)
def nearest_on_edges(x, z, edges):
    """(distance, x, z, island) of the edge point nearest to (x, z)."""
    best, best_x, best_z, island = np.inf, x, z, -1
    for e in range(edges.shape[0]):
        px, pz = edges[e, 0], edges[e, 1]
        ex, ez = edges[e, 2] - px, edges[e, 3] - pz
        length2 = ex * ex + ez * ez
        t = 0.0 if length2 == 0.0 else ((x - px) * ex + (z - pz) * ez) / length2
        t = min(1.0, max(0.0, t))
        qx, qz = px + t * ex, pz + t * ez
        d = (qx - x) ** 2 + (qz - z) ** 2
        if d < best:
            best, best_x, best_z, island = d, qx, qz, int(edges[e, 4])
    return np.sqrt(best), best_x, best_z, island


@nb.jit(**_JIT)
def first_contact(ax, az, bx, bz, edges):
    """Fraction of the way from a to b at which the first edge is met, 1 when none is."""
    dx, dz = bx - ax, bz - az
    first = 1.0
    for e in range(edges.shape[0]):
        px, pz = edges[e, 0], edges[e, 1]
        ex, ez = edges[e, 2] - px, edges[e, 3] - pz
        cross = dx * ez - dz * ex
        if cross == 0.0:
            continue
        t = ((px - ax) * ez - (pz - az) * ex) / cross
        u = ((px - ax) * dz - (pz - az) * dx) / cross
        if -1e-9 <= t < first and 0.0 <= u <= 1.0:
            first = max(0.0, t)
    return first


@nb.jit(**_JIT)
def _corners_within(ax, az, mx, mz, radius, corners, graph, blockers):
    """Numbers of the corners in a disc that can be walked to from a without leaving the disc."""
    inside = np.empty(corners.shape[0], np.int64)
    count = 0
    for c in range(corners.shape[0]):
        if (corners[c, 0] - mx) ** 2 + (corners[c, 1] - mz) ** 2 <= radius * radius:
            inside[count] = c
            count += 1
    found = 0    # inside[:found] are reached: at first those in sight, then their neighbours
    for k in range(count):
        c = inside[k]
        if sees(ax, az, corners[c, 0], corners[c, 1], blockers):
            inside[k], inside[found] = inside[found], c
            found += 1
    done = 0
    while done < found:
        for k in range(found, count):
            c = inside[k]
            if graph[inside[done], c] > 0.0:
                inside[k], inside[found] = inside[found], c
                found += 1
        done += 1
    return inside[:found]


@nb.jit(**_JIT)
def slide(ax, az, bx, bz, walls, blockers, corners, graph):
    """Where a step from a towards b ends when the agent slides along walls.

    The free point nearest to b among those that can be reached within the disc around the step's
    middle: the outcome of Detour's moveAlongSurface, which habitat-sim's step filter uses. walls
    are the edges of the shrunk free space, blockers those of the free space itself.
    """
    mx, mz = (ax + bx) / 2, (az + bz) / 2
    radius = np.hypot(bx - ax, bz - az) / 2 + 1e-3
    bends = _corners_within(ax, az, mx, mz, radius, corners, graph, blockers)
    best, best_x, best_z = (bx - ax) ** 2 + (bz - az) ** 2, ax, az
    for e in range(walls.shape[0]):
        px, pz, qx, qz = walls[e, 0], walls[e, 1], walls[e, 2], walls[e, 3]
        if (max(px, qx) < mx - radius or min(px, qx) > mx + radius
                or max(pz, qz) < mz - radius or min(pz, qz) > mz + radius):
            continue
        ex, ez = qx - px, qz - pz
        length2 = ex * ex + ez * ez
        if length2 == 0.0:
            continue
        middle = ((mx - px) * ex + (mz - pz) * ez) / length2
        gap2 = (px + middle * ex - mx) ** 2 + (pz + middle * ez - mz) ** 2
        if gap2 > radius * radius:
            continue
        half = np.sqrt((radius * radius - gap2) / length2)
        low, high = max(0.0, middle - half), min(1.0, middle + half)
        if low > high:
            continue
        t = min(high, max(low, ((bx - px) * ex + (bz - pz) * ez) / length2))
        cx, cz = px + t * ex, pz + t * ez
        d = (cx - bx) ** 2 + (cz - bz) ** 2
        if d < best:
            reached = sees(ax, az, cx, cz, blockers)
            for k in range(bends.shape[0]):
                if reached:
                    break
                reached = sees(corners[bends[k], 0], corners[bends[k], 1], cx, cz, blockers)
            if reached:
                best, best_x, best_z = d, cx, cz
    return best_x, best_z


@nb.jit(**_JIT)
def visibility_graph(corners, edges):
    """(C, C) lengths between corners that see each other along a taut line, 0 elsewhere.

    corners rows: x, z, previous x, z, next x, z on the outline. A taut string leaves both
    neighbours of a corner on one side; other lines are never part of a shortest path.
    """
    count = corners.shape[0]
    length = np.zeros((count, count))
    for a in range(count):
        ax, az = corners[a, 0], corners[a, 1]
        for b in range(a + 1, count):
            bx, bz = corners[b, 0], corners[b, 1]
            dx, dz = bx - ax, bz - az
            taut = True
            for k in range(2):
                c = a if k == 0 else b
                x, z = corners[c, 0], corners[c, 1]
                before = dx * (corners[c, 3] - z) - dz * (corners[c, 2] - x)
                after = dx * (corners[c, 5] - z) - dz * (corners[c, 4] - x)
                if min(before, after) < -1e-9 and max(before, after) > 1e-9:
                    taut = False
                    break
            if taut and sees(ax, az, bx, bz, edges):
                length[a, b] = length[b, a] = np.hypot(dx, dz)
    return length


@nb.jit(**_JIT)
def distance_field(goals, corners, graph, edges):
    """Shortest distance of every corner to the nearest goal, and the way there.

    Returns (distance (C,), following (C,)): following[c] is the next corner, or -1 - g for goal g.
    """
    count = corners.shape[0]
    distance = np.full(count, np.inf)
    following = np.full(count, -1, np.int64)
    for g in range(goals.shape[0]):
        x, z = goals[g, 0], goals[g, 1]
        for c in range(count):
            d = np.hypot(x - corners[c, 0], z - corners[c, 1])
            if d < distance[c] and sees(x, z, corners[c, 0], corners[c, 1], edges):
                distance[c], following[c] = d, -1 - g
    done = np.zeros(count, np.bool_)
    for _ in range(count):
        best, c = np.inf, -1
        for k in range(count):
            if not done[k] and distance[k] < best:
                best, c = distance[k], k
        if c < 0:
            break
        done[c] = True
        for k in range(count):
            if graph[c, k] > 0.0 and best + graph[c, k] < distance[k] - 1e-12:
                distance[k], following[k] = best + graph[c, k], c
    return distance, following


@nb.jit(**_JIT)
def best_entry(ax, az, goals, corners, distance, edges):
    """(length, entry) of the shortest way from a: a corner, or -1 - g for goal g in sight.

    Candidates are tried in order of total length, so the first one in sight is the answer.
    """
    count = corners.shape[0]
    total = np.empty(count + goals.shape[0])
    for c in range(count):
        total[c] = distance[c] + np.hypot(corners[c, 0] - ax, corners[c, 1] - az)
    for g in range(goals.shape[0]):
        total[count + g] = np.hypot(goals[g, 0] - ax, goals[g, 1] - az)
    for _ in range(total.shape[0]):
        k = np.argmin(total)
        length = total[k]
        if length == np.inf:
            break
        if k < count:
            if sees(ax, az, corners[k, 0], corners[k, 1], edges):
                return length, k
        elif sees(ax, az, goals[k - count, 0], goals[k - count, 1], edges):
            return length, -1 - (k - count)
        total[k] = np.inf
    return np.inf, 0
