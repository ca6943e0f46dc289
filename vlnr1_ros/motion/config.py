"""Every number of the driver, with its unit, range and meaning, in one place."""
from __future__ import annotations

import math
from dataclasses import dataclass, field, fields

from ..navigation.actions import ActionSet
from ..navigation.errors import UserError
from .footprint import Footprint
from .plan import MAX_AGE_S, MAX_SHIFT_DEG, MAX_SHIFT_M

SCAN, DEPTH = 'scan', 'depth'
OBSTACLE_SOURCES = {'none': (), 'scan': (SCAN,), 'depth': (DEPTH,), 'both': (SCAN, DEPTH)}
AFTER, DURING = 'after', 'during'
CHOICES = {'replan': (AFTER, DURING), 'obstacle_source': tuple(OBSTACLE_SOURCES)}


def number(default, description: str, unit: str = '', minimum=None, maximum=None,
           read_only: bool = True, constraints: str = ''):
    """A dataclass field that knows its unit and range, which become those of a ROS parameter.

    read_only: it is read once, at start; otherwise it may be changed while the node runs, within
    the constraints given in words.
    """
    return field(default=default, metadata={
        'description': description, 'unit': unit, 'minimum': minimum, 'maximum': maximum,
        'read_only': read_only, 'constraints': constraints})


def live(default, description: str, unit: str = '', minimum=None, maximum=None):
    """A :func:`number` that may be changed while the node runs."""
    return number(default, description, unit, minimum, maximum, read_only=False)


def check_ranges(config):
    """UserError names the first :func:`number` of a dataclass that is out of its range."""
    for item in fields(config):
        value, low = getattr(config, item.name), item.metadata['minimum']
        high, unit = item.metadata['maximum'], item.metadata['unit']
        if low is not None and not (math.isfinite(value) and low <= value <= high):
            limits = f'{unit} between {low:g} and {high:g}'.strip()
            raise UserError(f'{item.name} is {value}; give {limits}')


def check_choices(config, choices):
    """UserError names the first field that is none of its choices, {field: those it may be}."""
    for name, known in choices.items():
        if getattr(config, name) not in known:
            raise UserError(f'{name} is {getattr(config, name)!r}; give one of '
                            f'{", ".join(known)}')


