"""Every stop rule breaks a motion in progress in time, says why, and needs a new plan to go on."""
import math
from dataclasses import replace

import pytest
from motion_loop import PERIOD_NS, Loop

from vlnr1_ros.motion.config import DriverConfig
from vlnr1_ros.motion.driver import Driver
from vlnr1_ros.motion.plan import PlanStatus, Pose
from vlnr1_ros.motion.safety import Odometry
from vlnr1_ros.navigation.actions import Action

F = Action.MOVE_FORWARD


@pytest.fixture
def loop():
    loop = Loop()
    loop.plan([F] * 4)
    loop.tick(40)
    assert loop.driver.moving and loop.commands[-1][0] > 0.2
    return loop


def stops_within(loop, timeout_s, reason):
    """Ticks until zero is commanded; checks the time, the reason, and that it stays zero."""
    began_ns = loop.now_ns
    while loop.commands[-1] != (0.0, 0.0):
        loop.tick()
        assert (loop.now_ns - began_ns) * 1e-9 <= timeout_s + 2 * PERIOD_NS * 1e-9 + 1e-9
    assert not loop.driver.moving
    last = loop.states()[-1]
    assert last.state == 'dropped' and reason in last.reason
    assert reason in loop.driver.reason
    loop.tick(10)
    assert set(loop.commands[-10:]) == {(0.0, 0.0)}, 'zero is repeated'


def moves_again_with_a_new_plan(loop):
    loop.tick(20)
    loop.plan([F])
    loop.tick(5)
    assert loop.commands[-1][0] > 0.0, loop.states()


def stays_put(loop, reason):
    """A plan made now is refused with `reason`."""
    loop.plan([F])
    assert not loop.driver.moving
    last = loop.states()[-1]
    assert last.state == 'dropped' and reason in last.reason


def hear(loop, **changes):
    loop.driver.hear_odometry(loop.now_ns, replace(loop.odometry(), **changes))


def test_odometry_silent(loop):
    loop.hears_odometry = False
    stops_within(loop, loop.config.odom_timeout_s, 'odometry is silent')
    stays_put(loop, 'odometry is silent')
    loop.hears_odometry = True
    moves_again_with_a_new_plan(loop)


def test_odometry_that_repeats_one_message_is_silent(loop):
    last = loop.odometry()
    loop.odometry = lambda: last
    stops_within(loop, loop.config.odom_timeout_s, 'odometry is silent')


def test_odometry_late(loop):
    fresh = loop.odometry
    loop.odometry = lambda: replace(fresh(), stamp_ns=loop.now_ns - 10**9)
    stops_within(loop, loop.config.odom_timeout_s, 'odometry')
    stays_put(loop, 'synchronise the clocks')


@pytest.mark.parametrize('change', [
    {'pose': Pose(math.nan, 0.0, 0.0)}, {'pose': Pose(0.0, math.inf, 0.0)},
    {'pose': Pose(0.0, 0.0, math.nan)}, {'linear_m_s': math.nan}, {'angular_rad_s': -math.inf}])
def test_odometry_not_finite(loop, change):
    hear(loop, **change)
    stops_within(loop, 0.0, 'not finite')
    hear(loop, **change)
    stays_put(loop, 'not finite')
    moves_again_with_a_new_plan(loop)


def test_odometry_in_another_frame(loop):
    hear(loop, frame_id='map')
    stops_within(loop, 0.0, "frame 'map', expected 'odom'")
    hear(loop, frame_id='map')
    stays_put(loop, "frame 'map'")


@pytest.mark.parametrize('jump', [Pose(0.2, 0.0, 0.0), Pose(0.0, 0.0, math.radians(20))])
def test_odometry_jumping(loop, jump):
    base = loop.base
    base.pose = Pose(base.pose.x_m + jump.x_m, base.pose.y_m, base.pose.yaw_rad + jump.yaw_rad)
    stops_within(loop, 0.0, 'odometry jumped')
    moves_again_with_a_new_plan(loop)


def test_odometry_going_back_in_time(loop):
    loop.driver.hear_odometry(loop.now_ns, replace(loop.odometry(), stamp_ns=loop.now_ns - 10**8))
    stops_within(loop, 0.0, 'went back in time')


def test_fast_driving_is_no_jump():
    config = DriverConfig(max_linear_m_s=3.0, max_linear_m_s2=10.0, reaction_s=0.3)
    loop = Loop(config)
    for _ in range(3):
        loop.plan([F] * 4)
        loop.run()
    assert {status.state for status in loop.states()} == {'accepted', 'running', 'done'}


def test_heartbeat_silent(loop):
    loop.hears_heartbeat = False
    stops_within(loop, loop.config.heartbeat_timeout_s, 'the navigator is silent')
    stays_put(loop, 'the navigator is silent')
    loop.hears_heartbeat = True
    moves_again_with_a_new_plan(loop)


