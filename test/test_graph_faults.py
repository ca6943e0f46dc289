"""Faults, one by one, while bridge, driver and navigator drive to a goal: three real processes.

Those of the driver's inputs one at a time, against a base that nothing disturbs, are in
test_driver_faults.py; here it is seen that the whole robot stops and how it goes on.
"""
import math
import os
import signal
import time

import numpy as np
import pytest
from fault_graph import ENDED, FAR_M, LIMITS, PARAMETERS, TICK_S, TIMEOUT_S, FaultGraph
from fault_relay import backwards, changed, frozen, late, lossy, silent
from motion_sight import BEAMS, ahead_of, ray_cast
from served_model import FaultyServer
from spun_node import wait_until
from std_msgs.msg import Bool

from vlnr1_ros.nodes import messages

EPISODE = 11   # across the apartment, more than 11 m
AT_ONCE_S = 2 * TICK_S
IMAGE_NS = 40_000_000
HELD = 'an empty plan asks to hold'
RADIUS_M = 0.1   # of a thing
TO_COLLISION_S = PARAMETERS['driver']['time_to_collision_s']
LOST = ('no plan_status', 's old', 'stop')   # how a run may end when messages are lost


@pytest.fixture(scope='module')
def running(apartments, tmp_path_factory):
    graph = FaultGraph(apartments, tmp_path_factory.mktemp('graph'), EPISODE)
    yield graph
    codes = graph.close()
    outputs = {node: graph.output(node) for node in codes}
    assert set(codes.values()) == {0}, outputs
    assert 'Traceback' not in outputs['driver'] + outputs['sim_bridge'], outputs


@pytest.fixture
def moving(running):
    """The graph, driving towards its goal, everything healthy."""
    running.drive_off()
    return running


def hurt(graph, number, over):
    """Signal the navigator while time stands still; the time, when `over()` holds."""
    graph.navigator_is_hurt = graph.held = True
    graph.processes['navigator'].send_signal(number)
    wait_until(over)
    now_ns = graph.now_ns
    graph.held = False
    return now_ns


def replace_navigator(graph, **parameters):
    """The old one is gone; the new one does nothing until it is told."""
    began = len(graph.commands)
    graph.start_navigator(**parameters)
    graph.pass_time(1.0)
    assert graph.state in ENDED
    assert {command[:2] for command in graph.commands[began:]} == {(0.0, 0.0)}


def test_a_killed_navigator_stops_the_base_and_a_new_one_waits_for_a_person(moving):
    process = moving.processes['navigator']
    began_ns = hurt(moving, signal.SIGKILL, lambda: process.poll() is not None)
    moving.stops(began_ns, 'the navigator is silent')
    replace_navigator(moving)
    moving.drive_off()


def test_a_stopped_navigator_stops_the_base_and_then_goes_on_or_says_why_not(moving):
    pid = moving.processes['navigator'].pid

    def stopped():
        with open(f'/proc/{pid}/stat', encoding='utf-8') as file:
            return file.read().rsplit(')', 1)[1].split()[0] == 'T'

    began_ns = hurt(moving, signal.SIGSTOP, stopped)
    moving.stops(began_ns, 'the navigator is silent')
    told = len(moving.statuses)
    os.kill(pid, signal.SIGCONT)
    # It sees first that the plan was dropped, or that the newest image is old.
    moving.until(lambda: moving.state in ENDED or moving.drives(told), 10.0)
    if moving.state in ENDED:
        moving.navigator_says('s old')
    moving.drive_off()


def test_a_navigator_hung_in_python_stops_the_base(moving):
    hung_s = time.monotonic()

    def silent_for_long():
        return time.monotonic() - max(hung_s, moving.beat_s) > 0.5

    began_ns = hurt(moving, signal.SIGUSR1, silent_for_long)
    moving.stops(began_ns, 'the navigator is silent')
    moving.end('navigator', signal.SIGKILL)
    replace_navigator(moving)
    moving.drive_off()


def test_a_navigator_that_raises_holds_and_lives(moving):
    began_ns = moving.now_ns
    moving.processes['navigator'].send_signal(signal.SIGUSR2)
    wait_until(lambda: moving.state == 'failed')
    moving.stops(began_ns, HELD)
    moving.navigator_says("exception: RuntimeError('a defect')")
    moving.drive_off()


