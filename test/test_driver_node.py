"""The driver node over real topics: rules, lockstep, parameters and its end."""
import importlib
import json
import math
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from driver_process import DriverProcess, Robot, odometry_message, wait_until
from geometry_msgs.msg import PoseStamped, Twist
from motion_loop import Base
from nav_msgs.msg import Odometry
from nav_msgs.msg import Path as PathMessage
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image, LaserScan
from spun_node import Spun, fresh_domain, on_this_machine
from std_msgs.msg import Bool, Header, String
from std_srvs.srv import SetBool, Trigger

from vlnr1_ros.motion.plan import Pose
from vlnr1_ros.navigation.actions import Action, ActionSet
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.nodes import messages
from vlnr1_ros.nodes.driver import DriverNode
from vlnr1_ros.nodes.navigator import NavigatorNode

F, L, R, S = Action.MOVE_FORWARD, Action.TURN_LEFT, Action.TURN_RIGHT, Action.STOP
TIMEOUT_S = 1.0   # generous, so that a busy machine breaks no rule by itself
SLACK_S = 3.0
SLOW = {'max_linear_m_s': 0.1, 'odom_timeout_s': TIMEOUT_S, 'heartbeat_timeout_s': TIMEOUT_S,
        'clock_jump_s': 3.0, 'wall_timeout_s': 1.5, 'stop_repeat_s': 1.0}
PARAMETERS = Path(__file__).parent.parent / 'config' / 'driver.yaml'


@pytest.fixture(scope='module')
def robot(tmp_path_factory):
    domain_id = fresh_domain()
    process = DriverProcess(domain_id, SLOW, tmp_path_factory.mktemp('log'), check_fields=True)
    robot = Robot(domain_id)
    robot.wait_for_driver()
    robot.wait_until_driver_is_content()
    yield robot
    robot.close()
    code, output = process.end()
    assert code == 0, output
    assert 'Traceback' not in output, output


@pytest.fixture
def moving(robot):
    """The robot, well into a long plan."""
    robot.spoil, robot.odometry_on, robot.heartbeat_on = None, True, True
    time.sleep(0.2)
    robot.send_plan([F] * 6)
    wait_until(lambda: robot.commands and robot.commands[-1][0] > 0.05, 5)
    return robot


def test_a_plan_is_driven_and_reported(robot):
    start = robot.base.pose
    stamp_ns = robot.send_plan([L, F, S])
    wait_until(lambda: robot.statuses and robot.statuses[-1].state == 'done', 20)
    told = [(status.stamp_ns, status.state, status.executed, status.of, status.reason)
            for status in robot.statuses]
    assert told.count((stamp_ns, 'running', 1, 3, '')) > 1, 'said again in these 3 s'
    assert [status for status in dict.fromkeys(told) if status[1:3] != ('running', 0)] == [
        (stamp_ns, 'accepted', 0, 3, ''), (stamp_ns, 'running', 1, 3, ''),
        (stamp_ns, 'running', 2, 3, ''), (stamp_ns, 'done', 3, 3, 'stop')]
    robot.zero_after(1.0)
    time.sleep(0.3)
    step = start.moved(0.0, math.radians(30)).relative(robot.base.pose)
    assert step.x_m == pytest.approx(0.25, abs=0.04)
    assert math.degrees(step.yaw_rad) == pytest.approx(0.0, abs=3.0)


def stopped_with(robot, reason, timeout_s=0.0):
    """Zero came in time, the reason stands in plan_status, and soon in /diagnostics."""
    robot.zero_after(timeout_s + 0.04 + SLACK_S)
    wait_until(lambda: robot.statuses[-1].state == 'dropped', 2)
    assert any(reason in status.reason for status in robot.statuses[-2:])
    wait_until(lambda: any(reason in item.value for message in robot.diagnostics[-3:]
                           for item in message.status[0].values), 5)


def test_odometry_silent(moving):
    moving.odometry_on = False
    stopped_with(moving, 'odometry is silent', TIMEOUT_S)


def test_odometry_not_finite(moving):
    def spoil(message):
        message.pose.pose.position.x = math.nan
    moving.spoil = spoil
    stopped_with(moving, 'odometry is not finite')


def test_odometry_without_an_orientation(moving):
    def spoil(message):
        message.pose.pose.orientation.w = message.pose.pose.orientation.z = 0.0
    moving.spoil = spoil
    stopped_with(moving, 'odometry is not finite')


def test_odometry_in_another_frame(moving):
    def spoil(message):
        message.header.frame_id = 'map'
    moving.spoil = spoil
    stopped_with(moving, "odometry is in frame 'map'")


