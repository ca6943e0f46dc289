"""Rates and percentiles of a bounded past, with times by hand."""
import math

import numpy as np
import pytest

from vlnr1_ros.nodes.rates import MOST_DURATIONS, MOST_EVENTS, Durations, Rate


def rate_of(times_s):
    rate = Rate()
    for time_s in times_s:
        rate.count(time_s)
    return rate


@pytest.mark.parametrize('hz', [0.5, 5.0, 30.0, 200.0])
def test_a_steady_rate(hz):
    rate = rate_of(100.0 + np.arange(round(60 * hz)) / hz)
    assert rate.hz(160.0 - 0.5 / hz) == pytest.approx(hz, rel=0.15)
    assert rate.age_s(160.0) == pytest.approx(1 / hz)


def test_silence_lowers_the_rate_to_zero():
    rate = rate_of(np.arange(0.0, 10.0, 0.1))
    assert rate.hz(10.0) == pytest.approx(10.0, rel=0.03)
    assert rate.hz(15.0) == pytest.approx(5.0, rel=0.05)
    assert rate.hz(30.0) == 0.0
    assert rate.age_s(30.0) == pytest.approx(20.1)


def test_before_anything_happened():
    rate = Rate()
    rate.count(1.0, 0)
    assert rate.hz(1.0) == 0.0 and rate.age_s(1.0) == math.inf
    rate.count(2.0)
    assert rate.hz(2.0) == 0.1
    assert rate.hz(5.0) == 0.1, 'one event says little about a rate'


def test_several_at_once_and_at_the_same_time():
    rate = Rate()
    for time_s in (1.0, 2.0, 3.0):
        rate.count(time_s, 50)
    assert rate.hz(3.0) == 50.0
    same = rate_of([4.0, 4.0, 4.0])
    assert same.hz(4.0) == pytest.approx(0.3)


def test_more_events_than_are_kept_are_measured_over_a_shorter_past():
    rate = rate_of(np.arange(0, 2 * MOST_EVENTS) / 2000.0)
    assert rate.hz(2 * MOST_EVENTS / 2000.0) == pytest.approx(2000.0, rel=0.01)
    assert len(rate._events) == MOST_EVENTS


def test_percentiles_are_those_of_the_last_hundred():
    durations = Durations()
    assert math.isnan(durations.percentile(50))
    for duration_s in [1000.0] * 7 + list(np.linspace(0.1, 1.0, MOST_DURATIONS)):
        durations.add(duration_s)
    assert durations.percentile(50) == pytest.approx(0.55)
    assert durations.percentile(95) == pytest.approx(0.1 + 0.9 * 0.95)
