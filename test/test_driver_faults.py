"""Faults, one by one, against the driver as a process of its own, through a relay, over real DDS.

Time is simulated and waits for the driver, so that a busy machine changes nothing: zero within
0.24 s means 0.24 s of the driver's own clock.
"""
import math
import os
import time

import pytest
from driver_process import DriverProcess, Robot, odometry_message, wait_until
from fault_relay import FaultRelay, backwards, changed, frozen, lossy, remappings, silent
from motion_sight import INCREMENT_RAD, RANGE_MAX_M, ahead_of, ray_cast
from nav_msgs.msg import Odometry
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import LaserScan
from spun_node import busy_processes, fresh_domain
from std_msgs.msg import Bool, Header
from std_srvs.srv import SetBool, Trigger

from vlnr1_ros.navigation.actions import Action
from vlnr1_ros.nodes import messages

F, L = Action.MOVE_FORWARD, Action.TURN_LEFT
TICK_S = 0.02
ANSWER_S = 30.0   # of patience with a busy machine
TOPICS = {'odom': Odometry, 'scan': LaserScan, 'navigator/heartbeat': Header}
# Another graph in the same domain must not tell the time here.
ALONE = ['-r', f'__ns:=/rig_{os.getpid()}', '-r', '/clock:=clock', '-r',
         '/diagnostics:=diagnostics']
FAST = {'use_sim_time': True, 'stamped': True, 'odom_timeout_s': 0.2, 'heartbeat_timeout_s': 0.2,
        'obstacle_timeout_s': 0.2, 'obstacle_source': 'scan', 'time_to_collision_s': 2.0,
        'wall_timeout_s': 20.0, 'stop_repeat_s': 60.0}


class Rig(Robot):
    """A base whose time goes on when the driver has answered; its sensors pass the relay."""

    def __init__(self, domain_id):
        super().__init__(domain_id, lockstep=True, simulated_time=True, ros_arguments=ALONE)
        self.scan = self.node.create_publisher(LaserScan, 'scan', 10)
        self.relay = FaultRelay(self.context, TOPICS, ros_arguments=ALONE)
        self.things = [((100.0, 100.0), 0.1), (ahead_of(self.base.pose, -3.0), 1.0)]

    def close(self):
        self.relay.close()
        super().close()

    def wait_for_driver(self):
        wait_until(lambda: all(publisher.get_subscription_count()
                               for publisher in self.relay.publishers.values()), ANSWER_S)
        wait_until(lambda: self.clock.get_subscription_count()
                   and self.node.count_publishers('cmd_vel') and self.node.count_publishers(
                       'plan_status') and self.plan_topic.get_subscription_count()
                   and self.emergency.get_subscription_count()
                   and self.stop_service.service_is_ready(), ANSWER_S)
        heard, until_s = len(self.diagnostics), time.monotonic() + ANSWER_S
        while len(self.diagnostics) == heard:   # it knows the time
            self.time_ns += int(TICK_S * 1e9)
            self.clock.publish(Clock(clock=messages.time_message(self.time_ns)))
            time.sleep(TICK_S)
            assert time.monotonic() < until_s
        # Zero is repeated from here on, so that every tick is answered.
        assert self.call(self.stop_service, Trigger.Request()).success

    def tick(self, count=1, answered=True):
        """Sensors, then the clock, then the driver's answer to it; the base moves by it."""
        for _ in range(count):
            self.time_ns += int(TICK_S * 1e9)
            heard = {topic: number + 1 for topic, number in self.relay.heard.items()}
            self.heartbeat.publish(Header())
            self.odometry.publish(odometry_message(self.base, self.time_ns))
            self.scan.publish(self._scan())
            wait_until(lambda: self.relay.heard == heard, ANSWER_S)  # noqa: B023
            time.sleep(0.002)
            self.clock.publish(Clock(clock=messages.time_message(self.time_ns)))
            wait_until(lambda: not answered or self.commands
                       and self.commands[-1][2] == self.time_ns, ANSWER_S)
            self.base.drive(*self.commands[-1][:2])

    def tick_until(self, condition, limit_s):
        """Seconds of simulated time until a condition holds."""
        began_ns = self.time_ns
        while not condition():
            assert (self.time_ns - began_ns) * 1e-9 <= limit_s, f'not within {limit_s} s'
            self.tick()
        return (self.time_ns - began_ns) * 1e-9

    def _scan(self):
        centres, radii = zip(*self.things)
        ranges = ray_cast(self.base.pose, centres, radii)
        message = LaserScan(angle_min=-math.pi, angle_increment=INCREMENT_RAD, range_min=0.05,
                            range_max=RANGE_MAX_M, ranges=ranges.tolist())
        message.header.stamp = messages.time_message(self.time_ns)
        return message


