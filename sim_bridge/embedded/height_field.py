"""From triangles to the places an agent can stand on, on any number of floors: Recast's way.

Columns of CELL_M hold spans of solid matter; the tops of spans are walkable where they are flat
enough, have room for the agent above and no drop beside them. The filters are those of Recast with
habitat-sim's settings (esp/nav/PathFinder.h, NavMeshSettings::setDefaults), but heights are not
rounded to cells of 0.2 m.
"""
from __future__ import annotations

import math

import numba as nb
import numpy as np

from sim_bridge.embedded.free_space import FLOOR_NORMAL_Y, MAX_CLIMB_M, MIN_ISLAND_M2

CELL_M = 0.05
MAX_COLUMNS = 16_000_000    # larger scenes get larger cells
TOUCHING_M = 1e-3
_JIT = {'nopython': True, 'nogil': True, 'cache': True, 'error_model': 'numpy'}
_FAR = 1e9


class Places:
    """Free places of a scene, one per cell and floor.

    low (3,): corner of the grid; cell: its step in metres; shape (rows along z, columns along x);
    row, column, y (N,): where each place is; near (N, 4): the place one cell towards -x, +x, -z,
    +z, -1 where none can be walked to; island (N,): 0 is the largest; first (cells + 1,): the
    places of a cell.
    """

    def __init__(self, triangles, radius_m, height_m):
        triangles = np.ascontiguousarray(triangles, np.float64)
        self.low, high = triangles.min((0, 1)), triangles.max((0, 1))
        size = np.maximum(high - self.low, CELL_M)
        self.cell = max(CELL_M, math.sqrt(size[0] * size[2] / MAX_COLUMNS))
        self.shape = (int(size[2] / self.cell) + 1, int(size[0] / self.cell) + 1)
        spans = _rasterise(triangles, self.low, self.cell, self.shape[0], self.shape[1],
                           FLOOR_NORMAL_Y)
        first, bottom, top, walkable = _merge(*spans, self.shape[0] * self.shape[1], MAX_CLIMB_M)
        del spans
        near = _connect(first, bottom, top, walkable, self.shape[1], height_m, MAX_CLIMB_M,
                        self.low[1])
        _erode(walkable, near, 2 * radius_m / self.cell)
        island, areas = _islands(walkable, near, MIN_ISLAND_M2 / self.cell ** 2)
        kept = np.flatnonzero(island >= 0)
        number = np.full(len(island), -1, np.int32)
        number[kept] = np.arange(len(kept))
        cells = np.repeat(np.arange(len(first) - 1), np.diff(first))[kept]
        self.row, self.column = (v.astype(np.int32) for v in np.divmod(cells, self.shape[1]))
        self.y = top[kept]
        self.near = np.where(near[kept] < 0, -1, number[near[kept]]).astype(np.int32)
        order = np.argsort(-areas, kind='stable')
        rank = np.empty(len(areas), np.int32)
        rank[order] = np.arange(len(areas))
        self.island = rank[island[kept]]
        self.island_areas = [float(area) * self.cell ** 2 for area in areas[order]]
        self.first = np.searchsorted(cells, np.arange(len(first))).astype(np.int32)


@nb.jit(**_JIT)
def _cut(polygon, count, axis, at, above, out):
    """Cuts a convex polygon (count, 3) with a plane; returns how many corners are left in out."""
    sign = 1.0 if above else -1.0
    kept = 0
    for k in range(count):
        j = count - 1 if k == 0 else k - 1
        side_k, side_j = sign * (polygon[k, axis] - at), sign * (polygon[j, axis] - at)
        if (side_k >= 0) != (side_j >= 0):
            t = side_j / (side_j - side_k)
            for a in range(3):
                out[kept, a] = polygon[j, a] + t * (polygon[k, a] - polygon[j, a])
            kept += 1
        if side_k >= 0:
            for a in range(3):
                out[kept, a] = polygon[k, a]
            kept += 1
    return kept