def test_heartbeat_silent(moving):
    moving.heartbeat_on = False
    stopped_with(moving, 'the navigator is silent', TIMEOUT_S)


def test_stop_service(moving):
    assert moving.call(moving.stop_service, Trigger.Request()).success
    stopped_with(moving, 'stopped by ~/stop')


def test_pause_service(moving):
    assert moving.call(moving.pause_service, SetBool.Request(data=True)).success
    stopped_with(moving, 'paused')
    moving.send_plan([F])
    wait_until(lambda: moving.statuses[-1].reason == 'paused', 5)
    assert moving.call(moving.pause_service, SetBool.Request(data=False)).success


@pytest.mark.smoke
@pytest.mark.parametrize('publisher', ['emergency', 'emergency_latched', 'emergency_best_effort'])
def test_emergency_stop(moving, publisher):
    getattr(moving, publisher).publish(Bool(data=True))
    stopped_with(moving, 'emergency stop')
    getattr(moving, publisher).publish(Bool(data=False))
    time.sleep(0.3)
    assert moving.commands[-1][:2] == (0.0, 0.0)


def broken_plan(moving):
    message = PathMessage()
    message.header.stamp = messages.time_message(moving.now_ns())
    message.header.frame_id = 'odom'
    message.poses = [PoseStamped(), PoseStamped()]
    message.poses[1].pose.position.x = math.nan
    return message


def test_malformed_plans_are_refused_and_end_the_motion(moving):
    for send, reason in (
            (lambda: moving.send_plan([F], frame_id='map'), "the plan is in frame 'map'"),
            (lambda: moving.send_plan([L], action_set=ActionSet(turn_deg=15)), 'not a primitive'),
            (lambda: moving.plan_topic.publish(broken_plan(moving)), 'not finite'),
            (lambda: moving.send_plan([F], start=Pose(0.0, 0.0, 0.0)), 'the base moved'),
            (lambda: moving.send_plan([F], stamp_ns=moving.now_ns() - 6 * 10**9), 'not newer')):
        before = len(moving.statuses)
        send()
        wait_until(lambda: len(moving.statuses) > before, 5)  # noqa: B023
        stopped_with(moving, reason)


def ends_with_zero(robot, process, number):
    """Two signals in a row, as a terminal and a launcher would send: zero, then a clean exit."""
    process.process.send_signal(number)
    code, output = process.end(number)
    robot.zero_after(SLACK_S)
    wait_until(lambda: robot.statuses[-1].reason == 'shutdown', 2)
    robot.close()
    assert code == 0 and 'Traceback' not in output, output


def start_moving(robot):
    robot.wait_for_driver()
    robot.wait_until_driver_is_content()
    robot.send_plan([F] * 6)
    wait_until(lambda: robot.commands and robot.commands[-1][0] > 0.05, 10)


@pytest.mark.smoke
def test_shutdown_while_moving_commands_zero_and_exits_cleanly(tmp_path):
    domain_id = fresh_domain()
    process = DriverProcess(domain_id, SLOW, tmp_path, check_fields=False)
    robot = Robot(domain_id)
    start_moving(robot)
    ends_with_zero(robot, process, signal.SIGTERM)


def test_a_clock_that_stands_still_ends_the_motion(tmp_path):
    domain_id = fresh_domain()
    process = DriverProcess(domain_id, {**SLOW, 'use_sim_time': True, 'stop_decel_m_s2': 1.0},
                            tmp_path, False)
    robot = Robot(domain_id, simulated_time=True)
    start_moving(robot)
    robot.clock_on = False
    robot.zero_after(SLOW['wall_timeout_s'] * 1.2 + SLACK_S)
    wait_until(lambda: robot.statuses[-1].state == 'dropped', 5)
    assert 'no control step' in robot.statuses[-1].reason, 'said while it stands still'
    wait_until(lambda: all('no control step' in item.value
                           for item in robot.diagnostics[-1].status[0].values
                           if item.key in ('trouble', 'last_stop')), 5)
    time.sleep(SLOW['stop_repeat_s'] + 0.5)
    began = len(robot.commands)
    time.sleep(0.3)
    assert len(robot.commands) == began, 'somebody else may drive'
    robot.clock_on = True
    wait_until(lambda: len(robot.commands) > began + 5, 5)
    assert {command[:2] for command in robot.commands[began:]} == {(0.0, 0.0)}, 'it stood'
    start_moving(robot)
    ends_with_zero(robot, process, signal.SIGINT)


