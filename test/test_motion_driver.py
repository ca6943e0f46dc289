"""The driver against a simulated base with delay and lag: tolerances, limits, plans."""
import math
import random
from collections import deque

import pytest

from vlnr1_ros.motion.config import DriverConfig
from vlnr1_ros.motion.driver import Driver
from vlnr1_ros.motion.plan import Pose, encode, wrap
from vlnr1_ros.motion.safety import Odometry
from vlnr1_ros.navigation.actions import Action

PERIOD_NS = 20_000_000
START_NS = 10_000_000_000


class Base:
    """Differential drive whose wheels follow a command after `delay_s` with a lag of `lag_s`."""

    def __init__(self, delay_s=0.04, lag_s=0.05, period_ns=PERIOD_NS):
        self.dt_s = period_ns * 1e-9
        self.pose = Pose(3.0, -2.0, 1.0)
        self.linear = self.angular = 0.0
        self.lag_s = lag_s
        self.pending = deque([(0.0, 0.0)] * round(delay_s / self.dt_s))

    def drive(self, linear, angular):
        self.pending.append((linear, angular))
        linear, angular = self.pending.popleft()
        gain = 1.0 - math.exp(-self.dt_s / self.lag_s) if self.lag_s else 1.0
        self.linear += gain * (linear - self.linear)
        self.angular += gain * (angular - self.angular)
        yaw = self.pose.yaw_rad + 0.5 * self.angular * self.dt_s
        self.pose = Pose(self.pose.x_m + self.linear * self.dt_s * math.cos(yaw),
                         self.pose.y_m + self.linear * self.dt_s * math.sin(yaw),
                         wrap(self.pose.yaw_rad + self.angular * self.dt_s))


class Loop:
    """Driver and base on a clock of our own; everything commanded is recorded."""

    def __init__(self, config=None, base=None):
        self.config = config or DriverConfig()
        self.driver = Driver(self.config)
        self.base = base or Base()
        self.now_ns = START_NS
        self.commands = []
        self.hears_odometry = self.hears_heartbeat = True
        self.tick()

    def tick(self, count=1):
        for _ in range(count):
            self.now_ns += PERIOD_NS
            if self.hears_heartbeat:
                self.driver.hear_heartbeat(self.now_ns)
            if self.hears_odometry:
                self.driver.hear_odometry(self.now_ns, self.odometry())
            command = self.driver.step(self.now_ns)
            self.commands.append(command)
            self.base.drive(*(command or (0.0, 0.0)))

    def odometry(self):
        return Odometry(self.now_ns, 'odom', self.base.pose, self.base.linear, self.base.angular)

    def plan(self, actions, stamp_ns=None, start=None, frame='odom'):
        poses = encode(start or self.base.pose, actions, self.config.action_set)
        self.driver.hear_plan(self.now_ns, frame, stamp_ns or self.now_ns, poses)

    def states(self):
        statuses, self.driver.statuses = self.driver.statuses, []
        return statuses

    def run(self, limit_s=60.0):
        """Tick until the plan ends; poses of the base at every status."""
        poses = []
        for _ in range(round(limit_s / (PERIOD_NS * 1e-9))):
            before = len(self.driver.statuses)
            self.tick()
            if len(self.driver.statuses) > before:
                poses.append(self.base.pose)
            if not self.driver.moving:
                return poses
        raise AssertionError('the plan did not end')


def limits_held(loop):
    config, dt_s = loop.config, PERIOD_NS * 1e-9
    commands = [command or (0.0, 0.0) for command in loop.commands]
    for before, after in zip(commands, commands[1:]):
        assert abs(after[0]) <= config.max_linear_m_s + 1e-9
        assert abs(after[1]) <= config.max_angular_rad_s + 1e-9
        assert abs(after[0] - before[0]) <= config.max_linear_m_s2 * dt_s + 1e-9
        assert abs(after[1] - before[1]) <= config.max_angular_rad_s2 * dt_s + 1e-9
        assert after[0] >= 0.0, 'never backwards'


@pytest.mark.parametrize('delay_s, lag_s', [(0.0, 0.0), (0.04, 0.05), (0.08, 0.05), (0.02, 0.12)])
def test_random_plans_end_within_tolerance(delay_s, lag_s):
    rng = random.Random(f'{delay_s} {lag_s}')
    loop = Loop(base=Base(delay_s, lag_s))
    durations_s = []
    for _ in range(50):
        actions = rng.choices([Action.MOVE_FORWARD, Action.TURN_LEFT, Action.TURN_RIGHT],
                              k=rng.randint(1, 4))
        goals = encode(loop.base.pose, actions, loop.config.action_set)[1:]
        loop.plan(actions)
        began_ns = loop.now_ns
        ends = loop.run()
        durations_s.append((loop.now_ns - began_ns) * 1e-9 / len(actions))
        loop.tick(25)
        ends[-1] = loop.base.pose
        assert [status.state for status in loop.states()] == (
            ['accepted'] + ['running'] * (len(actions) - 1) + ['done'])
        for end, goal in zip(ends, goals):
            # A plan starts from its predecessor's goal, hence twice the tolerance.
            assert end.distance_m(goal) <= 2 * loop.config.tolerance_m
            assert math.degrees(end.turn_rad(goal)) <= 2 * loop.config.tolerance_deg
    limits_held(loop)
    print(delay_s, lag_s, sum(durations_s) / len(durations_s), max(durations_s))