@nb.jit(**_JIT)
def _rasterise(triangles, low, cell, rows, columns, walkable_normal_y):
    """(cell number, bottom, top, walkable) of every piece of a triangle in a column."""
    size = 1 << 16
    where = np.empty(size, np.int64)
    bottom, top = np.empty(size), np.empty(size)
    flat = np.empty(size, np.bool_)
    used = 0
    whole, strip, rest, piece = (np.empty((12, 3)), np.empty((12, 3)), np.empty((12, 3)),
                                 np.empty((12, 3)))
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ux, uy, uz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
        vx, vy, vz = c[0] - a[0], c[1] - a[1], c[2] - a[2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        length = math.sqrt(nx * nx + ny * ny + nz * nz)
        if not length > 0.0:
            continue
        walk = ny > walkable_normal_y * length
        for k in range(3):
            for i in range(3):
                whole[k, i] = triangles[t, k, i]
        row0 = int((min(a[2], b[2], c[2]) - low[2]) / cell)
        row1 = min(rows - 1, int((max(a[2], b[2], c[2]) - low[2]) / cell))
        for row in range(row0, row1 + 1):
            z = low[2] + row * cell
            count = _cut(whole, 3, 2, z, True, rest)
            count = _cut(rest, count, 2, z + cell, False, strip)
            if count == 0:
                continue
            x_low, x_high = strip[0, 0], strip[0, 0]
            for k in range(1, count):
                x_low, x_high = min(x_low, strip[k, 0]), max(x_high, strip[k, 0])
            column0 = max(0, int((x_low - low[0]) / cell))
            column1 = min(columns - 1, int((x_high - low[0]) / cell))
            for column in range(column0, column1 + 1):
                x = low[0] + column * cell
                left = _cut(strip, count, 0, x, True, rest)
                left = _cut(rest, left, 0, x + cell, False, piece)
                if left == 0:
                    continue
                y_low, y_high = piece[0, 1], piece[0, 1]
                for k in range(1, left):
                    y_low, y_high = min(y_low, piece[k, 1]), max(y_high, piece[k, 1])
                if used == size:
                    size *= 2
                    where = np.concatenate((where, np.empty(used, np.int64)))
                    bottom = np.concatenate((bottom, np.empty(used)))
                    top = np.concatenate((top, np.empty(used)))
                    flat = np.concatenate((flat, np.empty(used, np.bool_)))
                where[used] = row * columns + column
                bottom[used], top[used], flat[used] = y_low, y_high, walk
                used += 1
    return where[:used], bottom[:used], top[:used], flat[:used]


@nb.jit(**_JIT)
def _merge(where, bottom, top, flat, cells, climb):
    """Joins overlapping pieces of a column to spans, from below.

    Returns (first (cells + 1,), bottom, top, walkable). The higher piece decides what the top is
    like; within the climb height a walkable one wins (rcAddSpan).
    """
    first = np.zeros(cells + 1, np.int64)
    for k in range(where.shape[0]):
        first[where[k] + 1] += 1
    for c in range(cells):
        first[c + 1] += first[c]
    fill = first[:-1].copy()
    order = np.empty(where.shape[0], np.int64)
    for k in range(where.shape[0]):
        order[fill[where[k]]] = k
        fill[where[k]] += 1
    out_first = np.zeros(cells + 1, np.int64)
    out_bottom, out_top = np.empty(where.shape[0]), np.empty(where.shape[0])
    out_flat = np.empty(where.shape[0], np.bool_)
    used = 0
    for c in range(cells):
        begin = used
        out_first[c + 1] = used
        if first[c] == first[c + 1]:
            continue
        part = order[first[c]:first[c + 1]]
        part = part[np.argsort(bottom[part])]
        for k in part:
            if used > begin and bottom[k] <= out_top[used - 1] + TOUCHING_M:
                last = used - 1
                if top[k] > out_top[last] + climb:
                    out_flat[last] = flat[k]
                elif top[k] >= out_top[last] - climb:
                    out_flat[last] |= flat[k]
                out_top[last] = max(out_top[last], top[k])
            else:
                out_bottom[used], out_top[used], out_flat[used] = bottom[k], top[k], flat[k]
                used += 1
        for k in range(begin + 1, used):    # a kerb one can step on (rcFilterLowHanging...)
            if not out_flat[k] and out_flat[k - 1] and out_top[k] - out_top[k - 1] <= climb:
                out_flat[k] = True
        out_first[c + 1] = used
    return out_first, out_bottom[:used].copy(), out_top[:used].copy(), out_flat[:used].copy()


@nb.jit(**_JIT)
def _neighbour_cells(cell, columns, cells, out):
    column = cell % columns
    out[0] = cell - 1 if column > 0 else -1
    out[1] = cell + 1 if column < columns - 1 else -1
    out[2] = cell - columns
    out[3] = cell + columns if cell + columns < cells else -1


@nb.jit(**_JIT)
def _connect(first, bottom, top, walkable, columns, height, climb, lowest):
    """(spans, 4) walkable neighbours; clears `walkable` where the agent does not fit or falls.

    The rules of rcFilterLedgeSpans, rcFilterWalkableLowHeightSpans and rcBuildCompactHeightfield.
    """
    cells = first.shape[0] - 1
    near = np.full((top.shape[0], 4), -1, np.int64)
    around = np.empty(4, np.int64)
    stays = walkable.copy()
    for c in range(cells):
        _neighbour_cells(c, columns, cells, around)
        for i in range(first[c], first[c + 1]):
            if not walkable[i]:
                continue
            ceiling = bottom[i + 1] if i + 1 < first[c + 1] else _FAR
            if ceiling - top[i] < height:
                stays[i] = False
                continue
            drop, reach_low, reach_high = 0.0, top[i], top[i]
            for d in range(4):
                n = around[d]
                begin = first[n] if n >= 0 else 0
                end = first[n + 1] if n >= 0 else 0
                for j in range(begin - 1, end):
                    floor = top[j] if j >= begin else lowest - climb
                    above = bottom[j + 1] if j + 1 < end else _FAR
                    if min(ceiling, above) - max(top[i], floor) < height:
                        continue
                    drop = min(drop, floor - top[i])
                    if j >= begin and abs(floor - top[i]) <= climb:
                        reach_low, reach_high = min(reach_low, floor), max(reach_high, floor)
                        near[i, d] = j
            if drop < -climb - 1e-6 or reach_high - reach_low > climb + 1e-6:
                stays[i] = False
    for i in range(top.shape[0]):
        walkable[i] = stays[i]
        for d in range(4):
            if near[i, d] >= 0 and not (stays[i] and stays[near[i, d]]):
                near[i, d] = -1
    return near


@nb.jit(**_JIT)
def _erode(walkable, near, threshold):
    """Takes away what lies nearer than the radius to an edge (rcErodeWalkableArea).

    Distances in half cells: two along an axis, three diagonally; edges have distance 0.
    """
    count = walkable.shape[0]
    distance = np.full(count, 255.0)
    for i in range(count):
        for d in range(4):
            if near[i, d] < 0:
                distance[i] = 0.0
    for _ in range(int(threshold / 2) + 2):
        for i in range(count):
            if not walkable[i]:
                continue
            for d in range(4):
                n = near[i, d]
                if n < 0:
                    continue
                distance[i] = min(distance[i], distance[n] + 2)
                for e in ((2, 3) if d < 2 else (0, 1)):
                    if near[n, e] >= 0:
                        distance[i] = min(distance[i], distance[near[n, e]] + 3)
    for i in range(count):
        walkable[i] = walkable[i] and distance[i] >= threshold - 1e-6


@nb.jit(**_JIT)
def _islands(walkable, near, smallest):
    """(number of the island of each span, -1 for none; cells of each island)."""
    count = walkable.shape[0]
    island = np.full(count, -1, np.int64)
    stack = np.empty(count, np.int64)
    sizes = np.zeros(count, np.int64)
    found = 0
    for start in range(count):
        if not walkable[start] or island[start] != -1:
            continue
        stack[0], held, size = start, 1, 0
        island[start] = found
        while held > 0:
            held -= 1
            i = stack[held]
            size += 1
            for d in range(4):
                n = near[i, d]
                if n >= 0 and walkable[n] and island[n] == -1:
                    island[n] = found
                    stack[held] = n
                    held += 1
        sizes[found] = size
        found += 1
    number = np.full(found, -1, np.int64)
    kept = 0
    for k in range(found):
        if sizes[k] >= smallest:
            number[k] = kept
            sizes[kept] = sizes[k]
            kept += 1
    for i in range(count):
        island[i] = number[island[i]] if island[i] >= 0 else -1
    return island, sizes[:kept].copy()
