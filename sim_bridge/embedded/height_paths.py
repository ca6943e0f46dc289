"""Compiled walking and shortest paths over the places of a height field, floor by floor.

A place is a square of the grid on one floor; whoever walks goes from place to neighbouring place,
so floors above each other never mix. Points carry x and z in cells from the grid's corner, y in
metres.
"""
from __future__ import annotations

import heapq
import math

import numba as nb
import numpy as np

_JIT = {'nopython': True, 'nogil': True, 'cache': True, 'error_model': 'numpy'}
INSET = 1e-3    # cells: positions stay this far inside their square


@nb.jit(**_JIT)
def _outside(value, index):
    """How far a coordinate lies outside the cell of this index."""
    return max(index - value, 0.0, value - index - 1)


@nb.jit(**_JIT)
def nearest_place(x, y, z, cell_m, reach, reach_y_m, first, row, column, y_of, shape):
    """The place nearest to a point, -1 when none is within reach (cells) and reach_y_m."""
    best, found = np.inf, -1
    middle_row, middle_column = int(math.floor(z)), int(math.floor(x))
    for ring in range(int(reach) + 2):
        if (ring - 1) * cell_m > best:
            break
        for r in range(max(0, middle_row - ring), min(shape[0] - 1, middle_row + ring) + 1):
            on_edge = r == middle_row - ring or r == middle_row + ring
            for c in range(middle_column - ring, middle_column + ring + 1,
                           1 if on_edge or ring == 0 else 2 * ring):
                if c < 0 or c >= shape[1]:
                    continue
                away_x, away_z = _outside(x, c), _outside(z, r)
                if away_x > reach or away_z > reach:
                    continue
                cell = r * shape[1] + c
                for i in range(first[cell], first[cell + 1]):
                    rise = y_of[i] - y
                    if abs(rise) > reach_y_m:
                        continue
                    d = math.sqrt((away_x ** 2 + away_z ** 2) * cell_m ** 2 + rise * rise)
                    if d < best:
                        best, found = d, i
    return found


@nb.jit(**_JIT)
def walk(place, ax, az, bx, bz, near, row, column):
    """(place reached, share of the way) of a straight walk from a, which lies in `place`, to b."""
    dx, dz = bx - ax, bz - az
    r, c = row[place], column[place]
    last_r, last_c = int(math.floor(bz)), int(math.floor(bx))
    step_c, step_r = (1 if dx > 0 else -1), (1 if dz > 0 else -1)
    t = 0.0
    for _ in range(abs(last_r - r) + abs(last_c - c) + 4):
        if r == last_r and c == last_c:
            return place, 1.0
        to_c = ((c + (step_c > 0)) - ax) / dx if dx != 0.0 else np.inf
        to_r = ((r + (step_r > 0)) - az) / dz if dz != 0.0 else np.inf
        if min(to_c, to_r) >= 1.0:
            return place, 1.0
        t = max(0.0, min(to_c, to_r))
        if abs(to_c - to_r) < 1e-9:    # through a corner: either way around it must be free
            direction, other = (1 if step_c > 0 else 0), (3 if step_r > 0 else 2)
            one = near[place, direction]
            one = near[one, other] if one >= 0 else -1
            two = near[place, other]
            two = near[two, direction] if two >= 0 else -1
            if one < 0 and two < 0:
                return place, t
            place = one if one >= 0 else two
        else:
            n = near[place, (1 if step_c > 0 else 0) if to_c < to_r else (3 if step_r > 0 else 2)]
            if n < 0:
                return place, t
            place = n
        r, c = row[place], column[place]
    return place, t


@nb.jit(**_JIT)
def into_square(x, z, place, row, column):
    """(x, z) moved into the square of a place."""
    c, r = column[place], row[place]
    return (min(max(x, c + INSET), c + 1 - INSET), min(max(z, r + INSET), r + 1 - INSET))


@nb.jit(**_JIT)
def slide(place, ax, az, bx, bz, near, row, column):
    """(place, x, z) where a step towards b ends when the agent slides along what is in the way.

    The point nearest to b among the places that can be walked to within the disc around the
    step's middle, which is what Detour's moveAlongSurface searches; the disc is a cell larger
    here, so that no notch of a slanting wall holds the agent.
    """
    mx, mz = (ax + bx) / 2, (az + bz) / 2
    radius = math.hypot(bx - ax, bz - az) / 2 + 1.0
    todo = [place]
    seen = {place}
    best = np.inf
    best_place, best_x, best_z = place, ax, az
    while len(todo) > 0:
        i = todo.pop()
        x, z = into_square(bx, bz, i, row, column)
        d = (x - bx) ** 2 + (z - bz) ** 2
        if d < best:
            best, best_place, best_x, best_z = d, i, x, z
        for k in range(4):
            n = near[i, k]
            if n < 0 or n in seen:
                continue
            away_x, away_z = _outside(mx, column[n]), _outside(mz, row[n])
            if away_x * away_x + away_z * away_z <= radius * radius:
                seen.add(n)
                todo.append(n)
    return best_place, best_x, best_z