def start(tmp_path, parameters=FAST, domain_id=None):
    domain_id = domain_id or fresh_domain()
    return domain_id, DriverProcess(domain_id, parameters, tmp_path, True,
                                    ALONE + remappings(TOPICS))


@pytest.fixture(scope='module')
def rig(tmp_path_factory):
    domain_id, process = start(tmp_path_factory.mktemp('log'))
    rig = Rig(domain_id)
    rig.wait_for_driver()
    yield rig
    rig.close()
    code, output = process.end()
    assert code == 0, output
    assert 'Traceback' not in output, output


@pytest.fixture
def moving(rig):
    """The rig, well into a long plan, everything healthy."""
    rig.relay.fault.clear()
    rig.things[0] = ((100.0, 100.0), 0.1)
    drive_off(rig)
    return rig


def answer_to(rig, actions):
    """The first status of a plan."""
    stamp_ns = rig.send_plan(actions)
    answers = []
    wait_until(lambda: answers.extend(status for status in rig.statuses
                                      if status.stamp_ns == stamp_ns) or answers, ANSWER_S)
    return answers[0]


def drive_off(rig):
    rig.tick(12)
    answer = answer_to(rig, [F] * 6)
    assert answer.state == 'accepted', answer
    rig.tick_until(lambda: rig.commands[-1][0] > 0.15, 1.0)


def stops(rig, reason, within_s):
    """Zero in time, for good, with the reason in plan_status and in /diagnostics."""
    took_s = rig.tick_until(lambda: rig.commands[-1][:2] == (0.0, 0.0), within_s)
    rig.tick(60)
    assert {command[:2] for command in rig.commands[-60:]} == {(0.0, 0.0)}, 'and stays'
    wait_until(lambda: rig.statuses[-1].state == 'dropped', ANSWER_S)
    assert reason in rig.statuses[-1].reason
    wait_until(lambda: any(item.key == 'last_stop' and reason in item.value
                           for message in rig.diagnostics[-3:]
                           for item in message.status[0].values), ANSWER_S)
    return took_s


def goes_on(rig):
    """With a new plan, once the fault is over."""
    rig.relay.fault.clear()
    rig.things[0] = ((100.0, 100.0), 0.1)
    drive_off(rig)


def shifted(message):
    message.pose.pose.position.x += 1.0


def not_a_number(message):
    message.pose.pose.position.y = math.nan


def all_of(value):
    def change(message):
        message.ranges = [value] * len(message.ranges)
    return changed(change)


@pytest.mark.parametrize('topic, fault, reason, within_s', [
    ('odom', silent(), 'odometry is silent', 0.24),
    ('odom', frozen(), 'odometry is silent', 0.24),
    ('odom', changed(shifted), 'odometry jumped by 1.0', 0.04),
    ('odom', changed(not_a_number), 'odometry is not finite', 0.04),
    ('odom', backwards(0.1), 'odometry went back in time', 0.04),
    ('odom', backwards(2.0), 'odometry went back in time', 0.04),
    ('navigator/heartbeat', silent(), 'the navigator is silent', 0.24),
    ('scan', silent(), 'the scan is silent', 0.24),
    ('scan', frozen(), 'the scan is silent', 0.24),
    ('scan', backwards(2.0), 'before it came', 0.04),
    ('scan', all_of(math.inf), 'the scan sees nothing', 0.04),
    ('scan', all_of(math.nan), 'the scan measures nothing', 0.04),
    ('scan', all_of(0.0), 'the scan measures nothing', 0.04)],
    ids=lambda value: value if isinstance(value, str) else '')
def test_a_broken_input_stops_the_base_until_it_is_well_and_a_new_plan_comes(
        moving, topic, fault, reason, within_s):
    moving.relay.fault[topic] = fault
    stops(moving, reason, within_s)
    goes_on(moving)


def test_an_obstacle_that_appears_half_a_metre_ahead(moving):
    moving.things[0] = (ahead_of(moving.base.pose, 0.5 + 0.1), 0.1)
    before = moving.base.pose
    stops(moving, 'seen by scan', 0.04)
    assert before.distance_m(moving.base.pose) < 0.05
    goes_on(moving)