def test_a_driver_that_comes_back_does_not_go_on_though_it_forgot_the_pause(tmp_path):
    domain_id = fresh_domain()
    robot = Robot(domain_id)
    robot.heartbeat_on = False   # the navigator's own
    states = []
    robot.node.create_subscription(
        String, 'navigator/state', lambda message: states.append(json.loads(message.data)), 10)
    image = robot.node.create_publisher(Image, 'image_raw', 10)
    instruction = robot.node.create_publisher(String, 'instruction', 10)
    process = DriverProcess(domain_id, SLOW, tmp_path, False)
    navigator = Spun(domain_id, lambda context: NavigatorNode(
        context=context, parameter_overrides=[Parameter(name, value=value) for name, value in {
            'policy': 'forward', 'start_active': True, 'decision_time_s': 60.0}.items()]),
        lambda node: SingleThreadedExecutor(context=node.context))

    def see(ahead_s=0.0):
        stamp_ns = robot.now_ns() + int(ahead_s * 1e9)
        image.publish(messages.image(np.zeros((8, 8, 3), np.uint8), 'rgb8', stamp_ns, 'camera'))

    def until(state, repeat):
        def there():
            repeat()
            time.sleep(0.05)
            return states and states[-1]['state'] == state
        wait_until(there, 20)

    robot.wait_for_driver()
    wait_until(lambda: robot.starts, 20)   # it hears the navigator
    until('waiting', lambda: instruction.publish(String(data='go on')))
    until('deciding', see)   # until an image that is 60 s younger
    assert robot.call(robot.pause_service, SetBool.Request(data=True)).success
    process.process.kill()
    process.end()
    killed_ns, began = robot.now_ns(), len(robot.commands)
    process = DriverProcess(domain_id, {**SLOW, 'plan_max_age_s': 600.0}, tmp_path, False)
    wait_until(lambda: robot.starts[-1].stamp_ns > killed_ns, 20)
    time.sleep(0.3)
    see(60.0)   # now it has decided
    time.sleep(1.0)
    assert {command[:2] for command in robot.commands[began:]} <= {(0.0, 0.0)}
    assert states[-1]['state'] == 'failed' and 'was started' in states[-1]['reason']
    navigator.close()
    robot.close()
    assert process.end()[0] == 0


class Lockstep:
    """Steps the robot tick by tick, like a bridge."""

    def __init__(self, robot):
        self.robot = robot
        self.stamp_ns = 5 * 10**9
        self.stamps = []

    def tick(self, spoil=None):
        robot = self.robot
        self.stamp_ns += 20_000_000
        message = odometry_message(robot.base, self.stamp_ns)
        if spoil is not None:
            spoil(message)
        robot.heartbeat.publish(messages.Path().header)
        robot.odometry.publish(message)
        self.stamps.append(self.stamp_ns)
        wait_until(lambda: len(robot.commands) >= len(self.stamps), 10)
        robot.base.drive(*robot.commands[-1][:2])


@pytest.mark.smoke
def test_lockstep_answers_every_odometry_once(tmp_path):
    domain_id = fresh_domain()
    process = DriverProcess(domain_id, {'lockstep': True}, tmp_path, check_fields=True)
    robot = Robot(domain_id, lockstep=True, simulated_time=True)
    robot.wait_for_driver()
    loop = Lockstep(robot)
    for _ in range(5):
        loop.tick()
    robot.send_plan([L, F], stamp_ns=loop.stamp_ns + 20_000_000)
    time.sleep(0.2)
    assert robot.statuses == [], 'a plan that overtook its odometry waits for it'
    loop.tick()
    assert robot.commands[-1][:2] == (0.0, 0.0), 'and starts with the tick after it'
    wait_until(lambda: robot.statuses, 5)
    assert robot.statuses[-1].state == 'accepted', 'answered while time stands still'
    while robot.statuses[-1].state != 'done':
        loop.tick()
        assert len(loop.stamps) < 300
    for _ in range(20):
        loop.tick()

    def spoil(message):
        message.pose.pose.position.y = math.inf
    robot.send_plan([F] * 3, stamp_ns=loop.stamp_ns)
    wait_until(lambda: robot.statuses[-1].state == 'accepted', 5)
    for index in range(40):
        loop.tick(spoil if index == 30 else None)
        assert index != 30 or robot.commands[-1][:2] == (0.0, 0.0)
    time.sleep(0.3)
    assert [command[2] for command in robot.commands] == loop.stamps
    assert robot.statuses[-1].reason == 'odometry is not finite'
    robot.close()
    assert process.end()[0] == 0


