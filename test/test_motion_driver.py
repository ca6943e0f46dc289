"""The driver against a simulated base with delay and lag: tolerances, limits, plans."""
import math
import random

import pytest
from motion_loop import PERIOD_NS, START_NS, Base, Loop

from vlnr1_ros.motion.config import DriverConfig
from vlnr1_ros.motion.driver import Driver
from vlnr1_ros.motion.plan import STARTED, PlanStatus, Pose, encode
from vlnr1_ros.motion.safety import Odometry
from vlnr1_ros.navigation.actions import Action
from vlnr1_ros.navigation.errors import UserError

F, L, R, S = Action.MOVE_FORWARD, Action.TURN_LEFT, Action.TURN_RIGHT, Action.STOP


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
    goal = loop.base.pose
    for _ in range(50):
        actions = rng.choices([F, L, R], k=rng.randint(1, 4))
        # The goal of a primitive is the start of the next, across plans too.
        goals = encode(goal, actions, loop.config.action_set)[1:]
        loop.plan(actions)
        ends = loop.run()
        loop.tick(25)
        ends[-1] = loop.base.pose
        assert [status.state for status in loop.states()] == (
            ['accepted'] + ['running'] * (len(actions) - 1) + ['done'])
        for start, action, aim, end in zip([goal, *goals], actions, goals, ends):
            step = start.relative(end)
            forward_m, turn_rad = loop.config.action_set.displacement(action)
            assert end.turn_rad(aim) <= math.radians(loop.config.tolerance_deg)
            if action is F:
                assert step.x_m == pytest.approx(forward_m, abs=loop.config.tolerance_m)
            assert step.distance_m(Pose(forward_m, 0.0, turn_rad)) < 2 * loop.config.tolerance_m
        # A diff drive cannot move sideways, so what it is aside stays; then it starts afresh.
        if ends[-1].distance_m(goals[-1]) > loop.config.tolerance_m:
            goal = ends[-1]
        else:
            goal = goals[-1]
    limits_held(loop)


def test_errors_of_primitives_do_not_add_up():
    loop = Loop()
    start = loop.base.pose
    for _ in range(4):
        loop.plan([L] * 3)
        loop.run()
    loop.tick(25)
    assert math.degrees(loop.base.pose.turn_rad(start)) < loop.config.tolerance_deg
    for _ in range(5):
        loop.plan([F] * 4)
        loop.run()
    loop.tick(25)
    assert start.relative(loop.base.pose).x_m == pytest.approx(5.0, abs=loop.config.tolerance_m)


def test_a_pushed_base_starts_from_where_it_is():
    loop = Loop()
    loop.plan([F])
    loop.run()
    loop.base.pose = pushed = loop.base.pose.moved(0.08, 0.1)
    loop.tick()
    loop.plan([F])
    loop.run()
    assert pushed.relative(loop.base.pose).x_m == pytest.approx(0.25, abs=0.02)


def test_slow_odometry_is_enough():
    loop = Loop()
    loop.odometry_every = 4
    start = loop.base.pose
    loop.plan([L, F])
    loop.run()
    assert start.moved(0.0, math.radians(30)).relative(loop.base.pose).x_m == pytest.approx(
        0.25, abs=0.02)


def test_a_base_that_creeps_within_tolerance_arrives():
    class Sticky(Base):
        def drive(self, linear, angular):
            super().drive(linear if linear > 0.06 else 0.0, angular)

    loop = Loop(base=Sticky())
    loop.plan([F])
    loop.run(limit_s=10.0)
    assert loop.states()[-1].state == 'done'


def test_a_blocked_base_drops_the_plan():
    class Wall(Base):
        def drive(self, linear, angular):
            super().drive(0.0, angular)

    loop = Loop(base=Wall())
    loop.plan([F, L])
    loop.run(limit_s=5.0)
    assert loop.states()[-1] == PlanStatus(
        loop.driver._last_stamp_ns, 'dropped', 0, 2,
        'blocked: no progress for 1.5 s with 0.25 m and 0 degrees to go')
    assert loop.commands[-1] == (0.0, 0.0)


