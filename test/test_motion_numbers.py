"""The driver's figures: whatever it is fed it keeps its limits, and primitives are accurate."""
import math
import random
from dataclasses import replace

import numpy as np
import pytest
from motion_loop import PERIOD_NS, START_NS, Base, Loop

from vlnr1_ros.motion.config import DEPTH, SCAN, DriverConfig
from vlnr1_ros.motion.driver import Driver
from vlnr1_ros.motion.plan import Pose, encode
from vlnr1_ros.motion.readings import Readings, scan_readings
from vlnr1_ros.motion.safety import Odometry
from vlnr1_ros.navigation.actions import Action

F, L, R, S = Action.MOVE_FORWARD, Action.TURN_LEFT, Action.TURN_RIGHT, Action.STOP
ODD = (0.0, -0.0, 1e308, -1e308, math.nan, math.inf, -math.inf, 5e-324, 0.25, 1e9, -3.0)
CASES = 20_000
EVENTS = 12


class Fuzz:
    """Any float, in any order, at any time, into a driver that is asked to drive all the while."""

    def __init__(self, seed):
        self.rng = rng = random.Random(seed)
        self.config = DriverConfig(
            max_linear_m_s=rng.choice([0.1, 0.3, 3.0]), max_angular_rad_s=rng.choice([0.2, 1.0]),
            max_linear_m_s2=rng.choice([0.5, 10.0]), stop_decel_m_s2=rng.choice([0.0, 2.0]),
            min_turn_radius_m=rng.choice([0.0, 0.0, 0.4]), reaction_s=rng.choice([0.0, 0.2]),
            replan=rng.choice(['after', 'during']),
            obstacle_source=rng.choice(['none', 'none', 'scan', 'both']))
        self.driver = Driver(self.config)
        self.now_ns, self.pose, self.last = START_NS, Pose(1.0, 2.0, 3.0), (0.0, 0.0)
        self.moved = 0

    def number(self):
        """A float: of any size, odd, or like what one expects."""
        rng = self.rng
        kind = rng.random()
        if kind < 0.3:
            return rng.choice(ODD)
        return rng.uniform(-1.0, 1.0) * 10.0 ** rng.randint(-6, 6) if kind < 0.6 else rng.random()

    def stamp_ns(self):
        return self.now_ns + self.rng.choice([0, 0, 0, 1, -1, -10**8, 10**9, -10**19])

    def good(self):
        """What a healthy robot says within a period."""
        driver, now_ns = self.driver, self.now_ns
        driver.hear_heartbeat(now_ns)
        driver.hear_odometry(now_ns, Odometry(now_ns, 'odom', self.pose))
        for source in (SCAN, DEPTH)[:{'none': 0, 'scan': 1}.get(self.config.obstacle_source, 2)]:
            driver.hear_readings(now_ns, source, now_ns, Readings(np.full((3, 2), 7.0), 9, 3))
        if not driver.moving:
            actions = self.rng.choices([F, L, R, S], (4, 3, 3, 1), k=3)
            driver.hear_plan(now_ns, 'odom', now_ns,
                             encode(self.pose, actions, self.config.action_set))

    def event(self):
        rng, driver = self.rng, self.driver
        kind = rng.randrange(9)
        if kind == 0:
            pose = Pose(self.number(), self.number(), self.number())
            driver.hear_odometry(self.now_ns, Odometry(self.stamp_ns(), rng.choice(['odom', '']),
                                                       pose, self.number(), self.number()))
        elif kind == 1:
            start = rng.choice([self.pose, Pose(self.number(), self.number(), self.number())])
            poses = encode(self.pose, [F, L], self.config.action_set)[:rng.randint(0, 3)]
            driver.hear_plan(self.now_ns, rng.choice(['odom', 'map']), self.stamp_ns(),
                             rng.choice([poses, [start], [start, start]]))
        elif kind == 2:
            driver.hear_emergency(self.now_ns, rng.random() < 0.3)
        elif kind == 3:
            driver.pause(self.now_ns, rng.random() < 0.3)
        elif kind == 4 and self.config.obstacle_source != 'none':
            ranges = [self.number() for _ in range(rng.randint(0, 5))]
            driver.hear_readings(self.now_ns, SCAN, self.stamp_ns(), scan_readings(
                self.config, ranges, self.number(), self.number(), self.number(), self.number()))
        elif kind == 5:
            self.now_ns = max(0, self.now_ns + rng.choice([-10**9, 1, 10**7, 10**8, 10**12]))
        elif kind == 6:
            self.config = replace(
                self.config, max_linear_m_s=rng.uniform(0.01, self.config.hard_linear_m_s),
                max_angular_rad_s=rng.uniform(0.01, self.config.hard_angular_rad_s))
            driver.configure(self.config)
        else:
            self.now_ns += PERIOD_NS

    def step(self):
        config, driver = self.config, self.driver
        before_ns, self.stepped_ns = getattr(self, 'stepped_ns', self.now_ns), self.now_ns
        command = driver.step(self.now_ns)
        linear, angular = command or (0.0, 0.0)
        assert math.isfinite(linear) and math.isfinite(angular)
        # with `stop_decel_m_s2` the base may be on its way down to a limit that was lowered
        for speed, last, limit in ((linear, self.last[0], config.max_linear_m_s),
                                   (abs(angular), abs(self.last[1]), config.max_angular_rad_s)):
            assert 0.0 <= speed <= max(limit, last if config.stop_decel_m_s2 else 0.0) + 1e-9
        dt_s = min(max((self.now_ns - before_ns) * 1e-9, 0.0), 0.1)
        assert linear - self.last[0] <= config.max_linear_m_s2 * dt_s + 1e-9
        assert abs(angular) - abs(self.last[1]) <= config.max_angular_rad_s2 * dt_s + 1e-9
        if config.min_turn_radius_m:
            assert abs(angular) * config.min_turn_radius_m <= linear + 1e-9
        if driver.safety.emergency or driver.safety.paused:
            assert not driver.moving
            assert config.stop_decel_m_s2 or (linear, angular) == (0.0, 0.0)
        self.last = (linear, angular)
        self.moved += (linear, angular) != (0.0, 0.0)
        yaw = self.pose.yaw_rad
        self.pose = Pose(self.pose.x_m + linear * dt_s * math.cos(yaw),
                         self.pose.y_m + linear * dt_s * math.sin(yaw), yaw + angular * dt_s)