def test_a_bad_parameter_ends_in_one_line(tmp_path):
    process = DriverProcess(fresh_domain(), {'replan': 'never'}, tmp_path, False)
    output, _ = process.process.communicate(timeout=30)
    assert process.process.returncode == 2
    lines = [line for line in output.splitlines() if line.startswith('error: ')]
    assert lines == ["error: replan is 'never'; give one of after, during"]
    assert 'Traceback' not in output


def test_a_missing_parameter_file_ends_in_one_line(tmp_path):
    process = DriverProcess(fresh_domain(), {}, tmp_path, False,
                            ['--params-file', str(tmp_path / 'absent.yaml')])
    output, _ = process.process.communicate(timeout=30)
    assert process.process.returncode == 2
    lines = [line for line in output.splitlines() if not line.startswith('[ERROR]')]  # rcl's own
    assert len(lines) == 1 and 'absent.yaml' in lines[0]
    assert lines[0].startswith('error: ROS refused the arguments')


@pytest.fixture
def context():
    on_this_machine()
    context = Context()
    context.init(domain_id=fresh_domain())
    yield context
    context.try_shutdown()


@pytest.mark.parametrize('name, value', [
    ('turn_deg', 200.0), ('max_linear_m_s', 'fast'), ('odom_timeout_s', 1),
    ('control_rate_hz', 0.0)])
def test_bad_parameters_are_named(context, name, value):
    with pytest.raises(UserError, match=name):
        DriverNode(context=context, parameter_overrides=[Parameter(name, value=value)])


def test_it_is_closed_while_a_callback_hangs(context):
    node = DriverNode(context=context)
    base = rclpy.create_node('base', context=context)
    commands = []
    base.create_subscription(Twist, 'cmd_vel', commands.append, 10)
    wait_until(lambda: node._velocity.get_subscription_count(), 10)
    hangs, go_on = threading.Event(), threading.Event()

    def hang():
        hangs.set()
        go_on.wait(30)

    callback = threading.Thread(target=node._guarded(hang))
    callback.start()
    assert hangs.wait(10)
    closing = threading.Thread(target=node.close)
    closing.start()
    closing.join(10)
    ended = not closing.is_alive()
    go_on.set()
    callback.join()
    assert ended
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(base)
    until_s = time.monotonic() + 10
    while len(commands) < 4 and time.monotonic() < until_s:
        executor.spin_once(0.1)
    assert len(commands) >= 4
    assert all(command.linear.x == command.angular.z == 0.0 for command in commands)
    executor.shutdown()
    node.destroy_node()


def test_an_exception_stops_the_base_and_not_the_node(context):
    node = DriverNode(context=context, parameter_overrides=[
        Parameter('stop_decel_m_s2', value=1.0)])
    base = rclpy.create_node('base', context=context)
    commands = []
    base.create_subscription(Twist, 'cmd_vel', commands.append, 10)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    executor.add_node(base)
    calls = []

    def step(now_ns, sound=node._driver.step):
        calls.append(now_ns)
        if len(calls) <= 3:
            raise RuntimeError('a wheel came off')
        return sound(now_ns)
    node._driver.step = step
    node._driver._drive.linear.velocity = 0.3
    until_s = time.monotonic() + 10
    while len(commands) < 6 and time.monotonic() < until_s:
        executor.spin_once(0.1)
    assert len(calls) >= 6, 'the node goes on'
    assert {(command.linear.x, command.angular.z) for command in commands} == {(0.0, 0.0)}, (
        'and is not braked from what it drove before')
    assert node._driver.reason == "exception: RuntimeError('a wheel came off')"
    response = node._guarded(lambda *_: 1 / 0)(None, Trigger.Response())
    assert response.success is False
    executor.shutdown()
    node.destroy_node()
    base.destroy_node()


def test_it_finds_the_event_callbacks_where_humble_has_them(monkeypatch):
    events = sys.modules['rclpy.event_handler']
    monkeypatch.setitem(sys.modules, 'rclpy.event_handler', None)
    monkeypatch.setitem(sys.modules, 'rclpy.qos_event', events)
    monkeypatch.delitem(sys.modules, 'vlnr1_ros.nodes.driver')
    module = importlib.import_module('vlnr1_ros.nodes.driver')
    assert module.SubscriptionEventCallbacks is events.SubscriptionEventCallbacks