def test_statuses_of_a_plan_that_ends_with_stop():
    loop = Loop()
    loop.plan([L, S, F])
    stamp_ns = loop.now_ns
    loop.run()
    assert loop.states() == [
        PlanStatus(stamp_ns, 'accepted', 0, 3), PlanStatus(stamp_ns, 'running', 1, 3),
        PlanStatus(stamp_ns, 'done', 2, 3, 'stop')]
    before = loop.base.pose
    loop.tick(100)
    assert loop.base.pose.distance_m(before) < 0.01, 'nothing is driven after a stop'


def test_zero_is_repeated_at_first_and_after_the_end_and_then_others_may_drive():
    loop = Loop()
    loop.tick(5)
    assert loop.commands[-5:] == [(0.0, 0.0)] * 5, 'a driver before may have left the base moving'
    loop.tick(int(loop.config.stop_repeat_s * 1e9 / PERIOD_NS))
    assert loop.commands[-1] is None
    loop.plan([L])
    loop.run()
    loop.tick(200)
    tail = loop.commands[-200:]
    zeros = [command for command in tail if command == (0.0, 0.0)]
    assert len(zeros) * PERIOD_NS * 1e-9 == pytest.approx(loop.config.stop_repeat_s, abs=0.2)
    assert tail[-1] is None


@pytest.mark.parametrize('shift, accepted', [
    ((0.049, 0.0), True), ((0.051, 0.0), False),
    ((0.0, math.radians(4.9)), True), ((0.0, math.radians(5.1)), False)])
def test_a_plan_is_refused_when_the_base_moved_since_its_image(shift, accepted):
    loop = Loop()
    loop.plan([F], start=loop.base.pose.moved(*shift))
    assert loop.driver.moving is accepted
    assert loop.states()[0].state == ('accepted' if accepted else 'dropped')


def test_a_driver_tells_its_start_when_the_navigator_is_there_a_few_times():
    loop = Loop()
    loop.driver = Driver(loop.config)
    loop.hears_heartbeat = False
    loop.tick()
    started_ns = loop.now_ns
    loop.driver.tell_start(loop.now_ns)
    assert loop.states() == []
    loop.hears_heartbeat = True
    for _ in range(500):
        loop.tick()
        loop.driver.tell_start(loop.now_ns)
    assert loop.states() == [PlanStatus(started_ns, 'dropped', 0, 0, STARTED)] * 5


@pytest.mark.parametrize('age_s, accepted', [(4.9, True), (5.1, False), (-0.2, True),
                                             (-0.4, False)])
def test_a_plan_is_refused_when_it_is_too_old_or_from_the_future(age_s, accepted):
    loop = Loop()
    loop.plan([F], stamp_ns=loop.now_ns - int(age_s * 1e9))
    assert loop.driver.moving is accepted


def test_refused_plans_say_why_and_stop_the_one_in_execution():
    for bad, reason in (({'frame': 'map'}, "in frame 'map', odometry in 'odom'"),
                        ({'stamp_ns': START_NS}, 'not newer')):
        loop = Loop()
        loop.plan([F, F])
        first_ns = loop.now_ns
        loop.tick(20)
        loop.plan([L], **bad)
        assert not loop.driver.moving
        old, new = loop.states()[-2:]
        assert (old.stamp_ns, old.state) == (first_ns, 'dropped') and reason in old.reason
        assert (new.state, new.of) == ('dropped', 1) and reason in new.reason
        loop.tick()
        assert loop.commands[-1] == (0.0, 0.0)


