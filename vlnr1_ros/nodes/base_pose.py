"""Where the base was at a given time, from odometry."""
from __future__ import annotations

from bisect import bisect_left
from collections import deque

from ..motion.plan import Pose, wrap
from ..motion.safety import Odometry


class BasePose:
    """Remembers recent odometry and answers for any stamp within it."""

    def __init__(self, length: int = 200):
        self._recent: deque[Odometry] = deque(maxlen=length)

    def add(self, odometry: Odometry) -> None:
        """Take a message; one that is not finite is passed over, an older one starts anew."""
        if not odometry.pose.finite():
            return
        if self._recent and odometry.stamp_ns < self._recent[-1].stamp_ns:
            self._recent.clear()
        self._recent.append(odometry)

    @property
    def newest_ns(self) -> int | None:
        """Stamp of the newest message, None before the first."""
        return self._recent[-1].stamp_ns if self._recent else None

    @property
    def frame_id(self) -> str:
        """Frame of the poses; empty before the first message."""
        return self._recent[-1].frame_id if self._recent else ''

    def at(self, stamp_ns: int) -> Pose | None:
        """The pose at a stamp, interpolated; None while odometry has not reached it.

        A stamp before everything remembered gets the oldest pose: the driver compares it with
        where the base is and refuses a plan that starts elsewhere.
        """
        stamps = [odometry.stamp_ns for odometry in self._recent]
        index = bisect_left(stamps, stamp_ns)
        if index == len(stamps):
            return None
        later = self._recent[index]
        if index == 0 or later.stamp_ns == stamp_ns:
            return later.pose
        earlier = self._recent[index - 1]
        share = (stamp_ns - earlier.stamp_ns) / (later.stamp_ns - earlier.stamp_ns)
        first, last = earlier.pose, later.pose
        return Pose(first.x_m + share * (last.x_m - first.x_m),
                    first.y_m + share * (last.y_m - first.y_m),
                    wrap(first.yaw_rad + share * wrap(last.yaw_rad - first.yaw_rad)))