@pytest.mark.smoke
@pytest.mark.parametrize('topic', ['odom', 'navigator/heartbeat', 'scan'])
def test_a_safety_topic_that_cannot_be_heard_stops_the_base(context, topic):
    """In lockstep nothing may be lost; a best-effort publisher is not even connected."""
    node = DriverNode(context=context, parameter_overrides=[
        Parameter('lockstep', value=True), Parameter('obstacle_source', value='scan')])
    other = rclpy.create_node('careless', context=context)
    kind = {'odom': Odometry, 'scan': LaserScan}.get(topic, Header)
    assert node._incompatible_publisher() == ''
    other.create_publisher(kind, topic, 10)
    careless = other.create_publisher(kind, topic, qos_profile_sensor_data)
    wait_until(node._incompatible_publisher, 10)
    why = node._incompatible_publisher()
    assert f'the QoS of careless, which publishes {topic}, is incompatible' in why
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    driver, message = node._driver, odometry_message(Base(), 10**9)
    node._on_odometry(message)
    assert driver.safety.obstacle_to_motion(10**9) == why
    other.destroy_publisher(careless)
    wait_until(lambda: not node._incompatible_publisher(), 10)
    executor.shutdown()
    node.destroy_node()
    other.destroy_node()


def test_a_second_emergency_stop_is_warned_of(context):
    node = DriverNode(context=context, cli_args=['--ros-args', '-r', 'emergency_stop:=buttons'])
    buttons = rclpy.create_node('buttons', context=context)
    told = []
    buttons.create_subscription(DiagnosticArray, '/diagnostics', told.append, 10)
    buttons.create_publisher(Bool, 'buttons', 10)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    executor.add_node(buttons)

    def said():
        executor.spin_once(0.1)
        return told and {item.key: item.value for item in told[-1].status[0].values}['warning']
    wait_until(lambda: node.count_publishers('buttons') == 1, 10)
    assert not said()
    buttons.create_publisher(Bool, 'buttons', 10)
    wait_until(said, 10)
    assert said().startswith('2 publishers on emergency_stop')
    executor.shutdown()
    node.destroy_node()
    buttons.destroy_node()


def test_depth_images_are_looked_at_with_their_calibration(context):
    node = DriverNode(context=context, parameter_overrides=[
        Parameter('obstacle_source', value='both'), Parameter('depth_z_m', value=0.5)])
    camera = rclpy.create_node('camera', context=context)
    image = camera.create_publisher(Image, 'depth/image_raw', qos_profile_sensor_data)
    info = camera.create_publisher(CameraInfo, 'depth/camera_info', qos_profile_sensor_data)
    wait_until(lambda: image.get_subscription_count() and info.get_subscription_count(), 10)
    wall_mm = np.full((48, 64), 1500, np.uint16)

    def seen(message):
        image.publish(message)
        taken = []
        wait_until(lambda: taken.extend(node._range_sensors.take()) or taken, 10)
        (source, stamp_ns, readings), = taken
        assert source == 'depth' and stamp_ns == messages.time_ns(message.header.stamp)
        return readings

    assert 'without depth/camera_info' in seen(messages.image(wall_mm, '16UC1', 1, 'c')).defect
    calibration = CameraInfo(width=64, height=48)
    calibration.k = [40.0, 0.0, 32.0, 0.0, 40.0, 24.0, 0.0, 0.0, 1.0]
    info.publish(calibration)
    wait_until(lambda: node._range_sensors.take() or node._range_sensors._info, 10)
    for wall in (messages.image(wall_mm, '16UC1', 2, 'c'),
                 messages.image(wall_mm.astype(np.float32) / 1000, '32FC1', 3, 'c')):
        readings = seen(wall)
        assert not readings.defect
        assert readings.points[:, 0] == pytest.approx(1.5, abs=1e-3)
    colour = np.zeros((48, 64, 3), np.uint8)
    assert "depth encoding 'rgb8'" in seen(messages.image(colour, 'rgb8', 4, 'c')).defect
    node.destroy_node()
    camera.destroy_node()


@pytest.mark.parametrize('namespace', ['/', '/fleet/robot1'])
def test_the_parameter_file_reaches_the_node_in_any_namespace(context, tmp_path, namespace):
    (tmp_path / 'driver.yaml').write_text(
        PARAMETERS.read_text().replace('turn_deg: 30.0', 'turn_deg: 15.0'))
    node = DriverNode(context=context, namespace=namespace, cli_args=[
        '--ros-args', '--params-file', str(tmp_path / 'driver.yaml')])
    assert node.config.turn_deg == 15.0
    node.destroy_node()