def test_twenty_thousand_cases_of_anything_keep_the_limits():
    moved = 0
    for seed in range(CASES):
        fuzz = Fuzz(seed)
        for _ in range(EVENTS):
            if fuzz.rng.random() < 0.75:
                fuzz.now_ns += PERIOD_NS
                fuzz.good()
            else:
                fuzz.event()
            fuzz.step()
        moved += fuzz.moved > 0
    assert moved > CASES // 2, 'most of the cases drive'


class Slipping(Base):
    """Wheels that slip: each motion is up to 5 % shorter than what the wheels were told."""

    def __init__(self, rng, slip=0.05, **kwargs):
        super().__init__(**kwargs)
        self.rng, self.slip = rng, slip

    def drive(self, linear, angular):
        super().drive(linear * (1.0 - self.rng.uniform(0.0, 2 * self.slip)),
                      angular * (1.0 - self.rng.uniform(0.0, 2 * self.slip)))


class NoisyOdometry(Loop):
    """Odometry that adds up what the base did, wrong by 2 % (standard deviation)."""

    def __init__(self, rng, noise=0.02, **kwargs):
        self.rng, self.noise = rng, noise
        self.told = self.true = None
        super().__init__(**kwargs)

    def odometry(self):
        if self.true is None:
            self.told = self.base.pose
        else:
            step = self.true.relative(self.base.pose)
            gain, turn_gain = (1.0 + self.rng.gauss(0.0, self.noise) for _ in range(2))
            middle = self.told.moved(0.0, 0.5 * step.yaw_rad * turn_gain)
            self.told = middle.moved(math.hypot(step.x_m, step.y_m) * gain,
                                     0.5 * step.yaw_rad * turn_gain)
        self.true = self.base.pose
        dt_s = self.base.dt_s
        return Odometry(self.now_ns, 'odom', self.told,
                        self.base.linear * (1 + self.rng.gauss(0.0, self.noise)) if dt_s else 0.0,
                        self.base.angular * (1 + self.rng.gauss(0.0, self.noise)))


def primitive_errors(count, seed=0, **settings):
    """(metres, degrees) by which each of `count` primitives missed, by odometry."""
    rng = random.Random(seed)
    loop = NoisyOdometry(rng, config=DriverConfig(**settings), base=Slipping(rng))
    errors_m, errors_deg = [], []
    for _ in range(count):
        action = rng.choice([F, L, R])
        start = loop.told
        loop.plan([action], start=start)
        loop.run()
        loop.tick(15)
        assert loop.states()[-1].state == 'done'
        way = start.relative(loop.told)
        forward_m, turn_rad = loop.config.action_set.displacement(action)
        errors_deg.append(math.degrees(abs(way.turn_rad(Pose(0.0, 0.0, turn_rad)))))
        if action is F:
            errors_m.append(abs(way.x_m - forward_m))
    return np.array(errors_m), np.array(errors_deg)


def test_primitives_are_accurate_on_a_slipping_base_with_noisy_odometry():
    errors_m, errors_deg = primitive_errors(1000)
    assert np.median(errors_m) < 0.01 and np.median(errors_deg) < 1.0
    assert errors_m.max() < 0.03 and errors_deg.max() < 3.0


@pytest.mark.parametrize('radius_m', [0.3, 0.8])
def test_a_base_that_cannot_pivot_turns_along_an_arc(radius_m):
    loop = Loop(DriverConfig(min_turn_radius_m=radius_m))
    for action, side in ((L, 1.0), (R, -1.0)) * 3:
        start = loop.base.pose
        loop.plan([action])
        before = len(loop.commands)
        loop.run()
        loop.tick(15)
        end, turn_rad = start.relative(loop.base.pose), math.radians(30.0)
        assert end.yaw_rad == pytest.approx(side * turn_rad, abs=math.radians(2.5))
        assert end.x_m == pytest.approx(radius_m * math.sin(turn_rad), abs=0.03)
        assert end.y_m == pytest.approx(side * radius_m * (1 - math.cos(turn_rad)), abs=0.03)
        for command in loop.commands[before:]:
            linear, angular = command or (0.0, 0.0)
            assert 0.0 <= linear <= loop.config.max_linear_m_s + 1e-9
            assert abs(angular) * radius_m <= linear + 1e-9
    loop.base.pose = loop.base.pose.moved(0.0, math.radians(4.0))
    start = loop.base.pose
    loop.plan([L, F, R, F])
    loop.run()
    assert loop.states()[-1].state == 'done'
    assert loop.base.pose.turn_rad(start) < math.radians(5.0)


def test_a_primitive_that_takes_too_long_is_dropped_though_it_makes_progress():
    class Crawling(Base):
        def drive(self, linear, angular):
            super().drive(min(linear, 0.01), angular)

    loop = Loop(DriverConfig(time_allowance_s=5.0), Crawling())
    loop.plan([F])
    loop.run(limit_s=6.0)
    assert 'time_allowance_s' in loop.states()[-1].reason
    assert loop.commands[-1] == (0.0, 0.0)
