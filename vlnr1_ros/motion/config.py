"""Every number of the driver, with its unit, range and meaning, in one place."""
from __future__ import annotations

import math
from dataclasses import dataclass, field, fields

from ..navigation.actions import ActionSet
from ..navigation.errors import UserError
from .plan import MAX_AGE_S, MAX_SHIFT_DEG, MAX_SHIFT_M

REPLAN_MODES = ('after', 'during')


def number(default, description: str, unit: str = '', minimum=None, maximum=None):
    """A dataclass field that knows its unit and range, which become those of a ROS parameter."""
    return field(default=default, metadata={
        'description': description, 'unit': unit, 'minimum': minimum, 'maximum': maximum})


@dataclass(frozen=True)
class DriverConfig:
    """Limits, tolerances and timeouts of the driver; UserError names a value out of range."""

    forward_m: float = number(0.25, 'length of one forward primitive', 'm', 0.01, 2.0)
    turn_deg: float = number(30.0, 'angle of one turn primitive', 'deg', 1.0, 90.0)

    max_linear_m_s: float = number(0.3, 'highest forward speed', 'm/s', 0.01, 3.0)
    max_linear_m_s2: float = number(0.5, 'highest forward acceleration and braking', 'm/s2',
                                    0.01, 10.0)
    max_angular_rad_s: float = number(1.0, 'highest turning speed', 'rad/s', 0.01, 6.0)
    max_angular_rad_s2: float = number(2.0, 'highest turning acceleration and braking', 'rad/s2',
                                       0.01, 30.0)
    stop_decel_m_s2: float = number(
        0.0, 'braking of a fault stop; 0 commands zero at once; turning brakes in proportion',
        'm/s2', 0.0, 50.0)
    reaction_s: float = number(
        0.2, 'delay from a command to the odometry that shows it, times three; raise it if '
        'primitives overshoot', 's', 0.0, 2.0)
    tolerance_m: float = number(0.02, 'a forward primitive may end this far from its goal', 'm',
                                0.001, 0.2)
    tolerance_deg: float = number(2.0, 'a primitive may end this far from its heading', 'deg',
                                  0.1, 20.0)
    settle_s: float = number(
        0.5, 'a base that stays within tolerance this long has arrived, even if it creeps', 's',
        0.0, 10.0)
    stall_timeout_s: float = number(
        1.5, 'a primitive without progress for this long is blocked and the plan is dropped', 's',
        0.1, 60.0)

    plan_max_age_s: float = number(MAX_AGE_S, 'a plan made from an older image is refused', 's',
                                   0.1, 600.0)
    plan_max_shift_m: float = number(
        MAX_SHIFT_M, 'a plan is refused if the base moved further since its image', 'm', 0.001,
        1.0)
    plan_max_shift_deg: float = number(
        MAX_SHIFT_DEG, 'a plan is refused if the base turned further since its image', 'deg', 0.1,
        90.0)
    replan: str = number(
        'after', 'after: plans come while the base stands; during: a plan may come while it '
        'moves, and the actions completed since its image are skipped')

    odom_frame: str = number('odom', 'frame of odometry and plans; empty: whatever odometry says')
    odom_timeout_s: float = number(0.3, 'stop when odometry is silent or late by this much', 's',
                                   0.02, 10.0)
    odom_jump_m: float = number(
        0.1, 'stop when odometry jumps by this much more than the base can drive', 'm', 0.01, 10.0)
    odom_jump_deg: float = number(
        10.0, 'stop when odometry jumps by this much more than the base can turn', 'deg',
        1.0, 180.0)
    heartbeat_timeout_s: float = number(
        0.5, 'stop when the navigator is silent this long', 's', 0.05, 60.0)
    clock_jump_s: float = number(0.5, 'stop when time goes back, or leaps ahead by this much', 's',
                                 0.05, 60.0)
    stop_repeat_s: float = number(2.0, 'zero velocity is repeated this long after a stop', 's',
                                  0.1, 60.0)

    def __post_init__(self):
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, str):
                continue
            low, high = item.metadata['minimum'], item.metadata['maximum']
            if not (math.isfinite(value) and low <= value <= high):
                raise UserError(f'{item.name} is {value}; give {item.metadata["unit"]} between '
                                f'{low:g} and {high:g}')
        if self.replan not in REPLAN_MODES:
            raise UserError(f'replan is {self.replan!r}; give one of {", ".join(REPLAN_MODES)}')

    @property
    def action_set(self) -> ActionSet:
        """The primitives this driver executes."""
        return ActionSet(self.forward_m, self.turn_deg)
