"""Parameters of the driver's node; those of what it does are in ``motion/config.py``."""
from __future__ import annotations

from dataclasses import dataclass

from ..motion.config import number


@dataclass(frozen=True)
class DriverNodeConfig:
    """Read once, at start."""

    control_rate_hz: float = number(50.0, 'control steps a second', 'Hz', 10.0, 500.0)
    stamped: bool = number(
        False, 'publish TwistStamped instead of Twist (lockstep always does)')
    base_frame: str = number('base_link', 'frame_id of stamped velocities')
    wall_timeout_s: float = number(
        0.5, 'send zero when no control step ran for this long by the steady clock (not in '
        'lockstep, where time may stand still)', 's', 0.05, 60.0)
    lockstep: bool = number(
        False, 'step once for every odometry message and answer it with one stamped velocity')
