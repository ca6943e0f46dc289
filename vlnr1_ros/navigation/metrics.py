"""VLN-CE metrics from positions, and the intervals shown beside them.

Definitions follow habitat-lab (``habitat/tasks/nav/nav.py``) and VLN-CE
(``habitat_extensions/measures.py``): success needs *stop* called at a geodesic distance strictly
below the radius; oracle success is any position strictly below it; SPL after Anderson et al. 2018
(arXiv 1807.06757); nDTW and SDTW after Ilharco et al. 2019 (arXiv 1907.05446), exact DTW.
"""
from __future__ import annotations

import math

import numpy as np

from .errors import UserError


def path_length_m(positions: np.ndarray) -> float:
    """Sum of Euclidean step lengths (TL) of (N, 3) positions in metres."""
    return float(np.linalg.norm(np.diff(positions, axis=0), axis=1).sum())


def dtw(path: np.ndarray, reference: np.ndarray) -> float:
    """Dynamic time warping distance in metres between (N, 3) and (M, 3) positions, exact."""
    cost = np.linalg.norm(path[:, None] - reference[None], axis=2)
    previous = np.full(len(reference) + 1, math.inf)
    previous[0] = 0.0
    for row in cost:
        best = np.minimum(previous[1:], previous[:-1])
        current = [math.inf]
        for step, value in zip(row.tolist(), best.tolist()):
            current.append(step + min(value, current[-1]))
        previous = np.array(current)
    return float(previous[-1])


def ndtw(path: np.ndarray, reference: np.ndarray, success_distance_m: float = 3.0) -> float:
    """exp(-DTW / (len(reference) * success_distance)); identical consecutive positions count once.

    ``reference`` must be dense (the ``locations`` of VLN-CE's ``{split}_gt.json.gz``).
    """
    path = np.asarray(path, float)
    moved = np.any(np.diff(path, axis=0) != 0, axis=1)
    path = path[np.concatenate([[True], moved])]
    reference = np.asarray(reference, float)
    return math.exp(-dtw(path, reference) / (len(reference) * success_distance_m))


def spl(success: float, start_geodesic_m: float, travelled_m: float) -> float:
    """Success weighted by path length; a start on the goal counts as a perfect path.

    0 where no way leads to the goal: its length, inf, would make nan of the formula.
    """
    if not math.isfinite(start_geodesic_m):
        return 0.0
    longest = max(start_geodesic_m, travelled_m)
    return float(success) * (start_geodesic_m / longest if longest > 0 else 1.0)


def finite_or_none(distance_m: float) -> float | None:
    """A distance as results hold it: None (JSON's null) where there is no way."""
    return float(distance_m) if math.isfinite(distance_m) else None


def episode_metrics(positions, distances_to_goal, stop_called: bool, start_geodesic_m: float,
                    reference=None, success_distance_m: float = 3.0,
                    collisions: int = 0) -> dict:
    """All VLN-CE metrics of one episode.

    positions (N, 3) metres: the start, then one after every action, *stop* included.
    distances_to_goal (N,) metres: geodesic, at those positions; inf where no way leads to the
    goal: never a success, and its distance_to_goal is None. reference (M, 3): dense ground
    truth for nDTW, or None. Returns success, oracle_success, spl, distance_to_goal (NE),
    path_length (TL), steps_taken, collisions, and ndtw, sdtw where a reference is given.
    """
    positions = np.asarray(positions, float)
    distances = np.asarray(distances_to_goal, float)
    if positions.ndim != 2 or positions.shape[1] != 3 or len(positions) != len(distances):
        raise UserError(f'positions {positions.shape} and distances {distances.shape} must be '
                        '(N, 3) and (N,)')
    success = float(stop_called and distances[-1] < success_distance_m)
    length_m = path_length_m(positions)
    result = {
        'success': success,
        'oracle_success': float((distances < success_distance_m).any()),
        'spl': spl(success, start_geodesic_m, length_m),
        'distance_to_goal': finite_or_none(distances[-1]),
        'path_length': length_m,
        'steps_taken': len(positions) - 1,
        'collisions': int(collisions),
    }
    if reference is not None:
        result['ndtw'] = ndtw(positions, reference, success_distance_m)
        result['sdtw'] = success * result['ndtw']
    return result


def wilson_interval(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927); (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(
        share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_interval(values, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a mean (Efron 1979), with a fixed seed."""
    values = np.asarray(values, float)
    if len(values) == 0:
        return math.nan, math.nan
    draws = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)