def test_plans_are_refused_before_the_first_heartbeat_and_odometry():
    loop = Loop()
    loop.driver = Driver(loop.config)
    stays_put(loop, 'no odometry yet')
    loop.hears_heartbeat = False
    loop.tick()
    stays_put(loop, 'no navigator heartbeat yet')
    loop.hears_heartbeat = True
    moves_again_with_a_new_plan(loop)


def test_stop(loop):
    loop.driver.stop_by_hand(loop.now_ns)
    image_ns = loop.now_ns - 1
    stops_within(loop, 0.0, 'stopped by ~/stop')
    loop.plan([F], stamp_ns=image_ns)
    assert loop.states()[-1].reason == 'the plan is older than the last stop'
    moves_again_with_a_new_plan(loop)


def test_a_stop_by_hand_is_told_without_a_plan_too(loop):
    loop.driver.stop_by_hand(loop.now_ns)
    loop.states()
    loop.driver.stop_by_hand(loop.now_ns)
    assert loop.states() == [PlanStatus(0, 'dropped', 0, 0, 'stopped by ~/stop')]


def test_pause(loop):
    loop.driver.pause(loop.now_ns, True)
    stops_within(loop, 0.0, 'paused')
    stays_put(loop, 'paused')
    loop.driver.pause(loop.now_ns, False)
    loop.tick(10)
    assert loop.commands[-1] == (0.0, 0.0), 'nothing resumes by itself'
    moves_again_with_a_new_plan(loop)


def test_emergency_stop(loop):
    loop.driver.hear_emergency(loop.now_ns, True)
    stops_within(loop, 0.0, 'emergency stop')
    stays_put(loop, 'emergency stop')
    loop.driver.hear_emergency(loop.now_ns, False)
    loop.tick(10)
    assert loop.commands[-1] == (0.0, 0.0), 'nothing resumes by itself'
    moves_again_with_a_new_plan(loop)


def test_an_emergency_stop_that_repeats_must_not_fall_silent():
    loop = Loop(DriverConfig(emergency_timeout_s=0.5))
    stays_put(loop, 'nothing heard of the emergency stop yet')
    loop.driver.hear_emergency(loop.now_ns, False)
    moves_again_with_a_new_plan(loop)
    loop.driver.hear_emergency(loop.now_ns, False)
    stops_within(loop, 0.5, 'the emergency stop is silent')
    stays_put(loop, 'the emergency stop is silent')
    loop.driver.hear_emergency(loop.now_ns, False)
    moves_again_with_a_new_plan(loop)


def test_an_emergency_stop_may_end_the_run_also_without_a_plan():
    ends = 'emergency stop is engaged, which ends the run'
    loop = Loop(DriverConfig(resume_after_emergency=False))
    loop.plan([F] * 4)
    loop.tick(40)
    loop.driver.hear_emergency(loop.now_ns, True)
    assert [status.reason for status in loop.states()] == ['', ends]
    loop.plan([F])
    assert loop.states()[-1].reason == ends, 'nor may a run begin while it is engaged'
    for engaged in (False, True, True):
        loop.driver.hear_emergency(loop.now_ns, engaged)
    assert loop.states() == [PlanStatus(0, 'dropped', 0, 0, ends)]


@pytest.mark.parametrize('jump_s', [-0.001, -100.0, 0.6, 1e6])
def test_clock_jumping(loop, jump_s):
    loop.now_ns += int(jump_s * 1e9) - PERIOD_NS * (jump_s < 0)
    loop.tick()
    assert loop.commands[-1] == (0.0, 0.0) and not loop.driver.moving
    assert 'clock jumped' in loop.driver.reason or 'back in time' in loop.driver.reason
    assert loop.states()[-1].state == 'dropped'
    moves_again_with_a_new_plan(loop)


@pytest.mark.parametrize('jump_s', [-0.1, 0.6, 60.0])
def test_a_base_that_may_have_stood_is_not_driven_again_to_be_braked(jump_s):
    loop = Loop(DriverConfig(stop_decel_m_s2=1.0))
    loop.plan([F] * 4)
    loop.tick(40)
    loop.now_ns += int(jump_s * 1e9)
    loop.tick(20)
    assert set(loop.commands[-20:]) == {(0.0, 0.0)}


def test_what_was_heard_before_the_clock_went_back_is_forgotten(loop):
    loop.now_ns -= 10**9
    loop.hears_heartbeat = False
    loop.tick(3)
    stays_put(loop, 'no navigator heartbeat yet')


def test_plan_too_old(loop):
    loop.tick()
    loop.driver._last_stamp_ns = 0
    loop.plan([F], stamp_ns=loop.now_ns - int(5.1e9))
    assert 'too old' in loop.driver.statuses[-2].reason, 'of the plan in execution'
    stops_within(loop, 0.0, 'too old')


def test_two_odometry_frames_are_known_by_configuration():
    loop = Loop(DriverConfig(odom_frame=''))
    loop.odometry = lambda: Odometry(loop.now_ns, 'robot1/odom', loop.base.pose)
    loop.tick()
    loop.plan([F], frame='robot1/odom')
    assert loop.driver.moving