@dataclass(frozen=True)
class DriverConfig:
    """Limits, tolerances and timeouts of the driver; UserError names a value out of range.

    What may be changed while it drives is `live`. What it drives (the primitives), what it looks
    with and when it no longer trusts what it hears are read once: a slip there is dangerous.
    """

    forward_m: float = number(0.25, 'length of one forward primitive', 'm', 0.01, 2.0)
    turn_deg: float = number(30.0, 'angle of one turn primitive', 'deg', 1.0, 90.0)

    max_linear_m_s: float = live(0.3, 'highest forward speed; the base never drives backwards',
                                 'm/s', 0.01, 3.0)
    max_linear_m_s2: float = live(0.5, 'highest forward acceleration and braking', 'm/s2',
                                  0.01, 10.0)
    max_angular_rad_s: float = live(1.0, 'highest turning speed', 'rad/s', 0.01, 6.0)
    max_angular_rad_s2: float = live(2.0, 'highest turning acceleration and braking', 'rad/s2',
                                     0.01, 30.0)
    hard_linear_m_s: float = number(
        0.0, 'max_linear_m_s can not be raised beyond this; 0: beyond what it is at start', 'm/s',
        0.0, 3.0)
    hard_angular_rad_s: float = number(
        0.0, 'max_angular_rad_s can not be raised beyond this; 0: beyond what it is at start',
        'rad/s', 0.0, 6.0)
    stop_decel_m_s2: float = live(
        0.0, 'braking of a fault stop, and to a lowered limit; 0 does it at once; turning brakes '
        'in proportion', 'm/s2', 0.0, 50.0)
    min_turn_radius_m: float = number(
        0.0, 'a turn is driven as an arc of this radius; 0 for a base that turns on the spot', 'm',
        0.0, 5.0)
    reaction_s: float = live(
        0.2, 'delay from a command to the odometry that shows it, times three; raise it if '
        'primitives overshoot', 's', 0.0, 2.0)
    tolerance_m: float = live(0.02, 'a forward primitive may end this far from its goal', 'm',
                                0.001, 0.2)
    tolerance_deg: float = live(2.0, 'a primitive may end this far from its heading', 'deg',
                                  0.1, 20.0)
    settle_s: float = live(
        0.5, 'a base that stays within tolerance this long has arrived, even if it creeps', 's',
        0.0, 10.0)
    stall_timeout_s: float = live(
        1.5, 'a primitive without progress for this long is blocked and the plan is dropped', 's',
        0.1, 60.0)
    time_allowance_s: float = live(
        30.0, 'a primitive that takes longer than this, progress or not, drops the plan', 's',
        1.0, 600.0)

    plan_max_age_s: float = live(MAX_AGE_S, 'a plan made from an older image is refused', 's',
                                   0.1, 600.0)
    plan_max_shift_m: float = live(
        MAX_SHIFT_M, 'a plan is refused if the base moved further since its image', 'm', 0.001,
        1.0)
    plan_max_shift_deg: float = live(
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
    emergency_timeout_s: float = number(
        0.0, 'stop when an emergency stop button that repeats what it says is silent this long; '
        '0: it need not repeat', 's', 0.0, 60.0)
    resume_after_emergency: bool = number(
        True, 'whether a run goes on by itself when the emergency stop is released; false ends '
        'the run as ~/stop does')
    clock_jump_s: float = number(0.5, 'stop when time goes back, or leaps ahead by this much', 's',
                                 0.05, 60.0)
    stop_repeat_s: float = live(
        2.0, 'zero velocity is repeated this long after a stop and a start', 's', 0.1, 60.0)

    obstacle_source: str = number(
        'none', 'what the base looks ahead with: none, scan, depth or both')
    robot_radius_m: float = number(
        0.2, 'radius of a round base, a little more than it measures', 'm', 0.01, 5.0)
    footprint: str = number(
        '', 'corners of a base that is not round, around base_frame and in order, such as '
        '[[0.3, 0.2], [0.3, -0.2], [-0.3, -0.2], [-0.3, 0.2]] in metres; empty: robot_radius_m')
    stop_distance_m: float = live(
        0.1, 'stop when the footprint would touch something within this way', 'm', 0.01, 5.0)
    time_to_collision_s: float = live(
        1.0, 'stop when the footprint would touch something within this time', 's', 0.0, 10.0)
    scan_min_points: int = number(3, 'so many beams of a scan make an obstacle', '', 1, 1000)
    depth_min_points: int = number(
        10, 'so many points of a depth image, thinned to a grid of at most 80 x 60, make an '
        'obstacle', '', 1, 1000)
    obstacle_timeout_s: float = number(
        0.5, 'stop when a source of obstacle_source is silent or late by this much', 's',
        0.02, 10.0)
    stop_on_empty_scan: bool = number(
        True, 'stop when a whole scan or depth image is +inf: a covered sensor more often than a '
        'room without walls')
    scan_x_m: float = number(0.0, 'scanner ahead of base_frame', 'm', -5.0, 5.0)
    scan_y_m: float = number(0.0, 'scanner to the left of base_frame', 'm', -5.0, 5.0)
    scan_yaw_deg: float = number(0.0, 'scanner turned to the left', 'deg', -180.0, 180.0)
    depth_x_m: float = number(0.0, 'depth camera ahead of base_frame', 'm', -5.0, 5.0)
    depth_y_m: float = number(0.0, 'depth camera to the left of base_frame', 'm', -5.0, 5.0)
    depth_z_m: float = number(1.25, 'depth camera above the floor', 'm', 0.0, 5.0)
    depth_yaw_deg: float = number(0.0, 'depth camera turned to the left', 'deg', -180.0, 180.0)
    depth_pitch_deg: float = number(0.0, 'depth camera tilted down', 'deg', -90.0, 90.0)
    depth_min_height_m: float = number(
        0.08, 'what a depth camera sees lower than this is floor', 'm', -1.0, 5.0)
    depth_max_height_m: float = number(
        1.4, 'what a depth camera sees higher than this is above the base', 'm', 0.01, 5.0)

    def __post_init__(self):
        check_ranges(self)
        for kind in ('linear_m_s', 'angular_rad_s'):
            highest, hard = getattr(self, f'max_{kind}'), getattr(self, f'hard_{kind}')
            if not hard:
                object.__setattr__(self, f'hard_{kind}', highest)   # the dataclass is frozen
            elif highest > hard:
                raise UserError(f'max_{kind} is {highest:g}; give at most hard_{kind}, {hard:g}')
        check_choices(self, CHOICES)
        if self.depth_min_height_m >= self.depth_max_height_m:
            raise UserError(f'depth_min_height_m is {self.depth_min_height_m:g}; give less than '
                            f'depth_max_height_m, {self.depth_max_height_m:g}')
        self.outline()

    @property
    def action_set(self) -> ActionSet:
        """The primitives this driver executes."""
        return ActionSet(self.forward_m, self.turn_deg)

    def outline(self) -> Footprint:
        """The footprint; UserError when its corners are none."""
        return Footprint.of(self.robot_radius_m, self.footprint)