def test_an_empty_plan_drops_and_holds_and_outdates_older_answers():
    loop = Loop()
    image_ns = loop.now_ns
    loop.tick(2)
    loop.plan([F])
    loop.tick(10)
    loop.driver.hear_plan(loop.now_ns, 'odom', loop.now_ns, [])
    assert [status.state for status in loop.states()] == ['accepted', 'dropped', 'accepted']
    loop.tick()
    assert loop.commands[-1] == (0.0, 0.0)
    loop.tick(10)
    loop.plan([F], stamp_ns=image_ns + 50_000_000)
    assert loop.states()[-1].reason == 'the plan is older than the last stop'
    loop.plan([F])
    assert loop.driver.moving


def test_stop_decel_brakes_a_fault_harder_than_the_limit_but_not_at_once():
    config = DriverConfig(stop_decel_m_s2=2.0)
    loop = Loop(config)
    loop.plan([F])
    loop.tick(30)
    speed = loop.commands[-1][0]
    loop.driver.stop(loop.now_ns, 'test')
    loop.tick(15)
    braking = [command[0] for command in loop.commands[-16:]]
    assert speed > 0.2 and braking[-1] == 0.0
    steps = [before - after for before, after in zip(braking, braking[1:])]
    assert max(steps) == pytest.approx(2.0 * PERIOD_NS * 1e-9)


def test_during_skips_what_was_driven_since_the_image():
    loop = Loop(DriverConfig(replan='during'))
    start = loop.base.pose
    loop.plan([F, L, F])
    image_ns = loop.now_ns + 1
    while len(loop.driver.statuses) < 2:
        loop.tick()
    loop.tick(20)
    loop.states()
    loop.plan([F, L, R], stamp_ns=image_ns, start=start)
    assert [(status.state, status.executed) for status in loop.states()] == [
        ('dropped', 1), ('accepted', 1)]
    loop.run()
    loop.tick(25)
    assert loop.states()[-1].state == 'done'
    assert loop.base.pose.turn_rad(start) < math.radians(2.5), 'left once, right once'
    limits_held(loop)


def test_during_finishes_the_primitive_in_progress_when_the_plan_disagrees():
    loop = Loop(DriverConfig(replan='during'))
    start = loop.base.pose
    loop.plan([L, F])
    loop.tick(20)
    loop.plan([R, F], start=start)
    assert loop.states()[-1].reason.startswith('the plan disagrees')
    loop.run()
    loop.tick(25)
    assert loop.states()[-1].state == 'dropped'
    assert start.relative(loop.base.pose).yaw_rad == pytest.approx(math.radians(30), abs=0.035)


@pytest.mark.parametrize('name, value', [
    ('turn_deg', 0.0), ('max_linear_m_s', math.nan), ('odom_timeout_s', -1.0),
    ('tolerance_m', math.inf), ('replan', 'whenever')])
def test_settings_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(UserError, match=name):
        DriverConfig(**{name: value})


def test_random_messages_never_raise_and_never_move_the_base():
    rng = random.Random(1)
    odd = [0.0, 1e308, -1e308, math.nan, math.inf, 1e-320, 0.25]
    driver = Driver(DriverConfig())
    now_ns = START_NS
    for _ in range(3000):
        now_ns += rng.choice([0, PERIOD_NS, -PERIOD_NS, 10 * PERIOD_NS, 10**12])
        pose = Pose(rng.choice(odd), rng.choice(odd), rng.choice(odd))
        stamp_ns = now_ns + rng.choice([0, 1, -10**9, 10**9])
        hear, *arguments = rng.choice([
            (driver.hear_odometry, Odometry(stamp_ns, 'odom', pose)),
            (driver.hear_plan, 'odom', stamp_ns, [pose] * rng.randint(0, 3)),
            (driver.hear_heartbeat,),
            (driver.hear_emergency, rng.random() < 0.5),
            (driver.pause, rng.random() < 0.5)])
        hear(now_ns, *arguments)
        command = driver.step(now_ns)
        assert command is None or command == (0.0, 0.0)
