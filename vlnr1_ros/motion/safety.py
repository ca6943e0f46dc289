"""The stop rules: what must hold for the base to move, and the words for what does not.

Times are integer nanoseconds of the driver's clock. Nothing here measures time itself.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

from .config import DriverConfig
from .obstacle import Obstacles
from .plan import EMERGENCY, EMERGENCY_ENDS, Pose


@dataclass(frozen=True)
class Odometry:
    """One odometry message, planar."""

    stamp_ns: int
    frame_id: str
    pose: Pose
    linear_m_s: float = 0.0
    angular_rad_s: float = 0.0


class Safety:
    """Remembers what was heard when, and says why the base must not move.

    Methods that take an event return the reason to stop now, or None; :meth:`obstacle_to_motion`
    returns what still forbids motion, or None.
    """

    def __init__(self, config: DriverConfig):
        self._config = config
        self._now_ns: int | None = None
        self._heartbeat_ns: int | None = None
        self._odometry_ns: int | None = None
        self._emergency_ns: int | None = None
        self._bad_odometry = ''
        self.odometry: Odometry | None = None
        self.obstacles = Obstacles(config)
        self.incompatible = ''   # which safety topic has a publisher that cannot be heard
        self.emergency = False
        self.paused = False

    @property
    def knows_navigator(self) -> bool:
        """Whether it was heard since the start, or since the clock went back."""
        return self._heartbeat_ns is not None

    def configure(self, config: DriverConfig):
        """Take other numbers; what was heard stays."""
        self._config = config
        self.obstacles.configure(config)

    def tick(self, now_ns: int) -> str | None:
        """Note the time of a control step; a clock that jumps is a reason to stop."""
        last_ns, self._now_ns = self._now_ns, now_ns
        if last_ns is None:
            return None
        jump_s = (now_ns - last_ns) * 1e-9
        if 0.0 <= jump_s <= self._config.clock_jump_s:
            return None
        if jump_s < 0.0:
            # What was heard "later than now" would count as fresh for the whole leap.
            self._heartbeat_ns = self._odometry_ns = self.odometry = None
            self._emergency_ns = None
            self.obstacles.forget()
        return f'the clock jumped by {jump_s:.3f} s'

    def hear_odometry(self, now_ns: int, odometry: Odometry) -> str | None:
        """Take a new odometry message, or refuse it with the reason."""
        last = self.odometry
        self._bad_odometry = self._defect(odometry)
        if self._bad_odometry:
            return self._bad_odometry
        if last is not None and odometry.stamp_ns == last.stamp_ns:
            return None  # a repeated message is no news: the base may have moved since
        self.odometry, self._odometry_ns = odometry, now_ns
        jump = self._jump(last, odometry) if last is not None else None
        if jump:
            self.obstacles.forget()
        self.obstacles.hear_pose(odometry.stamp_ns, odometry.pose)
        return jump

    def hear_heartbeat(self, now_ns: int):
        """Note that the navigator is alive."""
        self._heartbeat_ns = now_ns

    def hear_emergency(self, now_ns: int, engaged: bool) -> str | None:
        """Note what the emergency stop says."""
        self.emergency, self._emergency_ns = engaged, now_ns
        return self._engaged()

    def obstacle_to_motion(self, now_ns: int) -> str | None:
        """Why the base must not move now, or None."""
        if self.emergency:
            return self._engaged()
        if self.paused:
            return 'paused'
        return (self.incompatible or self._emergency_trouble(now_ns)
                or self._odometry_trouble(now_ns)
                or self._heartbeat_trouble(now_ns) or self.obstacles.trouble(now_ns))

    def age_s(self, now_ns: int) -> dict[str, float]:
        """Seconds since everything that must not fall silent was heard; infinite before."""
        ages_s = {name: math.inf if heard_ns is None else (now_ns - heard_ns) * 1e-9
                  for name, heard_ns in (('odometry', self._odometry_ns),
                                         ('heartbeat', self._heartbeat_ns))}
        return {**ages_s, **self.obstacles.age_s(now_ns)}

    def _engaged(self) -> str | None:
        if not self.emergency:
            return None
        return EMERGENCY if self._config.resume_after_emergency else EMERGENCY_ENDS

    def _emergency_trouble(self, now_ns: int) -> str | None:
        timeout_s = self._config.emergency_timeout_s
        if not timeout_s:
            return None
        if self._emergency_ns is None:
            return 'nothing heard of the emergency stop yet'
        if (now_ns - self._emergency_ns) * 1e-9 > timeout_s:
            return f'the emergency stop is silent for more than {timeout_s:g} s'
        return None

    def _defect(self, odometry: Odometry) -> str:
        if not (odometry.pose.finite() and math.isfinite(odometry.linear_m_s)
                and math.isfinite(odometry.angular_rad_s)):
            return 'odometry is not finite'
        frame = self._config.odom_frame
        if frame and odometry.frame_id != frame:
            return f'odometry is in frame {odometry.frame_id!r}, expected {frame!r} (odom_frame)'
        return ''

    def _jump(self, last: Odometry, new: Odometry) -> str | None:
        config = self._config
        dt_s = (new.stamp_ns - last.stamp_ns) * 1e-9
        if dt_s < 0.0:
            return f'odometry went back in time by {-dt_s:.3f} s'
        moved_m, turned_rad = last.pose.distance_m(new.pose), last.pose.turn_rad(new.pose)
        # Twice the limit, because a base may overshoot its command or be pushed.
        if (moved_m > config.odom_jump_m + 2.0 * config.max_linear_m_s * dt_s
                or turned_rad > (math.radians(config.odom_jump_deg)
                                 + 2.0 * config.max_angular_rad_s * dt_s)):
            return (f'odometry jumped by {moved_m:.2f} m and {math.degrees(turned_rad):.0f} '
                    f'degrees in {dt_s:.3f} s')
        return None

    def _odometry_trouble(self, now_ns: int) -> str | None:
        if self._bad_odometry:
            return self._bad_odometry
        if self.odometry is None:
            return 'no odometry yet'
        timeout_s = self._config.odom_timeout_s
        silent_s = (now_ns - self._odometry_ns) * 1e-9
        if silent_s > timeout_s:
            return f'odometry is silent for more than {timeout_s:g} s'
        late_s = (self._odometry_ns - self.odometry.stamp_ns) * 1e-9
        if abs(late_s) > timeout_s:
            return (f'odometry is stamped {late_s:.2f} s before it came; synchronise the clocks '
                    'or set use_sim_time alike')
        return None

    def _heartbeat_trouble(self, now_ns: int) -> str | None:
        timeout_s = self._config.heartbeat_timeout_s
        if self._heartbeat_ns is None:
            return 'no navigator heartbeat yet'
        if (now_ns - self._heartbeat_ns) * 1e-9 > timeout_s:
            return f'the navigator is silent for more than {timeout_s:g} s'
        return None