@nb.jit(**_JIT)
def _length(ax, ay, az, bx, by, bz, cell_m):
    return math.sqrt(((ax - bx) ** 2 + (az - bz) ** 2) * cell_m * cell_m + (ay - by) ** 2)


@nb.jit(**_JIT)
def distance_field(goals, goal_places, cell_m, near, row, column, y_of):
    """Shortest distance (N,) metres of every place's middle to the nearest goal, and the way.

    goals (G, 3). Returns (distance, following (N,)): the place whose middle is the next corner of
    the way, or -1 - g for goal g in sight; -1 - G where no goal can be reached. Any-angle search:
    Nash, Koenig, Tovey, "Lazy Theta*", AAAI 2010, from the goals outwards.
    """
    count, none = near.shape[0], -1 - goals.shape[0]
    distance = np.full(count, np.inf)
    following = np.full(count, none, np.int32)
    done = np.zeros(count, np.bool_)
    queue = [(0.0, 0)]
    queue.pop()
    for g in range(goals.shape[0]):
        i = goal_places[g]
        d = _length(column[i] + 0.5, y_of[i], row[i] + 0.5, goals[g, 0], goals[g, 1], goals[g, 2],
                    cell_m)
        if d < distance[i]:
            distance[i], following[i] = d, -1 - g
            heapq.heappush(queue, (d, i))
    around = np.empty(8, np.int64)
    while len(queue) > 0:
        d, i = heapq.heappop(queue)
        if done[i]:
            continue
        x, y, z = column[i] + 0.5, y_of[i], row[i] + 0.5
        _around(i, near, around)
        f = following[i]
        if f >= 0:
            to = f
            reached, share = walk(i, x, z, column[f] + 0.5, row[f] + 0.5, near, row, column)
        else:
            to = goal_places[-1 - f]
            reached, share = walk(i, x, z, goals[-1 - f, 0], goals[-1 - f, 2], near, row, column)
        if reached != to:    # out of sight after all: go by the best neighbour that is settled
            distance[i] = np.inf
            for k in range(8):
                n = around[k]
                if n >= 0 and done[n]:
                    over = distance[n] + _length(x, y, z, column[n] + 0.5, y_of[n], row[n] + 0.5,
                                                 cell_m)
                    if over < distance[i]:
                        distance[i], following[i] = over, n
            if distance[i] > d + 1e-9:
                if distance[i] < np.inf:
                    heapq.heappush(queue, (distance[i], i))
                continue
        done[i] = True
        f = following[i]
        for k in range(8):
            n = around[k]
            if n < 0 or done[n]:
                continue
            if f >= 0:
                over = distance[f] + _length(column[n] + 0.5, y_of[n], row[n] + 0.5,
                                             column[f] + 0.5, y_of[f], row[f] + 0.5, cell_m)
            else:
                over = _length(column[n] + 0.5, y_of[n], row[n] + 0.5, goals[-1 - f, 0],
                               goals[-1 - f, 1], goals[-1 - f, 2], cell_m)
            if over < distance[n] - 1e-9:
                distance[n], following[n] = over, f
                heapq.heappush(queue, (over, n))
    return distance, following


@nb.jit(**_JIT)
def _around(i, near, out):
    """The eight neighbours; a diagonal one only where both ways around its corner are free."""
    for k in range(4):
        out[k] = near[i, k]
    at = 4
    for a in range(2):
        for b in range(2, 4):
            one = near[near[i, a], b] if near[i, a] >= 0 else -1
            two = near[near[i, b], a] if near[i, b] >= 0 else -1
            out[at] = one if one == two else -1
            at += 1


@nb.jit(**_JIT)
def best_entry(place, x, y, z, goals, goal_places, distance, following, cell_m, near, row, column,
               y_of):
    """(length, entry) of the shortest way from a point in a place: a corner, or -1 - g."""
    best, entry = np.inf, -1 - goals.shape[0]
    for g in range(goals.shape[0]):
        length = _length(x, y, z, goals[g, 0], goals[g, 1], goals[g, 2], cell_m)
        if length < best and walk(place, x, z, goals[g, 0], goals[g, 2], near, row,
                                  column)[0] == goal_places[g]:
            best, entry = length, -1 - g
    around = np.empty(8, np.int64)
    _around(place, near, around)
    for k in range(-1, 8):
        n = place if k < 0 else around[k]
        if n < 0 or not distance[n] < np.inf:
            continue
        for corner in (nb.int64(following[n]), nb.int64(n)):
            if corner < 0:
                continue
            length = distance[corner] + _length(x, y, z, column[corner] + 0.5, y_of[corner],
                                                row[corner] + 0.5, cell_m)
            if length < best and walk(place, x, z, column[corner] + 0.5, row[corner] + 0.5, near,
                                      row, column)[0] == corner:
                best, entry = length, corner
    return best, entry