def garbage(message):
    message.data = message.data[:100]


def another_encoding(message):
    message.encoding = 'bayer_rggb8'


@pytest.mark.parametrize('fault, reason, good', [
    (silent(), 's old', 0), (frozen(), 's old', 1),
    (changed(garbage), '100 bytes', 0), (changed(another_encoding), 'bayer_rggb8', 0)],
    ids=['silent', 'frozen', 'garbage', 'encoding'])
def test_a_broken_camera_holds_the_base_until_it_is_well_and_somebody_says_so(
        moving, fault, reason, good):
    moving.spoil('image_raw', fault)
    # Counted from when the first good one is missing.
    moving.stops(moving.now_ns + (good + 1) * IMAGE_NS, HELD)
    assert moving.state in ENDED
    moving.navigator_says(reason)
    moving.heal()
    moving.pass_time(0.5)
    assert moving.commands[-1][:2] == (0.0, 0.0)
    moving.drive_off()


def test_images_that_come_late_move_nobody_until_they_are_new_again(moving):
    moving.spoil('image_raw', late(50))   # by 2 s, until when none comes
    moving.stops(moving.now_ns + IMAGE_NS, HELD, stays_s=0.0)
    assert moving.state in ENDED
    moving.navigator_says('s old')
    moving.say()
    began = len(moving.commands)
    moving.pass_time(2.0)
    wait_until(lambda: moving.told['navigator']['image_age_s'] < '0.5')   # since one came
    moving.pass_time(0.5)
    assert {command[:2] for command in moving.commands[began:]} == {(0.0, 0.0)}
    moving.navigator_says('waits for an image younger than')
    moving.heal()
    moving.goes_on()


def shifted(message):
    message.pose.pose.position.x += 1.0


def not_a_number(message):
    message.pose.pose.position.y = math.nan


@pytest.mark.parametrize('fault, reason, within_s', [
    (silent(), 'odometry is silent', TIMEOUT_S + 2 * TICK_S),
    (changed(not_a_number), 'odometry is not finite', AT_ONCE_S),
    (backwards(2.0), 'odometry went back in time', AT_ONCE_S)],
    ids=['silent', 'nan', 'backwards'])
def test_broken_odometry_stops_the_base_and_the_run_goes_on_when_it_is_well(
        moving, fault, reason, within_s):
    moving.spoil('odom', fault)
    moving.stops(moving.now_ns, reason, within_s)
    moving.navigator_says('waits for odometry younger than')
    moving.heal()
    moving.goes_on()


def test_odometry_that_jumps_drops_the_plan_and_the_run_goes_on_from_there(moving):
    began_ns = moving.now_ns
    moving.spoil('odom', changed(shifted))
    moving.stops(began_ns, 'odometry jumped by 1.0', AT_ONCE_S, stays_s=0.0)
    moving.goes_on()


def all_of(value):
    def change(message):
        message.ranges = [value] * len(message.ranges)
    return changed(change)


@pytest.mark.parametrize('fault, reason, within_s', [
    (silent(), 'the scan is silent', TIMEOUT_S + 2 * TICK_S),
    (all_of(math.inf), 'the scan sees nothing', 4 * TICK_S),
    (all_of(math.nan), 'the scan measures nothing', 4 * TICK_S)],
    ids=['silent', 'inf', 'nan'])
def test_a_broken_scan_stops_the_base_and_the_run_goes_on_when_it_is_well(
        moving, fault, reason, within_s):
    moving.spoil('scan', fault)
    moving.stops(moving.now_ns, reason, within_s)
    moving.heal()
    moving.goes_on()


def seen_from(pose, point):
    """(metres ahead, metres to the left) of a point."""
    x_m, y_m = point[0] - pose.x_m, point[1] - pose.y_m
    cos, sin = math.cos(pose.yaw_rad), math.sin(pose.yaw_rad)
    return cos * x_m + sin * y_m, cos * y_m - sin * x_m


