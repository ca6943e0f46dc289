"""VLN-CE metrics against values worked out by hand."""
import math

import numpy as np
import pytest

from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.navigation.metrics import (
    dtw,
    episode_metrics,
    mean_interval,
    ndtw,
    spl,
    wilson_interval,
)

LINE = np.array([[x, 0.0, 0.0] for x in range(5)])


def test_a_perfect_run():
    result = episode_metrics(LINE, [4, 3, 2, 1, 0], True, 4.0, LINE)
    assert result['success'] == result['spl'] == result['ndtw'] == result['sdtw'] == 1
    assert result['path_length'] == 4 and result['steps_taken'] == 4


def test_success_needs_stop_and_is_strict():
    assert episode_metrics(LINE, [4, 3, 2, 1, 0], False, 4.0)['success'] == 0
    assert episode_metrics(LINE, [7, 6, 5, 4, 3.0], True, 4.0)['success'] == 0
    assert episode_metrics(LINE, [7, 6, 5, 4, 2.999], True, 4.0)['success'] == 1


def test_oracle_success_counts_any_position():
    result = episode_metrics(LINE, [5, 2, 5, 5, 9], True, 4.0)
    assert result['oracle_success'] == 1 and result['success'] == 0


def test_spl_of_a_detour_and_of_a_start_on_the_goal():
    assert spl(1, 4.0, 8.0) == 0.5
    assert spl(1, 4.0, 2.0) == 1.0
    assert spl(1, 0.0, 0.0) == 1.0
    assert spl(0, 4.0, 4.0) == 0.0


def brute_dtw(a, b):
    table = np.full((len(a) + 1, len(b) + 1), math.inf)
    table[0, 0] = 0
    for i in range(len(a)):
        for j in range(len(b)):
            table[i + 1, j + 1] = np.linalg.norm(a[i] - b[j]) + min(
                table[i, j], table[i, j + 1], table[i + 1, j])
    return table[-1, -1]


def test_dtw_is_exact():
    random = np.random.default_rng(0)
    for _ in range(10):
        a = random.normal(size=(random.integers(1, 12), 3))
        b = random.normal(size=(random.integers(1, 12), 3))
        assert dtw(a, b) == pytest.approx(brute_dtw(a, b))


def test_ndtw_counts_standing_still_once():
    waiting = np.repeat(LINE, 3, axis=0)
    assert ndtw(waiting, LINE) == pytest.approx(1.0)
    shifted = LINE + [0, 0, 1.5]
    assert ndtw(shifted, LINE) == pytest.approx(math.exp(-0.5))


def test_shapes_are_checked():
    with pytest.raises(UserError, match='positions'):
        episode_metrics(LINE, [1, 2], True, 1.0)


def test_intervals():
    low, high = wilson_interval(50, 100)
    assert low == pytest.approx(0.404, abs=1e-3) and high == pytest.approx(0.596, abs=1e-3)
    assert wilson_interval(0, 0) == (0.0, 1.0)
    low, high = wilson_interval(0, 20)
    assert low == 0 and 0.1 < high < 0.2
    values = np.random.default_rng(0).normal(5, 1, 400)
    low, high = mean_interval(values)
    assert low < values.mean() < high and 0.15 < high - low < 0.25
    assert all(map(math.isnan, mean_interval([])))