@pytest.mark.parametrize('publisher', ['emergency', 'emergency_latched'])
def test_emergency_stop(moving, publisher):
    getattr(moving, publisher).publish(Bool(data=True))
    time.sleep(0.1)
    stops(moving, 'emergency stop', 0.04)
    assert answer_to(moving, [F]).reason == 'emergency stop is engaged'
    getattr(moving, publisher).publish(Bool(data=False))
    time.sleep(0.1)
    goes_on(moving)


def test_stop_in_the_middle_of_a_turn(moving):
    moving.call(moving.stop_service, Trigger.Request())
    stops(moving, 'stopped by ~/stop', 0.04)
    moving.send_plan([L] * 3)
    moving.tick_until(lambda: abs(moving.commands[-1][1]) > 0.3, 2.0)
    moving.call(moving.pause_service, SetBool.Request(data=True))
    stops(moving, 'paused', 0.04)
    moving.call(moving.pause_service, SetBool.Request(data=False))
    goes_on(moving)


@pytest.mark.parametrize('jump_s', [2.0, -2.0])
def test_a_clock_that_jumps(moving, jump_s):
    moving.time_ns += int(jump_s * 1e9)
    moving.tick(answered=jump_s > 0)   # after a jump back timers wait a period
    moving.tick()
    assert moving.commands[-1][:2] == (0.0, 0.0)
    # odometry, stamped by the same clock, may be heard first
    stops(moving, 'the clock jumped' if jump_s > 0 else 'back in time', 0.0)
    goes_on(moving)


def test_a_third_of_everything_lost_slows_nothing_and_breaks_no_limit(moving):
    moving.call(moving.stop_service, Trigger.Request())
    moving.tick(12)
    for seed, topic in enumerate(TOPICS):
        moving.relay.fault[topic] = lossy(0.3, seed)
    began = len(moving.commands)
    moving.send_plan([F, L, F])
    moving.tick_until(lambda: moving.statuses[-1].state == 'done', 20.0)
    speeds = [command[:2] for command in moving.commands[began:]]
    for before, after in zip(speeds, speeds[1:]):
        assert 0.0 <= after[0] <= 0.3 + 1e-9 and abs(after[1]) <= 1.0 + 1e-9
        assert abs(after[0] - before[0]) <= 0.5 * TICK_S + 1e-9
        assert abs(after[1] - before[1]) <= 2.0 * TICK_S + 1e-9


def test_a_killed_driver_comes_back_holding_and_hears_the_latched_emergency_stop(tmp_path):
    domain_id, process = start(tmp_path)
    rig = Rig(domain_id)
    rig.wait_for_driver()
    drive_off(rig)
    process.process.kill()
    process.end()
    rig.close()
    rig = Rig(domain_id)
    rig.emergency_latched.publish(Bool(data=True))   # while nobody listens
    _, process = start(tmp_path, domain_id=domain_id)
    rig.wait_for_driver()
    rig.tick(20)
    assert rig.commands[-1][:2] == (0.0, 0.0)
    assert answer_to(rig, [F]).reason == 'emergency stop is engaged'
    rig.emergency_latched.publish(Bool(data=False))
    time.sleep(0.1)
    goes_on(rig)
    rig.close()
    assert process.end()[0] == 0


def test_a_starved_driver_keeps_its_limits_and_lives(tmp_path):
    """In free run beside two busy processes: it drives or it says why not."""
    domain_id = fresh_domain()
    process = DriverProcess(domain_id, {'stop_repeat_s': 60.0}, tmp_path, True, ALONE)
    robot = Robot(domain_id, ros_arguments=ALONE)
    robot.wait_for_driver()
    robot.wait_until_driver_is_content()
    with busy_processes(2):
        robot.send_plan([F, L, F])
        wait_until(lambda: robot.statuses and robot.statuses[-1].state in ('done', 'dropped'), 60)
    last = robot.statuses[-1]
    assert last.state == 'done' or last.reason, last
    robot.zero_after(5.0)
    for linear, angular, _ in robot.commands:
        assert 0.0 <= linear <= 0.3 + 1e-9 and abs(angular) <= 1.0 + 1e-9
    robot.close()
    code, output = process.end()
    assert code == 0 and 'Traceback' not in output, output