def test_an_obstacle_at_half_a_metre_is_never_touched_and_the_run_goes_on_without_it(moving):
    began_ns, centre = moving.now_ns, ahead_of(moving.poses[moving.now_ns][0], 0.5 + RADIUS_M)

    def appear(message):
        # the observer may not have heard the odometry of this time yet
        at_ns = min(messages.time_ns(message.header.stamp), max(moving.poses))
        pose = moving.poses[at_ns][0]
        ranges = ray_cast(pose, [centre], [RADIUS_M])
        beams = np.arange(len(message.ranges)) * message.angle_increment + message.angle_min
        nearest = np.searchsorted(BEAMS, beams).clip(max=len(BEAMS) - 1)
        message.ranges = np.minimum(ranges[nearest], FAR_M).tolist()

    moving.spoil('scan', changed(appear))
    moving.stops(began_ns, 'seen by scan', 4 * TICK_S, stays_s=0.0)
    began = len(moving.commands)
    moving.pass_time(3.0)
    for linear, _, stamp_ns in moving.commands[began:]:
        pose = moving.poses[min(stamp_ns, max(moving.poses))][0]
        ahead_m, aside_m = seen_from(pose, centre)
        assert math.hypot(ahead_m, aside_m) > RADIUS_M + 0.2
        if ahead_m > 0.0 and abs(aside_m) < RADIUS_M:
            assert linear * TO_COLLISION_S < ahead_m - RADIUS_M, 'it comes closer slowly'
    moving.heal()
    moving.goes_on()


@pytest.mark.parametrize('publisher', ['emergency', 'emergency_latched'])
def test_emergency_stop(moving, publisher):
    button = getattr(moving, publisher)
    began_ns = moving.now_ns
    button.publish(Bool(data=True))
    moving.stops(began_ns, 'emergency stop is engaged')
    button.publish(Bool(data=False))
    moving.goes_on()


def test_cancel_in_the_middle_of_a_turn(running):
    running.drive_off(lambda linear, angular: abs(angular) > 0.5)
    began_ns = running.now_ns
    assert running.ask(running.cancel).success
    running.stops(began_ns, HELD)
    assert running.state in ENDED
    running.navigator_says('cancelled')
    running.drive_off()


def test_a_new_instruction_in_the_middle_of_a_plan_begins_with_a_hold(moving):
    began, told, old = len(moving.commands), len(moving.statuses), moving.states[-1]['instruction']
    moving.say()
    new = moving.states[-1]['instruction']
    assert new != old

    def begun_from_rest():
        """The next plan may have come in the same tick as the hold: its first step is a ramp."""
        _, _, linear, angular = LIMITS
        return any(command[0] <= linear * TICK_S + 1e-9
                   and abs(command[1]) <= angular * TICK_S + 1e-9
                   for command in moving.commands[began:])

    # time does not wait for the relay that the plan goes through
    moving.until(begun_from_rest, 5.0)
    moving.goes_on()
    dropped = [status for status in moving.statuses[told:] if status.state == 'dropped']
    assert any(HELD in status.reason for status in dropped)


def test_a_third_of_everything_lost_breaks_no_limit_and_it_drives_or_says_why(moving):
    began, ends = len(moving.commands), set()
    for seed, topic in enumerate(('odom', 'scan', 'image_raw', 'plan', 'plan_status')):
        moving.spoil(topic, lossy(0.3, seed))
    moving.pass_time(4.0)
    told = len(moving.statuses)

    def drives():
        if moving.state in ENDED:
            ends.add(moving.states[-1]['reason'])
            moving.say()
        return moving.drives(told)

    wait_until(drives, 120.0)   # a lost plan costs 3 s
    assert all(any(known in end for known in LOST) for end in ends), ends
    moving.limits_hold(began)
    moving.drive_off()
    moving.limits_hold(began)


def test_a_remote_model_that_is_gone_is_waited_for(moving):
    forward = ', '.join(['A. Move forward 25 cm'] * 6)
    server = FaultyServer(forward)
    assert moving.end('navigator') == 0
    moving.stops(moving.now_ns, HELD, AT_ONCE_S)
    replace_navigator(moving, policy=server.url(deadline_s=1))
    moving.drive_off()
    server.close()
    moving.until(lambda: moving.state == 'paused', 10.0)
    moving.navigator_says('refused')
    began = len(moving.commands)
    moving.pass_time(1.0)
    assert {command[:2] for command in moving.commands[began:]} == {(0.0, 0.0)}
    back = FaultyServer(forward, port=server.port)
    moving.goes_on()
    back.close()
    moving.end('navigator')
    replace_navigator(moving)
    moving.drive_off()
