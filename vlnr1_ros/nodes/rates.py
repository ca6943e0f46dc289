"""How often something happens and how long it takes, over a bounded past, for diagnostics."""
from __future__ import annotations

import math
from collections import deque

import numpy as np

WINDOW_S = 10.0
MOST_EVENTS = 5000   # remembered; what happens more often is measured over a shorter past
MOST_DURATIONS = 100


class Rate:
    """Events a second over the last 10 s, or since the first one if that is more recent."""

    def __init__(self):
        self._events: deque[tuple[float, int]] = deque(maxlen=MOST_EVENTS)
        self._last_s = -math.inf

    def count(self, now_s: float, events: int = 1) -> None:
        """Note that so many happened by now."""
        if events:
            self._events.append((now_s, events))
            self._last_s = now_s

    def hz(self, now_s: float) -> float:
        """Events a second; 0 when none came within the window.

        Those after the oldest one remembered are divided by the time since it.
        """
        while self._events and now_s - self._events[0][0] > WINDOW_S:
            self._events.popleft()
        kept = list(self._events)   # in one go: another thread may be counting
        if len(kept) < 2 or now_s <= kept[0][0]:
            return sum(events for _, events in kept) / WINDOW_S
        return sum(events for _, events in kept[1:]) / (now_s - kept[0][0])

    def age_s(self, now_s: float) -> float:
        """Seconds since the last one; infinite before the first."""
        return now_s - self._last_s


class Durations:
    """The last 100 durations, in seconds."""

    def __init__(self):
        self._last: deque[float] = deque(maxlen=MOST_DURATIONS)

    def add(self, duration_s: float) -> None:
        """Take one more."""
        self._last.append(duration_s)

    def percentile(self, percent: float) -> float:
        """Linearly interpolated; NaN before the first."""
        return float(np.percentile(self._last, percent)) if self._last else math.nan
